"""Measures mPLUG: `python -m tests.benchmarks.mplug_speed [--only PART] [--models DIR]`.

Directories of the published size are written with random weights (3 and 5 GB). Ours and
ModelScope's pipeline read the same ones and the same files, by turns, with two threads each:

- captions: 25 tokens, 5 beams; ModelScope takes one image at a time, ours four;
- matching: eight texts about an image; ModelScope takes one pair at a time.

Needs 12 GB of memory for the second, and some minutes.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from operators.captioner import Captioner
from operators.images import decode
from operators.matcher import Matcher
from tests import tiny
from tests.benchmarks import mplug_large
from tests.benchmarks.measuring import ROUNDS, Row, Section, alternate, write
from tests.benchmarks.modelscope import ModelScope

IMAGES = 4  # of a round of our captions; theirs takes one, for each takes as long as the next
TEXTS = [f"a cup of coffee on saucer number {number}" for number in range(8)]
THREADS = 2
COMMAND = "python -m tests.benchmarks.mplug_speed"
THEIRS = "ModelScope's pipeline, one at a time"


def captions(folder: Path, rounds: int) -> Row:
    """From files to sentences."""
    model = write_model("caption", folder)
    files = [path for path in tiny.photographs() if path.suffix == ".jpg"]
    files = [files[number % len(files)] for number in range(IMAGES)]
    captioner = Captioner(model)
    captioner.load()

    def ours() -> list[str]:
        found = captioner.caption([decode(path.read_bytes()) for path in files])
        return [caption.text for caption in found]

    with ModelScope("mplug-caption", model, threads=THREADS) as theirs:
        same = theirs.run(files[:1])[1] == ours()[:1]  # and all are warm
        taken = alternate(
            {"ours": ours, "theirs": lambda: theirs.run(files[:1])[0]}, rounds=rounds, warm_up=0
        )
    return Row(
        what="mPLUG large, captions, float32",
        unit="s an image",
        ours=[seconds / IMAGES for seconds in taken["ours"]],
        theirs=taken["theirs"],
        against=THEIRS,
        least=5.0,
        note=f"25 tokens, 5 beams; ours {IMAGES} images at a time; "
        f"the sentences are {'the same' if same else 'NOT the same'}",
    )


def matching(folder: Path, rounds: int) -> Row:
    """From a file and texts to probabilities."""
    model = write_model("retrieval", folder)
    file = next(path for path in tiny.photographs() if path.suffix == ".jpg")
    matcher = Matcher(model)
    matcher.load()

    def ours() -> list[float]:
        (found,) = matcher.match([decode(file.read_bytes())], TEXTS)
        return [match.score for match in found]

    with ModelScope("mplug-matching", model, threads=THREADS) as theirs:
        pairs = zip(ours(), theirs.run([file], TEXTS)[1], strict=True)  # and all are warm
        apart = max(abs(one - other) for one, other in pairs)
        taken = alternate(
            {"ours": ours, "theirs": lambda: theirs.run([file], TEXTS)[0]},
            rounds=rounds,
            warm_up=0,
        )
    return Row(
        what=f"mPLUG large, matching {len(TEXTS)} texts an image, float32",
        unit="s a text",
        ours=[seconds / len(TEXTS) for seconds in taken["ours"]],
        theirs=[seconds / len(TEXTS) for seconds in taken["theirs"]],
        against=THEIRS,
        least=5.0,
        note=f"one image at a time; probabilities differ by at most {apart:.1e}",
    )


def write_model(task: str, folder: Path) -> Path:
    """Writes a directory of the published size, unless it is there."""
    model = folder / task
    if not (model / "configuration.json").exists():  # written last
        model.mkdir(parents=True, exist_ok=True)
        mplug_large.in_a_process_of_its_own("write", str(model))
    return model


PARTS: dict[str, Callable[[Path, int], Row]] = {"captions": captions, "matching": matching}


def main() -> None:
    """Measures what is asked for and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--models", type=Path, help="where written models are kept between calls")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    for part in [given.only] if given.only else PARTS:
        with tempfile.TemporaryDirectory() as temporary:
            begun = time.perf_counter()
            row = PARTS[part](given.models or Path(temporary), given.rounds)
            write(
                Section(
                    name="mplug_speed",
                    title="mPLUG on a CPU",
                    text="The published size with random weights, two threads each. ModelScope's "
                    "pipeline can neither batch nor keep what it computed for the next token.",
                    command=COMMAND,
                    rows=[row],
                )
            )
            print(f"{part}: {time.perf_counter() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()

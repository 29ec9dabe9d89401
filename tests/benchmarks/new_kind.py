"""Fine-tunes the embedded captioner on a kind of thing it never saw, and measures before and after.

`python -m tests.benchmarks.new_kind` draws scenes with umbrellas (half of those to learn from; all
of those to judge by), runs `tagline finetune` with one worker a core, and prints the share of
captions that are right word for word: of umbrellas, and of scenes without, which must not be
forgotten. The figure asked for: from below 20 % to 90 % or more within 10 minutes on two cores.
The umbrella is of Noto Color Emoji; see operators/embedded/sprites/OFL.txt.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from operators.captioner import Captioner
from operators.embedded import scenes
from operators.embedded.kinds import KINDS, Kind

UMBRELLA = Kind("umbrella", "umbrellas", "雨伞", "把", "☂")
SPRITE = Path(__file__).parents[1] / "data" / "sprites" / "umbrella.png"
LEARNED, VALIDATED, JUDGED = 3000, 60, 300  # scenes
TRAINING = {
    "use": "captioner",
    "model": "embedded:captioner",
    "batch": 64,
    "metric": "exact",
    "validate_every": 100,
}


@contextmanager
def umbrellas(folder: Path) -> Iterator[None]:
    """Lets scenes have umbrellas for the length of a `with`."""
    sprites = folder / "sprites"
    sprites.mkdir()
    for path in [*scenes.SPRITES.glob("*.png"), SPRITE]:
        (sprites / path.name).symlink_to(path)
    kept = scenes.KINDS, scenes.SPRITES
    scenes.KINDS, scenes.SPRITES = (*KINDS, UMBRELLA), sprites
    try:
        yield
    finally:
        scenes.KINDS, scenes.SPRITES = kept


def with_umbrella(scene: scenes.Scene) -> scenes.Scene:
    """The scene with umbrellas for its last group: the kind that captions name last."""
    last = replace(scene.groups[-1], kind=len(KINDS), colour=None)
    return replace(scene, groups=(*scene.groups[:-1], last))


def write(folder: Path, count: int, seed: int, every: int) -> Path:
    """Draws scenes, every so manieth with umbrellas; returns the manifest."""
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for number in range(count):
        scene = scenes.sample(seed, number)
        scene = with_umbrella(scene) if every and number % every == 0 else scene
        uri = f"pictures/{number:06d}.png"
        scenes.draw(scene).save(folder / uri)
        rows.append({"image_id": f"{seed}-{number}", "uri": uri, "caption": scenes.describe(scene)})
    path = folder / "manifest.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def exact(model: str | Path, count: int, seed: int, *, is_new: bool) -> float:
    """The share of captions that are right word for word."""
    drawn = [scenes.sample(seed, number) for number in range(count)]
    drawn = [with_umbrella(scene) for scene in drawn] if is_new else drawn
    said = Captioner(model).caption([scenes.draw(scene) for scene in drawn])
    pairs = zip(said, drawn, strict=True)
    return sum(caption.text == scenes.describe(scene) for caption, scene in pairs) / count


def main() -> None:
    """Prints one JSON document."""
    with tempfile.TemporaryDirectory() as name, umbrellas(Path(name)):
        folder = Path(name)
        figures = {
            "before": exact("embedded:captioner", JUDGED, 903, is_new=True),
            "before_others": exact("embedded:captioner", JUDGED, 904, is_new=False),
        }
        config = TRAINING | {
            "output": str(folder / "tuned"),
            "train": str(write(folder / "train", LEARNED, 901, 2)),
            "validation": str(write(folder / "validation", VALIDATED, 902, 1)),
            "workers": len(os.sched_getaffinity(0)),
        }
        (folder / "finetune.yaml").write_text(yaml.safe_dump(config))
        begun = time.monotonic()
        words = [sys.executable, "-m", "jobs.finetune", str(folder / "finetune.yaml"), "--json"]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        figures |= {
            "seconds": time.monotonic() - begun,
            "after": exact(folder / "tuned", JUDGED, 903, is_new=True),
            "after_others": exact(folder / "tuned", JUDGED, 904, is_new=False),
        }
        print(json.dumps(figures | {"training": json.loads(done.stdout)}, indent=2))


if __name__ == "__main__":
    main()

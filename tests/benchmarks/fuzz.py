"""Throws damaged images and manifests at what reads them, and counts what comes out.

    python -m tests.benchmarks.fuzz --inputs 1000000 --seed 1 --keep build/fuzz

Small files of all formats and modes were damaged at random: byte by byte, and by the rules of their
format (chunks sealed again, pixels unpacked and packed, tags set to their bounds). An image has to
give pixels or a row's error, a manifest rows or its error, in less than 5 seconds of processor time
an input and 512 MB above an idle worker; each lot of inputs in a process of its own. What did not
is named by seed, lot and position, which make it again (`--lot N` throws that lot alone), and laid
down in the folder `--keep`. Exits with 1 when there was any. `--write` keeps the figures.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import fsspec

from operators.images import data_url
from schemas.errors import ManifestError
from schemas.manifest import Manifest
from tests.benchmarks.measuring import Row, Section, second_paragraph, write
from tests.fuzz_seeds import image_seeds, manifest_seeds
from tests.hostile import Lot, image_outcome, judged
from tests.mutations import mutated, mutated_manifest

IMAGES, MANIFESTS = 1000, 200  # inputs of a lot
MANIFEST_LOTS = 4  # every fourth is of manifests
SMALL_PIXELS = 1_000_000  # the limit for most images: a large one takes a second
LARGE_SHARE = 0.003
URL_SHARE = 0.05  # of pictures that are also written as a URL, which reads more of them
PEAK_BYTES = 512_000_000
ASKED = 1_000_000


@dataclass
class Found:
    """What came out of all lots.

    Args:
        tried: inputs.
        seconds: of the clock.
        slowest: seconds of processor time, of one input.
        peak: bytes of memory above the process before, of one lot.
        outcomes: how often what came out, by kind of input.
        wrong: what crashed, hung, took too much memory, or ended in another exception.
    """

    tried: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    peak: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[dict[str, Any]] = field(default_factory=list)


def inputs_of(seed: int, lot: int) -> Iterator[tuple[str, bytes, int]]:
    """The inputs of one lot: kind, bytes, pixel limit; the same for the same numbers."""
    chance = Random(f"{seed} {lot}")
    if lot % MANIFEST_LOTS == MANIFEST_LOTS - 1:
        manifests = manifest_seeds()
        for _ in range(MANIFESTS):
            kind, data = chance.choice(manifests)
            others = [other for _, other in manifests]
            yield kind, mutated_manifest(kind, data, others, chance), 0
        return
    seeds = image_seeds()
    files = [data for _, data in seeds]
    kinds = sorted({kind for kind, _ in seeds})
    for _ in range(IMAGES):
        kind = chance.choice(kinds)
        data = chance.choice([data for one, data in seeds if one == kind])
        limit = 178_956_970 if chance.random() < LARGE_SHARE else SMALL_PIXELS
        yield kind, mutated(data, files, chance), limit


def outcome(given: tuple[str, bytes, int]) -> str:
    """What became of one input, after its kind."""
    kind, data, limit = given
    if kind.startswith("."):
        return f"{kind} {manifest_outcome(kind, data)}"
    found = image_outcome(data, limit)
    if found == "pixels" and Random(data[-64:]).random() < URL_SHARE:
        data_url(data, pixel_limit=limit)
    return f"{kind} {found}"


def manifest_outcome(kind: str, data: bytes) -> str:
    """Reads a manifest to its end, as a plan does."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / f"m{kind}"
        path.write_bytes(data)
        try:
            manifest = Manifest.open(str(path), {}, filesystem=fsspec.filesystem("file"))
            for batch in manifest.batches():
                batch.validate(full=True)
        except ManifestError:
            return "error"
    return "rows"


def thrown(seed: int, lot: int) -> tuple[int, Lot]:
    """Throws one lot."""
    return lot, judged(inputs_of(seed, lot), outcome)


def run(
    seed: int,
    *,
    seconds: float = float("inf"),
    inputs: int = sys.maxsize,
    lots: Iterator[int],
    processes: int = 1,
    keep: Path | None = None,
) -> Found:
    """Throws lots until there are enough inputs or the time is over."""
    found, began = Found(), time.monotonic()
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        waiting: set[Future[tuple[int, Lot]]] = set()
        while True:
            is_over = found.tried >= inputs or time.monotonic() - began > seconds
            room = 0 if is_over else processes + 1 - len(waiting)
            waiting |= {pool.submit(thrown, seed, lot) for lot in islice(lots, room)}
            if not waiting:
                break
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for one in done:
                _add(found, seed, *one.result(), keep)
            found.seconds = round(time.monotonic() - began, 1)
            print(
                f"{found.tried} inputs, {found.seconds} s, {len(found.wrong)} wrong",
                file=sys.stderr,
            )
    return found


def _add(found: Found, seed: int, number: int, lot: Lot, keep: Path | None) -> None:
    found.tried += lot.tried
    found.outcomes += lot.outcomes
    found.slowest = max(found.slowest, lot.seconds)
    found.peak = max(found.peak, lot.peak)
    wrong = dict(lot.faults)
    if lot.fate != "done":
        wrong[lot.tried - 1] = lot.fate
    if lot.peak > PEAK_BYTES:
        wrong[-1] = f"the lot took {lot.peak} bytes"
    for position, what in wrong.items():
        at = {"seed": seed, "lot": number, "position": position, "what": what}
        found.wrong.append(at)
        if keep and position >= 0:
            kind, data, _ = next(islice(inputs_of(seed, number), position, None))
            keep.mkdir(parents=True, exist_ok=True)
            ending = kind if kind.startswith(".") else f".{kind.lower()}"
            (keep / f"{seed}-{number}-{position}{ending}").write_bytes(data)


def rows_of(found: Found) -> list[Row]:
    """The figures for the page: all inputs, what was wrong, and each kind's."""
    by_kind: dict[str, Counter[str]] = {}
    for told, count in found.outcomes.items():
        kind, _, what = told.partition(" ")
        by_kind.setdefault(kind, Counter())[what] += count
    crashed = f"the slowest took {found.slowest:.2f} s, the largest lot {found.peak // 10**6} MB"
    rows = [
        Row("inputs", "thousand", [found.tried / 1000], least=ASKED / 1000, more_is_better=True),
        Row("crashes, hangs, other exceptions", "inputs", [len(found.wrong)], most=0, note=crashed),
        Row("inputs a second", "inputs/s", [found.tried / found.seconds], more_is_better=True),
    ]
    for kind, counts in sorted(by_kind.items()):
        total = sum(counts.values())
        note = ", ".join(f"{what} {count / total:.1%}" for what, count in counts.most_common())
        rows.append(Row(kind, "thousand", [total / 1000], more_is_better=True, note=note))
    return rows


def main() -> None:
    """Reads the arguments, throws, and prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--inputs", type=int, default=sys.maxsize)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--lot", type=int, help="this lot alone")
    parser.add_argument("--keep", type=Path, help="folder for inputs that failed otherwise")
    parser.add_argument("--write", action="store_true", help="keep the figures for RESULTS.md")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    lots = iter(range(sys.maxsize)) if given.lot is None else iter([given.lot])
    found = run(
        given.seed,
        seconds=given.seconds,
        inputs=given.inputs,
        lots=lots,
        processes=given.processes,
        keep=given.keep,
    )
    if given.write:
        command = f"python -m tests.benchmarks.fuzz --inputs {given.inputs} --seed {given.seed}"
        text = second_paragraph(__doc__ and __doc__.partition("\n\n")[2])
        write(Section("fuzz", "Damaged files", text, command, rows_of(found)))
    document = {**vars(found), "outcomes": dict(sorted(found.outcomes.items()))}
    print(json.dumps(document, indent=2))
    sys.exit(bool(found.wrong))


if __name__ == "__main__":
    main()

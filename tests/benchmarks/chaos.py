"""Kills a job of 3,000 images at ten parts and at its commit, before and after each.

    python -m tests.benchmarks.chaos

The whole grid, of which tests/jobs/test_exactly_once.py holds a few points: each kill is of a new
table, is followed by a manifest that has grown where its number is odd, and ends with a run that
must leave one row per image. Prints a line a kill; about 40 seconds each on two free cores.
"""

import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests import chaos
from tests.chaos import Kill

PARTS = range(1, 11)
KILLS = [Kill(when, "part", k) for k in PARTS for when in ("before", "after")]
KILLS += [Kill("before", "commit"), Kill("after", "commit")]
ROWS, GROWN_ROWS = 3000, 3100


def main() -> int:
    """Runs the grid; 1 when a table was wrong."""
    is_right = True
    for number, kill in enumerate(KILLS):
        begun = time.monotonic()
        with pytest.MonkeyPatch.context() as monkeypatch, tempfile.TemporaryDirectory() as folder:
            right = is_exactly_once(kill, Path(folder), monkeypatch, is_growing=number % 2 == 1)
        is_right &= right
        seconds = time.monotonic() - begun
        told = "right" if right else "WRONG"
        print(f"{kill.when} {kill.what} {kill.nth}: {told} seconds={seconds:.0f}", flush=True)
    return 0 if is_right else 1


def is_exactly_once(
    kill: Kill, folder: Path, monkeypatch: pytest.MonkeyPatch, *, is_growing: bool
) -> bool:
    """Kills a job once and finishes it; whether the table is right and never was half a run."""
    config = chaos.write_config(folder / "job.json")
    rows = GROWN_ROWS if is_growing else ROWS
    with (
        chaos.gated_server(monkeypatch) as gate,
        chaos.Reader() as reader,
        chaos.Drivers(config, gate) as drivers,
    ):
        chaos.write_pictures(range(rows))
        chaos.write_manifest(range(ROWS))
        drivers.killed(kill)
        chaos.write_manifest(range(rows))
        drivers.done()
        is_right = chaos.table_now() == chaos.table_of(range(rows))
    whole = {(0, ROWS, ROWS), (0, rows, rows), (1, rows, rows)}
    return is_right and reader.seen <= whole


if __name__ == "__main__":
    sys.exit(main())

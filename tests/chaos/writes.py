"""The driver killed at a chosen write to S3: before or after a part, or the commit, is there."""

import logging
import random
import tempfile
from pathlib import Path

import pytest

from tests.chaos import gate
from tests.chaos.fault import Fault
from tests.chaos.gate import Kill
from tests.chaos.life import Life
from tests.chaos.reader import Reader

ROWS, GROWN_ROWS = 600, 650
PARTS = 10


def kill_at_write(point: random.Random, life: Life) -> None:
    """A table of its own on S3: killed once, its manifest perhaps grown, and done."""
    what = "commit" if point.random() < 0.3 else "part"
    nth = point.randint(1, PARTS) if what == "part" else 1
    kill = Kill(point.choice(["before", "after"]), what, nth)  # type: ignore[arg-type]
    rows = point.choice([ROWS, GROWN_ROWS])
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the server names each request
    with pytest.MonkeyPatch.context() as monkeypatch, tempfile.TemporaryDirectory() as folder:
        config = gate.write_config(Path(folder) / "job.json")
        with (
            gate.gated_server(monkeypatch) as server,
            Reader(gate.TABLE) as reader,
            gate.Drivers(config, server) as drivers,
        ):
            gate.write_pictures(range(rows))
            gate.write_manifest(range(ROWS))
            drivers.killed(kill)
            gate.write_manifest(range(rows))
            drivers.done()
            assert gate.table_now() == gate.table_of(range(rows)), f"another table after {kill}"
    whole = {(0, ROWS, ROWS), (0, rows, rows), (1, rows, rows)}
    assert reader.seen <= whole, f"seen {reader.seen} after {kill}"


FAULTS = (Fault("driver killed at a chosen write to S3", kill_at_write, is_short=False),)

"""Rows that kill the process which computes them."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from jobs import suspects
from jobs.enrich import _Run
from jobs.observed import observed
from jobs.plan import plan
from jobs.shards import Shard
from jobs.stages import ShardState, Work
from jobs.suspects import compute_suspect
from operators.catalog import build_operators
from operators.columns import BOOKKEEPING, with_columns
from operators.fetcher import TIMEOUT_SECONDS, Fetcher
from operators.patience import PATIENCE_SECONDS
from operators.policy import Policy
from schemas.errors import ModelError
from tests import plain_jobs as job

pytestmark = pytest.mark.chaos


def computed(config, needed=("brightness", "scaled")):
    """The single shard of a job, computed as a suspect: its report and its rows."""
    operators = build_operators(config, job.COLUMNS, catalog=job.CATALOG)
    planned = plan(config, operators)
    assert len(planned.shards) == 4
    with observed(config, "enrich") as told:
        run = _Run(planned, config, operators, told, address=None, rounds=0)
    reports = [compute_suspect(run.work, shard, needed) for shard in planned.shards[:1]]
    return reports[0], job.part_rows(planned, planned.shards[0])


def test_a_row_that_kills_its_process_becomes_an_error_row_and_its_neighbours_are_right(tmp_path):
    config = job.config(tmp_path, 40, scaled={"of": "number", "poison": 3})

    report, rows = computed(config)

    assert report.errors == {"crashed": 1}
    assert report.computed == {"brightness": 10, "scaled": 9}
    assert [row["scaled"] for row in rows] == [0, 2, 4, None, 8, 10, 12, 14, 16, 18]
    assert [row["brightness"] for row in rows] == list(range(10))
    crashed = rows[3]
    assert crashed["error"]["stage"] == "scaled"
    assert crashed["error"]["code"] == "crashed"
    assert "SIGKILL" in crashed["error"]["message"]
    assert crashed["brightness_key"]
    assert not crashed["scaled_key"]


def test_a_row_that_never_comes_back_is_ended_and_its_neighbours_are_right(tmp_path):
    limits = {"batch_timeout": "2s"}
    config = job.config(tmp_path, 40, scaled={"of": "number", "stuck": 3}, limits=limits)

    report, rows = computed(config)

    assert report.errors == {"timeout": 1}
    assert [row["scaled"] for row in rows] == [0, 2, 4, None, 8, 10, 12, 14, 16, 18]
    assert rows[3]["error"]["stage"] == "scaled"
    assert rows[3]["error"]["message"].startswith("no answer came in 2 s (limits.batch_timeout)")


def suspect(rows):
    shard = Shard("0", rows=rows, due=rows, images=0, image_bytes=0, file="0", row_group=0)
    table = pa.table({"number": pa.array(range(rows), pa.float32())})
    return ShardState(shard, with_columns(table, BOOKKEEPING))


def work_of(*operators, **given):
    return Work(None, operators, Fetcher(operators, Policy()), **given)


def test_one_row_that_hangs_costs_two_time_outs_in_its_own_process():
    died = []

    def run(state):
        numbers = state.table["number"].to_pylist()
        if 37 not in numbers:
            return state
        died.append(len(numbers))
        first = numbers.index(37) // 16 * 16
        batch = (first, min(first + 16, len(numbers)))
        return suspects._Death("scaled", "timeout", "no answer", None, batch)

    work = work_of(job.Scaled(of="number"))
    done = list(suspects._computed_in_pieces(run, work, suspect(100)))

    assert died == [100, 1]
    assert [n for state in done for n in state.table["number"].to_pylist()] == list(range(100))
    codes = [
        row["error"]["code"]
        for state in done
        for row in state.table.to_pylist()
        if row.get("error")
    ]
    assert codes == ["timeout"]


def test_a_store_that_is_away_is_waited_for_longer_than_a_batch_may_take():
    work = work_of(job.Brightness(), batch_seconds=120.0)

    assert work.batch_limit("brightness") == 120
    assert work.batch_limit("fetch") > PATIENCE_SECONDS + 4 * TIMEOUT_SECONDS


@pytest.mark.parametrize(("stage", "may_pass"), [("fetch", True), ("scaled", False)])
def test_only_a_time_out_of_the_fetch_may_pass(stage, may_pass):
    death = suspects._Death(stage, "timeout", "no answer", None, None)
    crashed = suspects._crashed(work_of(job.Scaled(of="number")), suspect(1), death)

    assert crashed.table["error"][0]["transient"].as_py() is may_pass


def test_weights_that_are_read_late_are_read_before_the_seconds_of_a_batch_count(monkeypatch):
    told = []
    operator = job.Scaled(of="number")
    monkeypatch.setattr(operator, "load", lambda: told.append("load"))
    pipe = SimpleNamespace(send=lambda message: told.append(message[0]))
    table = suspect(2).table.append_column("uri", pa.nulls(2, pa.string()))

    suspects._through_all_stages(work_of(operator), replace(suspect(2), table=table), pipe)

    assert told == ["enters", "computes", "enters", "load", "computes", "load", "computes"]


@pytest.mark.parametrize(
    ("batch", "pieces"),
    [
        (None, [(0, 5), (5, 9)]),
        ((0, 9), [(n, n + 1) for n in range(9)]),
        ((3, 5), [(0, 3), (3, 4), (4, 5), (5, 9)]),
    ],
)
def test_rows_are_cut_around_the_batch_that_the_process_died_of(batch, pieces):
    assert suspects._pieces(9, batch) == pieces


def test_a_shard_that_was_suspected_wrongly_is_computed_like_any_other(tmp_path):
    report, rows = computed(job.config(tmp_path, 40))

    assert not report.errors
    assert [row["scaled"] for row in rows] == [2.0 * n for n in range(10)]


def test_a_model_that_cannot_be_read_is_no_fault_of_the_rows(tmp_path):
    config = job.config(tmp_path, 40, scaled={"of": "number", "unreadable": True})

    with pytest.raises(ModelError, match="cut short"):
        computed(config)


PARENT = """
import sys, time
from types import SimpleNamespace
from jobs.suspects import _OwnProcess

if __name__ == "__main__":
    process = _OwnProcess(SimpleNamespace(logs=None), ())
    process._start()
    print(process._process.pid, flush=True)
    time.sleep(1000)
"""


def test_what_hangs_does_not_outlive_who_waits_for_it(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        child = Path("/proc", parent.stdout.readline().strip(), "stat")
        assert child.exists()
        os.kill(int(child.parent.name), signal.SIGSTOP)  # it reads no more of its pipe
        parent.kill()

    until = time.monotonic() + 10
    while child.exists() and child.read_text().rpartition(") ")[2][0] not in "XZ":
        assert time.monotonic() < until

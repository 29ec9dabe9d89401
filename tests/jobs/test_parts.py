"""The parts of a plan: put once, and telling how they came about."""

import pytest
from botocore.exceptions import EndpointConnectionError

from jobs import parts, store_patience
from jobs.parts import PartReport, patiently, put_part, read_report, read_reports
from jobs.plan import plan
from jobs.shards import read_shard
from operators.catalog import build_operators
from schemas.errors import RunError
from tests import plain_jobs as job

REPORT = PartReport(
    "s", rows=10, tried=10, errors={"missing": 2}, transient=1, computed={"b": 8}, busy={"b": 0.5}
)


@pytest.fixture
def planned(tmp_path):
    config = job.config(tmp_path, 40)
    return plan(config, build_operators(config, job.COLUMNS, catalog=job.CATALOG))


def test_a_part_that_is_there_wins(planned):
    shard = planned.shards[0]
    table = read_shard(planned.directory, shard)
    other = PartReport("s", rows=10, tried=10)

    assert put_part(planned, shard, table, REPORT) == REPORT
    assert put_part(planned, shard, table.slice(0, 0), other) == REPORT
    assert len(job.part_rows(planned, shard)) == 10


def test_a_part_has_exactly_the_columns_of_the_table(planned):
    shard = planned.shards[0]
    put_part(planned, shard, read_shard(planned.directory, shard), REPORT)

    assert list(job.part_rows(planned, shard)[0]) == planned.schema.names


def test_reports_are_read_of_the_parts_that_are_there(planned):
    first, second, *_ = planned.shards
    put_part(planned, first, read_shard(planned.directory, first), REPORT)

    assert read_report(planned, second) is None
    assert read_reports(planned, planned.shards) == [REPORT]


def test_a_store_that_comes_back_is_asked_again(monkeypatch):
    monkeypatch.setattr(store_patience, "PAUSE_SECONDS", 0)
    refused = EndpointConnectionError(endpoint_url="http://127.0.0.1")  # no OSError
    answers = iter([ConnectionResetError("reset"), TimeoutError("slow"), refused, "there"])

    def ask():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(ask, "read it") == "there"


def test_a_store_that_stays_away_ends_the_run_with_what_to_do(monkeypatch):
    monkeypatch.setattr(store_patience, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(parts, "STORE_SECONDS", 0.1)

    def ask():
        raise ConnectionRefusedError("no route")

    with pytest.raises(RunError, match=r"could not put it: .*no route.*run the same"):
        patiently(ask, "put it")


def test_a_file_that_is_not_there_is_not_waited_for():
    def ask():
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError):
        patiently(ask, "read it")

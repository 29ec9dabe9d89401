"""The parts of a plan: put once, and telling how they came about."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import EndpointConnectionError

from jobs import parts, shards, store_patience
from jobs.commit import commit
from jobs.parts import PartReport, patiently, put_part, read_report, read_reports
from jobs.plan import plan
from jobs.shards import part_path, read_shard
from operators.catalog import build_operators
from schemas.errors import RunError, TableError
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


def flipped(path, at):
    """The bytes of a file with one bit of them turned."""
    data = bytearray(Path(path).read_bytes())
    data[at] ^= 1
    return bytes(data)


@pytest.fixture
def part(planned, monkeypatch):
    """The path of the first part, which is there; no store is waited for."""
    shard = planned.shards[0]
    put_part(planned, shard, read_shard(planned.directory, shard), REPORT)
    monkeypatch.setattr(store_patience, "pause", lambda trial: pytest.fail("waits for the store"))
    return part_path(planned, shard)


def test_a_bit_that_flips_in_a_footer_is_no_store_that_does_not_answer(planned, part):
    whole, told = Path(part).read_bytes(), set()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for at in range(footer, len(whole), (len(whole) - footer) // 100):
        data = flipped(part, at)
        try:
            parts._report(pa.BufferReader(data))
        except Exception as error:
            told.add(type(error))
            Path(part).write_bytes(data)
            assert read_report(planned, planned.shards[0]) is None
            assert not Path(part).exists()
            Path(part).write_bytes(whole)

    assert {OSError, pa.ArrowInvalid} <= told


def test_a_read_that_fails_once_removes_nothing(planned, part, monkeypatch):
    answers = iter([OSError("Couldn't deserialize thrift"), REPORT])

    def once(file):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(parts, "_report", once)

    assert read_report(planned, planned.shards[0]) == REPORT
    assert Path(part).exists()


def test_a_part_that_was_put_anew_meanwhile_is_kept(planned, part, monkeypatch):
    whole = Path(part).read_bytes()
    Path(part).write_bytes(whole[:-100])

    def put_anew(planned, shard):
        Path(part).write_bytes(whole)
        return False

    monkeypatch.setattr(parts, "_is_committed", put_anew)

    assert read_report(planned, planned.shards[0]) == REPORT
    assert Path(part).read_bytes() == whole


def test_a_damaged_part_that_the_table_has_is_named_and_kept(planned, monkeypatch):
    for shard in planned.shards:
        put_part(planned, shard, read_shard(planned.directory, shard), REPORT)
    commit(planned)
    path = part_path(planned, planned.shards[0])
    os.truncate(path, 100)

    with pytest.raises(TableError, match=rf"{path}: a data file of the table is gone or damaged"):
        read_report(planned, planned.shards[0])

    assert Path(path).exists()


def flipped_in_silence(path):
    """A data file with a bit turned such that Arrow by itself reads another image_id."""
    whole = pq.read_table(path, columns=["image_id"])
    column = pq.read_metadata(path).row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    for at in range(start, start + column.total_compressed_size):
        data = flipped(path, at)
        try:
            rows = pq.ParquetFile(pa.BufferReader(data)).read(["image_id"])
        except (OSError, pa.ArrowException):
            continue
        if rows != whole:
            return data
    raise AssertionError("Arrow noticed all")


@pytest.fixture
def flipped_table(tmp_path):
    """A job whose table has a data file with a bit turned, and the path of that."""
    config = job.config(tmp_path, 40)
    made = plan(config, build_operators(config, job.COLUMNS, catalog=job.CATALOG))
    for shard in made.shards:
        put_part(made, shard, read_shard(made.directory, shard), REPORT)
    commit(made)
    path = part_path(made, made.shards[0])
    Path(path).write_bytes(flipped_in_silence(path))
    return config, path


def test_a_bit_that_flips_among_the_values_of_a_data_file_is_noticed_by_the_plan(flipped_table):
    config, path = flipped_table

    with pytest.raises(TableError, match=rf"{path}: a data file of the table is gone or damaged"):
        plan(config, build_operators(config, job.COLUMNS, catalog=job.CATALOG))


def test_a_bit_that_flips_among_values_that_are_copied_ends_in_no_table(flipped_table):
    _, path = flipped_table
    wanted, schema = pa.chunked_array([[1, 3]]), pa.schema([("image_id", pa.string())])

    with pytest.raises(TableError, match=rf"{path}: a data file of the table is gone or damaged"):
        shards._rows_of(path, wanted, schema)


def test_a_report_of_a_later_release_is_read_as_far_as_it_is_known():
    report = PartReport("s", rows=3, tried=3)
    later = report.to_json()[:-1] + ',"news":{"of":1}}'
    assert PartReport.from_json(later) == report

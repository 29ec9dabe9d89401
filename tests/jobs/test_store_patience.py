"""A table on an S3 whose requests fail as they do: nothing is lost, and nothing there twice."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
import s3fs

from jobs import storage, store_patience
from jobs.commit import commit
from jobs.parts import PartReport, patiently, put_part, read_report
from jobs.plan import plan
from jobs.shards import Plan
from jobs.table import open_table
from schemas.errors import RunError
from schemas.manifest_files import STORE_ERRORS
from tests import fault_proxy, plain_run
from tests.fault_proxy import Proxy, Rule

OPERATORS = {"upper": {"use": "upper", "text": "title"}}
PASSING = ["busy", "broken", "reset", "cut"]
REPORT = PartReport("s", rows=3, tried=3)


@pytest.fixture
def proxy(s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr(store_patience, "PAUSE_SECONDS", 0.1)
    with fault_proxy.before(s3_endpoint) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        storage._probe_bucket.cache_clear()
        yield found


@pytest.fixture
def config(s3_bucket: str) -> Any:
    rows = [{"image_id": f"id-{n}", "uri": f"{s3_bucket}/{n}", "title": f"t {n}"} for n in range(9)]
    manifest = plain_run.write_manifest(f"{s3_bucket}/manifest", rows)
    return plain_run.config_of(manifest, f"{s3_bucket}/table", OPERATORS)


def computed(config: Any) -> Plan:
    operators = plain_run.operators_of(config)
    planned = plan(config, operators)
    plain_run.run(planned, operators)
    return planned


def titles(config: Any) -> list[str]:
    table = open_table(config.table)
    assert table is not None
    return sorted(table.read(["upper"])["upper"].to_pylist())


def test_a_whole_job_goes_through_a_store_that_fails_now_and_then(proxy, config):
    proxy.arm(*[Rule(kind, share=0.05) for kind in PASSING], seed=3)

    planned = computed(config)
    assert commit(planned) == 0
    assert commit(planned) == 0

    assert titles(config) == [f"T {n}" for n in range(9)]
    assert set(proxy.injected()) == set(PASSING)


@pytest.mark.parametrize("kind", PASSING)
def test_a_part_is_put_once_whatever_becomes_of_the_answer(proxy, config, kind):
    planned = plan(config, plain_run.operators_of(config))
    shard = planned.shards[0]
    columns = [pa.nulls(shard.rows, field.type) for field in planned.schema]
    table = pa.table(columns, schema=planned.schema)
    proxy.arm(Rule(kind, key="/table/data/", methods=("PUT",), most=1))

    assert put_part(planned, shard, table, REPORT) == REPORT

    assert proxy.injected() == {kind: 1}
    assert read_report(planned, shard) == REPORT


@pytest.mark.parametrize("kind", PASSING)
def test_a_commit_is_made_once_whatever_becomes_of_the_answer(proxy, config, kind):
    planned = computed(config)
    proxy.arm(Rule(kind, key=r"/_delta_log/.*json", methods=("PUT",), most=1))

    assert commit(planned) == 0

    assert proxy.injected() == {kind: 1}
    assert titles(config) == [f"T {n}" for n in range(9)]
    table = open_table(config.table)
    assert table is not None
    assert table.version == 0


def test_a_log_that_breaks_off_while_it_is_read_is_read_again(proxy, config):
    commit(computed(config))
    proxy.arm(Rule("reset", key=r"/_delta_log/.*json", methods=("GET",), most=2))

    assert titles(config) == [f"T {n}" for n in range(9)]

    assert proxy.injected() == {"reset": 2}


def test_a_store_that_refuses_a_commit_ends_the_run_and_keeps_the_parts(proxy, config):
    planned = computed(config)
    proxy.arm(Rule("forbidden", key=r"/_delta_log/", methods=("PUT",)))
    with pytest.raises(RunError, match=r"could not be committed.*403 Forbidden.*parts are kept"):
        commit(planned)
    proxy.arm()

    assert commit(planned) == 0

    assert titles(config) == [f"T {n}" for n in range(9)]


def test_a_bucket_that_is_full_ends_the_run_with_what_to_do(proxy, s3_bucket, monkeypatch):
    monkeypatch.setattr("jobs.parts.STORE_SECONDS", 0.2)
    proxy.arm(Rule("full", methods=("PUT",)))
    path = f"{s3_bucket}/table/data/0123456789abcdef/1.parquet"
    with pytest.raises(RunError, match=r"could not put.*bucket is full.*run the same command"):
        patiently(lambda: storage.put_if_absent(path, b"x"), f"put {path}")


def test_waiting_for_a_store_is_told(proxy, s3_bucket, monkeypatch, caplog):
    monkeypatch.setattr(store_patience, "TOLD_FROM_SECONDS", 0)
    storage.write_bytes(f"{s3_bucket}/x", b"x")
    proxy.arm(Rule("broken", most=2))

    assert storage.read_bytes(f"{s3_bucket}/x") == b"x"

    lines = [r.getMessage() for r in caplog.records if "event=store_" in r.getMessage()]
    assert len(lines) == 1
    host = proxy.endpoint.removeprefix("http://")
    assert lines[0].startswith(f"event=store_waiting host={host} code=500 waited=0.0 said=")


def test_a_store_that_is_down_is_asked_again_as_long_as_one_that_stumbles(
    s3_bucket, monkeypatch: pytest.MonkeyPatch
):
    """A closed port answers at once: it is the number of tries, and the pauses, that count."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(s3fs.core.asyncio, "sleep", sleep)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(tuple(STORE_ERRORS)):
        storage.read_bytes(f"{s3_bucket}/x")
    assert 150 < sum(waited) < 240

"""Which images are fetched, from a disk and a real S3 server, and what becomes of the others."""

import errno
import hashlib
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from operators import fetcher as fetcher_module
from operators.base import apply
from operators.fetcher import Fetcher, dependent_keys
from operators.policy import Place, Policy
from operators.s3_objects import S3Objects
from operators.sources import Opened
from schemas.errors import RowFault, RowFaults
from tests import s3, web
from tests.fetching import Reads, Sees, codes, local, picture, shard


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    return tmp_path


def test_bytes_digest_and_size_stand_beside_their_uris(folder):
    result = local(folder)(shard("3.png", "0.png", str(folder / "1.png")))
    for row, number in zip(result.to_pylist(), (3, 0, 1), strict=True):
        encoded = picture(number)
        assert row["image_encoded"] == encoded
        assert row["image_sha256"] == hashlib.sha256(encoded).hexdigest()
        assert (row["image_width"], row["image_height"]) == (24, 16)
        assert row["image_size"] == len(encoded)
        assert row["image_etag"].startswith(f"{len(encoded)}-")
        assert row["error"] is None
    assert result["image_id"].to_pylist() == ["000", "001", "002"]


def test_twice_is_once(folder):
    once = apply(Sees(), local(folder)(shard("0.png", "nowhere.png")))
    again = local(folder)(once)
    assert again.equals(once)


class Counting:
    """Stands before a source and counts what it is asked."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.opened_paths: list[str] = []

    def opened(self, place: Any) -> Any:
        self.opened_paths.append(Path(place.path).name)
        return self.source.opened(place)

    def etag(self, place: Any) -> str | None:
        return self.source.etag(place)


def counted(fetcher: Fetcher) -> list[str]:
    source = Counting(fetcher._sources["file"])
    fetcher._sources["file"] = source
    return source.opened_paths


def test_an_image_is_not_fetched_when_nothing_stale_needs_it(folder):
    error = {"stage": "sees", "code": "model", "message": "", "transient": False, "attempts": 1}
    table = shard(
        *[f"{number}.png" for number in range(5)],
        sees_key=["key-1", None, "old", None, None],
        is_due=[True, True, True, False, True],
        error=[None, None, None, None, error],
    )
    fetcher = local(folder)
    paths = counted(fetcher)
    result = fetcher(table)
    assert sorted(paths) == ["1.png", "2.png"]
    assert result["image_encoded"].is_valid().to_pylist() == [False, True, True, False, False]


def test_operators_that_see_no_image_fetch_none(folder):
    fetcher = local(folder, [Reads("length", "uri")])
    paths = counted(fetcher)
    assert fetcher(shard("0.png"))["image_encoded"].null_count == 1
    assert paths == []


def test_other_bytes_under_a_uri_null_the_keys_of_all_that_came_from_them(folder):
    chain = [Sees("a"), Reads("b", "a"), Reads("c", "uri"), Reads("d", "b"), Sees("e")]
    assert dependent_keys(chain) == ("a_key", "b_key", "d_key", "e_key")
    keys = {f"{name}_key": ["key-1", "key-1"] for name in "abcd"}
    digests = [hashlib.sha256(picture(0)).hexdigest(), "of other bytes"]
    keys["duplicate_of"] = ["another", "another"]
    table = shard("0.png", "1.png", image_sha256=digests, e_key=["old", "old"], **keys)
    result = local(folder, chain)(table)
    assert result["a_key"].to_pylist() == ["key-1", None]
    assert result["b_key"].to_pylist() == ["key-1", None]
    assert result["c_key"].to_pylist() == ["key-1", "key-1"]
    assert result["d_key"].to_pylist() == ["key-1", None]
    assert result["e_key"].to_pylist() == ["old", None]
    assert result["duplicate_of"].to_pylist() == ["another", None]


def test_other_bytes_null_the_keys_of_operators_that_are_gone_too(folder):
    table = shard(
        "0.png",
        "1.png",
        image_sha256=["of other bytes", "of other bytes"],
        gone=["old", "old"],
        gone_key=["0123456789abcdef", "no key of ours"],
    )

    result = local(folder, retired=["gone_key"])(table)

    assert result["gone_key"].to_pylist() == [None, "no key of ours"]
    assert result["gone"].to_pylist() == ["old", "old"]


def test_an_etag_tells_whether_an_image_changed_without_reading_it(folder):
    fetcher = local(folder)
    paths = counted(fetcher)
    etags = local(folder)(shard("0.png", "1.png"))["image_etag"].to_pylist()
    (folder / "1.png").write_bytes(picture(9, (50, 10)))
    assert fetcher.has_changed("0.png", etags[0]) is False
    assert fetcher.has_changed("1.png", etags[1]) is True
    assert fetcher.has_changed("nowhere.png", etags[0]) is False
    assert fetcher.has_changed("../0.png", etags[0]) is False
    assert paths == []


def test_every_fault_has_its_code_and_the_neighbours_are_right(folder):
    good = picture(7)
    bad = {
        "empty.jpg": (b"", "empty"),
        "page.jpg": (b"<!DOCTYPE html><html></html>", "not_an_image"),
        "cut.png": (good[: len(good) // 2], "truncated"),
        "large.png": (picture(8, (300, 300)), "too_large"),
        "bomb.png": (picture(8, (150, 10)), "bomb"),
        "vector.svg": (b"<svg xmlns='x'/>", "unsupported_format"),
    }
    for name, (data, _) in bad.items():
        (folder / name).write_bytes(data)
    expected = [code for _, code in bad.values()] + ["missing"] * 3 + ["policy", "policy"]
    uris = [*bad, "nowhere.png", ".", "x" * 5000, "../x.png", None]
    mixed = [uri for pair in zip(uris, ["0.png"] * len(uris), strict=True) for uri in pair]
    fetcher = local(folder, image_bytes=100_000, pixel_limit=1000)
    result = apply(Sees(), fetcher(shard(*mixed)))
    assert codes(result)[::2] == expected
    assert codes(result)[1::2] == [None] * len(uris)
    assert result["sees"].to_pylist() == [None, 24] * len(uris)
    for row in result.to_pylist()[::2]:
        assert (row["error"]["stage"], row["error"]["attempts"]) == ("fetch", 1)
        assert row["error"]["transient"] is False
        assert row["image_sha256"] is None
        assert row["image_encoded"] is None
        assert row["sees_key"] is None
        assert row["enriched_at"] is not None


def test_a_failed_fetch_counts_the_attempts_before(folder):
    result = local(folder)(shard("nowhere.png", attempts=pa.array([2], pa.int32())))
    assert result["error"][0]["attempts"].as_py() == 3


def test_a_pipe_is_never_opened(folder):
    import os

    os.mkfifo(folder / "pipe.jpg")
    assert codes(local(folder)(shard("pipe.jpg"))) == ["policy"]


def test_bytes_beyond_what_may_travel_are_fetched_again_by_the_operators(folder, monkeypatch):
    monkeypatch.setattr(fetcher_module, "TRAVELLING_BYTES", len(picture(0)) * 2 + 10)
    fetcher = local(folder)
    fetched = fetcher(shard(*[f"{number}.png" for number in range(5)]))
    assert fetched["image_encoded"].null_count == 3
    assert fetched["image_sha256"].null_count == 0
    result = apply(Sees(), fetched, fetch=fetcher.fill)
    assert result["sees"].to_pylist() == [24] * 5
    assert result["image_encoded"].null_count == 3


def test_an_image_that_changed_meanwhile_is_not_mixed_with_the_old(folder, monkeypatch):
    monkeypatch.setattr(fetcher_module, "TRAVELLING_BYTES", 1)
    fetcher = local(folder, threads=1)  # so that the first image is the one that travels
    fetched = fetcher(shard("0.png", "1.png", "2.png"))
    (folder / "2.png").write_bytes(picture(9))
    result = apply(Sees(), fetched, fetch=fetcher.fill)
    assert codes(result) == [None, None, "unavailable"]
    assert result["error"][2]["stage"].as_py() == "fetch"
    assert result["error"][2]["transient"].as_py() is True


def test_filling_names_every_row_it_cannot_fill(folder):
    empty = pa.array([None, b"kept", None], pa.large_binary())
    table = shard("nowhere.png", "1.png", "0.png", image_encoded=empty)
    with pytest.raises(RowFaults) as raised:
        local(folder).fill(table)
    assert {at: fault.code for at, fault in raised.value.faults.items()} == {0: "missing"}
    filled = local(folder).fill(table.slice(1))
    assert filled["image_encoded"].to_pylist() == [b"kept", picture(0)]


class Flaky:
    """A source that fails so often before it answers."""

    def __init__(self, failures: int, fault: RowFault) -> None:
        self.failures = failures
        self.fault = fault
        self.calls = 0

    def opened(self, place: Any) -> Any:
        from contextlib import nullcontext

        self.calls += 1
        if self.calls <= self.failures:
            raise self.fault
        return nullcontext(Opened(None, None, lambda limit: picture(0)))

    def etag(self, place: Any) -> str | None:
        return None


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operators.patience.FIRST_SECONDS", 0.001)
    monkeypatch.setattr("operators.patience.LONGEST_SECONDS", 0.01)


@pytest.mark.usefixtures("no_pauses")
def test_a_transient_fault_is_tried_again_before_it_is_an_error(folder):
    fetcher = local(folder, threads=1, patience_seconds=30)
    source = Flaky(4, RowFault("unavailable", "down", transient=True))
    fetcher._sources["file"] = source
    assert codes(fetcher(shard("0.png"))) == [None]
    assert fetcher.retries() == {"unavailable": 4}


def test_a_lasting_fault_is_not_tried_again(folder):
    fetcher = local(folder, patience_seconds=30)
    source = Flaky(9, RowFault("forbidden", "no"))
    fetcher._sources["file"] = source
    fetcher(shard("0.png"))
    assert source.calls == 1


@pytest.mark.usefixtures("no_pauses")
def test_who_waits_for_a_store_holds_no_memory(folder, monkeypatch):
    made, left = [], []

    class Watched(fetcher_module._Budgets):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    class Stumbling(Flaky):
        def opened(self, place: Any) -> Any:
            from contextlib import nullcontext

            def read(limit: int) -> bytes:
                self.calls += 1
                if self.calls > self.failures:
                    return picture(0)
                raise self.fault

            return nullcontext(Opened(1_000, None, read))

    def sleep(seconds: float) -> None:
        budgets = (made[0].reading, made[0].decoding, made[0].travelling)
        left.append([budget.total - budget.left for budget in budgets])

    monkeypatch.setattr(fetcher_module, "_Budgets", Watched)
    monkeypatch.setattr("operators.patience.time.sleep", sleep)
    fetcher = local(folder, threads=1, patience_seconds=30)
    fetcher._sources["file"] = Stumbling(3, RowFault("unavailable", "reset", transient=True))
    assert codes(fetcher(shard("0.png"))) == [None]
    assert left == [[0, 0, 0]] * 3


def test_a_disk_that_fails_is_unavailable(folder, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    fetcher = local(folder)
    monkeypatch.setattr("operators.sources.os.stat", fail)
    with pytest.raises(RowFault, match="Input/output error") as raised:
        fetcher.image("0.png")
    assert (raised.value.code, raised.value.transient) == ("unavailable", True)


def test_a_fetcher_travels_between_processes(folder):
    fetcher = pickle.loads(pickle.dumps(local(folder)))
    assert codes(fetcher(shard("0.png"))) == [None]


def test_an_empty_shard_gets_the_columns(folder):
    result = local(folder)(shard())
    assert {"image_sha256", "image_encoded", "error"} <= set(result.column_names)


def test_many_threads_never_hold_more_than_their_share(folder, monkeypatch):
    size = len(picture(0))
    monkeypatch.setattr(fetcher_module, "READING_BYTES", size * 2 + 1)
    held, most = [0], [0]
    real = fetcher_module._Budget.taken

    @contextmanager
    def watched(budget: Any, wanted: int) -> Iterator[None]:
        with real(budget, wanted):
            most[0] = max(most[0], budget.total - budget.left)
            held[0] += 1
            yield

    monkeypatch.setattr(fetcher_module._Budget, "taken", watched)
    result = local(folder, image_bytes=size + 1000)(shard(*["0.png", "1.png"] * 20))
    assert codes(result) == [None] * 40
    assert held[0] == 80
    assert 0 < most[0] <= size * 2 + 1000


@pytest.fixture
def stored(s3_bucket: str, s3_endpoint: str) -> str:
    client = s3.client(s3_endpoint)
    bucket = s3_bucket.removeprefix("s3://")
    client.put_object(Bucket=bucket, Key="a b/0.png", Body=picture(0))
    client.put_object(Bucket=bucket, Key="large.png", Body=picture(1, (400, 300)))
    client.put_object(Bucket=bucket, Key="cut.png", Body=picture(1)[:200])
    client.put_object(Bucket=bucket, Key="empty.png", Body=b"")
    return s3_bucket


def remote(bucket: str, **options: Any) -> Fetcher:
    policy = Policy(f"{bucket}/manifest/", buckets=(bucket.removeprefix("s3://"),))
    return Fetcher([Sees()], policy, **{"patience_seconds": 0, **options})


def test_objects_are_fetched_from_s3(stored):
    names = ["a b/0.png", "large.png", "cut.png", "empty.png", "nowhere.png"]
    table = shard(*[f"{stored}/{name}" for name in names], "s3://no-such-bucket/x.png", "0.png")
    result = remote(stored, image_bytes=100_000)(table)
    assert codes(result) == [None, "too_large", "truncated", "empty", "missing", "policy", "policy"]
    row = result.to_pylist()[0]
    assert row["image_encoded"] == picture(0)
    assert row["image_etag"] == f'"{hashlib.md5(picture(0)).hexdigest()}"'


def test_a_bucket_that_is_not_there_is_missing(stored):
    fetcher = Fetcher([Sees()], Policy(), patience_seconds=0)
    assert codes(fetcher(shard("s3://no-such-bucket/x.png", f"{stored}/a b/0.png"))) == [
        "missing",
        None,
    ]


def test_s3_tells_by_its_etag_whether_an_object_changed(stored):
    fetcher = remote(stored)
    uri = f"{stored}/a b/0.png"
    etag = fetcher(shard(uri))["image_etag"][0].as_py()
    assert fetcher.has_changed(uri, etag) is False
    assert fetcher.has_changed(uri, '"another"') is True


def test_a_store_that_refuses_is_forbidden(monkeypatch):
    import s3fs

    refusal = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    store = web.Server()
    store.pages["/bucket/x.png"] = web.answering(403, refusal)
    for name, value in s3.environment(f"http://127.0.0.1:{store.port}").items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        fetcher = Fetcher([Sees()], Policy(), patience_seconds=0)
        assert codes(fetcher(shard("s3://bucket/x.png"))) == ["forbidden"]
    finally:
        store.close()


@pytest.mark.parametrize("key", ["a+b &=?#%.png", "../up/./x//y.png", "图 片.png", "~x'(1)*!.png"])
def test_an_object_of_any_key_is_read(stored, s3_endpoint, key):
    bucket = stored.removeprefix("s3://")
    s3.client(s3_endpoint).put_object(Bucket=bucket, Key=key, Body=picture(2))
    objects = S3Objects(connections=1, timeout_seconds=5)
    with objects.opened(Place("s3", bucket, key)) as opened:
        assert opened.read(10_000) == picture(2)
        assert opened.size == len(picture(2))


def test_a_store_that_is_down_is_a_transient_error_and_mends(stored, monkeypatch, s3_endpoint):
    import s3fs

    table = shard(f"{stored}/a b/0.png", f"{stored}/nowhere.png")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    result = remote(stored)(table)
    assert codes(result) == ["unavailable"] * 2
    assert [error["transient"] for error in result["error"].to_pylist()] == [True, True]
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    s3fs.S3FileSystem.clear_instance_cache()
    assert codes(remote(stored)(table)) == [None, "missing"]


def test_a_store_that_does_not_answer_times_out(monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.KEY)
        fetcher = Fetcher([Sees()], Policy(), timeout_seconds=0.5, patience_seconds=0)
        result = fetcher(shard("s3://bucket/x.png"))
    assert codes(result) == ["timeout"]
    assert result["error"][0]["transient"].as_py() is True

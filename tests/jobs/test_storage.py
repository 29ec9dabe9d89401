import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs import storage
from schemas.errors import ConfigError, TableError


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    return request.getfixturevalue("s3_bucket") + "/a" if request.param == "s3" else str(tmp_path)


def test_a_file_is_put_once(folder):
    path = storage.join(folder, "deep", "name")

    assert storage.put_if_absent(path, b"first")
    assert not storage.put_if_absent(path, b"second")
    assert storage.read_bytes(path) == b"first"


def test_of_eight_writers_exactly_one_wins(folder):
    path = storage.join(folder, "name")
    storage.put_if_absent(storage.join(folder, "warm"), b"")

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: storage.put_if_absent(path, bytes([n])), range(8)))

    assert sum(won) == 1
    assert storage.read_bytes(path) == bytes([won.index(True)])


def test_nothing_is_left_beside_what_was_put(folder):
    storage.put_if_absent(storage.join(folder, "name"), b"1")
    storage.put_if_absent(storage.join(folder, "name"), b"2")

    assert list(storage.files_under(folder)) == [storage.join(folder, "name")]


def test_the_version_of_a_file_changes_with_its_content(folder):
    path = storage.join(folder, "name")
    storage.write_bytes(path, b"12345")
    first = storage.stat(path)
    storage.write_bytes(path, b"54321")

    assert first is not None
    assert first == storage.StoredFile(path, 5, first.version, first.modified_ms)
    assert storage.stat(path) != first


def test_what_is_absent_is_none(folder):
    assert storage.read_bytes(storage.join(folder, "no")) is None
    assert storage.stat(storage.join(folder, "no")) is None
    assert storage.files_under(storage.join(folder, "no")) == {}
    storage.delete(storage.join(folder, "no"))


def test_a_folder_is_deleted_whole(folder):
    storage.write_bytes(storage.join(folder, "a", "1"), b"")
    storage.write_bytes(storage.join(folder, "b"), b"")

    storage.delete(storage.join(folder, "a"))

    assert list(storage.files_under(folder)) == [storage.join(folder, "b")]


def test_a_store_that_ignores_the_condition_is_refused(s3_bucket, monkeypatch):
    monkeypatch.setattr(storage, "_put_s3", lambda uri, data: True)

    with pytest.raises(TableError, match="ignores If-None-Match"):
        storage.put_if_absent(f"{s3_bucket}/other/name", b"")


def test_paths_have_one_spelling(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    assert storage.normalise("s3://bucket/key/") == "s3://bucket/key"
    assert storage.normalise("table") == str(tmp_path / "table")
    assert storage.normalise(f"file://{tmp_path}/table/") == str(tmp_path / "table")


def test_another_scheme_is_refused_by_name():
    with pytest.raises(ConfigError, match="scheme 'ftp' is not supported"):
        storage.normalise("ftp://host/path")


def test_a_stored_file_travels(tmp_path):
    path = storage.join(str(tmp_path), "name")
    Path(path).write_bytes(b"1")

    assert pickle.loads(pickle.dumps(storage.stat(path))) == storage.stat(path)

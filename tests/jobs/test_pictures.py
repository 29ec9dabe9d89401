"""Where the pictures of a table are fetched from again: as its job allowed, locally and on S3."""

import json

import pyarrow as pa
import pytest

from jobs import enrich, storage
from jobs.pictures import read_policy, record_policy
from operators.policy import Policy
from schemas.errors import ConfigError
from tests import plain_jobs
from tests.jobs.test_outage import run_in_this_process
from tests.reviewed import Reviewed


def test_a_policy_is_the_same_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = Policy("in/manifest.parquet", ("photos",), ("more",), ("images.example.com",))
    record_policy(str(tmp_path / "table"), given)
    monkeypatch.chdir("/")
    noted = read_policy(str(tmp_path / "table"), None)
    assert noted == Policy(
        str(tmp_path / "in" / "manifest.parquet"),
        ("photos",),
        (str(tmp_path / "more"),),
        ("images.example.com",),
    )
    assert noted.place("a.png").path == str(tmp_path / "in" / "a.png")


def test_a_folder_that_is_given_takes_the_place_of_the_manifests(tmp_path):
    record_policy(str(tmp_path / "table"), Policy(str(tmp_path / "in" / "manifest.parquet")))
    policy = read_policy(str(tmp_path / "table"), str(tmp_path))
    assert policy.place("a.png").path == str(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"--images 'no/such': no such folder"):
        read_policy(str(tmp_path / "table"), "no/such")


def test_a_table_that_notes_nothing_allows_no_local_file(tmp_path):
    assert read_policy(str(tmp_path), None) == Policy()


def test_a_run_notes_where_its_images_may_come_from(tmp_path, monkeypatch):
    run_in_this_process(monkeypatch)
    config = plain_jobs.config(tmp_path, 3)
    enrich.run(config, catalog=plain_jobs.CATALOG)
    policy = read_policy(storage.normalise(config.table), None)
    assert policy.manifest == storage.normalise(config.manifest.path)


def test_a_table_and_pictures_on_s3_are_reported_and_exported(tagline, tmp_path, s3_bucket):
    table = Reviewed(tmp_path / "job")
    table.write(uri=pa.array([f"{s3_bucket}/job/pictures/{name}.png" for name in table.ids]))
    store = storage.filesystem(s3_bucket)
    store.put(str(table.folder), f"{storage.inner_path(s3_bucket)}/job", recursive=True)
    place, page = f"{s3_bucket}/job/table", f"{s3_bucket}/pages/report.html"
    (told,) = tagline("report", place, "--out", page, "--json").lines
    assert (told["rows"], told["pictures_missing"]) == (12, 0)
    assert storage.read_bytes(page).count(b'src="data:image/jpeg') == 12
    answer = tagline("export", place, "--to", "coco", "--out", tmp_path / "coco", "--json")
    assert (answer.lines[0]["rows"], answer.lines[0]["failed"]) == (10, 0)
    refused = json.dumps({"buckets": ["other"]}).encode()
    storage.write_bytes(f"{place}/_tagline/images.json", refused)
    (told,) = tagline("report", place, "--out", page, "--json").lines
    assert told["pictures_missing"] == 12

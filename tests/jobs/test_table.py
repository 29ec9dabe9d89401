import pyarrow as pa
import pytest
from deltalake import write_deltalake

from jobs.store_patience import hastily
from jobs.table import open_table
from schemas.errors import TableError
from tests import plain_run as job


def test_no_table_is_none(tmp_path, s3_bucket):
    (tmp_path / "empty").mkdir()
    (tmp_path / "killed" / "_tagline" / "plans").mkdir(parents=True)
    (tmp_path / "killed" / "data").mkdir()

    for path in (tmp_path / "no", tmp_path / "empty", tmp_path / "killed", f"{s3_bucket}/no"):
        assert open_table(str(path)) is None


def test_a_file_is_no_place_for_a_table(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(TableError, match="is a file, not a table"):
        open_table(str(tmp_path / "file"))
    with pytest.raises(TableError, match=r"below/table: lies under /.*/file, which is a file"):
        open_table(str(tmp_path / "file" / "below" / "table"))


def test_a_folder_of_something_else_is_no_place_for_a_table(tmp_path):
    (tmp_path / "notes.txt").write_text("")

    with pytest.raises(TableError, match=r"holds notes\.txt and no Delta table"):
        open_table(str(tmp_path))


def test_a_table_of_another_program_is_refused(tmp_path):
    write_deltalake(str(tmp_path), pa.table({"x": [1]}))

    with pytest.raises(TableError, match="its column 'image_id' is missing; tagline writes only"):
        open_table(str(tmp_path))


def test_a_damaged_log_is_named_on_one_line(tmp_path):
    (tmp_path / "_delta_log").mkdir()
    (tmp_path / "_delta_log" / f"{0:020}.json").write_text("garbage")

    with pytest.raises(
        TableError, match=r"the Delta table cannot be read: .*parsing value$"
    ) as caught:
        open_table(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_store_that_does_not_answer_is_named(monkeypatch, s3_bucket):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    with hastily(), pytest.raises(TableError, match=r"cannot be read: .*Connection refused"):
        open_table(f"{s3_bucket}/table")


def test_a_bucket_that_is_not_there_is_named(s3_bucket):
    with pytest.raises(TableError, match=r"s3://no-such-bucket/table: .*(NoSuchBucket|no bucket)"):
        open_table("s3://no-such-bucket/table")


def test_nested_columns_survive_commits_and_compaction(tmp_path, monkeypatch):
    monkeypatch.setattr("jobs.compaction.MANY_SMALL_FILES", 3)
    extra = {"boxes": [{"a": 1, "b": [1.5]}], "deep": {"k": ["z"]}, "m": "1", "s": "2", "select": 3}
    rows = [{**row, **extra} for row in job.write_images(tmp_path / "images", 12)]
    operators = {"upper": {"use": "upper", "text": "title"}}
    for title in ("one", "two"):
        rows[3]["title"] = title
        manifest = job.write_manifest(tmp_path / "manifest", rows)
        job.enrich(job.config_of(manifest, tmp_path / "table", operators), actors=2)

    table = job.rows_of(tmp_path / "table")
    assert [{name: row[name] for name in extra} for row in table] == [extra] * 12
    assert table[3]["upper"] == "TWO"

"""`tagline compact`: fewer files, the same rows, and errors that stay settled."""

import pytest

from jobs import compaction
from jobs.table import existing_table
from schemas.errors import DatasetError
from tests import plain_run as job

UPPER = {"upper": {"use": "upper", "text": "title"}}
SECOND = {"upper": {**UPPER["upper"], "version": 2}}


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    return request.getfixturevalue("s3_bucket") if request.param == "s3" else str(tmp_path)


def rows_for(count, bad=()):
    return [
        {
            "image_id": f"{n:03}",
            "uri": f"/nowhere/{n}",
            "title": "bad" if n in bad else f"title {n}",
        }
        for n in range(count)
    ]


def enriched(folder, rows, operators=UPPER, **more):
    config = job.config_of(
        job.write_manifest(f"{folder}/manifest", rows), f"{folder}/table", operators
    )
    job.enrich(config, **more)
    return config


def due(config):
    return job.make_plan(config, write=False).counts.due


def test_few_small_files_become_one_and_no_row_changes(folder):
    config = enriched(folder, rows_for(12, bad=[3]), actors=3)
    before = job.rows_of(f"{folder}/table")

    done = compaction.run(f"{folder}/table")

    assert done.before > done.after == 1
    assert job.rows_of(f"{folder}/table") == before
    assert due(config) == 0
    assert compaction.run(f"{folder}/table").version == done.version  # nothing to join


@pytest.mark.parametrize("operators", [UPPER, SECOND])
def test_an_error_is_judged_by_the_key_it_was_tried_with(tmp_path, operators):
    enriched(tmp_path, rows_for(12, bad=[3]), SECOND)
    enriched(tmp_path, rows_for(20, bad=[3]), UPPER)
    compaction.run(str(tmp_path / "table"))

    config = job.config_of(str(tmp_path / "manifest"), tmp_path / "table", operators)

    assert due(config) == (0 if operators is UPPER else 20)


def test_errors_that_were_tried_with_different_keys_are_computed_once_more(tmp_path):
    enriched(tmp_path, rows_for(12, bad=[3]), UPPER)
    enriched(tmp_path, rows_for(20, bad=[3, 15]), SECOND)
    table = existing_table(str(tmp_path / "table"))
    tried = {file.path: {"upper": f"key {at}"} for at, file in enumerate(table.files)}
    failed = {file.path: {"upper"} for file in table.files}

    assert compaction._judged(tried, failed) == {"upper": compaction.ANOTHER}
    first = table.files[0]
    assert compaction._judged(tried, {**dict.fromkeys(failed, ()), first.path: {"upper"}}) == {
        "upper": "key 0"
    }


def test_a_table_that_is_not_there_is_told_of(tmp_path):
    with pytest.raises(DatasetError, match="nowhere: no table"):
        compaction.run(str(tmp_path / "nowhere"))

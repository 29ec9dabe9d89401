from pathlib import Path

import pytest

from jobs import storage
from tests import plain_run as job

BOTH = {"digest": {"use": "digest"}, "upper": {"use": "upper", "text": "title"}}


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    return request.getfixturevalue("s3_bucket") if request.param == "s3" else str(tmp_path)


@pytest.fixture
def images(folder):
    return job.write_images(f"{folder}/images", 20)


def config(folder, operators=BOTH, **more):
    return job.config_of(f"{folder}/manifest", f"{folder}/table", operators, **more)


def test_every_image_of_the_manifest_is_in_the_table_once(folder, images):
    job.write_manifest(f"{folder}/manifest", images)

    made = job.enrich(config(folder))

    rows = job.rows_of(f"{folder}/table")
    assert [row["image_id"] for row in rows] == [row["image_id"] for row in images]
    assert [row["upper"] for row in rows] == [row["title"].upper() for row in images]
    assert all(row["digest"] and row["enriched_at"] and row["error"] is None for row in rows)
    assert made.counts.new == made.images_to_fetch == 20


def test_nothing_changed_is_an_empty_plan_that_writes_nothing(folder, images):
    job.write_manifest(f"{folder}/manifest", images)
    job.enrich(config(folder))
    before = storage.files_under(f"{folder}/table")

    made = job.make_plan(config(folder))

    assert made.is_empty
    assert made.counts.healthy == 20
    assert storage.files_under(f"{folder}/table") == before

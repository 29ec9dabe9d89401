"""The whole job on local folders; each test runs on the same small Ray."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import enrich, history
from jobs.cluster import connected
from jobs.plan import Selection
from schemas.errors import ConfigError, ModelError, RunError
from tests import plain_jobs as job


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with connected():
        yield


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address):
        pytest.fail("Ray was asked for")

    monkeypatch.setattr(enrich, "connected", refuse)


def run(config, **given):
    return enrich.run(config, catalog=job.CATALOG, **given)


def scaled_of(folder: Path) -> list[float | None]:
    return [row["scaled"] for row in job.table_rows(folder)]


@pytest.mark.usefixtures("_ray")
def test_only_what_is_new_or_changed_is_computed(tmp_path):
    first = run(job.config(tmp_path, 60))
    assert first.to_json()["rows"] == {
        "manifest": 60,
        "new": 60,
        "changed": 0,
        "errors": 0,
        "absent": 0,
    }
    assert first.computed == {"brightness": 60, "scaled": 60}
    assert scaled_of(tmp_path) == [2.0 * n for n in range(60)]
    before = job.table_rows(tmp_path)

    job.write_pictures(tmp_path / "photos", range(60, 160))
    job.write_manifest(tmp_path / "photos", range(60, 160), name="more")
    grown = run(job.config(tmp_path))
    assert (grown.rows["new"], grown.rows["changed"]) == (100, 0)
    assert grown.computed == {"brightness": 100, "scaled": 100}
    assert job.table_rows(tmp_path)[:60] == before

    other = run(job.config(tmp_path, scaled={"of": "number", "factor": 3.0}))
    assert other.computed == {"brightness": 0, "scaled": 160}
    assert scaled_of(tmp_path) == [3.0 * n for n in range(160)]
    kept = ["brightness", "brightness_key", "image_sha256", "image_etag", "number"]
    after = job.table_rows(tmp_path)[:60]
    assert [[row[name] for name in kept] for row in after] == [
        [row[name] for name in kept] for row in before
    ]


@pytest.mark.usefixtures("_ray")
def test_nothing_to_do_is_done_at_once_and_without_ray(tmp_path, monkeypatch, request):
    run(job.config(tmp_path, 20))
    request.getfixturevalue("no_ray")
    begun = time.monotonic()

    again = run(job.config(tmp_path))

    assert time.monotonic() - begun < 5
    assert again.computed == {"brightness": 0, "scaled": 0}
    assert again.version == 0
    assert again.limiting_stage is None


@pytest.mark.usefixtures("_ray")
def test_an_operator_that_is_added_reads_what_the_table_has(tmp_path):
    run(job.config(tmp_path, 20))
    operators = {
        "brightness": {"use": "brightness"},
        "scaled": {"use": "scaled", "of": "number"},
        "half": {"use": "scaled", "of": "brightness", "factor": 0.5},
    }

    added = run(job.config(tmp_path, operators=operators))

    assert added.computed == {"brightness": 0, "scaled": 0, "half": 20}
    assert [row["half"] for row in job.table_rows(tmp_path)] == [n / 2 for n in range(20)]


@pytest.mark.usefixtures("_ray")
def test_too_many_errors_commit_nothing_and_a_higher_limit_goes_on(tmp_path, request):
    config = job.config(tmp_path, 30)
    for number in (4, 7, 11):
        (tmp_path / "photos" / f"{number}.png").unlink()

    with pytest.raises(RunError, match=r"3 of 30 .*error_fraction=0\.05 .*missing 3") as stopped:
        run(config)
    assert stopped.value.exit_code == 1
    assert job.table_rows(tmp_path) == []

    request.getfixturevalue("no_ray")  # what was computed is there
    with pytest.raises(RunError, match="3 of 30"):
        run(config)
    raised = run(job.config(tmp_path, limits={"error_fraction": 0.1}))
    assert raised.rows["errors"] == 3
    assert raised.computed == {"brightness": 27, "scaled": 27}
    assert raised.errors == {"missing": 3}
    assert len(job.table_rows(tmp_path)) == 30


@pytest.mark.usefixtures("_ray")
def test_a_run_with_too_many_errors_stops_before_its_end(tmp_path):
    config = job.config(tmp_path, 1000)
    for picture in (tmp_path / "photos").glob("*.png"):
        picture.write_bytes(b"")

    with pytest.raises(RunError, match=r"of [2-9]\d\d rows tried .*empty"):
        run(config)


@pytest.mark.usefixtures("_ray")
def test_retry_computes_rows_with_an_error_and_no_others(tmp_path):
    config = job.config(tmp_path, 30, limits={"error_fraction": 0.5})
    (tmp_path / "photos" / "4.png").rename(tmp_path / "away.png")
    assert run(config).rows["errors"] == 1
    (tmp_path / "away.png").rename(tmp_path / "photos" / "4.png")

    assert run(config).computed == {"brightness": 0, "scaled": 0}
    mended = run(config, selection=Selection(retry="errors"))

    assert mended.computed == {"brightness": 1, "scaled": 1}
    assert mended.rows["errors"] == 0
    assert scaled_of(tmp_path) == [2.0 * n for n in range(30)]


@pytest.mark.usefixtures("_ray")
def test_a_damaged_model_ends_the_run_with_its_own_message(tmp_path):
    config = job.config(tmp_path, 20, scaled={"of": "number", "unreadable": True})

    with pytest.raises(ModelError, match=r"model.safetensors is cut short"):
        run(config)


@pytest.mark.usefixtures("_ray")
def test_finished_shards_are_committed_while_the_run_goes_on(tmp_path):
    summary = run(job.config(tmp_path, 1000, commit={"every": "0.001s"}))

    assert summary.version >= 2  # portions of four shards, then the plan as a whole
    assert summary.rows["new"] == 1000
    assert scaled_of(tmp_path) == [2.0 * n for n in range(1000)]
    notes = [one.note for one in history.run(str(tmp_path / "table"))]
    assert [note.is_portion for note in notes] == [False, *[True] * (len(notes) - 1)]
    assert sum(note.rows.get("written", 0) for note in notes) == 1000
    assert len({note.run for note in notes}) == 1


@pytest.mark.chaos
@pytest.mark.usefixtures("_ray")
def test_a_row_that_kills_its_actors_becomes_an_error_row_and_the_job_goes_on(tmp_path):
    config = job.config(tmp_path, 40, scaled={"of": "number", "poison": 13})

    summary = run(config)

    assert summary.errors == {"crashed": 1}
    assert summary.computed == {"brightness": 40, "scaled": 39}
    assert scaled_of(tmp_path) == [None if n == 13 else 2.0 * n for n in range(40)]
    assert job.table_rows(tmp_path)[13]["error"]["stage"] == "scaled"


BAD_FILES = {
    "empty": lambda picture: b"",
    "truncated": lambda picture: picture[: len(picture) // 2],
    "not_an_image": lambda picture: b"<!doctype html><title>404</title>",
    "too_large": lambda picture: picture + b"\0" * 400_000,
    "missing": lambda picture: None,
}


@pytest.mark.usefixtures("_ray")
def test_each_kind_of_bad_row_has_its_code_and_its_neighbours_are_right(tmp_path):
    pictures = tmp_path / "photos"
    operators = {
        "brightness": {"use": "brightness"},
        "scaled": {"use": "scaled", "of": "number", "broken": 19},
    }
    limits = {"error_fraction": 0.5, "image_pixels": 400 * 400, "image_bytes": 300_000}
    config = job.config(tmp_path, 20, operators=operators, limits=limits)
    picture = job.noise(64)
    for number, (_, damage) in enumerate(BAD_FILES.items()):
        data = damage(picture)
        path = pictures / f"{number}.png"
        path.unlink() if data is None else path.write_bytes(data)
    job.write_large_picture(pictures / "5.png", 500)
    job.write_manifest(pictures, range(20), uris={6: "http://192.0.2.1/6.png", 7: None})
    codes = [*BAD_FILES, "bomb", "policy", "policy", *[None] * 11, "model"]

    summary = run(config)

    rows = job.table_rows(tmp_path)
    assert [row["error"] and row["error"]["code"] for row in rows] == codes
    assert [row["brightness"] for row in rows[8:]] == list(range(8, 20))
    assert [row["scaled"] for row in rows[8:19]] == [2.0 * n for n in range(8, 19)]
    assert summary.rows["errors"] == 9
    strict = {**limits, "error_fraction": 0.1}
    with pytest.raises(RunError, match="9 of 20"):
        run(job.config(tmp_path, operators=operators, limits=strict, table=f"{tmp_path}/other"))


@pytest.mark.usefixtures("no_ray")
def test_more_than_the_machine_has_is_refused_before_ray_starts(tmp_path):
    config = job.config(tmp_path, 20, resources={"brightness": {"gpus": 64}})

    with pytest.raises(ConfigError, match="brightness asks for 64 GPUs"):
        run(config)
    assert not (tmp_path / "table").exists()


@pytest.mark.usefixtures("_ray")
def test_rows_that_are_only_removed_need_no_ray(tmp_path, request):
    run(job.config(tmp_path, 20))
    request.getfixturevalue("no_ray")
    job.write_manifest(tmp_path / "photos", range(5, 20))

    kept = run(job.config(tmp_path))
    pruned = run(job.config(tmp_path), selection=Selection(prune=True))

    assert kept.rows["absent"] == 5
    assert pruned.rows["absent"] == 0
    assert scaled_of(tmp_path) == [2.0 * n for n in range(5, 20)]

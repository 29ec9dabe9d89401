"""A run that goes on after a store was down."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from jobs import enrich, storage
from jobs.plan import Selection, plan, policy_of
from jobs.stages import Work, close_shard, open_shard, run_stage
from operators.catalog import build_operators
from operators.fetcher import Fetcher
from schemas.errors import RunError
from tests import plain_jobs as job


def run_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the stages of each shard here, without Ray and without pauses."""

    def parts(run, shards):
        for shard in shards:
            state = open_shard(run.work, shard)
            for name in run.work.stages:
                state = run_stage(run.work, name, state)
            yield close_shard(run.work, state)

    monkeypatch.setattr(enrich._Run, "parts", parts)
    monkeypatch.setattr(
        Fetcher.__init__,
        "__kwdefaults__",
        {**Fetcher.__init__.__kwdefaults__, "patience_seconds": 0.0},
    )


def spoil(folder: Path, numbers: Iterable[int]) -> None:
    """Has opening pictures fail as a store does that is away."""
    for number in numbers:
        picture = folder / "photos" / f"{number}.png"
        picture.unlink()
        picture.symlink_to(picture)


def attempts(folder: Path) -> list[int]:
    return [row["error"]["attempts"] for row in job.table_rows(folder) if row["error"]]


def test_errors_that_stay_are_tried_until_settled_and_end_no_run(tmp_path, monkeypatch):
    run_in_this_process(monkeypatch)
    config = job.config(tmp_path, 60)
    spoil(tmp_path, range(3))

    seen = []
    for _ in range(4):
        enrich.run(config, catalog=job.CATALOG)
        seen.append(attempts(tmp_path))

    assert seen == [[1] * 3, [2] * 3, [3] * 3, [3] * 3]
    enrich.run(config, selection=Selection(retry="errors"), catalog=job.CATALOG)
    assert attempts(tmp_path) == [4] * 3


def test_known_errors_do_not_make_room_for_new_ones(tmp_path, monkeypatch):
    run_in_this_process(monkeypatch)
    config = job.config(tmp_path, 60)
    spoil(tmp_path, range(3))
    enrich.run(config, catalog=job.CATALOG)
    job.write_pictures(tmp_path / "photos", range(60, 70))
    job.write_manifest(tmp_path / "photos", range(60, 70), name="more")
    (tmp_path / "photos" / "60.png").unlink()

    with pytest.raises(RunError, match=r"1 of 10 rows tried .*: missing 1;"):
        enrich.run(config, catalog=job.CATALOG)

    assert attempts(tmp_path) == [1] * 3


def test_what_an_outage_spoiled_is_mended_by_the_next_run(tmp_path, monkeypatch):
    run_in_this_process(monkeypatch)
    config = job.config(tmp_path, 30)
    spoil(tmp_path, range(10))
    with pytest.raises(RunError, match=r"10 of 30 .*unavailable 10"):
        enrich.run(config, catalog=job.CATALOG)
    for number in range(10):
        (tmp_path / "photos" / f"{number}.png").unlink()
    job.write_pictures(tmp_path / "photos", range(10))

    summary = enrich.run(config, catalog=job.CATALOG)

    assert summary.rows["errors"] == 0
    assert summary.rows["new"] == 30
    assert [row["brightness"] for row in job.table_rows(tmp_path)] == list(range(30))
    again = enrich.run(config, catalog=job.CATALOG)
    assert again.computed == {"brightness": 0, "scaled": 0}


def test_the_same_command_goes_on_once_access_is_mended(tmp_path, monkeypatch):
    run_in_this_process(monkeypatch)
    config = job.config(tmp_path, 30)
    photos = tmp_path / "photos"
    photos.rename(tmp_path / "elsewhere")
    photos.mkdir()
    (tmp_path / "elsewhere" / "manifest.parquet").rename(photos / "manifest.parquet")
    with pytest.raises(RunError, match=r"30 of 30 .*missing 30; such as .*check the manifest"):
        enrich.run(config, catalog=job.CATALOG)
    for picture in (tmp_path / "elsewhere").iterdir():
        picture.rename(photos / picture.name)

    summary = enrich.run(config, catalog=job.CATALOG)

    assert summary.rows["errors"] == 0
    assert [row["brightness"] for row in job.table_rows(tmp_path)] == list(range(30))


def test_what_stays_away_is_judged_among_all_rows_and_ends(tmp_path, monkeypatch):
    run_in_this_process(monkeypatch)
    config = job.config(tmp_path, 30, limits={"error_fraction": 0.1})
    spoil(tmp_path, range(2))
    operators = build_operators(config, job.COLUMNS, catalog=job.CATALOG)
    actors = enrich.actors_expected(config, operators, None)
    planned = plan(config, operators, actors=actors)
    fetcher = Fetcher(operators, policy_of(config))
    work = Work(planned, tuple(operators), fetcher)
    state = open_shard(work, planned.shards[0])
    for name in work.stages:
        state = run_stage(work, name, state)
    close_shard(work, state)  # and killed

    summary = enrich.run(config, catalog=job.CATALOG)

    assert summary.rows["errors"] == 2
    assert attempts(tmp_path) == [2, 2]


def test_a_store_that_goes_away_after_the_commit_ends_no_run(tmp_path, monkeypatch, caplog):
    run_in_this_process(monkeypatch)
    keep = storage.write_bytes

    def lost(path, data):
        if "/rates/" in path:
            raise ConnectionResetError("gone")
        keep(path, data)

    monkeypatch.setattr(storage, "write_bytes", lost)

    assert enrich.run(job.config(tmp_path, 30), catalog=job.CATALOG).version == 0
    assert "event=records_not_kept" in caplog.text


def test_a_store_that_is_still_away_ends_the_run_that_goes_on(tmp_path, monkeypatch):
    run_in_this_process(monkeypatch)
    config = job.config(tmp_path, 30)
    spoil(tmp_path, range(10))

    for _ in range(2):
        with pytest.raises(RunError, match=r"10 of (30|40) .*unavailable"):
            enrich.run(config, catalog=job.CATALOG)

"""A run that goes on after a store was down."""

import pytest

from jobs import enrich
from jobs.plan import plan
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
        Fetcher.__init__, "__kwdefaults__", {**Fetcher.__init__.__kwdefaults__, "retry_seconds": ()}
    )


def test_what_an_outage_spoiled_is_mended_by_the_next_run(tmp_path, monkeypatch):
    run_in_this_process(monkeypatch)
    config = job.config(tmp_path, 30)
    away = [tmp_path / "photos" / f"{number}.png" for number in range(10)]
    for picture in away:
        picture.unlink()
        picture.symlink_to(picture)  # opening it fails as a store does that is away
    with pytest.raises(RunError, match=r"10 of 30 .*unavailable 10"):
        enrich.run(config, catalog=job.CATALOG)
    for picture in away:
        picture.unlink()
    job.write_pictures(tmp_path / "photos", range(10))

    summary = enrich.run(config, catalog=job.CATALOG)

    assert summary.rows["errors"] == 0
    assert summary.rows["new"] == 30
    assert [row["brightness"] for row in job.table_rows(tmp_path)] == list(range(30))
    again = enrich.run(config, catalog=job.CATALOG)
    assert again.computed == {"brightness": 0, "scaled": 0}


def test_what_stays_away_is_judged_among_all_rows_and_ends(tmp_path, monkeypatch):
    run_in_this_process(monkeypatch)
    config = job.config(tmp_path, 30, limits={"error_fraction": 0.1})
    for number in range(2):
        picture = tmp_path / "photos" / f"{number}.png"
        picture.unlink()
        picture.symlink_to(picture)
    operators = build_operators(config, job.COLUMNS, catalog=job.CATALOG)
    actors = enrich.actors_expected(config, operators, None)
    planned = plan(config, operators, actors=actors)
    work = Work(planned, tuple(operators), enrich._fetcher(config, operators))
    state = open_shard(work, planned.shards[0])
    for name in work.stages:
        state = run_stage(work, name, state)
    close_shard(work, state)  # and killed

    summary = enrich.run(config, catalog=job.CATALOG)

    assert summary.rows["errors"] == 2
    assert {row["error"]["attempts"] for row in job.table_rows(tmp_path) if row["error"]} == {2}

"""After `tagline restore` the next `enrich` makes the table what it would have been without."""

import json
import subprocess
import sys
from datetime import timedelta

import pytest

from jobs import compaction, history, index, restore
from jobs.commit import commit, commit_portion
from jobs.plan import Selection
from jobs.portions import finished_portion
from jobs.table import open_table
from jobs.vacuum import vacuum
from schemas.errors import ConfigError, RunError, TableError
from tests import plain_run as job
from tests.enriched_tables import EnrichedTable
from tests.index_versions import rows_of

DIGEST = {"digest": {"use": "digest", "fails_on": b"image 7"}}
UPPER = {"upper": {"use": "upper", "text": "title"}}
OPERATORS = DIGEST | UPPER
TIMES = ("enriched_at",)  # of a row computed again


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path)


class Job:
    """A job over twenty little files, one of which fails."""

    def __init__(self, folder):
        self.folder = folder
        self.table = f"{folder}/table"
        self.rows = job.write_images(f"{folder}/images", 20)
        self.enrich()

    def config(self, rows=None, operators=OPERATORS):
        manifest = job.write_manifest(f"{self.folder}/manifest", rows or self.rows)
        return job.config_of(manifest, self.table, operators)

    def enrich(self, rows=None, operators=OPERATORS, **given):
        ledger = job.Ledger()
        job.enrich(self.config(rows, operators), ledger=ledger, **given)
        return ledger.computed

    def values(self):
        return [
            {name: value for name, value in row.items() if name not in TIMES}
            for row in job.rows_of(self.table)
        ]


def more_images(it):
    return {"rows": [*it.rows, *job.write_images(f"{it.folder}/images", 15, start=20)]}


def other_texts(it):
    return {"rows": [{**row, "title": "other"} for row in it.rows[:5]] + it.rows[5:]}


def another_version(it):
    return {"operators": DIGEST | {"upper": {**UPPER["upper"], "version": 2}}}


def one_more_operator(it):
    return {"operators": OPERATORS | {"again": {"use": "upper", "text": "upper"}}}


def pruned(it):
    return {"rows": it.rows[:9], "selection": Selection(prune=True)}


def errors_again(it):
    return {"selection": Selection(retry="errors")}


CHANGES = [more_images, other_texts, another_version, one_more_operator, pruned, errors_again]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_run_that_was_undone_is_done_again_and_nothing_else(folder, change):
    it = Job(folder)
    before = job.rows_of(it.table)
    given = change(it)
    computed = it.enrich(**given)
    meant = it.values()

    done = restore.run(it.table, "0")
    assert (done.restored, done.version, done.rows) == (0, 2, 20)
    assert job.rows_of(it.table) == before

    assert it.enrich(**given) == computed
    assert it.values() == meant
    assert it.enrich(**{**given, "selection": job.ALL}) == {}


def test_undone_for_good_the_table_needs_nothing(folder):
    it = Job(folder)
    it.enrich(**another_version(it))

    restore.run(it.table, "0")

    assert it.enrich() == {}
    assert it.values()[7]["error"]["code"] == "model"


@pytest.mark.parametrize("again", [OPERATORS, another_version(None)["operators"]])
def test_what_was_tried_is_as_it_was_then(tmp_path, again):
    it = Job(tmp_path)
    it.rows[3]["title"] = "bad"
    it.enrich()
    it.enrich(**another_version(it))
    restore.run(it.table, "1")
    compaction.run(it.table)

    due = job.make_plan(it.config(operators=again), write=False).counts.due

    assert due == (0 if again is OPERATORS else 19)  # all but the image that is not liked


def test_a_restored_table_can_be_put_forward_again(any_folder):
    it = Job(any_folder)
    it.enrich(**another_version(it))
    later = job.rows_of(it.table)
    put_back(it.table, "0")

    put_back(it.table, "1")

    assert job.rows_of(it.table) == later
    assert it.enrich(**another_version(it)) == {}
    told = put_back(it.table, "3")
    assert told == {"restored": 3, "version": 3, "rows": 20}  # it is at that one: nothing to do


def put_back(table, to):
    """Restores in another process, as deltalake would hold up the S3 server in this one."""
    command = [sys.executable, "-m", "jobs.restore", table, "--to", to, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_nothing_that_was_planned_before_is_committed_after(folder):
    it = Job(folder)
    it.enrich(**other_texts(it))
    config = it.config(**more_images(it))
    planned = job.make_plan(config, actors=3)
    job.run(planned, job.operators_of(config))
    first, *_ = shards = [shard.id for shard in planned.shards]
    commit_portion(planned, finished_portion(planned, {first}))

    restore.run(it.table, "1")
    before = job.rows_of(it.table)

    for attempt in (
        lambda: commit_portion(planned, finished_portion(planned, shards, {first})),
        lambda: commit(planned, committed={first}),
    ):
        with pytest.raises(RunError, match=r"was restored .* run the same command again"):
            attempt()
    assert job.rows_of(it.table) == before


def test_a_first_run_is_not_committed_onto_a_table_that_was_restored(tmp_path):
    rows = job.write_images(f"{tmp_path}/images", 20)
    config = job.config_of(job.write_manifest(f"{tmp_path}/m", rows), tmp_path / "table", UPPER)
    planned = job.make_plan(config, actors=3)
    job.run(planned, job.operators_of(config))
    ids = [shard.id for shard in planned.shards]
    for id_ in ids[:2]:
        commit_portion(planned, finished_portion(planned, {id_}))
    restore.run(str(tmp_path / "table"), "0")

    with pytest.raises(RunError, match="was restored"):
        commit(planned, committed=ids[:2])

    job.enrich(config)
    assert [row["image_id"] for row in job.rows_of(tmp_path / "table")] == [
        row["image_id"] for row in rows
    ]


def test_a_time_names_the_version_of_then(tmp_path):
    it = Job(tmp_path)
    it.enrich(**other_texts(it))
    later, first = history.run(it.table)

    moment = later.at - timedelta(milliseconds=1)
    assert restore.run(it.table, moment.isoformat()).restored == first.version

    with pytest.raises(ConfigError, match="has no version as old as 2020-01-01"):
        restore.run(it.table, "2020-01-01")
    with pytest.raises(ConfigError, match="'noon' is neither a version, such as 12, nor a time"):
        restore.run(it.table, "noon")
    with pytest.raises(ConfigError, match="has no version 9; the last is 2"):
        restore.run(it.table, "9")


def test_a_version_whose_files_are_gone_is_told_of(tmp_path):
    it = Job(tmp_path)
    it.enrich(**another_version(it))
    vacuum(it.table, older_than_days=0)

    with pytest.raises(TableError, match=r"of version 0 are gone, .* vacuum .* a later version"):
        restore.run(it.table, "0")

    assert it.enrich(**another_version(it)) == {}


def test_a_vacuum_after_a_restore_keeps_what_is_there(folder):
    it = Job(folder)
    it.enrich(**another_version(it))
    restore.run(it.table, "0")
    before = job.rows_of(it.table)

    vacuum(it.table, older_than_days=0)

    assert job.rows_of(it.table) == before
    it.enrich(**another_version(it))
    assert len(job.rows_of(it.table)) == 20


def test_an_index_follows_its_table_back(tmp_path):
    table = EnrichedTable(tmp_path / "table", ["a red apple", "two dogs", "a cat"])
    name = (str(table.folder), str(tmp_path / "index"))
    index.run(*name)
    meant = rows_of(tmp_path / "index")
    table.replace([table.changed(table.rows[1], caption="two wolves")])
    table.remove(["image-2"])
    table.append([table.row(5, "a blue car", table.rows[0]["embedding"])])
    assert set(rows_of(tmp_path / "index")) != {index.run(*name).state.rows}

    restore.run(name[0], "0")
    index.run(*name)

    assert rows_of(tmp_path / "index") == meant


def test_another_commit_that_came_between_leaves_all_as_it_is(tmp_path, monkeypatch):
    it = Job(tmp_path)
    it.enrich(**other_texts(it))
    stale = open_table(it.table)
    it.enrich(**another_version(it))
    now = job.rows_of(it.table)
    monkeypatch.setattr(restore, "existing_table", lambda path: stale)

    with pytest.raises(RunError, match="another commit came while version 1 was restored to 0"):
        restore.run(it.table, "0")

    assert job.rows_of(it.table) == now

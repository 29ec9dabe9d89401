import multiprocessing
import os
import threading

import polars as pl
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from jobs import commit as commits
from jobs import compaction, storage
from jobs.commit import commit, commit_portion
from jobs.parts import read_report
from jobs.plan import Selection
from jobs.portions import finished_portion
from jobs.shards import part_path
from jobs.table import open_table
from jobs.vacuum import vacuum
from schemas.errors import RunError, TableError
from tests import plain_run as job

UPPER = {"upper": {"use": "upper", "text": "title"}}
SECOND = UPPER | {"again": {"use": "upper", "text": "upper"}}


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path)


def rows_for(count, start=0):
    return [
        {"image_id": f"id-{n:05d}", "uri": f"/nowhere/{n}", "title": f"title {n}"}
        for n in range(start, start + count)
    ]


def config(folder, rows, operators=UPPER, name="manifest"):
    manifest = job.write_manifest(f"{folder}/{name}", rows)
    return job.config_of(manifest, f"{folder}/table", operators)


def ready(folder, rows, operators=UPPER, name="manifest", selection=job.ALL, actors=1):
    """A plan whose parts are all there."""
    made = config(folder, rows, operators, name)
    planned = job.make_plan(made, selection, actors=actors)
    job.run(planned, job.operators_of(made))
    return planned


def ids(folder):
    return [row["image_id"] for row in job.rows_of(f"{folder}/table")]


def test_a_plan_committed_twice_is_committed_once(any_folder):
    made = ready(any_folder, rows_for(10))

    assert commit(made) == commit(made) == 0
    assert len(ids(any_folder)) == 10


def test_a_plan_that_replaces_files_is_committed_once(any_folder):
    commit(ready(any_folder, rows_for(10)))
    changed = [{**row, "title": "other"} for row in rows_for(10)]
    made = ready(any_folder, changed)

    assert commit(made) == commit(made) == 1
    assert {row["upper"] for row in job.rows_of(f"{any_folder}/table")} == {"OTHER"}
    assert len(ids(any_folder)) == 10


@pytest.mark.parametrize(
    ("starts_with", "operators"),
    [(0, UPPER), (10, UPPER), (10, SECOND)],
    ids=["new table", "same columns", "new columns"],
)
def test_committers_at_once_commit_a_plan_once(any_folder, starts_with, operators):
    folder = any_folder
    if starts_with:
        commit(ready(folder, rows_for(starts_with)))
    made = ready(folder, rows_for(20), operators, actors=3)
    together = threading.Barrier(4)
    errors = []

    def go():
        together.wait()
        try:
            commit(made)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not errors
    assert ids(folder) == [row["image_id"] for row in rows_for(20)]


def test_processes_at_once_commit_a_plan_once(tmp_path):
    made = ready(tmp_path, rows_for(20), actors=3)

    with multiprocessing.get_context("spawn").Pool(2) as pool:
        versions = pool.map(commit, [made] * 2)

    assert versions == [0, 0]
    assert len(ids(tmp_path)) == 20


def test_two_plans_of_other_rows_both_pass(folder):
    one = ready(folder, rows_for(10), name="one")
    two = ready(folder, rows_for(10, start=10), name="two")

    assert (commit(one), commit(two)) == (0, 1)
    assert ids(folder) == [row["image_id"] for row in rows_for(20)]


def test_of_two_plans_with_a_row_in_common_the_second_writes_nothing(any_folder):
    one = ready(any_folder, rows_for(10), name="one")
    two = ready(any_folder, rows_for(10, start=9), name="two")
    commit(one)

    with pytest.raises(RunError, match="added image_id 'id-00009' too; nothing was written"):
        commit(two)
    assert ids(any_folder) == [row["image_id"] for row in rows_for(10)]

    commit(ready(any_folder, rows_for(10, start=9), name="two"))
    assert ids(any_folder) == [row["image_id"] for row in rows_for(19)]


def test_of_two_plans_that_replace_a_file_the_second_writes_nothing(folder):
    commit(ready(folder, rows_for(10)))
    changed = [{**row, "title": "other"} for row in rows_for(10)]
    one = ready(folder, changed, name="one")
    two = ready(folder, rows_for(10), SECOND, name="two")
    commit(one)

    with pytest.raises(RunError, match="replaced 5 data files of this plan"):
        commit(two)

    assert {row["upper"] for row in job.rows_of(f"{folder}/table")} == {"OTHER"}


def test_a_plan_that_replaces_files_passes_beside_new_rows(folder):
    commit(ready(folder, rows_for(10)))
    changed = ready(folder, [{**row, "title": "other"} for row in rows_for(10)], SECOND)
    more = ready(folder, rows_for(5, start=10), name="more")

    assert (commit(more), commit(changed)) == (1, 2)
    assert ids(folder) == [row["image_id"] for row in rows_for(15)]


def test_a_part_that_is_absent_is_named(folder):
    made = ready(folder, rows_for(20), actors=2)
    storage.delete(part_path(made, made.shards[3]))

    with pytest.raises(RunError, match=rf"1 of 10 parts of plan {made.id} are absent.* 000003"):
        commit(made)
    assert open_table(f"{folder}/table") is None


def test_a_part_with_another_number_of_rows_is_named(folder):
    made = ready(folder, rows_for(20), actors=2)
    other = storage.read_bytes(part_path(made, made.shards[0]))
    short = storage.join(folder, "short.parquet")
    storage.write_bytes(short, other)
    table = pq.read_table(
        storage.inner_path(short), filesystem=storage.arrow_filesystem(short)
    ).slice(1)
    with storage.arrow_filesystem(short).open_output_stream(
        storage.inner_path(part_path(made, made.shards[0]))
    ) as stream:
        pq.write_table(table, stream)

    with pytest.raises(RunError, match=r"000000.parquet: has 1 rows, its shard 2"):
        commit(made)


def test_a_part_that_was_cut_short_is_named_and_then_computed_anew(tmp_path):
    made = ready(tmp_path, rows_for(20), actors=3)
    path = part_path(made, made.shards[1])
    os.truncate(path, 100)

    with pytest.raises(RunError, match=rf"{path}: the part was damaged after it was put"):
        commit(made)

    assert read_report(made, made.shards[1]) is None
    assert made.pending() == [made.shards[1]]


def test_a_commit_whose_answer_was_lost_is_not_repeated(folder, monkeypatch):
    made = ready(folder, rows_for(10))
    attempt = commits._attempt

    def answer_lost(change, table):
        attempt(change, table)
        raise commits.CommitFailedError("the answer was lost")

    monkeypatch.setattr(commits, "_attempt", answer_lost)

    assert commit(made) == 0
    assert len(ids(folder)) == 10


def test_a_table_that_does_not_take_a_commit_fails_the_run_that_can_go_on(folder, monkeypatch):
    made = ready(folder, rows_for(10))

    def refused(change, table):
        raise DeltaError("Generic error: no space left")

    with monkeypatch.context() as patched:
        patched.setattr(commits, "_attempt", refused)
        with pytest.raises(RunError) as stopped:
            commit(made)

    assert stopped.value.exit_code == 1
    assert "DeltaError: Generic error: no space left; the parts are kept" in str(stopped.value)
    assert commit(made) == 0


def test_a_table_that_cannot_be_read_at_the_commit_fails_the_run(tmp_path):
    commit(ready(tmp_path, rows_for(10)))
    made = ready(tmp_path, rows_for(20))
    (tmp_path / "table" / "_delta_log" / f"{1:020}.json").write_text("garbage")

    with pytest.raises(RunError, match=r"table: could not be committed: .*cannot be read: .*Json"):
        commit(made)


def test_a_compaction_that_fails_leaves_the_commit_as_it_is(tmp_path, monkeypatch, caplog):
    first = ready(tmp_path, rows_for(4))
    commit(first)
    second = ready(tmp_path, rows_for(8))
    monkeypatch.setattr(compaction, "MANY_SMALL_FILES", 1)
    storage.delete(part_path(first, first.shards[0]))  # which the compaction would read

    assert commit(second) == 1
    assert "event=not_compacted" in caplog.text


def test_a_reader_of_the_version_before_still_finds_its_rows(tmp_path):
    commit(ready(tmp_path, rows_for(10)))
    reader = DeltaTable(str(tmp_path / "table"))
    commit(ready(tmp_path, [{**row, "title": "other"} for row in rows_for(12)]))

    assert reader.to_pyarrow_table().num_rows == 10
    assert len(ids(tmp_path)) == 12


def test_other_readers_see_new_columns(tmp_path):
    commit(ready(tmp_path, rows_for(10)))
    commit(ready(tmp_path, rows_for(12), SECOND))

    found = pl.read_delta(str(tmp_path / "table")).sort("image_id")

    assert found["again"].to_list() == [row["title"].upper() for row in rows_for(12)]


def test_finished_shards_are_committed_before_the_rest(folder):
    commit(ready(folder, rows_for(10), actors=2))
    made = config(folder, [{**row, "title": "other"} for row in rows_for(16)])
    plan, operators = job.make_plan(made, actors=2), job.operators_of(made)
    half = plan.shards[: len(plan.shards) // 2]
    for shard in half:
        job.write_part(plan, shard, operators)
    portion = finished_portion(plan, {shard.id for shard in half})

    commit_portion(plan, portion)
    commit_portion(plan, portion)
    seen = job.rows_of(f"{folder}/table")
    assert {row["upper"] for row in seen} > {"OTHER"}
    assert len(seen) == len({row["image_id"] for row in seen}) >= 10

    job.run(plan, operators)
    commit(plan, committed={shard.id for shard in portion})
    assert ids(folder) == [row["image_id"] for row in rows_for(16)]
    assert {row["upper"] for row in job.rows_of(f"{folder}/table")} == {"OTHER"}


@pytest.mark.parametrize("finished_by_other", [slice(0, 1), slice(0, 3)], ids=["less", "more"])
def test_two_drivers_that_commit_other_portions_lose_and_double_nothing(folder, finished_by_other):
    commit(ready(folder, rows_for(16), actors=2))
    made = config(folder, [{**row, "title": "other"} for row in rows_for(32)])
    plan = job.make_plan(made, actors=2)
    job.run(plan, job.operators_of(made))
    finished = [shard.id for shard in plan.shards]

    theirs = finished_portion(plan, finished[finished_by_other])
    ours = finished_portion(plan, finished[:2])
    commit_portion(plan, theirs)
    commit_portion(plan, ours)
    commit(plan, committed={shard.id for shard in ours})
    commit_portion(plan, finished_portion(plan, finished))

    assert ids(folder) == [row["image_id"] for row in rows_for(32)]
    assert {row["upper"] for row in job.rows_of(f"{folder}/table")} == {"OTHER"}


def test_a_data_file_is_replaced_only_whole(tmp_path):
    commit(ready(tmp_path, rows_for(12), actors=1))
    made = config(tmp_path, [{**row, "title": "other"} for row in rows_for(12)])
    plan = job.make_plan(made, actors=3)
    shared = [s.id for s in plan.shards if s.sources == plan.shards[0].sources]

    assert len(shared) > 1
    assert finished_portion(plan, {shared[0]}) == []
    assert [s.id for s in finished_portion(plan, set(shared))] == shared


def test_many_small_files_become_few(folder, monkeypatch):
    monkeypatch.setattr(compaction, "MANY_SMALL_FILES", 4)
    rows = rows_for(12)
    rows[3]["title"] = "bad"

    commit(ready(folder, rows, actors=3))

    assert len(open_table(f"{folder}/table").files) == 1
    assert ids(folder) == [row["image_id"] for row in rows]
    assert job.make_plan(config(folder, rows)).is_empty
    changed = config(folder, rows, {"upper": {**UPPER["upper"], "version": 2}})
    assert job.make_plan(changed).counts.changed == 12


def test_errors_are_computed_again_by_another_operator_after_another_writers_compaction(tmp_path):
    rows = rows_for(12)
    rows[3]["title"] = "bad"
    commit(ready(tmp_path, rows, actors=3))

    open_table(str(tmp_path / "table")).delta.optimize.compact()

    assert job.make_plan(config(tmp_path, rows)).is_empty
    changed = config(tmp_path, rows, {"upper": {**UPPER["upper"], "version": 2}})
    assert job.make_plan(changed).counts.changed == 12


def test_rows_are_copied_from_files_that_deltalakes_own_delete_wrote(tmp_path):
    first, second, *others = rows_for(12)
    commit(ready(tmp_path, [first, second, *others]))
    open_table(str(tmp_path / "table")).delta.delete(f"image_id = '{first['image_id']}'")

    made = ready(tmp_path, [first, {**second, "title": "other"}, *others])
    commit(made)

    assert (made.counts.new, made.counts.recomputed) == (1, 1)
    assert [row["upper"] for row in job.rows_of(tmp_path / "table")] == [
        row["title"].upper() for row in [first, {"title": "other"}, *others]
    ]


def test_vacuum_deletes_what_is_old_and_keeps_a_running_plan(folder):
    first = ready(folder, rows_for(10))
    commit(first)
    commit(ready(folder, [{**row, "title": "other"} for row in rows_for(10)]))
    running = ready(folder, rows_for(20), SECOND)

    assert vacuum(f"{folder}/table") == []
    deleted = vacuum(f"{folder}/table", older_than_days=0)

    assert f"data/{first.id}/000000.parquet" in deleted
    assert ids(folder) == [row["image_id"] for row in rows_for(10)]
    assert running.directory in deleted


def test_a_vacuum_of_nothing_says_so(tmp_path):
    with pytest.raises(TableError, match="nowhere: there is no table, nor a plan for one"):
        vacuum(str(tmp_path / "nowhere"))


def test_pruning_leaves_no_row_behind(folder):
    commit(ready(folder, rows_for(10), actors=2))

    made = ready(folder, rows_for(4), selection=Selection(prune=True))
    commit(made)

    assert ids(folder) == [row["image_id"] for row in rows_for(4)]


def test_a_killed_first_run_leaves_a_table_that_can_begin(folder):
    made = config(folder, rows_for(10))
    first = job.make_plan(made)
    job.run(first, job.operators_of(made))

    assert open_table(f"{folder}/table") is None
    assert job.make_plan(made).pending() == []
    assert commit(first) == 0

"""`tagline duplicates`: which pictures are marked, and that nothing else of a table changes."""

import json

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, Field, write_deltalake
from deltalake.schema import PrimitiveType

from jobs import duplicates, index, rewriting
from jobs.commit import commit, commit_portion
from jobs.plan import open_manifest, plan, policy_of
from jobs.table import open_table
from operators.catalog import build_operators
from operators.fetcher import Fetcher
from schemas.errors import ConfigError, DatasetError, RunError, TableError
from tests import plain_jobs, plain_run
from tests.command import Command
from tests.enriched_tables import EnrichedTable, unit_vectors

NEAR = np.array([[1, 0, 0], [0, 1, 0], [0.99, 0.141, 0], [0, 0, 1], [0.95, 0.312, 0]], np.float32)
NEAR /= np.linalg.norm(NEAR, axis=1, keepdims=True)  # 0 ~ 2 ~ 4, but 0 and 4 only at 0.950


def enrich(folder, **given):
    """Plans, runs and commits a job over real pictures; returns the plan."""
    config = plain_jobs.config(folder, **given)
    columns = open_manifest(config).schema.names
    operators = build_operators(config, columns, catalog=plain_jobs.CATALOG)
    made = plan(config, operators)
    if not made.is_empty:
        plain_run.run(made, operators, fetcher=Fetcher(operators, policy_of(config)))
        commit(made)
    return made


def planned(folder, **given):
    """What a job would do."""
    config = plain_jobs.config(folder, **given)
    columns = open_manifest(config).schema.names
    operators = build_operators(config, columns, catalog=plain_jobs.CATALOG)
    return plan(config, operators, write=False)


@pytest.fixture
def photos(tmp_path):
    """A job over ten pictures: 3 and 7 are those of 1, 8 is that of 2, 9 is not there."""
    plain_jobs.write_pictures(tmp_path / "photos", range(9))
    uris = {3: "1.png", 7: "1.png", 8: "2.png", 9: "lost.png"}
    plain_jobs.write_manifest(tmp_path / "photos", range(10), uris=uris)
    enrich(tmp_path)
    return tmp_path


def marks(folder):
    table = open_table(str(folder)).read(["image_id", "duplicate_of"]).to_pylist()
    return {row["image_id"]: row["duplicate_of"] for row in table if row["duplicate_of"]}


def version(folder):
    return DeltaTable(str(folder)).version()


def embedded(folder, vectors):
    return EnrichedTable(folder, [f"picture {n}" for n in range(len(vectors))], vectors)


def with_shas(folder, shas):
    """Writes a table anew with the sha256 of some images."""
    rows = DeltaTable(str(folder)).to_pyarrow_table()
    column = pa.array([shas.get(one) for one in rows["image_id"].to_pylist()], pa.string())
    rows = rows.append_column("image_sha256", column)
    write_deltalake(str(folder), rows, mode="overwrite", schema_mode="overwrite")


IDENTICAL = {"id-00003": "id-00001", "id-00007": "id-00001", "id-00008": "id-00002"}


def test_pictures_of_the_same_bytes_name_the_smallest_id(photos):
    found = duplicates.run(str(photos / "table"))
    assert (found.identical, found.near, found.rows, found.version) == (2, None, 3, 1)
    assert marks(photos / "table") == IDENTICAL


def test_a_table_on_s3_is_marked_alike(tmp_path, s3_bucket):
    table = f"{s3_bucket}/table"
    plain_jobs.write_pictures(tmp_path / "photos", range(3))
    plain_jobs.write_manifest(tmp_path / "photos", range(3), uris={2: "0.png"})
    enrich(tmp_path, table=table)
    assert [duplicates.run(table).version for _ in range(2)] == [1, 1]
    assert marks(table) == {"id-00002": "id-00000"}


def test_nothing_else_of_a_row_changes(photos):
    before = plain_jobs.table_rows(photos)
    duplicates.run(str(photos / "table"))
    after = plain_jobs.table_rows(photos)
    assert [{k: v for k, v in row.items() if k != "duplicate_of"} for row in after] == before


def test_twice_is_once(photos):
    duplicates.run(str(photos / "table"))
    again = duplicates.run(str(photos / "table"))
    assert (again.rows, again.changed, again.version) == (3, 0, 1)
    assert version(photos / "table") == 1


def test_enrich_has_nothing_to_do_afterwards(photos):
    duplicates.run(str(photos / "table"))
    assert enrich(photos).is_empty  # the row of `lost.png` is settled, as it was before


def test_what_was_tried_on_a_failed_row_is_still_known(photos):
    for factor in (2.0, 3.0):
        enrich(photos, scaled={"of": "number", "broken": 3.0, "factor": factor})
    before = planned(photos, scaled={"of": "number", "factor": 2.0}).counts
    duplicates.run(str(photos / "table"))
    after = planned(photos, scaled={"of": "number", "factor": 2.0}).counts
    assert (after, after.recomputed) == (before, 9)  # it was last tried with 3


def test_a_run_whose_rows_were_marked_meanwhile_plans_anew(tmp_path):
    config = plain_jobs.config(tmp_path, count=64)
    uris = dict.fromkeys(range(64), "0.png")
    plain_jobs.write_manifest(tmp_path / "photos", range(64), uris=uris)
    operators = build_operators(config, ["image_id", "uri", "number"], catalog=plain_jobs.CATALOG)
    made = plan(config, operators, actors=4)
    plain_run.run(made, operators, fetcher=Fetcher(operators, policy_of(config)))
    commit_portion(made, made.shards[:1])
    duplicates.run(str(tmp_path / "table"))
    with pytest.raises(RunError, match=r"another writer added image_id .* run the same command"):
        commit(made)
    enrich(tmp_path)
    assert len(plain_jobs.table_rows(tmp_path)) == 64
    assert duplicates.run(str(tmp_path / "table")).rows == 63


def test_a_table_without_duplicates_gets_the_column_once(tmp_path):
    enrich(tmp_path, count=3)
    assert duplicates.run(str(tmp_path / "table")).version == 1
    assert duplicates.run(str(tmp_path / "table")).version == 1
    assert [row["duplicate_of"] for row in plain_jobs.table_rows(tmp_path)] == [None] * 3
    assert enrich(tmp_path).is_empty


def test_enrich_carries_the_marks_along_and_a_new_run_brings_them_up_to_date(photos):
    duplicates.run(str(photos / "table"))
    plain_jobs.write_pictures(photos / "photos", range(10, 12))
    plain_jobs.write_manifest(photos / "photos", [10, 11], name="more", uris={11: "2.png"})
    enrich(photos, scaled={"of": "number", "factor": 3.0})
    assert marks(photos / "table") == IDENTICAL
    found = duplicates.run(str(photos / "table"))
    assert (found.changed, marks(photos / "table")) == (1, {**IDENTICAL, "id-00011": "id-00002"})


def test_only_files_with_a_changed_mark_are_written(tmp_path):
    table = embedded(tmp_path / "table", NEAR[:2])
    table.append([table.row(2, "picture 2", NEAR[2])])
    before = {file.path for file in open_table(str(table.folder)).files}
    duplicates.run(str(table.folder))
    after = {file.path for file in open_table(str(table.folder)).files}
    assert (len(before - after), len(before & after)) == (1, 1)


def test_near_pictures_are_one_group_through_others(tmp_path):
    table = embedded(tmp_path / "table", NEAR)
    found = duplicates.run(str(table.folder), similarity=0.98)
    assert (found.identical, found.near, found.rows) == (0, 1, 2)
    assert marks(table.folder) == {"image-2": "image-0", "image-4": "image-0"}


def test_marks_that_no_longer_hold_are_taken_back(tmp_path):
    table = embedded(tmp_path / "table", NEAR)
    duplicates.run(str(table.folder), similarity=0.98)
    duplicates.run(str(table.folder), similarity=0.999)
    assert marks(table.folder) == {}


def test_an_index_finds_what_all_pairs_find(tmp_path):
    vectors = unit_vectors(40, dimension=4)
    table = embedded(tmp_path / "table", vectors)
    index.run(str(table.folder), str(tmp_path / "index"))
    exact = duplicates.run(str(table.folder), similarity=0.9, is_dry=True)
    asked = duplicates.run(
        str(table.folder), similarity=0.9, index=str(tmp_path / "index"), is_dry=True
    )
    assert 0 < exact.rows < 39
    assert asked == exact


def test_many_copies_of_a_picture_do_not_hide_what_is_near_it(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "NEIGHBOURS", 2)
    table = embedded(tmp_path / "table", NEAR[:4])
    table.append([table.row(n, "a copy", NEAR[n % 2 * 2]) for n in range(10, 50)])
    numbers = [0, 2, *range(10, 50)]
    with_shas(
        table.folder, {f"image-{n}": "second" if n == 2 or n % 2 else "first" for n in numbers}
    )
    index.run(str(table.folder), str(tmp_path / "index"))
    found = duplicates.run(str(table.folder), similarity=0.98, index=str(tmp_path / "index"))
    assert (found.identical, found.near, found.rows) == (2, 1, 41)
    assert set(marks(table.folder).values()) == {"image-0"}


def test_an_index_of_an_older_table_is_refused(tmp_path):
    table = embedded(tmp_path / "table", NEAR[:2])
    index.run(str(table.folder), str(tmp_path / "index"))
    table.append([table.row(2, "picture 2", NEAR[2])])
    with pytest.raises(ConfigError, match=r"version 0, not .* at version 1; run `tagline index"):
        duplicates.run(str(table.folder), index=str(tmp_path / "index"))


def test_too_many_pictures_need_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "EXACT_ROWS", 4)
    table = embedded(tmp_path / "table", NEAR)
    with pytest.raises(ConfigError, match=r"5 pictures are too many .* give it with --index"):
        duplicates.run(str(table.folder))


def test_a_run_that_ends_before_its_commit_leaves_the_old_version(photos, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rewriting, "_commit", killed)
        with pytest.raises(KeyboardInterrupt):
            duplicates.run(str(photos / "table"))
    assert version(photos / "table") == 0
    assert "duplicate_of" not in plain_jobs.table_rows(photos)[0]
    duplicates.run(str(photos / "table"))
    assert marks(photos / "table") == IDENTICAL


@pytest.mark.parametrize("has_column", [False, True])
def test_of_two_runs_at_once_one_wins(photos, monkeypatch, has_column):
    table = str(photos / "table")
    if has_column:
        duplicates.run(table)
        plain_jobs.write_manifest(photos / "photos", [10], name="more", uris={10: "1.png"})
        enrich(photos)
    before = version(table)
    written = rewriting._written

    def overtaken(*given):
        done = written(*given)
        monkeypatch.undo()
        duplicates.run(table)
        return done

    monkeypatch.setattr(rewriting, "_written", overtaken)
    with pytest.raises(RunError, match=r"another commit came .* run the same command again"):
        duplicates.run(table)
    assert version(table) == before + 1
    assert marks(table).items() >= IDENTICAL.items()


def test_a_column_of_that_name_with_something_else_is_kept(tmp_path):
    table = embedded(tmp_path / "table", NEAR)
    kind = Field("Duplicate_Of", PrimitiveType("integer"))
    DeltaTable(str(table.folder)).alter.add_columns([kind])
    with pytest.raises(TableError, match="has a column 'Duplicate_Of' of int32"):
        duplicates.run(str(table.folder))


def test_no_manifest_and_no_operator_may_have_the_column(tmp_path):
    with pytest.raises(ConfigError, match="duplicate_of"):
        plain_jobs.config(tmp_path, operators={"duplicate_of": {"use": "brightness"}})
    config = plain_jobs.config(tmp_path, count=1)
    with pytest.raises(ConfigError, match="'Duplicate_Of' is one that tagline writes"):
        build_operators(config, ["image_id", "uri", "Duplicate_Of"], catalog=plain_jobs.CATALOG)


def test_a_path_without_a_table_is_told(tmp_path):
    with pytest.raises(DatasetError, match="no table; write one with `tagline enrich`"):
        duplicates.run(str(tmp_path / "none"))


def test_the_command_tells_groups_and_writes_only_when_asked(photos, monkeypatch, capfd):
    tagline = Command(monkeypatch, capfd)
    told = tagline("duplicates", photos / "table", "--dry-run")
    assert "id-00001: id-00003, id-00007" in told.output
    assert "2 groups of identical pictures" in told.output
    assert version(photos / "table") == 0
    answer = tagline("duplicates", photos / "table", "--json")
    assert json.loads(answer.output) == {"identical": 2, "near": None, "rows": 3, "version": 1}

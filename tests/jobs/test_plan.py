import numpy as np
import pytest
import s3fs
from PIL import Image

from jobs import storage
from jobs.commit import commit
from jobs.plan import Selection, policy_of
from jobs.shards import read_plan, read_shard
from operators.fetcher import Fetcher
from schemas.errors import ConfigError, TableError
from tests import plain_run as job

DIGEST = {"digest": {"use": "digest"}}
UPPER = {"upper": {"use": "upper", "text": "title"}}
BOTH = DIGEST | UPPER


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    return request.getfixturevalue("s3_bucket") if request.param == "s3" else str(tmp_path)


def without(rows, *columns):
    return [{name: row[name] for name in row if name not in columns} for row in rows]


def test_every_image_of_the_manifest_is_in_the_table_once(folder):
    rows = job.write_images(f"{folder}/images", 20)
    manifest = job.write_manifest(f"{folder}/manifest", rows)

    made = job.enrich(job.config_of(manifest, f"{folder}/table", BOTH))

    table = job.rows_of(f"{folder}/table")
    assert [row["image_id"] for row in table] == [row["image_id"] for row in rows]
    assert [row["upper"] for row in table] == [row["title"].upper() for row in rows]
    assert all(row["digest"] and row["enriched_at"] and row["error"] is None for row in table)
    assert made.counts.new == made.images_to_fetch == 20


def test_nothing_changed_is_an_empty_plan_that_writes_nothing(folder):
    manifest = job.write_manifest(f"{folder}/manifest", job.write_images(f"{folder}/images", 20))
    config = job.config_of(manifest, f"{folder}/table", BOTH)
    job.enrich(config)
    before = storage.files_under(f"{folder}/table")

    made = job.make_plan(config)

    assert made.is_empty
    assert made.seconds == 0
    assert made.counts.healthy == 20
    assert storage.files_under(f"{folder}/table") == before


def test_new_rows_cost_only_themselves(enrich, rows):
    _, _, before = enrich(rows[:15])

    made, ledger, table = enrich(rows)

    assert made.counts.new == 5
    assert made.bytes_to_rewrite == 0
    assert ledger.computed == {"digest": 5, "upper": 5}
    assert ledger.fetched == 5
    assert table[:15] == before
    assert [row["image_id"] for row in table] == [row["image_id"] for row in rows]


def test_a_changed_text_costs_only_who_reads_it(enrich, rows):
    _, _, before = enrich(rows)
    rows[3]["title"] = "another"

    made, ledger, table = enrich(rows)

    assert ledger.computed == {"digest": 0, "upper": 1}
    assert ledger.fetched == made.images_to_fetch == 0
    assert made.computed["upper"].changed == made.counts.changed == 1
    assert table[3]["upper"] == "ANOTHER"
    assert table[3]["enriched_at"] > before[3]["enriched_at"]
    assert table[:3] + table[4:] == before[:3] + before[4:]


def test_a_changed_uri_costs_only_who_reads_the_image(enrich, rows):
    _, _, before = enrich(rows)
    rows[3]["uri"] = rows[4]["uri"]

    made, ledger, table = enrich(rows)

    assert ledger.computed == {"digest": 1, "upper": 0}
    assert made.images_to_fetch == 1
    assert table[3]["digest"] == before[4]["digest"]
    assert table[3]["upper"] == before[3]["upper"]


def test_a_change_reaches_who_reads_what_depends_on_it(enrich, rows):
    chain = UPPER | {"again": {"use": "upper", "text": "upper"}} | DIGEST
    enrich(rows, chain)
    rows[3]["title"] = "another"

    _, ledger, table = enrich(rows, chain)

    assert ledger.computed == {"upper": 1, "again": 1, "digest": 0}
    assert table[3]["again"] == "ANOTHER"


def test_a_changed_operator_costs_itself_and_who_reads_it(enrich, rows):
    chain = UPPER | {"again": {"use": "upper", "text": "upper"}} | DIGEST
    enrich(rows, chain)

    made, ledger, _ = enrich(rows, chain | {"upper": {**UPPER["upper"], "version": 2}})

    assert ledger.computed == {"upper": 20, "again": 20, "digest": 0}
    assert made.counts.changed == 20


def test_a_column_nobody_reads_is_carried_without_computing(enrich, rows):
    _, _, before = enrich([{**row, "note": "old"} for row in rows])

    made, ledger, table = enrich([{**row, "note": "new"} for row in rows[:1]] + rows[1:])

    assert ledger.computed == {"digest": 0, "upper": 0}
    assert made.counts.changed == 20
    assert made.counts.recomputed == 0
    assert [row["note"] for row in table] == ["new"] + [None] * 19
    assert without(table, "note") == without(before, "note")


@pytest.mark.parametrize("name", ["_source", "_row", "is_new", "stale_upper", "a.b"])
def test_a_column_may_be_called_what_planning_calls_things(enrich, rows, name):
    enrich([{**row, name: 1} for row in rows])

    _, _, table = enrich([{**row, name: 2} for row in rows])

    assert [row[name] for row in table] == [2] * 20


def test_a_new_column_and_a_new_operator_come_in_the_same_commit(enrich, rows, tmp_path):
    _, _, before = enrich(rows, DIGEST)

    made, ledger, table = enrich([{**row, "note": "new"} for row in rows])

    assert ledger.computed == {"digest": 0, "upper": 20}
    assert all(row["note"] == "new" and row["upper"] for row in table)
    assert without(table, "note", "upper", "upper_key", "enriched_at") == without(
        before, "enriched_at"
    )
    assert job.open_table(str(tmp_path / "table")).version == made.table_version + 1


def test_what_a_removed_operator_wrote_stays(enrich, rows):
    enrich(rows)

    made, _, table = enrich([*rows[:10], {**rows[10], "title": "another"}], DIGEST)

    assert made.counts.absent == 9
    assert len(table) == 20
    assert [row["upper"] for row in table] == [row["title"].upper() for row in rows]


def test_rows_the_manifest_no_longer_names_stay_until_pruned(enrich, rows):
    enrich(rows, actors=5)

    made, _, table = enrich(rows[7:])
    assert (made.is_empty, made.counts.absent, len(table)) == (True, 7, 20)

    made, ledger, table = enrich(rows[7:], selection=Selection(prune=True))
    assert (made.counts.removed, ledger.computed.get("digest", 0)) == (7, 0)
    assert [row["image_id"] for row in table] == [row["image_id"] for row in rows[7:]]
    assert enrich(rows[7:], selection=Selection(prune=True))[0].is_empty


def test_the_last_of_a_doubled_id_wins_and_is_counted(enrich, rows):
    doubled = [{**rows[2], "title": "first"}, *rows, {**rows[2], "title": "last"}]

    made, _, table = enrich(doubled)

    assert made.counts.duplicates == 2
    assert made.counts.manifest == len(table) == 20
    assert table[2]["upper"] == "LAST"


def test_integer_ids_become_text(enrich, rows):
    _, _, table = enrich([{**row, "image_id": n} for n, row in enumerate(rows)])

    assert {row["image_id"] for row in table} == {str(n) for n in range(20)}
    assert enrich([{**row, "image_id": n} for n, row in enumerate(rows)])[0].is_empty


def test_a_null_uri_is_a_row(enrich, rows):
    rows[0]["uri"] = None

    _, _, table = enrich(rows)

    assert table[0]["error"]["stage"] == "fetch"
    assert len(table) == 20


def test_a_plan_that_is_only_looked_at_writes_nothing(rows, tmp_path):
    manifest = job.write_manifest(tmp_path / "manifest", rows)
    config = job.config_of(manifest, tmp_path / "table", BOTH, resources={"cost_per_hour": 3.6})

    made = job.make_plan(config, write=False)

    assert not (tmp_path / "table").exists()
    assert (made.counts.new, made.images_to_fetch) == (20, 20)
    assert made.cost == pytest.approx(made.seconds / 1000, abs=1e-4)


def test_images_in_a_store_that_is_down_are_planned(s3_bucket, tmp_path, monkeypatch):
    rows = [{"image_id": "a", "uri": f"{s3_bucket}/a.png", "title": "t"}]
    manifest = job.write_manifest(tmp_path / "manifest", rows)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()

    made = job.make_plan(job.config_of(manifest, tmp_path / "table", DIGEST))

    assert made.images_to_fetch == 1


def test_the_same_state_is_the_same_plan_on_any_cluster(rows, tmp_path):
    manifest = job.write_manifest(tmp_path / "manifest", rows)
    config = job.config_of(manifest, tmp_path / "table", BOTH)
    first = job.make_plan(config, actors=1)
    job.write_part(first, first.shards[0], job.operators_of(config))

    second = job.make_plan(config, actors=4)

    assert second == first
    assert second.pending() == list(first.shards[1:])


def test_another_operator_is_another_plan(rows, tmp_path):
    manifest = job.write_manifest(tmp_path / "manifest", rows)

    plans = [
        job.make_plan(job.config_of(manifest, tmp_path / "table", operators))
        for operators in (BOTH, DIGEST, UPPER)
    ]
    job.write_manifest(tmp_path / "manifest", rows, name="more")

    assert len({made.id for made in plans}) == 3
    assert job.make_plan(job.config_of(manifest, tmp_path / "table", BOTH)).id != plans[0].id


def test_two_drivers_write_the_same_shards(rows, tmp_path):
    manifest = job.write_manifest(tmp_path / "manifest", rows)
    config = job.config_of(manifest, tmp_path / "table", BOTH)
    first = job.make_plan(config)
    files = storage.files_under(first.directory)
    (tmp_path / "table" / "_tagline" / "plans" / first.id / "plan.json").unlink()

    second = job.make_plan(config)

    assert second == first
    assert set(storage.files_under(first.directory)) == set(files)


def test_every_actor_gets_four_shards(rows, tmp_path):
    manifest = job.write_manifest(tmp_path / "manifest", rows)

    made = job.make_plan(job.config_of(manifest, tmp_path / "table", BOTH), actors=2)

    assert len(made.shards) >= 8
    assert sum(shard.rows for shard in made.shards) == 20


def test_shards_cover_the_files_they_replace(enrich, rows, tmp_path):
    enrich(rows, actors=2)
    rows[3]["title"] = rows[12]["title"] = "another"
    job.write_manifest(tmp_path / "manifest", rows)

    made = job.make_plan(job.config_of(tmp_path / "manifest", tmp_path / "table", BOTH))

    files = {file.path: file.rows for file in job.open_table(str(tmp_path / "table")).files}
    blocks = [read_shard(made.directory, shard) for shard in made.shards]
    assert len(made.replaced) == 2
    assert {path for shard in made.shards for path in shard.sources} == set(made.replaced)
    assert sum(block.num_rows for block in blocks) == sum(files[path] for path in made.replaced)
    due = [row for block in blocks for row in block.to_pylist() if row["is_due"]]
    assert [row["image_id"] for row in due] == ["id-00003", "id-00012"]
    assert all(row["upper_key"] is None and row["digest_key"] for row in due)


def test_a_plan_beyond_a_round_leaves_the_rest(enrich, rows, tmp_path):
    enrich(rows[:12], actors=1)
    job.write_manifest(tmp_path / "manifest", rows)
    changed = DIGEST | {"upper": {**UPPER["upper"], "version": 2}}
    config = job.config_of(tmp_path / "manifest", tmp_path / "table", changed)
    done = []
    while not (made := job.enrich(config, round_rows=5)).is_empty:
        done.append((made.counts.due, made.remaining))

    assert sum(due for due, _ in done) == 20
    assert done[-1][1] == 0
    assert [row["upper"] for row in job.rows_of(tmp_path / "table")] == [
        row["title"].upper() for row in rows
    ]


def test_a_column_of_another_type_is_refused(enrich, rows):
    enrich([{**row, "note": 1} for row in rows])

    with pytest.raises(ConfigError, match="column 'note' is int64, now it would be 'note': string"):
        enrich([{**row, "note": "1"} for row in rows])


@pytest.mark.parametrize(
    ("column", "kind"),
    [("title", "int64"), ("digest_score", "float"), ("image_encoded", "the image itself")],
)
def test_a_text_is_read_from_no_column_of_another_type(enrich, rows, column, kind):
    upper = {"upper": {"use": "upper", "text": column}}

    with pytest.raises(
        ConfigError, match=f"reads texts from the column '{column}', which is {kind}"
    ):
        enrich([{**row, "title": 1} for row in rows], DIGEST | upper)


def test_a_table_in_the_manifests_folder_is_refused(rows, tmp_path):
    manifest = job.write_manifest(tmp_path / "manifest", rows)

    with pytest.raises(ConfigError, match="lies in the manifest's folder"):
        job.make_plan(job.config_of(manifest, f"{manifest}/table", DIGEST))


@pytest.mark.parametrize("glob", ["**/*.parquet", "*/*/*/*.parquet", "ta*/*", "**/rows-*"])
def test_a_glob_that_takes_in_the_tables_own_files_is_refused(rows, tmp_path, glob):
    job.write_manifest(tmp_path / "manifest", rows)

    with pytest.raises(ConfigError, match=r"lies in the manifest's glob '.*', so its files would"):
        job.make_plan(job.config_of(f"{tmp_path}/{glob}", f"{tmp_path}/table", DIGEST))


def test_a_glob_beside_the_table_is_taken(rows, tmp_path):
    job.write_manifest(tmp_path, rows)

    made = job.make_plan(job.config_of(f"{tmp_path}/*.parquet", f"{tmp_path}/table", DIGEST))

    assert made.counts.new == 20


def test_a_path_that_holds_something_else_is_refused(rows, tmp_path):
    manifest = job.write_manifest(tmp_path / "manifest", rows)

    with pytest.raises(TableError, match=r"holds 00000.bin, .* and no Delta table"):
        job.make_plan(job.config_of(manifest, tmp_path / "images", DIGEST))


def test_an_operator_that_comes_back_does_not_take_old_values_for_good(enrich, rows):
    enrich(rows)
    rows[3]["uri"] = rows[4]["uri"]
    enrich(rows, UPPER)

    _, ledger, table = enrich(rows)

    assert ledger.computed == {"digest": 1, "upper": 0}
    assert table[3]["digest"] == table[4]["digest"]


def test_a_run_knows_the_operators_that_are_gone(enrich, rows):
    enrich(rows)

    made, _, _ = enrich([*rows[:3], {**rows[3], "title": "other"}], UPPER)

    assert made.retired == ("digest_key",)
    assert read_plan(made.table, made.id).retired == ("digest_key",)


@pytest.mark.parametrize("where", ["local", "s3"])
def test_refresh_notices_another_image_under_an_old_uri(request, tmp_path, where):
    folder = request.getfixturevalue("s3_bucket") if where == "s3" else str(tmp_path)

    def put(number, colour):
        path = tmp_path / "drawn.png"
        Image.fromarray(np.full((4, 4, 3), colour, np.uint8)).save(path)
        uri = f"{folder}/m/{number}.png"
        storage.write_bytes(uri, path.read_bytes())
        return {"image_id": str(number), "uri": uri, "title": "t"}

    manifest = job.write_manifest(f"{folder}/m", [put(n, n) for n in range(5)])
    config = job.config_of(manifest, f"{folder}/table", BOTH)
    operators = job.operators_of(config)
    fetcher = Fetcher(operators, policy_of(config))
    first = job.make_plan(config)
    job.run(first, operators, fetcher=fetcher)
    commit(first)
    put(2, 77)

    assert job.make_plan(config).is_empty
    refreshed = job.make_plan(config, Selection(refresh=True))

    assert refreshed.computed["digest"].changed == refreshed.images_to_fetch == 1
    assert refreshed.computed["upper"].changed == 0
    job.run(refreshed, operators, fetcher=fetcher)
    commit(refreshed)
    assert job.make_plan(config, Selection(refresh=True)).is_empty

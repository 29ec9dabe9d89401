"""`tagline index`: what is in an index, what an update touches, and what a kill leaves."""

import json
import sys
from datetime import date
from decimal import Decimal

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from jobs import index, index_store
from jobs.image_index import ImageIndex
from jobs.search import to_json
from schemas.enriched import VERDICTS_TYPE
from schemas.errors import ConfigError, DatasetError, RunError, TableError
from schemas.index import DIGEST, VECTOR, WORDS
from tests.command import Command
from tests.enriched_tables import EMBEDDER, ERROR, SCHEMA, EnrichedTable, unit_vectors
from tests.index_versions import rows_of, written_since

CAPTIONS = ["a red apple", "红色的苹果", "two dogs run", "it's a cat", "绿色的汽车", "a blue car"]


@pytest.fixture
def table(tmp_path):
    return EnrichedTable(tmp_path / "table", CAPTIONS)


@pytest.fixture
def run(table, tmp_path):
    """Indexes the table."""
    return lambda **options: index.run(str(table.folder), str(tmp_path / "index"), **options)


def test_all_healthy_rows_are_found_with_their_columns(run, table, tmp_path):
    done = run()
    assert (done.state.rows, done.new, done.rebuilt, done.state.recall) == (6, 6, None, 1.0)
    rows = rows_of(tmp_path / "index")
    assert rows["image-1"]["caption"] == "红色的苹果"
    assert rows["image-1"]["entailment"] == "no"
    assert rows["image-1"]["tags"] == ["fruit"]
    assert rows["image-0"]["claims"] == ["it is raining"]  # the hypotheses that hold
    assert rows["image-1"]["claims"] == []
    left = {"embedding", "embedding_key", "error", "caption_alternatives", VECTOR, WORDS, DIGEST}
    assert not left & set(rows["image-1"])


def test_whatever_a_manifest_carries_can_be_indexed(table, run, tmp_path):
    rows = pa.Table.from_pylist(table.rows, SCHEMA)
    carried = {
        "Label": pa.array(["x", None] * 3),
        'a "name"': pa.array([1] * 6),
        "taken": pa.array([date(2026, 1, 1)] * 6),
        "price": pa.array([Decimal("1.50")] * 6),
        "nested": pa.array([{"a": [1, 2]}, None] * 3),
        "words": pa.array([["one", "two"], None] * 3),
        "score": pa.array([float("nan")] * 6),
        "_distance": pa.array([1.0] * 6),
        "a.b": pa.array([1] * 6),
        "bytes": pa.array([b"x"] * 6),
        "accept": pa.array(["accepted", "review"] * 3),
        "accept_verdicts": pa.array([[]] * 6, VERDICTS_TYPE),
    }
    for name, values in carried.items():
        rows = rows.append_column(name, values)
    write_deltalake(str(table.folder), rows, mode="overwrite", schema_mode="overwrite")
    assert run().state.labels == ("entailment", "accept", "claims", "tags", "words")
    row = rows_of(tmp_path / "index")["image-0"]
    assert set(carried) - set(row) == {"_distance", "a.b", "bytes", "accept_verdicts"}
    assert (row["nested"], row["words"], row['a "name"']) == ({"a": [1, 2]}, ["one", "two"], 1)
    opened = ImageIndex(str(tmp_path / "index"))
    where = "Label = 'x' AND array_has(words, 'one') AND accept = 'accepted'"
    found = opened.nearest(unit_vectors(1)[0], limit=9, where=where)
    assert {hit.image_id for hit in found} == {"image-0", "image-2", "image-4"}
    for hit in found:
        json.dumps(to_json(hit), allow_nan=False)


def test_a_table_with_nothing_but_embeddings_can_be_indexed(tmp_path):
    rows = pa.Table.from_pylist(EnrichedTable(tmp_path / "whole", CAPTIONS).rows, SCHEMA)
    bare = ["image_id", "uri", "embedding", "embedding_key", "error"]
    write_deltalake(str(tmp_path / "table"), rows.select(bare))
    done = index.run(str(tmp_path / "table"), str(tmp_path / "index"))
    assert (done.state.captions, done.state.labels) == ((), ())
    assert len(rows_of(tmp_path / "index")) == 6


def test_one_of_two_embedders_is_chosen_and_stays_chosen(table, run, tmp_path):
    rows = pa.Table.from_pylist(table.rows, SCHEMA)
    second = pa.array(unit_vectors(6, dimension=4).tolist(), rows.schema.field("embedding").type)
    rows = rows.append_column("second", second)
    rows = rows.append_column("second_key", pa.array(["9" * 16] * 6))
    write_deltalake(str(table.folder), rows, mode="overwrite", schema_mode="overwrite")
    with pytest.raises(ConfigError, match="embedders wrote embedding, second; choose one with"):
        run()
    assert (run(column="second").state.key, run().state.column) == ("9" * 16, "second")
    assert not {"embedding", "second_key"} & set(ImageIndex(str(tmp_path / "index")).columns)


def test_a_table_on_s3_is_indexed_here(table, tmp_path, s3_bucket):
    import s3fs

    s3fs.S3FileSystem().put(str(table.folder), f"{s3_bucket}/", recursive=True)
    done = index.run(f"{s3_bucket}/table", str(tmp_path / "index"))
    assert (done.state.table, done.state.rows) == (f"{s3_bucket}/table", 6)


def test_rows_with_an_error_or_without_an_embedding_are_left_out_and_counted(run, table):
    bare = {"embedding": None, "embedding_key": None}
    failed = table.row(10, "x", None) | bare | {"error": ERROR}
    table.append([failed, table.row(11, "y", None) | bare])
    done = run()
    assert done.state.rows == 6
    assert done.state.left_out == {"with an error": 1, "not embedded": 1}


def test_only_rows_that_changed_are_written(run, table, tmp_path):
    before = run()
    table.replace([table.changed(table.rows[1], caption="绿色的苹果")])
    table.append([table.row(6, "a new tree", unit_vectors(1, seed=3)[0])])
    done = run()
    assert (done.new, done.changed, done.removed, done.rebuilt) == (1, 1, 0, None)
    touched = written_since(tmp_path / "index", before.state.stored_version)
    assert touched == {"image-1", "image-6"}
    assert rows_of(tmp_path / "index")["image-1"]["caption"] == "绿色的苹果"
    assert (done.state.version, done.state.rows) == (3, 7)


def test_rows_that_are_gone_or_failed_since_are_removed(run, table, tmp_path):
    run()
    table.remove(["image-0"])
    failed = {"error": ERROR, "embedding": None, "embedding_key": None}
    table.replace([table.changed(table.rows[2], **failed)])
    done = run()
    assert (done.new, done.changed, done.removed) == (0, 0, 2)
    assert set(rows_of(tmp_path / "index")) == {f"image-{n}" for n in (1, 3, 4, 5)}


def test_ids_with_quotes_are_removed_too(run, table, tmp_path):
    table.append([table.row(6, "x", unit_vectors(1)[0]) | {"image_id": 'it\'s "one"'}])
    run()
    table.remove(["it''s \"one\""])
    assert run().removed == 1
    assert len(rows_of(tmp_path / "index")) == 6


def test_joining_the_files_of_a_table_touches_nothing_of_the_index(run, table, tmp_path):
    table.append([table.row(6, "a new tree", unit_vectors(1)[0])])
    before = run()
    table.compact()
    done = run()
    assert (done.new, done.changed, done.removed) == (0, 0, 0)
    assert done.state.stored_version == before.state.stored_version
    assert done.state.version == before.state.version + 1
    table.remove(["image-6"])
    assert run().removed == 1


def test_an_index_that_is_up_to_date_stays_as_it_is(run, table, tmp_path):
    run()
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*.*")}
    run()
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*.*")}
    assert {path.name for path in after if after[path] != files.get(path)} <= {"tagline.lock"}


def test_another_embedder_builds_all_anew_once_most_rows_are_its(run, table, tmp_path):
    first = run()
    other = table.record({**EMBEDDER, "weights": "c" * 64})
    vectors = unit_vectors(6, seed=5)
    renewed = [
        table.changed(row, embedding=vector, embedding_key=other)
        for row, vector in zip(table.rows, vectors, strict=True)
    ]
    table.replace(renewed[:2])
    done = run()
    assert done.rebuilt is None
    assert done.state.left_out == {"embedded by another version": 2}
    assert set(rows_of(tmp_path / "index")) == {f"image-{n}" for n in (2, 3, 4, 5)}
    table.replace(renewed[2:4])
    done = run()
    assert f"embedder {first.state.key}" in done.rebuilt
    assert (done.state.key, done.state.rows) == (other, 4)
    (hit,) = ImageIndex(str(tmp_path / "index")).nearest(vectors[3], limit=1)
    assert (hit.image_id, hit.score) == ("image-3", pytest.approx(1, abs=1e-6))
    table.replace(renewed[4:])
    assert (run().rebuilt, run().state.rows) == (None, 6)


def test_a_table_made_anew_in_the_same_place_is_taken_in(run, table, tmp_path):
    run()
    for path in sorted(table.folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    EnrichedTable(table.folder, CAPTIONS[:2])
    done = run()
    assert (done.changed, done.removed) == (0, 4)
    assert set(rows_of(tmp_path / "index")) == {"image-0", "image-1"}


def test_many_updates_are_tidied_and_lose_nothing(run, table, tmp_path, monkeypatch):
    monkeypatch.setattr(index_store, "LOOSE_FILES", 3)
    before = run()
    folder = lancedb.connect(tmp_path / "index")
    counts = []
    for n in range(5):
        table.replace([table.changed(table.rows[n], caption=f"changed {n}")])
        done = run()
        stored = folder.open_table(done.state.stored)
        stored.checkout(done.state.stored_version)
        counts.append(stored.stats()["fragment_stats"]["num_fragments"])
        opened = ImageIndex(str(tmp_path / "index"))
        assert len(opened.with_words("changed", limit=10)) == n + 1
        away = -table.rows[n]["embedding"]
        assert opened.hybrid(f"changed {n}", away, limit=1)[0].image_id == f"image-{n}"
    assert max(counts) < 4
    assert done.state.rows == before.state.rows


def test_a_reader_keeps_its_version_while_a_writer_goes_on(run, table, tmp_path):
    run()
    reader = ImageIndex(str(tmp_path / "index"))
    table.replace([table.changed(table.rows[1], caption="something else")])
    run()
    assert [hit.image_id for hit in reader.with_words("苹果", limit=10)] == ["image-1"]
    assert ImageIndex(str(tmp_path / "index")).with_words("苹果", limit=10) == []


def test_two_writers_do_not_meet(run, table, tmp_path):
    run()
    with (
        index_store.locked(str(tmp_path / "index")),
        pytest.raises(RunError, match="another `tagline index` is writing this index"),
    ):
        run()


def test_a_large_index_searches_approximately_and_tells_its_recall(tmp_path, monkeypatch):
    monkeypatch.setattr(index_store, "ANN_ROWS", 600)
    monkeypatch.setattr(index_store, "PARTITION_ROWS", 100)
    vectors = unit_vectors(800, dimension=64)
    table = EnrichedTable(tmp_path / "table", ["x"] * 800, vectors)
    done = index.run(str(table.folder), str(tmp_path / "index"))
    assert done.state.trained_rows == 800
    assert done.state.recall > 0.9
    opened = ImageIndex(str(tmp_path / "index"))
    hits = opened.nearest(vectors[7], limit=10, where="entailment = 'no'")
    best = [n for n in np.argsort(-(vectors @ vectors[7])) if n % 3 == 1][:10]
    assert [hit.image_id for hit in hits] == [f"image-{n}" for n in best]
    fresh = unit_vectors(8, dimension=64, seed=9)
    pairs = zip(table.rows[:8], fresh, strict=True)
    table.replace([table.changed(row, embedding=vector) for row, vector in pairs])
    done = index.run(str(table.folder), str(tmp_path / "index"))
    assert (done.changed, done.state.changed, done.state.unmeasured) == (8, 8, 0)
    (hit,) = ImageIndex(str(tmp_path / "index")).nearest(fresh[3], limit=1)
    assert hit.image_id == "image-3"


def test_an_index_of_another_table_is_not_overwritten(run, table, tmp_path):
    run()
    other = EnrichedTable(tmp_path / "other", CAPTIONS[:2])
    with pytest.raises(ConfigError, match=r"is the index of .*/table, not of .*/other"):
        index.run(str(other.folder), str(tmp_path / "index"))


def test_a_folder_of_something_else_is_refused(table, tmp_path):
    with pytest.raises(ConfigError, match=r"holds _delta_log, _tagline, .* and no index"):
        index.run(str(table.folder), str(table.folder))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file; give a folder"):
        index.run(str(table.folder), str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="lies on a local disk"):
        index.run(str(table.folder), "s3://bucket/index")


def test_a_damaged_index_says_what_to_do(run, table, tmp_path):
    run()
    (tmp_path / "index" / "tagline.json").write_text("{}")
    with pytest.raises(TableError, match="delete the folder and run `tagline index` again"):
        run()


def test_without_lancedb_the_extra_is_named(table, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    answer = Command(monkeypatch, capfd)("index", table.folder, "--to", tmp_path / "index")
    assert answer.code == 2
    assert "pip install 'tagline[search]'" in answer.errors


def test_vectors_of_two_lengths_are_refused(run, table):
    table.append([table.row(6, "x", [1.0, 0.0])])
    with pytest.raises(TableError, match=r"of image_id 'image-\d' has . numbers, others of"):
        run()


def test_an_image_that_is_there_twice_is_refused(run, table):
    table.append([table.rows[2]])
    with pytest.raises(TableError, match="image_id 'image-2' is in the table more than once"):
        run()


def test_what_cannot_be_indexed_is_told(run, table, tmp_path, monkeypatch, capfd):
    tagline = Command(monkeypatch, capfd)
    answer = tagline("index", tmp_path / "nowhere", "--to", tmp_path / "index")
    assert (answer.code, answer.output) == (2, "")
    assert "no table; write one with `tagline enrich`" in answer.errors
    with pytest.raises(ConfigError, match="--column 'caption' is not one of embeddings; embedder"):
        run(column="caption")
    with pytest.raises(ConfigError, match=r"but embedded:embedder is [0-9a-f]{16}"):
        run(model="embedded:embedder")
    table.remove([f"image-{n}" for n in range(6)])
    table.append([table.rows[0] | {"error": ERROR, "embedding": None, "embedding_key": None}])
    with pytest.raises(DatasetError, match="none has an embedding in 'embedding': 1 with an error"):
        run()


def test_the_command_tells_what_it_did(table, tmp_path, monkeypatch, capfd):
    tagline = Command(monkeypatch, capfd)
    (told,) = tagline("index", table.folder, "--to", tmp_path / "index", "--json").lines
    assert (told["rows"], told["new"], told["recall_at_10"], told["is_exact"]) == (6, 6, 1.0, True)
    assert (told["column"], told["key"], told["version"]) == ("embedding", table.key, 0)
    answer = tagline("index", table.folder, "--to", tmp_path / "index")
    assert "6 images of" in answer.output
    assert "written: none" in answer.output
    assert "recall@10 against comparing every image: 1.000" in answer.output

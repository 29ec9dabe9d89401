"""The folder is read as `clip-retrieval index` and `back` read it: by sorted names, row by row."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.exporting import clip_retrieval
from schemas.errors import DatasetError
from tests.enriched_tables import SCHEMA, EnrichedTable, unit_vectors

COUNT = 7


@pytest.fixture
def table(tmp_path):
    return EnrichedTable(tmp_path / "table", [f"caption {n}" for n in range(COUNT)])


def rows_of(table, size=3, **columns):
    rows = [{**row, **columns} for row in table.rows]
    return [pa.Table.from_pylist(rows[n : n + size], SCHEMA) for n in range(0, len(rows), size)]


def read(folder):
    """All vectors and all metadata, in the order of the files' names."""
    vectors = [np.load(path) for path in sorted((folder / "img_emb").glob("*.npy"))]
    metadata = [pq.read_table(path) for path in sorted((folder / "metadata").glob("*.parquet"))]
    assert [len(one) for one in vectors] == [one.num_rows for one in metadata]
    return np.concatenate(vectors), pa.concat_tables(metadata)


def test_vectors_and_metadata_are_in_one_order(table, tmp_path, monkeypatch):
    monkeypatch.setattr(clip_retrieval, "FILE_ROWS", 4)
    written = clip_retrieval.write(
        rows_of(table), tmp_path / "out", vectors="embedding", caption="caption"
    )
    assert written == COUNT
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in tmp_path.rglob("out/*/*"))
    assert names == [
        "img_emb/img_emb_0000.npy",
        "img_emb/img_emb_0001.npy",
        "metadata/metadata_0000.parquet",
        "metadata/metadata_0001.parquet",
    ]
    vectors, metadata = read(tmp_path / "out")
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, unit_vectors(COUNT))
    assert metadata["image_path"].to_pylist() == [f"pictures/{n}.png" for n in range(COUNT)]
    assert metadata["caption"].to_pylist() == [f"caption {n}" for n in range(COUNT)]
    assert metadata["image_id"].to_pylist() == [f"image-{n}" for n in range(COUNT)]
    assert {"entailment", "caption_score"} <= set(metadata.column_names)
    assert not {"embedding", "tags", "error", "embedding_key"} & set(metadata.column_names)


def test_rows_without_a_vector_are_left_out(table, tmp_path):
    table.rows[0] |= {"embedding": None, "embedding_key": None}
    table.rows[5] |= {"embedding": None, "embedding_key": None}
    assert clip_retrieval.write(rows_of(table), tmp_path, vectors="embedding", caption=None) == 5
    vectors, metadata = read(tmp_path)
    np.testing.assert_array_equal(vectors, unit_vectors(COUNT)[[1, 2, 3, 4, 6]])
    assert metadata["image_id"].to_pylist() == [f"image-{n}" for n in (1, 2, 3, 4, 6)]


def test_vectors_of_two_models_are_not_mixed(table, tmp_path):
    table.rows[4]["embedding_key"] = "0" * 16
    with pytest.raises(DatasetError, match=r"two versions of the embedder.*--where \"emb"):
        clip_retrieval.write(rows_of(table), tmp_path, vectors="embedding", caption=None)


def test_a_table_without_vectors_is_refused(table, tmp_path):
    bare = rows_of(table, embedding=None, embedding_key=None)
    with pytest.raises(DatasetError, match="no row to export has a vector in 'embedding'"):
        clip_retrieval.write(bare, tmp_path, vectors="embedding", caption=None)

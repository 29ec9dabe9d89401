"""How many of the nearest images an approximate search finds."""

from typing import Any

import numpy as np
import numpy.typing as npt

from jobs.index_store import nearest
from schemas.enriched import IMAGE_ID
from schemas.index import VECTOR

QUERIES = 100  # images of the index, looked for without themselves
FIRST = 10
ROUNDING = 1e-5  # of a cosine in float32: vectors as near as this are equally near

Vectors = npt.NDArray[np.float32]


def recall_of(table: Any, seed: int = 0) -> float:
    """Measures recall@10 against a search of every row.

    Args:
        table: LanceDB's, with more rows than `FIRST`.
        seed: of the choice of queries.
    """
    rows = int(table.count_rows())
    chosen = np.random.default_rng(seed).choice(rows, min(QUERIES, rows), replace=False)
    asked = table.take_offsets(np.sort(chosen).tolist()).select([IMAGE_ID, VECTOR]).to_arrow()
    queries = _vectors(asked[VECTOR])
    least = _similarity_of_last(table, queries)
    found = [
        _found(table, image, query, last)
        for image, query, last in zip(asked[IMAGE_ID].to_pylist(), queries, least, strict=True)
    ]
    return float(np.mean(found))


def _similarity_of_last(table: Any, queries: Vectors) -> npt.NDArray[np.float32]:
    """For each query the similarity of the last of its true neighbours, itself being the first."""
    best = np.full((len(queries), FIRST + 1), -np.inf, np.float32)
    for batch in table.search().select([VECTOR]).limit(None).to_batches():
        seen = np.concatenate([best, queries @ _vectors(batch[VECTOR]).T], axis=1)
        best = -np.partition(-seen, FIRST, axis=1)[:, : FIRST + 1]
    return np.asarray(best.min(axis=1))


def _found(table: Any, image: str, query: Vectors, last: float) -> float:
    hits = nearest(table, query, FIRST + 1).select([IMAGE_ID, VECTOR, "_distance"]).to_arrow()
    others = [at for at, one in enumerate(hits[IMAGE_ID].to_pylist()) if one != image][:FIRST]
    similarities = _vectors(hits[VECTOR])[others] @ query
    return float(np.count_nonzero(similarities >= last - ROUNDING) / FIRST)


def _vectors(column: Any) -> Vectors:
    """A column of vectors as (rows, dimension)."""
    flat = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    return np.asarray(flat.flatten().to_numpy()).reshape(len(flat), -1)

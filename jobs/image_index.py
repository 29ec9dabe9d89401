"""An index that is open for search: the nearest images of a vector, of words, and of both.

It answers from the version that `tagline.json` named when it was opened. Both rankings are fused
by reciprocal rank: an image gets 1 / (60 + rank) of each that it is in (Cormack et al. 2009).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs import storage
from jobs.index_store import Store, nearest, read_state, with_words
from jobs.words import words_to_ask
from schemas.enriched import IMAGE_ID, URI
from schemas.errors import ConfigError, DatasetError, TableError
from schemas.index import INDEX_COLUMNS, VECTOR, IndexState

FUSION = 60  # of reciprocal rank fusion, as published
CANDIDATES = 100  # of each ranking that are fused, and more where more hits are asked for
DISTANCE = "_distance"  # LanceDB's: one minus the cosine
RELEVANCE = "_score"  # LanceDB's: BM25

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Hit:
    """An image that was found.

    Args:
        image_id: see there.
        uri: of the image.
        score: by which hits are ordered, larger is better.
        similarity: cosine of image and query; None where only words were asked for.
        columns: what else the index has of it.
    """

    image_id: str
    uri: str | None
    score: float
    similarity: float | None
    columns: Mapping[str, Any]


class ImageIndex:
    """An index at the version that answers now.

    Args:
        path: of its folder.

    Raises:
        ConfigError: LanceDB is not installed.
        DatasetError: there is no index.
        TableError: it is damaged, or of another version of tagline.
    """

    def __init__(self, path: str) -> None:
        self.path = storage.normalise(path)
        self.state, self._stored = _opened(self.path)
        names = [name for name in self._stored.schema.names if name not in INDEX_COLUMNS]
        self.columns: Sequence[str] = names

    def check_filter(self, where: str | None) -> None:
        """Raises ConfigError when a filter is none, or names what is not there."""
        if where is not None:
            self._run(self._stored.search().limit(1), where, [IMAGE_ID])

    def nearest(self, vector: Vector, *, limit: int, where: str | None = None) -> list[Hit]:
        """Finds the images nearest to a vector of the index's embedder; score is the cosine."""
        rows = self._answer(nearest(self._stored, vector, limit), where, DISTANCE)
        return _hits(rows, 1 - rows[DISTANCE].to_numpy(), vector)

    def near_ids(self, vector: Vector, *, limit: int) -> tuple[list[str], Vector]:
        """Gives image_ids and cosines of the images nearest to a vector, the nearest first."""
        query = nearest(self._stored, vector, limit).select([IMAGE_ID, DISTANCE])
        rows = query.to_arrow().sort_by(DISTANCE)
        return rows[IMAGE_ID].to_pylist(), 1 - rows[DISTANCE].to_numpy()

    def with_words(self, text: str, *, limit: int, where: str | None = None) -> list[Hit]:
        """Finds the images whose captions or tags have words of a text; score is BM25."""
        return self._with_words(text, limit, where)

    def hybrid(
        self, text: str, vector: Vector, *, limit: int, where: str | None = None
    ) -> list[Hit]:
        """Finds images by a text's vector and by all of its words, and fuses the rankings.

        An image that has but some of the words is left to the vector: a common word would lift it
        above images that show what was asked for.
        """
        depth = max(CANDIDATES, limit)
        near = self.nearest(vector, limit=depth, where=where)
        return fused([near, self._with_words(text, depth, where, vector)])[:limit]

    def _with_words(
        self, text: str, limit: int, where: str | None, vector: Vector | None = None
    ) -> list[Hit]:
        """The hits with any word or, where a vector says the rest, with all of them."""
        words = words_to_ask(text)
        if not words:
            return []
        query = with_words(self._stored, words, limit, needs_all=vector is not None)
        rows = self._answer(query, where, RELEVANCE)
        return _hits(rows, rows[RELEVANCE].to_numpy(), vector)

    def _answer(self, query: Any, where: str | None, measure: str) -> pa.Table:
        """Runs a query; among equals the order is that of the ids."""
        found = self._run(query, where, [*self.columns, VECTOR, measure])
        order = "ascending" if measure == DISTANCE else "descending"
        return found.sort_by([(measure, order), (IMAGE_ID, "ascending")])

    def _run(self, query: Any, where: str | None, columns: Sequence[str]) -> pa.Table:
        """Runs a query under a filter, which may fail on the values of a row too."""
        if where is None:
            return query.select(list(columns)).to_arrow()
        try:
            return query.where(where, prefilter=True).select(list(columns)).to_arrow()
        except (ValueError, RuntimeError, OSError) as error:
            raise ConfigError(
                f"--where {where!r} is not a condition on this index: {_reason(error)}; it is SQL "
                f"such as \"entailment = 'yes'\" over {', '.join(self.columns)}"
            ) from error


def fused(rankings: Sequence[Sequence[Hit]]) -> list[Hit]:
    """Joins rankings into one by reciprocal rank; among equals the earlier ranking leads."""
    hits: dict[str, Hit] = {}
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, 1):
            hits.setdefault(hit.image_id, hit)
            scores[hit.image_id] = scores.get(hit.image_id, 0.0) + 1 / (FUSION + rank)
    best = sorted(hits, key=lambda image: -scores[image])
    return [with_score(hits[image], scores[image]) for image in best]


def with_score(hit: Hit, score: float) -> Hit:
    """The same image with another score."""
    return Hit(hit.image_id, hit.uri, score, hit.similarity, hit.columns)


def _hits(rows: pa.Table, scores: npt.NDArray[Any], vector: Vector | None) -> list[Hit]:
    similarities: Sequence[float | None] = [None] * rows.num_rows
    if vector is not None and rows.num_rows:
        stored = np.asarray(rows[VECTOR].combine_chunks().flatten().to_numpy())
        similarities = (stored.reshape(rows.num_rows, -1) @ vector).tolist()
    told = [name for name in rows.column_names if name not in (VECTOR, DISTANCE, RELEVANCE)]
    return [
        Hit(row.pop(IMAGE_ID), row.pop(URI), float(score), similarity, row)
        for row, score, similarity in zip(
            rows.select(told).to_pylist(), scores, similarities, strict=True
        )
    ]


def _opened(path: str) -> tuple[IndexState, Any]:
    """Opens what `tagline.json` names, again where a writer replaced it meanwhile."""
    state = _state_of(path)
    while True:
        try:
            return state, Store(path).open(state)
        except (ValueError, RuntimeError, OSError) as error:
            before, state = state, _state_of(path)
            if state == before:
                raise TableError(
                    f"{path}: the index is damaged: {_reason(error)}; delete the folder and run "
                    "`tagline index` again"
                ) from error


def _state_of(path: str) -> IndexState:
    if storage.scheme_of(path) != "file":
        raise ConfigError(f"{path}: an index lies on a local disk; give its folder")
    state = read_state(path)
    if state is None:
        raise DatasetError(f"{path}: no index; make one with `tagline index TABLE --to {path}`")
    return state


def _reason(error: Exception) -> str:
    """What LanceDB says, without the places in its source."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return first.partition(", /")[0]

"""Searches of a server: an index of `tagline index`, asked by the config's own embedder."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from jobs.image_index import Hit, ImageIndex, Vector
from jobs.pictures import fetcher_of, read_policy, thumbnails
from jobs.search import to_json
from jobs.serving.chain import Chain
from jobs.serving.questions import Question
from jobs.serving.refusals import Refusal
from jobs.serving.worker import TEXT
from operators.base import Operator
from schemas.enriched import IMAGE_ENCODED
from schemas.errors import ConfigError

MOST_FOUND = 100
FOUND = 12
PICTURE = "picture"  # of a hit: small, as a data URL


class Searcher:
    """Answers searches.

    Args:
        index: an index that was opened.
        embedder: the name of the operator that embedded its table.
    """

    def __init__(self, index: ImageIndex, embedder: str) -> None:
        self.index, self.embedder = index, embedder
        self.captions = index.state.captions
        self._fetcher = fetcher_of(read_policy(index.state.table, None))

    async def answer(self, chain: Chain, question: Question) -> list[dict[str, Any]]:
        """Finds what is nearest to an image, or to a text and has its words.

        Raises:
            Refusal: there is nothing to search for, or too much is asked for.
        """
        if len(question.texts) + (question.image is not None) != 1:
            raise Refusal(422, "bad_question", "search by one text or one image")
        limit = FOUND if question.limit is None else question.limit
        if not 1 <= limit <= MOST_FOUND:
            raise Refusal(422, "bad_question", f"limit is {limit}; it may be 1 to {MOST_FOUND}")
        if question.image is not None:
            row = await chain.answer(self.embedder, {IMAGE_ENCODED: question.image})
        else:
            row = await chain.ask(self.embedder, {TEXT: question.texts[0]})
        vector = np.asarray(row[self.embedder], np.float32)
        return await asyncio.to_thread(self._found, question, vector, limit)

    def _found(self, question: Question, vector: Vector, limit: int) -> list[dict[str, Any]]:
        if question.texts:
            hits = self.index.hybrid(question.texts[0], vector, limit=limit)
        else:
            hits = self.index.nearest(vector, limit=limit)
        answers = [to_json(hit) for hit in hits]
        return self._with_pictures(answers, hits) if question.pictures else answers

    def _with_pictures(
        self, answers: list[dict[str, Any]], hits: Sequence[Hit]
    ) -> list[dict[str, Any]]:
        """Adds the pictures that can be had where the table's job found them."""
        found = thumbnails(self._fetcher, [hit.uri for hit in hits])
        return [
            {**answer, PICTURE: picture} if isinstance(picture, str) else answer
            for answer, picture in zip(answers, found, strict=True)
        ]


def open_searcher(path: str | None, operators: Sequence[Operator]) -> Searcher | None:
    """Opens the index of a config; None where it names none.

    Raises:
        ConfigError: no operator of the config embedded the index's table, or LanceDB is absent.
        DatasetError: there is no index.
        TableError: it is damaged.
    """
    if path is None:
        return None
    index = ImageIndex(path)
    keys = {operator.name: operator.key for operator in operators}
    for name, key in keys.items():
        if key == index.state.key:
            return Searcher(index, name)
    raise ConfigError(
        f"serve.index: the vectors of {path} were made by the embedder {index.state.key}, and no "
        f"operator of this config is that one; it has "
        f"{', '.join(f'{name} ({key})' for name, key in keys.items())}; use the embedder of the "
        "table, with its model and options"
    )

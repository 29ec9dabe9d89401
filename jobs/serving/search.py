"""The seam between a server and `tagline search`.

Needs `jobs.search.open_index(path)`, which gives an object with `search(text=…, image=…, limit=…)`:
an encoded image or a text, and back dictionaries by column, the nearest first, each with `image_id`
and `score`. Where this installation has no such job, `/v1/search` says so with 501; where the
config names no index, with 404.
"""

import asyncio
import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from jobs.serving.questions import Question
from jobs.serving.refusals import Refusal

MOST_FOUND = 100
FOUND = 12


class Index(Protocol):
    """An index that was opened."""

    def search(
        self, *, text: str | None, image: bytes | None, limit: int
    ) -> Sequence[dict[str, Any]]:
        """Finds rows of a table, the nearest first."""


def opener() -> Callable[[str], Index] | None:
    """What opens an index; None where this installation cannot search."""
    try:
        found = importlib.import_module("jobs.search")
    except ImportError:
        return None
    return getattr(found, "open_index", None)


class Searcher:
    """Answers searches, or says why there are none.

    Args:
        path: of the index; None where the config names none.
        index: opened from it; None where this installation has no search.
    """

    def __init__(self, path: str | None, index: Index | None) -> None:
        self.path, self.index = path, index

    @classmethod
    def of(cls, path: str | None) -> "Searcher":
        """Opens the index of a config."""
        found = opener()
        return cls(path, found(path) if found and path else None)

    @property
    def is_there(self) -> bool:
        """Whether a search can be answered."""
        return self.index is not None

    async def answer(self, question: Question) -> list[dict[str, Any]]:
        """Finds what is nearest to a text, or to an image.

        Raises:
            Refusal: there is no index, or nothing to search for.
        """
        if self.path is None:
            message = "this server's config names no index; give it one: serve: {index: PATH}"
            raise Refusal(404, "no_index", message)
        if self.index is None:
            message = "this version of tagline cannot search yet: it has no jobs.search.open_index"
            raise Refusal(501, "no_search", message)
        if len(question.texts) + (question.image is not None) != 1:
            raise Refusal(422, "bad_question", "search by one text or one image")
        limit = FOUND if question.limit is None else question.limit
        if not 1 <= limit <= MOST_FOUND:
            raise Refusal(422, "bad_question", f"limit is {limit}; it may be 1 to {MOST_FOUND}")
        text = question.texts[0] if question.texts else None
        search = self.index.search
        found = await asyncio.to_thread(search, text=text, image=question.image, limit=limit)
        return list(found)

"""`tagline search`: finds images in an index by a text, an image or words.

A text is looked for by its vector and by its words, and the rankings are fused; an image by its
vector; with `--words` only words count and no model is loaded. A query is embedded as
`tagline apply embedder` embeds it, by the version that embedded the table. The first hits may be
put in order again by a matcher, which looks at text and image together.
"""

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from jobs import apply as applied
from jobs import storage
from jobs.image_index import Hit, ImageIndex, Vector, with_score
from jobs.index_embedder import embedder_of, options_of
from schemas.enriched import IMAGE_ID, URI
from schemas.errors import ConfigError
from schemas.results import EmbeddedImage, EmbeddedText, FailedRow, MatchedText, RowError

SURROGATE = re.compile("[\ud800-\udfff]")  # a byte of an argument that is no UTF-8
RERANKED = 50  # hits that a matcher looks at, and more where more are asked for


@dataclass(frozen=True)
class Query:
    """What is looked for.

    Args:
        text: None where an image is.
        image: a path or uri; None where a text is.
        is_words: whether only words count.
        where: a condition on the index's columns, in SQL.
        limit: of hits.
        model: where the embedder is; None for where it was when the table was made.
        is_reranked: whether a matcher orders the first hits.
        matcher: where the matcher is; None for that of the table.
        images: the folder that relative uris are meant from; None for the current one.
    """

    text: str | None = None
    image: str | None = None
    is_words: bool = False
    where: str | None = None
    limit: int = 10
    model: str | None = None
    is_reranked: bool = False
    matcher: str | None = None
    images: str | None = None


@dataclass(frozen=True)
class Unread:
    """A hit whose image the matcher could not look at; they come last, in their former order."""

    hit: Hit
    error: RowError


Answer = Hit | Unread | FailedRow


@dataclass(frozen=True)
class Found:
    """What a search found.

    Args:
        answers: the hits, best first; or one `FailedRow` where the query's own image cannot be
            read.
        shown: columns of captions and labels, for people.
        is_fused: whether scores are sums of ranks, which tell people nothing.
    """

    answers: Sequence[Answer]
    shown: tuple[str, ...]
    is_fused: bool


def run(path: str, query: Query) -> Found:
    """Looks in an index.

    Raises:
        ConfigError: the query asks for nothing, or for what does not go together; its filter is
            none; the embedder is not that of the index.
        DatasetError: there is no index.
        ModelError: a model is missing, damaged or of another task.
    """
    _check(query)
    index = ImageIndex(path)
    index.check_filter(query.where)
    matcher = _matcher(index, query) if query.is_reranked else None
    wanted = max(query.limit, RERANKED) if matcher else query.limit
    found = _found(index, query, wanted)
    answers: Sequence[Answer] = [found] if isinstance(found, FailedRow) else found
    if matcher is not None and not isinstance(found, FailedRow):
        answers = _reranked(found, query, matcher)[: query.limit]
    is_fused = query.text is not None and not query.is_words and matcher is None
    return Found(answers, (*index.state.captions, *index.state.labels), is_fused)


def to_json(answer: Answer) -> dict[str, Any]:
    """A line of `--json`."""
    if isinstance(answer, FailedRow):
        return answer.model_dump(exclude_none=True)
    hit = answer.hit if isinstance(answer, Unread) else answer
    told: dict[str, Any] = {IMAGE_ID: hit.image_id, URI: hit.uri, "score": hit.score}
    told["similarity"] = hit.similarity
    if isinstance(answer, Unread):
        told |= {"score": None, "error": answer.error.model_dump()}
    return told | {name: _plain(one) for name, one in hit.columns.items() if name not in told}


def lines(found: Found) -> Iterator[str]:
    """Answers as people read them: score or similarity, id, captions and labels, uri."""
    for answer in found.answers:
        yield _line(answer, found)


def _line(answer: Answer, found: Found) -> str:
    if isinstance(answer, FailedRow):
        return f"{answer.image}  {answer.error.code}: {answer.error.message}"
    hit = answer.hit if isinstance(answer, Unread) else answer
    score = hit.similarity if found.is_fused else hit.score
    told = "   ---" if isinstance(answer, Unread) or score is None else f"{score:6.3f}"
    values = [hit.columns[name] for name in found.shown]
    said = [one if isinstance(one, str) else ", ".join(one) for one in values if one]
    if isinstance(answer, Unread):
        said.append(f"({answer.error.code}: {answer.error.message})")
    return "  ".join([told, hit.image_id, *said, hit.uri or ""])


def _check(query: Query) -> None:
    if query.text is None and query.image is None:
        raise ConfigError("search needs a text, or --image FILE")
    if query.text is not None and query.image is not None:
        raise ConfigError("search takes a text or --image, not both")
    if query.text is not None and not query.text.strip():
        raise ConfigError(f"the text is {query.text!r}; give words to look for")
    for given in (query.text, query.where):
        if given is not None and SURROGATE.search(given):
            raise ConfigError(f"{given!r} is not UTF-8; type it in UTF-8")
    if query.limit < 1:
        raise ConfigError(f"--limit is {query.limit}; it must be at least 1")
    if query.text is None and (query.is_words or query.is_reranked):
        option = "--words" if query.is_words else "--rerank"
        raise ConfigError(f"{option} needs a text to look for, not --image")
    if query.matcher is not None and not query.is_reranked:
        raise ConfigError("--matcher is only for --rerank matcher")


def _found(index: ImageIndex, query: Query, limit: int) -> list[Hit] | FailedRow:
    """The hits by words, by vector or by both."""
    if query.text is not None and query.is_words:
        return index.with_words(query.text, limit=limit, where=query.where)
    vector = _vector(index, query)
    if isinstance(vector, FailedRow):
        return vector
    if query.text is None:
        return index.nearest(vector, limit=limit, where=query.where)
    return index.hybrid(query.text, vector, limit=limit, where=query.where)


def _vector(index: ImageIndex, query: Query) -> Vector | FailedRow:
    """Embeds the query by the index's own embedder."""
    embedder = embedder_of(index.state, index.path, query.model)
    request = applied.Request(
        operator="embedder",
        model=str(embedder.model),
        images=(query.image,) if query.image is not None else (),
        texts=(query.text,) if query.text is not None else (),
        options=options_of(embedder.description),
    )
    (result,) = applied.run(request)
    if isinstance(result, EmbeddedImage | EmbeddedText):
        return np.asarray(result.embedding, np.float32)
    if isinstance(result, FailedRow):
        return result
    raise TypeError(f"an embedder answered {result!r}")


def _matcher(index: ImageIndex, query: Query) -> str:
    matcher = query.matcher or index.state.matcher
    if matcher is None:
        raise ConfigError(
            f"{index.path}: the table has no matcher that it knows the model of; name one with "
            "--matcher, such as embedded:matcher"
        )
    return matcher


def _reranked(hits: Sequence[Hit], query: Query, matcher: str) -> list[Answer]:
    """Orders hits by the probability that text and image belong together."""
    images = tuple(_placed(hit.uri, query.images) for hit in hits)
    request = applied.Request(
        operator="matcher", model=matcher, images=images, texts=(str(query.text),)
    )
    read: list[Hit] = []
    unread: list[Unread] = []
    for hit, result in zip(hits, _results(request), strict=True):
        if isinstance(result, FailedRow):
            unread.append(Unread(hit, result.error))
        else:
            read.append(with_score(hit, result.score))
    return [*sorted(read, key=lambda hit: -hit.score), *unread]


def _results(request: applied.Request) -> Iterator[MatchedText | FailedRow]:
    if not request.images:
        return
    for result in applied.run(request):
        if not isinstance(result, MatchedText | FailedRow):
            raise TypeError(f"a matcher answered {result!r}")
        yield result


def _placed(uri: str | None, folder: str | None) -> str:
    """A uri as it is found from the current folder."""
    if not uri or folder is None or "://" in uri or os.path.isabs(uri):
        return uri or ""
    return storage.join(folder, uri)


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no word for it
    return value if isinstance(value, str | int | float | bool | None) else str(value)


if __name__ == "__main__":
    from jobs.cli import main

    main(["search"])

"""How good a candidate is: the operators themselves judge it, on the rows of validation.

Each worker computes its share of the images; figures are made of all answers together.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.metrics import cider_d, hits, rank
from jobs.ptb_tokenizer import tokenize
from operators.base import apply
from operators.fetcher import Fetcher
from operators.finetuning.workers import Workers
from operators.models.ofa.captions import PUNCTUATION
from schemas.enriched import ERROR, IMAGE_SHA256, URI
from schemas.errors import RunError
from schemas.finetune import FinetuneConfig

Answers = list[dict[str, Any]]
Figures = dict[str, float]

ROWS_AT_ONCE = 64
RIVALS = 15  # texts of other images that an image's own must beat


def answer(
    config: FinetuneConfig, directory: Path, table: pa.Table, fetcher: Fetcher, workers: Workers
) -> Answers:
    """Computes this worker's share of the answers that `judge` wants.

    Args:
        config: of the run.
        directory: the candidate.
        table: all rows of validation.
        fetcher: of their images.
        workers: which of them this is.
    """
    asked = table if config.use == "entailment" else _first_rows(table)
    share = np.array_split(np.arange(asked.num_rows), workers.size)[workers.rank]
    answering: dict[str, Callable[[], Answers]] = {
        "captioner": lambda: _captions(directory, asked.take(share), fetcher),
        "entailment": lambda: _labels(config, directory, asked.take(share), fetcher),
        "embedder": lambda: _vectors(directory, asked.take(share), fetcher),
        "matcher": lambda: _matches(config, directory, asked, share.tolist(), fetcher),
    }
    return answering[config.use]() if len(share) else []


def judge(config: FinetuneConfig, directory: Path, table: pa.Table, answers: Answers) -> Figures:
    """Makes figures of the answers of all workers.

    Returns:
        captioner: `exact`, the share of captions that are right word for word, punctuation and case
        aside, and `cider`; entailment: `accuracy`; embedder: `recall`, the mean of `text_to_image`
        and `image_to_text` R@1; matcher: `recall`, the share of images whose own text is the best
        of 16.
    """
    if config.use == "captioner":
        return _caption_figures(table, answers)
    if config.use == "entailment":
        right = [given["label"] == given["truth"] for given in answers]
        return {"accuracy": _share(right)}
    if config.use == "matcher":
        return {"recall": _share([given["is_right"] for given in answers])}
    return _vector_figures(directory, table, answers)


def _first_rows(table: pa.Table) -> pa.Table:
    """The first row of each picture."""
    digests = table[IMAGE_SHA256].to_pylist()
    firsts = {digest: row for row, digest in reversed(list(enumerate(digests)))}
    return table.take(sorted(firsts.values()))


def _computed(operator: Any, table: pa.Table, fetcher: Fetcher) -> Answers:
    """Runs an operator over rows, its images fetched a few at a time."""
    fetching = Fetcher(
        [operator],
        fetcher.policy,
        image_bytes=fetcher.image_bytes,
        pixel_limit=fetcher.pixel_limit,
    )
    found: Answers = []
    bare = table.drop_columns([IMAGE_SHA256])
    for start in range(0, table.num_rows, ROWS_AT_ONCE):
        fetched = fetching(bare.slice(start, ROWS_AT_ONCE))
        done = apply(operator, fetched, fetch=fetching.fill)
        names = [URI, *operator.writes.names, ERROR]
        found += done.select(list(dict.fromkeys(names))).to_pylist()
    for row in found:
        if row[ERROR]:
            raise RunError(f"{row[URI]!r}: cannot be validated: {row[ERROR]['message']}")
    return found


def _captions(directory: Path, table: pa.Table, fetcher: Fetcher) -> Answers:
    from operators.captioner import Captioner

    found = _computed(Captioner(directory, name="said"), table.select([URI, IMAGE_SHA256]), fetcher)
    digests = table[IMAGE_SHA256].to_pylist()
    return [
        {"image": digest, "said": row["said"]} for digest, row in zip(digests, found, strict=True)
    ]


def _caption_figures(table: pa.Table, answers: Answers) -> Figures:
    true: dict[str, list[str]] = {}
    for digest, caption in zip(
        table[IMAGE_SHA256].to_pylist(), table["caption"].to_pylist(), strict=True
    ):
        true.setdefault(digest, []).append(caption)
    said = [given["said"] for given in answers]
    references = [true[given["image"]] for given in answers]
    exact = [
        _plain(text) in map(_plain, several) for text, several in zip(said, references, strict=True)
    ]
    counts = [len(several) for several in references]
    tokens = tokenize([text for several in references for text in several])
    ends = np.cumsum(counts).tolist()
    split = [tokens[end - count : end] for end, count in zip(ends, counts, strict=True)]
    scores = cider_d(tokenize(said), split) if said else np.zeros(1)
    return {"exact": _share(exact), "cider": float(scores.mean())}


def _plain(text: str) -> str:
    return " ".join(text.lower().translate(PUNCTUATION).split())


def _labels(config: FinetuneConfig, directory: Path, table: pa.Table, fetcher: Fetcher) -> Answers:
    from operators.entailment import Entailment

    premise = "premise" if config.premise else None
    operator = Entailment(directory, name="judged", hypothesis="hypothesis", premise=premise)
    columns = [URI, IMAGE_SHA256, *(name for name in config.targets if name != "label")]
    found = _computed(operator, table.select(columns), fetcher)
    truths = table["label"].to_pylist()
    return [
        {"label": row["judged"], "truth": truth} for row, truth in zip(found, truths, strict=True)
    ]


def _vectors(directory: Path, table: pa.Table, fetcher: Fetcher) -> Answers:
    from operators.embedder import Embedder

    found = _computed(
        Embedder(directory, name="vector"), table.select([URI, IMAGE_SHA256]), fetcher
    )
    digests = table[IMAGE_SHA256].to_pylist()
    return [
        {"image": digest, "vector": row["vector"]}
        for digest, row in zip(digests, found, strict=True)
    ]


def _vector_figures(directory: Path, table: pa.Table, answers: Answers) -> Figures:
    from operators.embedder import Embedder

    texts = list(dict.fromkeys(table["text"].to_pylist()))
    images = [given["image"] for given in answers]
    image_vectors = np.array([given["vector"] for given in answers], np.float32)
    text_vectors = Embedder(directory).embed_texts(texts)
    at_image = {digest: number for number, digest in enumerate(images)}
    at_text = {text: number for number, text in enumerate(texts)}
    texts_of: list[set[object]] = [set() for _ in images]
    images_of: list[set[object]] = [set() for _ in texts]
    pairs = zip(table[IMAGE_SHA256].to_pylist(), table["text"].to_pylist(), strict=True)
    for digest, text in pairs:
        texts_of[at_image[digest]].add(at_text[text])
        images_of[at_text[text]].add(at_image[digest])
    to_image = _recall(text_vectors, image_vectors, images_of)
    to_text = _recall(image_vectors, text_vectors, texts_of)
    mean = (to_image + to_text) / 2
    return {"recall": mean, "text_to_image": to_image, "image_to_text": to_text}


def _recall(queries: Any, candidates: Any, gold: Sequence[set[object]]) -> float:
    named = rank(queries, candidates, count=1).tolist()
    return float(hits(named, gold)[:, 0].mean())


def _matches(
    config: FinetuneConfig, directory: Path, table: pa.Table, share: list[int], fetcher: Fetcher
) -> Answers:
    """Whether an image's own text is the best of it and others', drawn by the seed."""
    from operators.matcher import Matcher

    operator = Matcher(directory, name="matched", text="text")
    rows: list[Mapping[str, Any]] = table.to_pylist()
    asked: list[dict[str, Any]] = []
    starts: list[int] = []
    for number in share:
        own = rows[number]
        others = [row["text"] for row in rows if row["text"] != own["text"]]
        random = np.random.default_rng([config.seed, number])
        drawn = random.permutation(len(others))[:RIVALS].tolist()
        starts.append(len(asked))
        for text in (own["text"], *(others[at] for at in drawn)):
            asked.append({URI: own[URI], IMAGE_SHA256: own[IMAGE_SHA256], "text": text})
    found = _computed(operator, pa.Table.from_pylist(asked), fetcher)
    scores = np.array([row["matched"] for row in found])
    best = np.maximum.reduceat(scores, starts)
    return [{"is_right": is_right} for is_right in (best == scores[starts]).tolist()]


def _share(claims: Sequence[bool]) -> float:
    return sum(claims) / len(claims) if claims else 0.0

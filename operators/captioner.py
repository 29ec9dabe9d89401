"""Writes a sentence about each image.

The model's directory tells which net it is, OFA or mPLUG; the published pipelines are followed to
the letter, so captions and scores are those of ModelScope. Alternatives are kept, for the best
sentence of a beam search is not always the truest.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pyarrow as pa

from operators.base import fingerprint
from operators.images import decode_column
from operators.models import checkpoint
from operators.models.directory import expect, identify
from operators.models.mplug.config import MPlugConfig
from operators.models.ofa.config import OFAConfig
from operators.models.ofa.settings import Settings
from operators.precision import Precision, resolve
from operators.rerank import Reranker
from schemas.enriched import IMAGE_ENCODED, caption_schema
from schemas.errors import ConfigError, RowFault, RowFaults

if TYPE_CHECKING:
    from PIL.Image import Image

    from operators.models.mplug.captions import MPlugCaptions
    from operators.models.ofa.captions import OFACaptions

CODE_VERSION = 1  # raise when outputs change; the goldens of tests/operators guard it
BATCH_ROWS = 16
WIDEST_BEAM = 100  # sentences at once; the time and memory of one image are a hundredfold then
LEAST = {"beam_size": 1, "max_tokens": 1, "min_tokens": 0, "no_repeat_ngram": 0}


@dataclass(frozen=True)
class Sentence:
    """What may be said about an image, and its score in nats.

    OFA's is the mean log probability of the tokens, mPLUG's their sum over a power of the length.
    """

    text: str
    score: float


@dataclass(frozen=True)
class Caption:
    """The chosen sentence, and all that the search finished: the search's best first.

    The chosen one is the first of them unless the captioner reranks; it is always among them.
    """

    text: str
    score: float
    alternatives: tuple[Sentence, ...]


class Captioner:
    """Describes images by beam search.

    Args:
        model: a directory, `embedded:captioner`, an s3:// directory or a hub's id.
        name: the column to write.
        precision: of the arithmetic; `auto` as `operators.precision.resolve` says.
        upstream_keys: none are needed, as only the image is read; taken so that all operators are
            built alike.
        beam_size: sentences followed at once, and kept as alternatives.
        max_tokens: longest sentence.
        min_tokens: shortest.
        no_repeat_ngram: how many tokens in a row never occur twice in a sentence; 0 allows all.
            For these four, None takes what the directory says. mPLUG's search has no
            no_repeat_ngram, and counts a sentence's end among its tokens.
        rerank: chooses among the alternatives by looking at the image again, as
            `operators.rerank.Reranker` says: `{matcher: {model: DIR, weight: 1.0}, embedder:
            {model: DIR, weight: 0.5}}`. The score stays that of the search, and alternatives keep
            its order.

    Raises:
        ConfigError: an option has no such value.
        ModelError: the directory is missing, damaged or of another task.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str = "caption",
        precision: Precision = "float32",
        upstream_keys: Mapping[str, str] | None = None,
        beam_size: int | None = None,
        max_tokens: int | None = None,
        min_tokens: int | None = None,
        no_repeat_ngram: int | None = None,
        rerank: Mapping[str, Any] | None = None,
    ) -> None:
        given = {
            "beam_size": beam_size,
            "max_tokens": max_tokens,
            "min_tokens": min_tokens,
            "no_repeat_ngram": no_repeat_ngram,
        }
        self.model = model
        self.directory = checkpoint.resolve(model)
        chosen = {option: value for option, value in given.items() if value is not None}
        published, longest = _published(self.directory)
        self.options = {**published, **chosen}
        _check_options(name, self.options, precision, published=published, longest=longest)
        self.reranker = None if rerank is None else Reranker(rerank, name=name)
        self.name = name
        self.precision = resolve(precision)
        self.reads = (IMAGE_ENCODED,)
        self.writes = caption_schema(name)
        self.batch_rows = BATCH_ROWS
        judges = {"rerank": self.reranker.description} if self.reranker else {}
        self.description: Mapping[str, Any] = {
            "operator": "captioner",
            "code": CODE_VERSION,
            "weights": checkpoint.digest(self.directory),
            "options": {**self.options, **judges},
            "precision": self.precision,
            "upstream": dict(upstream_keys or {}),
        }
        self.key = fingerprint(self.description)
        self._net: OFACaptions | MPlugCaptions | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickles all but the weights; `load` reads them again where they are needed."""
        return {**self.__dict__, "_net": None}

    def load(self) -> None:
        """Reads the weights, to a CUDA device where there is one.

        Raises:
            ModelError: the weights are damaged, or are not those the configuration describes.
        """
        self._loaded()
        if self.reranker:
            self.reranker.load()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Captions the image of every row.

        Raises:
            RowFaults: names the rows whose image cannot be read or whose scores are not finite.
        """
        captions = self.caption(decode_column(table[IMAGE_ENCODED]))
        alternatives = [
            [{"text": sentence.text, "score": sentence.score} for sentence in caption.alternatives]
            for caption in captions
        ]
        columns = [[c.text for c in captions], [c.score for c in captions], alternatives]
        return pa.table(
            [
                pa.array(values, field.type)
                for values, field in zip(columns, self.writes, strict=True)
            ],
            schema=self.writes,
        )

    def caption(self, images: "Sequence[Image]") -> list[Caption]:
        """Describes photographs.

        Args:
            images: any number, of any size and mode; each is resized to the model's square (480 x
                480 pixels for the published OFA) without cropping.

        Returns:
            one caption an image, in the order given; OFA's without punctuation, as published.

        Raises:
            RowFaults: a score is not finite, or nothing is said; names the position of the image.

        Source: OFA, arXiv:2202.03052; mPLUG, arXiv:2205.12005.
        """
        net = self._loaded()
        found: list[list[tuple[str, float]]] = []
        for start in range(0, len(images), self.batch_rows):
            found += net.describe(images[start : start + self.batch_rows])
        _check_finite(found)
        chosen = [0] * len(found)
        if self.reranker:
            chosen = self.reranker.choose(images, [[text for text, _ in some] for some in found])
        captions = [_caption(some, best) for some, best in zip(found, chosen, strict=True)]
        _check_said(captions)
        return captions

    def _loaded(self) -> "OFACaptions | MPlugCaptions":
        if self._net is None:
            directory = checkpoint.find_again(
                self.model, self.directory, self.description["weights"]
            )
            self._net = _load(directory, self.options, self.precision)
        return self._net


def _load(
    directory: Path, options: Mapping[str, float], precision: str
) -> "OFACaptions | MPlugCaptions":
    if identify(directory).architecture == "mplug":
        from operators.models.mplug.captions import MPlugCaptions

        return MPlugCaptions(directory, options, precision)
    from operators.models.ofa.captions import OFACaptions

    return OFACaptions(directory, options, precision)


def _published(directory: Path) -> tuple[Mapping[str, float], int]:
    """The search that the directory asks for, and how many tokens a sentence may have at most."""
    if expect(directory, "captioner").architecture == "ofa":
        return Settings.read(directory).search, OFAConfig.read(directory).positions - 1
    config = MPlugConfig.read(directory)
    search = {
        "beam_size": config.beam_size,
        "max_tokens": config.max_length,
        "min_tokens": min(config.min_length, config.max_length),
    }
    return search, config.max_position_embeddings


def _check_options(
    name: str,
    options: Mapping[str, float],
    precision: str,
    *,
    published: Mapping[str, float],
    longest: int,
) -> None:
    faults = [
        f"{option} is {options[option]!r}, but it must be a whole number of at least {least}"
        for option, least in LEAST.items()
        if option in options and (type(options[option]) is not int or options[option] < least)
    ]
    if not faults and options["beam_size"] > WIDEST_BEAM:
        faults.append(
            f"beam_size is {options['beam_size']!r}; at most {WIDEST_BEAM} can be searched"
        )
    if set(options) - set(published):
        faults.append("no_repeat_ngram is not an option of mPLUG's search; leave it out")
    if not faults and not options["min_tokens"] <= options["max_tokens"] <= longest:
        faults.append(
            f"min_tokens is {options['min_tokens']} and max_tokens {options['max_tokens']}, but "
            f"min_tokens <= max_tokens <= {longest} must hold"
        )
    if precision not in get_args(Precision):
        choices = ", ".join(map(repr, get_args(Precision)))
        faults.append(f"precision is {precision!r}; it may be {choices}")
    if faults:
        raise ConfigError(f"operator {name!r}: " + "; ".join(faults))


def _check_finite(found: Sequence[Sequence[tuple[str, float]]]) -> None:
    message = "the caption's score is not finite; check the model with `tagline models verify`"
    faults = {
        position: RowFault("model", message)
        for position, sentences in enumerate(found)
        if not sentences or not all(math.isfinite(score) for _, score in sentences)
    }
    if faults:
        raise RowFaults(faults)


def _check_said(captions: Sequence[Caption]) -> None:
    """An empty sentence says nothing of the image, and what reads it would judge nothing."""
    fault = RowFault("model", "the caption is empty: the model finds no words for this image")
    faults = {at: fault for at, caption in enumerate(captions) if not caption.text.strip()}
    if faults:
        raise RowFaults(faults)


def _caption(found: Sequence[tuple[str, float]], chosen: int) -> Caption:
    sentences = tuple(Sentence(*sentence) for sentence in found)
    best = sentences[chosen]
    return Caption(text=best.text, score=best.score, alternatives=sentences)

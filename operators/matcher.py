"""Tells whether an image and a text belong together: a probability, and a similarity beside it.

The probability comes from a net that reads the text with the image before it; the similarity is the
cosine of two features computed apart, which is cheaper to compare by the million and less sharp.
mPLUG's published image-text-retrieval pipeline is followed to the letter.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pyarrow as pa

from operators.base import fingerprint
from operators.images import decode_column
from operators.models import checkpoint
from operators.models.directory import expect
from operators.models.mplug.config import read_for_matching
from operators.precision import Precision, resolve
from schemas.enriched import IMAGE_ENCODED, match_schema
from schemas.errors import ConfigError, RowFault, RowFaults

if TYPE_CHECKING:
    from PIL.Image import Image

    from operators.models.mplug.matching import MPlugMatching


CODE_VERSION = 1  # raise when outputs change; the goldens of tests/operators guard it
BATCH_ROWS = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Match:
    """How well an image and a text go together.

    Args:
        score: the probability that they belong together.
        similarity: the cosine of their features, from -1 to 1.
        is_cut: whether the text was too long, so that its end was not read.
    """

    score: float
    similarity: float
    is_cut: bool


class Matcher:
    """Matches images with texts.

    Args:
        model: a directory, `embedded:matcher`, an s3:// directory or a hub's id.
        name: the column to write.
        text: the column that says something about the image.
        precision: of weights and arithmetic; `auto` as `operators.precision.resolve` says.
        upstream_keys: for columns it reads, the key of the operator that wrote them.

    Raises:
        ConfigError: an option has no such value.
        ModelError: the directory is missing, damaged or of another task.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str = "match",
        text: str = "caption",
        precision: Precision = "float32",
        upstream_keys: Mapping[str, str] | None = None,
    ) -> None:
        _check_options(name, text, precision)
        self.model = model
        self.directory = checkpoint.resolve(model)
        expect(self.directory, "matcher")
        read_for_matching(self.directory)
        self.name = name
        self.text = text
        self.precision = resolve(precision)
        self.texts = (text,)
        self.reads = (IMAGE_ENCODED, *self.texts)
        self.writes = match_schema(name)
        self.batch_rows = BATCH_ROWS
        self.description: Mapping[str, Any] = {
            "operator": "matcher",
            "code": CODE_VERSION,
            "weights": checkpoint.digest(self.directory),
            "options": {"text": text},
            "precision": self.precision,
            "upstream": dict(upstream_keys or {}),
        }
        self.key = fingerprint(self.description)
        self._net: MPlugMatching | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickles all but the weights; `load` reads them again where they are needed."""
        return {**self.__dict__, "_net": None}

    def load(self) -> None:
        """Reads the weights, to a CUDA device where there is one.

        Raises:
            ModelError: the weights are damaged, or are not those the configuration describes.
        """
        self._loaded()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Matches the image and the text of every row; rows of one image share the look at it.

        Raises:
            RowFaults: names the rows whose image cannot be read, whose text is null, or whose
                probability is not finite.
        """
        texts = table[self.text].to_pylist()
        _check_texts(texts, self.text)
        encoded = table[IMAGE_ENCODED].combine_chunks().dictionary_encode(null_encoding="encode")
        rows_of: list[list[int]] = [[] for _ in range(len(encoded.dictionary))]
        for row, image in enumerate(encoded.indices.to_pylist()):
            rows_of[image].append(row)
        try:
            images = decode_column(pa.chunked_array([encoded.dictionary]))
            found = self.match_each(images, [[texts[row] for row in rows] for rows in rows_of])
        except RowFaults as error:
            faults = {row: error.faults[at] for at in error.faults for row in rows_of[at]}
            raise RowFaults(faults) from error
        matches = {
            row: match
            for rows, some in zip(rows_of, found, strict=True)
            for row, match in zip(rows, some, strict=True)
        }
        self._log_cuts(matches)
        ordered = [matches[row] for row in range(table.num_rows)]
        columns = [[match.score for match in ordered], [match.similarity for match in ordered]]
        return pa.table([pa.array(values, pa.float32()) for values in columns], schema=self.writes)

    def match(self, images: "Sequence[Image]", texts: Sequence[str]) -> list[list[Match]]:
        """Matches each of several images with each of several texts.

        Args:
            images: of any size and mode; each is resized to the model's square without cropping,
                and looked at once, whatever the number of texts.
            texts: sentences, each read once; case and accents do not matter, and what is beyond 25
                tokens is not read. An empty one is allowed, as published.

        Returns:
            for each image one match a text, in the orders given.

        Raises:
            TypeError: a text is not a string.
            RowFaults: names the positions of images with a probability that is not finite.

        Source: mPLUG, arXiv:2205.12005.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"texts is {texts!r}; it must be a list of str")
        return self.match_each(images, [texts] * len(images))

    def match_each(
        self, images: "Sequence[Image]", texts: Sequence[Sequence[str]]
    ) -> list[list[Match]]:
        """Matches each image with texts of its own.

        Args:
            images: as in `match`.
            texts: for each image any number; equal ones are read once.

        Returns:
            for each image one match for each of its texts.

        Raises:
            RowFaults: as in `match`.
        """
        places = {text: at for at, text in enumerate(dict.fromkeys(t for s in texts for t in s))}
        if not places:
            return [[] for _ in images]
        net = self._loaded()
        asked = [[places[text] for text in some] for some in texts]
        scores = net.match(images, net.read(list(places)), asked)
        _check_finite(scores)
        is_cut = {text: net.is_cut(text) for text in places}
        return [
            [Match(*pair, is_cut[text]) for text, pair in zip(some, pairs, strict=True)]
            for some, pairs in zip(texts, scores, strict=True)
        ]

    def is_cut(self, text: str) -> bool:
        """Whether a text is too long for the model, so that its end is not read."""
        return self._loaded().is_cut(text)

    def count_cut(self, table: pa.Table) -> int:
        """How many rows of a table have a text that is too long."""
        return sum(map(self.is_cut, table[self.text].drop_null().to_pylist()))

    def _loaded(self) -> "MPlugMatching":
        if self._net is None:
            from operators.models.mplug.matching import MPlugMatching

            directory = checkpoint.find_again(
                self.model, self.directory, self.description["weights"]
            )
            self._net = MPlugMatching(directory, self.precision)
        return self._net

    def _log_cuts(self, matches: Mapping[int, Match]) -> None:
        cut = sum(match.is_cut for match in matches.values())
        if cut:
            logger.warning(
                "event=texts_cut operator=%s column=%s rows=%d", self.name, self.text, cut
            )


def _check_options(name: str, text: str, precision: str) -> None:
    faults = []
    if not isinstance(text, str) or not text:
        faults.append(f"text is {text!r}; it must name a column, such as 'caption'")
    if precision not in get_args(Precision):
        choices = ", ".join(map(repr, get_args(Precision)))
        faults.append(f"precision is {precision!r}; it may be {choices}")
    if faults:
        raise ConfigError(f"operator {name!r}: " + "; ".join(faults))


def _check_texts(texts: Sequence[object], column: str) -> None:
    faults = {
        row: RowFault("model", f"{column!r} is {text!r} in this row; a text is needed")
        for row, text in enumerate(texts)
        if not isinstance(text, str)
    }
    if faults:
        raise RowFaults(faults)


def _check_finite(scores: Sequence[Sequence[tuple[float, float]]]) -> None:
    message = "a probability is not finite; check the model with `tagline models verify`"
    faults = {
        at: RowFault("model", message)
        for at, pairs in enumerate(scores)
        if not all(map(math.isfinite, (number for pair in pairs for number in pair)))
    }
    if faults:
        raise RowFaults(faults)

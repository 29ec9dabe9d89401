"""Chooses by another model's judgement: the sentence of an image, the images of a text.

A captioner's beam search ranks sentences by how likely they are to be written, which is not how
true they are. A matcher or an embedder looks at the image again and chooses among them, as
LAION-COCO chose among BLIP's captions by CLIP.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.embedder import Embedder
from operators.matcher import Match, Matcher
from schemas.config import nearest
from schemas.errors import ConfigError, ModelError, RowFaults

if TYPE_CHECKING:
    from PIL.Image import Image

JUDGES = ("matcher", "embedder")
OPTIONS = ("model", "weight")  # of a judge
IMAGES_AT_ONCE = 4  # held decoded


class Reranker:
    """Chooses, for each image, among sentences about it.

    Each judge gives each sentence a probability: the matcher that it belongs to the image, the
    embedder that it does rather than the other sentences. The largest weighted sum wins, the
    earlier of equal ones.

    Args:
        judges: `matcher`, `embedder` or both, each with its `model` and a `weight` (1 when absent):
            `{"matcher": {"model": "embedded:matcher"}}`.
        name: of the operator that asks, for messages.

    Raises:
        ConfigError: what was given is not of this form; with every fault found.
        ModelError: a judge's directory is missing, damaged or of another task.
    """

    def __init__(self, judges: Mapping[str, Any], *, name: str = "caption") -> None:
        faults = _faults(judges)
        if faults:
            raise ConfigError("\n".join(f"operator {name!r}: {fault}" for fault in faults))
        self.weights = {judge: float(given.get("weight", 1)) for judge, given in judges.items()}
        self.matcher: Matcher | None = None
        self.embedder: Embedder | None = None
        for judge, given in judges.items():
            try:
                if judge == "matcher":
                    self.matcher = Matcher(given["model"])
                else:
                    self.embedder = Embedder(given["model"])
            except ModelError as error:
                faults.append(f"operator {name!r}: rerank.{judge}: {error}")
        if faults:
            raise ModelError("\n".join(faults))

    @property
    def description(self) -> dict[str, Any]:
        """What the choice depends on, for the key of the operator that asks."""
        judges = {"matcher": self.matcher, "embedder": self.embedder}
        return {
            judge: {"weight": self.weights[judge], "key": operator.key}
            for judge, operator in judges.items()
            if operator
        }

    def load(self) -> None:
        """Reads the judges' weights."""
        for operator in (self.matcher, self.embedder):
            if operator:
                operator.load()

    def choose(self, images: "Sequence[Image]", sentences: Sequence[Sequence[str]]) -> list[int]:
        """Finds the sentence that fits each image best.

        Args:
            images: of any size and mode.
            sentences: for each image at least one.

        Returns:
            for each image the position of the best among its sentences.

        Raises:
            RowFaults: a judgement is not finite; names the position of the image.
        """
        chosen: list[int] = []
        for start in range(0, len(images), IMAGES_AT_ONCE):
            some = [images[at] for at in range(start, min(start + IMAGES_AT_ONCE, len(images)))]
            told = [list(dict.fromkeys(texts)) for texts in sentences[start : start + len(some)]]
            try:
                judged = self._judge(some, told)
            except RowFaults as error:
                faults = {start + at: fault for at, fault in error.faults.items()}
                raise RowFaults(faults) from error
            for at, (texts, scores) in enumerate(zip(told, judged, strict=True), start):
                best = max(range(len(texts)), key=scores.__getitem__)  # the first of equal ones
                chosen.append(list(sentences[at]).index(texts[best]))
        return chosen

    def _judge(
        self, images: "Sequence[Image]", sentences: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """For each image the weighted sum of each of its sentences."""
        scores = [[0.0] * len(texts) for texts in sentences]
        if self.matcher:
            matches = self.matcher.match_each(images, sentences)
            for row, found in zip(scores, matches, strict=True):
                _add(row, [match.score for match in found], self.weights["matcher"])
        if self.embedder:
            for row, image, texts in zip(scores, images, sentences, strict=True):
                odds = self.embedder.probabilities(image, texts)[0].tolist()
                _add(row, odds, self.weights["embedder"])
        return scores


def rerank_images(
    matcher: Matcher, text: str, images: "Sequence[Image]"
) -> list[tuple[int, Match]]:
    """Reorders images, such as the first of a vector search, by how well they match a text.

    The text is read once for all images.

    Returns:
        the position of each image and its match, best first; equal ones in the order given.

    Raises:
        RowFaults: as of `Matcher.match`.
    """
    matches = [row[0] for row in matcher.match(images, [text])]
    return sorted(enumerate(matches), key=lambda ranked: -ranked[1].score)


def _add(row: list[float], odds: Sequence[float], weight: float) -> None:
    for at, chance in enumerate(odds):
        row[at] += weight * chance


def _faults(judges: object) -> list[str]:
    form = "such as {matcher: {model: 'embedded:matcher', weight: 1.0}}"
    if not isinstance(judges, Mapping) or not judges:
        return [f"rerank is {judges!r}; it must name {' or '.join(JUDGES)}, {form}"]
    faults = []
    for judge, given in judges.items():
        if judge not in JUDGES:
            faults.append(f"rerank has no {judge!r}; {nearest(str(judge), JUDGES)}")
        elif not isinstance(given, Mapping):
            faults.append(f"rerank.{judge} is {given!r}; it must be a model and a weight, {form}")
        else:
            faults += [f"rerank.{judge}{fault}" for fault in _judge_faults(given)]
    return faults


def _judge_faults(given: Mapping[str, Any]) -> list[str]:
    faults = [
        f" has no {key!r}; {nearest(str(key), OPTIONS)}" for key in given if key not in OPTIONS
    ]
    if not isinstance(given.get("model"), str | Path) or not given["model"]:
        faults.append(f".model is {given.get('model')!r}; it must be a directory or a model's name")
    weight = given.get("weight", 1)
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not is_number or not 0 < weight <= sys.float_info.max:
        faults.append(f".weight is {weight!r}; it must be a number above 0")
    return faults

"""What a calibration found: which answers may be accepted without a person, and on what promise.

`tagline calibrate` writes it as JSON, the operator `acceptance` reads it. A promise holds for the
versions of the operators it was made of, so their keys are part of it.
"""

from collections.abc import Mapping
from typing import Literal

import fsspec
from pydantic import Field, ValidationError

from schemas.config import Strict
from schemas.errors import ConfigError

ACCEPTED, REJECTED, REVIEW = "accepted", "rejected", "review"

Kind = Literal["captioner", "entailment", "hypotheses", "matcher", "tags"]


class Thresholds(Strict):
    """Between which confidences a person must look.

    Args:
        label: whose answers it is for; None for all that have no thresholds of their own.
        accept: answers of at least this confidence are right as often as promised; None when that
            could be promised of no confidence.
        reject: answers of at most this confidence are wrong as often as promised.
    """

    label: str | None = None
    accept: float | None = None
    reject: float | None = None


class CalibratedColumn(Strict):
    """One column of answers.

    Args:
        kind: of the operator that wrote it.
        signals: columns that its confidence is made of; see `operators.claims`.
        keys: of the operators that wrote these columns, by their names, where the table has them.
        temperature: by which the confidence's log odds are divided, and
        shift: which is added to them, to be the probability that an answer is right.
        thresholds: on the confidence itself.
    """

    kind: Kind
    signals: tuple[str, ...] = Field(min_length=1)
    keys: Mapping[str, str] = {}
    temperature: float = Field(gt=0)
    shift: float
    thresholds: tuple[Thresholds, ...]


class Calibration(Strict):
    """Thresholds of a table's columns, and the promise they keep.

    Args:
        format: of this file.
        precision: share of the accepted that is right, and of the rejected that is wrong.
        confidence: with which each threshold keeps its promise.
        table: that was calibrated.
        version: of it.
        columns: by name.
    """

    format: Literal[1] = 1
    precision: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, lt=1)
    table: str
    version: int
    columns: Mapping[str, CalibratedColumn] = Field(min_length=1)


def read_calibration(path: str) -> Calibration:
    """Reads what `tagline calibrate` wrote.

    Args:
        path: local or `s3://`.

    Raises:
        ConfigError: it cannot be read, or is something else.
    """
    try:
        with fsspec.open(path, "rb") as file:
            text = file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ConfigError(f"{path}: the thresholds cannot be read: {reason}") from error
    try:
        return Calibration.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(
            f"{path}: not thresholds as `tagline calibrate` writes them: {at}: {first['msg']}"
        ) from error

"""Says which rows may be used without a person looking: accepted, rejected, or to be reviewed.

`tagline calibrate` finds from people's answers between which confidences a person must look, and
this operator holds every answer of a row to that. It needs no model and no image. An answer of
another version of an operator than the calibrated one is always to be reviewed: nothing was
promised of it.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from operators.base import fingerprint
from operators.claims import Claims, Scale, Source, claims_of
from schemas.calibration import (
    ACCEPTED,
    REJECTED,
    REVIEW,
    CalibratedColumn,
    Thresholds,
    read_calibration,
)
from schemas.enriched import acceptance_schema

CODE_VERSION = 1  # raise when outputs change
BATCH_ROWS = 512
VERDICTS = (ACCEPTED, REVIEW, REJECTED)  # a row's is the last of its answers'
DIGITS = 4  # of a confidence in a reason
NOTHING = "nothing was answered that could be accepted"
OUTDATED = "not calibrated for this version of the operator; run `tagline calibrate` again"

logger = logging.getLogger(__name__)

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Verdicts:
    """What becomes of the answers of one column, or of several.

    Args:
        rows: (n,) the position of each one's row.
        verdicts: (n,) positions in `VERDICTS`.
        probability: (n,) float32 of being right.
        of: (n,) strings: the column.
        labels: (n,) strings: the answer, or what was judged.
        reasons: (n,) strings.
    """

    rows: Integers
    verdicts: Integers
    probability: npt.NDArray[np.float32]
    of: pa.Array
    labels: pa.Array
    reasons: pa.Array


class Acceptance:
    """Holds the answers of operators before it to calibrated thresholds.

    Args:
        thresholds: a file that `tagline calibrate` wrote, local or `s3://`.
        name: the column to write.
        upstream_keys: for columns it reads, the key of the operator that wrote them.

    Raises:
        ConfigError: the file cannot be read, or is something else.
    """

    has_net = False  # see `operators.base.Operator`

    def __init__(
        self,
        thresholds: str,
        *,
        name: str = "accept",
        upstream_keys: Mapping[str, str] | None = None,
    ) -> None:
        calibration = read_calibration(thresholds)
        self.name = name
        self.columns = calibration.columns
        sources = [_source(column, given) for column, given in self.columns.items()]
        self.reads = tuple(dict.fromkeys(column for one in sources for column in one.reads))
        self.writes = acceptance_schema(name)
        self.batch_rows = BATCH_ROWS
        known = dict(upstream_keys or {})
        self.outdated = frozenset(
            column for column, given in self.columns.items() if _is_outdated(given, known)
        )
        if self.outdated:
            told = ", ".join(sorted(self.outdated))
            logger.warning("event=calibration_outdated file=%s columns=%s", thresholds, told)
        columns = {column: given.model_dump() for column, given in self.columns.items()}
        self.description: Mapping[str, Any] = {
            "operator": "acceptance",
            "code": CODE_VERSION,
            "options": {
                "precision": calibration.precision,
                "confidence": calibration.confidence,
                "columns": columns,
            },
            "upstream": known,
        }
        self.key = fingerprint(self.description)

    def load(self) -> None:
        """Has nothing to read."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Judges every row by all its answers: the most doubtful one decides."""
        judged = _together(
            [self._judge(table, column, given) for column, given in self.columns.items()]
        )
        return pa.table(
            [*_decided(judged, table.num_rows), _listed(judged, table.num_rows)], schema=self.writes
        )

    def _judge(self, table: pa.Table, column: str, given: CalibratedColumn) -> Verdicts:
        claims = claims_of(table, _source(column, given))
        if column in self.outdated:
            verdicts = np.full(len(claims.rows), VERDICTS.index(REVIEW))
            reasons = pa.repeat(f"{column}: {OUTDATED}", len(claims.rows))
        else:
            verdicts, reasons = _held_to(claims, column, given.thresholds)
        probability = Scale(given.temperature, given.shift)(claims.confidence)
        return Verdicts(
            claims.rows,
            verdicts,
            probability.astype(np.float32),
            pa.repeat(column, len(claims.rows)),
            claims.labels,
            reasons,
        )


def verdicts_of(claims: Claims, thresholds: Sequence[Thresholds]) -> Integers:
    """Holds claims to thresholds: a position in `VERDICTS` for each."""
    at = _which(claims, thresholds)
    accept = np.array([_or(one.accept, np.inf) for one in thresholds])[at]
    reject = np.array([_or(one.reject, -np.inf) for one in thresholds])[at]
    found = np.full(len(at), VERDICTS.index(REVIEW))
    found[claims.confidence <= reject] = VERDICTS.index(REJECTED)
    found[claims.confidence >= accept] = VERDICTS.index(ACCEPTED)
    return found


def _source(column: str, given: CalibratedColumn) -> Source:
    return Source(column, given.kind, given.signals)


def _is_outdated(given: CalibratedColumn, known: Mapping[str, str]) -> bool:
    return any(known.get(column, key) != key for column, key in given.keys.items())


def _which(claims: Claims, thresholds: Sequence[Thresholds]) -> Integers:
    """The thresholds of each claim: those of its label, else those of all."""
    labels = [one.label for one in thresholds]
    whole = labels.index(None) if None in labels else len(labels)
    at = pc.index_in(claims.labels, value_set=pa.array(labels, pa.string()))
    return np.asarray(pc.fill_null(at, whole).to_numpy(zero_copy_only=False), np.int64)


def _held_to(
    claims: Claims, column: str, thresholds: Sequence[Thresholds]
) -> tuple[Integers, pa.Array]:
    """Verdicts and their reasons, such as `entailment yes: confidence 0.98, at least 0.91`."""
    verdicts = verdicts_of(claims, thresholds)
    texts = [text for one in thresholds for text in _texts(one)]
    at = len(VERDICTS) * _which(claims, thresholds) + verdicts
    is_named = pc.not_equal(claims.labels, column)
    prefix = pc.if_else(is_named, pc.binary_join_element_wise(column, claims.labels, " "), column)
    shown = pc.cast(pc.round(pa.array(claims.confidence), DIGITS), pa.string())
    told = pc.binary_join_element_wise(prefix, ": confidence ", shown, pa.array(texts).take(at), "")
    return verdicts, told


def _texts(given: Thresholds) -> tuple[str, ...]:
    """How a confidence compares, for each of `VERDICTS`."""
    accept = f"{_or(given.accept, 0):.{DIGITS}g}"
    reject = f"{_or(given.reject, 0):.{DIGITS}g}"
    review = f", below {accept}" if given.accept is not None else ", and none is certain enough"
    review += f" and above {reject}" if given.reject is not None else ""
    return (f", at least {accept}", review, f", at most {reject}")


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _together(parts: Sequence[Verdicts]) -> Verdicts:
    """The verdicts of several columns, row by row."""
    rows = np.concatenate([part.rows for part in parts])
    order = np.argsort(rows, kind="stable")
    strings = [
        pa.concat_arrays([pa.array(getattr(part, name), pa.string()) for part in parts]).take(order)
        for name in ("of", "labels", "reasons")
    ]
    return Verdicts(
        rows[order],
        np.concatenate([part.verdicts for part in parts])[order],
        np.concatenate([part.probability for part in parts])[order],
        *strings,
    )


def _decided(judged: Verdicts, rows: int) -> tuple[pa.Array, pa.Array]:
    """The verdict of each row and its reason: those of its most doubtful answer."""
    order = np.lexsort((judged.probability, -judged.verdicts, judged.rows))
    of_row, firsts = np.unique(judged.rows[order], return_index=True)
    deciding = order[firsts]
    at = np.full(rows, -1)
    at[of_row] = deciding
    taken = pa.array(at, mask=at < 0)
    verdicts = pa.array(VERDICTS).take(pa.array(judged.verdicts)).take(taken)
    return pc.fill_null(verdicts, REVIEW), pc.fill_null(judged.reasons.take(taken), NOTHING)


def _listed(judged: Verdicts, rows: int) -> pa.Array:
    """All verdicts of each row."""
    entries = pa.StructArray.from_arrays(
        [
            judged.of,
            judged.labels,
            pa.array(VERDICTS).take(pa.array(judged.verdicts)),
            pa.array(judged.probability),
        ],
        names=["of", "label", "verdict", "probability"],
    )
    counts = np.bincount(judged.rows, minlength=rows)
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), entries)

"""Finds which answers of a table need no person: thresholds that keep a promised precision.

People's answers about a random sample of rows are all it takes. Each column gets a threshold above
which its answers are right, and one below which they are wrong, as often as was asked, with a
stated confidence (`jobs.learn_then_test`); and a scale that turns its confidence into a probability
(`jobs.reliability`). The thresholds are tested on the confidence as it is, so the scale costs no
answers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import storage
from jobs.gold import Answered, Judged, match, read_gold
from jobs.learn_then_test import Finding, find_threshold, independent, seems_random
from jobs.records import read_description
from jobs.reliability import Bin, cross_fitted, fit_scale, reliability
from jobs.roles import judges_of, present_keys, text_columns
from jobs.table import Table, existing_table
from operators.acceptance import VERDICTS, verdicts_of
from operators.claims import Claims, Scale, Source, claims_of, sources_of
from schemas.calibration import CalibratedColumn, Calibration, Thresholds
from schemas.enriched import ERROR, IMAGE_ID, key_column
from schemas.errors import ConfigError, DatasetError

EVEN = 0.5  # from here on an answer is more likely right than wrong


@dataclass(frozen=True)
class Promise:
    """What was found for the answers of one label, or of a whole column.

    Args:
        label: None for a whole column.
        tested: of people's answers, those that are independent of each other.
        accept: from which confidence on they are right.
        reject: down to which they are wrong.
    """

    label: str | None
    tested: int
    accept: Finding
    reject: Finding


@dataclass(frozen=True)
class Calibrated:
    """What was found for one column.

    Args:
        column: as it is written to the file.
        answers: of people, and how many of them say that the table is right.
        right: see there.
        recall: of a column of tags, the share of the true ones that the table gives; None where
            people named none that it does not give.
        promises: for each label, or one.
        verdicts: answers of the table by what becomes of them.
        before: the diagram of the confidence as it is.
        after: of the probability, each answer's by a scale that was fitted without it.
        seems_random: whether the answered confidences look like those of the table.
    """

    column: CalibratedColumn
    answers: int
    right: int
    recall: float | None
    promises: tuple[Promise, ...]
    verdicts: Mapping[str, int]
    before: Sequence[Bin]
    after: Sequence[Bin]
    seems_random: bool


@dataclass(frozen=True)
class Found:
    """What a calibration found.

    Args:
        path: of the file with thresholds.
        calibration: what the file says.
        columns: by name.
        left_out: people's answers that do not count, by reason.
    """

    path: str
    calibration: Calibration
    columns: Mapping[str, Calibrated]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_of_use(self) -> bool:
        """Whether anything could be promised."""
        thresholds = [one for c in self.columns.values() for one in c.column.thresholds]
        return any(one.accept is not None or one.reject is not None for one in thresholds)

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "thresholds": self.path,
            "precision": self.calibration.precision,
            "confidence": self.calibration.confidence,
            "columns": {name: _column_json(one) for name, one in self.columns.items()},
            "left_out": dict(self.left_out),
        }


def run(
    table: str,
    gold: str,
    *,
    precision: float,
    confidence: float,
    to: str,
    per_label: bool = False,
) -> Found:
    """Calibrates the columns that people's answers are about, and writes the thresholds.

    Args:
        table: path of an enriched table.
        gold: people's answers, see `jobs.gold`.
        precision: share of the accepted that must be right, and of the rejected wrong.
        confidence: with which each promise must hold.
        to: the file to write.
        per_label: whether each label of a column gets thresholds of its own; their promises then
            hold together with that confidence.

    Raises:
        ConfigError: precision or confidence is no share.
        DatasetError: there is no table, no column to calibrate, or the answers do not fit it.
        TableError: something else lies there.
    """
    _check_shares(precision=precision, confidence=confidence)
    if Path(to).is_dir():
        raise ConfigError(f"--to {to!r}: is a folder; give a file, such as {to}/thresholds.json")
    opened = existing_table(table)
    answers = read_gold(gold)
    keys = present_keys(opened)
    descriptions = {name: read_description(opened.path, key) for name, key in keys.items()}
    judged, of_column = _judged(opened, keys, descriptions, answers[IMAGE_ID])
    answered, left_out = match(answers, judged, where=gold)
    risk = 1 - confidence
    columns = {
        one.source.column: _calibrated(
            one,
            answered[one.source.column],
            keys=of_column[one.source.column],
            precision=precision,
            risk=risk,
            per_label=per_label,
        )
        for one in judged
        if one.source.column in answered
    }
    calibration = Calibration(
        precision=precision,
        confidence=confidence,
        table=opened.path,
        version=opened.version,
        columns={name: one.column for name, one in columns.items()},
    )
    path = storage.normalise(to)
    storage.write_bytes(path, calibration.model_dump_json(indent=2).encode() + b"\n")
    return Found(to, calibration, columns, left_out)


def _check_shares(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 < value < 1:
            raise ConfigError(f"--{name} is {value}; it must lie between 0 and 1, such as 0.95")


def _judged(
    opened: Table,
    keys: Mapping[str, str],
    descriptions: Mapping[str, Mapping[str, Any]],
    images: pa.ChunkedArray,
) -> tuple[list[Judged], dict[str, dict[str, str]]]:
    """The columns of answers, and for each the keys of the columns it is made of.

    Rows with an error, and rows that another version of an operator computed, do not count.
    """
    texts = text_columns(descriptions)
    sources = sources_of(opened.schema, judges_of(descriptions))
    if not sources:
        names = ", ".join(opened.schema.names)
        raise DatasetError(f"{opened.path}: no column of answers to calibrate; it has {names}")
    writers = {column: _writer(column, keys) for one in sources for column in one.reads}
    wanted = [*writers, *(key_column(name) for name in keys), IMAGE_ID, ERROR]
    rows = opened.read(list(dict.fromkeys(wanted)))
    about = {
        source.column: source.column if source.kind == "captioner" else texts.get(source.column)
        for source in sources
    }
    shown = {text: _texts_of(opened, text, images) for text in set(about.values()) if text}
    found: list[Judged] = []
    of_column: dict[str, dict[str, str]] = {}
    for source in sources:
        mine = {column: keys[writers[column]] for column in source.reads if writers[column]}
        usable = rows.filter(_is_usable(rows, {writers[c]: key for c, key in mine.items()}))
        claims = claims_of(usable, source)
        ids = usable[IMAGE_ID].combine_chunks().take(pa.array(claims.rows))
        texts_of = shown.get(about[source.column] or "", {})
        found.append(Judged(source, claims, ids, texts_of, _tagged(usable, source, images)))
        of_column[source.column] = mine
    return found, of_column


def _tagged(rows: pa.Table, source: Source, images: pa.ChunkedArray) -> frozenset[str]:
    """Of some images those that a tagger looked at; none for another kind of column."""
    if source.kind != "tags":
        return frozenset()
    is_tagged = pc.is_valid(rows[source.column])
    is_tagged = pc.and_(is_tagged, pc.is_in(rows[IMAGE_ID], value_set=images.combine_chunks()))
    return frozenset(rows[IMAGE_ID].filter(is_tagged).to_pylist())


def _writer(column: str, operators: Iterable[str]) -> str:
    """The operator that wrote a column: the longest name that it begins with; empty for none."""
    known = [name for name in operators if column == name or column.startswith(f"{name}_")]
    return max(known, key=len, default="")


def _is_usable(rows: pa.Table, keys: Mapping[str, str]) -> pa.ChunkedArray:
    mask = pc.is_null(rows[ERROR])
    for name, key in keys.items():
        mask = pc.and_(mask, pc.fill_null(pc.equal(rows[key_column(name)], key), False))
    return mask


def _texts_of(opened: Table, column: str, images: pa.ChunkedArray) -> dict[str, str]:
    """A column of text, of some images."""
    if column not in opened.schema.names:
        return {}
    data = opened.delta.to_pyarrow_dataset()
    is_wanted = pc.field(IMAGE_ID).isin(images.combine_chunks())
    rows = data.to_table(columns=[IMAGE_ID, column], filter=is_wanted)
    return dict(zip(rows[IMAGE_ID].to_pylist(), rows[column].to_pylist(), strict=True))


def _calibrated(
    judged: Judged,
    answered: Answered,
    *,
    keys: Mapping[str, str],
    precision: float,
    risk: float,
    per_label: bool,
) -> Calibrated:
    claims, source = judged.claims, judged.source
    confidence = claims.confidence[answered.claims]
    right = int(np.count_nonzero(answered.is_right))
    promises = _promises(
        claims,
        answered,
        precision=precision,
        risk=risk,
        labels=_labels(claims, answered, per_label),
    )
    scale = fit_scale(confidence, answered.is_right)
    column = CalibratedColumn(
        kind=source.kind,
        signals=source.signals,
        keys=keys,
        temperature=scale.temperature,
        shift=scale.shift,
        thresholds=tuple(_thresholds(promise, scale) for promise in promises),
    )
    counts = np.bincount(verdicts_of(claims, column.thresholds), minlength=len(VERDICTS))
    return Calibrated(
        column=column,
        answers=len(confidence),
        right=right,
        recall=right / (right + answered.missed) if answered.missed else None,
        promises=tuple(promises),
        verdicts=dict(zip(VERDICTS, counts.tolist(), strict=True)),
        before=reliability(confidence, answered.is_right),
        after=reliability(cross_fitted(confidence, answered.is_right), answered.is_right),
        seems_random=seems_random(claims.confidence, confidence),
    )


def _labels(claims: Claims, answered: Answered, per_label: bool) -> list[str | None]:
    if not per_label:
        return [None]
    return sorted(set(claims.labels.take(pa.array(answered.claims)).to_pylist()))


def _promises(
    claims: Claims,
    answered: Answered,
    *,
    precision: float,
    risk: float,
    labels: Sequence[str | None],
) -> list[Promise]:
    """Tests thresholds for each label on the answers to it."""
    found = []
    for label in labels:
        is_of = (
            np.ones(len(claims.rows), np.bool_)
            if label is None
            else pc.equal(claims.labels, label).to_numpy(zero_copy_only=False)
        )
        among = np.flatnonzero(is_of[answered.claims])
        among = among[independent(claims.rows[answered.claims[among]])]
        population = claims.confidence[is_of]
        confidence = claims.confidence[answered.claims[among]]
        is_right = answered.is_right[among]
        asked = {"precision": precision, "risk": risk / len(labels)}
        accept = find_threshold(population, confidence, is_right, **asked)
        reject = find_threshold(-population, -confidence, ~is_right, **asked)
        found.append(Promise(label, len(among), accept, reject))
    return found


def _thresholds(promise: Promise, scale: Scale) -> Thresholds:
    """The thresholds that leave least to people.

    Where both promises would cover the same answers, those that are more likely right than wrong
    can be accepted only, the others rejected only.
    """
    accepting = promise.accept.thresholds
    rejecting = tuple(-threshold for threshold in promise.reject.thresholds)
    if accepting and rejecting and rejecting[-1] >= accepting[-1]:
        accepting = tuple(t for t in accepting if scale(np.array([t]))[0] > EVEN)
        rejecting = tuple(t for t in rejecting if scale(np.array([t]))[0] <= EVEN)
    return Thresholds(
        label=promise.label,
        accept=min(accepting, default=None),
        reject=max(rejecting, default=None),
    )


def _column_json(found: Calibrated) -> dict[str, Any]:
    thresholds = [
        {
            **given.model_dump(),
            "tested": promise.tested,
            "answers": promise.accept.answers,
            "more": promise.accept.more,
        }
        for given, promise in zip(found.column.thresholds, found.promises, strict=True)
    ]
    return {
        "answers": found.answers,
        "right": found.right,
        "recall": found.recall,
        "temperature": found.column.temperature,
        "shift": found.column.shift,
        "thresholds": thresholds,
        "verdicts": dict(found.verdicts),
        "seems_random": found.seems_random,
        "reliability": [asdict(one) for one in found.after],
    }


if __name__ == "__main__":
    from jobs.cli import main

    main(["calibrate"])

"""Counts a table and finds the rows worth looking at, in one pass and little memory.

Only columns of scores and labels are read, batch by batch; of each kind of row the places of a few
are kept, and `read_rows` reads those.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.roles import AGREEMENT, Roles
from jobs.table import Table
from operators.claims import LABELS
from schemas.enriched import ENRICHED_AT, ERROR

BINS = 20  # of a histogram over [0, 1]
BATCH_ROWS = 65_536
SHOWN = 12  # rows of a kind
LIKELY = 0.5  # from here on an answer is more likely so than not
MOST_PER_FAULT = 4  # failed rows of one stage and code

Floats = npt.NDArray[np.float64]


@dataclass
class Histogram:
    """How values in [0, 1] are spread.

    Args:
        counts: (`BINS`,) values by size.
        total: their sum.
    """

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    total: float = 0.0

    def add(self, values: Floats) -> None:
        """Counts values; those that are not a number do not count."""
        known = np.clip(values[np.isfinite(values)], 0.0, 1.0)
        places = np.minimum((known * BINS).astype(np.int64), BINS - 1)
        self.counts += np.bincount(places, minlength=BINS)
        self.total += float(known.sum())

    @property
    def count(self) -> int:
        """How many values there are."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Of the values; 0 without any."""
        return self.total / self.count if self.count else 0.0


class Highest:
    """The places of the rows with the highest values of a stream; the first of equals."""

    def __init__(self, count: int = 4 * SHOWN) -> None:
        self.count = count
        self.values: Floats = np.empty(0)
        self.rows: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def add(self, values: Floats, first: int) -> None:
        """Takes the values of rows from place `first` on; not a number is no candidate."""
        places = np.flatnonzero(np.isfinite(values))
        values = np.concatenate([self.values, values[places]])
        rows = np.concatenate([self.rows, places + first])
        order = np.argsort(-values, kind="stable")[: self.count]
        self.values, self.rows = values[order], rows[order]


@dataclass
class Survey:
    """What a table holds.

    Args:
        rows: all.
        errors: rows by stage and code of their error.
        scores: histograms by column.
        labels: counts of answers by column, and for lists by column and entry.
        since: when the oldest row was computed; None where no row says.
        until: when the latest was.
        best: places of the rows that seem best.
        worst: places of those that seem worst.
        disagreeing: places of rows whose caption is denied by another model.
        failed: places of rows with an error, by stage and code.
    """

    rows: int = 0
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    scores: dict[str, Histogram] = field(default_factory=dict)
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    since: datetime | None = None
    until: datetime | None = None
    best: Highest = field(default_factory=Highest)
    worst: Highest = field(default_factory=Highest)
    disagreeing: Highest = field(default_factory=Highest)
    failed: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    @property
    def healthy(self) -> int:
        """Rows without an error."""
        return self.rows - self.errors.total()

    def sheet(self) -> dict[str, list[int]]:
        """The places of the rows to look at, by kind; none is there twice."""
        kinds: dict[str, list[int]] = {"best": [], "worst": [], "disagreeing": [], "failed": []}
        kinds["failed"] = [place for places in self.failed.values() for place in places][:SHOWN]
        kinds["disagreeing"] = self.disagreeing.rows.tolist()[:SHOWN]
        seen = {*kinds["failed"], *kinds["disagreeing"]}
        best, worst = (
            [place for place in one.rows.tolist() if place not in seen]
            for one in (self.best, self.worst)
        )
        for ends in zip(best, worst, strict=False):  # in turn: a short table is shared out
            for kind, place in zip(("best", "worst"), ends, strict=True):
                if place not in seen and len(kinds[kind]) < SHOWN:
                    kinds[kind].append(place)
                    seen.add(place)
        return kinds


def survey(table: Table, roles: Roles) -> Survey:
    """Goes once over the columns of scores and labels."""
    found = Survey()
    columns = _columns(table.schema, roles)
    batches = table.delta.to_pyarrow_dataset().to_batches(columns=columns, batch_size=BATCH_ROWS)
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        _count_errors(found, rows)
        _count(found, rows, roles)
        _pick(found, rows, roles)
        found.rows += rows.num_rows
    return found


def read_rows(table: Table, columns: Sequence[str], places: Iterable[int]) -> list[dict[str, Any]]:
    """Reads rows by their places among all rows, in the order of the places."""
    names = [name for name in dict.fromkeys(columns) if name in table.schema.names]
    at = pa.array(list(places), pa.int64())
    if not len(at):
        return []
    rows: list[dict[str, Any]] = (
        table.delta.to_pyarrow_dataset().take(at, columns=names).to_pylist()
    )
    return rows


def _columns(schema: pa.Schema, roles: Roles) -> list[str]:
    wanted = [ERROR, ENRICHED_AT, *roles.tags, *roles.verdicts, *roles.quality_reads]
    for source in roles.sources:
        wanted += source.reads
    return [name for name in dict.fromkeys(wanted) if name in schema.names]


def _count(found: Survey, rows: pa.Table, roles: Roles) -> None:
    if ENRICHED_AT in rows.column_names:
        ends = pc.min_max(rows[ENRICHED_AT]).as_py()
        found.since = min(filter(None, (found.since, ends["min"])), default=None)
        found.until = max(filter(None, (found.until, ends["max"])), default=None)
    for name, values in _scores(rows, roles):
        found.scores.setdefault(name, Histogram()).add(values)
    for name, answers in _answers(rows, roles):
        counts = found.labels.setdefault(name, Counter())
        for one in pc.value_counts(answers.drop_null()).to_pylist():
            counts[str(one["values"])] += one["counts"]


def _scores(rows: pa.Table, roles: Roles) -> Iterable[tuple[str, Floats]]:
    """The columns of scores, as numbers in [0, 1]."""
    if roles.agreement:
        yield AGREEMENT, _numbers(rows[AGREEMENT])
    for source in roles.sources:
        if source.kind == "captioner":
            name = f"{source.column}_score"
            yield name, np.exp(np.minimum(_numbers(rows[name]), 0.0))
        elif source.kind != "hypotheses":
            for name in source.signals:
                yield name, _numbers(rows[name])


def _answers(rows: pa.Table, roles: Roles) -> Iterable[tuple[str, pa.Array]]:
    """The columns of labels; of a list each entry has a name of its own."""
    for name in roles.verdicts:
        yield name, rows[name].combine_chunks()
    for source in roles.of_kind("entailment"):
        yield source.column, rows[source.column].combine_chunks()
    for source in roles.of_kind("hypotheses"):
        entries = pc.list_flatten(rows[source.column].combine_chunks())
        texts, answers = (pc.struct_field(entries, name) for name in ("text", "label"))
        for text in pc.unique(texts.drop_null()).to_pylist():
            yield f"{source.column}: {text}", answers.filter(pc.equal(texts, text))
    for name in roles.tags:
        entries = pc.list_flatten(rows[name].combine_chunks())
        yield name, pc.struct_field(entries, "label")


def _pick(found: Survey, rows: pa.Table, roles: Roles) -> None:
    is_healthy = pc.is_null(rows[ERROR]).to_numpy()
    quality = np.where(is_healthy, roles.quality(rows), np.nan)
    found.best.add(quality, found.rows)
    found.worst.add(-quality, found.rows)
    found.disagreeing.add(np.where(is_healthy, _denial(rows, roles), np.nan), found.rows)


def _count_errors(found: Survey, rows: pa.Table) -> None:
    """Counts errors by stage and code, and keeps the places of the first of each."""
    errors = rows[ERROR].combine_chunks()
    stages, codes = (pc.struct_field(errors, name) for name in ("stage", "code"))
    kinds = pc.binary_join_element_wise(stages, codes, "\n")
    for one in pc.value_counts(kinds.drop_null()).to_pylist():
        stage, _, code = one["values"].partition("\n")
        found.errors[stage, code] += one["counts"]
        places = found.failed.setdefault((stage, code), [])
        if len(places) < MOST_PER_FAULT:
            here = pc.indices_nonzero(pc.equal(kinds, one["values"])).to_numpy()
            places += (here[: MOST_PER_FAULT - len(places)] + found.rows).tolist()


def _denial(rows: pa.Table, roles: Roles) -> Floats:
    """How surely another model denies a row's caption; not a number where none does."""
    found = np.full(rows.num_rows, np.nan)
    for caption in roles.captions:
        for name in roles.judges_of(caption, "entailment"):
            said_no = pc.fill_null(pc.equal(rows[name], LABELS[1]), False).to_numpy()
            found = np.fmax(found, np.where(said_no, _numbers(rows[f"{name}_no"]), np.nan))
        for name in roles.judges_of(caption, "matcher"):
            mismatch = 1 - _numbers(rows[name])
            found = np.fmax(found, np.where(mismatch > LIKELY, mismatch, np.nan))
    return found


def _numbers(column: pa.ChunkedArray) -> Floats:
    values = pc.cast(column, pa.float64()).to_numpy()
    return np.asarray(values, np.float64)


def top(counts: Mapping[str, int], most: int) -> list[tuple[str, int]]:
    """The most frequent, the first of equals by name."""
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:most]

"""What an enriched table claims of its images, one answer at a time, and how confident it is.

An answer's confidence is what its operators say of it themselves:

- a label of an entailment checker: the probability of that label;
- a match: its probability;
- a tag: the probability that it holds;
- a caption: the geometric mean of the probabilities of its tokens (`exp` of its score), and of what
  was said of it afterwards, where the table has that: that it is entailed, that it matches. The
  three are put together by their geometric mean, so each can pull it down.

It need not be a probability of being right; `Scale` makes one of it, fitted to people's answers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.calibration import Kind
from schemas.enriched import ALTERNATIVES_TYPE, HYPOTHESES_TYPE, TAGS_TYPE

LABELS = ("yes", "no", "maybe")
YES = "yes"  # what a caption, a match or a tag answers: it is so
EDGE = 1e-9  # confidences are this far from 0 and 1 where log odds are taken of them
LARGEST_ODDS = 500.0  # of which `exp` is still finite

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Source:
    """A column of answers.

    Args:
        column: its name, which is that of its operator.
        kind: of the operator.
        signals: the columns that the confidence is made of.
    """

    column: str
    kind: Kind
    signals: tuple[str, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """All columns that its claims are made of; a caption's text is none of them."""
        return (self.column, *self.signals) if self.kind == "entailment" else self.signals


@dataclass(frozen=True)
class Claims:
    """Answers of one column, in the order of the rows.

    Args:
        rows: (n,) the position of each one's row.
        labels: (n,) strings: whose thresholds it takes; an answer, or what was judged.
        answers: (n,) strings: yes, no or maybe.
        confidence: (n,) in [0, 1].
    """

    rows: npt.NDArray[np.int64]
    labels: pa.Array
    answers: pa.Array
    confidence: Floats


@dataclass(frozen=True)
class Scale:
    """Turns a confidence into the probability that the answer is right.

    Source: Platt 1999, "Probabilistic outputs for support vector machines"; without the shift it is
    the temperature of Guo et al. 2017, arXiv:1706.04599.
    """

    temperature: float
    shift: float

    def __call__(self, confidence: Floats) -> Floats:
        """Takes and gives (n,)."""
        odds = log_odds(confidence) / self.temperature + self.shift
        return np.asarray(1 / (1 + np.exp(-np.clip(odds, -LARGEST_ODDS, LARGEST_ODDS))))


def log_odds(confidence: Floats) -> Floats:
    """The logarithm of p / (1 - p), kept finite."""
    inside = np.clip(confidence, EDGE, 1 - EDGE)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def sources_of(schema: pa.Schema, judges: Mapping[str, tuple[str, ...]]) -> list[Source]:
    """Finds the columns of answers in a table by their types.

    Args:
        schema: of the table.
        judges: for a caption's column, the columns of probabilities that were said of it.
    """
    return list(_sources(schema, judges))


def claims_of(table: pa.Table, source: Source) -> Claims:
    """Takes the answers of a column apart; those that are null are none.

    Args:
        table: with `source.reads`.
        source: one of `sources_of`.
    """
    if source.kind == "hypotheses":
        return _hypotheses(table, source)
    if source.kind == "tags":
        return _tags(table, source)
    if source.kind == "entailment":
        answers = table[source.column].combine_chunks()
        told = np.stack([_numbers(table[name]) for name in source.signals])  # (3, n)
        at = pc.index_in(answers, value_set=pa.array(LABELS)).to_numpy(zero_copy_only=False)
        confidence = _chosen(told, at)
        return _known(answers, answers, confidence)
    confidence = np.exp(np.mean([_log(table, name, source) for name in source.signals], axis=0))
    yes = pa.repeat(YES, table.num_rows)
    return _known(pa.repeat(source.column, table.num_rows), yes, confidence)


def _sources(schema: pa.Schema, judges: Mapping[str, tuple[str, ...]]) -> Iterator[Source]:
    kinds = {field.name: field.type for field in schema}
    for name, kind in kinds.items():
        beside = [f"{name}_{label}" for label in LABELS]
        if pa.types.is_string(kind) and all(_is_number(kinds, other) for other in beside):
            yield Source(name, "entailment", tuple(beside))
        elif kind == HYPOTHESES_TYPE:
            yield Source(name, "hypotheses", (name,))
        elif kind == TAGS_TYPE:
            yield Source(name, "tags", (name,))
        elif pa.types.is_string(kind) and kinds.get(f"{name}_alternatives") == ALTERNATIVES_TYPE:
            yield Source(name, "captioner", (f"{name}_score", *judges.get(name, ())))
        elif _is_number(kinds, name) and _is_number(kinds, f"{name}_similarity"):
            yield Source(name, "matcher", (name,))


def _is_number(kinds: Mapping[str, pa.DataType], name: str) -> bool:
    return name in kinds and pa.types.is_floating(kinds[name])


def _hypotheses(table: pa.Table, source: Source) -> Claims:
    """The entries of lists: each its own answer about what it names."""
    entries, rows = _entries(table[source.column])
    answers = pc.struct_field(entries, "label")
    told = np.stack([_numbers(pc.struct_field(entries, label)) for label in LABELS])
    at = pc.index_in(answers, value_set=pa.array(LABELS)).to_numpy(zero_copy_only=False)
    return _known(pc.struct_field(entries, "text"), answers, _chosen(told, at), rows)


def _tags(table: pa.Table, source: Source) -> Claims:
    """The entries of lists: each says that a label holds."""
    entries, rows = _entries(table[source.column])
    confidence = _numbers(pc.struct_field(entries, "yes"))
    return _known(pc.struct_field(entries, "label"), pa.repeat(YES, len(entries)), confidence, rows)


def _entries(column: pa.ChunkedArray) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """The entries of a column of lists, and the row of each."""
    lists = column.combine_chunks()
    return pc.list_flatten(lists), pc.list_parent_indices(lists).to_numpy()


def _chosen(told: Floats, at: npt.NDArray[np.generic]) -> Floats:
    """Of each column the value in the row that is asked for; not a number where none is."""
    is_known = ~np.isnan(at.astype(np.float64))
    rows = np.where(is_known, at, 0).astype(np.int64)
    return np.where(is_known, told[rows, np.arange(told.shape[1])], np.nan)


def _log(table: pa.Table, name: str, source: Source) -> Floats:
    """The logarithm of a probability; a caption's score is one."""
    values = _numbers(table[name])
    if name == f"{source.column}_score":
        return np.minimum(values, 0.0)
    return np.log(np.clip(values, EDGE, 1.0))


def _numbers(column: pa.Array | pa.ChunkedArray) -> Floats:
    """Values as float64; not a number where null."""
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _known(
    labels: pa.Array,
    answers: pa.Array,
    confidence: Floats,
    rows: npt.NDArray[np.int64] | None = None,
) -> Claims:
    """The claims that have an answer and a confidence."""
    is_known = np.isfinite(confidence) & pc.is_valid(answers).to_numpy(zero_copy_only=False)
    is_known &= pc.is_valid(labels).to_numpy(zero_copy_only=False)
    rows = np.arange(len(confidence)) if rows is None else rows
    mask = pa.array(is_known)
    return Claims(
        rows[is_known].astype(np.int64),
        labels.filter(mask),
        answers.filter(mask),
        confidence[is_known],
    )

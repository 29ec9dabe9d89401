"""Bringing a table's columns up to date: values by position, nulls, errors.

Everything here takes whole columns; no function loops over the rows of a table.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.enriched import (
    ATTEMPTS,
    ENRICHED_AT,
    ENRICHED_AT_TYPE,
    ERROR,
    ERROR_TYPE,
    IN_FLIGHT_SCHEMA,
    IS_DUE,
)
from schemas.errors import RowFault

Positions = npt.NDArray[np.int64]

BOOKKEEPING = (
    IN_FLIGHT_SCHEMA.field(IS_DUE),
    IN_FLIGHT_SCHEMA.field(ATTEMPTS),
    pa.field(ERROR, ERROR_TYPE),
    pa.field(ENRICHED_AT, ENRICHED_AT_TYPE),
)


@dataclass(frozen=True)
class Failure:
    """Why a row failed, and at which stage."""

    stage: str
    fault: RowFault


@dataclass
class Outcome:
    """What became of some rows: results by blocks of positions, failures by position.

    Args:
        positions: of blocks of rows that have results.
        results: of those blocks.
        failures: of the others.
        copied: rows among the former that were not computed.
    """

    positions: list[Positions] = field(default_factory=list)
    results: list[pa.Table] = field(default_factory=list)
    failures: dict[int, Failure] = field(default_factory=dict)
    copied: int = 0

    def settle(self, positions: Positions, results: pa.Table, *, is_copied: bool = False) -> None:
        """Gives rows their results."""
        self.positions.append(positions)
        self.results.append(results)
        self.copied += len(positions) if is_copied else 0

    def add(self, other: "Outcome") -> None:
        """Takes over what became of other rows."""
        self.positions += other.positions
        self.results += other.results
        self.failures.update(other.failures)
        self.copied += other.copied

    def computed(self) -> Positions:
        """All rows that have results, in the order of these."""
        return np.concatenate([np.empty(0, np.int64), *self.positions])

    def copy(self, repeats: Positions, firsts: Positions) -> Positions:
        """Gives repeated rows the results of the first ones.

        Returns:
            The rows whose first one has none.
        """
        row_of = {position: row for row, position in enumerate(self.computed().tolist())}
        rows = np.array([row_of.get(first, -1) for first in firsts.tolist()], np.int64)
        has_result = rows >= 0
        if has_result.any():
            results = pa.concat_tables(self.results).take(rows[has_result])
            self.settle(repeats[has_result], results, is_copied=True)
        return repeats[~has_result]


def with_columns(table: pa.Table, declared: Iterable[pa.Field]) -> pa.Table:
    """Makes the columns that are absent and gives the others their declared types.

    An absent column stands for: all rows due, nothing tried, nothing known.
    """
    for column in declared:
        at = table.schema.get_field_index(column.name)
        if at < 0:
            value = {IS_DUE: True, ATTEMPTS: 0}.get(column.name)
            made = pa.repeat(pa.scalar(value, column.type), table.num_rows)
            table = table.append_column(column, made)
        elif table.schema.field(at).type != column.type:
            table = table.set_column(at, column, table.column(at).cast(column.type))
    return table


def replace(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Gives a column other values, its place and type kept."""
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), values)


def update(
    table: pa.Table, name: str, positions: Positions, values: pa.Array | pa.ChunkedArray
) -> pa.Table:
    """Gives the rows at `positions` the `values`, in that order; the others keep theirs."""
    if not len(positions):
        return table
    old = table[name]
    source = np.arange(table.num_rows, dtype=np.int64)
    source[positions] = table.num_rows + np.arange(len(positions))
    new = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    return replace(table, name, pa.chunked_array([*old.chunks, *new], old.type).take(source))


def nulled(table: pa.Table, names: Iterable[str], is_nulled: npt.NDArray[np.bool_]) -> pa.Table:
    """Takes the values of the marked rows away from the named columns."""
    if not is_nulled.any():
        return table
    rows = pa.array(np.arange(table.num_rows, dtype=np.int64), mask=is_nulled)
    for name in names:
        table = replace(table, name, table[name].take(rows))
    return table


def is_due(table: pa.Table) -> pa.ChunkedArray:
    """Whether each row is to be computed rather than copied."""
    return pc.fill_null(table[IS_DUE], False)


def is_stale(table: pa.Table, key_column: str, key: str) -> pa.ChunkedArray:
    """Whether each row was computed by another version of the operator, or never."""
    return pc.fill_null(pc.not_equal(table[key_column], key), True)


def with_errors(table: pa.Table, failures: Mapping[int, Failure]) -> pa.Table:
    """Writes failures by position into `error`, each with one attempt more than before."""
    failed = np.array(sorted(failures), np.int64)
    attempts = table[ATTEMPTS].take(failed).to_pylist()
    errors = [
        {
            "stage": failures[position].stage,
            "code": failures[position].fault.code,
            "message": failures[position].fault.message,
            "transient": failures[position].fault.transient,
            "attempts": (before or 0) + 1,
        }
        for position, before in zip(failed.tolist(), attempts, strict=True)
    ]
    return update(table, ERROR, failed, pa.array(errors, ERROR_TYPE))


def stamped(table: pa.Table, positions: Positions) -> pa.Table:
    """Sets `enriched_at` of the rows at `positions` to now."""
    now = pa.repeat(pa.scalar(datetime.now(UTC), ENRICHED_AT_TYPE), len(positions))
    return update(table, ENRICHED_AT, positions, now)

"""What an operator is, and the one function that runs one over a table.

The batch job, Serve, `tagline apply` and evaluation all call `apply`, so a row gets the same answer
everywhere.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

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
    IMAGE_ENCODED,
    IN_FLIGHT_SCHEMA,
    IS_DUE,
    URI,
    key_column,
)
from schemas.errors import OperatorError, RowFault, RowFaults, TaglineError

FETCH_STAGE = "fetch"  # the stage of an error met while reading an image
MESSAGE_CHARACTERS = 500  # an error's message in the table; the log has all of it
_POISON_SIGNS = ("CUDA error", "device-side assert")
_BOOKKEEPING = (
    IN_FLIGHT_SCHEMA.field(IS_DUE),
    IN_FLIGHT_SCHEMA.field(ATTEMPTS),
    pa.field(ERROR, ERROR_TYPE),
    pa.field(ENRICHED_AT, ENRICHED_AT_TYPE),
)

logger = logging.getLogger(__name__)

Positions = npt.NDArray[np.int64]


class Operator(Protocol):
    """Adds columns to a table; cheap to build and to pickle, `load` reads the weights once."""

    name: str
    key: str  # `fingerprint(description)`
    description: Mapping[str, Any]  # what the key is made of; JSON-able
    reads: tuple[str, ...]  # columns it needs; `image_encoded` for the image
    writes: pa.Schema  # columns it adds, named after `name`; its key column is added by `apply`
    batch_rows: int  # rows per call unless the caller knows better

    def load(self) -> None:
        """Reads the weights; does nothing when they are there."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Computes exactly `writes` for every row of `table`, in order.

        Raises:
            RowFaults: some rows cannot be computed; names each and why. Nothing else was computed.
        """


Fetch = Callable[[pa.Table], pa.Table]


def fingerprint(description: Mapping[str, Any]) -> str:
    """16 hex digits that change when, and only when, the description does."""
    text = json.dumps(description, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def apply(
    operator: Operator,
    table: pa.Table,
    *,
    batch_rows: int | None = None,
    fetch: Fetch | None = None,
) -> pa.Table:
    """Runs an operator over the rows that are due, healthy and stale.

    Stale is a row whose key column is not the operator's key. A failing batch is halved until the
    bad rows stand alone and carry the error; rows named by `RowFaults` are taken out at once. Out
    of memory halves it too. A due row that failed at an earlier stage is not computed: what an
    older run left in this operator's columns is nulled.

    Args:
        operator: loaded by the first call that has a row to compute.
        table: any columns; `is_due`, `attempts`, `error`, `enriched_at` and the operator's own
            columns are made when absent. A row to be computed comes with `error` null and its
            former attempts in `attempts`.
        batch_rows: rows per call of the operator; its own default when None.
        fetch: fills `image_encoded` where it is null, for shards too big to travel with their
            bytes; the rows it cannot fill it names with `RowFaults`, and their error has the stage
            `fetch`.

    Returns:
        `table`, in its order, with `operator.writes`, its key column, `error` and `enriched_at`
        brought up to date.

    Raises:
        OperatorError: the operator did not return exactly `writes`, or reads a column the table
            does not have.
        Exception: a fault that poisons the process (a lost CUDA context), so that its owner can
            replace it.
    """
    rows = operator.batch_rows if batch_rows is None else batch_rows
    if rows < 1:
        raise ValueError(f"batch_rows is {rows}; at least 1 row a batch is needed")
    table = _with_columns(operator, table)
    stale = stale_rows(operator, table)
    outcome = _Outcome()
    if len(stale):
        operator.load()
        needed = _needed(operator, table, fetch)
        for start in range(0, len(stale), rows):
            _compute(operator, needed, stale[start : start + rows], fetch=fetch, outcome=outcome)
    return _merge(operator, table, outcome)


def stale_rows(operator: Operator, table: pa.Table) -> Positions:
    """Finds the rows that `apply` would compute: due, without an error, and of another key."""
    table = _with_columns(operator, table)
    key = table[key_column(operator.name)]
    is_stale = pc.fill_null(pc.not_equal(key, operator.key), True)
    is_healthy = pc.is_null(table[ERROR])
    wanted = pc.and_(pc.and_(_is_due(table), is_healthy), is_stale)
    return np.flatnonzero(wanted.to_numpy()).astype(np.int64)


@dataclass(frozen=True)
class _Failure:
    """Why a row failed, and where."""

    stage: str
    fault: RowFault


@dataclass
class _Outcome:
    """What became of the stale rows: results by blocks of positions, failures by position."""

    positions: list[Positions] = field(default_factory=list)
    results: list[pa.Table] = field(default_factory=list)
    failures: dict[int, _Failure] = field(default_factory=dict)


def _with_columns(operator: Operator, table: pa.Table) -> pa.Table:
    """Makes the columns that are absent and gives those of the operator their declared types."""
    for declared in (
        *operator.writes,
        pa.field(key_column(operator.name), pa.string()),
        *_BOOKKEEPING,
    ):
        at = table.schema.get_field_index(declared.name)
        if at < 0:
            table = table.append_column(declared, _constant(declared, table.num_rows))
        elif table.schema.field(at).type != declared.type:
            table = table.set_column(at, declared, table.column(at).cast(declared.type))
    return table


def _constant(declared: pa.Field, rows: int) -> pa.Array:
    """The value an absent column stands for: all rows due, nothing tried, nothing known."""
    value = {IS_DUE: True, ATTEMPTS: 0}.get(declared.name)
    return pa.repeat(pa.scalar(value, declared.type), rows)


def _is_due(table: pa.Table) -> pa.ChunkedArray:
    return pc.fill_null(table[IS_DUE], False)


def _needed(operator: Operator, table: pa.Table, fetch: Fetch | None) -> pa.Table:
    """The columns that travel with a micro-batch: the operator's, and what a fetch needs."""
    if fetch and IMAGE_ENCODED in operator.reads and IMAGE_ENCODED not in table.column_names:
        made = IN_FLIGHT_SCHEMA.field(IMAGE_ENCODED)
        table = table.append_column(made, _constant(made, table.num_rows))
    missing = [name for name in operator.reads if name not in table.column_names]
    if missing:
        raise OperatorError(
            f"operator {operator.name!r} reads {', '.join(map(repr, missing))}, which no stage "
            f"before it writes; the table has {', '.join(table.column_names)}"
        )
    extra = [URI] if fetch and URI in table.column_names else []
    return table.select(list(dict.fromkeys([*operator.reads, *extra])))


def _compute(
    operator: Operator,
    table: pa.Table,
    positions: Positions,
    *,
    fetch: Fetch | None,
    outcome: _Outcome,
) -> None:
    """Computes a micro-batch, and what each failure leaves of it, until all rows are settled."""
    waiting = [positions]
    while waiting:
        batch = waiting.pop()
        if not len(batch):
            continue
        stage, result = _attempt(operator, table, batch, fetch)
        if isinstance(result, pa.Table):
            outcome.positions.append(batch)
            outcome.results.append(result)
        elif isinstance(result, RowFaults):
            at = _fault_positions(stage, result, len(batch))
            for position in at:
                failure = _Failure(stage, result.faults[position])
                outcome.failures[int(batch[position])] = failure
            waiting.append(np.delete(batch, at))
        elif len(batch) == 1:
            outcome.failures[int(batch[0])] = _Failure(stage, _as_fault(result))
        else:
            half = (len(batch) + 1) // 2
            waiting += [batch[half:], batch[:half]]


def _attempt(
    operator: Operator, table: pa.Table, batch: Positions, fetch: Fetch | None
) -> tuple[str, pa.Table | Exception]:
    """One call of the operator; an error comes without its frames, which hold the batch."""
    stage = operator.name
    try:
        part = table.take(batch)
        if fetch and IMAGE_ENCODED in operator.reads and part[IMAGE_ENCODED].null_count:
            stage = FETCH_STAGE
            part = fetch(part).select(table.column_names)
            stage = operator.name
        result = operator(part.select(list(operator.reads)))
    except TaglineError:
        raise  # a fault of the set-up or of the program, not of a row
    except Exception as error:
        if _is_poison(error):
            raise
        logger.debug("event=batch_failed stage=%s rows=%d", stage, len(batch), exc_info=True)
        return stage, error.with_traceback(None)
    return stage, _checked(operator, result, len(batch))


def _checked(operator: Operator, result: object, rows: int) -> pa.Table:
    """Holds an operator to its contract: exactly `writes`, one row per row."""
    if not isinstance(result, pa.Table):
        raise OperatorError(
            f"operator {operator.name!r} returned {type(result).__name__}; "
            "it must return a pyarrow.Table"
        )
    if result.num_rows != rows:
        raise OperatorError(
            f"operator {operator.name!r} returned {result.num_rows} rows for {rows}; "
            "it must return one row per row, in order"
        )
    if result.column_names != operator.writes.names:
        raise OperatorError(
            f"operator {operator.name!r} returned the columns {result.column_names}; "
            f"it declares {operator.writes.names}"
        )
    try:
        return result.cast(operator.writes)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise OperatorError(
            f"operator {operator.name!r} returned types that do not fit what it declares: {error}"
        ) from error


def _fault_positions(stage: str, error: RowFaults, rows: int) -> list[int]:
    """The positions named, sorted; faults that name no row of the batch would be tried for ever."""
    at = sorted(error.faults)
    if not at or at[0] < 0 or at[-1] >= rows:
        raise OperatorError(
            f"stage {stage!r} named the faulty rows {at} in a batch of {rows}; "
            f"RowFaults must name at least one position from 0 to {rows - 1}"
        )
    return at


def _as_fault(error: Exception) -> RowFault:
    """What an exception means for the single row that caused it."""
    if isinstance(error, RowFault):
        return error
    message = f"{type(error).__name__}: {error}"[:MESSAGE_CHARACTERS]
    return RowFault("out_of_memory" if _is_out_of_memory(error) else "model", message)


def _is_out_of_memory(error: Exception) -> bool:
    """Told by name, so that torch need not be imported; CUDA's may be plain RuntimeErrors."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "out of memory" in str(error)


def _is_poison(error: Exception) -> bool:
    """Whether every later call in this process would fail too: the CUDA context is lost."""
    if _is_out_of_memory(error):
        return False
    if any(kind.__name__ == "AcceleratorError" for kind in type(error).__mro__):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(sign in text for sign in _POISON_SIGNS)


def _merge(operator: Operator, table: pa.Table, outcome: _Outcome) -> pa.Table:
    """Writes results and failures into the table, and nulls what a failed row may not keep."""
    computed = np.concatenate([*outcome.positions, np.empty(0, np.int64)])
    failed = np.array(sorted(outcome.failures), np.int64)
    source = np.arange(table.num_rows, dtype=np.int64)
    source[computed] = table.num_rows + np.arange(len(computed))
    is_nulled = _failed_before(operator, table)
    is_nulled[failed] = True
    taken = pa.array(source, mask=is_nulled)
    results = pa.concat_tables([operator.writes.empty_table(), *outcome.results])
    for declared in operator.writes:
        table = _set(table, declared, _spliced(table[declared.name], results[declared.name], taken))
    keys = pa.chunked_array([pa.repeat(pa.scalar(operator.key), len(computed))], pa.string())
    name = key_column(operator.name)
    table = _set(table, table.schema.field(name), _spliced(table[name], keys, taken))
    return _with_errors(table, outcome, failed, computed=computed)


def _failed_before(operator: Operator, table: pa.Table) -> npt.NDArray[np.bool_]:
    """Due rows that an earlier stage of this run ended: nothing after the first error is kept."""
    stage = pc.struct_field(table[ERROR], "stage")
    elsewhere = pc.fill_null(pc.not_equal(stage, operator.name), False)
    return pc.and_(_is_due(table), elsewhere).to_numpy().copy()  # type: ignore[no-any-return]


def _with_errors(
    table: pa.Table, outcome: _Outcome, failed: Positions, *, computed: Positions
) -> pa.Table:
    attempts = table[ATTEMPTS].take(pa.array(failed)).to_pylist()
    errors = [
        {
            "stage": outcome.failures[position].stage,
            "code": outcome.failures[position].fault.code,
            "message": outcome.failures[position].fault.message,
            "transient": outcome.failures[position].fault.transient,
            "attempts": (before or 0) + 1,
        }
        for position, before in zip(failed.tolist(), attempts, strict=True)
    ]
    new = pa.chunked_array([pa.array(errors, ERROR_TYPE)])
    source = np.arange(table.num_rows, dtype=np.int64)
    source[failed] = table.num_rows + np.arange(len(failed))
    table = _set(table, pa.field(ERROR, ERROR_TYPE), _spliced(table[ERROR], new, pa.array(source)))
    is_touched = np.zeros(table.num_rows, np.bool_)
    is_touched[computed] = is_touched[failed] = True
    now = pa.scalar(datetime.now(UTC), ENRICHED_AT_TYPE)
    stamped = pc.if_else(pa.array(is_touched), now, table[ENRICHED_AT])
    return _set(table, pa.field(ENRICHED_AT, ENRICHED_AT_TYPE), stamped)


def _spliced(old: pa.ChunkedArray, new: pa.ChunkedArray, source: pa.Array) -> pa.ChunkedArray:
    """Takes each row from `old` followed by `new`; a null source gives a null."""
    return pa.chunked_array([*old.chunks, *new.chunks], old.type).take(source)


def _set(table: pa.Table, declared: pa.Field, values: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(declared.name), declared, values)

"""What an operator is, and the one function that runs one over a table.

The batch job, Serve, `tagline apply` and evaluation all call `apply`, so a row gets the same answer
everywhere.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from operators.columns import (
    BOOKKEEPING,
    Failure,
    Outcome,
    Positions,
    is_due,
    is_stale,
    nulled,
    stamped,
    update,
    with_columns,
    with_errors,
)
from operators.repeats import Answers, compute_once, digests
from schemas.enriched import (
    ERROR,
    IMAGE_ENCODED,
    IMAGE_SHA256,
    IN_FLIGHT_SCHEMA,
    URI,
    key_column,
)
from schemas.errors import OperatorError, RowFault, RowFaults, TaglineError

FETCH_STAGE = "fetch"  # the stage of an error met while reading an image
MESSAGE_CHARACTERS = 500  # an error's message in the table; the log has all of it
_POISON_SIGNS = ("CUDA error", "device-side assert")

logger = logging.getLogger(__name__)


class Operator(Protocol):
    """Adds columns to a table; cheap to build and to pickle, `load` reads the weights once.

    One that reads texts names their columns in an attribute `texts`, so that a column of another
    type is refused before anything runs. One that asks a server, rather than compute by itself, has
    a true attribute `is_remote`: it gets no GPU, and one actor unless the job says otherwise. One
    that only compares columns has a false `has_net`, and gets no GPU either.
    """

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
OnBatch = Callable[[Positions], object]


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
    answers: Answers | None = None,
    on_copied: Callable[[int], object] | None = None,
    on_batch: OnBatch | None = None,
) -> pa.Table:
    """Runs an operator over the rows that are due, healthy and stale.

    Stale is a row whose key column is not the operator's key. A failing batch is halved until the
    bad rows stand alone and carry the error; rows named by `RowFaults` are taken out at once. Out
    of memory halves it too. Of rows with the same image, told by `image_sha256`, and the same
    values of all else that is read, one is computed and its results are copied. A due row that
    failed at an earlier stage is not computed: what an older run left in this operator's columns
    is nulled.

    Args:
        operator: loaded by the first call that has a row to compute.
        table: any columns; `is_due`, `attempts`, `error`, `enriched_at` and the operator's own
            columns are made when absent. A row to be computed comes with `error` null and its
            former attempts in `attempts`.
        batch_rows: rows per call of the operator; its own default when None.
        fetch: fills `image_encoded` where it is null, for shards too big to travel with their
            bytes; the rows it cannot fill it names with `RowFaults`, and their error has the stage
            `fetch`.
        answers: of calls for other tables, so that what they computed is copied too.
        on_copied: told how many rows were copied rather than computed.
        on_batch: told which rows are computed next, before each call of the operator.

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
    outcome = Outcome()
    if len(stale):
        operator.load()
        needed = _needed(operator, table, fetch)
        reads, is_fetched = operator.reads, fetch is not None
        seen = digests(operator.key, reads, table, stale, is_fetched=is_fetched)
        compute = partial(_compute, operator, needed, rows=rows, fetch=fetch, on_batch=on_batch)
        outcome = compute_once(compute, stale, seen, answers=answers, rows=rows)
    if on_copied:
        on_copied(outcome.copied)
    return _merge(operator, table, outcome)


def stale_rows(operator: Operator, table: pa.Table) -> Positions:
    """Finds the rows that `apply` would compute: due, without an error, and of another key."""
    table = _with_columns(operator, table)
    is_open = pc.and_(is_due(table), pc.is_null(table[ERROR]))
    wanted = pc.and_(is_open, is_stale(table, key_column(operator.name), operator.key))
    return np.flatnonzero(wanted.to_numpy()).astype(np.int64)


def _with_columns(operator: Operator, table: pa.Table) -> pa.Table:
    key = pa.field(key_column(operator.name), pa.string())
    return with_columns(table, (*operator.writes, key, *BOOKKEEPING))


def _needed(operator: Operator, table: pa.Table, fetch: Fetch | None) -> pa.Table:
    """The columns that travel with a micro-batch: the operator's, and what a fetch needs."""
    if fetch and IMAGE_ENCODED in operator.reads:
        table = with_columns(table, [IN_FLIGHT_SCHEMA.field(IMAGE_ENCODED)])
    missing = [name for name in operator.reads if name not in table.column_names]
    if missing:
        raise OperatorError(
            f"operator {operator.name!r} reads {', '.join(map(repr, missing))}, which no stage "
            f"before it writes; the table has {', '.join(table.column_names)}"
        )
    extra = [name for name in (URI, IMAGE_SHA256) if fetch and name in table.column_names]
    return table.select(list(dict.fromkeys([*operator.reads, *extra])))


def _compute(
    operator: Operator,
    table: pa.Table,
    positions: Positions,
    *,
    rows: int,
    fetch: Fetch | None,
    on_batch: OnBatch | None,
) -> Outcome:
    """Computes micro-batches, and what each failure leaves of one, until all rows are settled."""
    outcome = Outcome()
    starts = range(0, len(positions), rows)
    waiting = [positions[start : start + rows] for start in reversed(starts)]
    while waiting:
        batch = waiting.pop()
        if not len(batch):
            continue
        if on_batch:
            on_batch(batch)
        stage, result = _attempt(operator, table, batch, fetch)
        if isinstance(result, pa.Table):
            outcome.settle(batch, result)
        elif isinstance(result, RowFaults):
            at = _fault_positions(stage, result, len(batch))
            for position in at:
                failure = Failure(stage, result.faults[position])
                outcome.failures[int(batch[position])] = failure
            waiting.append(np.delete(batch, at))
        elif len(batch) == 1:
            outcome.failures[int(batch[0])] = Failure(stage, _as_fault(result))
        else:
            half = (len(batch) + 1) // 2
            waiting += [batch[half:], batch[:half]]
    return outcome


def _attempt(
    operator: Operator, table: pa.Table, batch: Positions, fetch: Fetch | None
) -> tuple[str, pa.Table | Exception]:
    """One call of the operator; an error comes without its frames, which hold the batch."""
    stage = operator.name
    try:
        part = _rows(table, batch)
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


def _rows(table: pa.Table, positions: Positions) -> pa.Table:
    """The rows at ascending positions; neighbours are not copied, for images are large."""
    start, rows = int(positions[0]), len(positions)
    if int(positions[-1]) - start == rows - 1:
        return table.slice(start, rows)
    return table.take(positions)


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


def _merge(operator: Operator, table: pa.Table, outcome: Outcome) -> pa.Table:
    """Writes results and failures into the table, and nulls what a failed row may not keep."""
    computed = outcome.computed()
    failed = np.array(sorted(outcome.failures), np.int64)
    results = pa.concat_tables([operator.writes.empty_table(), *outcome.results])
    for name in operator.writes.names:
        table = update(table, name, computed, results[name])
    key = key_column(operator.name)
    table = update(table, key, computed, pa.repeat(operator.key, len(computed)))
    is_lost = _failed_before(operator, table)
    is_lost[failed] = True
    table = nulled(table, (*operator.writes.names, key), is_lost)
    return stamped(with_errors(table, outcome.failures), np.concatenate([computed, failed]))


def _failed_before(operator: Operator, table: pa.Table) -> npt.NDArray[np.bool_]:
    """Due rows that an earlier stage of this run ended: nothing after the first error is kept."""
    stage = pc.struct_field(table[ERROR], "stage")
    elsewhere = pc.fill_null(pc.not_equal(stage, operator.name), False)
    return np.array(pc.and_(is_due(table), elsewhere).to_numpy(), np.bool_)

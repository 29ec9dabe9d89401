"""Finds the rows that kill or hang the process which computes them, and computes all the others.

A suspect shard is run in pieces in a process of its own. A piece that comes back is done; one whose
process dies is cut into the rows of the batch that it died of and what lies around them, or in
halves where no batch was begun, down to the poison rows. Each becomes an error row `crashed`, or
`timeout` where nothing came for so long that the process was ended, and keeps what was computed
before. The process is not Ray's: nothing is retried.
"""

import ctypes
import logging
import multiprocessing
import signal
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any, Self

import numpy as np
import pyarrow as pa

from jobs.parts import PartReport
from jobs.shards import Shard
from jobs.stages import ShardState, Work, close_shard, load_for, open_shard, run_stage
from operators.columns import Failure, Positions, nulled, stamped, with_columns, with_errors
from schemas.config import FETCH
from schemas.enriched import IMAGE_ENCODED, key_column
from schemas.errors import ErrorCode, RowFault, RunError, TaglineError

PR_SET_PDEATHSIG = 1  # of linux/prctl.h: the signal that comes when the parent is gone
START_SECONDS = 600.0  # to import torch, or to read weights from a slow disk

logger = logging.getLogger(__name__)


def compute_suspect(work: Work, shard: Shard, needed: Collection[str]) -> PartReport:
    """Computes a shard that killed its actors, and puts its part.

    Args:
        work: what is done.
        shard: the suspect.
        needed: names of the operators that have rows to compute; their weights are read first.

    Returns:
        The report of the part.

    Raises:
        TaglineError: a stage met a fault of the set-up, or no process can be started at all.
    """
    state = open_shard(work, shard)
    with _OwnProcess(work, needed) as process:
        done = list(_computed_in_pieces(process.run, work, state))
    return close_shard(work, _joined(shard, done))


@dataclass(frozen=True)
class _Death:
    """How a process ended, and what it had until then.

    Args:
        stage: that it was in.
        code: of the error.
        reason: for the error's message.
        before: the rows as they entered that stage; None unless they were a single one.
        batch: the first row that it was computing, and the one after the last; None if unknown.
    """

    stage: str
    code: ErrorCode
    reason: str
    before: ShardState | None
    batch: tuple[int, int] | None


def _computed_in_pieces(
    run: Callable[[ShardState], ShardState | _Death], work: Work, state: ShardState
) -> Iterator[ShardState]:
    """Computes all rows in order, whatever it takes."""
    waiting = [state]
    while waiting:
        rows = waiting.pop()
        outcome = run(rows)
        count = rows.table.num_rows
        if count == 1 and isinstance(outcome, _Death) and outcome.code == "crashed":
            outcome = run(rows)  # something else may have killed it; twice alone is its own doing
        if isinstance(outcome, ShardState):
            yield outcome
        elif count == 1:
            logger.warning(
                "event=row_crashed shard=%s stage=%s code=%s reason=%s",
                rows.shard.id,
                outcome.stage,
                outcome.code,
                outcome.reason,
            )
            yield _crashed(work, outcome.before or rows, outcome)
        else:
            for first, end in reversed(_pieces(count, outcome.batch)):
                waiting.append(replace(rows, table=rows.table.slice(first, end - first)))


def _pieces(count: int, batch: tuple[int, int] | None) -> list[tuple[int, int]]:
    """Cuts out each row of the batch that was computed last; in halves where none was.

    A row that hangs costs a time-out whenever it is tried, so it is tried alone at once.
    """
    if batch is None:
        return [(0, (count + 1) // 2), ((count + 1) // 2, count)]
    first, end = batch
    cuts = (0, *range(first, end), end, count)
    return [(one, other) for one, other in pairwise(cuts) if one < other]


def _crashed(work: Work, state: ShardState, death: _Death) -> ShardState:
    """The single row with its error; what its stage and later ones would write is null."""
    at = work.stages.index(death.stage)
    is_store = death.stage == FETCH and death.code == "timeout"
    fault = RowFault(death.code, death.reason, transient=is_store)
    table = state.table
    for operator in work.operators:
        key = pa.field(key_column(operator.name), pa.string())
        table = with_columns(table, (*operator.writes, key))
    table = stamped(with_errors(table, {0: Failure(death.stage, fault)}), np.zeros(1, np.int64))
    for operator in work.operators[max(0, at - 1) :]:
        names = [*operator.writes.names, key_column(operator.name)]
        table = nulled(table, names, np.ones(1, np.bool_))
    return replace(state, table=table)


def _joined(shard: Shard, done: list[ShardState]) -> ShardState:
    """One state again; columns that travelled and are needed no more are dropped."""
    tables = [
        state.table.drop_columns([n for n in [IMAGE_ENCODED] if n in state.table.column_names])
        for state in done
    ]
    names = tables[0].column_names
    table = pa.concat_tables([table.select(names) for table in tables])

    def added(name: str) -> dict[str, Any]:
        return dict(sum((Counter(getattr(state, name)) for state in done), Counter[str]()))

    counted = ("computed", "copied", "cut", "busy", "retries", "fetched")
    return ShardState(shard, table, **{name: added(name) for name in counted})


@dataclass(frozen=True)
class _Place:
    """How far a process has come; the rest as of `_Death`."""

    stage: str
    before: ShardState | None = None
    batch: tuple[int, int] | None = None


class _OwnProcess:
    """A process that computes rows and may die of it; another is then started."""

    def __init__(self, work: Work, needed: Collection[str]) -> None:
        self.work, self.needed = work, tuple(needed)
        self._process: Any = None
        self._pipe: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._process.join()

    def run(self, state: ShardState) -> ShardState | _Death:
        """Computes all stages, unless that kills the process."""
        pipe = self._pipe or self._start()
        at = _Place(FETCH)
        limit: float | None = START_SECONDS
        try:
            pipe.send(state)
            while pipe.poll(limit):
                kind, *rest = pipe.recv()
                if kind == "done":
                    return rest[0]  # type: ignore[no-any-return]
                if kind == "fault":
                    raise rest[0]
                if kind == "broken":
                    return self._ended(at, reason=rest[0])
                if kind == "enters":
                    at, limit = _Place(*rest), START_SECONDS
                else:
                    at, limit = replace(at, batch=rest[0]), self.work.batch_limit(at.stage)
        except (EOFError, ConnectionError):
            return self._ended(at)
        self._process.kill()
        is_configured = at.batch is not None and limit == self.work.batch_seconds
        named = " (limits.batch_timeout)" if is_configured else ""
        reason = f"no answer came in {limit:g} s{named}, so its process was ended"
        return self._ended(at, code="timeout", reason=reason)

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self.work, self.needed, theirs))
        self._process.start()
        theirs.close()
        self._pipe = ours
        try:
            if not ours.poll(START_SECONDS):
                self._process.kill()
            answer = ours.recv()
        except EOFError:
            death = self._ended(_Place(FETCH))
            raise RunError(
                f"a process of its own for suspect rows did not start: {death.reason}; the machine "
                "may have too little memory for all the models at once"
            ) from None
        if answer[0] == "fault":
            raise answer[1]
        return ours

    def _ended(
        self, at: _Place, *, code: ErrorCode = "crashed", reason: str | None = None
    ) -> _Death:
        assert self._pipe is not None
        self._pipe.close()
        self._pipe = None
        self._process.join()
        told = reason or _how_it_ended(self._process.exitcode)
        return _Death(at.stage, code, told, at.before, at.batch)


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"the process that computed this row ended with status {status}"
    name = signal.Signals(-status).name
    hint = ", as when memory runs out" if name == "SIGKILL" else ""
    return f"the process that computed this row was ended by {name}{hint}"


def _serve(work: Work, needed: tuple[str, ...], pipe: Connection) -> None:
    """The process's own life: computes what it is sent, and says which stage it enters."""
    if sys.platform == "linux":  # else one that hangs would outlive the job
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if work.logs:
        work.logs.begin()
    try:
        for name in needed:
            work.operator(name).load()
        pipe.send(("ready",))
        while True:
            pipe.send(("done", _through_all_stages(work, pipe.recv(), pipe)))
    except TaglineError as error:
        pipe.send(("fault", error))
    except (EOFError, BrokenPipeError):
        return  # nobody waits any more
    except Exception as error:
        pipe.send(("broken", f"{type(error).__name__}: {error}"))


def _through_all_stages(work: Work, state: ShardState, pipe: Connection) -> ShardState:
    def tell(batch: Positions) -> None:
        pipe.send(("computes", (int(batch[0]), int(batch[-1]) + 1)))

    for name in work.stages:
        is_single = state.table.num_rows == 1
        pipe.send(("enters", name, _without_image(state) if is_single else None))
        load_for(work, name, state)
        pipe.send(("computes", None))
        state = run_stage(work, name, state, on_batch=tell)
    return _without_image(state)


def _without_image(state: ShardState) -> ShardState:
    if IMAGE_ENCODED not in state.table.column_names:
        return state
    return replace(state, table=state.table.drop_columns([IMAGE_ENCODED]))

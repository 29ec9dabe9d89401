"""What is done to one shard, stage by stage, in whatever process: no Ray here.

    open_shard ─► fetch ─► operator ─► operator ─► … ─► close_shard

Every stage takes and gives all of a shard's rows, so a row can neither vanish nor change its place.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from jobs.event_log import Logs
from jobs.parts import EXAMPLE_CHARACTERS, PartReport, patiently, put_part
from jobs.shards import Plan, Shard, read_shard
from operators.base import OnBatch, Operator, apply, stale_rows
from operators.fetcher import Fetcher
from operators.matcher import Matcher
from operators.repeats import Answers
from schemas.config import FETCH, Limits
from schemas.enriched import ERROR, IMAGE_ENCODED, IS_DUE, key_column

FETCH_MARGIN_SECONDS = 120.0  # beyond what an image may take: it waits for memory, and is checked


@dataclass(frozen=True)
class Work:
    """What every process of a run knows; small, and pickles well.

    Args:
        plan: without its shards.
        operators: in order.
        fetcher: gets the images.
        batches: rows per call by operator, where given.
        rounds: that this run committed before, each of which may have tried a row.
        logs: how its processes log.
        batch_seconds: that one call of an operator may take, `limits.batch_timeout`.
    """

    plan: Plan
    operators: tuple[Operator, ...]
    fetcher: Fetcher
    batches: Mapping[str, int] = field(default_factory=dict)
    rounds: int = 0
    logs: Logs | None = None
    batch_seconds: float = Limits().batch_timeout.total_seconds()

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages in order."""
        return (FETCH, *(operator.name for operator in self.operators))

    def batch_limit(self, stage: str) -> float | None:
        """Seconds of one call; None of a stage that asks a server, which has limits of its own.

        Images are waited for as long as the fetcher has patience.
        """
        if stage == FETCH:
            return max(self.batch_seconds, self.fetcher.longest_seconds + FETCH_MARGIN_SECONDS)
        return None if getattr(self.operator(stage), "is_remote", False) else self.batch_seconds

    def operator(self, name: str) -> Operator:
        """Looks up the operator of a stage."""
        return self.operators[self.stages.index(name) - 1]


@dataclass(frozen=True)
class ShardState:
    """A shard on its way through the stages.

    Args:
        shard: which.
        table: all its rows.
        computed: rows by operator so far.
        copied: those of them that got the answer of another row with the same picture.
        cut: those of them with a text too long to be read to its end.
        busy: seconds by stage so far.
        retries: tries of images beyond the first so far, by the code of what had failed.
        fetched: `rows` and `bytes` of the images that were fetched.
        actors: which actor took it through a stage.
    """

    shard: Shard
    table: pa.Table
    computed: Mapping[str, int] = field(default_factory=dict)
    copied: Mapping[str, int] = field(default_factory=dict)
    cut: Mapping[str, int] = field(default_factory=dict)
    busy: Mapping[str, float] = field(default_factory=dict)
    retries: Mapping[str, int] = field(default_factory=dict)
    fetched: Mapping[str, int] = field(default_factory=dict)
    actors: Mapping[str, str] = field(default_factory=dict)


def open_shard(work: Work, shard: Shard) -> ShardState:
    """Reads a shard's rows.

    Raises:
        TableError: a file of the plan or of the table is gone.
        RunError: the store does not answer.
    """
    path = f"read {shard.file} of {work.plan.directory}"
    return ShardState(shard, patiently(lambda: read_shard(work.plan.directory, shard), path))


def load_for(work: Work, name: str, state: ShardState) -> None:
    """Reads the weights of a stage that has rows to compute, before the seconds of a call count."""
    if name != FETCH and len(stale_rows(work.operator(name), state.table)):
        work.operator(name).load()


def run_stage(
    work: Work,
    name: str,
    state: ShardState,
    *,
    answers: Answers | None = None,
    on_batch: OnBatch | None = None,
) -> ShardState:
    """Takes a shard through one stage.

    Args:
        work: what is done.
        name: of the stage.
        state: as the stage before has left it.
        answers: of other shards.
        on_batch: told before each call of the operator which rows it gets.

    Raises:
        Exception: as of `apply`.
    """
    begun = time.perf_counter()
    if name == FETCH:
        table = work.fetcher(state.table, on_batch=on_batch)
        state = replace(state, table=table, fetched=_fetched(table[IMAGE_ENCODED]))
    else:
        state = _computed(work, name, state, answers, on_batch)
    retries = Counter(state.retries) + work.fetcher.retries()
    busy = {**state.busy, name: time.perf_counter() - begun}
    return replace(state, busy=busy, retries=dict(retries))


def close_shard(work: Work, state: ShardState) -> PartReport:
    """Puts the part of a shard that went through all stages; errors as of `put_part`."""
    due = state.table.filter(pc.fill_null(state.table[IS_DUE], False))
    errors = due[ERROR].drop_null().to_pylist()
    repeated = [error for error in errors if error["attempts"] > work.rounds + 1]
    new = [error for error in errors if error["attempts"] <= work.rounds + 1]
    report = PartReport(
        shard=state.shard.id,
        rows=state.table.num_rows,
        tried=due.num_rows,
        errors=dict(Counter(error["code"] for error in errors)),
        repeated=dict(Counter(error["code"] for error in repeated)),
        transient=sum(error["transient"] for error in new),
        failed=dict(Counter(error["stage"] for error in errors)),
        examples={error["code"]: error["message"][:EXAMPLE_CHARACTERS] for error in new},
        retries=state.retries,
        fetched=state.fetched,
        computed=state.computed,
        copied=state.copied,
        cut=state.cut,
        busy=state.busy,
        actors=state.actors,
    )
    return put_part(work.plan, state.shard, state.table, report)


def _fetched(encoded: pa.ChunkedArray) -> dict[str, int]:
    """Counts the images that travel with their shard, which are nearly always all."""
    size = pc.sum(pc.binary_length(encoded)).as_py() or 0
    return {"rows": len(encoded) - encoded.null_count, "bytes": size}


def _computed(
    work: Work,
    name: str,
    state: ShardState,
    answers: Answers | None,
    on_batch: OnBatch | None,
) -> ShardState:
    """Runs an operator and counts the rows it computed; drops the images after their last use."""
    operator = work.operator(name)
    stale = stale_rows(operator, state.table)
    copied: list[int] = []
    table = apply(
        operator,
        state.table,
        batch_rows=work.batches.get(name),
        fetch=work.fetcher.fill,
        answers=answers,
        on_copied=copied.append,
        on_batch=on_batch,
    )
    done = table.select([n for n in table.column_names if n != IMAGE_ENCODED]).take(stale)
    done = done.filter(pc.equal(done[key_column(name)], operator.key))
    cut = operator.count_cut(done) if done.num_rows and isinstance(operator, Matcher) else 0
    later = work.operators[work.operators.index(operator) + 1 :]
    is_seen_again = any(IMAGE_ENCODED in other.reads for other in later)
    if not is_seen_again and IMAGE_ENCODED in table.column_names:
        table = table.drop_columns([IMAGE_ENCODED])
    return replace(
        state,
        table=table,
        computed={**state.computed, name: done.num_rows},
        copied={**state.copied, name: sum(copied)} if any(copied) else state.copied,
        cut={**state.cut, name: cut} if cut else state.cut,
    )

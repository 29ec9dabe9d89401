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

from jobs.parts import PartReport, patiently, put_part
from jobs.shards import Plan, Shard, read_shard
from operators.base import Operator, apply
from operators.fetcher import Fetcher
from schemas.config import FETCH
from schemas.enriched import ERROR, IMAGE_ENCODED, IS_DUE, key_column


@dataclass(frozen=True)
class Work:
    """What every process of a run knows; small, and pickles well.

    Args:
        plan: without its shards.
        operators: in order.
        fetcher: gets the images.
        batches: rows per call by operator, where given.
        rounds: that this run committed before, each of which may have tried a row.
    """

    plan: Plan
    operators: tuple[Operator, ...]
    fetcher: Fetcher
    batches: Mapping[str, int] = field(default_factory=dict)
    rounds: int = 0

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages in order."""
        return (FETCH, *(operator.name for operator in self.operators))

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
        busy: seconds by stage so far.
    """

    shard: Shard
    table: pa.Table
    computed: Mapping[str, int] = field(default_factory=dict)
    busy: Mapping[str, float] = field(default_factory=dict)


def open_shard(work: Work, shard: Shard) -> ShardState:
    """Reads a shard's rows.

    Raises:
        TableError: a file of the plan or of the table is gone.
        RunError: the store does not answer.
    """
    path = f"read {shard.file} of {work.plan.directory}"
    return ShardState(shard, patiently(lambda: read_shard(work.plan.directory, shard), path))


def run_stage(work: Work, name: str, state: ShardState) -> ShardState:
    """Takes a shard through one stage; errors as of `apply`."""
    begun = time.perf_counter()
    if name == FETCH:
        table, computed = work.fetcher(state.table), state.computed
    else:
        table, count = _computed(work, name, state.table)
        computed = {**state.computed, name: count}
    busy = {**state.busy, name: time.perf_counter() - begun}
    return replace(state, table=table, computed=computed, busy=busy)


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
        computed=state.computed,
        busy=state.busy,
    )
    return put_part(work.plan, state.shard, state.table, report)


def _computed(work: Work, name: str, table: pa.Table) -> tuple[pa.Table, int]:
    """Runs an operator and counts the rows it computed; drops the images after their last use."""
    operator = work.operator(name)
    before = _rows_with_key(operator, table)
    table = apply(operator, table, batch_rows=work.batches.get(name), fetch=work.fetcher.fill)
    later = work.operators[work.operators.index(operator) + 1 :]
    is_seen_again = any(IMAGE_ENCODED in other.reads for other in later)
    if not is_seen_again and IMAGE_ENCODED in table.column_names:
        table = table.drop_columns([IMAGE_ENCODED])
    return table, _rows_with_key(operator, table) - before


def _rows_with_key(operator: Operator, table: pa.Table) -> int:
    name = key_column(operator.name)
    if name not in table.column_names:
        return 0
    return int(pc.sum(pc.equal(table[name], operator.key)).as_py() or 0)

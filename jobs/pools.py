"""The stages as pools of actors on Ray Data: a shard is one block from the first stage to its part.

A block is a parcel: one row that holds the shard's table in Arrow's stream format. So Ray can
neither split a shard nor put two together, and asks for no batch size where there are GPUs.

A fault of the set-up travels to the driver in the parcel. An actor that dies, or hangs and is
ended, is started again and given the shard once more; Ray's own defaults would retry for ever. When
it dies again Ray drops the block, and the driver finds the shard without a part.
"""

import json
import logging
import os
import secrets
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy
from ray.data.read_api import from_blocks

from jobs.batch_timer import BatchTimer
from jobs.parts import PartReport, read_report
from jobs.resources import TASK_CPUS, Allotment
from jobs.shards import Shard
from jobs.shared_answers import SharedAnswers, board_of
from jobs.stages import ShardState, Work, close_shard, load_for, open_shard, run_stage
from jobs.suspects import compute_suspect
from jobs.worker_lines import followed, forward
from schemas import errors
from schemas.config import FETCH
from schemas.errors import RunError, TaglineError

RETRIES = 1  # after an actor died; a shard that kills two is suspect
TASK_RETRIES = 3  # of putting a part
START_DEATHS = 3  # actors of a stage that may die one after the other while they start
TASKS_PER_ACTOR = 2  # one at work, one whose block is on its way
POISONED = 70  # exit status of an actor whose process can compute no more
PROGRESS = (
    "computed",
    "copied",
    "cut",
    "busy",
    "retries",
    "fetched",
    "actors",
)  # of a `ShardState`
PARCEL_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),  # Shard as JSON
        ("progress", pa.string()),  # what was counted by stage so far, as JSON
        ("table", pa.large_binary()),  # null when there is nothing more to compute
        ("report", pa.string()),  # of the part that stands
        ("fault", pa.string()),  # of the set-up: class and message as JSON
    ]
)

logger = logging.getLogger(__name__)


def run_shards(
    work: Work,
    shards: Sequence[Shard],
    allotments: Mapping[str, Allotment],
    *,
    to_compute: Mapping[str, int],
    writers: int = 1,
) -> Generator[PartReport]:
    """Computes shards on the Ray that this process is connected to.

    Args:
        work: what is done.
        shards: those without a part.
        allotments: by stage, from `allot`.
        to_compute: rows by operator as planned; one with none reads its weights only when a row
            turns out to need it.
        writers: parts that are put at once.

    Yields:
        A report for each part, as it comes. A shard that gets none killed its actors.

    Raises:
        TaglineError: a stage met a fault of the set-up; parts already put are kept.
    """
    configure()
    with board_of(work.operators, shards=len(shards)) as board, followed(work):
        dataset = _source(shards)
        for name in work.stages:
            stage = (work, name, bool(to_compute.get(name)), board)
            dataset = _pooled(dataset, stage, allotments[name], most_actors=len(shards))
        dataset = _mapped(
            dataset,
            partial(_put, work),
            compute=TaskPoolStrategy(size=min(writers, len(shards))),
            num_cpus=TASK_CPUS,
            max_retries=TASK_RETRIES,
        )
        yield from _reports(dataset)


def _reports(dataset: Dataset) -> Iterator[PartReport]:
    """Runs it; raises as of `run_shards`."""
    try:
        for batch in dataset.iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        ):
            for row in pa.table(batch).to_pylist():
                if row["fault"] is not None:
                    raise _fault(row["fault"])
                yield PartReport.from_json(row["report"])
    except ray.exceptions.RayError as error:
        raise _gave_up(error) from error


def run_suspects(
    work: Work,
    shards: Sequence[Shard],
    allotments: Mapping[str, Allotment],
    *,
    to_compute: Mapping[str, int],
) -> Iterator[PartReport]:
    """Computes shards that killed their actors, each as `jobs.suspects` does, several at once.

    Args, yields and raises as of `run_shards`, except that every shard gets its report.
    """
    needed = [name for name, rows in to_compute.items() if rows]
    gpus = min(1.0, sum(allotment.gpus for allotment in allotments.values()))
    compute = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=TASK_RETRIES)(_suspect)
    waiting = [compute.remote(work, shard, needed) for shard in shards]
    try:
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1)
            report, fault = ray.get(done[0])
            if fault is not None:
                raise _fault(fault)
            yield PartReport.from_json(report)
    except ray.exceptions.RayError as error:
        raise _gave_up(error) from error


def _suspect(work: Work, shard: Shard, needed: Sequence[str]) -> tuple[str | None, str | None]:
    try:
        return compute_suspect(work, shard, needed).to_json(), None
    except TaglineError as error:
        return None, _named(error)


class _Stage:
    """One actor: takes shards through one stage."""

    def __init__(self, work: Work, name: str, is_needed: bool, board: Any = None) -> None:
        self.work, self.name = work, name
        self.timer = BatchTimer(work.batch_limit(name))
        self.answers = None if board is None else SharedAnswers(board, name, self.timer.moves)
        self.actor = secrets.token_hex(4)
        self.fault: TaglineError | None = None
        if work.logs:
            work.logs.begin()
        forward(work)
        if is_needed and name != FETCH:
            self._load()

    def __call__(self, parcel: pa.Table) -> pa.Table:
        """Takes a shard to the next stage; passes on one that is done or has met a fault."""
        row = _told(parcel)
        if row["report"] or row["fault"]:
            return parcel
        try:
            if self.fault is not None:
                raise self.fault
            state = self._received(row, parcel)
            if isinstance(state, PartReport):
                return _settled(report=state.to_json())
            load_for(self.work, self.name, state)
            with self.timer:
                done = run_stage(
                    self.work, self.name, state, answers=self.answers, on_batch=self.timer.moves
                )
            return _packed(replace(done, actors={**done.actors, self.name: self.actor}))
        except TaglineError as error:
            return _settled(fault=_named(error))
        except Exception:  # what else comes out of a stage has damaged this process
            logger.exception("event=actor_ends stage=%s shard=%s", self.name, row["shard"])
            os._exit(POISONED)

    def _received(self, row: Mapping[str, Any], parcel: pa.Table) -> ShardState | PartReport:
        if self.name != FETCH:
            return _unpacked(row, parcel)
        shard = _shard(row["shard"])
        return read_report(self.work.plan, shard) or open_shard(self.work, shard)

    def _load(self) -> None:
        begun = time.monotonic()
        try:
            self.work.operator(self.name).load()
            seconds = time.monotonic() - begun
            logger.info("event=model_loaded stage=%s seconds=%.1f", self.name, seconds)
        except TaglineError as error:
            self.fault = error  # told with the first shard, as an actor's own start cannot tell it


def _put(work: Work, parcel: pa.Table) -> pa.Table:
    """Puts the part of a shard that has passed every stage."""
    forward(work)
    row = _told(parcel)
    if row["report"] or row["fault"]:
        return parcel
    try:
        return _settled(report=close_shard(work, _unpacked(row, parcel)).to_json())
    except TaglineError as error:
        return _settled(fault=_named(error))


def _source(shards: Sequence[Shard]) -> Dataset:
    """Names each shard in a block of its own, without a task that would only carry the name.

    Ray starts as many processes as tasks have room for, and small ones have room for dozens a core.
    """
    names = (json.dumps(asdict(shard)) for shard in shards)
    named: Dataset = from_blocks([pa.table({"shard": [name]}) for name in names])
    return named


def _told(parcel: pa.Table) -> dict[str, Any]:
    """What a parcel says beside its table; the first stage gets one that only names its shard."""
    columns = [name for name in parcel.column_names if name != "table"]
    return {"report": None, "fault": None, **parcel.select(columns).to_pylist()[0]}


def _pooled(
    dataset: Dataset, stage: tuple[Work, str, bool, Any], allotment: Allotment, *, most_actors: int
) -> Dataset:
    pool = ActorPoolStrategy(
        min_size=min(allotment.actors, most_actors),
        max_size=min(allotment.most_actors, most_actors),
        max_tasks_in_flight_per_actor=TASKS_PER_ACTOR,
    )
    named = type(stage[1], (_Stage,), {})  # Ray's logs and metrics show the stage's name
    return _mapped(
        dataset,
        named,
        fn_constructor_args=stage,
        compute=pool,
        num_cpus=allotment.cpus,
        num_gpus=allotment.gpus or None,
        max_restarts=-1,
        max_task_retries=RETRIES,
    )


def _mapped(dataset: Dataset, function: Any, **options: Any) -> Dataset:
    with warnings.catch_warnings():  # Ray 2.60 has no named parameter for retries; pinned
        warnings.filterwarnings("ignore", message=".*ray_remote_args. is deprecated")
        mapped: Dataset = dataset.map_batches(
            function, batch_size=1, batch_format="pyarrow", **options
        )
    return mapped


def free_resources() -> str:
    """Says what the cluster has, and what of it is free, for people."""
    try:
        total: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        free: Mapping[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    except ray.exceptions.RayError as error:  # while it starts, ends, or is lost
        return f"Ray does not answer: {type(error).__name__}"
    named = (("CPU", "CPUs"), ("GPU", "GPUs"))
    told = [f"{free.get(k, 0):g} of {total.get(k, 0):g} {n}" for k, n in named if k in total]
    return f"free are {' and '.join(told) or 'no CPUs, as no machine has joined'}"


def configure() -> None:
    """Sets Ray Data to leave blocks whole, drop what crashes twice, and keep quiet."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.target_max_block_size = None
    context.max_errored_blocks = -1
    context.max_consecutive_actor_init_deaths = START_DEATHS
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _packed(state: ShardState) -> pa.Table:
    measured = pa.MockOutputStream()
    _write_stream(state.table, measured)
    data = pa.allocate_buffer(measured.size())  # a stream that grows would hold it up to 3 times
    _write_stream(state.table, pa.FixedSizeBufferWriter(data))
    ends = pa.py_buffer(np.array([0, data.size], np.int64))
    return _row(
        shard=json.dumps(asdict(state.shard)),
        progress=json.dumps({name: getattr(state, name) for name in PROGRESS}),
        table=pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, data]),  # no copy
    )


def _write_stream(table: pa.Table, sink: Any) -> None:
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)


def _unpacked(row: Mapping[str, Any], parcel: pa.Table) -> ShardState:
    data = parcel["table"].chunk(0)[0].as_buffer()
    table = pa.ipc.open_stream(data).read_all()
    return ShardState(_shard(row["shard"]), table, **json.loads(row["progress"]))


def _settled(*, report: str | None = None, fault: str | None = None) -> pa.Table:
    return _row(report=report, fault=fault)


def _row(**values: Any) -> pa.Table:
    columns = [
        value
        if isinstance(value := values.get(field.name), pa.Array)
        else pa.array([value], field.type)
        for field in PARCEL_SCHEMA
    ]
    return pa.table(columns, schema=PARCEL_SCHEMA)


def _shard(text: str) -> Shard:
    fields = json.loads(text)
    return Shard(**{**fields, "sources": tuple(fields["sources"])})


def _named(error: TaglineError) -> str:
    return json.dumps([type(error).__name__, str(error)])


def _fault(text: str) -> TaglineError:
    kind, message = json.loads(text)
    found = getattr(errors, kind, RunError)
    return found(message)


def _gave_up(error: Exception) -> RunError:
    reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    return RunError(
        f"Ray ended the run: {reason[0]}; parts already written are kept: "
        "run the same command again"
    )

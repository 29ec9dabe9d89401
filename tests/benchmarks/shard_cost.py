"""What a shard costs beside its work: `python -m tests.benchmarks.shard_cost --shards 2000 10000`.

A job of shards of one row, with two operators that do next to nothing, on a Ray of four nodes which
this machine only pretends to have; and a bare Ray Data pipeline of as many blocks and stages that
do nothing at all. Told are the processor's milliseconds of the driver, planning and commit
included, a shard and stage (fetch, two operators, put), and the time in all, of which the two cores
spend most on the workers of all nodes.
"""

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs import cutting, enrich
from operators.catalog import check_document
from schemas.config import JobConfig
from tests.benchmarks import measuring
from tests.plain_operators import CATALOG

STAGES = 4  # fetch, two operators, put
MOST_MILLISECONDS = 5  # of a shard and stage
NODES, NODE_CPUS, STORE_BYTES = 4, 2, 200_000_000
ACTORS = 2  # of each operator
OPERATORS = {"upper": {"use": "upper", "text": "title"}, "again": {"use": "upper", "text": "upper"}}
PHASES = ("plan", "commit")


@contextmanager
def simulated_cluster() -> Iterator[None]:
    """A Ray of several nodes on this machine, which this process is connected to."""
    os.environ |= {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray leaves 127.0.0.1
        "RAY_AUTH_MODE": "disabled",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
    }
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": NODE_CPUS, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    for _ in range(NODES - 1):
        cluster.add_node(**node)
    ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def config(folder: Path, shards: int) -> JobConfig:
    """A job over so many rows."""
    numbers = range(shards)
    rows = {
        "image_id": [f"id-{number:07}" for number in numbers],
        "uri": [f"{number}.png" for number in numbers],
        "title": [f"title {number}" for number in numbers],
    }
    pq.write_table(pa.table(rows), folder / "manifest.parquet")
    document = {
        "manifest": str(folder / "manifest.parquet"),
        "table": str(folder / "table"),
        "operators": OPERATORS,
        "resources": {name: {"actors": ACTORS} for name in OPERATORS},
    }
    return check_document(document, catalog=CATALOG)


class Clock:
    """Adds up what calls took: this process's own seconds on a processor, and seconds."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = {}
        self.wall: dict[str, float] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its calls counted under a name."""

        def call(*args: Any, **named: Any) -> Any:
            cpu, wall = time.process_time(), time.perf_counter()
            try:
                return function(*args, **named)
            finally:
                self.cpu[name] = self.cpu.get(name, 0) + time.process_time() - cpu
                self.wall[name] = self.wall.get(name, 0) + time.perf_counter() - wall

        return call


def ours(shards: int) -> Clock:
    """Enriches a new table of so many shards."""
    clock, kept = Clock(), {phase: getattr(enrich, phase) for phase in PHASES}
    cutting.SHARD_ROWS = 1
    for phase in PHASES:
        setattr(enrich, phase, clock.timed(phase, kept[phase]))
    with tempfile.TemporaryDirectory() as folder:
        clock.timed("all", enrich.run)(config(Path(folder), shards), catalog=CATALOG)
    for phase in PHASES:
        setattr(enrich, phase, kept[phase])
    return clock


class Nothing:
    """A stage of actors that gives what it takes."""

    def __call__(self, block: pa.Table) -> pa.Table:
        return block


def nothing(block: pa.Table) -> pa.Table:
    """A stage of tasks that gives what it takes."""
    return block


def bare(shards: int) -> Clock:
    """Sends as many blocks through as many stages of Ray Data."""
    import ray
    from ray.data import ActorPoolStrategy, TaskPoolStrategy
    from ray.data.read_api import from_blocks

    from jobs import pools

    pools.configure()
    clock, plain = Clock(), {"batch_size": None, "batch_format": "pyarrow"}

    def run() -> None:
        dataset = from_blocks([pa.table({"shard": [f"{number}" * 30]}) for number in range(shards)])
        for actors in (1, ACTORS, ACTORS):
            pool = ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2)
            dataset = dataset.map_batches(Nothing, compute=pool, num_cpus=0.25, **plain)
        dataset = dataset.map_batches(
            nothing, compute=TaskPoolStrategy(size=2), num_cpus=0.02, **plain
        )
        assert sum(len(batch) for batch in dataset.iter_batches(prefetch_batches=0, **plain)) == (
            shards
        )
        assert ray.is_initialized()

    clock.timed("all", run)()
    return clock


def rows_of(shards: int, job: Clock, ray_alone: Clock) -> list[measuring.Row]:
    """The figures of one size."""

    def each(seconds: float) -> list[float]:
        return [seconds / shards / STAGES * 1000]

    phases = ", ".join(f"{name} {job.cpu[name] / shards * 1000:.2f} ms" for name in PHASES)
    return [
        measuring.Row(
            f"the driver's processor, {shards:,} shards",
            "ms",
            each(job.cpu["all"]),
            note=f"a shard and stage, of which Ray alone {each(ray_alone.cpu['all'])[0]:.2f} ms; "
            f"by the shard: {phases}",
            most=MOST_MILLISECONDS,
        ),
        measuring.Row(
            f"time in all, {shards:,} shards",
            "ms",
            each(job.wall["all"]),
            each(ray_alone.wall["all"]),
            against="Ray alone",
        ),
    ]


def main() -> None:
    """Measures each size and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, nargs="+", default=[1000, 2000, 4000, 8000])
    given = parser.parse_args()
    rows = []
    with simulated_cluster():
        ours(20)  # starts processes and imports
        for shards in given.shards:
            ray_alone = bare(shards)
            rows += rows_of(shards, ours(shards), ray_alone)
            measuring.write(
                measuring.Section(
                    name="shard_cost",
                    title="What a shard costs beside its work",
                    text=measuring.second_paragraph(__doc__),
                    command="python -m tests.benchmarks.shard_cost",
                    rows=rows,
                )
            )


if __name__ == "__main__":
    main()

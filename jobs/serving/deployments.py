"""Ray Serve: one deployment an operator, which batches what comes and answers it by a `Worker`.

Each operator is a Serve application of its own, asked through its handle. Serve's HTTP proxy is not
started: it reads a body without bound before anything of ours sees it, and tells of overload in
plain text; `jobs.serve` listens instead. Read in the source of Ray 2.60.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pyarrow as pa
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.config import ProxyLocation
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.schema import LoggingConfig, ServeStatus

from jobs.resources import Allotment
from jobs.serving.figures import Figures
from jobs.serving.refusals import Refusal, overloaded
from jobs.serving.worker import Reply, Row, Worker
from operators.base import Operator
from schemas.errors import RunError

HEALTH_SECONDS = 1.0  # between two looks at each replica
STATUS_SECONDS = 5.0  # until Serve, which says how the replicas are, counts as gone itself
STOP_LOOK_SECONDS = 0.1  # between two looks whether a replica that ends still answers
STOP_SECONDS = 5.0  # for a replica to end; nothing is asked of it by then
RUNNING = "RUNNING"  # Serve's name of a replica's state
PREFIX = "tagline-"  # of the applications' names


class Replica:
    """One process that answers for one operator."""

    def __init__(
        self, operator: Operator, types: pa.Schema, batch_rows: int, batch_wait: timedelta
    ) -> None:
        self.worker = Worker(operator, types)
        self.thread = ThreadPoolExecutor(1, operator.name)  # a model is asked one batch at a time
        self.is_broken = False
        batch: Any = self.batch  # as the decorator made it
        batch.set_max_batch_size(batch_rows)
        batch.set_batch_wait_timeout_s(batch_wait.total_seconds())

    async def answer(self, row: Row) -> Reply:
        """Answers a row, together with others."""
        reply: Reply = await self.batch(row)
        return reply

    @serve.batch
    async def batch(self, rows: list[Row]) -> list[Reply]:
        """Answers rows in a thread, so that the replica goes on taking others."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.thread, self.worker.answer, rows)
        except Exception:  # `apply` lets out only what no later call in this process survives
            self.is_broken = True
            raise

    def check_health(self) -> None:
        """Has Serve replace this process after a fault that poisons it."""
        if self.is_broken:
            raise RuntimeError("the process can compute nothing any more, such as a lost GPU")


class Deployed:
    """The operators as deployments; a `Backend` of `jobs.serving.chain.Chain`.

    Args:
        handles: by the operator's name.
        figures: told of batches and of what waits.
        max_queued_requests: rows waiting for an operator.
    """

    def __init__(
        self, handles: Mapping[str, Any], figures: Figures, max_queued_requests: int
    ) -> None:
        self.handles = handles
        self.figures = figures
        self.limit = max_queued_requests

    async def answer(self, name: str, row: Row) -> Reply:
        """Asks an operator's deployment."""
        waiting = self.figures.waiting_rows.labels(name)
        with waiting.track_inprogress():
            try:
                reply: Reply = await self.handles[name].answer.remote(row)
            except BackPressureError:
                raise overloaded(self.limit) from None
            except RayActorError as error:
                message = f"the process of {name} ended; it is being replaced: ask again"
                raise Refusal(503, "crashed", message) from error
            except (RayServeException, RayError) as error:
                message = f"{name} failed: {str(error).splitlines()[-1]}"
                raise Refusal(500, "crashed", message) from error
        if reply.batch_rows:
            self.figures.batch_rows.labels(name).observe(reply.batch_rows)
        return reply

    async def gone(self) -> list[str]:
        """The operators without a running replica, as Serve last saw them."""
        try:
            async with asyncio.timeout(STATUS_SECONDS):
                told = await asyncio.to_thread(serve.status)
        except (TimeoutError, RayServeException, RayError):
            return ["Ray Serve"]
        return [name for name in self.handles if not _running(told, name)]


def deploy(
    operators: Sequence[Operator],
    types: pa.Schema,
    allotted: Mapping[str, Allotment],
    *,
    batch_wait: timedelta,
    max_queued_requests: int,
) -> dict[str, Any]:
    """Starts the deployments and waits until all models are loaded.

    Returns:
        A handle by the operator's name.

    Raises:
        RunError: a model could not be loaded; says why.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(
        proxy_location=ProxyLocation.Disabled,
        logging_config=LoggingConfig(log_level="ERROR", enable_access_log=False),
    )
    targets = []
    for operator in operators:
        allotment = allotted[operator.name]
        batch_rows = allotment.batch or operator.batch_rows
        described = serve.deployment(
            name=operator.name,
            num_replicas=allotment.actors,
            ray_actor_options={"num_cpus": allotment.cpus, "num_gpus": allotment.gpus},
            # rows wait at a replica, in order; Serve's router tries again at growing intervals,
            # which made the 99th percentile of 64 clients 2.9 seconds instead of 1.0
            max_ongoing_requests=max(batch_rows, max_queued_requests),
            max_queued_requests=max_queued_requests,
            graceful_shutdown_timeout_s=STOP_SECONDS,
            graceful_shutdown_wait_loop_s=STOP_LOOK_SECONDS,
            health_check_period_s=HEALTH_SECONDS,
        )
        bound = described(Replica).bind(operator, types, batch_rows, batch_wait)
        targets.append(
            serve.RunTarget(
                bound,
                name=PREFIX + operator.name,
                route_prefix=None,
                logging_config=LoggingConfig(log_level="ERROR", enable_access_log=False),
            )
        )
    try:
        handles = serve.run_many(targets)
    except RuntimeError as error:
        raise RunError(f"a model could not be loaded: {error}") from error
    return {operator.name: handle for operator, handle in zip(operators, handles, strict=True)}


def _running(told: ServeStatus, name: str) -> int:
    """How many replicas of an operator run."""
    application = told.applications.get(PREFIX + name)
    deployment = application and application.deployments.get(name)
    states = deployment.replica_states if deployment else {}
    return sum(count for state, count in states.items() if state == RUNNING)


def withdraw(names: Sequence[str]) -> None:
    """Ends the deployments; a Serve that others use as well goes on."""
    with ThreadPoolExecutor(len(names)) as threads:  # each waits for its replicas to end
        list(threads.map(serve.delete, [PREFIX + name for name in names]))

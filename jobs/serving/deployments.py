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
from ray.serve.schema import LoggingConfig

from jobs.resources import Allotment
from jobs.serving.figures import Figures
from jobs.serving.refusals import Refusal, overloaded
from jobs.serving.worker import Reply, Row, Worker
from operators.base import Operator
from schemas.errors import RunError

STOP_SECONDS = 5.0  # for a replica to end; nothing is asked of it by then
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


def withdraw(names: Sequence[str]) -> None:
    """Ends the deployments; a Serve that others use as well goes on."""
    for name in names:
        serve.delete(PREFIX + name)

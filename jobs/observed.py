"""What a run tells of itself while it goes on and when it ends: logs, metrics, lineage, its notes.

All of it goes by one id, a UUID, which is in every line, in the commit and in the lineage events.
"""

import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from jobs import event_log
from jobs.event_log import Logs
from jobs.history import Note
from jobs.interruption import ending_in_order
from jobs.lineage import Dataset, Lineage
from jobs.parts import PartReport
from jobs.shards import Plan
from jobs.summary import Summary, total
from jobs.waiting import Waiting
from operators.masking import without_secrets
from schemas.config import JobConfig
from schemas.manifest import Manifest

if TYPE_CHECKING:
    from jobs.run_metrics import RunMetrics

logger = logging.getLogger(__name__)


@dataclass
class Observed:
    """A run that is watched.

    Args:
        verb: `enrich` or `retry`.
        logs: for its workers too.
        lineage: its events.
        begun: by the monotonic clock.
        waiting: to be told what is waited for.
    """

    verb: str
    logs: Logs
    lineage: Lineage
    begun: float = field(default_factory=time.monotonic)
    waiting: Waiting = field(default_factory=Waiting)
    _metrics: "RunMetrics | None" = None
    _has_failed: bool = False

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.begun

    def opened(self, manifest: Manifest) -> None:
        """Learns what the manifest has."""
        (known,) = self.lineage.inputs
        self.lineage.inputs = [replace(known, schema=manifest.schema)]

    def planned(self, plan: Plan) -> None:
        """Tells what is to be done."""
        counts = plan.counts
        (known,) = self.lineage.inputs
        self.lineage.inputs = [replace(known, rows=counts.manifest)]
        (known,) = self.lineage.outputs
        self.lineage.outputs = [replace(known, schema=plan.schema, version=plan.table_version)]
        logger.info(
            "event=planned plan=%s version=%s shards=%d new=%d changed=%d retry=%d removed=%d",
            plan.id,
            plan.table_version,
            len(plan.shards),
            counts.new,
            counts.changed,
            counts.retry,
            counts.removed,
        )

    @contextmanager
    def counted(self, shards: int) -> Iterator[None]:
        """Counts for Prometheus what is done in a `with`, on the Ray there is.

        Args:
            shards: without a part.
        """
        from jobs.run_metrics import RunMetrics  # imports Ray

        self._metrics = RunMetrics(shards)
        try:
            yield
        finally:
            self.waiting.begins("Ray to end")
            self._metrics.end()
            self._metrics = None

    def part(self, report: PartReport) -> None:
        """Counts a shard that is done."""
        self.waiting.moves()
        if self._metrics:
            self._metrics.count(report)

    def note(self, plan: Plan, reports: Sequence[PartReport], limiting_stage: str | None) -> Note:
        """What the commit of some parts of a plan says of itself."""
        counts, errors = plan.counts, total(reports, "errors")
        computed = total(reports, "computed")
        return Note(
            verb=self.verb,
            run=self.logs.run,
            rows={
                "new": counts.new,
                "changed": counts.changed,
                "retry": counts.retry,
                "removed": counts.removed,
                "written": sum(report.rows for report in reports),
                "tried": sum(report.tried for report in reports),
                "failed": errors.total(),
            },
            computed={name: computed[name] for name in plan.operators},
            errors=dict(errors.most_common()),
            retries=dict(total(reports, "retries")),
            seconds=round(self.seconds, 3),
            limiting_stage=limiting_stage,
        )

    def committed(self, version: int, reports: Sequence[PartReport]) -> None:
        """Learns what is in the table."""
        (known,) = self.lineage.outputs
        rows = (known.rows or 0) + sum(report.rows for report in reports)
        files = (known.files or 0) + len(reports)
        self.lineage.outputs = [replace(known, version=version, rows=rows, files=files)]

    def done(self, summary: Summary) -> None:
        """Tells how it ended."""
        logger.info(
            "event=run_done version=%s errors=%d retries=%d seconds=%.1f limiting_stage=%s",
            summary.version,
            sum(summary.errors.values()),
            sum(summary.retries.values()),
            summary.seconds,
            summary.limiting_stage,
        )

    def failed(self, why: str) -> None:
        """Tells why it failed, once."""
        if self._has_failed:
            return
        self._has_failed = True
        told = without_secrets(why)
        logger.error("event=run_failed seconds=%.1f error=%s", self.seconds, told)
        self.lineage.fail(told)


@contextmanager
def observed(config: JobConfig, verb: str) -> Iterator[Observed]:
    """Watches a run for the length of a `with`.

    Args:
        config: of the job.
        verb: `enrich` or `retry`.
    """
    with event_log.of_run(str(uuid.uuid4())) as logs:
        inputs, outputs = [Dataset(config.manifest.path)], [Dataset(config.table)]
        run = Observed(verb, logs, Lineage(logs.run, f"{verb}.{config.table}", inputs, outputs))
        logger.info("event=run_started verb=%s table=%s", verb, config.table)
        run.lineage.start()
        try:
            with ending_in_order(run.failed), run.waiting:
                yield run
        except BaseException as error:
            run.failed(f"{type(error).__name__}: {error}")
            raise
        run.lineage.complete()

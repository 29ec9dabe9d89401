"""Commits what is finished while a run goes on, for `commit: {every: 1h}`."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta

from jobs.commit import commit_portion
from jobs.history import Note
from jobs.parts import PartReport
from jobs.shards import Plan, Shard

logger = logging.getLogger(__name__)


class Portions:
    """Keeps which shards are finished, and commits those it may, every so often.

    Args:
        plan: that is running.
        finished: parts that were there before.
        every: None to leave all to the end.
        note: what a commit of some parts says of itself.
    """

    def __init__(
        self,
        plan: Plan,
        finished: Iterable[PartReport],
        every: timedelta | None,
        *,
        note: Callable[[Sequence[PartReport]], Note],
    ) -> None:
        self.plan, self.every, self.note = plan, every, note
        self.finished = {report.shard: report for report in finished}
        self.committed: set[str] = set()
        self._last = time.monotonic()

    def finish(self, report: PartReport) -> None:
        """Counts a shard whose part is there now."""
        self.finished[report.shard] = report

    def commit_when_due(self) -> None:
        """Commits what is finished when it is time again; errors as of `commit_portion`."""
        if self.every is None or time.monotonic() - self._last < self.every.total_seconds():
            return
        portion = finished_portion(self.plan, self.finished, self.committed)
        if portion:
            note = self.note([self.finished[shard.id] for shard in portion])
            version = commit_portion(self.plan, portion, note=replace(note, is_portion=True))
            self.committed.update(shard.id for shard in portion)
            logger.info("event=portion_committed version=%d shards=%d", version, len(portion))
        self._last = time.monotonic()


def finished_portion(
    plan: Plan, finished: Collection[str], committed: Collection[str] = ()
) -> list[Shard]:
    """Chooses the shards that can be committed before the rest: whole rows of whole data files.

    Args:
        plan: of `jobs.plan.plan`.
        finished: ids of shards whose part is there.
        committed: ids of shards committed before.
    """
    open_files = {
        path for shard in plan.shards if shard.id not in finished for path in shard.sources
    }
    return [
        shard
        for shard in plan.shards
        if shard.id in finished
        and shard.id not in committed
        and not open_files.intersection(shard.sources)
    ]

"""Figures of a run for Prometheus, beside Ray's own, at each node's metrics port.

Ray puts `ray_` before the names: `ray_tagline_rows_total{stage="caption",outcome="ok"}`. The driver
counts when a shard's part is put, in some 30 microseconds: an actor may be ended before Ray has
taken its last figures, and what two actors did of one shard would be counted twice.
"""

import threading

from ray.util.metrics import Counter, Gauge

from jobs.parts import PartReport
from schemas.config import FETCH

GAUGE_SECONDS = 2.0  # Ray 2.60 tells a gauge once for each time it is set


class RunMetrics:
    """What a run counts.

    Args:
        pending: shards without a part.
    """

    def __init__(self, pending: int) -> None:
        self.pending = pending
        self._pending = Gauge("tagline_shards_pending", "Shards of the run that are not done.")
        self._done = _counter("shards_done", "Shards whose part was put.")
        self._rows = _counter("rows", "Rows that went through a stage.", "stage", "outcome")
        self._errors = _counter("errors", "Rows that ended in an error.", "code")
        self._retries = _counter("retries", "Images asked for again, by what failed.", "code")
        self._operator_rows = _counter("operator_rows", "Rows an operator computed.", "operator")
        self._seconds = _counter("operator_seconds", "Seconds a stage was at work.", "operator")
        self._bytes = _counter("bytes", "Bytes of images that were fetched, encoded.")
        self._ended = threading.Event()
        threading.Thread(target=self._tell_pending, daemon=True).start()

    def count(self, report: PartReport) -> None:
        """Counts a shard that is done."""
        self.pending -= 1
        _add(self._done, 1)
        _add(self._rows, report.fetched.get("rows", 0), stage=FETCH, outcome="ok")
        _add(self._bytes, report.fetched.get("bytes", 0))
        for name, rows in report.computed.items():
            _add(self._rows, rows, stage=name, outcome="ok")
            _add(self._operator_rows, rows, operator=name)
        for stage, rows in report.failed.items():
            _add(self._rows, rows, stage=stage, outcome="failed")
        for code, rows in report.errors.items():
            _add(self._errors, rows, code=code)
        for code, tries in report.retries.items():
            _add(self._retries, tries, code=code)
        for stage, seconds in report.busy.items():
            _add(self._seconds, seconds, operator=stage)

    def end(self) -> None:
        """Says that nothing is waited for, also after a run that failed."""
        self.pending = 0
        self._ended.set()
        self._pending.set(0)

    def _tell_pending(self) -> None:
        while not self._ended.is_set():
            self._pending.set(self.pending)
            self._ended.wait(GAUGE_SECONDS)


def _counter(name: str, told: str, *labels: str) -> Counter:
    return Counter(f"tagline_{name}_total", description=told, tag_keys=tuple(labels))


def _add(counter: Counter, value: float, **labels: str) -> None:
    if value > 0:
        counter.inc(value, labels)

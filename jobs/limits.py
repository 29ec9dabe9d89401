"""When a run has met too many errors to go on."""

from collections import Counter

from jobs.parts import PartReport
from schemas.errors import RunError

LEAST_ROWS = 200  # tried, before a run may end early
TOP_CODES = 3  # named when it does


class ErrorLimit:
    """Counts the rows of a run that ended in an error.

    A row that had an error before the run and has one again is not counted at all: what is known
    to be broken says nothing of this run. A run that goes on after a stop or a kill counts what was
    tried before it too, but not the transient errors of that time: once committed, they are tried
    again in a round of their own.

    Args:
        fraction: `limits.error_fraction`.
    """

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction
        self.tried = 0
        self.failed = 0
        self.codes: Counter[str] = Counter()

    def go_on_from(self, report: PartReport) -> None:
        """Counts a part of an earlier run."""
        self._count(report)
        self.failed -= report.transient

    def count(self, report: PartReport) -> None:
        """Counts a part of this run.

        Raises:
            RunError: the limit is passed, of `LEAST_ROWS` or more.
        """
        self._count(report)
        if self.is_telling:
            self.check()

    @property
    def is_telling(self) -> bool:
        """Whether enough rows were tried to judge a run before its end."""
        return self.tried >= LEAST_ROWS

    def check(self) -> None:
        """Judges what was counted, be it ever so little.

        Raises:
            RunError: the limit is passed.
        """
        if self.tried == 0 or self.failed / self.tried <= self.fraction:
            return
        top = ", ".join(f"{code} {count}" for code, count in self.codes.most_common(TOP_CODES))
        raise RunError(
            f"{self.failed} of {self.tried} rows tried ended in an error "
            f"({self.failed / self.tried:.1%}), more than limits.error_fraction={self.fraction:g} "
            f"allows: {top}; nothing was committed and what was computed is kept; mend the cause, "
            "or run the same command with a higher limits.error_fraction to commit as it is"
        )

    def _count(self, report: PartReport) -> None:
        new = Counter(report.errors) - Counter(report.repeated)
        self.tried += report.tried - sum(report.repeated.values())
        self.failed += new.total()
        self.codes.update(new)

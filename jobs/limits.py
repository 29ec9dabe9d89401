"""When a run has met too many errors to go on."""

from collections import Counter

from jobs.parts import PartReport
from schemas.config import FETCH
from schemas.errors import RunError

LEAST_ROWS = 200  # tried, before a run may end early
TOP_CODES = 3  # named when it does
STORE_ADVICE = "the same command goes on when the store answers again"
ADVICE = {  # where most errors are of one kind and of images that did not come
    "forbidden": "check the credentials, and that they may read these objects (s3:GetObject)",
    "missing": "check the manifest's uris, and AWS_ENDPOINT_URL where it is set",
    "policy": "check `allow` in the config",
    "unavailable": STORE_ADVICE,
    "timeout": STORE_ADVICE,
}


class ErrorLimit:
    """Counts the rows of a run that ended in an error.

    A row that had an error before the run and has one again is not counted at all: what is known
    to be broken says nothing of this run. A run that goes on after a stop or a kill counts what was
    tried before it too, but not the errors of that time that may pass or that tell of its set-up:
    once committed, they are tried again in a round of their own.

    Args:
        fraction: `limits.error_fraction`.
    """

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction
        self.tried = 0
        self.failed = 0
        self.codes: Counter[str] = Counter()
        self.stages: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def go_on_from(self, report: PartReport) -> None:
        """Counts a part of an earlier run."""
        self._count(report)
        self.failed -= report.transient + report.refused

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
        raise RunError(
            f"{self.failed} of {self.tried} rows tried ended in an error "
            f"({self.failed / self.tried:.1%}), more than limits.error_fraction={self.fraction:g} "
            f"allows: {self._told()}; nothing was committed and what was computed is kept; mend "
            "the cause and run the same command, or with a higher limits.error_fraction to commit "
            "as it is"
        )

    def _told(self) -> str:
        """The commonest codes, one of their errors, and what to look at."""
        common = self.codes.most_common(TOP_CODES)
        told = ", ".join(f"{code} {count}" for code, count in common)
        for code, count in common[:1]:
            if code in self.examples:
                told += f"; such as {self.examples[code]!r}"
            is_of_store = self.stages[FETCH] * 2 > self.stages.total()
            if code in ADVICE and count * 2 > self.codes.total() and is_of_store:
                told += f"; {ADVICE[code]}"
        return told

    def _count(self, report: PartReport) -> None:
        new = Counter(report.errors) - Counter(report.repeated)
        self.tried += report.tried - sum(report.repeated.values())
        self.failed += new.total()
        self.codes.update(new)
        self.stages.update(report.failed)
        self.examples = {**report.examples, **self.examples}

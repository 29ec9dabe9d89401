"""What a run came to: one object for `--json`, a few lines for people."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from jobs.bottleneck import Bottleneck
from jobs.parts import PartReport
from jobs.shards import Plan


@dataclass(frozen=True)
class Summary:
    """What a run came to.

    Args:
        table: where it lies.
        rows: of the manifest, new, changed, with an error, absent from the manifest.
        computed: rows by operator, those of runs that this one went on with included.
        copied: those of them that got the answer of another row with the same picture.
        errors: rows tried that ended in an error, by code.
        retries: tries of images beyond the first, by the code of what had failed.
        seconds: this run took.
        version: of the table; None when there is none yet.
        bottleneck: the stage whose actors were busiest; None when nothing was computed.
    """

    table: str
    rows: Mapping[str, int]
    computed: Mapping[str, int]
    copied: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    retries: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    version: int | None = None
    bottleneck: Bottleneck | None = None

    @property
    def limiting_stage(self) -> str | None:
        """The stage whose actors were busiest; None when nothing was computed."""
        return self.bottleneck.stage if self.bottleneck else None

    @staticmethod
    def of(plan: Plan) -> "Summary":
        """What can be said before a run."""
        counts = plan.counts
        rows = {
            "manifest": counts.manifest,
            "new": counts.new,
            "changed": counts.changed,
            "errors": counts.settled,
            "absent": counts.absent - counts.removed,
        }
        return Summary(
            plan.table, rows, dict.fromkeys(plan.operators, 0), version=plan.table_version
        )

    def with_round(
        self,
        plan: Plan,
        reports: Sequence[PartReport],
        *,
        version: int,
        bottleneck: Bottleneck | None,
    ) -> "Summary":
        """Adds a plan that was run and committed."""
        failed = total(reports, "errors")
        computed = total(reports, "computed")
        return replace(
            self,
            rows={**self.rows, "errors": plan.counts.settled + failed.total()},
            computed={name: rows + computed[name] for name, rows in self.computed.items()},
            copied=Counter(self.copied) + total(reports, "copied"),
            errors=Counter(self.errors) + failed,
            retries=Counter(self.retries) + total(reports, "retries"),
            version=version,
            bottleneck=bottleneck or self.bottleneck,
        )

    def to_json(self) -> dict[str, Any]:
        """The object of `enrich --json`."""
        return {
            "rows": dict(self.rows),
            "computed": dict(self.computed),
            "seconds": round(self.seconds, 3),
            "version": self.version,
            "limiting_stage": self.limiting_stage,
        }


def total(reports: Sequence[PartReport], name: str) -> Counter[str]:
    """Adds up what reports say of `errors`, `computed`, `copied`, `cut`, `busy` or `retries`."""
    found: Counter[str] = Counter()
    for report in reports:
        found.update(getattr(report, name))
    return found


def show(summary: Summary, console: Console) -> None:
    """Prints a summary for people."""
    rows = summary.rows
    grid = Grid.grid(padding=(0, 2))
    grid.add_row("rows", _counts({**rows, "errors": rows["errors"]}))
    grid.add_row("computed", _counts(summary.computed) or "nothing")
    if summary.copied:
        grid.add_row("of them copied", _counts(summary.copied))
    if summary.errors:
        grid.add_row("failed in this run", _counts(summary.errors))
    if summary.retries:
        grid.add_row("images asked for again", _counts(summary.retries))
    grid.add_row("took", f"{summary.seconds:.1f} s")
    if summary.bottleneck:
        grid.add_row("limited by", _limit(summary.bottleneck))
    if summary.version is not None:
        grid.add_row("table", f"{summary.table} (version {summary.version})")
    console.print(grid)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _limit(found: Bottleneck) -> str:
    busy = f"{found.actors} {'actor' if found.actors == 1 else 'actors'}, {found.share:.0%} busy"
    return f"{found.stage} ({busy}): {found.advice}"

"""What every benchmark shares: contenders by turns, the figures kept, and on which machine.

A figure is the median of its rounds. Contenders run by turns in one go, so a slow minute of the
machine meets all of them, and a ratio is the median of the rounds' own ratios. A benchmark keeps
its figures by `write`; `python -m tests.benchmarks.results` makes the page of them.
"""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from jobs.health.machine import CPU_FLAGS
from operators.precision import processor_flags

RESULTS = Path(__file__).parent / "results"
ROUNDS = 5
PACKAGES = ("torch", "transformers", "ray", "pyarrow", "pillow", "numpy", "duckdb", "deltalake")


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        what: is measured.
        unit: of the figures, "s" or "images/s".
        ours: a figure a round; none where this machine cannot measure it, and the note says why.
        theirs: of what it is held against, the same rounds; none where it stands for itself.
        against: what that is.
        least: the ratio (without `theirs` the figure) that is asked for.
        most: likewise an upper bound.
        more_is_better: false of seconds and bytes; a ratio above 1 always says that ours is better.
        note: what a reader has to know.
    """

    what: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float] = ()
    against: str = ""
    least: float | None = None
    most: float | None = None
    more_is_better: bool = False
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """By how much ours is better, a ratio a round."""
        pairs = zip(self.ours, self.theirs, strict=True)
        return [o / t if self.more_is_better else t / o for o, t in pairs]

    @property
    def judged(self) -> float:
        """The median that is held against what is asked."""
        return median(self.ratios if self.theirs else self.ours)

    @property
    def is_met(self) -> bool | None:
        """Whether it is what was asked; None where nothing is."""
        if not self.ours or (self.least is None and self.most is None):
            return None
        is_enough = self.least is None or self.judged >= self.least
        return is_enough and (self.most is None or self.judged <= self.most)


@dataclass(frozen=True)
class Section:
    """One table of the page.

    Args:
        name: of its file; the benchmark's module.
        title: its heading.
        text: how it was measured, for the page.
        command: that measures it again.
        rows: its lines.
        machine: where, when and with which versions.
    """

    name: str
    title: str
    text: str
    command: str
    rows: Sequence[Row]
    machine: Mapping[str, Any] = field(default_factory=lambda: machine())


def alternate(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int = ROUNDS, warm_up: int = 1
) -> dict[str, list[float]]:
    """Runs contenders by turns, each first in every other round.

    Args:
        contenders: by name; one that returns a float measured itself, else its time is taken.
        rounds: that count.
        warm_up: rounds before, which do not.

    Returns:
        Seconds (or what the contender returned) by name, one a round.
    """
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(warm_up + rounds):
        order = list(contenders) if number % 2 else list(reversed(contenders))
        for name in order:
            begun = time.perf_counter()
            found = contenders[name]()
            taken = time.perf_counter() - begun
            if number >= warm_up:
                figures[name].append(found if isinstance(found, float) else taken)
    return figures


def write(section: Section) -> Path:
    """Keeps a section's figures; rows of other parts of the same benchmark stay.

    A row replaces the one that measured the same (`what`), so a benchmark may be run in parts.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{section.name}.json"
    rows = {row.what: row for row in (read(path).rows if path.exists() else ())}
    rows |= {row.what: row for row in section.rows}
    document = {**asdict(section), "rows": [asdict(row) for row in rows.values()]}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    for row in section.rows:
        print(line(row), flush=True)
    return path


def read(path: Path) -> Section:
    """Reads what `write` kept."""
    document = json.loads(path.read_text())
    return Section(**{**document, "rows": [Row(**row) for row in document["rows"]]})


def line(row: Row) -> str:
    """A row in words."""
    if not row.ours:
        return f"{row.what}: not measured, {row.note}"
    figure = f"{row.what}: {figure_of(median(row.ours))} {row.unit}"
    if row.theirs:
        low, high = min(row.ratios), max(row.ratios)
        figure += (
            f" against {figure_of(median(row.theirs))} of {row.against}: "
            f"{row.judged:.2f}x ({low:.2f} to {high:.2f})"
        )
    if row.is_met is not None:
        figure += f", asked {asked(row)}: {'met' if row.is_met else 'NOT met'}"
    return figure


def figure_of(value: float) -> str:
    """A number with four digits that tell, and without powers of ten."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def asked(row: Row) -> str:
    """What is asked of a row."""
    unit = "x" if row.theirs or (row.against and not row.ours) else f" {row.unit}"
    bounds = [(">=", row.least), ("<=", row.most)]
    return " and ".join(f"{sign} {bound:g}{unit}" for sign, bound in bounds if bound is not None)


def second_paragraph(docstring: str | None) -> str:
    """Of a benchmark's docstring, on one line: how it measures."""
    return " ".join((docstring or "").split("\n\n")[1].split())


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, memory, versions, the day."""
    info = Path("/proc/cpuinfo").read_text()
    fields = dict(
        entry.split(":", 1) for entry in info.split("\n\n")[0].splitlines() if ":" in entry
    )
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    found = processor_flags()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "processor": fields.get("model name", platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in CPU_FLAGS if flag in found],
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def _commit() -> str:
    words = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(words, cwd=RESULTS.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()

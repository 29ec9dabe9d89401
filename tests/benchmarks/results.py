"""Makes RESULTS.md and its plots of the figures that benchmarks kept.

    python -m tests.benchmarks.results

Needs matplotlib, of the extra `bench`.
"""

from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

from tests.benchmarks.measuring import RESULTS, Row, Section, asked, figure_of, read

PAGE = RESULTS.parent / "RESULTS.md"
ELSEWHERE = {"chaos.json"}  # the README tells of it
OURS, MET, MISSED, ASKED = "#2563eb", "#2563eb", "#dc2626", "#111827"
INTRODUCTION = """# What was measured

Made by `make bench` from `results/*.json`; nothing here is written by hand. A ratio above 1 says
that tagline is better; it is the median of ratios taken round by round, contenders by turns in one
run, with the smallest and the largest beside it. These are measurements, not tests: nothing fails
on a slow machine.
"""


def main() -> None:
    """Writes the page and one plot a section."""
    matplotlib.rcParams["svg.hashsalt"] = "tagline"  # the same figures give the same file
    paths = sorted(path for path in RESULTS.glob("*.json") if path.name not in ELSEWHERE)
    sections = [read(path) for path in paths]
    for section in sections:
        plot(section, RESULTS / f"{section.name}.svg")
    PAGE.write_text("\n".join([INTRODUCTION, *(markdown(section) for section in sections)]))


def markdown(section: Section) -> str:
    """A section of the page."""
    told, versions = section.machine, section.machine["versions"]
    flags = ", ".join(told["flags"]) or "none"
    rows = [_line(row) for row in section.rows]
    notes = [f"- {row.what}: {row.note}" for row in section.rows if row.note]
    return "\n".join(
        [
            f"## {section.title}\n",
            f"{section.text}\n",
            "| what | ours | against | theirs | ratio (range) | asked | |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
            *([*notes, ""] if notes else []),
            f"![{section.title}](results/{section.name}.svg)\n",
            f"`{section.command}`, {told['date']}, commit {told['commit']}; {told['processor']}, "
            f"{told['cores']} cores (of its instructions: {flags}), {told['memory_gb']} GB; "
            f"Python {told['python']}, "
            + ", ".join(f"{name} {version}" for name, version in versions.items())
            + ".\n",
        ]
    )


def plot(section: Section, path: Path) -> None:
    """Draws what each row came to, as a share of what was asked where something was."""
    rows = [row for row in section.rows if row.ours]
    figure, axes = pyplot.subplots(figsize=(9, 0.9 + 0.5 * len(rows)), layout="constrained")
    for place, row in enumerate(rows):
        values = [_share(row, value) for value in (row.ratios if row.theirs else row.ours)]
        colour = MISSED if row.is_met is False else MET
        axes.barh(place, median(values), height=0.6, color=colour)
        axes.plot([min(values), max(values)], [place, place], color=ASKED, linewidth=1.5)
        axes.text(max(values), place, f"  {_figure(row)}", va="center", fontsize=9)
    axes.axvline(1, color=ASKED, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(rows)), [row.what for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.set_xlabel("1 = what was asked, or as good as the other; further right is better")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)


def _share(row: Row, value: float) -> float:
    """A value as a share of what is asked; a small one of an upper bound is far right."""
    if row.least is not None:
        return value / row.least
    if row.most is not None:
        return row.most / value if value else 1.0
    return value if row.theirs else 1.0


def _figure(row: Row) -> str:
    if row.theirs:
        return f"{row.judged:.2f}x"
    return f"{figure_of(row.judged)} {row.unit}"


def _line(row: Row) -> str:
    theirs = f"{figure_of(median(row.theirs))} {row.unit}" if row.theirs else ""
    ratio = ""
    if row.theirs:
        ratio = f"**{row.judged:.2f}x** ({min(row.ratios):.2f}-{max(row.ratios):.2f})"
    elif len(row.ours) > 1:
        ratio = f"({figure_of(min(row.ours))}-{figure_of(max(row.ours))})"
    verdict = {None: "", True: "met", False: "**not met**"}[row.is_met]
    ours = f"{figure_of(median(row.ours))} {row.unit}" if row.ours else "not measured"
    cells = [row.what, ours, row.against, theirs, ratio]
    return "| " + " | ".join([*cells, asked(row), verdict]) + " |"


if __name__ == "__main__":
    main()

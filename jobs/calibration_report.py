"""Tells what a calibration found: promises, what becomes of the rows, and a reliability diagram."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid

from jobs.calibrate import Calibrated, Found, Promise
from jobs.reliability import Bin, calibration_error
from operators.acceptance import VERDICTS
from schemas.calibration import Thresholds

BAR = 30  # characters of a bar that stands for 100 %
SIDE, MARGIN = 220, 46  # of a diagram's square and of what is around it, in pixels
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 } .title { font-weight: 600 }
.axis { stroke: #8c959f } .ideal { stroke: #8c959f; stroke-dasharray: 4 4 }
.before { stroke: #bf8700; fill: #bf8700 } .after { stroke: #0969da; fill: #0969da }
polyline { fill: none !important; stroke-width: 2 } tspan { stroke: none !important }
.page { fill: #ffffff }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .page { fill: #0d1117 }
  .before { stroke: #d29922; fill: #d29922 } .after { stroke: #58a6ff; fill: #58a6ff } }
"""


def show(found: Found, console: Console) -> None:
    """Prints what was found, for people."""
    promised = found.calibration
    for name, column in found.columns.items():
        share = column.right / column.answers
        console.print(
            f"\n[bold]{name}[/bold]: {column.answers:,} people's answers, {share:.1%} of the "
            f"table's are right; temperature {column.column.temperature:.2f}"
        )
        if column.recall is not None:
            console.print(
                f"  recall: {column.recall:.1%} of the tags that people call true are the table's"
            )
        tested = sum(promise.tested for promise in column.promises)
        if tested < column.answers:
            console.print(
                f"  {tested:,} of the answers are tested: one of an image for each threshold, as "
                "those about the same image may err together"
            )
        for given, promise in zip(column.column.thresholds, column.promises, strict=True):
            for line in _told(given, promise, promised.precision, promised.confidence):
                console.print(f"  {line}")
        counts = (f"{column.verdicts[verdict]:,} {verdict}" for verdict in VERDICTS)
        console.print(f"  of the table's answers: {', '.join(counts)}")
        if not column.seems_random:
            console.print(
                "  [yellow]the judged answers are more, or less, confident than the table's: were "
                "they drawn at random? otherwise the promise does not hold[/yellow]"
            )
        console.print(_diagram(column.after))
        before, after = calibration_error(column.before), calibration_error(column.after)
        console.print(f"  probability and truth differ by {after:.1%}; unscaled by {before:.1%}")
    for reason, count in found.left_out.items():
        console.print(f"{count:,} of people's answers are left out: {reason}")
    console.print(f"\nthresholds in {found.path}; in a job for `tagline enrich`, as the last of")
    console.print(f'operators:\n  accept: {{use: acceptance, thresholds: "{found.path}"}}')


def svg(found: Found) -> str:
    """Draws the reliability diagrams of all columns side by side."""
    width = (SIDE + 2 * MARGIN) * len(found.columns)
    height = SIDE + 2 * MARGIN
    squares = "".join(
        f'<g transform="translate({n * (SIDE + 2 * MARGIN) + MARGIN} {MARGIN})">'
        f"{_square(name, column)}</g>"
        for n, (name, column) in enumerate(found.columns.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}"><style>{STYLE}</style>'
        f'<rect class="page" width="{width}" height="{height}"/>{squares}</svg>\n'
    )


def write_diagram(found: Found, path: Path) -> None:
    """Writes the reliability diagrams to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg(found), encoding="utf-8")


def _told(
    given: Thresholds, promise: Promise, precision: float, confidence: float
) -> Iterable[str]:
    """What is promised of the answers of one label, or of all."""
    of = "" if given.label is None else f"{given.label}: "
    sure = f"with {confidence:.1%} confidence"
    if given.accept is not None:
        yield f"{of}accepted from {given.accept:.4g} on: at least {precision:.1%} are right, {sure}"
    elif promise.accept.more is None:
        yield f"{of}none accepted: at no confidence do {precision:.1%} seem to be right"
    else:
        yield (
            f"{of}none accepted: too few people's answers to promise {precision:.1%} {sure}; about "
            f"{promise.accept.more:,} more are needed"
        )
    if given.reject is not None:
        yield f"{of}rejected up to {given.reject:.4g}: at least {precision:.1%} are wrong, {sure}"


def _diagram(bins: Sequence[Bin]) -> Grid:
    """Probability and truth, bin by bin."""
    grid = Grid("probability", "right", "judged", "", box=None, padding=(0, 2))
    for one in bins:
        bar = "█" * round(one.right * BAR)
        grid.add_row(f"{one.probability:.1%}", f"{one.right:.1%}", f"{one.count:,}", bar)
    return grid


def _square(name: str, column: Calibrated) -> str:
    lines = _line(column.before, "before") + _line(column.after, "after")
    before, after = calibration_error(column.before), calibration_error(column.after)
    return (
        f'<text class="title" x="0" y="-26">{escape(name)}</text>'
        f'<text x="0" y="-10"><tspan class="before">■ as it is, error {before:.1%}</tspan> '
        f'<tspan class="after" dx="6">■ scaled, {after:.1%}</tspan></text>'
        f'<line class="ideal" x1="0" y1="{SIDE}" x2="{SIDE}" y2="0"/>'
        f'<polyline class="axis" points="0,0 0,{SIDE} {SIDE},{SIDE}"/>'
        f'<text x="0" y="{SIDE + 16}">0</text><text x="{SIDE - 6}" y="{SIDE + 16}">1</text>'
        f'<text x="{SIDE / 2 - 36}" y="{SIDE + 16}">probability</text>'
        f'<text transform="translate(-10 {SIDE / 2 + 40}) rotate(-90)">share right</text>{lines}'
    )


def _line(bins: Sequence[Bin], kind: str) -> str:
    points = [(one.probability * SIDE, (1 - one.right) * SIDE) for one in bins]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
    return f'<polyline class="{kind}" points="{line}"/>{dots}'

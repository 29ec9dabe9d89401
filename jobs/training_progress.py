"""Shows how far a fine-tuning is: a bar on a terminal, else a line each few seconds.

The curve that worker 0 writes is all it needs, wherever the workers are.
"""

import sys
import threading
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from jobs.training_state import RunFolder

SECONDS = 5.0  # between two lines
AVERAGED = 20  # steps whose speed is shown


def show_progress(folder: RunFolder, ended: threading.Event, stream: TextIO | None = None) -> None:
    """Shows the curve as it grows, until `ended` is set; on standard error."""
    stream = stream or sys.stderr
    if stream.isatty():
        _draw_bar(folder, ended, stream)
        return
    shown = ""
    while True:
        is_over = ended.wait(SECONDS)
        line = describe(folder.read_curve())
        if line and line != shown:
            print(f"event=progress {line}", file=stream, flush=True)
            shown = line
        if is_over:
            return


def describe(curve: list[dict[str, Any]]) -> str:
    """Says in one line how far a run is; empty before its first step."""
    steps = [line for line in curve if "loss" in line]
    judged = [line["validation"] for line in curve if "validation" in line]
    if not steps:
        return ""
    last, some = steps[-1], steps[-AVERAGED:]
    speed = len(some) / sum(1 / line["images_per_second"] for line in some)
    line = (
        f"step={last['step']}/{last['steps']} epoch={last['epoch']:.2f} loss={last['loss']:.4f} "
        f"rate={last['rate']:.2e} images_per_second={speed:.1f}"
    )
    for name, value in judged[-1].items() if judged else ():
        line += f" {name}={value:.4f}"
    return line


def _draw_bar(folder: RunFolder, ended: threading.Event, stream: TextIO) -> None:
    columns = (
        TextColumn("finetune"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(file=stream)) as bars:
        task = bars.add_task("starting", total=None)
        is_over = False
        while not is_over:
            is_over = ended.wait(1.0)
            curve = folder.read_curve()
            steps = [line for line in curve if "loss" in line]
            if steps:
                told = describe(curve).partition(" ")[2]
                done, total = steps[-1]["step"], steps[-1]["steps"]
                bars.update(task, completed=done, total=total, description=told)

"""Shows how far a fine-tuning is: a bar on a terminal, else a line each few seconds.

The curve that worker 0 writes is all it needs, wherever the workers are.
"""

import sys
import threading
from collections import deque
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from jobs.training_state import RunFolder

SECONDS = 5.0  # between two lines
AVERAGED = 20  # steps whose speed is shown


class Progression:
    """What is shown of a curve: its last steps and the last validation, read on as it grows."""

    def __init__(self, folder: RunFolder) -> None:
        self._follower = folder.follow_curve()
        self.steps: deque[dict[str, Any]] = deque(maxlen=AVERAGED)
        self.judged: dict[str, float] = {}

    def read_on(self) -> None:
        """Takes in the lines that were added."""
        lines, is_anew = self._follower.read_on()
        if is_anew:
            self.steps.clear()
            self.judged = {}
        self.steps.extend(line for line in lines if "loss" in line)
        for line in lines:
            self.judged = line.get("validation", self.judged)

    def describe(self) -> str:
        """Says in one line how far a run is; empty before its first step."""
        if not self.steps:
            return ""
        last = self.steps[-1]
        speed = len(self.steps) / sum(1 / line["images_per_second"] for line in self.steps)
        line = (
            f"step={last['step']}/{last['steps']} epoch={last['epoch']:.2f} "
            f"loss={last['loss']:.4f} rate={last['rate']:.2e} images_per_second={speed:.1f}"
        )
        return line + "".join(f" {name}={value:.4f}" for name, value in self.judged.items())


def show_progress(folder: RunFolder, ended: threading.Event, stream: TextIO | None = None) -> None:
    """Shows the curve as it grows, until `ended` is set; on standard error."""
    stream = stream or sys.stderr
    progression = Progression(folder)
    if stream.isatty():
        _draw_bar(progression, ended, stream)
        return
    shown = ""
    is_over = False
    while not is_over:
        is_over = ended.wait(SECONDS)
        progression.read_on()
        line = progression.describe()
        if line and line != shown:
            print(f"event=progress {line}", file=stream, flush=True)
            shown = line


def _draw_bar(progression: Progression, ended: threading.Event, stream: TextIO) -> None:
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
            progression.read_on()
            if progression.steps:
                last = progression.steps[-1]
                told = progression.describe().partition(" ")[2]
                bars.update(task, completed=last["step"], total=last["steps"], description=told)

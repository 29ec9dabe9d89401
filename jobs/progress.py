"""How far a run is: a bar on a terminal, else a line each few seconds, both on standard error."""

import sys
import threading
import time
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

from jobs.event_log import rendered

PLAIN_SECONDS = 5.0  # between two lines


class Progress:
    """Rows done, rows per second, time left and errors, for the length of a `with`.

    Args:
        total: rows to be done, those of a run that this one goes on with included.
        done: rows already done.
        errors: those of them with an error.
        stream: where lines go; a bar is drawn when it is a terminal.
    """

    def __init__(
        self, total: int, *, done: int = 0, errors: int = 0, stream: TextIO | None = None
    ) -> None:
        self.total, self.done, self.errors = total, done, errors
        self._first = (time.monotonic(), done)
        self._last = self._first
        self._stream = stream  # standard error may be another at each line
        self._ended = threading.Event()
        shown = stream or sys.stderr
        self._bars = _bars(shown) if shown.isatty() else None
        self._task = (
            self._bars.add_task("enrich", total=total, rate="", left="", errors="")
            if self._bars
            else None
        )
        self._lines = threading.Thread(target=self._write_lines, daemon=True)

    def __enter__(self) -> Self:
        """Begins to show."""
        if self._bars:
            self._bars.start()
            self._show()
        else:
            self._lines.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Shows where it ended."""
        self._ended.set()
        if self._bars:
            self._bars.stop()
        else:
            self._lines.join()
            self._write_line()

    def advance(self, rows: int, *, errors: int) -> None:
        """Counts rows that are done, and those of them with an error."""
        if self._last is self._first:  # what came before was start-up
            self._first = (time.monotonic(), self.done + rows)
        self.done += rows
        self.errors += errors
        self._last = (time.monotonic(), self.done)
        self._show()

    def rows_per_second(self) -> float | None:
        """The rate since the first rows came; None while it cannot be told."""
        seconds, rows = self._last[0] - self._first[0], self._last[1] - self._first[1]
        return rows / seconds if rows and seconds > 0 else None

    def seconds_left(self) -> float | None:
        """At the present rate; None while that cannot be told."""
        rate = self.rows_per_second()
        return (self.total - self.done) / rate if rate else None

    def _show(self) -> None:
        if self._bars and self._task is not None:
            rate, left = self.rows_per_second(), self.seconds_left()
            self._bars.update(
                self._task,
                completed=self.done,
                rate=f"{rate:.1f} rows/s" if rate else "starting",
                left=_clock(left) if left is not None else "-:--",
                errors=f"{self.errors} errors",
            )

    def _write_lines(self) -> None:
        while not self._ended.wait(PLAIN_SECONDS):
            self._write_line()

    def _write_line(self) -> None:
        rate, left = self.rows_per_second(), self.seconds_left()
        message = "event=progress rows=%s"
        values: list[object] = [f"{self.done}/{self.total}"]
        if rate:
            message, values = f"{message} rows_per_second=%.1f", [*values, rate]
        if left is not None:
            message, values = f"{message} seconds_left=%.0f", [*values, left]
        line = rendered(__name__, f"{message} errors=%d", *values, self.errors)
        print(line, file=self._stream or sys.stderr, flush=True)


def _bars(stream: TextIO) -> Bars:
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]} left"),
        TextColumn("{task.fields[errors]}"),
        console=Console(file=stream),
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

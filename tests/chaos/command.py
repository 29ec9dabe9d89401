"""A command that runs: its lines with the time of each, its end, and signals to it."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
SECONDS = 500.0  # for one command on a busy machine


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Args:
        code: its exit code; negative for the signal that ended it.
        lines: that it wrote, on standard output and standard error.
        seconds: it took.
        silence: the longest time without a line, from its start to its end.
    """

    code: int
    lines: Sequence[str]
    seconds: float
    silence: float

    @property
    def text(self) -> str:
        """All it wrote."""
        return "\n".join(self.lines)

    @property
    def message(self) -> str:
        """The last line that begins with `tagline:`; empty when none does."""
        return next((line for line in reversed(self.lines) if line.startswith("tagline:")), "")


class Running:
    """A command in a session of its own, which does not outlive a `with`.

    Args:
        command: its words.
        environment: added to ours.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.begun = time.monotonic()
        self.times: list[float] = [self.begun]
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env={**os.environ, **surroundings(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_heed_interrupts,
        )
        self._changed = threading.Condition()
        self._is_silent = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(10)
        if self._process.stdout and not self._reader.is_alive():
            self._process.stdout.close()

    @property
    def pid(self) -> int:
        """Of the command itself."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is over."""
        return self._process.poll() is not None

    def until(self, pattern: str, seconds: float = SECONDS) -> str | None:
        """Waits for a line that matches and gives it; None when the command ends first."""
        ends, seen = time.monotonic() + seconds, 0
        while True:
            with self._changed:
                while seen < len(self.lines):
                    seen += 1
                    if re.search(pattern, self.lines[seen - 1]):
                        return self.lines[seen - 1]
                if self._is_silent:
                    return None
                assert time.monotonic() < ends, f"no {pattern!r} in {self.lines[-20:]}"
                self._changed.wait(1)

    def rest(self, seconds: float) -> bool:
        """Lets it run for some seconds; whether it still does then."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal to the command alone."""
        if not self.has_ended:
            os.kill(self.pid, number)

    def interrupt(self) -> None:
        """Does what Ctrl-C does: SIGINT to all processes of its terminal's foreground."""
        if not self.has_ended:
            os.killpg(self.pid, signal.SIGINT)

    def wait(self, seconds: float = SECONDS) -> Ended:
        """Waits for its end, which must come."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end after {seconds} s: {self.lines[-20:]}") from None
        finally:
            self.__exit__()
        times = [*self.times, time.monotonic()]
        silence = max(late - early for early, late in pairwise(times))
        return Ended(code, tuple(self.lines), times[-1] - self.begun, silence)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self.times.append(time.monotonic())
                self._changed.notify_all()
        with self._changed:
            self._is_silent = True
            self._changed.notify_all()


def _heed_interrupts() -> None:
    """A shell has what it starts in the background ignore SIGINT, and its children with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def surroundings() -> dict[str, str]:
    """Variables that commands of this project and their workers need."""
    return {
        "PYTHONPATH": os.pathsep.join(
            [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }

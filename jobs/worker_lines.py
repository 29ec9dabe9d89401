"""Brings what a run's workers say of the stores they wait for to its driver, where people look.

Workers log on their own nodes. The first such line makes an actor under the run's name, and the
driver asks it now and then; a run that waits for no store starts nothing.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from jobs.stages import Work
from operators.patience import TOLD_SECONDS

BEGINNING = "event=store_"
POLL_SECONDS = 5.0
MOST_LINES = 1_000  # kept until the driver asks

Line = tuple[str, str, tuple[Any, ...]]  # logger, message, values

logger = logging.getLogger(__name__)


@contextmanager
def followed(work: Work) -> Iterator[None]:
    """Logs here what the workers of a run say, for the length of a `with`."""
    if work.logs is None:
        yield
        return
    follower = _Follower(_name(work.logs.run))
    follower.thread.start()
    try:
        yield
    finally:
        follower.ended.set()
        follower.thread.join()


def forward(work: Work) -> None:
    """Has this worker's lines reach the driver; twice is once."""
    if work.logs is None:
        return
    name = _name(work.logs.run)
    root = logging.getLogger()
    before = [handler for handler in root.handlers if isinstance(handler, _Forwarder)]
    if not any(handler.board == name for handler in before):
        for handler in before:
            root.removeHandler(handler)
        root.addHandler(_Forwarder(name))


def _name(run: str) -> str:
    return f"tagline-lines-{run}"


class _Lines:
    """The actor that keeps lines until they are asked for."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def put(self, line: Line) -> None:
        """Keeps a line, unless nobody has asked for a thousand."""
        if len(self.lines) < MOST_LINES:
            self.lines.append(line)

    def take(self) -> list[Line]:
        """Gives what came since the last time."""
        taken, self.lines = self.lines, []
        return taken


class _Forwarder(logging.Handler):
    """Puts the lines about stores on the actor."""

    def __init__(self, board: str) -> None:
        super().__init__(logging.WARNING)
        self.board = board
        self.kept: Any = None  # an actor ends with the last handle of it

    def emit(self, record: logging.LogRecord) -> None:
        """Never fails: the node's own log has the line."""
        if not str(record.msg).startswith(BEGINNING) or not isinstance(record.args, tuple):
            return
        values = tuple(v if isinstance(v, int | float) else str(v) for v in record.args)
        try:
            kept: Any = ray.remote(_Lines)
            self.kept = kept.options(name=self.board, get_if_exists=True, num_cpus=0).remote()
            self.kept.put.remote((record.name, str(record.msg), values))
        except Exception:
            self.handleError(record)


class _Follower:
    """Asks the actor, where there is one, in a thread of its own."""

    def __init__(self, board: str) -> None:
        self.board = board
        self.ended = threading.Event()
        self.told: dict[tuple[str, tuple[Any, ...]], float] = {}
        self.trouble: type[Exception] | None = None  # the last that was told of
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def _follow(self) -> None:
        asked: Any = None  # an answer that is late is not lost
        is_last = False
        while not is_last:
            is_last = self.ended.wait(POLL_SECONDS)
            try:
                asked = asked or ray.get_actor(self.board).take.remote()
                lines: list[Line] = ray.get(asked, timeout=POLL_SECONDS)
            except ray.exceptions.GetTimeoutError:
                continue
            except (ValueError, ray.exceptions.RayError):  # nobody has waited, or it has died
                lines = []
            except Exception as error:  # of a Ray in trouble; it may come back
                lines = []
                if type(error) is not self.trouble:
                    logger.warning("event=worker_lines_not_heard error=%r", error)
                self.trouble = type(error)
            asked = None
            for line in lines:
                self._tell(*line)

    def _tell(self, name: str, message: str, values: tuple[Any, ...]) -> None:
        """Logs a line, unless another worker said as much of the same store a moment ago."""
        about, now = (message, values[:1]), time.monotonic()
        if now - self.told.get(about, -TOLD_SECONDS) >= TOLD_SECONDS / 2:
            self.told[about] = now
            logging.getLogger(name).warning(message, *values)

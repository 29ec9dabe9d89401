"""Says what a run waits for, each time that nothing has moved for half a minute.

So whoever watches its log can tell a slow store from a missing machine, and neither from a job that
hangs. One thread for all of a run: plan, models, Ray, shards, commit.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Self

SILENT_SECONDS = 30.0

logger = logging.getLogger(__name__)


class Waiting:
    """Watches for the length of a `with`.

    Args:
        seconds: without a move, until it is said and said again; `SILENT_SECONDS` when None.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = SILENT_SECONDS if seconds is None else seconds
        self._ended = threading.Event()
        self._since = time.monotonic()
        self._what: Callable[[], str] = lambda: "the run to begin"
        self._thread = threading.Thread(target=self._watch, name="waiting", daemon=True)

    def __enter__(self) -> Self:
        """Begins to watch."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends; a question that is asked just now is not waited for."""
        self._ended.set()

    def begins(self, what: str | Callable[[], str]) -> None:
        """Tells what is waited for from now on; a function is asked when it is said."""
        self._what = what if callable(what) else lambda: what
        self.moves()

    def moves(self) -> None:
        """Tells that something came."""
        self._since = time.monotonic()

    def _watch(self) -> None:
        said = 0
        while not self._ended.wait(self.seconds / 10):
            waited = time.monotonic() - self._since
            if waited < self.seconds:
                said = 0
            elif waited >= (said + 1) * self.seconds:
                said = int(waited / self.seconds)
                logger.info("event=waiting for=%s seconds=%.0f", self._told(), waited)

    def _told(self) -> str:
        try:
            return self._what()
        except Exception as error:  # of Ray, say, in trouble: it is then that this is watched
            return f"what cannot be told ({type(error).__name__}: {error})"

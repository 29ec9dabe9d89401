"""Ends a process that is stuck in a batch, so that whoever started it goes on without the batch."""

import faulthandler
from types import TracebackType
from typing import Self

STANDARD_ERROR = 2


class BatchTimer:
    """Ends this process, with a traceback in its log, when a batch takes too long in a `with`.

    The timer is no thread of Python's, so it also ends what holds the interpreter's lock.

    Args:
        seconds: of one batch; None for as long as it takes.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._is_on = False

    def __enter__(self) -> Self:
        self._is_on = True
        self.moves()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, frames: TracebackType | None
    ) -> None:
        self._is_on = False
        faulthandler.cancel_dump_traceback_later()

    def moves(self, batch: object = None) -> None:
        """Begins to count anew: another batch is begun, or waited for with a limit of its own."""
        if self._is_on and self.seconds is not None:
            faulthandler.dump_traceback_later(self.seconds, exit=True, file=STANDARD_ERROR)

"""How a run ends that is asked to: by SIGTERM, as `ray job stop` and Kubernetes do, or Ctrl-C."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

KEPT = "parts already written are kept, and the same command goes on with them"


@contextmanager
def ending_in_order(tell: Callable[[str], object]) -> Iterator[None]:
    """Turns SIGTERM into SystemExit, with a message and exit code 1, for the length of a `with`.

    A second one ends the process at once. In another thread than the main one nothing is changed,
    as Python handles signals only there.

    Args:
        tell: told why, before anything is cleared away: `ray job stop` waits 3 seconds only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        asked.append("SIGTERM")
        tell("SIGTERM")
        raise _ended("SIGTERM")

    asked: list[str] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        asked.append("Ctrl-C")
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGTERM, end)
    is_heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heeded:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except SystemExit as ended:
        if ended.code == signal.SIGTERM:  # by Ray's own handler, while Ray starts
            raise _ended("SIGTERM") from None
        raise
    except Exception:
        if asked:  # a library took what the handler raised for a fault of its own
            raise _ended(asked[0]) from None
        raise
    finally:
        if is_heeded:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, before)


@contextmanager
def ending_on_ctrl_c() -> Iterator[None]:
    """Turns KeyboardInterrupt into SystemExit, with a message and exit code 1."""
    try:
        yield
    except KeyboardInterrupt:
        raise _ended("Ctrl-C") from None


@contextmanager
def keeping_handler() -> Iterator[None]:
    """Keeps what SIGTERM does from being changed in a `with`, as `ray.init` would."""
    before: Any = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _ended(by: str) -> SystemExit:
    return SystemExit(f"tagline: ended by {by}; {KEPT}")

"""Reads a table while jobs on it are broken: what anyone may see meanwhile."""

import threading
from contextlib import suppress

from jobs.table import open_table


class Reader:
    """Polls a table for the length of a `with`: its version, its rows, its different rows.

    Args:
        path: of the table.
        passes: what a read may fail with, as where a data file is damaged: no rows, so no lie.
    """

    def __init__(self, path: str, *, passes: tuple[type[Exception], ...] = ()) -> None:
        self.path, self.passes = path, passes
        self.seen: set[tuple[int, int, int]] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._ended.wait(0.3):
            with suppress(*self.passes):
                table = open_table(self.path)
                if table is not None:
                    ids = table.read(["image_id"])["image_id"]
                    self.seen.add((table.version, len(ids), len(ids.unique())))

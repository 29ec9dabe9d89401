"""What a store of image files is, and the local disk as one.

`operators/s3_objects.py` reads S3, `operators/web.py` http(s).

Every store gives the size before it gives the bytes, so that a file that is too large is never
read, and says what went wrong as a `RowFault`. No store tries again by itself: the fetcher does,
for all alike.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from operators.policy import Place
from schemas.errors import RowFault

CONNECT_SECONDS = 10.0
SILENT_SECONDS = 20.0  # without a byte, until a try of a file is given up


@dataclass(frozen=True)
class Opened:
    """A file that was found and whose bytes were not read yet.

    Args:
        size: bytes; None where the store does not say.
        etag: changes when the content does.
        read: all bytes, or the first `limit` + 1 of more.
    """

    size: int | None
    etag: str | None
    read: Callable[[int], bytes]


class Source(Protocol):
    """One kind of store."""

    def opened(self, place: Place) -> AbstractContextManager[Opened]:
        """Finds a file; both this and reading it raise RowFault."""

    def etag(self, place: Place) -> str | None:
        """The present etag of a file, without reading it; raises RowFault."""


class LocalFiles:
    """Files of this machine; the etag is made of size and modification time."""

    @contextmanager
    def opened(self, place: Place) -> Iterator[Opened]:
        """Finds a regular file."""
        with _local_faults(place.path):
            self._status(place.path)  # a pipe or a device is never opened
            with open(place.path, "rb") as file:
                status = os.fstat(file.fileno())
                yield Opened(status.st_size, _etag(status), lambda limit: file.read(limit + 1))

    def etag(self, place: Place) -> str | None:
        """Size and modification time."""
        with _local_faults(place.path):
            return _etag(self._status(place.path))

    def _status(self, path: str) -> os.stat_result:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise RowFault("missing", f"{path!r} is a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise RowFault("policy", f"{path!r} is not a regular file")
        return status


def _etag(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


@contextmanager
def _local_faults(path: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RowFault("missing", f"{path!r}: no such file") from error
    except PermissionError as error:
        raise RowFault("forbidden", f"{path!r} may not be read: {error.strerror}") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise RowFault("missing", "no file can have a name as long as this uri") from error
        raise RowFault("unavailable", f"{path!r}: {error}", transient=True) from error

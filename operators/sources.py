"""Reading image files from where they lie: a local disk or S3. `operators/web.py` reads http(s).

Every store gives the size before it gives the bytes, so that a file that is too large is never
read, and says what went wrong as a `RowFault`. No store tries again by itself: the fetcher does,
for all alike.
"""

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from operators.policy import Place
from schemas.errors import RowFault


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


class S3Objects:
    """Objects of S3 or of what AWS_ENDPOINT_URL names, with the credentials of the environment.

    Args:
        connections: kept open at once.
        timeout_seconds: for connecting and until the first byte, and again for all bytes.
    """

    def __init__(self, *, connections: int, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self._options = {
            "max_pool_connections": connections,
            "connect_timeout": timeout_seconds,
            "read_timeout": timeout_seconds,
            "retries": {"max_attempts": 1},
        }

    @contextmanager
    def opened(self, place: Place) -> Iterator[Opened]:
        """Finds an object with one GET, whose body is read only when asked for."""
        found = self._call("get_object", place)
        body = found["Body"]
        try:
            size = found.get("ContentLength")
            yield Opened(size, found.get("ETag"), lambda limit: self._read(body, place, limit))
        finally:
            self._filesystem().loop.call_soon_threadsafe(body.close)

    def etag(self, place: Place) -> str | None:
        """The ETag, by a HEAD."""
        found: str | None = self._call("head_object", place).get("ETag")
        return found

    def _call(self, method: str, place: Place) -> Any:
        filesystem = self._filesystem()
        return self._wait(
            lambda: filesystem._call_s3(method, Bucket=place.host, Key=place.path), place
        )

    def _read(self, body: Any, place: Place, limit: int) -> bytes:
        async def read() -> bytes:
            parts: list[bytes] = []
            left = limit + 1
            while left and (part := await body.read(left)):
                parts.append(part)
                left -= len(part)
            return b"".join(parts)

        data: bytes = self._wait(read, place)
        return data

    def _filesystem(self) -> Any:
        """The filesystem of this process; s3fs keeps one per endpoint and options."""
        import s3fs

        return s3fs.S3FileSystem(use_listings_cache=False, config_kwargs=self._options)

    def _wait(self, call: Callable[[], Coroutine[Any, Any, Any]], place: Place) -> Any:
        from fsspec.asyn import sync

        async def bounded() -> Any:
            return await asyncio.wait_for(call(), self.timeout_seconds)

        with _s3_faults(place, self.timeout_seconds):
            return sync(self._filesystem().loop, bounded)


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


@contextmanager
def _s3_faults(place: Place, timeout_seconds: float) -> Iterator[None]:
    """Translates what s3fs and botocore raise; what is not known to be final is transient."""
    from botocore.exceptions import (
        ConnectTimeoutError,
        NoCredentialsError,
        ParamValidationError,
        PartialCredentialsError,
        ReadTimeoutError,
    )

    uri = f"s3://{place.host}/{place.path}"
    try:
        yield
    except FileNotFoundError as error:
        raise RowFault("missing", f"{uri}: no such object or bucket") from error
    except (PermissionError, NoCredentialsError, PartialCredentialsError) as error:
        raise RowFault("forbidden", f"{uri}: {error}") from error
    except (ParamValidationError, ValueError) as error:
        raise RowFault("missing", f"{uri} cannot be the name of an object: {error}") from error
    except (TimeoutError, ConnectTimeoutError, ReadTimeoutError) as error:
        message = f"{uri}: no answer within {timeout_seconds} seconds"
        raise RowFault("timeout", message, transient=True) from error
    except RowFault:
        raise
    except Exception as error:
        message = f"{uri}: {type(error).__name__}: {error}"
        raise RowFault("unavailable", message, transient=True) from error

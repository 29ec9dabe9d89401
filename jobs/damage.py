"""Tells a Parquet file that is damaged from a store that does not answer.

Arrow says of most damage what it says of a disk that fails: OSError. So a file that could not be
read is fetched once more, whole and without Arrow, and read from memory: what fails then too is in
its bytes. Pages that `jobs` wrote carry checksums; Arrow finds most bits that flip in them only so.
"""

from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa

from jobs import storage
from schemas.errors import TableError

UNREADABLE = (OSError, pa.ArrowException, ValueError, KeyError, TypeError)  # of bytes, by a reader

T = TypeVar("T")


class DamagedFile(Exception):  # noqa: N818  not raised by the store, nor to be waited for
    """Says that a file cannot be read though its store gives it.

    Args:
        file: as it was when it was fetched.
        reason: what its reader says.
    """

    def __init__(self, file: storage.StoredFile, reason: str) -> None:
        super().__init__(f"{file.path}: {reason}")
        self.file = file
        self.reason = reason


def read_checked(path: str, read: Callable[[pa.NativeFile], T]) -> T:
    """Reads a file with Arrow.

    Args:
        path: normalised.
        read: gets the open file; is called twice where it fails.

    Returns:
        What `read` does.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: `read` fails on the bytes themselves.
        OSError: and what else a store raises that does not answer.
    """
    with storage.arrow_filesystem(path).open_input_file(storage.inner_path(path)) as file:
        try:
            return read(file)
        except MemoryError:
            raise  # tells nothing of the file
        except UNREADABLE:
            pass
    found = storage.stat(path)
    data = storage.read_bytes(path)
    if found is None or data is None:
        raise FileNotFoundError(path)
    try:
        return read(pa.BufferReader(data))
    except MemoryError:
        raise
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DamagedFile(found, reason) from error


def read_data_file(path: str, read: Callable[[pa.NativeFile], T]) -> T:
    """Reads a data file of a table as `read_checked` does.

    Raises:
        TableError: it is gone or damaged.
        OSError: as of `read_checked`.
    """
    try:
        return read_checked(path, read)
    except FileNotFoundError as error:
        raise lost_data_file(path, error) from error
    except DamagedFile as damaged:
        raise lost_data_file(path, damaged.reason) from damaged


def lost_data_file(path: str, reason: object) -> TableError:
    """What to do about a data file of a table that is gone or damaged."""
    return TableError(
        f"{path}: a data file of the table is gone or damaged ({reason}); bring it back from a "
        "backup, or the table to a version without it: `tagline history`, `tagline restore`"
    )

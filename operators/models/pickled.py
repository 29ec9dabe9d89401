"""Files of weights that are pickles: read with `weights_only`, which refuses code, in bounds."""

import mmap
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

from schemas.errors import ModelError

DAMAGES = (  # what torch raises over a file that was cut or changed
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    OSError,
    zipfile.BadZipFile,
    AssertionError,
    AttributeError,
    TypeError,
    struct.error,
)
ROOM = b"bytearray\n"  # in a pickle: torch lets it make any number of zeros
PICKLE_BYTES = 64_000_000  # of the names and shapes in an archive of torch


def read_pickle(file: Path, *, is_mapped: bool) -> Any:
    """Reads what a file of torch's holds, most often a dictionary of tensors, on the CPU.

    Args:
        file: an archive, or of the formats before.
        is_mapped: leaves the values in the file, where its format allows it.

    Raises:
        ModelError: a damaged file, or one that holds code or would fill the memory.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a pickle protocol other than 2
            is_zip = _check_archive(file)
            maps = is_mapped and is_zip  # older formats cannot be mapped
            return torch.load(file, map_location="cpu", weights_only=True, mmap=maps)
    except FileNotFoundError:
        raise ModelError(f"{file}: no such file") from None
    except pickle.UnpicklingError as error:
        if "nsupported" in str(error):  # torch says Unsupported global, class or operand
            raise ModelError(
                f"{file}: holds code, not only tensors; refused, nothing was executed "
                f"({_first_line(error)})"
            ) from error
        raise ModelError(f"{file}: not a file of weights, or damaged; fetch it again") from error
    except DAMAGES as error:
        raise ModelError(
            f"{file}: damaged or cut short ({_first_line(error)}); fetch it again"
        ) from error


def _check_archive(file: Path) -> bool:
    """Whether it is torch's archive; refuses one, or a plain pickle, that would fill the memory."""
    with file.open("rb") as stream:
        is_zip = stream.read(4) == b"PK\3\4" and zipfile.is_zipfile(file)
        if not is_zip and file.stat().st_size:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _check_room(file, data.find(ROOM) >= 0)
    if is_zip:
        with zipfile.ZipFile(file) as archive:
            _check_unpacked(file, archive)
    return is_zip


def _check_unpacked(file: Path, archive: zipfile.ZipFile) -> None:
    """Refuses an archive that unpacks to more than it holds; torch's own are not compressed."""
    unpacked = sum(entry.file_size for entry in archive.infolist())
    size = file.stat().st_size
    if unpacked > size:
        raise ModelError(
            f"{file}: {size} bytes that unpack to {unpacked}; no file of weights does so: refused"
        )
    pickled = [entry for entry in archive.infolist() if entry.filename.endswith(".pkl")]
    told = sum(entry.file_size for entry in pickled)
    if told > PICKLE_BYTES:
        raise ModelError(
            f"{file}: {told} bytes of names and shapes; at most {PICKLE_BYTES} are read"
        )
    _check_room(file, any(ROOM in archive.read(entry) for entry in pickled))


def _check_room(file: Path, takes_room: bool) -> None:
    if takes_room:
        raise ModelError(f"{file}: makes room for bytes, which no file of weights does: refused")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "nsupported" in line]
    return (lines or str(error).splitlines() or [type(error).__name__])[0]

"""Access to files, alike on a local disk and on S3.

A path is `s3://bucket/key`, `file:///path` or a plain local path. The endpoint of S3 is taken from
AWS_ENDPOINT_URL and credentials from where AWS's own tools look. `put_if_absent` is what
exactly-once rests on: a hard link locally, a conditional PUT on S3; a store that ignores the
condition is refused.
"""

import hashlib
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec
from fsspec.utils import glob_translate

from jobs.store_patience import s3_filesystem
from schemas import manifest_files
from schemas.errors import ConfigError, TableError

SCHEMES = ("file", "s3")
PROBE_BYTES = b"tagline asks whether this store keeps what is there"
PRECONDITION_CODES = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict"})


@dataclass(frozen=True)
class StoredFile:
    """One file as its store describes it, without opening it.

    Args:
        path: with its scheme for S3, a plain absolute path locally.
        size: bytes.
        version: the ETag where the store has one, else size and modification time; changes with
            the content.
        modified_ms: when it was last written, milliseconds since 1970.
    """

    path: str
    size: int
    version: str
    modified_ms: int


def scheme_of(uri: str) -> str:
    """Names the scheme, `file` for a plain path."""
    head, found, _ = uri.partition("://")
    return head.lower() if found else "file"


def normalise(uri: str) -> str:
    """Gives a path the one spelling used everywhere: absolute locally, no slash at the end.

    Raises:
        ConfigError: the scheme is not one that tables and manifests may have.
    """
    scheme = scheme_of(uri)
    if scheme not in SCHEMES:
        raise ConfigError(
            f"{uri!r}: scheme {scheme!r} is not supported; give a local path or s3://"
        )
    if scheme == "s3":
        return "s3://" + uri.partition("://")[2].rstrip("/")
    local = uri.partition("://")[2] if "://" in uri else uri
    return os.path.abspath(os.path.expanduser(local))


def join(base: str, *parts: str) -> str:
    """Appends names to a normalised path."""
    return "/".join([base.rstrip("/"), *parts])


def filesystem(uri: str) -> Any:
    """Opens the fsspec filesystem that holds `uri`; listings are never cached.

    The instance is shared within a process and opened anew in another. A store that does not
    answer is asked again for minutes (`jobs.store_patience`).
    """
    if scheme_of(uri) == "s3":
        return s3_filesystem()
    return fsspec.filesystem("file")


def arrow_filesystem(uri: str) -> Any:
    """The filesystem for pyarrow's readers and writers."""
    return manifest_files.arrow_filesystem(filesystem(uri))


def inner_path(uri: str) -> str:
    """The path as the filesystem itself spells it: bucket/key on S3."""
    return uri.partition("://")[2] if scheme_of(uri) == "s3" else uri


def exists(uri: str) -> bool:
    """Whether a file or folder lies at `uri`."""
    return bool(filesystem(uri).exists(inner_path(uri)))


def matches(glob: str, uri: str) -> bool:
    """Whether a glob takes in a file, be it there or not."""
    try:
        return re.match(glob_translate(inner_path(glob)), inner_path(uri)) is not None
    except ValueError:  # no glob; whoever lists it says so
        return False


def read_bytes(uri: str) -> bytes | None:
    """Reads a whole file; None when there is none."""
    try:
        return bytes(filesystem(uri).cat_file(inner_path(uri)))
    except FileNotFoundError:
        return None


def write_bytes(uri: str, data: bytes) -> None:
    """Writes a whole file in one atomic step, over what was there."""
    if scheme_of(uri) == "s3":
        filesystem(uri).pipe_file(inner_path(uri), data)
        return
    temporary = _write_beside(Path(uri), data)
    os.replace(temporary, uri)


def put_if_absent(uri: str, data: bytes) -> bool:
    """Writes a whole file in one atomic step unless one is there.

    Returns:
        Whether this call wrote it. False means that it was there already, perhaps by an earlier
        try of the same call whose answer was lost.

    Raises:
        TableError: the store ignores `If-None-Match`, so nothing can be exactly once on it.
    """
    if scheme_of(uri) == "s3":
        _probe(uri)
        return _put_s3(uri, data)
    target = Path(uri)
    temporary = _write_beside(target, data)
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


def delete(uri: str) -> None:
    """Removes a file or a folder with all in it; does nothing when there is none."""
    opened = filesystem(uri)
    try:
        opened.rm(inner_path(uri), recursive=True)
    except FileNotFoundError:
        return


def delete_same(file: StoredFile) -> bool:
    """Removes a file unless another was put in its place since it was described.

    Returns:
        Whether there is none now.
    """
    now = stat(file.path)
    if now is None:
        return True
    if now != file:
        return False
    delete(file.path)
    return True


def files_under(folder: str) -> dict[str, StoredFile]:
    """Lists every file below a folder by its path; none when there is no such folder."""
    return {file.path: file for file in _walk(folder)}


def stat(uri: str) -> StoredFile | None:
    """Describes one file; None when there is none."""
    try:
        return _described(uri, filesystem(uri).info(inner_path(uri)))
    except FileNotFoundError:
        return None


def _walk(folder: str) -> Iterator[StoredFile]:
    opened = filesystem(folder)
    try:
        found = opened.find(inner_path(folder), detail=True)
    except FileNotFoundError:
        return
    for info in found.values():
        if not info["name"].endswith(".writing"):
            yield _described(folder, info)


def _described(uri: str, info: dict[str, Any]) -> StoredFile:
    if scheme_of(uri) != "s3":
        modified_ms = int(info["mtime"] * 1000)
        version = f"{info['size']}-{os.stat(info['name']).st_mtime_ns}"
        return StoredFile(info["name"], info["size"], version, modified_ms)
    modified = info.get("LastModified") or datetime.now(UTC)
    version = str(info.get("ETag") or f"{info['size']}-{modified}").strip('"')
    return StoredFile(
        f"s3://{info['name']}", info["size"], version, int(modified.timestamp() * 1000)
    )


def _write_beside(target: Path, data: bytes) -> str:
    """Writes a temporary file in the target's folder and gives its path."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".writing")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    return temporary


def _put_s3(uri: str, data: bytes) -> bool:
    opened = filesystem(uri)
    bucket, _, key = inner_path(uri).partition("/")
    try:
        opened.call_s3("put_object", Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
    except FileExistsError:
        return False
    except OSError as error:
        if _is_precondition(error):
            return False
        raise
    return True


def _is_precondition(error: BaseException | None) -> bool:
    """Whether the store answered that the object is there; s3fs wraps botocore's error."""
    while error is not None:
        code = getattr(error, "response", {}).get("Error", {}).get("Code")
        if code in PRECONDITION_CODES:
            return True
        error = error.__cause__
    return False


def _probe(uri: str) -> None:
    bucket = inner_path(uri).partition("/")[0]
    _probe_bucket(bucket, os.environ.get("AWS_ENDPOINT_URL", ""), _folder_of_table(uri))


def _folder_of_table(uri: str) -> str:
    """Where a probe may be written: the table's own `_tagline` or the file's folder."""
    head, found, _ = uri.partition("/_tagline/")
    if not found:
        head, found, _ = uri.partition("/data/")
    if not found:
        head, found, _ = uri.partition("/_delta_log/")
    return head if found else uri.rpartition("/")[0]


@lru_cache(maxsize=64)
def _probe_bucket(bucket: str, endpoint: str, folder: str) -> None:
    """Asks a store, once per process and folder, to refuse a second conditional PUT.

    Raises:
        TableError: the second PUT replaced the first.
    """
    name = hashlib.sha256(uuid.uuid4().bytes).hexdigest()[:16]
    uri = join(folder, "_tagline", "probes", name)
    _put_s3(uri, PROBE_BYTES)  # False after a first try whose answer was lost
    is_replaced = _put_s3(uri, PROBE_BYTES)
    delete(uri)
    if is_replaced:
        raise TableError(
            f"s3://{bucket} at {endpoint or 'AWS'} ignores If-None-Match on PUT, so two writers "
            "could overwrite each other; keep the table on a store that honours conditional "
            "writes (AWS, Ceph, MinIO, R2) or on a local disk"
        )

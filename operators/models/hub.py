"""Fetches model directories from ModelScope and Hugging Face, with their own client libraries.

A fetched directory holds `tagline.json`: where it came from and the sha256 of every file. Until a
fetch is finished that record says so, and the next one goes on where it stopped.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from operators.models.checkpoint import RECORD, WEIGHT_FILES, cache_folder, digest, file_digests
from operators.models.hub_clients import CLIENTS, Listing, ModelId, RemoteFile, parse_id
from schemas.errors import ModelError

WANTED_SUFFIXES = (".json", ".txt", ".yaml", ".md")  # besides the weights


def pull(model: str, *, to: Path | None = None, refresh: bool = False) -> Path:
    """Fetches a model directory, or what of it is not there yet.

    Args:
        model: an id; see `parse_id`.
        to: where to; None for the cache.
        refresh: whether to ask the hub even when the directory is complete.

    Returns:
        The directory, complete and with its record.

    Raises:
        ModelError: the hub has no such model, cannot be reached, or sent other bytes than it
            announced; says what to do.
    """
    model_id = parse_id(model)
    folder = to or model_id.cached
    if not refresh and _is_complete(folder, model_id):
        return folder
    with _alone(folder):
        if refresh or not _is_complete(folder, model_id):  # another process may have fetched it
            _fetch(model_id, folder)
    return folder


def read_record(directory: Path) -> dict[str, Any] | None:
    """Reads where a directory came from; None when it was not fetched by `pull`.

    Raises:
        ModelError: the record is damaged.
    """
    path = directory / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["complete"]:
            dict(record["files"])
        return dict(record)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: damaged ({error!r}); delete it and pull again") from error


def check_record(directory: Path, record: Mapping[str, Any]) -> list[str]:
    """Reads every file again and lists what differs from the record; empty when nothing does."""
    if not record["complete"]:
        return [f"the fetch of {record['id']} was cut short; run `tagline models pull` again"]
    faults = []
    for name, expected in record["files"].items():
        path = directory / name
        if not path.is_file():
            faults.append(f"{name}: missing")
            continue
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != expected["sha256"]:
            size = f"{path.stat().st_size} bytes instead of {expected['size']}"
            faults.append(f"{name}: changed: sha256 {found}, recorded {expected['sha256']}; {size}")
    added = sorted(file_digests(directory).keys() - record["files"].keys())
    return faults + [f"{name}: not in the record" for name in added]


def _is_complete(folder: Path, model_id: ModelId) -> bool:
    record = _read_own_record(folder, model_id)
    return record is not None and bool(record["complete"])


def _fetch(model_id: ModelId, folder: Path) -> None:
    is_complete = _is_complete(folder, model_id)
    listing = CLIENTS[model_id.hub].list(model_id, folder)
    files = _wanted(listing.files, model_id)
    stale = [file.name for file in files if _difference(file, folder / file.name)]
    if is_complete and not stale and not check_record(folder, read_record(folder) or {}):
        return
    _write_record(folder, {"id": str(model_id), "complete": False})
    for name in stale:
        (folder / name).unlink(missing_ok=True)
    CLIENTS[model_id.hub].download(model_id, folder, Listing(files, listing.commit))
    _check_received(files, folder, model_id)
    _write_record(folder, _complete_record(model_id, folder, listing))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other processes of this machine from fetching into the same folder."""
    name = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
    path = cache_folder() / "locks" / f"{name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise _unwritable(path, error) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed
        yield


def _wanted(files: Sequence[RemoteFile], model_id: ModelId) -> list[RemoteFile]:
    """The files of a model directory: one file of weights, and what is small and lies beside it."""
    names = {file.name for file in files}
    weights = next((name for name in WEIGHT_FILES if name in names), None)
    if weights is None:
        raise ModelError(
            f"model '{model_id}': holds no {' or '.join(WEIGHT_FILES)}, so it cannot be loaded; "
            f"it has {', '.join(sorted(names)) or 'no files'}"
        )
    return [
        file
        for file in files
        if file.name == weights
        or ("/" not in file.name and file.name.endswith(WANTED_SUFFIXES) and file.name != RECORD)
    ]


def _check_received(files: Sequence[RemoteFile], folder: Path, model_id: ModelId) -> None:
    """Compares every file with what the hub announced; a wrong one is removed, to be sent again."""
    for file in files:
        path = folder / file.name
        difference = _difference(file, path)
        if difference:
            path.unlink(missing_ok=True)
            raise ModelError(
                f"model '{model_id}': {file.name} was received with {difference}; "
                "it was removed, run the same command again"
            )


def _difference(file: RemoteFile, path: Path) -> str | None:
    if not path.is_file():
        return "no bytes at all"
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"{size} bytes, but the hub announced {file.size}"
    if file.sha256:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        return None if found == file.sha256 else f"sha256 {found}, not {file.sha256} as announced"
    if file.git_sha1:
        found = hashlib.sha1(b"blob %d\0" % size + path.read_bytes()).hexdigest()
        return None if found == file.git_sha1 else f"git id {found}, not {file.git_sha1}"
    return None


def _read_own_record(folder: Path, model_id: ModelId) -> dict[str, Any] | None:
    """The record of an earlier fetch into `folder`, which must be of the same model."""
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder}: a file; give a directory to fetch the model into")
    record = read_record(folder)
    if record is None and folder.is_dir() and any(folder.iterdir()):
        raise ModelError(
            f"{folder}: holds files that were not fetched by tagline; give an empty directory"
        )
    if record is not None and record["id"] != str(model_id):
        raise ModelError(f"{folder}: holds {record['id']}; give another directory for {model_id}")
    return record


def _complete_record(model_id: ModelId, folder: Path, listing: Listing) -> dict[str, Any]:
    return {
        "id": str(model_id),
        "complete": True,
        "commit": listing.commit,
        "fetched_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "digest": digest(folder),
        "files": {
            name: {"size": (folder / name).stat().st_size, "sha256": value}
            for name, value in file_digests(folder).items()
        },
    }


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / f".{RECORD}.{os.getpid()}"
        scratch.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        scratch.replace(folder / RECORD)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(path: Path, error: OSError) -> ModelError:
    return ModelError(
        f"{path}: cannot be written ({error}); give another directory with --to, or another cache "
        "with TAGLINE_CACHE"
    )

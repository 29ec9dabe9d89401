"""Copies model directories of a store into the cache, once for each state of their objects."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from schemas.errors import ModelError


def fetch(url: str, cache: Path) -> Path:
    """The copy of a directory, made now where there is none.

    Args:
        url: `s3://…`.
        cache: the folder of all copies.

    Raises:
        ModelError: it is not there, or cannot be fetched.
    """
    import s3fs
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError

    store = s3fs.S3FileSystem(endpoint_url=os.environ.get("AWS_ENDPOINT_URL"))
    try:
        return _copied(store, url, cache)
    except (OSError, ValueError, BotoCoreError, ClientError) as error:
        raise ModelError(
            f"model {url!r}: cannot be fetched ({type(error).__name__}: {error}); check the path, "
            "the credentials and the store, and run the command again"
        ) from error


def _copied(store: Any, url: str, cache: Path) -> Path:
    entries = store.ls(url.rstrip("/"), detail=True, refresh=True)
    objects = [entry for entry in entries if entry["type"] == "file" and entry["size"]]
    if not objects:
        raise ModelError(f"model {url!r}: no such directory, or it holds no files")
    state = repr(
        sorted((entry["name"], entry["size"], str(entry.get("ETag"))) for entry in objects)
    )
    folder = cache / hashlib.sha256(state.encode()).hexdigest()[:16]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            for entry in objects:
                store.get_file(entry["name"], str(Path(scratch) / Path(entry["name"]).name))
            _publish(Path(scratch), folder)
    return folder


def _publish(scratch: Path, folder: Path) -> None:
    """Gives a finished copy its name; another process may have been faster, which is as good."""
    complete = scratch.with_name(scratch.name + ".complete")
    scratch.rename(complete)
    scratch.mkdir()  # what the context manager is going to remove
    try:
        complete.rename(folder)
    except OSError:
        for path in complete.iterdir():
            path.unlink()
        complete.rmdir()

"""`models.lock`: which bytes each model of a config must have, so that no other computes.

The file is JSON, models as configs name them to the digest of their files, which is also what
operators' keys are made of. It holds where it lies beside a config, is named by the config's
`models_lock`, or, for any command, by TAGLINE_MODELS_LOCK. `tagline models lock` writes it.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import ModelError

LOCK = "models.lock"
VARIABLE = "TAGLINE_MODELS_LOCK"
MOST_BYTES = 1_000_000
DIGEST = re.compile(r"[0-9a-f]{64}")
NO_DIRECTORY = ("chat",)  # operators whose `model` is a name that a server knows
HUBS = ("damo/", "iic/", "hf://")  # how the ids of models begin that may be fetched
NAMED_BY = ("model", "embedder", "teacher")  # keys of a config that name a model


@dataclass(frozen=True)
class Lock:
    """A lock that was read.

    Args:
        path: of it, for messages.
        digests: by the model's name.
    """

    path: Path
    digests: Mapping[str, str]


_held: ContextVar[Lock | None] = ContextVar("models_lock", default=None)


def read_lock(path: str | Path) -> Lock:
    """Reads a lock.

    Raises:
        ModelError: it is missing, or no lock.
    """
    path = Path(path)
    advice = "`tagline models lock CONFIG` writes one"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ModelError(f"{path}: more than {MOST_BYTES} bytes; {advice}")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{path}: cannot be read as a lock of models: {error}; {advice}"
        ) from error
    if not isinstance(found, dict) or not all(
        isinstance(digest, str) and DIGEST.fullmatch(digest) for digest in found.values()
    ):
        raise ModelError(f"{path}: must be models with their digests of 64 hex digits; {advice}")
    return Lock(path, found)


@contextmanager
def held(path: str | Path | None) -> Iterator[None]:
    """Holds models to a lock, for the length of a `with`; to none where no path is given."""
    token = _held.set(read_lock(path) if path else None)
    try:
        yield
    finally:
        _held.reset(token)


def check(model: str, directory: Path, digest: Callable[[Path], str]) -> None:
    """Holds a model to the locks that are in force.

    Args:
        model: as a config names it.
        directory: where it was found.
        digest: names what a directory holds; called where there is a lock.

    Raises:
        ModelError: a lock does not have the model, or has it with another digest.
    """
    named = os.environ.get(VARIABLE)
    for lock in (_held.get(), read_lock(named) if named else None):
        if lock is None:
            continue
        again = f"`tagline models lock CONFIG` writes {lock.path.name} anew"
        if model not in lock.digests:
            raise ModelError(
                f"model {model!r} is not in {lock.path}; if it is meant to be, {again}"
            )
        found = digest(directory)
        if found != lock.digests[model]:
            raise ModelError(
                f"model {model!r}: {directory} holds {found[:16]}…, but {lock.path} has "
                f"{lock.digests[model][:16]}…: its files were changed, or are of another revision; "
                f"bring the old ones back, or, if the change is meant, {again}"
            )


def models_of(document: Mapping[str, Any]) -> list[str]:
    """The models that a config names, of a job, a server or a training, each once, in order.

    What the `model` of a user's own operator means is that operator's affair: it counts where it
    names a directory.
    """
    operators = document.get("operators")
    entries = list(operators.values()) if isinstance(operators, dict) else [document]
    return list(dict.fromkeys(name for entry in entries for name in _named(entry)))


def _named(entry: Any, *, is_imported: bool = False) -> Iterator[str]:
    if not isinstance(entry, Mapping) or entry.get("use") in NO_DIRECTORY:
        return
    is_imported = is_imported or ":" in str(entry.get("use", ""))
    for key, value in entry.items():
        if isinstance(value, str) and key in NAMED_BY:
            if not is_imported or _is_directory(value):
                yield value
        elif isinstance(value, Mapping):
            yield from _named(value, is_imported=is_imported)


def _is_directory(name: str) -> bool:
    return name.startswith(("embedded:", "s3://", *HUBS)) or Path(name).is_dir()

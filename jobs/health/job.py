"""Checks of what a job's config names: its manifest, its table's store, its models."""

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from jobs import storage
from jobs.health.finding import Finding, failed, ok, warning
from jobs.models import find_local
from jobs.plan import open_manifest
from jobs.table import open_table
from operators.models import checkpoint, hub, pins
from operators.models.directory import identify
from schemas.config import JobConfig
from schemas.errors import ModelError, TaglineError
from schemas.manifest_files import STORE_ERRORS

CLOCK_SECONDS = 5.0  # apart: versions of a table are told by time
CLOCK_LIMIT_SECONDS = 600.0  # S3 refuses signatures that are 15 minutes off
PROBE = b"tagline doctor"
UNREACHABLE = (  # what botocore and Delta's own client say
    "Could not connect",
    "onnect timeout",
    "connect error",
    "dns error",
    "error sending request",
)
LOW_DISK = 1_000_000_000  # bytes free for a local table


def manifest(config: JobConfig) -> Finding:
    """Whether the manifest can be read."""
    try:
        found = open_manifest(config)
        first = next((batch for batch in found.batches() if batch.num_rows), None)
    except (TaglineError, *STORE_ERRORS) as error:
        advice = _advice(error, "mend the manifest, or its path in the config")
        return failed("manifest", _told(error), advice)
    columns = ", ".join(found.schema.names)
    if first is None:
        return warning("manifest", f"{config.manifest.path}: no rows", "fill it before `enrich`")
    return ok("manifest", f"{config.manifest.path}: columns {columns}")


def table(config: JobConfig) -> Iterator[Finding]:
    """Whether the table can be read, and its store written, and what clock that store has."""
    path = storage.normalise(config.table)
    try:
        there = open_table(path)
    except (TaglineError, *STORE_ERRORS) as error:
        advice = _advice(error, "give another path, or credentials that may read it")
        yield failed("table", _told(error), advice)
        return
    rows = sum(file.rows for file in there.files) if there else 0
    yield ok(
        "table", f"{path}: version {there.version}, {rows:,} rows" if there else f"{path}: new"
    )
    yield from _writing(path)
    if storage.scheme_of(path) == "file":
        yield _room(path)


def models(config: JobConfig) -> Iterator[Finding]:
    """Whether each model is there, of a known kind, as it was when fetched, and as it is locked."""
    for name, entry in config.operators.items():
        for model in pins.models_of(entry.model_dump()):
            what = "" if model == entry.model else f" ({model})"
            yield _model(f"model of {name}{what}", model, config.models_lock)


def _writing(path: str) -> Iterator[Finding]:
    """Puts an object that must not be there, puts it again, and takes it away."""
    probe = storage.join(path, "_tagline", "probes", f"doctor-{uuid.uuid4().hex[:16]}")
    above = _nearest(path)
    try:
        begun = time.time()
        first, second = storage.put_if_absent(probe, PROBE), storage.put_if_absent(probe, b"other")
        kept = storage.read_bytes(probe)
        status = storage.stat(probe)
        ended = time.time()
        storage.delete(probe)
    except (TaglineError, *STORE_ERRORS) as error:
        advice = _advice(error, "let these credentials put, get and delete there")
        yield failed("writing", _told(error), advice)
        return
    finally:
        _tidy(probe, above)
    if not first or second or kept != PROBE:
        advice = "keep the table on a store that honours conditional writes"
        yield failed("writing", f"{path}: a second write replaced the first", advice)
        return
    yield ok("writing", f"{path}: written, kept against a second write, deleted")
    if status:
        yield _clock(status.modified_ms / 1000, begun, ended)


def _clock(stored: float, begun: float, ended: float) -> Finding:
    """How far the store's clock and this one are apart; a store's times are whole seconds."""
    ahead = max(begun - stored - 1, stored - ended, 0.0)
    told = f"the store's and this machine's are {ahead:.0f} s apart"
    advice = "set the clocks by NTP: times in the table are this machine's"
    if ahead > CLOCK_LIMIT_SECONDS:
        return failed("clock", told, advice)
    return warning("clock", told, advice) if ahead > CLOCK_SECONDS else ok("clock", told)


def _nearest(path: str) -> Path | None:
    """The nearest folder above a local path that is there."""
    if storage.scheme_of(path) != "file":
        return None
    return next((one for one in (Path(path), *Path(path).parents) if one.is_dir()), None)


def _tidy(probe: str, above: Path | None) -> None:
    """Removes the folders that the probe made, as far as they are empty."""
    folder = Path(probe).parent
    while above is not None and folder != above and above in folder.parents:
        try:
            os.rmdir(folder)
        except OSError:
            return
        folder = folder.parent


def _room(path: str) -> Finding:
    free = shutil.disk_usage(_nearest(path) or "/").free
    told = f"{free / 1e9:.1f} GB free where the table lies"
    if free < LOW_DISK:
        return warning("table's disk", told, "free some; `tagline vacuum` deletes what is replaced")
    return ok("table's disk", told)


def _model(check: str, model: str, lock: str | None) -> Finding:
    try:
        directory = find_local(model)
        content = identify(directory)
        faults = _changed(directory)
    except (ModelError, *STORE_ERRORS) as error:
        if model.startswith(checkpoint.HUBS):
            return warning(check, _told(error), f"tagline models pull {model}")
        return failed(check, _told(error), "give the directory of a model, or a hub's id")
    if faults:
        advice = f"tagline models verify {model}, then pull it again"
        return failed(check, f"{directory}: {'; '.join(faults)}", advice)
    try:
        with pins.held(lock):
            pins.check(model, directory, checkpoint.digest)
    except ModelError as error:
        return failed(check, _told(error), "bring back what was locked, or lock what is there")
    return ok(check, f"{directory}: {content.architecture}, {content.operator}")


def _changed(directory: Path) -> list[str]:
    """Files of a fetched model that are not what the hub gave; digests are cached."""
    record = hub.read_record(directory)
    if record is None:
        return []
    if not record["complete"]:
        return ["its fetch was cut short"]
    found = checkpoint.file_digests(directory)
    pinned = {name: told["sha256"] for name, told in record["files"].items()}
    missing = [f"{name} is missing" for name in pinned if not (directory / name).is_file()]
    return missing + [
        f"{name} is not what was fetched"
        for name, digest in found.items()
        if pinned.get(name, digest) != digest
    ]


def _advice(error: BaseException, otherwise: str) -> str:
    """What to do about an error of a store."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOSPC:
        return "make room there, or give the table another place"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "give the table a place that this user may write"
    if any(sign in str(error) for sign in UNREACHABLE):
        return "start the store, or mend AWS_ENDPOINT_URL or the network on the way to it"
    return otherwise


def _told(error: BaseException) -> str:
    """An error on one line."""
    name = "" if isinstance(error, TaglineError) else f"{type(error).__name__}: "
    return " ".join(f"{name}{error}".split())

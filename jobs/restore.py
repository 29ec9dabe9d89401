"""Puts a table back to an earlier version, as a version of its own: nothing is deleted.

It is Delta's own restore, in one compare-and-set. The commit notes that there was one, so a run
that was planned before it commits nothing on top (see `jobs.commit`). The rows' keys come back with
them, and the next `enrich` plans on what is there: what the older version lacks is computed again.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import CommitProperties, Transaction

from jobs import history, storage
from jobs.history import Note
from jobs.table import Table, existing_table, open_table
from schemas.errors import ConfigError, RunError, TableError
from schemas.manifest_files import STORE_ERRORS

RESTORED = "tagline-restore"  # application transaction; its version is the table's when restored


@dataclass(frozen=True)
class Restored:
    """What a restore came to.

    Args:
        table: its path.
        restored: the version whose rows are there again.
        version: of the table now.
        rows: of the table now.
    """

    table: str
    restored: int
    version: int
    rows: int


def run(path: str, to: str) -> Restored:
    """Restores a table.

    Args:
        path: of the table.
        to: a version, or a time (ISO 8601, UTC unless it says otherwise): the version of then.

    Returns:
        The version restored, also when the table is at it: then nothing was written.

    Raises:
        ConfigError: there is no such version.
        DatasetError: there is no table.
        RunError: another commit came between; nothing was changed.
        TableError: files of that version are gone, as after a vacuum.
    """
    table = existing_table(path)
    target = _version(table, to)
    if target == table.version:
        return _told(table, target)
    wanted = _opened(table, target)
    _check_files(wanted)
    properties = CommitProperties(
        custom_metadata=Note("restore").metadata(),
        max_commit_retries=0,
        app_transactions=[Transaction(RESTORED, table.version)],
    )
    try:
        table.delta.restore(target, commit_properties=properties)
    except CommitFailedError as error:
        raise RunError(
            f"{table.path}: another commit came while version {table.version} was restored to "
            f"{target}; nothing was changed: look at `tagline history`, and run it again"
        ) from error
    except (DeltaError, *STORE_ERRORS) as error:
        raise RunError(
            f"{table.path}: could not be restored to version {target}: {type(error).__name__}: "
            f"{error}; nothing was changed: run it again when the table can be read and written"
        ) from error
    return _told(existing_table(path), target)


def was_restored_since(table: Table, version: int | None) -> bool:
    """Whether a table was put back to an earlier state after a version of it was read."""
    restored = table.delta.transaction_version(RESTORED)
    return restored is not None and (version is None or restored >= version)


def to_json(restored: Restored) -> dict[str, Any]:
    """The object of `restore --json`."""
    return {
        "restored": restored.restored,
        "version": restored.version,
        "rows": restored.rows,
    }


def _told(table: Table, target: int) -> Restored:
    return Restored(table.path, target, table.version, sum(file.rows for file in table.files))


def _version(table: Table, to: str) -> int:
    """The version that is meant."""
    if to.strip().isdigit():
        return int(to)
    try:
        moment = datetime.fromisoformat(to.strip())
    except ValueError as error:
        raise ConfigError(
            f"--to {to!r} is neither a version, such as 12, nor a time, such as "
            "2026-11-25T17:00; `tagline history` lists both"
        ) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    before = [one.version for one in history.run(table.path) if one.at <= moment]
    if not before:
        raise ConfigError(f"{table.path}: has no version as old as {moment.isoformat()}")
    return max(before)


def _opened(table: Table, version: int) -> Table:
    try:
        found = open_table(table.path, version) if version < table.version else None
    except TableError as error:
        raise ConfigError(
            f"{table.path}: version {version} cannot be read; `tagline history` lists those there "
            f"are: {error}"
        ) from error
    if found is None:
        raise ConfigError(f"{table.path}: has no version {version}; the last is {table.version}")
    return found


def _check_files(wanted: Table) -> None:
    there = storage.files_under(wanted.path)
    gone = [f.path for f in wanted.files if storage.join(wanted.path, f.path) not in there]
    if gone:
        raise TableError(
            f"{wanted.path}: {len(gone)} of {len(wanted.files)} data files of version "
            f"{wanted.version} are gone, such as {gone[0]}; a vacuum deletes what was replaced "
            "long ago: choose a later version"
        )


if __name__ == "__main__":
    from jobs.cli import main

    main(["restore"])

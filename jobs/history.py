"""What each version of a table came from: the notes that commits carry, and how they are read.

A run leaves its summary in the commit's `userMetadata`, where Spark's and any other Delta reader's
DESCRIBE HISTORY show it too: `{"tagline": {"verb", "run", "rows", "computed", "errors", …}}`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from jobs.table import existing_table

NOTE = "userMetadata"  # of Delta's commitInfo
OURS = "tagline"  # in it


@dataclass(frozen=True)
class Note:
    """What a commit of ours says of itself.

    Args:
        verb: that made it.
        run: its id, as in the logs; None for commits that belong to no run.
        rows: `written` in its files, `tried` and `failed` of them; and as planned.
        computed: rows by operator.
        errors: rows that failed, by code.
        retries: tries of images beyond the first, by the code of what had failed.
        seconds: from the start of the run to the commit.
        limiting_stage: whose actors were busiest.
        is_portion: whether more of the same plan followed.
        files: data files `added` and `removed`.
    """

    verb: str
    run: str | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    computed: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    retries: Mapping[str, int] = field(default_factory=dict)
    seconds: float | None = None
    limiting_stage: str | None = None
    is_portion: bool = False
    files: Mapping[str, int] = field(default_factory=dict)

    def metadata(self) -> dict[str, str]:
        """What the commit carries."""
        told = {name: value for name, value in asdict(self).items() if value not in (None, {})}
        return {NOTE: json.dumps({OURS: told}, separators=(",", ":"))}


@dataclass(frozen=True)
class Version:
    """One version of a table.

    Args:
        version: of Delta.
        at: when it was committed, by the clock of the machine that did.
        operation: Delta's name of it.
        note: None for commits of others and of older releases.
        restored: the version that was put back, where that was done.
    """

    version: int
    at: datetime
    operation: str
    note: Note | None = None
    restored: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The line of `history --json`."""
        return {**asdict(self), "at": self.at.isoformat()}

    @property
    def told(self) -> str:
        """What was done, on one line."""
        if self.restored is not None:
            return f"restore: as in version {self.restored}"
        if self.note is None:
            return self.operation.lower()
        rows, files = self.note.rows, self.note.files
        planned = [
            f"{rows[n]:,} {n}" for n in ("new", "changed", "retry", "removed") if rows.get(n)
        ]
        if self.note.is_portion or not planned:
            planned = [f"{rows['written']:,} written"] if rows.get("written") else []
        codes = ", ".join(f"{code} {count:,}" for code, count in self.note.errors.items())
        parts = [
            ", ".join([*planned, *([f"failed: {codes}"] if codes else [])]),
            ", ".join(f"{count:,} files {what}" for what, count in files.items() if count),
            "" if self.note.seconds is None else f"{self.note.seconds:.1f} s",
            f"limited by {self.note.limiting_stage}" if self.note.limiting_stage else "",
            f"run {self.note.run}" if self.note.run else "",
        ]
        portion = " (a portion)" if self.note.is_portion else ""
        return f"{self.note.verb}{portion}: {'; '.join(part for part in parts if part)}"


def run(path: str, *, limit: int | None = None) -> list[Version]:
    """Lists a table's versions, the latest first.

    Args:
        path: of the table.
        limit: how many; None for all that its log still has.

    Raises:
        DatasetError: there is no table.
    """
    return [_version(entry) for entry in existing_table(path).delta.history(limit)]


def show(versions: list[Version], console: Console) -> None:
    """Prints versions for people, a line each."""
    for one in versions:
        console.print(f"{one.version:>6}  {one.at:%Y-%m-%d %H:%M:%S}Z  {one.told}", highlight=False)


def _version(entry: Mapping[str, Any]) -> Version:
    operation = str(entry.get("operation", "unknown"))
    restored = (entry.get("operationParameters") or {}).get("version")
    note = _note(entry.get(NOTE))
    if note and not note.files:
        note = replace(note, files=_files(entry.get("operationMetrics") or {}))
    return Version(
        version=int(entry["version"]),
        at=datetime.fromtimestamp(int(entry["timestamp"]) / 1000, UTC),
        operation=operation,
        note=note,
        restored=int(restored) if operation == "RESTORE" and restored is not None else None,
    )


def _files(metrics: Mapping[str, Any]) -> dict[str, int]:
    """Data files that Delta's own operations counted."""
    names = {"added": "numFilesAdded", "removed": "numFilesRemoved"}
    return {what: int(metrics[name]) for what, name in names.items() if metrics.get(name)}


def _note(text: Any) -> Note | None:
    """The note in a commit; None where it is another program's, or of a form not known."""
    try:
        told = json.loads(text)[OURS]
        return Note(**{name: told[name] for name in Note.__dataclass_fields__ if name in told})
    except (KeyError, TypeError, ValueError):
        return None


if __name__ == "__main__":
    from jobs.cli import main

    main(["history"])

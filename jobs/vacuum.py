"""Deletes what a table needs no more: replaced data files, and plans with their parts."""

import time

from jobs import storage
from jobs.table import Table, open_table
from schemas.errors import TableError

KEEP_DAYS = 7
DAY_SECONDS = 86_400


def vacuum(path: str, *, older_than_days: float = KEEP_DAYS) -> list[str]:
    """Deletes data files that a commit replaced long ago, and plans as old with their parts.

    Only files that the log names are deleted (Delta's lite mode), so the parts of a run that is
    under way stay.

    Args:
        path: of the table.
        older_than_days: since the replacement, or since anything of a plan was written.

    Returns:
        What was deleted: data files relative to the table, and folders of plans.

    Raises:
        TableError: there is no table.
    """
    path = storage.normalise(path)
    table = open_table(path)
    deleted: list[str] = []
    if table:
        deleted += table.delta.vacuum(
            retention_hours=int(older_than_days * 24),
            dry_run=False,
            enforce_retention_duration=False,
            full=False,
        )
    plans = _plans(path)
    if table is None and not plans:
        raise TableError(f"{path}: there is no table, nor a plan for one; check the path")
    before_ms = (time.time() - older_than_days * DAY_SECONDS) * 1000
    for plan_id, newest_ms in plans.items():
        if newest_ms < before_ms:
            deleted += _delete_plan(path, plan_id, table)
    return deleted


def _plans(path: str) -> dict[str, int]:
    """When anything of each plan or its parts was last written, milliseconds since 1970."""
    newest: dict[str, int] = {}
    for folder in (storage.join(path, "_tagline", "plans"), storage.join(path, "data")):
        for file in storage.files_under(folder).values():
            plan_id = file.path.removeprefix(folder + "/").partition("/")[0]
            newest[plan_id] = max(newest.get(plan_id, 0), file.modified_ms)
    return newest


def _delete_plan(path: str, plan_id: str, table: Table | None) -> list[str]:
    """Deletes a plan's shards, and its parts when no commit ever took one of them.

    Parts go first and `plan.json` next: killed in between, this leaves neither parts that a plan
    of the same id, but cut otherwise, would take for its own, nor a plan without its shards.
    """
    plan_folder = storage.join(path, "_tagline", "plans", plan_id)
    folders = [plan_folder]
    if not _was_committed(plan_id, table):
        folders.insert(0, storage.join(path, "data", plan_id))
    there = [folder for folder in folders if storage.files_under(folder)]
    for folder in there:
        if folder == plan_folder:
            storage.delete(storage.join(folder, "plan.json"))
        storage.delete(folder)
    return there


def _was_committed(plan_id: str, table: Table | None) -> bool:
    if table is None:
        return False
    names = (plan_id, f"{plan_id}-portion")
    return any(table.delta.transaction_version(name) is not None for name in names) or any(
        file.path.startswith(f"data/{plan_id}/") for file in table.files
    )


if __name__ == "__main__":
    from jobs.cli import main

    main(["vacuum"])

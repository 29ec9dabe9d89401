"""Keeps a table tidy: few small files, and nothing left of old plans."""

import logging
import time

from deltalake.exceptions import CommitFailedError
from deltalake.transaction import CommitProperties

from jobs import storage
from jobs.records import ANOTHER, read_tried, record_tried
from jobs.shards import Plan
from jobs.table import Table, open_table

logger = logging.getLogger(__name__)
SMALL_BYTES = 16_000_000
MANY_SMALL_FILES = 1_000
KEEP_DAYS = 7
DAY_SECONDS = 86_400


def compact(plan: Plan) -> bool:
    """Joins small data files into large ones when there are too many; loses to any other commit.

    Args:
        plan: just committed.

    Returns:
        Whether the table was rewritten.
    """
    table = open_table(plan.table)
    if table is None or sum(file.size < SMALL_BYTES for file in table.files) <= MANY_SMALL_FILES:
        return False
    try:
        table.delta.optimize.compact(commit_properties=CommitProperties(max_commit_retries=0))
    except CommitFailedError as error:
        logger.info("event=compaction_lost plan=%s error=%r", plan.id, str(error))
        return False
    _record_compacted(plan, table)
    return True


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
    before_ms = (time.time() - older_than_days * DAY_SECONDS) * 1000
    for plan_id, newest_ms in _plans(path).items():
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


def _record_compacted(plan: Plan, before: Table) -> None:
    """Says of the new files by which keys their rows were judged."""
    after = open_table(plan.table)
    known = {file.path for file in before.files}
    part = f"data/{plan.id}/000000.parquet"
    judged = read_tried(plan.table, [part]).get(part, {})
    is_whole = plan.remaining == 0
    tried = {name: judged.get(name, ANOTHER) if is_whole else ANOTHER for name in plan.operators}
    for file in after.files if after else ():
        if file.path not in known:
            name = file.path.rpartition("/")[2].split(".")[0]
            record_tried(plan.table, name, tried)

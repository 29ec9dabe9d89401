"""Keeps a table's data files few."""

import logging

from deltalake.transaction import CommitProperties

from jobs.records import ANOTHER, read_tried, record_tried
from jobs.shards import Plan
from jobs.table import Table, open_table

logger = logging.getLogger(__name__)
SMALL_BYTES = 16_000_000
MANY_SMALL_FILES = 1_000


def compact(plan: Plan) -> None:
    """Joins small data files into large ones when there are too many.

    It loses to any other commit, and whatever fails here leaves the table as it was committed: it
    is tried again after the next commit.

    Args:
        plan: just committed.
    """
    try:
        table = open_table(plan.table)
        if table and sum(file.size < SMALL_BYTES for file in table.files) > MANY_SMALL_FILES:
            table.delta.optimize.compact(commit_properties=CommitProperties(max_commit_retries=0))
            _record_compacted(plan, table)
    except Exception as error:  # the job is done, whatever this is
        logger.warning("event=not_compacted table=%s error=%r", plan.table, str(error))


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

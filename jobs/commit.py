"""Makes the parts of a plan the table's data files, in one atomic step.

Files are added and removed by reference: no row is read. Every commit is a compare-and-set against
the version it was checked on. deltalake by itself would let two blind appends pass, and the same
application transaction twice from fresh handles; hence no retry is left to it.
"""

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import Schema
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import (
    AddAction,
    CommitProperties,
    RemoveAction,
    Transaction,
    create_table_with_add_actions,
)

from jobs import storage
from jobs.compaction import compact_when_many
from jobs.damage import DamagedFile, read_checked
from jobs.history import Note
from jobs.log_entry import put_entry
from jobs.restore import was_restored_since
from jobs.shards import Plan, Shard, part_path
from jobs.store_patience import passes_for_delta, pause
from jobs.table import Table, open_table, reason, storage_options
from schemas.enriched import IMAGE_ID
from schemas.errors import RunError, TableError
from schemas.manifest_files import STORE_ERRORS
from schemas.plain_types import plain_type

logger = logging.getLogger(__name__)
COMMIT_TRIES = 20  # each is lost to another commit, or to a store that gives no answer
READ_THREADS = 16
ID_SCHEMA = pa.schema([(IMAGE_ID, pa.string())])
NO_NOTE = Note("enrich")


@dataclass(frozen=True)
class _Change:
    """What one commit adds and removes.

    Args:
        plan: whose parts they are.
        transaction: by which a commit that was done is known.
        shards: whose parts are added.
        add: in the order of `shards`.
        remove: data files, relative to the table.
        note: what the commit says of itself.
    """

    plan: Plan
    note: Note
    transaction: Transaction
    shards: Sequence[Shard]
    add: list[AddAction]
    remove: list[str]


def commit(plan: Plan, *, committed: Collection[str] = (), note: Note = NO_NOTE) -> int:
    """Commits a plan whose every shard has its part; twice is once.

    Args:
        plan: of `jobs.plan.plan`.
        committed: ids of shards that `commit_portion` has committed in this run.
        note: kept in the commit, for `tagline history`.

    Returns:
        The table's version that holds the plan.

    Raises:
        RunError: a part is absent or has another number of rows, the table has moved on in what
            this plan touches, or its store does not take it; nothing was written, the parts are
            kept, and the same command plans anew or commits.
    """
    with _failing_as_a_run(plan):
        done = {*committed, *_committed_before(plan)}
        shards = [shard for shard in plan.shards if shard.id not in done]
        gone = {path for shard in plan.shards if shard.id in done for path in shard.sources}
        remove = [path for path in plan.replaced if path not in gone]
        transaction = Transaction(plan.id, 1)
        version = _commit(_Change(plan, note, transaction, shards, [], remove))
    compact_when_many(plan.table, note.run)
    return version


def commit_portion(plan: Plan, shards: Sequence[Shard], *, note: Note = NO_NOTE) -> int:
    """Commits some finished shards of a plan that is still running.

    Two drivers of one plan finish other shards at other times. What the table has already is left
    out, and a portion is known by its shards, so neither takes the other's portion for its own.

    Args:
        plan: of `jobs.plan.plan`.
        shards: from `jobs.portions.finished_portion`.
        note: kept in the commit.

    Returns:
        The table's version.

    Raises:
        RunError: as of `commit`.
    """
    with _failing_as_a_run(plan):
        table = open_table(plan.table)
        done = _committed_before(plan)
        shards = [shard for shard in shards if shard.id not in done]
        if table and (not shards or _holds(table, Transaction(plan.id, 1))):
            return table.version
        remove = sorted({path for shard in shards for path in shard.sources})
        transaction = Transaction(portion_id(plan.id), _number_of(shards))
        return _commit(_Change(plan, note, transaction, shards, [], remove))


@contextmanager
def _failing_as_a_run(plan: Plan) -> Iterator[None]:
    """Tells what a store or Delta refused as the fault of a run that can go on."""
    try:
        yield
    except (TableError, DeltaError, *STORE_ERRORS) as error:
        raise RunError(
            f"{plan.table}: could not be committed: {type(error).__name__}: {reason(error)}; the "
            "parts are kept: run the same command when the table can be read and written"
        ) from error


def portion_id(plan_id: str) -> str:
    """The application transaction of a plan's portions."""
    return f"{plan_id}-portion"


def _number_of(shards: Sequence[Shard]) -> int:
    """The version by which the transaction of a portion is known: another for other shards."""
    names = "\n".join(shard.id for shard in shards)
    return int(hashlib.sha256(names.encode()).hexdigest()[:15], 16)


def _committed_before(plan: Plan) -> set[str]:
    """The ids of a plan's shards whose parts are data files of the table, by whichever driver."""
    table = open_table(plan.table)
    there = {file.path for file in table.files} if table else set()
    return {shard.id for shard in plan.shards if _data_path(plan, shard) in there}


def _data_path(plan: Plan, shard: Shard) -> str:
    """A part as the table's log names it."""
    return f"data/{plan.id}/{shard.id}.parquet"


def _commit(change: _Change) -> int:
    """Tries until the change is in the table, by this or by another process."""
    plan = change.plan
    checked: int | None = plan.table_version
    for trial in range(1, COMMIT_TRIES + 1):
        table = open_table(plan.table)
        if table and was_restored_since(table, plan.table_version):
            raise RunError(
                f"{plan.table}: was restored to an earlier version after this run was planned; "
                "nothing was written; run the same command again, it plans on what is there now"
            )
        if table and _holds(table, change.transaction):
            return table.version
        if not change.add:
            change = replace(change, add=_parts(plan, change.shards))
        if (table.version if table else None) != checked:
            _check_untouched(change, table)
            checked = table.version if table else None
        try:
            version = _attempt(change, table)
        except (CommitFailedError, DeltaError, OSError) as error:
            now = open_table(plan.table)
            if (now.version if now else None) == (table.version if table else None):
                if not passes_for_delta(error):
                    raise
                pause(trial)  # for a store that gave no answer; if it comes late, it is found
            logger.info("event=commit_lost plan=%s error=%r", plan.id, str(error))
            continue
        logger.info(
            "event=committed plan=%s version=%d parts=%d replaced=%d",
            plan.id,
            version,
            len(change.add),
            len(change.remove),
        )
        return version
    raise RunError(
        f"{plan.table}: lost {COMMIT_TRIES} commits to other writers or to a store that does not "
        "answer; the parts are kept, run the same command again"
    )


def _holds(table: Table, transaction: Transaction) -> bool:
    there = table.delta.transaction_version(transaction.app_id)
    return bool(there == transaction.version)


def _attempt(change: _Change, table: Table | None) -> int:
    """Commits on exactly the version that `table` is held at; fails when there is a newer one."""
    files = {"added": len(change.add), "removed": len(change.remove)}
    metadata = replace(change.note, files=files).metadata()
    properties = CommitProperties(
        custom_metadata=metadata,
        max_commit_retries=0,
        app_transactions=[change.transaction],
    )
    if table is None:
        create_table_with_add_actions(
            change.plan.table,
            Schema.from_arrow(change.plan.schema),
            change.add,
            mode="error",
            storage_options=storage_options(change.plan.table),
            commit_properties=properties,
        )
        return 0
    remove = _remove_actions(change, table)
    added = [field for field in change.plan.schema if field.name not in table.schema.names]
    if added:
        put_entry(
            table,
            added,
            transactions=[change.transaction],
            add=change.add,
            remove=remove,
            info=metadata,
        )
    else:
        table.delta.create_write_transaction(
            [*change.add, *remove], "append", table.delta.schema(), commit_properties=properties
        )
    return table.version + 1


def _parts(plan: Plan, shards: Sequence[Shard]) -> list[AddAction]:
    """The parts as the log names them, each checked for its number of rows.

    Raises:
        RunError: parts are absent or are not what their shards say.
    """
    there = storage.files_under(storage.join(plan.table, "data", plan.id))
    missing = [shard.id for shard in shards if part_path(plan, shard) not in there]
    if missing:
        raise RunError(
            f"{plan.table}: {len(missing)} of {len(shards)} parts of plan {plan.id} are absent, "
            f"such as {missing[0]}; run the same command again"
        )
    with ThreadPoolExecutor(READ_THREADS) as pool:
        rows = list(pool.map(lambda shard: _rows_of(part_path(plan, shard)), shards))
    for shard, count in zip(shards, rows, strict=True):
        if count != shard.rows:
            path = part_path(plan, shard)
            raise RunError(
                f"{path}: has {count} rows, its shard {shard.rows}; another program wrote it; "
                "delete it and run the same command again"
            )
    return [_add_action(plan, shard, there[part_path(plan, shard)]) for shard in shards]


def _rows_of(path: str) -> int:
    try:
        return read_checked(path, _count)
    except DamagedFile as damaged:
        raise RunError(
            f"{path}: the part was damaged after it was put: {damaged.reason}; nothing was "
            "written; run the same command again, it computes that part anew"
        ) from damaged


def _count(file: pa.NativeFile) -> int:
    opened = pq.ParquetFile(file)
    return int(opened.metadata.num_rows) if opened.schema_arrow.names else 0


def _add_action(plan: Plan, shard: Shard, file: storage.StoredFile) -> AddAction:
    return AddAction(
        path=_data_path(plan, shard),
        size=file.size,
        partition_values={},
        modification_time=file.modified_ms,
        data_change=True,
        stats=json.dumps({"numRecords": shard.rows}),
    )


def _remove_actions(change: _Change, table: Table) -> list[RemoveAction]:
    sizes = {file.path: file.size for file in table.files}
    now = int(time.time() * 1000)
    return [
        RemoveAction(
            path=path,
            data_change=True,
            deletion_timestamp=now,
            size=sizes[path],
            partition_values={},
        )
        for path in change.remove
    ]


def _check_untouched(change: _Change, table: Table | None) -> None:
    """Lets a commit onto a newer version pass only when no file and no id of ours was touched.

    Raises:
        RunError: something was; nothing was written.
    """
    plan = change.plan
    advice = "nothing was written; run the same command again, it plans on what is there now"
    if table is None:
        raise RunError(f"{plan.table}: the table was removed while it was enriched; {advice}")
    active = {file.path for file in table.files}
    gone = [path for path in change.remove if path not in active]
    if gone:
        raise RunError(
            f"{plan.table}: another writer replaced {len(gone)} data files of this plan, such as "
            f"{gone[0]}; {advice}"
        )
    for field in plan.schema:
        if field.name in table.schema.names:
            there = table.schema.field(field.name).type
            if plain_type(there) != plain_type(field.type):
                raise RunError(f"{plan.table}: column {field.name!r} is now {there}; {advice}")
    twice = _id_in_both(change, _foreign_files(plan, active))
    if twice is not None:
        raise RunError(f"{plan.table}: another writer added image_id {twice!r} too; {advice}")


def _foreign_files(plan: Plan, active: set[str]) -> list[str]:
    """Data files that came after the version the plan read and are not its own parts."""
    base = open_table(plan.table, plan.table_version) if plan.table_version is not None else None
    known = {file.path for file in base.files} if base else set()
    return sorted(path for path in active - known if not path.startswith(f"data/{plan.id}/"))


def _id_in_both(change: _Change, foreign: list[str]) -> str | None:
    """An image_id that is new in this change and in a foreign file too."""
    ours = [part_path(change.plan, shard) for shard in change.shards if not shard.sources]
    theirs = [storage.join(change.plan.table, path) for path in foreign]
    if not ours or not theirs:
        return None
    with tempfile.TemporaryDirectory(prefix="tagline-commit-") as folder:
        database = duckdb.connect(f"{folder}/ids.duckdb")
        try:
            for name, paths in (("ours", ours), ("theirs", theirs)):
                reader = pa.RecordBatchReader.from_batches(ID_SCHEMA, _ids(paths))
                database.register("incoming", reader)
                database.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming")
                database.unregister("incoming")
            rows = database.execute(
                f"SELECT {IMAGE_ID} FROM ours SEMI JOIN theirs USING ({IMAGE_ID}) LIMIT 1"
            ).fetchall()
        finally:
            database.close()
    return str(rows[0][0]) if rows else None


def _ids(paths: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for path in paths:
        arrow = storage.arrow_filesystem(path)
        with pq.ParquetFile(storage.inner_path(path), filesystem=arrow) as file:
            for batch in file.iter_batches(columns=[IMAGE_ID]):
                yield pa.RecordBatch.from_arrays(
                    [batch.column(0).cast(pa.string())], schema=ID_SCHEMA
                )

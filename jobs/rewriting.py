"""Gives rows of a table other values of one column, in one commit, and touches nothing else.

Only data files that hold such a row are written anew; a kill leaves the old version, and files that
`vacuum` removes. What was tried on the rows of a file is remembered of the new one too, so `enrich`
judges them as before.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from jobs import storage
from jobs.history import Note
from jobs.index_source import read_files
from jobs.log_entry import put_entry
from jobs.parts import patiently
from jobs.records import read_tried, record_tried
from jobs.table import DataFile, Table
from schemas.errors import RunError, TableError
from schemas.manifest_files import STORE_ERRORS


def rewrite(table: Table, column: pa.Field, values: Mapping[str, pa.ChunkedArray]) -> int:
    """Writes a column.

    Args:
        table: at the version that the values were found on.
        column: its name and type; it is added to the schema when it is not there.
        values: for the data files to be written anew, by path, one value a row.

    Returns:
        The table's version; the one read when it has the column and there are no values.

    Raises:
        RunError: another commit came between, or the store does not answer; nothing was committed.
        TableError: the table has such a column of another type or spelling.
    """
    _check_column(table, column)
    if not values and column.name in table.schema.names:
        return table.version
    files = [file for file in table.files if file.path in values]
    try:
        add, transactions = _written(table, files, column, values)
        _commit(table, column, add, [_removed(file) for file in files], transactions)
    except (FileExistsError, CommitFailedError) as error:
        raise RunError(
            f"{table.path}: another commit came while version {table.version} was read; nothing "
            "was changed: run the same command again"
        ) from error
    except (DeltaError, *STORE_ERRORS) as error:
        raise RunError(
            f"{table.path}: could not be committed: {type(error).__name__}: {error}; nothing was "
            "changed: run the same command when the table can be read and written"
        ) from error
    return table.version + 1


def _check_column(table: Table, column: pa.Field) -> None:
    for there in table.schema:
        is_other = there.name != column.name or there.type != column.type
        if there.name.lower() == column.name.lower() and is_other:
            raise TableError(
                f"{table.path}: has a column {there.name!r} of {there.type} that tagline did not "
                f"write, where {column.name!r} belongs; write the table anew without it"
            )


def _written(
    table: Table, files: list[DataFile], column: pa.Field, values: Mapping[str, pa.ChunkedArray]
) -> tuple[list[AddAction], list[Transaction]]:
    """Puts the new files: those whose rows were judged alike are in one folder."""
    tried = read_tried(table.path, [file.path for file in files])
    digest = _digest(table, values)
    add, folders = [], dict[str, None]()
    for number, file in enumerate(files):
        judged = tried.get(file.path)
        folder = _folder(digest, judged)
        if judged is not None and folder not in folders:
            record_tried(table.path, folder, judged)
        folders[folder] = None
        add.append(_put(table, file, column, values, f"data/{folder}/{number:06}.parquet"))
    return add, [Transaction(folder, 1) for folder in folders]


def _digest(table: Table, values: Mapping[str, pa.ChunkedArray]) -> str:
    """Names a change, so that a run after a kill goes on with the files that are there."""
    digest = hashlib.sha256(f"{table.delta.metadata().id} {table.version}".encode())
    for path, array in sorted(values.items()):
        digest.update(json.dumps([path, array.to_pylist()]).encode())
    return digest.hexdigest()


def _folder(digest: str, judged: Mapping[str, str] | None) -> str:
    """The folder below `data`; `vacuum` and `records` take its name for that of a plan."""
    text = json.dumps([digest, judged], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _put(
    table: Table, file: DataFile, column: pa.Field, values: Mapping[str, pa.ChunkedArray], path: str
) -> AddAction:
    """Writes a data file anew, with other values of the column."""
    there = column.name in table.schema.names
    schema = table.schema if there else table.schema.append(column)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer:
        for rows in _with_values(table, file, column, values[file.path]):
            writer.write_table(rows.select(schema.names))
    data, target = sink.getvalue().to_pybytes(), storage.join(table.path, path)
    patiently(lambda: storage.put_if_absent(target, data), f"put {target}")
    return AddAction(
        path=path,
        size=len(data),
        partition_values={},
        modification_time=int(time.time() * 1000),
        data_change=True,
        stats=json.dumps({"numRecords": file.rows}),
    )


def _with_values(
    table: Table, file: DataFile, column: pa.Field, values: pa.ChunkedArray
) -> Iterator[pa.Table]:
    start = 0
    names = [name for name in table.schema.names if name != column.name]
    for rows in read_files(table, [file], names):
        yield rows.append_column(column, values.slice(start, rows.num_rows))
        start += rows.num_rows


def _removed(file: DataFile) -> RemoveAction:
    return RemoveAction(
        path=file.path,
        data_change=True,
        deletion_timestamp=int(time.time() * 1000),
        size=file.size,
        partition_values={},
    )


def _commit(
    table: Table,
    column: pa.Field,
    add: list[AddAction],
    remove: list[RemoveAction],
    transactions: list[Transaction],
) -> None:
    """Commits on exactly the version that `table` is held at."""
    written = sum(json.loads(file.stats)["numRecords"] for file in add)
    files = {"added": len(add), "removed": len(remove)}
    note = Note("duplicates", rows={"written": written}, files=files)
    if column.name not in table.schema.names:
        put_entry(
            table, [column], transactions=transactions, add=add, remove=remove, info=note.metadata()
        )
        return
    properties = CommitProperties(
        custom_metadata=note.metadata(), max_commit_retries=0, app_transactions=transactions
    )
    table.delta.create_write_transaction(
        [*add, *remove], "append", table.delta.schema(), commit_properties=properties
    )

"""The entry of Delta's log that adds columns and data files in one commit.

deltalake 1.6.6 leaves the schema as it was when `create_write_transaction` appends, and adding
columns by itself is a commit of its own, which a reader could see.

Source: Delta's PROTOCOL.md, "Actions".
"""

import json
import time
from collections.abc import Mapping, Sequence

import pyarrow as pa
from deltalake import Schema
from deltalake.transaction import AddAction, RemoveAction, Transaction

from jobs import storage
from jobs.table import Table


def put_entry(
    table: Table,
    columns: Sequence[pa.Field],
    *,
    transactions: Sequence[Transaction],
    add: Sequence[AddAction],
    remove: Sequence[RemoveAction],
    info: Mapping[str, str],
) -> None:
    """Writes the log's next entry, only if absent, which is how Delta itself tells who was first.

    Args:
        table: held at the version that the entry follows.
        columns: to be added to its schema.
        transactions: that the entry carries.
        add: data files.
        remove: data files.
        info: what else the commit says of itself.

    Raises:
        FileExistsError: another commit has this version.
    """
    metadata = table.delta.metadata()
    fields = [*table.delta.schema().fields, *Schema.from_arrow(pa.schema(columns)).fields]
    actions: list[dict[str, object]] = [
        {"commitInfo": {**_commit_info(), **info}},
        {
            "metaData": {
                "id": str(metadata.id),
                "name": metadata.name,
                "description": metadata.description,
                "format": {"provider": "parquet", "options": {}},
                "schemaString": Schema(fields).to_json(),
                "partitionColumns": [],
                "createdTime": metadata.created_time,
                "configuration": metadata.configuration,
            }
        },
    ]
    actions += [{"txn": {"appId": one.app_id, "version": one.version}} for one in transactions]
    actions += [{"add": _add_json(file)} for file in add]
    actions += [{"remove": _remove_json(file)} for file in remove]
    data = "\n".join(json.dumps(action, separators=(",", ":")) for action in actions)
    entry = f"{table.version + 1:020}.json"
    path = storage.join(table.path, "_delta_log", entry)
    if not storage.put_if_absent(path, data.encode()):
        raise FileExistsError(path)


def _commit_info() -> dict[str, object]:
    return {
        "timestamp": int(time.time() * 1000),
        "operation": "WRITE",
        "operationParameters": {"mode": "Append", "partitionBy": "[]"},
        "engineInfo": "tagline",
        "isBlindAppend": False,
    }


def _add_json(add: AddAction) -> dict[str, object]:
    return {
        "path": add.path,
        "partitionValues": {},
        "size": add.size,
        "modificationTime": add.modification_time,
        "dataChange": True,
        "stats": add.stats,
    }


def _remove_json(action: RemoveAction) -> dict[str, object]:
    return {
        "path": action.path,
        "deletionTimestamp": action.deletion_timestamp,
        "dataChange": True,
        "extendedFileMetadata": True,
        "partitionValues": {},
        "size": action.size,
    }

"""The enriched table: a Delta table whose data files are the parts of finished plans.

No deletion vectors, no column mapping, no partitions: every reader of Delta can read it.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from jobs import storage
from jobs.store_patience import asked_again, delta_options, passes_for_delta
from operators.base import Operator
from schemas.enriched import (
    ENRICHED_AT,
    ENRICHED_AT_TYPE,
    ERROR,
    ERROR_TYPE,
    FETCHED_SCHEMA,
    IMAGE_ID,
    URI,
    key_column,
)
from schemas.errors import ConfigError, DatasetError, TableError
from schemas.plain_types import plain_type

OUR_FOLDERS = ("_tagline", "data")  # what a first run that was killed may have left
ORNAMENTS = re.compile(r"\x1b\[\d*m|↳")
FRAME = re.compile(r"\d+: |at \.{0,2}/|stack backtrace")


@dataclass(frozen=True)
class DataFile:
    """A data file of a table at one version.

    Args:
        path: relative to the table.
        size: bytes.
        rows: in the file.
    """

    path: str
    size: int
    rows: int


@dataclass(frozen=True)
class Table:
    """A table at one version.

    Args:
        path: normalised.
        version: of Delta.
        schema: its columns, in order.
        files: that make it up, sorted by path.
        delta: the handle, held at `version`.
    """

    path: str
    version: int
    schema: pa.Schema
    files: tuple[DataFile, ...]
    delta: Any

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """Reads the whole table into memory; for small tables, summaries and tests."""
        rows = self.delta.to_pyarrow_table(columns=columns)
        names = columns or self.schema.names
        return rows.select(names).cast(pa.schema([self.schema.field(name) for name in names]))


def storage_options(path: str) -> dict[str, str]:
    """What deltalake must be told beside the AWS variables that it reads itself."""
    if storage.scheme_of(path) != "s3":
        return {}
    options = {**delta_options(), "AWS_REGION": os.environ.get("AWS_REGION", "")}
    options["AWS_REGION"] = options["AWS_REGION"] or os.environ.get(
        "AWS_DEFAULT_REGION", "us-east-1"
    )
    if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
    return options


def open_table(path: str, version: int | None = None) -> Table | None:
    """Opens a table at its latest, or a given, version.

    Returns:
        None when there is no table yet; a folder that a killed first run left counts as none.

    Raises:
        TableError: something else lies there, or a Delta table that tagline did not make.
    """
    path = storage.normalise(path)
    try:
        options = storage_options(path)
        delta = asked_again(
            lambda: DeltaTable(path, version=version, storage_options=options),
            f"open {path}",
            passes=passes_for_delta,
        )
    except TableNotFoundError:
        _check_free(path)
        return None
    except (DeltaError, OSError) as error:
        if os.path.isfile(path):
            _check_free(path)
        raise TableError(f"{path}: the Delta table cannot be read: {reason(error)}") from error
    schema = _arrow_schema(delta)
    _check_ours(path, delta, schema)
    return Table(path, delta.version(), schema, _data_files(path, delta), delta)


def existing_table(path: str) -> Table:
    """Opens a table that must be there.

    Raises:
        DatasetError: there is none.
        TableError: as of `open_table`.
    """
    table = open_table(path)
    if table is None:
        raise DatasetError(f"{path}: no table; write one with `tagline enrich`")
    return table


def reason(error: Exception) -> str:
    """What deltalake says, on one line and without colours or its own frames."""
    lines = (ORNAMENTS.sub("", line).strip() for line in str(error).splitlines())
    return ": ".join(line for line in lines if line and not FRAME.match(line))


def planned_schema(
    table: Table | None, manifest_schema: pa.Schema, operators: Sequence[Operator]
) -> pa.Schema:
    """The table's columns once a plan is committed: those it has, in order, then new ones.

    Raises:
        ConfigError: a column is there with another type; with every such column.
    """
    wanted = [*manifest_schema, *FETCHED_SCHEMA]
    for operator in operators:
        wanted += [*operator.writes, pa.field(key_column(operator.name), pa.string())]
    wanted += [pa.field(ERROR, ERROR_TYPE), pa.field(ENRICHED_AT, ENRICHED_AT_TYPE)]
    if table is None:
        return pa.schema([field.with_nullable(True) for field in wanted])
    there = {field.name.lower(): field for field in table.schema}
    faults = [
        f"table {table.path}: column {there[field.name.lower()].name!r} is "
        f"{there[field.name.lower()].type}, now it would be {field.name!r}: {field.type}; "
        "rename the operator or the manifest's column, or write another table"
        for field in wanted
        if field.name.lower() in there and not _same(field, there[field.name.lower()])
    ]
    if faults:
        raise ConfigError("\n".join(faults))
    added = [field for field in wanted if field.name not in table.schema.names]
    return pa.schema([*table.schema, *added])


def check_texts(schema: pa.Schema, operators: Sequence[Operator]) -> None:
    """Refuses operators that would read texts from columns of another type.

    Args:
        schema: of the table once it is planned: all that an operator can read but images.
        operators: in order.

    Raises:
        ConfigError: with every such column.
    """
    kinds = {field.name: field.type for field in schema}
    faults = [
        f"operators.{operator.name}: reads texts from the column {column!r}, which is "
        f"{kinds.get(column, 'the image itself')}; name a column of text"
        for operator in operators
        for column in getattr(operator, "texts", ())
        if kinds.get(column) != pa.string()
    ]
    if faults:
        raise ConfigError("\n".join(faults))


def _same(wanted: pa.Field, there: pa.Field) -> bool:
    return bool(wanted.name == there.name and plain_type(wanted.type) == plain_type(there.type))


def _arrow_schema(delta: DeltaTable) -> pa.Schema:
    """The schema in plain Arrow types; what is not plain stays as it is."""
    found = pa.schema(delta.schema().to_arrow())
    return pa.schema([(field.name, plain_type(field.type) or field.type) for field in found])


def _check_free(path: str) -> None:
    """Raises TableError when a path that is no table is not free for one either."""
    filesystem, inner = storage.filesystem(path), storage.inner_path(path)
    is_local = storage.scheme_of(path) == "file"
    for above in Path(path).parents if is_local else ():
        if above.is_file():
            raise TableError(f"{path}: lies under {above}, which is a file; give another path")
    bucket = inner.partition("/")[0]
    if not is_local and not filesystem.exists(bucket):
        raise TableError(f"{path}: there is no bucket {bucket!r}; create it, or give another path")
    if not filesystem.exists(inner):
        return
    if filesystem.isfile(inner):
        raise TableError(f"{path}: is a file, not a table; give another path for the table")
    names = {entry.rstrip("/").rpartition("/")[2] for entry in filesystem.ls(inner, detail=False)}
    foreign = sorted(names - set(OUR_FOLDERS) - {"_delta_log", ""})
    if foreign:
        raise TableError(
            f"{path}: holds {', '.join(foreign[:3])} and no Delta table; "
            "give a path that is empty or does not exist"
        )


def _check_ours(path: str, delta: DeltaTable, schema: pa.Schema) -> None:
    expected = {IMAGE_ID: pa.string(), URI: pa.string(), ERROR: ERROR_TYPE}
    for name, kind in expected.items():
        if name not in schema.names or schema.field(name).type != kind:
            raise TableError(
                f"{path}: a Delta table, but its column {name!r} is "
                f"{schema.field(name).type if name in schema.names else 'missing'}; "
                "tagline writes only tables that it made; give another path"
            )
    if delta.metadata().partition_columns:
        raise TableError(f"{path}: is partitioned; tagline writes tables without partitions")
    if delta.protocol().min_reader_version > 1:
        raise TableError(
            f"{path}: has Delta features that tagline does not write "
            f"(reader version {delta.protocol().min_reader_version}); give another path"
        )


def _data_files(path: str, delta: DeltaTable) -> tuple[DataFile, ...]:
    actions = pa.table(delta.get_add_actions(flatten=True))
    rows = zip(
        actions["path"].to_pylist(),
        actions["size_bytes"].to_pylist(),
        actions["num_records"].to_pylist(),
        strict=True,
    )
    files = [
        DataFile(unquote(name), size, count if count is not None else _count(path, unquote(name)))
        for name, size, count in rows
    ]
    return tuple(sorted(files, key=lambda file: file.path))


def _count(table: str, name: str) -> int:
    """Rows of a data file that another writer added without statistics."""
    path = storage.join(table, name)
    arrow = storage.arrow_filesystem(path)
    return int(pq.read_metadata(storage.inner_path(path), filesystem=arrow).num_rows)

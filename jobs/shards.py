"""What a plan leaves for the run: shards of rows, each one Ray block and one part file.

    <table>/_tagline/plans/<id>/plan.json                   written last: the plan is complete
    <table>/_tagline/plans/<id>/rows-<n>-<digest>.parquet   one row group is one shard
    <table>/data/<id>/<shard>.parquet                       the part of a shard, written once

A shard holds identities, decisions and the manifest's columns. Values that stay are not copied into
it: `read_shard` takes them from the data files the shard replaces. So whoever plans moves little,
and all of a row travels only where it is computed.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs import storage
from jobs.damage import DamagedFile, lost_data_file, read_checked
from schemas.enriched import ATTEMPTS, IN_FLIGHT_SCHEMA, IS_DUE
from schemas.errors import TableError

FORMAT = 1  # raised when plans of an older tagline can no longer be read
SOURCE = "_tagline_source"  # in a shard's file: which data file of the table; null for a new row
SOURCE_ROW = "_tagline_source_row"  # in a shard's file: which row of it
PART_SCHEMA = b"tagline.part_schema"  # in a shard's file: the schema of the parts, as Arrow IPC


@dataclass(frozen=True)
class Shard:
    """A slice of the work: one block for the run, one part file.

    Args:
        id: names the part.
        rows: rows of the part, due or copied; the commit checks them.
        due: rows to be computed.
        images: due rows whose image is needed.
        image_bytes: expected encoded bytes of those images.
        file: name of the file in the plan's folder.
        row_group: which row group of it.
        sources: data files whose rows it holds, relative to the table.
    """

    id: str
    rows: int
    due: int
    images: int
    image_bytes: int
    file: str
    row_group: int
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class OperatorCounts:
    """Rows an operator will compute, by reason."""

    new: int = 0
    changed: int = 0
    retry: int = 0


@dataclass(frozen=True)
class Counts:
    """Rows by what a plan decided about them.

    Args:
        manifest: rows of the manifest, each image_id once.
        duplicates: rows of the manifest that a later row of the same image_id replaces.
        new: not in the table yet.
        changed: in the table and to be written again, computed or with other manifest columns.
        recomputed: those of `changed` that an operator computes.
        retry: rows with an error, to be computed again.
        healthy: rows that stay as they are, without an error.
        settled: rows whose error stays, those with other manifest columns too.
        absent: rows of the table that the manifest no longer names.
        removed: those of `absent` that this plan removes.
    """

    manifest: int = 0
    duplicates: int = 0
    new: int = 0
    changed: int = 0
    recomputed: int = 0
    retry: int = 0
    healthy: int = 0
    settled: int = 0
    absent: int = 0
    removed: int = 0

    @property
    def due(self) -> int:
        """Rows that some operator computes."""
        return self.new + self.recomputed + self.retry


@dataclass(frozen=True)
class Plan:
    """Everything a run and a commit need to know, without the rows.

    Args:
        id: 16 hex digits; the same for the same table version, manifest, operators and selection.
        table: the table's path.
        table_version: the Delta version that was read; None when the table did not exist.
        operators: each operator's name and key, in order.
        counts: rows by decision.
        computed: rows by operator and reason.
        images_to_fetch: rows whose image is needed.
        bytes_to_rewrite: size of the data files that are replaced.
        seconds: estimated; 0 when there is nothing to do.
        cost: in the currency of `resources.cost_per_hour`; None when that is not given.
        remaining: due rows left for the next round, for plans above `ROUND_ROWS`.
        schema: of every part, exactly: names, order and types; see `part_schema`.
        retired: key columns of operators that the config no longer has.
        shards: in order.
        replaced: data files the commit removes, relative to the table; every row of theirs that
            stays is in some shard.
    """

    id: str
    table: str
    table_version: int | None
    operators: Mapping[str, str]
    counts: Counts
    computed: Mapping[str, OperatorCounts]
    images_to_fetch: int
    bytes_to_rewrite: int
    seconds: float
    cost: float | None
    remaining: int
    schema: pa.Schema
    retired: tuple[str, ...] = ()
    shards: tuple[Shard, ...] = ()
    replaced: tuple[str, ...] = ()

    @property
    def directory(self) -> str:
        """Where the plan's files lie."""
        return plan_directory(self.table, self.id)

    @property
    def is_empty(self) -> bool:
        """Whether the table is already what it should be: nothing to run, nothing to commit."""
        return not (self.counts.new or self.counts.changed or self.counts.retry) and not (
            self.counts.removed
        )

    def pending(self) -> list[Shard]:
        """Lists the shards whose part is not there yet, by one listing of the parts' folder."""
        parts = storage.files_under(storage.join(self.table, "data", self.id))
        return [shard for shard in self.shards if part_path(self, shard) not in parts]


def plan_directory(table: str, plan_id: str) -> str:
    """Where the files of a plan lie."""
    return storage.join(table, "_tagline", "plans", plan_id)


def part_path(plan: Plan, shard: Shard) -> str:
    """Where the run puts the part of a shard, once (`storage.put_if_absent`)."""
    return storage.join(plan.table, "data", plan.id, f"{shard.id}.parquet")


def part_schema(plan: Plan) -> pa.Schema:
    """The schema that a part writer selects and casts to: the table's columns in their order."""
    return plan.schema


def read_shard(directory: str, shard: Shard) -> pa.Table:
    """Reads all of a shard's rows, ready for the operators.

    Args:
        directory: `plan.directory`; the table's folder is found from it.
        shard: one of `plan.shards`; small, pickles well.

    Returns:
        The columns of `part_schema`, then `is_due` and `attempts`. A due row has its key columns
        null where an operator is to compute it for a changed uri or text, and `error` null. A row
        that is not due is as it will stay and is only copied.

    Raises:
        TableError: a file of the plan or of the table is gone, as after a vacuum.
    """
    table = directory.rpartition("/_tagline/plans/")[0]
    file = _open(storage.join(directory, shard.file))
    rows = file.read_row_group(shard.row_group)
    schema = pa.ipc.read_schema(pa.py_buffer(file.schema_arrow.metadata[PART_SCHEMA]))
    block = rows.drop_columns([SOURCE, SOURCE_ROW]).replace_schema_metadata(None)
    kept = [name for name in schema.names if name not in block.column_names]
    values = _kept_values(table, rows, pa.schema([schema.field(name) for name in kept]))
    for name in kept:
        block = block.append_column(schema.field(name), values[name])
    flight = [IN_FLIGHT_SCHEMA.field(name) for name in (IS_DUE, ATTEMPTS)]
    return block.select([*schema.names, IS_DUE, ATTEMPTS]).cast(pa.schema([*schema, *flight]))


def write_plan(plan: Plan) -> Plan:
    """Completes a plan; when another driver was first, its plan is the one that counts.

    Returns:
        The plan that stands in the store.
    """
    document = asdict(replace(plan, schema=None))
    document["schema"] = base64.b64encode(plan.schema.serialize().to_pybytes()).decode()
    document["format"] = FORMAT
    data = json.dumps(document, separators=(",", ":")).encode()
    if storage.put_if_absent(storage.join(plan.directory, "plan.json"), data):
        return plan
    standing = read_plan(plan.table, plan.id)
    if standing is None:
        raise TableError(f"{plan.directory}/plan.json was removed while it was written; run again")
    return standing


def read_plan(table: str, plan_id: str) -> Plan | None:
    """Reads a complete plan; None when there is none."""
    path = storage.join(plan_directory(table, plan_id), "plan.json")
    data = storage.read_bytes(path)
    if data is None:
        return None
    document: dict[str, Any] = json.loads(data)
    if document.pop("format") != FORMAT:
        raise TableError(f"{path} is of another version of tagline; finish it with that, or delete")
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(document.pop("schema"))))
    shards = tuple(
        Shard(**{**shard, "sources": tuple(shard["sources"])}) for shard in document.pop("shards")
    )
    return Plan(
        schema=schema,
        shards=shards,
        counts=Counts(**document.pop("counts")),
        computed={name: OperatorCounts(**c) for name, c in document.pop("computed").items()},
        replaced=tuple(document.pop("replaced")),
        retired=tuple(document.pop("retired", ())),
        **{**document, "table": table},
    )


@lru_cache(maxsize=4)
def _open(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(
            storage.inner_path(path), filesystem=storage.arrow_filesystem(path), pre_buffer=True
        )
    except FileNotFoundError as error:
        raise _gone(path) from error


def _gone(path: str) -> TableError:
    return TableError(f"{path} is gone, perhaps by a vacuum; run again to plan anew")


def _kept_values(table: str, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Takes the columns of `schema` for each row from its data file; null for new rows."""
    pieces, positions = [schema.empty_table()], []
    row = pa.chunked_array(rows[SOURCE_ROW])
    for source in pc.unique(rows[SOURCE]).drop_null().to_pylist():
        here = pc.indices_nonzero(pc.equal(rows[SOURCE], source))
        pieces.append(_rows_of(storage.join(table, source), row.take(here), schema))
        positions.append(here)
    found = pa.concat_tables(pieces)
    order = pa.concat_arrays([pa.array(p, pa.uint64()) for p in positions]) if positions else None
    if order is None:
        return pa.table([pa.nulls(len(rows), field.type) for field in schema], schema=schema)
    at = pc.index_in(pa.array(range(len(rows)), pa.uint64()), value_set=order)
    return found.take(at)


def _rows_of(path: str, wanted: pa.ChunkedArray, schema: pa.Schema) -> pa.Table:
    """Reads rows of a data file from the row groups that hold them; nulls for what it lacks."""
    first, last = pc.min(wanted).as_py(), pc.max(wanted).as_py()

    def read(source: pa.NativeFile) -> tuple[pa.Table, int]:
        file = pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)
        start, groups, skipped = 0, [], None
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            if start <= last and end > first:
                groups.append(group)
                skipped = start if skipped is None else skipped
            start = end
        present = [name for name in schema.names if name in file.schema_arrow.names]
        return file.read_row_groups(groups, columns=present), skipped or 0

    try:
        rows, skipped = read_checked(path, read)
    except FileNotFoundError as error:
        raise _gone(path) from error
    except DamagedFile as damaged:
        raise lost_data_file(path, damaged.reason) from damaged
    at = pc.subtract(wanted, skipped)
    columns = [
        rows[field.name].cast(field.type).take(at)  # deltalake writes views, which cannot be taken
        if field.name in rows.column_names
        else pa.nulls(len(wanted), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)

"""Which rows are stale, and for which operators: the manifest joined with the table, in DuckDB.

Both sides are streamed into a database file, as one in memory cannot spill enough for a join of ten
million rows; no list of ids is ever held in Python. The rules, row by row, are in `jobs.decision`.
"""

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import storage
from jobs.damage import read_data_file
from jobs.decision import (
    FILE,
    IS_ABSENT,
    IS_NEW,
    IS_OPEN,
    IS_REMOVED,
    IS_RETRY,
    IS_TAKEN,
    NEEDS_IMAGE,
    ORDER,
    ROW,
    STALE,
    Rules,
    decision_sql,
    name,
    text,
)
from jobs.shards import Counts, OperatorCounts
from jobs.table import DataFile, Table
from operators.base import Operator
from schemas.enriched import (
    ERROR,
    ERROR_TYPE,
    IMAGE_ETAG,
    IMAGE_ID,
    IMAGE_SIZE,
    IS_DUE,
    URI,
    key_column,
)
from schemas.errors import TableError, TaglineError
from schemas.manifest import Manifest

MEMORY_LIMIT = "1GB"  # of DuckDB
MOST_THREADS = 8  # of DuckDB; each needs its share of that memory
READ_THREADS = 16
AHEAD_ROWS = 500_000  # of data files that are read before their turn
HEAD_THREADS = 32  # stores asked for an etag at once
BATCH_ROWS = 65_536
BATCH_BYTES = 32 << 20
KEPT = f"NOT {IS_ABSENT} AND NOT {IS_NEW} AND NOT {IS_TAKEN}"
REPLACED = f"SELECT {FILE} FROM decided WHERE ({IS_TAKEN} AND NOT {IS_NEW}) OR {IS_REMOVED}"


class Comparison:
    """A manifest and a table, joined; a context manager that removes its files at the end.

    Args:
        manifest: opened.
        table: None when there is none yet.
        operators: in order.
    """

    def __init__(
        self, manifest: Manifest, table: Table | None, operators: Sequence[Operator]
    ) -> None:
        self.manifest = manifest
        self.table = table
        self.operators = list(operators)
        self.files: tuple[DataFile, ...] = table.files if table else ()
        self.duplicates = 0
        self.retired = _retired(table, manifest, operators)
        self._folder = tempfile.TemporaryDirectory(prefix="tagline-plan-")
        self.database = duckdb.connect(f"{self._folder.name}/plan.duckdb")
        self.database.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        self.database.execute(f"SET threads = {min(MOST_THREADS, os.cpu_count() or 1)}")
        self.database.execute(f"SET temp_directory = {text(self._folder.name + '/spill')}")
        self.database.execute("SET TimeZone = 'UTC'")

    def __enter__(self) -> "Comparison":
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()
        self._folder.cleanup()

    def load(self) -> None:
        """Streams both sides in; of a doubled image_id the manifest's last row stays.

        Raises:
            ManifestError: a row of the manifest cannot be taken.
            TableError: an image_id is more than once in the table.
        """
        schema = self.manifest.schema.append(pa.field(ORDER, pa.int64()))
        self._create("manifest", schema, _numbered(self.manifest.batches(), schema))
        self._drop_duplicates()
        self.database.execute(f"CREATE TABLE refreshed ({IMAGE_ID} VARCHAR)")
        schema = self._state_schema()
        self._create("state", schema, self._state_batches(schema))
        twice = self._rows(f"SELECT {IMAGE_ID} FROM state GROUP BY 1 HAVING count(*) > 1 LIMIT 1")
        if twice and self.table:
            raise TableError(
                f"{self.table.path}: image_id {twice[0][0]!r} is in the table more than once; "
                "another writer did that; delete the rows that should not be there"
            )

    @property
    def key_columns(self) -> list[str]:
        """The key columns that decisions touch."""
        return [*(key_column(op.name) for op in self.operators), *self.retired]

    def refresh(self, has_changed: Callable[[str, str], bool]) -> int:
        """Looks for images that are other ones than when they were fetched.

        Args:
            has_changed: told a uri and the etag at that time.

        Returns:
            How many there are.
        """
        query = f"""SELECT m.{IMAGE_ID}, m.{URI}, s.{IMAGE_ETAG} FROM manifest m JOIN state s
            USING ({IMAGE_ID}) WHERE m.{URI} = s.{URI} AND s.{IMAGE_ETAG} IS NOT NULL"""
        with self.database.cursor() as reading, ThreadPoolExecutor(HEAD_THREADS) as pool:
            for batch in reading.sql(query).to_arrow_reader(BATCH_ROWS):
                ids, uris, etags = (column.to_pylist() for column in batch.columns)
                changed = list(pool.map(has_changed, uris, etags))
                found = pa.table({IMAGE_ID: pa.array(ids, pa.string()).filter(pa.array(changed))})
                self.database.register("incoming", found)
                self.database.execute("INSERT INTO refreshed SELECT * FROM incoming")
                self.database.unregister("incoming")
        return self._number("SELECT count(*) FROM refreshed")

    def files_with_errors(self) -> list[str]:
        """The data files that hold a row with an error."""
        found = self._rows(
            f"SELECT DISTINCT {FILE} FROM state WHERE {ERROR} IS NOT NULL ORDER BY 1"
        )
        return [self.files[position].path for (position,) in found]

    def decide(self, rules: Rules) -> None:
        """Makes the table `decided`: a row per image_id of either side and what becomes of it."""
        self._create_tried(rules)
        self.database.execute(decision_sql(self.manifest.schema.names, self.operators, rules))
        self.database.execute("DROP TABLE manifest; DROP TABLE state")

    def counts(self) -> Counts:
        """Counts the rows by decision."""
        (row,) = self._rows(f"""
            SELECT count(*) FILTER (NOT {IS_ABSENT}),
                count(*) FILTER ({IS_NEW} AND {IS_TAKEN}),
                count(*) FILTER ({IS_TAKEN} AND NOT {IS_NEW} AND NOT {IS_RETRY}),
                count(*) FILTER ({IS_DUE} AND NOT {IS_NEW} AND NOT {IS_RETRY}),
                count(*) FILTER ({IS_RETRY} AND {IS_TAKEN}),
                count(*) FILTER ({KEPT} AND {ERROR} IS NULL),
                count(*) FILTER (NOT {IS_ABSENT} AND {ERROR} IS NOT NULL),
                count(*) FILTER ({IS_ABSENT}), count(*) FILTER ({IS_REMOVED})
            FROM decided""")
        manifest, new, changed, recomputed, retry, healthy, settled, absent, removed = row
        return Counts(
            manifest=manifest,
            duplicates=self.duplicates,
            new=new,
            changed=changed,
            recomputed=recomputed,
            retry=retry,
            healthy=healthy,
            settled=settled,
            absent=absent,
            removed=removed,
        )

    def computed(self) -> dict[str, OperatorCounts]:
        """Counts the rows that each operator computes, by reason."""
        counts = {}
        for op in self.operators:
            (row,) = self._rows(f"""
                SELECT count(*) FILTER ({IS_NEW}),
                    count(*) FILTER (NOT {IS_NEW} AND NOT {IS_RETRY}),
                    count(*) FILTER ({IS_RETRY})
                FROM decided WHERE {name(STALE + op.name)}""")
            counts[op.name] = OperatorCounts(*row)
        return counts

    def images_to_fetch(self) -> int:
        """Counts the rows whose image is needed."""
        return self._number(f"SELECT count(*) FROM decided WHERE {NEEDS_IMAGE}")

    def open_stages(self) -> set[str]:
        """The stages of errors that this plan leaves although something changed since."""
        found = self._rows(f"SELECT DISTINCT {ERROR}.stage FROM decided WHERE {IS_OPEN}")
        return {stage for (stage,) in found}

    def replaced(self) -> list[int]:
        """The positions of the data files that hold a row to be written again or removed."""
        found = self._rows(f"SELECT DISTINCT {FILE} FROM ({REPLACED}) ORDER BY 1")
        return [position for (position,) in found]

    def limit(self, rows: int) -> int:
        """Leaves what is beyond so many due rows to a later plan; whole data files come first.

        Returns:
            The due rows that were left.
        """
        due = self._number(f"SELECT count(*) FROM decided WHERE {IS_DUE}")
        if due <= rows:
            return 0
        self.database.execute(f"""
            CREATE TEMP TABLE later AS WITH per_file AS (
                SELECT {FILE}, count(*) FILTER ({IS_DUE}) AS due
                FROM decided WHERE NOT {IS_NEW} GROUP BY 1
            ), running AS (
                SELECT {FILE}, due, sum(due) OVER (ORDER BY {FILE}) AS total FROM per_file
            ) SELECT {FILE} FROM running WHERE due > 0 AND total - due >= {rows}""")
        self.database.execute(
            f"DELETE FROM decided USING later WHERE decided.{FILE} = later.{FILE}"
        )
        kept = self._number(f"SELECT count(*) FROM decided WHERE {IS_DUE} AND NOT {IS_NEW}")
        self.database.execute(f"""
            DELETE FROM decided WHERE {IS_NEW} AND {ORDER} > (
                SELECT coalesce(max({ORDER}), -1) FROM (
                    SELECT {ORDER} FROM decided WHERE {IS_NEW} ORDER BY 1
                    LIMIT {max(0, rows - kept)}))""")
        return due - self._number(f"SELECT count(*) FROM decided WHERE {IS_DUE}")

    def sample_of_unknown_size(self, rows: int) -> list[tuple[str, str]]:
        """Some image_id and uri of images needed and never fetched; always the same."""
        return self._rows(
            f"SELECT {IMAGE_ID}, {URI} FROM decided WHERE {NEEDS_IMAGE} AND {IMAGE_SIZE} IS NULL "
            f"AND {URI} IS NOT NULL ORDER BY md5({IMAGE_ID}) LIMIT {rows}"
        )

    def existing_rows(self, rows_per_batch: int) -> Iterator[pa.RecordBatch]:
        """Streams the rows that stay of the replaced data files, in the order of the files."""
        query = (
            f"SELECT * FROM decided WHERE NOT {IS_REMOVED} AND {FILE} IN ({REPLACED}) "
            f"ORDER BY {FILE}, {ROW}"
        )
        yield from self.database.sql(query).to_arrow_reader(rows_per_batch)

    def new_rows(self, rows_per_batch: int) -> Iterator[pa.RecordBatch]:
        """Streams the new rows in the order of the manifest."""
        query = f"SELECT * FROM decided WHERE {IS_NEW} AND {IS_TAKEN} ORDER BY {ORDER}"
        yield from self.database.sql(query).to_arrow_reader(rows_per_batch)

    def _create(self, relation: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        """Streams batches into a table; an error of ours comes out as it was raised."""
        raised: list[TaglineError] = []

        def guarded() -> Iterator[pa.RecordBatch]:
            try:
                yield from _coalesced(batches)
            except TaglineError as error:
                raised.append(error)
                raise

        reader = pa.RecordBatchReader.from_batches(schema, guarded())
        self.database.register("incoming", reader)
        try:
            self.database.execute(f"CREATE TABLE {relation} AS SELECT * FROM incoming")
        except Exception:
            if raised:
                raise raised[0] from None
            raise
        finally:
            self.database.unregister("incoming")

    def _drop_duplicates(self) -> None:
        self.database.execute(
            f"CREATE TEMP TABLE doubled AS SELECT {IMAGE_ID}, max({ORDER}) AS last, "
            f"count(*) - 1 AS extra FROM manifest GROUP BY 1 HAVING count(*) > 1"
        )
        self.duplicates = self._number("SELECT coalesce(sum(extra), 0) FROM doubled")
        if self.duplicates:
            self.database.execute(
                f"DELETE FROM manifest USING doubled WHERE manifest.{IMAGE_ID} = "
                f"doubled.{IMAGE_ID} AND manifest.{ORDER} < doubled.last"
            )

    def _number(self, query: str) -> int:
        return int(self._rows(query)[0][0])

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        """All rows of a query that has few; DuckDB wants a result read to its end."""
        return self.database.execute(query).fetchall()

    def _state_schema(self) -> pa.Schema:
        """What is read of the table: all that decides, and no values of operators."""
        keys = [pa.field(column, pa.string()) for column in self.key_columns]
        return pa.schema(
            [
                *self.manifest.schema,
                *keys,
                pa.field(ERROR, ERROR_TYPE),
                pa.field(IMAGE_SIZE, pa.int64()),
                pa.field(IMAGE_ETAG, pa.string()),
                pa.field(FILE, pa.int32()),
                pa.field(ROW, pa.int64()),
            ]
        )

    def _state_batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Reads the data files, a few ahead, in order."""
        table = self.table
        if table is None:
            return
        with ThreadPoolExecutor(READ_THREADS) as pool:
            waiting: deque[Future[pa.Table]] = deque()
            ahead = 0  # rows
            for position, file in enumerate(self.files):
                waiting.append(pool.submit(_state_of, table.path, file, position, schema))
                ahead += file.rows
                while ahead > AHEAD_ROWS:
                    rows = waiting.popleft().result()
                    ahead -= rows.num_rows
                    yield from rows.to_batches()
            for read in waiting:
                yield from read.result().to_batches()

    def _create_tried(self, rules: Rules) -> None:
        """A row per data file whose last tried keys are known, a column per operator."""
        stages = [op.name for op in self.operators]
        at = {file.path: position for position, file in enumerate(self.files)}
        rows = [
            {"file": at[path], **{stage: keys.get(stage) for stage in stages}}
            for path, keys in rules.tried_keys.items()
        ]
        schema = pa.schema([("file", pa.int32()), *((stage, pa.string()) for stage in stages)])
        self._create("tried", schema, iter(pa.Table.from_pylist(rows, schema).to_batches()))


def _retired(
    table: Table | None, manifest: Manifest, operators: Sequence[Operator]
) -> tuple[str, ...]:
    """The key columns in a table of operators that are no longer there."""
    known = {*manifest.schema.names, *(key_column(op.name) for op in operators)}
    there = table.schema if table else pa.schema([])
    return tuple(
        field.name
        for field in there
        if field.name.endswith("_key") and pa.types.is_string(field.type)
        if field.name not in known and field.name.removesuffix("_key") in there.names
    )


def _coalesced(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Joins small batches: DuckDB takes in few large ones in a fifth of the time."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        held.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= BATCH_ROWS or size >= BATCH_BYTES:
            yield pa.concat_batches(held)
            held, rows, size = [], 0, 0
    if held:
        yield pa.concat_batches(held)


def _numbered(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Adds the position of each row."""
    start = 0
    for batch in batches:
        order = pa.array(np.arange(start, start + batch.num_rows, dtype=np.int64))
        start += batch.num_rows
        yield pa.RecordBatch.from_arrays([*batch.columns, order], schema=schema)


def _state_of(table: str, file: DataFile, position: int, schema: pa.Schema) -> pa.Table:
    """Reads what decides of one data file; a column it lacks is null."""
    path = storage.join(table, file.path)

    def read(source: pa.NativeFile) -> pa.Table:
        opened = pq.ParquetFile(source, page_checksum_verification=True)
        there = set(opened.schema_arrow.names)
        return opened.read([column for column in schema.names if column in there])

    rows = read_data_file(path, read)
    there = set(rows.column_names)
    made = {
        FILE: pa.repeat(pa.scalar(position, pa.int32()), rows.num_rows),
        ROW: pa.array(np.arange(rows.num_rows, dtype=np.int64)),
    }
    columns = [
        rows[field.name].cast(field.type)
        if field.name in there
        else made.get(field.name, pa.nulls(rows.num_rows, field.type))
        for field in schema
    ]
    return pa.table(columns, schema=schema)

"""What is to be done to an index so that it holds what its table holds now.

Only data files that came since are read, and of the table's other rows at most the ids. A row that
merely lies in another file, as after Delta's OPTIMIZE, has not changed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from jobs.arrow_stream import streamed
from jobs.index_source import Source, read_files
from jobs.table import DataFile
from schemas.enriched import IMAGE_ID
from schemas.errors import TableError
from schemas.index import DIGEST

SCHEMA = pa.schema([(IMAGE_ID, pa.string()), (DIGEST, pa.int64())])
IDS = pa.schema([(IMAGE_ID, pa.string())])


@dataclass(frozen=True)
class Changes:
    """Rows by image_id.

    Args:
        new: to be added.
        changed: to be replaced.
        removed: to be deleted.
        files: of the table that hold the first two.
    """

    new: pa.Array
    changed: pa.Array
    removed: pa.Array
    files: tuple[DataFile, ...]

    @property
    def written(self) -> pa.Array:
        """Rows that come from the table."""
        return pa.concat_arrays([self.new, self.changed])

    @property
    def count(self) -> int:
        """Rows that differ."""
        return len(self.new) + len(self.changed) + len(self.removed)


def compare(
    source: Source, files: Sequence[str] | None, known: Iterator[pa.RecordBatch]
) -> Changes:
    """Compares a table with what an index knows of it.

    Args:
        source: the table.
        files: that the index has taken in; None when they were of another table at its place.
        known: image_id and digest of all rows of the index.

    Raises:
        TableError: an image_id is more than once in the new files.
    """
    now = source.table.files
    taken = frozenset(files or ())
    came = tuple(file for file in now if file.path not in taken)
    stayed = tuple(file for file in now if file.path in taken)
    has_lost_files = files is None or len(stayed) < len(taken)
    if not came and not has_lost_files:
        none = pa.array([], pa.string())
        return Changes(none, none, none, ())
    with duckdb.connect(":memory:") as database:
        _load(database, "known", SCHEMA, known)
        _load(database, "seen", SCHEMA, _batches(source.digests(came)))
        ids = read_files(source.table, stayed if has_lost_files else (), [IMAGE_ID])
        _load(database, "stayed", IDS, _batches(ids))
        _refuse_doubles(database, source, "seen")
        join = f"SELECT s.{IMAGE_ID} FROM seen s LEFT JOIN known k USING ({IMAGE_ID}) WHERE "
        new = _ids(database, f"{join} k.{DIGEST} IS NULL")
        changed = _ids(database, f"{join} k.{DIGEST} <> s.{DIGEST}")
        gone = f"SELECT {IMAGE_ID} FROM known ANTI JOIN seen USING ({IMAGE_ID})"
        gone += f" ANTI JOIN stayed USING ({IMAGE_ID})" if has_lost_files else " WHERE false"
        return Changes(new, changed, _ids(database, gone), came)


def refuse_doubles(source: Source, known: Iterator[pa.RecordBatch]) -> None:
    """Raises TableError when an image_id is more than once in an index of a table.

    Args:
        source: the table.
        known: as in `compare`.
    """
    with duckdb.connect(":memory:") as database:
        _load(database, "known", SCHEMA, known)
        _refuse_doubles(database, source, "known")


def _load(
    database: duckdb.DuckDBPyConnection,
    name: str,
    schema: pa.Schema,
    batches: Iterator[pa.RecordBatch],
) -> None:
    with streamed(schema, batches) as reader:
        database.register("incoming", reader)
        database.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming")
    database.unregister("incoming")


def _batches(tables: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
    for table in tables:
        yield from table.to_batches()


def _ids(database: duckdb.DuckDBPyConnection, query: str) -> pa.Array:
    return database.sql(query).to_arrow_table()[IMAGE_ID].combine_chunks()


def _refuse_doubles(database: duckdb.DuckDBPyConnection, source: Source, rows: str) -> None:
    query = f"SELECT {IMAGE_ID} FROM {rows} GROUP BY 1 HAVING count(*) > 1 LIMIT 1"
    twice = database.execute(query).fetchall()
    if twice:
        raise TableError(
            f"{source.table.path}: image_id {twice[0][0]!r} is in the table more than once; "
            "another writer did that; delete the rows that should not be there"
        )

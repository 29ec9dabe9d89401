"""The rows of a table that are exported, streamed, with their pictures where these are needed."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs import storage
from jobs.pictures import fetch_all
from jobs.roles import Roles
from jobs.table import Table
from operators.fetcher import Fetched, Fetcher
from operators.images import name_ending
from operators.policy import Place
from schemas.enriched import ERROR, IMAGE_ID, URI
from schemas.errors import ConfigError, RowFault

BATCH_ROWS = 10_000
PICTURES = 16  # fetched at once, and held in memory


@dataclass(frozen=True)
class Failed:
    """A row that is left out because its picture cannot be had.

    Args:
        image_id: of the row.
        uri: of the picture.
        code: as in the column `error`.
        message: for people.
    """

    image_id: str
    uri: str | None
    code: str
    message: str


@dataclass
class Selection:
    """Rows of a table.

    Args:
        table: opened.
        roles: of its columns.
        fetcher: of its pictures.
        where: a SQL condition over the columns; None for all rows.
        limit: of rows; None for all.
        with_errors: whether rows with an error count.
        failed: rows left out so far.
    """

    table: Table
    roles: Roles
    fetcher: Fetcher
    where: str | None = None
    limit: int | None = None
    with_errors: bool = False
    failed: list[Failed] = field(default_factory=list)

    def check(self) -> None:
        """Raises ConfigError where the condition is none."""
        with duckdb.connect() as database:
            self._chosen(database, self.table.schema.empty_table())

    def of_all_rows(self) -> "Selection":
        """All rows of the table, for what must not depend on which are chosen."""
        return replace(self, where=None, limit=None, with_errors=True)

    @cached_property
    def columns(self) -> list[str]:
        """All columns of the table."""
        return list(self.table.schema.names)

    @property
    def plain_columns(self) -> list[str]:
        """The columns that can be told as JSON: all but vectors and keys."""
        return [
            one.name
            for one in self.table.schema
            if not one.name.endswith("_key") and not _is_vector(one.type)
        ]

    def schema(self, columns: Sequence[str]) -> pa.Schema:
        """The types of columns."""
        return pa.schema([self.table.schema.field(name) for name in columns])

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Streams the rows, in the order of the table's files.

        Files are read one after the other and not ahead: a scan of pyarrow's that is not read to
        its end, as with a limit, can keep the process from ending.

        Raises:
            ConfigError: the condition fails on a row.
        """
        left = math.inf if self.limit is None else self.limit
        asked = (self.where or "").lower()
        named = [name for name in self.columns if name.lower() in asked]
        schema = self.schema(list(dict.fromkeys([*columns, *named, ERROR])))
        with duckdb.connect() as database:
            database.execute("SET TimeZone = 'UTC'")
            for rows in self._stored(schema):
                chosen = self._chosen(database, rows).select(columns)
                chosen = chosen.slice(0, int(min(left, chosen.num_rows)))
                left -= chosen.num_rows
                if chosen.num_rows:
                    yield chosen.cast(self.schema(columns))
                if left == 0:
                    return

    def with_pictures(self, columns: Sequence[str]) -> Iterator[tuple[pa.Table, list[Fetched]]]:
        """Streams the rows whose picture can be had, a few at once, with their pictures."""
        wanted = list(dict.fromkeys([*columns, IMAGE_ID, URI]))
        for batch in self.batches(wanted):
            for first in range(0, batch.num_rows, PICTURES):
                rows = batch.slice(first, PICTURES)
                found = self.fetch(rows.select([IMAGE_ID, URI]).to_pylist())
                kept = rows.filter(pa.array([image is not None for image in found]))
                yield kept.select(columns), [image for image in found if image is not None]

    def fetch(self, rows: Sequence[Mapping[str, Any]]) -> list[Fetched | None]:
        """Fetches the pictures of rows; notes those that cannot be had."""
        found: list[Fetched | None] = []
        images = fetch_all(self.fetcher, [row[URI] for row in rows])
        for row, image in zip(rows, images, strict=True):
            if isinstance(image, RowFault):
                self._note(row, image)
            found.append(None if isinstance(image, RowFault) else image)
        return found

    def place(self, row: Mapping[str, Any]) -> Place | None:
        """Where the picture of a row lies; notes a place that is not allowed."""
        try:
            return self.fetcher.policy.place(row[URI])
        except RowFault as fault:
            self._note(row, fault)
            return None

    def _note(self, row: Mapping[str, Any], fault: RowFault) -> None:
        self.failed.append(Failed(row[IMAGE_ID], row[URI], fault.code, fault.message))

    def _stored(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """Columns of all rows; nulls where a file lacks one."""
        for file in self.table.files:
            path = storage.join(self.table.path, file.path)
            filesystem = storage.arrow_filesystem(path)
            with pq.ParquetFile(storage.inner_path(path), filesystem=filesystem) as opened:
                present = [name for name in schema.names if name in opened.schema_arrow.names]
                for batch in opened.iter_batches(BATCH_ROWS, columns=present, use_threads=False):
                    columns = [
                        batch[field.name].cast(field.type)
                        if field.name in present
                        else pa.nulls(batch.num_rows, field.type)
                        for field in schema
                    ]
                    yield pa.table(columns, schema=schema)

    def _chosen(self, database: duckdb.DuckDBPyConnection, rows: pa.Table) -> pa.Table:
        if not self.with_errors:
            rows = rows.filter(pc.is_null(rows[ERROR]))
        if self.where is None:
            return rows
        try:
            found: pa.Table = database.from_arrow(rows).filter(self.where).to_arrow_table()
        except duckdb.Error as error:
            raise self._fault(error) from error
        return found

    def _fault(self, error: Exception) -> ConfigError:
        told = str(error).strip().splitlines()[0]
        where = "" if self.where is None else f"--where {self.where!r}: "
        names = ", ".join(self.columns)
        return ConfigError(f"{where}{told}; give a SQL condition over the columns {names}")


def save_picture(image: Fetched, folder: Path, number: int) -> str:
    """Writes the bytes of a picture as they are; returns the name of the file."""
    encoded = image.encoded or b""
    name = f"{number:09d}{name_ending(encoded)}"
    (folder / name).write_bytes(encoded)
    return name


def as_json(value: Any) -> str:
    """Writes JSON on one line; what JSON has no word for is null or text."""
    return json.dumps(_finite(value), ensure_ascii=False, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def _is_vector(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and pa.types.is_floating(kind.value_type))

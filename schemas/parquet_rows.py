"""The rows of a Parquet file from anywhere, in batches that fit into memory.

A few bytes can ask for much: a page of gigabytes of one letter, a long text that a dictionary
repeats in every row, a list of billions of values in one row. The heads of the pages are read
first, and batches are made as small as what they allow to happen asks for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.parquet_pages import Chunk, Page, PageReader, RowGroup, row_groups

BATCH_ROWS = 65_536
BATCH_BYTES = 16 << 20  # of a batch of rows, unpacked
PAGE_BYTES = 128 << 20  # of one page, unpacked; writers make pages of 1 MB
PAGES_BYTES = 256 << 20  # of a page of every column, which the reader holds at once, and
PAGES_RATIO = 100  # times their packed bytes: where both are passed, it is a bomb
LIST_BYTES = 256 << 20  # of a column's lists in a row group, unpacked, and
LIST_RATIO = 500  # times their packed bytes: likewise
LEVEL_BYTES = 8  # beside each value in a list: two levels and an offset
DICTIONARY_RATIO = 20  # what texts in lists may unpack to, in places in their dictionary
SHARED = 3  # texts that share beginnings are feared that much less than what they could be
ROWS_PER_BYTE = 64  # of a file; ids and uris that differ take more than that
FREE_ROWS = 1_000_000  # which any file may have
_TEXT = "BYTE_ARRAY"
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, _TEXT: 4}


def read_batches(filesystem: Any, inner: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Streams the rows of a file in batches that unpack to about `BATCH_BYTES` at most.

    Args:
        filesystem: pyarrow's.
        inner: the file's name there.
        schema: its own.

    Raises:
        ArrowInvalid: a page or a list is too large, there are more rows than the file can hold, or
            a page's head cannot be read; names the row group and the column.
    """
    with filesystem.open_input_file(inner) as source:
        metadata = pq.read_metadata(source)
        _check_rows(metadata.num_rows, source.size())
        columns = [metadata.schema.column(at) for at in range(metadata.num_columns)]
        listed = [
            at
            for at, column in enumerate(columns)
            if column.max_repetition_level and column.physical_type == _TEXT
        ]
        with pq.ParquetFile(source, metadata=metadata, read_dictionary=listed) as opened:
            for groups, rows in _runs(source, columns, is_alone=bool(listed)):
                for batch in opened.iter_batches(rows, row_groups=groups):
                    yield _spelled_out(batch, schema) if listed else batch


def spelled_bytes(values: pa.Array) -> int:
    """How many bytes the texts take, spelled out, that dictionaries in an array stand for."""
    if isinstance(values, pa.ExtensionArray):
        return spelled_bytes(values.storage)
    if pa.types.is_dictionary(values.type):
        if not _is_written(values.dictionary.type):
            return 0
        lengths = pc.binary_length(values.dictionary).cast(pa.int64())
        return int(pc.sum(lengths.take(values.indices)).as_py() or 0)
    if pa.types.is_struct(values.type):
        return sum(map(spelled_bytes, values.flatten()))
    return spelled_bytes(values.flatten()) if hasattr(values.type, "value_field") else 0


def _is_written(kind: pa.DataType) -> bool:
    """Whether values are texts or bytes, of any length."""
    types = pa.types
    is_large = types.is_large_string(kind) or types.is_large_binary(kind)
    return bool(is_large or types.is_string(kind) or types.is_binary(kind))


def _spelled_out(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with texts in lists as texts."""
    columns = []
    for column, field in zip(batch.columns, schema, strict=True):
        if column.type == field.type:
            columns.append(column)
            continue
        found = spelled_bytes(column)
        if found > LIST_BYTES and found > DICTIONARY_RATIO * column.nbytes:
            raise pa.ArrowInvalid(
                f"column {field.name!r}: texts in lists unpack to {found} bytes in "
                f"{batch.num_rows} rows; refused"
            )
        columns.append(column.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def most_rows(size: int) -> int:
    """How many rows a file of so many bytes can mean."""
    return max(FREE_ROWS, ROWS_PER_BYTE * size)


def _check_rows(rows: int, size: int) -> None:
    if rows > most_rows(size):
        raise pa.ArrowInvalid(
            f"{rows} rows in {size} bytes: no manifest of different images is so small; refused"
        )


def _runs(source: Any, columns: list[Any], *, is_alone: bool) -> Iterator[tuple[list[int], int]]:
    """Row groups that are read together, and in batches of how many rows.

    Each alone where lists come as dictionaries, of which a row group has its own.
    """
    groups: list[int] = []
    rows, held, weight = BATCH_ROWS, 0, 0.0
    reader = PageReader(source)
    for number, group in enumerate(_groups(source, len(columns))):
        loads = _loads(reader, group, columns, number)
        rows = min(rows, _batch_rows(loads))
        groups.append(number)
        held += group.rows
        weight += _weight(loads, min(group.rows, BATCH_ROWS))
        if is_alone or held >= BATCH_ROWS or weight >= BATCH_BYTES:
            yield groups, rows
            groups, rows, held, weight = [], BATCH_ROWS, 0, 0.0
    if groups:
        yield groups, rows


@dataclass
class _Load:
    """What a column's values in a row group weigh at most.

    Args:
        largest: page.
        longest: bytes of the longest text in the dictionary.
        repeated: values that the dictionary stands for.
        density: bytes a row in what is written out.
    """

    largest: Page
    longest: int = 0
    repeated: int = 0
    density: float = 0.0


def _weight(loads: list[_Load], rows: int) -> float:
    """Bytes of so many rows, at most."""
    return sum(one.longest * min(rows, one.repeated) + one.density * rows for one in loads)


def _batch_rows(loads: list[_Load]) -> int:
    """How many rows stay within `BATCH_BYTES`; at least one."""
    rows = BATCH_ROWS
    while rows > 1 and _weight(loads, rows) > BATCH_BYTES:
        rows //= 2
    return rows


def _groups(source: Any, columns: int) -> Iterator[RowGroup]:
    try:
        for group in row_groups(source):
            if len(group.chunks) != columns:
                raise ValueError(f"{len(group.chunks)} columns instead of {columns}")
            yield group
    except (IndexError, ValueError) as error:
        raise pa.ArrowInvalid(f"its footer is damaged ({error})") from error


def _loads(reader: PageReader, group: RowGroup, columns: list[Any], number: int) -> list[_Load]:
    loads = []
    for chunk, column in zip(group.chunks, columns, strict=True):
        try:
            load = _load(reader, chunk, column, group.rows)
        except (IndexError, ValueError) as error:  # Arrow's own are ValueErrors too
            is_told = isinstance(error, pa.ArrowInvalid)
            found = str(error) if is_told else f"a page's head is damaged ({error})"
            raise pa.ArrowInvalid(f"row group {number}, column {column.path!r}: {found}") from error
        if load:
            loads.append(load)
    unpacked = sum(load.largest.unpacked for load in loads)
    packed = sum(load.largest.packed for load in loads)
    if unpacked > PAGES_BYTES and unpacked > PAGES_RATIO * packed:
        raise pa.ArrowInvalid(
            f"row group {number}: {packed} bytes in pages of {len(loads)} columns unpack to "
            f"{unpacked} at once; refused"
        )
    return loads


def _load(reader: PageReader, chunk: Chunk, column: Any, rows: int) -> _Load | None:
    """What a column in a row group weighs; None where it has no pages."""
    load: _Load | None = None
    values = 0
    for page in reader.pages(chunk):
        if page.unpacked > PAGE_BYTES:
            raise pa.ArrowInvalid(
                f"a page unpacks to {page.unpacked} bytes; at most {PAGE_BYTES} are read: "
                "write shorter texts, or smaller pages"
            )
        load = load or _Load(page)
        load.largest = max(load.largest, page, key=lambda one: one.unpacked)
        values += 0 if page.is_dictionary else page.values
        if column.physical_type == _TEXT and not column.max_repetition_level:
            _weigh_texts(load, page, reader, chunk.codec)
    width = _WIDTHS.get(column.physical_type, column.length)
    if load and column.max_repetition_level:
        load.density = _bytes_of_lists(width, values, chunk.packed) / max(1, rows)
    elif load and column.physical_type != _TEXT:
        load.density = width
    return load


def _bytes_of_lists(width: int, values: int, packed: int) -> int:
    """What all lists of a column in a row group unpack to, for all may be in one row.

    Texts are read as places in their dictionary.
    """
    total = (width + LEVEL_BYTES) * values
    if total > LIST_BYTES and total > LIST_RATIO * packed:
        raise pa.ArrowInvalid(f"lists of {values} values in {packed} bytes; refused")
    return total


def _weigh_texts(load: _Load, page: Page, reader: PageReader, codec: int) -> None:
    if page.is_dictionary:
        load.longest = max(load.longest, reader.longest_text(page, codec))
    elif page.needs_dictionary:
        load.repeated += page.values
    else:
        share = SHARED if page.shares_beginnings else max(1, page.values)
        load.density = max(load.density, page.unpacked / share)

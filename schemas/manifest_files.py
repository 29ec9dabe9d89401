"""The files of a manifest: where they are, in any store, and how what is in them is read."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.json as pajson
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError

from schemas.errors import ManifestError
from schemas.parquet_rows import most_rows, read_batches, spelled_bytes

Format = Literal["parquet", "csv", "jsonl"]
FORMATS: Mapping[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
CSV_BLOCK_BYTES = 1 << 20  # Arrow's own; a header must fit into it
QUOTED = re.compile(rb'"[^"]*"')
BRACKETS = re.compile(rb"[\[\]{}]")
KEY = re.compile(rb'"([^"]*)"[ \t]*:')
COMPRESSIONS = (".gz", ".zst", ".bz2")  # of CSV and JSONL
GLOB_SIGNS = frozenset("*?[")
MOST_COLUMNS = 2_000
MOST_KEYS = 50_000  # of a line of JSON, those of structs in its lists too
MOST_CELLS = 30_000_000  # lines times keys of a block of JSON, for each key is a column to Arrow
JSON_BLOCK_CELLS = 8_000_000  # that many may be in a block whose lines are empty
LEAST_JSON_BLOCK = 128 << 10  # bytes
MOST_UNPACKED = 200  # times its bytes a file may unpack to, or
FREE_UNPACKED = 100 << 20  # bytes, or
ROW_UNPACKED = 4096  # bytes a row on average: a long prompt in every row
DEEPEST = 1_000  # lists and structs in each other in one line; Arrow's parser recurses into them
JSON_BLOCK_BYTES = 16 << 20  # types are told from the first block; also the longest line
STORE_ERRORS = (OSError, BotoCoreError)  # what a store answers, or that it does not
READ_ERRORS = (  # and its files; the last come of extension types that others have registered
    *STORE_ERRORS,
    pa.ArrowException,
    RecursionError,
    ValueError,
    TypeError,
    KeyError,
)


def find_files(path: str, filesystem: Any) -> dict[str, Any]:
    """The files meant by a path, by their inner name, sorted; hidden ones and `_…` left out."""
    inner = path.partition("://")[2] if "://" in path else path
    try:
        if filesystem.isfile(inner):
            return {inner: filesystem.info(inner)}
        if GLOB_SIGNS & set(inner):
            found = filesystem.glob(inner, detail=True)
            found = {name: info for name, info in found.items() if info["type"] == "file"}
            if inner.rpartition("/")[2][:1] in GLOB_SIGNS:  # as in a shell; `_a*` asks for them
                found = {name: info for name, info in found.items() if not _is_hidden(name)}
        else:
            found = _visible(inner, filesystem.find(inner, detail=True))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ManifestError(f"{path}: no such manifest; give a file, a folder or a glob") from error
    except ValueError as error:
        raise ManifestError(
            f"{path}: cannot be listed: {error}; give a file, a folder or a glob"
        ) from error
    except STORE_ERRORS as error:
        raise ManifestError(f"{path}: the manifest cannot be listed: {error}") from error
    known = {name: info for name, info in sorted(found.items()) if format_of(name)}
    if not known:
        there = f"it holds {', '.join(sorted(found)[:3])}" if found else "nothing is there"
        raise ManifestError(f"{path}: no manifest file, {there}; files end in {', '.join(FORMATS)}")
    return known


def _visible(folder: str, found: dict[str, Any]) -> dict[str, Any]:
    def is_visible(name: str) -> bool:
        below = name.removeprefix(folder).strip("/").split("/")
        return not any(map(_is_hidden, below))

    return {name: info for name, info in found.items() if is_visible(name)}


def _is_hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(("_", "."))


def format_of(name: str) -> Format | None:
    """Which format a file's name tells; None when it tells none."""
    base = name.rpartition("/")[2].lower()
    for compression in COMPRESSIONS:
        if base.endswith(compression):
            base = base.removesuffix(compression)
            break
    for ending, kind in FORMATS.items():
        if base.endswith(ending):
            return kind
    return None


def check_one_format(path: str, formats: Sequence[Format | None]) -> None:
    """Raises ManifestError when files are of no known format or of several."""
    if None in formats:
        raise ManifestError(f"{path}: the name must end in one of {', '.join(FORMATS)}")
    if len(set(formats)) > 1:
        kinds = ", ".join(sorted({str(kind) for kind in formats}))
        raise ManifestError(f"{path}: mixes {kinds}; give a glob that matches one of them")


def stored_schema(kind: Format, inner: str, filesystem: Any) -> pa.Schema:
    """The columns of a file with the types they are read as."""
    arrow = arrow_filesystem(filesystem)
    if kind == "parquet":
        return pq.read_schema(inner, filesystem=arrow).remove_metadata()
    with arrow.open_input_stream(inner) as stream:
        block = stream.read(JSON_BLOCK_BYTES if kind == "jsonl" else CSV_BLOCK_BYTES)
        (_check_lines if kind == "jsonl" else _check_header)(block)
    with arrow.open_input_stream(inner) as stream:
        found = _text_reader(kind, stream, None).schema
    if kind == "csv":
        return pa.schema([(name, pa.string()) for name in found.names])
    return pa.schema([(field.name, _told_by_json(field.type)) for field in found])


def stored_batches(
    kind: Format,
    inner: str,
    filesystem: Any,
    schema: pa.Schema,
    *,
    row_bytes: int = ROW_UNPACKED,
) -> Iterator[pa.RecordBatch]:
    """Streams the rows of a file.

    Args:
        kind: its format.
        inner: its name.
        filesystem: that holds it.
        schema: of the rows, as `stored_schema` gives it; text is held to it.
        row_bytes: that a row may unpack to on average, though its file is small.

    Raises:
        ArrowInvalid: the file is damaged, or unpacks to too much.
    """
    arrow = arrow_filesystem(filesystem)
    size = arrow.get_file_info(inner).size or 0
    if kind == "parquet":
        yield from _bounded(read_batches(arrow, inner, schema), size, row_bytes)
        return
    with arrow.open_input_stream(inner) as stream:
        yield from _bounded(_text_reader(kind, stream, schema), size, row_bytes)


def _bounded(
    batches: Iterable[pa.RecordBatch], size: int, row_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Passes on the batches of a file of `size` bytes until they are more than it can mean.

    An ordinary file may unpack to hundreds of times its bytes: uris that count up, and one text in
    every row.
    """
    rows = unpacked = 0
    for batch in batches:
        rows += batch.num_rows
        unpacked += batch.nbytes + sum(map(spelled_bytes, batch.columns))
        fair = row_bytes * min(rows, most_rows(size))
        if unpacked > max(FREE_UNPACKED, MOST_UNPACKED * size, fair):
            raise pa.ArrowInvalid(
                f"{size} bytes unpack to {unpacked} in {rows} rows, as no manifest does; refused: "
                "leave out a column that repeats long texts"
            )
        yield batch


def stored_tables(path: str, filesystem: Any) -> Iterator[tuple[str, pa.Table]]:
    """Reads the files meant by a path whole, one by one, with their inner names; empty ones not.

    Raises:
        ManifestError: nothing is there, or a file cannot be read.
    """
    found = [inner for inner, told in find_files(path, filesystem).items() if told["size"]]
    check_one_format(path, [format_of(name) for name in found])
    for inner in found:
        kind = format_of(inner)
        assert kind is not None  # checked by check_one_format
        try:
            schema = stored_schema(kind, inner, filesystem)
            batches = stored_batches(kind, inner, filesystem, schema, row_bytes=0)  # all are held
            yield inner, pa.Table.from_batches(batches, schema)
        except READ_ERRORS as error:
            raise ManifestError(f"{inner}: cannot be read as {kind}: {error}") from error


def arrow_filesystem(filesystem: Any) -> Any:
    """The filesystem for pyarrow's readers.

    Locally its own: a reader of text that has failed may read ahead still while the process ends,
    which aborts it when the reading is Python's.
    """
    if "file" in filesystem.protocol:
        return pafs.LocalFileSystem()
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem))


def _check_header(block: bytes) -> None:
    """Refuses a CSV of so many columns that Arrow would take minutes to find their types."""
    commas = QUOTED.sub(b"", block.partition(b"\n")[0]).count(b",")
    if commas >= MOST_COLUMNS:
        raise pa.ArrowInvalid(f"{commas + 1} columns; at most {MOST_COLUMNS} are read")


def _check_lines(block: bytes) -> None:
    """Refuses lines nested so deeply that Arrow's parser would run out of stack, or of many keys.

    Only the block that types are told from matters: held to types, the parser stops by itself.

    Raises:
        ArrowInvalid: names the line.
    """
    lines = block.split(b"\n")
    keys = len(set(KEY.findall(block)))
    if len(lines) * keys > MOST_CELLS:
        raise pa.ArrowInvalid(
            f"the first {len(lines)} lines have {keys} keys; at most {MOST_CELLS} values are read "
            "at once: leave keys out, or put them into a text"
        )
    for number, line in enumerate(lines, 1):
        keys = line.count(b'":')
        if keys > MOST_KEYS:
            raise pa.ArrowInvalid(f"line {number} has {keys} keys; at most {MOST_KEYS} are read")
        if line.count(b"[") + line.count(b"{") <= DEEPEST:
            continue
        depth = 0
        for sign in BRACKETS.finditer(line):
            depth += 1 if sign[0] in b"[{" else -1
            if depth > DEEPEST:
                raise pa.ArrowInvalid(f"line {number} is nested more than {DEEPEST} deep")


def _told_by_json(kind: pa.DataType) -> pa.DataType:
    """JSON knows no times: what looks like one is text, also inside of structs and lists."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_told_by_json(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(_told_by_json(kind.value_type))
    return pa.string() if pa.types.is_timestamp(kind) or pa.types.is_null(kind) else kind


def _text_reader(kind: Format, stream: Any, schema: pa.Schema | None) -> Any:
    """A streaming reader of CSV or JSONL, held to `schema` when given."""
    if kind == "csv":
        options = pacsv.ConvertOptions(
            column_types=schema,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        lines = pacsv.ParseOptions(newlines_in_values=True)
        return pacsv.open_csv(stream, convert_options=options, parse_options=lines)
    cells = _leaves(schema) if schema else 1
    block = min(JSON_BLOCK_BYTES, max(LEAST_JSON_BLOCK, 3 * JSON_BLOCK_CELLS // cells))
    return pajson.open_json(
        stream,
        read_options=pajson.ReadOptions(block_size=block),
        parse_options=pajson.ParseOptions(
            explicit_schema=schema, unexpected_field_behavior="error" if schema else "infer"
        ),
    )


def _leaves(kind: Any) -> int:
    """How many columns of values there are in a schema, those of structs one by one."""
    if isinstance(kind, pa.Schema) or pa.types.is_struct(kind):
        return sum(_leaves(field.type) for field in kind)
    return _leaves(kind.value_type) if pa.types.is_list(kind) else 1

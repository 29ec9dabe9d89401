"""The files of a manifest: where they are, in any store, and how what is in them is read."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.json as pajson
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError

from schemas.errors import ManifestError

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
COMPRESSIONS = (".gz", ".zst", ".bz2")  # of CSV and JSONL
GLOB_SIGNS = frozenset("*?[")
BATCH_ROWS = 65_536
MOST_COLUMNS = 2_000
MOST_KEYS = 50_000  # of a line of JSON, those of structs in its lists too
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
        (_check_depth if kind == "jsonl" else _check_header)(block)
    with arrow.open_input_stream(inner) as stream:
        found = _text_reader(kind, stream, None).schema
    if kind == "csv":
        return pa.schema([(name, pa.string()) for name in found.names])
    return pa.schema([(field.name, _told_by_json(field.type)) for field in found])


def stored_batches(
    kind: Format, inner: str, filesystem: Any, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Streams the rows of a file; text is held to `schema`, as `stored_schema` gives it."""
    arrow = arrow_filesystem(filesystem)
    if kind == "parquet":
        with pq.ParquetFile(inner, filesystem=arrow) as opened:
            yield from opened.iter_batches(BATCH_ROWS)
        return
    with arrow.open_input_stream(inner) as stream:
        yield from _text_reader(kind, stream, schema)


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
            batches = stored_batches(kind, inner, filesystem, schema)
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


def _check_depth(block: bytes) -> None:
    """Refuses lines nested so deeply that Arrow's parser would run out of stack, or of many keys.

    Only the block that types are told from matters: held to types, the parser stops by itself.

    Raises:
        ArrowInvalid: names the line.
    """
    for number, line in enumerate(block.split(b"\n"), 1):
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
    return pajson.open_json(
        stream,
        read_options=pajson.ReadOptions(block_size=JSON_BLOCK_BYTES),
        parse_options=pajson.ParseOptions(
            explicit_schema=schema, unexpected_field_behavior="error" if schema else "infer"
        ),
    )

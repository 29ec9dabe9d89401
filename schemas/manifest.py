"""The manifest: which images there are, by a stable id, and what is known of each.

A file, a folder or a glob of Parquet, CSV or JSONL with the columns `image_id` and `uri`; all other
columns are carried into the table. Rows are streamed: nothing here holds a list of them.
Types are those that every reader of Delta tables knows. CSV has no types: its columns are text.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.enriched import IMAGE_ID, URI
from schemas.errors import ManifestError
from schemas.manifest_files import (
    MOST_COLUMNS,
    READ_ERRORS,
    Format,
    check_one_format,
    find_files,
    format_of,
    stored_batches,
    stored_schema,
)
from schemas.plain_types import is_text, plain_type, value_type

OPEN_THREADS = 16
MOST_TEXT_BYTES = 16 << 20  # of one value; also the longest line of JSON
COLUMN_NAME = re.compile(r"[^ ,;{}()\n\t=]+")  # what Delta allows without column mapping
INSIDE_PREFIX = "_tagline"  # of columns that a plan adds for itself


@dataclass(frozen=True)
class ManifestFile:
    """One file of a manifest.

    Args:
        path: as messages show it.
        inner: as its filesystem spells it.
        format: told by the name.
        version: ETag, or size and modification time; changes with the content.
        stored: its own columns, after renaming.
        schema: of the rows as `batches` gives them.
    """

    path: str
    inner: str
    format: Format
    version: str
    stored: pa.Schema
    schema: pa.Schema


@dataclass(frozen=True)
class Manifest:
    """An opened manifest; its schemas are read and agree, its rows are not read yet.

    Args:
        path: as the config gives it.
        files: sorted by path; later files win over earlier ones.
        schema: `image_id` and `uri` as strings, then the other columns.
        columns: our names to the files' names, where they differ.
        filesystem: the fsspec filesystem that holds the files.
    """

    path: str
    files: tuple[ManifestFile, ...]
    schema: pa.Schema
    columns: Mapping[str, str]
    filesystem: Any

    @classmethod
    def open(
        cls, path: str, columns: Mapping[str, str] | None = None, *, filesystem: Any
    ) -> "Manifest":
        """Finds the files of a manifest and checks that they agree.

        Args:
            path: absolute or `s3://`; a file, a folder or a glob.
            columns: our names to the files' names.
            filesystem: an fsspec filesystem that holds `path`.

        Raises:
            ManifestError: nothing is there, a file cannot be read, a column is missing or has a
                type that is not allowed, or two files differ in their columns.
        """
        columns = dict(columns or {})
        found = find_files(path, filesystem)
        check_one_format(path, [format_of(name) for name in found])
        with ThreadPoolExecutor(OPEN_THREADS) as pool:
            files = list(
                pool.map(
                    lambda item: _open(path, item[0], item[1], columns, filesystem), found.items()
                )
            )
        return cls(path, tuple(files), _agreed(files), columns, filesystem)

    @property
    def carried(self) -> list[str]:
        """The columns beside `image_id` and `uri`."""
        return [name for name in self.schema.names if name not in (IMAGE_ID, URI)]

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with any file's content, name or column mapping."""
        known = [[file.path, file.version] for file in self.files]
        text = json.dumps([known, sorted(self.columns.items())])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Streams all rows in order, in batches of `schema`.

        Raises:
            ManifestError: an id is null or empty, naming file and row (from 1, headers not
                counted); a value does not fit its column; or there are no rows at all.
        """
        rows = 0
        for file in self.files:
            for batch in _read(file, self):
                rows += batch.num_rows
                yield batch
        if not rows:
            raise ManifestError(f"{self.path}: the manifest has no rows; nothing could be enriched")


def _open(
    manifest: str, inner: str, info: Any, columns: Mapping[str, str], filesystem: Any
) -> ManifestFile:
    kind = format_of(inner)
    assert kind is not None  # checked by check_one_format
    path = f"s3://{inner}" if manifest.startswith("s3://") else inner
    version = str(info.get("ETag") or f"{info.get('size')}-{info.get('mtime')}").strip('"')
    try:
        stored = stored_schema(kind, inner, filesystem)
        if len(stored) > MOST_COLUMNS:
            found = f"{len(stored)} columns; at most {MOST_COLUMNS} are read"
            raise ManifestError(f"{path}: the file has {found}")
        renamed = _renamed(path, stored, columns)
        return ManifestFile(path, inner, kind, version, renamed, _plain_schema(path, renamed))
    except READ_ERRORS as error:  # names that are no text show only now
        if info.get("size") == 0 or "Empty" in str(error):
            raise ManifestError(f"{path}: the file is empty; it needs image_id and uri") from error
        raise ManifestError(f"{path}: cannot be read as {kind}: {error}") from error


def _renamed(path: str, stored: pa.Schema, columns: Mapping[str, str]) -> pa.Schema:
    """The file's columns under our names.

    Raises:
        ManifestError: a column is missing, doubled or has a name that a table cannot have.
    """
    there = ", ".join(stored.names)
    for ours, theirs in columns.items():
        if theirs not in stored.names:
            raise ManifestError(
                f"{path}: manifest.columns takes {ours!r} from {theirs!r}, which is not there; "
                f"it has {there}"
            )
    names: dict[str, str] = {}
    for ours, theirs in columns.items():
        if theirs in names:
            raise ManifestError(
                f"{path}: manifest.columns takes both {names[theirs]!r} and {ours!r} from "
                f"{theirs!r}; a column can be renamed once: write it twice into the file"
            )
        names[theirs] = ours
    fields = [field.with_name(names.get(field.name, field.name)) for field in stored]
    for name in (IMAGE_ID, URI):
        if name not in [field.name for field in fields]:
            raise ManifestError(
                f"{path}: no column {name!r}; it has {there}; "
                f"map it with manifest.columns: {{{name}: …}}"
            )
    _check_names(path, [field.name for field in fields])
    return pa.schema(fields)


def _check_names(path: str, names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if not COLUMN_NAME.fullmatch(name) or name.startswith(INSIDE_PREFIX):
            raise ManifestError(
                f"{path}: a table cannot have a column {name!r}; "
                "rename it with manifest.columns: {new_name: old_name}"
            )
        if name.lower() in seen:
            raise ManifestError(
                f"{path}: two columns are called {seen[name.lower()]!r} and {name!r}; "
                "names must differ in more than case"
            )
        seen[name.lower()] = name


def _plain_schema(path: str, stored: pa.Schema) -> pa.Schema:
    """`stored` in types that every Delta reader knows, `image_id` and `uri` first.

    Raises:
        ManifestError: a type is not allowed.
    """
    kind = value_type(stored.field(IMAGE_ID).type)
    if not (pa.types.is_integer(kind) or is_text(kind)):
        raise ManifestError(f"{path}: image_id is {kind}; it must be text or an integer")
    kind = value_type(stored.field(URI).type)
    if not (is_text(kind) or pa.types.is_null(kind)):
        raise ManifestError(f"{path}: uri is {kind}; it must be text")
    fields = [pa.field(IMAGE_ID, pa.string()), pa.field(URI, pa.string())]
    for field in stored:
        if field.name in (IMAGE_ID, URI):
            continue
        plain = plain_type(field.type)
        if plain is None:
            raise ManifestError(
                f"{path}: column {field.name!r} is {field.type}, which a Delta table cannot hold; "
                "write it as text, a number or a timestamp"
            )
        fields.append(pa.field(field.name, plain))
    return pa.schema(fields)


def _agreed(files: Sequence[ManifestFile]) -> pa.Schema:
    """The schema all files share; a column that is all null in a file fits any type.

    Raises:
        ManifestError: names the first two files that differ, and in what.
    """
    agreed: dict[str, tuple[ManifestFile, pa.Field]] = {}
    for file in files:
        for field in file.schema:
            stored = file.stored.field(field.name).type
            if field.name not in agreed or (
                pa.types.is_null(agreed[field.name][0].stored.field(field.name).type)
            ):
                agreed[field.name] = (file, field)
            first, known = agreed[field.name]
            if not pa.types.is_null(stored) and _differ(first, file, known, field):
                raise ManifestError(
                    f"{file.path}: column {field.name!r} is {stored}, but "
                    f"{first.stored.field(field.name).type} in {first.path}; "
                    "all files of a manifest must agree"
                )
    for file in files:
        missing = [name for name in agreed if name not in file.schema.names]
        if missing:
            raise ManifestError(
                f"{file.path}: no column {missing[0]!r}, which {agreed[missing[0]][0].path} has; "
                "all files of a manifest must agree"
            )
    return pa.schema([field for _, field in agreed.values()])


def _differ(first: ManifestFile, file: ManifestFile, known: pa.Field, field: pa.Field) -> bool:
    ours, theirs = (value_type(f.stored.field(field.name).type) for f in (first, file))
    return known.type != field.type or is_text(ours) != is_text(theirs)


def _read(file: ManifestFile, manifest: Manifest) -> Iterator[pa.RecordBatch]:
    """Streams one file as batches of the manifest's schema."""
    first_row = 1
    try:
        theirs = [
            field.with_name(manifest.columns.get(field.name, field.name)) for field in file.stored
        ]
        batches = stored_batches(file.format, file.inner, manifest.filesystem, pa.schema(theirs))
        for batch in batches:
            batch.validate(full=True)  # Parquet's reader takes any bytes for text
            yield from _converted(file, batch, manifest, first_row)
            first_row += batch.num_rows
    except READ_ERRORS as error:
        raise ManifestError(
            f"{file.path}: cannot be read as {file.format} after row {first_row - 1}: {error}"
        ) from error


def _converted(
    file: ManifestFile, batch: pa.RecordBatch, manifest: Manifest, first_row: int
) -> Iterator[pa.RecordBatch]:
    columns = []
    for field in manifest.schema:
        values = batch.column(manifest.columns.get(field.name, field.name))
        columns.append(_cast(file, field, values))
        _check_lengths(file, field, columns[-1], first_row)
    ids = columns[manifest.schema.get_field_index(IMAGE_ID)]
    is_bad = pc.fill_null(pc.equal(ids, ""), True)
    if pc.any(is_bad).as_py():
        at = pc.index(is_bad, True).as_py()
        found = "null" if not ids[at].is_valid else "empty"
        raise ManifestError(
            f"{file.path}: image_id is {found} in row {first_row + at}; every image needs one"
        )
    yield pa.RecordBatch.from_arrays(columns, schema=manifest.schema)


def _check_lengths(file: ManifestFile, field: pa.Field, values: pa.Array, first_row: int) -> None:
    is_written = pa.types.is_string(field.type) or pa.types.is_binary(field.type)
    if not is_written or values.nbytes <= MOST_TEXT_BYTES:
        return
    lengths = pc.binary_length(values)
    longest = pc.max(lengths).as_py()
    if longest > MOST_TEXT_BYTES:
        at = pc.index(lengths, longest).as_py()
        raise ManifestError(
            f"{file.path}: column {field.name!r} is {longest} bytes long in row {first_row + at}; "
            f"at most {MOST_TEXT_BYTES} are read: shorten it"
        )


def _cast(file: ManifestFile, field: pa.Field, values: pa.Array) -> pa.Array:
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    try:  # nanoseconds are dropped, wherever they are
        return values.cast(options=pc.CastOptions(field.type, allow_time_truncate=True))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ManifestError(
            f"{file.path}: column {field.name!r} cannot be read as {field.type}: {error}"
        ) from error

"""An enriched table seen as the rows of a search index: which rows, which columns, what they say.

A row is in the index when it has no error and an embedding of the version by which most of the
table's rows were computed. Its columns are the table's, without keys, vectors and lists of
alternatives; tags and hypotheses become the labels that hold.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs import storage
from jobs.records import read_description, read_model
from jobs.table import DataFile, Table, existing_table
from jobs.words import words_to_find
from operators.claims import sources_of
from schemas.enriched import (
    ALTERNATIVES_TYPE,
    ENRICHED_AT,
    ENRICHED_AT_TYPE,
    ERROR,
    HYPOTHESES_TYPE,
    IMAGE_ETAG,
    IMAGE_ID,
    VERDICTS_TYPE,
    key_column,
)
from schemas.errors import ConfigError, DatasetError, TableError
from schemas.index import DIGEST, INDEX_COLUMNS, VECTOR, WORDS, with_index_columns

BATCH_ROWS = 4096
VECTORS_TYPE = pa.list_(pa.float32())
LABELS_TYPE = pa.list_(pa.string())
HOLDS = "yes"  # the label of a hypothesis that holds


@dataclass(frozen=True)
class Source:
    """What of a table is to be found.

    Args:
        table: opened.
        column: of the vectors.
        key: of the embedder.
        description: what the key is made of; empty where the table does not say.
        model: where the embedder's model was, and `matcher` that of the table's matcher; None
            where the table does not say.
        copied: the columns of the table that the index has too, as they are there.
        captions: columns of sentences.
        labels: columns of labels.
        left_out: rows that are not to be found, by reason.
        rows: that are.
    """

    table: Table
    column: str
    key: str
    description: Mapping[str, Any]
    model: str | None
    matcher: str | None
    copied: tuple[str, ...]
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    left_out: Mapping[str, int]
    rows: int

    @property
    def compared(self) -> list[str]:
        """The columns that tell whether a row has changed: all but the vector, which has a key."""
        always = (ERROR, ENRICHED_AT, key_column(self.column))
        return list(dict.fromkeys([*self.copied, *always]))

    def schema(self, dimension: int) -> pa.Schema:
        """The columns of the index."""
        kinds = [(name, _stored_type(self.table.schema.field(name).type)) for name in self.copied]
        return with_index_columns(pa.schema(kinds), dimension)

    def digests(self, files: Sequence[DataFile]) -> Iterator[pa.Table]:
        """For every row of some files that is to be found: its id and what tells it has changed."""
        with duckdb.connect(":memory:") as database:
            for rows in self._rows(files, self.compared):
                yield pa.table({IMAGE_ID: rows[IMAGE_ID], DIGEST: _digests(database, rows)})

    def batches(
        self, files: Sequence[DataFile], schema: pa.Schema, only: pa.Array | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows of some files as the index holds them.

        Args:
            files: of the table.
            schema: as `schema` gives it.
            only: the image_ids that are wanted; None for all.

        Raises:
            TableError: a vector has another length than the others.
        """
        with duckdb.connect(":memory:") as database:
            for rows in self._rows(files, [*self.compared, self.column]):
                wanted = rows
                if only is not None:
                    wanted = rows.filter(pc.is_in(rows[IMAGE_ID], value_set=only))
                if wanted.num_rows:
                    yield from self._stored(database, wanted, schema).to_batches()

    def vectors(self) -> Iterator[pa.Table]:
        """The image_id and the vector of every row that is to be found, a batch at a time.

        Raises:
            TableError: a vector has another length than the others.
        """
        kind = pa.list_(pa.float32(), self.dimension())
        for rows in self._rows(self.table.files, [IMAGE_ID, ERROR, *self._vector_columns]):
            yield pa.table({IMAGE_ID: rows[IMAGE_ID], VECTOR: self._vectors(rows, kind)})

    def dimension(self) -> int:
        """How many numbers a vector has."""
        for rows in self._rows(self.table.files, [IMAGE_ID, ERROR, *self._vector_columns]):
            if rows.num_rows:
                return len(rows[self.column][0])
        raise DatasetError(f"{self.table.path}: no row to index: {told(self.left_out)}")

    @property
    def _vector_columns(self) -> tuple[str, str]:
        return key_column(self.column), self.column

    def _rows(self, files: Sequence[DataFile], columns: list[str]) -> Iterator[pa.Table]:
        """Reads files a batch at a time, without the rows that are not to be found."""
        for rows in read_files(self.table, files, columns):
            has_key = pc.fill_null(pc.equal(rows[key_column(self.column)], self.key), False)
            yield rows.filter(pc.and_(pc.is_null(rows[ERROR]), has_key))

    def _stored(
        self, database: duckdb.DuckDBPyConnection, rows: pa.Table, schema: pa.Schema
    ) -> pa.Table:
        columns = {name: _stored(rows[name]) for name in self.copied}
        columns[DIGEST] = _digests(database, rows.select(self.compared))
        columns[WORDS] = _words([columns[name] for name in self._worded()], rows.num_rows)
        columns[VECTOR] = self._vectors(rows, schema.field(VECTOR).type)
        return pa.table(columns).cast(schema)

    def _worded(self) -> list[str]:
        lists = [name for name in self.labels if self.table.schema.field(name).type != pa.string()]
        return [*self.captions, *lists]

    def _vectors(self, rows: pa.Table, kind: pa.DataType) -> pa.Array:
        vectors = rows[self.column].combine_chunks()
        lengths = pc.fill_null(pc.list_value_length(vectors), -1)
        wrong = pc.index_in(False, value_set=pc.equal(lengths, kind.list_size)).as_py()
        if wrong is not None:
            raise TableError(
                f"{self.table.path}: {self.column!r} of image_id {rows[IMAGE_ID][wrong].as_py()!r} "
                f"has {lengths[wrong].as_py()} numbers, others of the same key have "
                f"{kind.list_size}; enrich the table again"
            )
        return pa.FixedSizeListArray.from_arrays(vectors.flatten(), kind.list_size)


def open_source(path: str, column: str | None = None) -> Source:
    """Looks at a table and decides what of it is to be found.

    Args:
        path: of the table.
        column: of the vectors; None for the only one that an embedder wrote.

    Raises:
        ConfigError: there is no such column, or more than one and none was named.
        DatasetError: there is no table, or no row with an embedding.
        TableError: something else lies there.
    """
    table = existing_table(path)
    column = vector_column(table, column)
    counts, errors = _key_counts(table, column)
    left_out = {"with an error": errors, "not embedded": counts.pop(None, 0)}
    if not counts:
        raise DatasetError(
            f"{table.path}: no row to index, none has an embedding in {column!r}: "
            f"{told(left_out)}; mend the errors and run `tagline retry` or `tagline enrich`"
        )
    key = max(counts, key=lambda one: counts[one])
    rows = counts.pop(key)
    left_out["embedded by another version"] = sum(counts.values())
    answers = sources_of(table.schema, {})
    copied = _copied(table.schema, column)
    fields = [table.schema.field(name) for name in copied]
    listed = [field.name for field in fields if _stored_type(field.type) == LABELS_TYPE]
    told_apart = [one.column for one in answers if one.kind == "entailment"]
    return Source(
        table=table,
        column=column,
        key=str(key),
        description=read_description(table.path, str(key)),
        model=read_model(table.path, str(key)),
        matcher=_matcher(table),
        copied=copied,
        captions=tuple(one.column for one in answers if one.kind == "captioner"),
        labels=(*told_apart, *_accepted(table.schema), *listed),
        left_out={reason: count for reason, count in left_out.items() if count},
        rows=rows,
    )


def vector_columns(schema: pa.Schema) -> list[str]:
    """The columns of a table that embedders wrote."""
    return [
        field.name
        for field in schema
        if field.type == VECTORS_TYPE and key_column(field.name) in schema.names
    ]


def read_files(
    table: Table, files: Sequence[DataFile], columns: Sequence[str]
) -> Iterator[pa.Table]:
    """Reads data files of a table a batch at a time; a column that one lacks is null."""
    kinds = {ENRICHED_AT: ENRICHED_AT_TYPE, **{one.name: one.type for one in table.schema}}
    schema = pa.schema([(name, kinds[name]) for name in columns])
    for file in files:
        path = storage.join(table.path, file.path)
        arrow = storage.arrow_filesystem(path)
        try:
            with pq.ParquetFile(
                storage.inner_path(path), filesystem=arrow, page_checksum_verification=True
            ) as opened:
                there = [name for name in columns if name in opened.schema_arrow.names]
                for batch in opened.iter_batches(BATCH_ROWS, columns=there):
                    yield pa.table([_column(batch, field) for field in schema], schema=schema)
        except FileNotFoundError as error:
            raise TableError(
                f"{path}: a data file of the table is gone; see `tagline history` and `restore`"
            ) from error


def told(counts: Mapping[str, int]) -> str:
    """Rows by reason, in words."""
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count) or "none"


def _column(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    if field.name not in batch.schema.names:
        return pa.nulls(batch.num_rows, field.type)
    return batch[field.name].cast(field.type)


def vector_column(table: Table, column: str | None) -> str:
    """The column that an embedder wrote: the one named, or the only one.

    Raises:
        ConfigError: there is none such, or several and none is named.
    """
    there = vector_columns(table.schema)
    if column in there:
        return str(column)
    found = f"embedders wrote {', '.join(there)}" if there else "no embedder wrote any"
    if column is not None:
        raise ConfigError(f"{table.path}: --column {column!r} is not one of embeddings; {found}")
    if not there:
        raise ConfigError(
            f"{table.path}: no column of embeddings; add `embedding: {{use: embedder, model: …}}` "
            "to the job's operators and run `tagline enrich`"
        )
    if len(there) > 1:
        raise ConfigError(f"{table.path}: {found}; choose one with --column")
    return str(there[0])


def _key_counts(table: Table, column: str) -> tuple[dict[str | None, int], int]:
    """Healthy rows by their embedder's key, that of the newest first, and rows with an error."""
    name, found, errors = key_column(column), [], 0
    for rows in read_files(table, table.files, [name, ERROR, ENRICHED_AT]):
        healthy = rows.filter(pc.is_null(rows[ERROR]))
        errors += rows.num_rows - healthy.num_rows
        found.append(healthy.group_by(name).aggregate([([], "count_all"), (ENRICHED_AT, "max")]))
    if not found:
        return {}, errors
    counts = pa.concat_tables(found).group_by(name)
    rows = counts.aggregate([("count_all", "sum"), (f"{ENRICHED_AT}_max", "max")])
    newest = rows.sort_by([(f"{ENRICHED_AT}_max_max", "descending")])
    pairs = zip(newest[name].to_pylist(), newest["count_all_sum"].to_pylist(), strict=True)
    return dict(pairs), errors


def _matcher(table: Table) -> str | None:
    """Where the model of the table's matcher was."""
    matchers = [one.column for one in sources_of(table.schema, {}) if one.kind == "matcher"]
    for name in matchers:
        counts, _ = _key_counts(table, name)
        counts.pop(None, None)
        if counts:
            return read_model(table.path, str(max(counts, key=lambda one: counts[one])))
    return None


def _copied(schema: pa.Schema, vectors: str) -> tuple[str, ...]:
    """The columns that an index has too; bytes, and names that LanceDB cannot have, stay out."""
    operators = [name for name in schema.names if key_column(name) in schema.names]
    left = {ERROR, IMAGE_ETAG, vectors, *(key_column(name) for name in operators)}
    kinds = (ALTERNATIVES_TYPE, VERDICTS_TYPE)
    clash = [name for name in schema.names if name in INDEX_COLUMNS]
    if clash:
        raise ConfigError(f"column {clash[0]!r} is a name that an index needs; rename it")
    return tuple(
        field.name
        for field in schema
        if field.name not in left and field.type not in (*kinds, pa.binary())
        if "." not in field.name and not field.name.startswith("_")
        if not (field.type == VECTORS_TYPE and field.name in operators)
    )


def _accepted(schema: pa.Schema) -> Collection[str]:
    """Columns in which an acceptance says accepted, review or rejected."""
    return [
        field.name
        for field in schema
        if field.type == pa.string() and f"{field.name}_verdicts" in schema.names
        if schema.field(f"{field.name}_verdicts").type == VERDICTS_TYPE
    ]


def _is_tags(kind: pa.DataType) -> bool:
    """Whether a column lists the labels of a taxonomy that hold."""
    if not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type):
        return False
    names = [field.name for field in kind.value_type]
    return "label" in names and "text" not in names and kind != VERDICTS_TYPE


def _stored_type(kind: pa.DataType) -> pa.DataType:
    """The type that a column has in the index."""
    return LABELS_TYPE if kind == HYPOTHESES_TYPE or _is_tags(kind) else kind


def _stored(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """A column as the index has it: of tags the labels, of hypotheses the texts that hold."""
    if _stored_type(column.type) == column.type:
        return column
    entries = column.to_pylist()
    if column.type == HYPOTHESES_TYPE:
        held = [row and [one["text"] for one in row if one["label"] == HOLDS] for row in entries]
    else:
        held = [row and [one["label"] for one in row] for row in entries]
    return pa.array(held, LABELS_TYPE)


def _words(columns: Sequence[pa.ChunkedArray | pa.Array], rows: int) -> pa.Array:
    """The words by which each row is found; a mark between texts keeps them apart."""
    told_by_row = zip(*(column.to_pylist() for column in columns), strict=True)
    texts = [" . ".join(_flat(row)) for row in told_by_row] if columns else [""] * rows
    return pa.array([words_to_find(text) for text in texts], pa.string())


def _flat(row: Sequence[Any]) -> Iterator[str]:
    for value in row:
        yield from [value] if isinstance(value, str) else filter(None, value or [])


def _digests(database: duckdb.DuckDBPyConnection, rows: pa.Table) -> npt.NDArray[np.int64]:
    """A number for each row that is another one when anything of the row is.

    DuckDB may number differently in another version: rows are then written to the index again.
    """
    columns = ", ".join('"' + name.replace('"', '""') + '"' for name in rows.column_names)
    database.register("incoming", rows)
    found = database.sql(f"SELECT hash({columns}) AS digest FROM incoming").to_arrow_table()
    database.unregister("incoming")
    return np.asarray(found["digest"].to_numpy()).view(np.int64)

"""`tagline duplicates`: says in a table which pictures are there more than once.

Pictures are alike when their files are, byte by byte, or when the cosine of their embeddings is
high enough; what is alike to the same picture is one group. In each group the smallest image_id
stands for all, and `duplicate_of` of the others names it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.groups import ROUNDING, Rows, Vectors, equal_rows, joined, near_rows
from jobs.image_index import ImageIndex
from jobs.index_source import Source, open_source, read_files, vector_columns
from jobs.rewriting import rewrite
from jobs.table import Table, existing_table
from schemas.enriched import DUPLICATE_OF, IMAGE_ID, IMAGE_SHA256
from schemas.errors import ConfigError, TableError
from schemas.index import VECTOR

SIMILARITY = 0.95  # cosine
EXACT_ROWS = 100_000  # compared with each other; beyond, an index is asked
NEIGHBOURS = 20  # of each picture that an index is asked for; 100 take thrice as long
COLUMN = pa.field(DUPLICATE_OF, pa.string())
EXAMPLES = 5  # groups told, and members of each


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Args:
        table: its path.
        version: of the table that says so.
        identical: groups of pictures with the same bytes.
        near: groups of other pictures whose embeddings are near; None without embeddings.
        rows: that are duplicates.
        changed: rows of which the table said something else.
        examples: the largest groups, the representative first, with the number of their pictures.
    """

    table: str
    version: int
    identical: int
    near: int | None
    rows: int
    changed: int
    examples: tuple[tuple[tuple[str, ...], int], ...]

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "identical": self.identical,
            "near": self.near,
            "rows": self.rows,
            "version": self.version,
        }


@dataclass(frozen=True)
class _Pictures:
    """All rows of a table in the order of their ids, by which they are numbered.

    Args:
        ids: of the rows.
        marks: what the table says they are duplicates of.
        places: in the table, files in order.
        copies: roots of the groups of the same bytes.
    """

    ids: pa.ChunkedArray
    marks: pa.ChunkedArray
    places: Rows
    copies: Rows

    def numbers(self, ids: pa.Array | pa.ChunkedArray) -> Rows:
        """The numbers of rows by their ids, all of which are in the table."""
        found = pc.index_in(ids, value_set=self.ids.combine_chunks())
        return np.asarray(found.to_numpy(), np.int64)


def run(
    path: str,
    *,
    similarity: float = SIMILARITY,
    column: str | None = None,
    index: str | None = None,
    is_dry: bool = False,
) -> Duplicates:
    """Finds the duplicates of a table and writes `duplicate_of`, in one commit.

    Args:
        path: of the table.
        similarity: cosine from which on pictures are near.
        column: of the embeddings; None for the only one, or for none.
        index: of the table, to be asked instead of comparing all pairs.
        is_dry: writes nothing.

    Raises:
        ConfigError: there are too many pictures to compare without an index, the index is not of
            this table as it is, or the column is none of embeddings.
        DatasetError: there is no table or no index, or no row has an embedding.
        RunError: another commit came between; nothing was written.
        TableError: the table is damaged.
    """
    table, source = _opened(path, column)
    pictures = _read(table)
    roots = pictures.copies
    if source is not None and index is not None:
        roots = _near_by_index(pictures, source, similarity, index)
    elif source is not None:
        roots = _near_by_pairs(pictures, source, similarity)
    marks = _marks(pictures.ids, roots)
    is_changed = _differ(marks, pictures.marks)
    found = _told(table, pictures, roots, has_near=source is not None)
    found = replace(found, changed=int(is_changed.sum()))
    if is_dry:
        return found
    values = _by_file(table, marks.take(np.argsort(pictures.places)), is_changed, pictures.places)
    return replace(found, version=rewrite(table, COLUMN, values))


def lines(found: Duplicates, *, is_dry: bool) -> list[str]:
    """Tells people what was found."""
    near = "near ones not looked for, the table has no embeddings"
    if found.near is not None:
        near = f"{found.near:,} of near ones"
    said = [f"{found.table}: {found.identical:,} groups of identical pictures, {near}"]
    for members, count in found.examples:
        more = f" and {count - len(members):,} more" if count > len(members) else ""
        said.append(f"  {members[0]}: {', '.join(members[1:])}{more}")
    done = f"{found.changed:,} to be changed; nothing was written" if is_dry else "nothing to write"
    if found.changed and not is_dry:
        done = f"{found.changed:,} changed"
    said.append(f"duplicates: {found.rows:,} rows, {done}; version {found.version}")
    return said


def _opened(path: str, column: str | None) -> tuple[Table, Source | None]:
    table = existing_table(path)
    if column is None and not vector_columns(table.schema):
        return table, None
    source = open_source(path, column)
    return source.table, source


def _read(table: Table) -> _Pictures:
    names = [n for n in (IMAGE_ID, IMAGE_SHA256, DUPLICATE_OF) if n in table.schema.names]
    kinds = pa.schema([table.schema.field(name) for name in names])
    rows = pa.concat_tables([kinds.empty_table(), *read_files(table, table.files, names)])
    for name in (IMAGE_SHA256, DUPLICATE_OF):
        if name not in names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows, pa.string()))
    places = np.asarray(pc.sort_indices(rows, [(IMAGE_ID, "ascending")]).to_numpy(), np.int64)
    rows = rows.take(places)
    _refuse_doubles(table, rows[IMAGE_ID])
    digests = rows[IMAGE_SHA256].combine_chunks().dictionary_encode().indices
    copies = equal_rows(pc.fill_null(digests, -1).to_numpy().astype(np.int64))
    return _Pictures(rows[IMAGE_ID], rows[DUPLICATE_OF], places, copies)


def _refuse_doubles(table: Table, ids: pa.ChunkedArray) -> None:
    twice = pc.index(pc.equal(ids[1:], ids[:-1]), True).as_py() if len(ids) > 1 else -1
    if twice >= 0:
        raise TableError(
            f"{table.path}: image_id {ids[twice].as_py()!r} is in the table more than once; "
            "another writer did that; delete the rows that should not be there"
        )


def _near_by_pairs(pictures: _Pictures, source: Source, similarity: float) -> Rows:
    """Compares all pairs of pictures that are not copies."""
    if source.rows > EXACT_ROWS:
        raise ConfigError(
            f"{source.table.path}: {source.rows:,} pictures are too many to compare each with each "
            f"(at most {EXACT_ROWS:,}); make an index with `tagline index` and give it with --index"
        )
    found = list(_first_vectors(pictures, source))
    rows = np.concatenate([some for some, _ in found])
    vectors = np.concatenate([some for _, some in found])
    return near_rows(pictures.copies, rows, vectors, similarity)


def _near_by_index(pictures: _Pictures, source: Source, similarity: float, path: str) -> Rows:
    """Asks an index for the neighbours of each picture, copies once."""
    index = ImageIndex(path)
    _check_index(index, source)
    roots, first = pictures.copies, pictures.copies
    copies = np.bincount(first)  # of each picture, by its first row; they are the nearest to it

    def near(row: int, vector: Vectors) -> list[str]:
        ids, cosines = index.near_ids(vector, limit=NEIGHBOURS + int(copies[first[row]]))
        return ids[: int(np.count_nonzero(cosines >= similarity - ROUNDING))]

    for rows, vectors in _first_vectors(pictures, source):
        found = list(map(near, rows, vectors))
        left = np.repeat(rows, [len(ids) for ids in found])
        right = pictures.numbers(pa.array(chain.from_iterable(found), pa.string()))
        roots = joined(roots, left, right)
    return roots


def _check_index(index: ImageIndex, source: Source) -> None:
    """Refuses an index that does not say what the table says now."""
    state, table = index.state, source.table
    is_same = state.table_id == str(table.delta.metadata().id)
    if not is_same or set(state.files) != {file.path for file in table.files}:
        raise ConfigError(
            f"--index {index.path}: holds {state.table} at version {state.version}, not "
            f"{table.path} at version {table.version}; run `tagline index {table.path} --to "
            f"{index.path}` first"
        )
    if (state.column, state.key) != (source.column, source.key):
        raise ConfigError(
            f"--index {index.path}: has the vectors of {state.column!r}, key {state.key}, not of "
            f"{source.column!r}, key {source.key}; run `tagline index` again"
        )


def _first_vectors(pictures: _Pictures, source: Source) -> Iterator[tuple[Rows, Vectors]]:
    """The rows with a vector and their vectors, a batch at a time; of copies only the first."""
    is_seen = np.zeros(len(pictures.ids), np.bool_)
    for batch in source.vectors():
        rows = pictures.numbers(batch[IMAGE_ID])
        vectors = batch[VECTOR].combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
        copies, first = np.unique(pictures.copies[rows], return_index=True)
        first = np.sort(first[~is_seen[copies]])
        is_seen[copies] = True
        if len(first):
            yield rows[first], vectors[first]


def _marks(ids: pa.ChunkedArray, roots: Rows) -> pa.ChunkedArray:
    """What each row is a duplicate of; null where it stands for itself."""
    stands = roots == np.arange(len(roots))
    return ids.take(pa.array(roots, mask=stands))


def _differ(one: pa.ChunkedArray, other: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    is_null = pc.not_equal(pc.is_null(one), pc.is_null(other))
    differs = pc.or_(is_null, pc.fill_null(pc.not_equal(one, other), False))
    return np.asarray(differs.to_numpy(), np.bool_)


def _by_file(
    table: Table, marks: pa.ChunkedArray, is_changed: npt.NDArray[np.bool_], places: Rows
) -> Mapping[str, pa.ChunkedArray]:
    """The marks of the data files in which one has changed.

    Args:
        table: whose files they are.
        marks: in the order of the table.
        is_changed: of each row, by its number.
        places: of each row in the table, by its number.
    """
    changed, values, start = np.sort(places[is_changed]), dict[str, pa.ChunkedArray](), 0
    for file in table.files:
        end = start + file.rows
        if np.searchsorted(changed, start) < np.searchsorted(changed, end):
            values[file.path] = marks.slice(start, file.rows)
        start = end
    return values


def _told(table: Table, pictures: _Pictures, roots: Rows, *, has_near: bool) -> Duplicates:
    alone = np.arange(len(roots))
    _, copies = np.unique(pictures.copies, return_counts=True)
    pictures_of_group = np.unique(roots[pictures.copies == alone], return_counts=True)[1]
    groups, sizes = np.unique(roots, return_counts=True)
    largest = np.argsort(-sizes, kind="stable")[:EXAMPLES]
    examples = []
    for root, size in zip(groups[largest], sizes[largest], strict=True):
        members = np.flatnonzero(roots == root)[:EXAMPLES]
        if size > 1:
            examples.append((tuple(pictures.ids.take(members).to_pylist()), int(size)))
    return Duplicates(
        table=table.path,
        version=table.version,
        identical=int((copies > 1).sum()),
        near=int((pictures_of_group > 1).sum()) if has_near else None,
        rows=int((roots != alone).sum()),
        changed=0,
        examples=tuple(examples),
    )


if __name__ == "__main__":
    from jobs.cli import main

    main(["duplicates"])

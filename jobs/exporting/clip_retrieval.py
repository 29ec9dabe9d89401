"""clip-retrieval's folder: vectors as npy beside metadata as Parquet, row by row the same order.

    img_emb/img_emb_0000.npy         float32 (rows, numbers)
    metadata/metadata_0000.parquet   image_path, caption, and the table's plain columns

`clip-retrieval index`, autofaiss and FAISS read it; files sort by name in the order of the rows.

Source: https://github.com/rom1504/clip-retrieval, its inference writer.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.enriched import URI, key_column
from schemas.errors import DatasetError

FILE_ROWS = 50_000  # held in memory
IMAGE_PATH = "image_path"
CAPTION = "caption"


def write(rows: Iterable[pa.Table], folder: Path, *, vectors: str, caption: str | None) -> int:
    """Writes the rows that have a vector.

    Args:
        rows: a few at a time, with `uri`, the vectors and their key; other columns are carried
            along where they are text, numbers or truths.
        folder: to write to.
        vectors: column of an embedder.
        caption: column of a captioner; None where there is none.

    Returns:
        the rows written.

    Raises:
        DatasetError: no row has a vector, or vectors are of two versions of the embedder.
    """
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    written = 0
    for number, part in enumerate(_parts(_embedded(rows, vectors))):
        np.save(folder / f"img_emb/img_emb_{number:04d}.npy", _matrix(part[vectors]))
        metadata = _metadata(part, vectors, caption)
        pq.write_table(metadata, folder / f"metadata/metadata_{number:04d}.parquet")
        written += part.num_rows
    if not written:
        raise DatasetError(
            f"no row to export has a vector in {vectors!r}; choose others by --where"
        )
    return written


def _embedded(rows: Iterable[pa.Table], vectors: str) -> Iterator[pa.Table]:
    """The rows with a vector, all of one key: an index must not mix those of two models."""
    name, first = key_column(vectors), None
    for some in rows:
        there = some.filter(pc.is_valid(some[vectors]))
        for key in there[name].unique().to_pylist():
            first = first or key
            if key != first:
                raise DatasetError(
                    f"{vectors!r} holds vectors of two versions of the embedder, {first} and "
                    f"{key}, which cannot be compared; enrich the table again, or choose one with "
                    f"--where \"{name} = '{first}'\""
                )
        if there.num_rows:
            yield there


def _parts(rows: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Joins and cuts rows to files of `FILE_ROWS`."""
    held: list[pa.Table] = []
    for some in rows:
        held.append(some)
        while sum(one.num_rows for one in held) >= FILE_ROWS:
            joined = pa.concat_tables(held)
            yield joined.slice(0, FILE_ROWS)
            held = [joined.slice(FILE_ROWS)]
    joined = pa.concat_tables(held) if held else None
    if joined is not None and joined.num_rows:
        yield joined


def _matrix(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(len(column), -1)


def _metadata(rows: pa.Table, vectors: str, caption: str | None) -> pa.Table:
    columns = {IMAGE_PATH: rows[URI]}
    if caption is not None:
        columns[CAPTION] = rows[caption]
    for field in rows.schema:
        is_told = field.name in (URI, caption, vectors) or field.name.endswith("_key")
        if not is_told and field.name not in columns and _is_plain(field.type):
            columns[field.name] = rows[field.name]
    return pa.table(columns)


def _is_plain(kind: pa.DataType) -> bool:
    """Whether clip-retrieval can tell values as JSON."""
    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
    )

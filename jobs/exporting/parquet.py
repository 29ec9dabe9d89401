"""Plain Parquet: the table's columns and types as they are, in files of 100,000 rows."""

from pathlib import Path

import pyarrow.parquet as pq

from jobs.exporting.selection import Selection

FILE_ROWS = 100_000


def write(selection: Selection, folder: Path) -> int:
    """Writes `rows-00000.parquet` and so on; at least one file, so that the columns are there."""
    columns = selection.columns
    schema = selection.schema(columns)
    rows = files = 0
    writer = None
    for batch in selection.batches(columns):
        if writer is None or rows >= files * FILE_ROWS:
            if writer is not None:
                writer.close()
            writer = pq.ParquetWriter(_path(folder, files), schema, compression="zstd")
            files += 1
        writer.write_table(batch)
        rows += batch.num_rows
    if writer is None:
        writer = pq.ParquetWriter(_path(folder, 0), schema, compression="zstd")
    writer.close()
    return rows


def _path(folder: Path, number: int) -> Path:
    return folder / f"rows-{number:05d}.parquet"

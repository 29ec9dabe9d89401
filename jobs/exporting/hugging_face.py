"""A folder for Hugging Face's datasets: `images/` and `metadata.parquet`, an image folder.

`datasets.load_dataset("imagefolder", data_dir=FOLDER)` reads it: the picture is the column `image`,
beside it are the table's columns. One that is called as that format calls its own gets `table_`
before its name.

Source: https://huggingface.co/docs/datasets/image_dataset, "ImageFolder".
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.exporting.selection import Selection, save_picture

FILE_NAME = "file_name"
THEIRS = frozenset({FILE_NAME, "image"})
IMAGES = "images"


def write(selection: Selection, folder: Path) -> int:
    """Writes both."""
    (folder / IMAGES).mkdir()
    columns = selection.columns
    names = [f"table_{name}" if name in THEIRS else name for name in columns]
    types = selection.schema(columns).types
    schema = pa.schema([(FILE_NAME, pa.string()), *zip(names, types, strict=True)])
    written = 0
    with pq.ParquetWriter(folder / "metadata.parquet", schema, compression="zstd") as writer:
        for rows, images in selection.with_pictures(columns):
            files = [
                f"{IMAGES}/{save_picture(image, folder / IMAGES, written + n)}"
                for n, image in enumerate(images)
            ]
            writer.write_table(pa.table([pa.array(files, pa.string()), *rows.columns], schema))
            written += len(files)
    return written

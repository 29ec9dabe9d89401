"""Predicts for a data set with a model: the images go through `jobs.enrich` into a table.

So evaluation computes what a job would compute, on a cluster if need be, and goes on where it was
killed. A folder holds the manifest and the table; rows that are there are not computed again.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.table import existing_table
from operators.embedder import Embedder
from schemas.enriched import IMAGE_ID, URI
from schemas.errors import DatasetError, RowFaults, RunError

Vectors = npt.NDArray[np.float32]

MANIFEST = "manifest.parquet"
TABLE = "table"
IMAGES = "images"
_STRAIGHT = str.maketrans("“”", '""')


def enrich_images(
    rows: pa.Table,
    operator: Mapping[str, Any],
    *,
    name: str,
    folder: Path,
    roots: Sequence[Path],
    address: str | None = None,
) -> str:
    """Runs one operator over the images of a manifest, as far as that is not done.

    Args:
        rows: `image_id`, `uri` and what the operator reads.
        operator: its entry in a job config.
        name: of the column it writes.
        folder: for the manifest and the table; made when absent.
        roots: folders of the images.
        address: of a Ray cluster; see `jobs.enrich.run`.

    Returns:
        path of the table, which may hold rows of other data sets too.

    Raises:
        TaglineError: see `jobs.enrich.run`.
    """
    from jobs import enrich
    from operators.catalog import check_document

    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / MANIFEST
    if not manifest.exists() or not pq.read_table(manifest).equals(rows):  # a new file, a new plan
        pq.write_table(rows, manifest)
    document = {
        "manifest": str(manifest),
        "table": str(folder / TABLE),
        "operators": {name: dict(operator)},
        "allow": {"roots": [str(root.absolute()) for root in roots]},
    }
    enrich.run(check_document(document), address=address)
    return str(folder / TABLE)


def manifest_of(identities: Iterable[str], files: Iterable[Path], **columns: pa.Array) -> pa.Table:
    """Makes the rows of a manifest of local files."""
    uris = [str(file.absolute()) for file in files]
    identities = pa.array(identities, pa.string())
    return pa.table({IMAGE_ID: identities, URI: pa.array(uris, pa.string()), **columns})


def unpack(images: Iterable[pa.Table], folder: Path) -> dict[int, Path]:
    """Writes encoded images to files, each named after its id; those that are there are kept.

    Args:
        images: `datasets.tables.ENCODED_IMAGES`.
        folder: made when absent.

    Returns:
        the file of each image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[int, Path] = {}
    for table in images:
        for row in table.to_pylist():
            file = files[row["image_id"]] = folder / str(row["image_id"])
            if not file.exists() or file.read_bytes() != row["image"]:
                unfinished = file.with_suffix(".part")
                unfinished.write_bytes(row["image"])
                os.replace(unfinished, file)
    return files


def read_column(table: str, column: str, wanted: Iterable[str] | None) -> dict[str, Any]:
    """Reads what an operator wrote about some images; rows without an answer are left out.

    Args:
        table: path of an enriched table.
        column: the operator's name.
        wanted: ids of images; other rows do not count. All rows when None.

    Raises:
        DatasetError: there is no such table or column.
        TableError: something else lies there.
    """
    opened = existing_table(table)
    if column not in opened.schema.names:
        names = ", ".join(opened.schema.names)
        raise DatasetError(f"{table}: no column {column!r}; it has {names}; name one by --column")
    rows = opened.read([IMAGE_ID, column])
    answers = zip(rows[IMAGE_ID].to_pylist(), rows[column].to_pylist(), strict=True)
    among = None if wanted is None else set(wanted)
    return {
        identity: answer
        for identity, answer in answers
        if answer is not None and (among is None or identity in among)
    }


def embed_texts(model: str, texts: Sequence[str]) -> Vectors:
    """Embeds texts as Chinese-CLIP's evaluation does: in lower case, with straight quotes.

    Returns:
        (texts, d), of unit length.

    Raises:
        RunError: a vector is not finite.
        ModelError: the model is missing, damaged or of another task.
    """
    embedder = Embedder(model)
    try:
        return embedder.embed_texts([text.lower().translate(_STRAIGHT) for text in texts])
    except RowFaults as error:
        at, fault = next(iter(error.faults.items()))
        raise RunError(f"{model}: text {texts[at]!r}: {fault.message}") from error

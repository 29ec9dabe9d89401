"""Finds out in which of three formats references of captions come, and reads them."""

from pathlib import Path

import pyarrow as pa

from jobs.datasets import coco, flickr30k
from jobs.datasets.reading import read_document
from schemas.errors import DatasetError


def read_references(path: Path, *, split: str | None = None) -> pa.Table:
    """Reads COCO's annotations, Karpathy's JSON, or Flickr30k's `.token` or `.csv` file.

    Args:
        path: the file.
        split: only these images; only Karpathy's JSON has splits.

    Returns:
        `tables.CAPTIONS`.

    Raises:
        DatasetError: it is none of them, or has no such split.
    """
    if path.suffix in (".token", ".txt", ".tsv", ".csv"):
        table = flickr30k.read_tokens(path)
    elif _is_karpathy(path):
        return coco.read_karpathy(path, split=split)
    else:
        table = coco.read_annotations(path)
    if split is not None:
        raise DatasetError(
            f"{path}: has no splits, and so no {split!r}; Karpathy's dataset_coco.json has them"
        )
    return table


def _is_karpathy(path: Path) -> bool:
    document = read_document(path)
    images = document.get("images") if isinstance(document, dict) else None
    return isinstance(images, list) and any(
        isinstance(image, dict) and "sentences" in image for image in images[:1]
    )

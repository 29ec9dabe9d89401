"""COCO captions: annotations, results, and the split of Karpathy, which published figures use.

Formats: https://cocodataset.org/#format-data (captions) and #format-results; Karpathy and Fei-Fei
2015, https://cs.stanford.edu/people/karpathy/deepimagesent (dataset_coco.json, also for Flickr30k).
"""

from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.datasets.reading import Record, read_document, records, refuse_twice, some
from jobs.datasets.tables import CAPTIONS
from schemas.errors import DatasetError


def read_annotations(path: Path) -> pa.Table:
    """Reads an annotation file such as captions_val2014.json.

    Returns:
        `tables.CAPTIONS`: images in the order of `images`, captions in that of `annotations`.

    Raises:
        DatasetError: it is not such a file, an id comes twice, a caption is of no image, or an
            image has no caption.
    """
    document = _document(path)
    files: dict[str, Any] = {}
    for image in document.records("images"):
        identity = image.identity("id")
        refuse_twice(image.where, "image", identity, files)
        files[identity] = image.text("file_name") if "file_name" in image.fields else None
    captions: dict[str, list[str]] = {identity: [] for identity in files}
    for annotation in document.records("annotations"):
        identity = annotation.identity("image_id")
        if identity not in captions:
            raise DatasetError(f"{annotation.where}: image {identity!r} is not among the images")
        captions[identity].append(annotation.text("caption"))
    silent = [identity for identity, told in captions.items() if not told]
    if silent:
        raise DatasetError(
            f"{path}: no caption for {len(silent):,} images: {some(silent)}; "
            "annotate them or take them out of 'images'"
        )
    columns = [list(files), list(files.values()), [None] * len(files), list(captions.values())]
    return pa.table(columns, schema=CAPTIONS)


def read_karpathy(path: Path, *, split: str | None = None) -> pa.Table:
    """Reads Karpathy's dataset_coco.json or dataset_flickr30k.json.

    Args:
        path: the file.
        split: `train`, `restval`, `val` or `test`; all when None.

    Returns:
        `tables.CAPTIONS`: the id is COCO's where there is one, else the file's name without its
        suffix.

    Raises:
        DatasetError: it is not such a file, an id comes twice, or it has no such split.
    """
    rows: dict[str, dict[str, Any]] = {}
    splits: dict[str, None] = {}
    for image in _document(path).records("images"):
        splits[image.text("split")] = None
        if split is not None and image.text("split") != split:
            continue
        row = _karpathy_row(image)
        refuse_twice(image.where, "image", row["image_id"], rows)
        rows[row["image_id"]] = row
    if split is not None and split not in splits:
        raise DatasetError(f"{path}: no split {split!r}; it has {', '.join(splits) or 'none'}")
    return pa.Table.from_pylist(list(rows.values()), schema=CAPTIONS)


def read_results(path: Path) -> dict[str, str]:
    """Reads a results file: a list of `{"image_id", "caption"}`.

    Returns:
        the caption of each image.

    Raises:
        DatasetError: it is not such a file, or an image comes twice.
    """
    captions: dict[str, str] = {}
    for result in records(read_document(path), path, "results"):
        identity = result.identity("image_id")
        refuse_twice(result.where, "image", identity, captions)
        captions[identity] = result.text("caption")
    return captions


def _karpathy_row(image: Record) -> dict[str, Any]:
    name = image.text("filename")
    folder = image.text("filepath") if "filepath" in image.fields else ""
    captions = [sentence.text("raw") for sentence in image.records("sentences")]
    if not captions:
        raise DatasetError(f"{image.where}: image {name!r} has no sentences")
    return {
        "image_id": image.identity("cocoid") if "cocoid" in image.fields else Path(name).stem,
        "file": str(Path(folder) / name),
        "split": image.text("split"),
        "captions": captions,
    }


def _document(path: Path) -> Record:
    document = read_document(path)
    if not isinstance(document, dict):
        raise DatasetError(
            f"{path}: a {type(document).__name__}; COCO's annotations are an object with 'images' "
            "and 'annotations'"
        )
    return Record(path, "", document)

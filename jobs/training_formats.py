"""The rows to learn from that lie in the field's own formats, as rows of a manifest have them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.datasets import chinese_clip
from jobs.datasets.captions import read_references
from jobs.datasets.reading import some
from jobs.datasets.snli_ve import read_pairs
from jobs.predict import unpack
from schemas.enriched import IMAGE_ID, URI
from schemas.errors import ManifestError
from schemas.finetune import DataConfig


def read_format(data: DataConfig, unpacked: Path) -> pa.Table:
    """Reads a split that is no manifest: `image_id`, `uri` and the targets of its format.

    Args:
        data: which format, and where.
        unpacked: a folder for images that the format packs into a file.

    Raises:
        DatasetError: a file is not what its format says.
        ManifestError: a text is of an image that is not there.
    """
    if data.format == "captions":
        return _caption_rows(data)
    if data.format == "snli_ve":
        return _pair_rows(data)
    return _text_rows(data, unpacked)


def _caption_rows(data: DataConfig) -> pa.Table:
    rows = []
    for row in _references(data):
        uri = _within(data, row["file"] or row["image_id"])
        told = row["captions"]
        rows += [{IMAGE_ID: row["image_id"], URI: uri, "caption": t, "text": t} for t in told]
    return pa.Table.from_pylist(rows)


def _references(data: DataConfig) -> Iterator[dict[str, Any]]:
    for split in data.split or (None,):
        yield from read_references(Path(data.path), split=split).to_pylist()


def _pair_rows(data: DataConfig) -> pa.Table:
    table = read_pairs(Path(data.path))
    table = table.filter(pc.is_valid(table["label"]))  # the annotators agreed
    uris = [_within(data, f"{image}.jpg") for image in table[IMAGE_ID].to_pylist()]
    return table.append_column(URI, pa.array(uris, pa.string()))


def _text_rows(data: DataConfig, unpacked: Path) -> pa.Table:
    """A row for each image of each text, as Chinese-CLIP trains on them."""
    files = unpack(chinese_clip.read_images(Path(data.images or "")), unpacked)
    rows = []
    for text in chinese_clip.read_texts(Path(data.path)).to_pylist():
        gone = [image for image in text["image_ids"] if image not in files]
        if gone:
            raise ManifestError(
                f"{data.path}: text {text['text_id']} is of images {some(gone)}, which are not in "
                f"{data.images}; give the file of the same split"
            )
        told = {"caption": text["text"], "text": text["text"]}
        rows += [
            {IMAGE_ID: str(image), URI: str(files[image]), **told} for image in text["image_ids"]
        ]
    return pa.Table.from_pylist(rows)


def _within(data: DataConfig, name: str) -> str:
    """Where an image of the folder `images` lies."""
    folder = data.images or ""
    return f"{folder.rstrip('/')}/{name}" if "://" in folder else str(Path(folder).resolve() / name)

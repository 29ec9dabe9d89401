"""Chinese-CLIP's retrieval sets: MUGE, Flickr30K-CN, COCO-CN; and predictions for them.

`{split}_imgs.tsv` holds an id, a tab and the image file in base64 (either alphabet);
`{split}_texts.jsonl` lines of `{"text_id", "text", "image_ids"}`. Predictions are lines of
`{"text_id", "image_ids"}` or, from image to text, `{"image_id", "text_ids"}`, best first.

Format: https://github.com/OFA-Sys/Chinese-CLIP, README, "data preparation" and "evaluation".
"""

import binascii
from base64 import b64decode
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa

from jobs.datasets.reading import Record, read_lines, refuse_twice
from jobs.datasets.tables import ENCODED_IMAGES, TEXTS
from jobs.metrics import CANDIDATES
from schemas.errors import DatasetError

Direction = Literal["t2i", "i2t"]  # text to image, image to text
IMAGES_AT_ONCE = 64
_FIELDS = {"t2i": ("text_id", "image_ids"), "i2t": ("image_id", "text_ids")}


def read_texts(path: Path) -> pa.Table:
    """Reads the queries and the images they describe.

    Returns:
        `tables.TEXTS`, in the order of the file; texts as they are.

    Raises:
        DatasetError: a line lacks a field or has one of another type, or a text comes twice.
    """
    rows: dict[int, dict[str, object]] = {}
    for line in read_lines(path):
        identity = line.integer("text_id")
        refuse_twice(line.where, "text", identity, rows)
        rows[identity] = {
            "text_id": identity,
            "text": line.text("text"),
            "image_ids": line.integers("image_ids"),
        }
    return pa.Table.from_pylist(list(rows.values()), schema=TEXTS)


def read_images(path: Path) -> Iterator[pa.Table]:
    """Reads the encoded images, 64 at a time.

    Yields:
        `tables.ENCODED_IMAGES`, in the order of the file.

    Raises:
        DatasetError: a line is not an id, a tab and base64, or an image comes twice.
    """
    seen: set[object] = set()
    rows: list[dict[str, object]] = []
    for number, line in enumerate(_open_lines(path), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        identity, image = _image(where, line)
        refuse_twice(where, "image", identity, seen)
        seen.add(identity)
        rows.append({"image_id": identity, "image": image})
        if len(rows) == IMAGES_AT_ONCE:
            yield pa.Table.from_pylist(rows, schema=ENCODED_IMAGES)
            rows = []
    if rows:
        yield pa.Table.from_pylist(rows, schema=ENCODED_IMAGES)


def read_gold(path: Path, direction: Direction) -> dict[int, set[int]]:
    """Reads what is right for each query, from the file of texts.

    From image to text the file is turned round: queries are the images that a text names. A file
    that is turned round already, with lines of `{"image_id", "text_ids"}`, will do as well.

    Raises:
        DatasetError: a line lacks a field or has one of another type, or a query comes twice.
    """
    query, right = _FIELDS[direction]
    gold: dict[int, set[int]] = {}
    for line in read_lines(path):
        if direction == "i2t" and query not in line.fields:
            for image in line.integers("image_ids"):
                gold.setdefault(image, set()).add(line.integer("text_id"))
            continue
        identity = line.integer(query)
        refuse_twice(line.where, query, identity, gold)
        gold[identity] = set(line.integers(right))
    return gold


def read_rankings(path: Path, direction: Direction) -> dict[int, list[int]]:
    """Reads predictions: for each query at least ten candidates, best first.

    Raises:
        DatasetError: a line lacks a field or has one of another type, names fewer than ten
            candidates or one twice, or a query comes twice.
    """
    query, named = _FIELDS[direction]
    rankings: dict[int, list[int]] = {}
    for line in read_lines(path):
        identity = line.integer(query)
        refuse_twice(line.where, query, identity, rankings)
        rankings[identity] = _candidates(line, named)
    return rankings


def _candidates(line: Record, named: str) -> list[int]:
    candidates = line.integers(named)
    if len(candidates) < CANDIDATES:
        raise DatasetError(
            f"{line.where}: {named} names {len(candidates)} candidates; {CANDIDATES} are needed, "
            "best first"
        )
    if len(set(candidates)) < len(candidates):
        raise DatasetError(f"{line.where}: {named} names a candidate twice: {candidates}")
    return candidates


def _open_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error


def _image(where: str, line: bytes) -> tuple[int, bytes]:
    identity, tab, encoded = line.removeprefix(BOM_UTF8).rstrip(b"\r\n").partition(b"\t")
    if not tab or not identity.isdigit():
        raise DatasetError(f"{where}: {line[:40]!r} is not an id, a tab and an image in base64")
    try:
        plain = encoded.translate(bytes.maketrans(b"-_", b"+/"))
        return int(identity), b64decode(plain, validate=True)
    except binascii.Error as error:
        raise DatasetError(f"{where}: image {int(identity)} is not base64: {error}") from error

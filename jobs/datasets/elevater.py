"""ELEVATER's sets for zero-shot classification, in Chinese: a folder of labels and images.

`label_cn.txt` has one label a line; `test/` a folder for each class, named after the line's number
(`000` on where there are more than ten), with the images.

Format: https://github.com/OFA-Sys/Chinese-CLIP/blob/master/zeroshot_dataset.md.
"""

from pathlib import Path

import pyarrow as pa

from jobs.datasets.reading import Record, read_bytes, read_lines, refuse_twice
from jobs.datasets.tables import PICTURES
from schemas.errors import DatasetError

LABELS_FILE = "label_cn.txt"
IMAGES_FOLDER = "test"


def read_labels(folder: Path) -> list[str]:
    """Reads the names of the classes.

    Raises:
        DatasetError: there are none, or the file is not UTF-8.
    """
    path = folder / LABELS_FILE
    try:
        labels = read_bytes(path).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8: {error}") from error
    while labels and not labels[-1].strip():
        labels.pop()
    if not labels or not all(label.strip() for label in labels):
        raise DatasetError(f"{path}: an empty label; it must have one label a line")
    return [label.strip() for label in labels]


def read_pictures(folder: Path) -> pa.Table:
    """Lists the images and their classes.

    Returns:
        `tables.PICTURES`, sorted; paths are below `test/`.

    Raises:
        DatasetError: there is no such folder or no image, or a folder's name is no line of
            label_cn.txt.
    """
    labels = read_labels(folder)
    root = folder / IMAGES_FOLDER
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; it must have a folder of images a class")
    rows = []
    for place in sorted(path for path in root.iterdir() if path.is_dir()):
        if not place.name.isdecimal() or int(place.name) >= len(labels):
            raise DatasetError(
                f"{place}: its name must be the number of a line of {LABELS_FILE}, counted from 0 "
                f"to {len(labels) - 1}"
            )
        files = sorted(path for path in place.rglob("[!.]*") if path.is_file())
        rows += [{"image": str(path.relative_to(root)), "class": int(place.name)} for path in files]
    if not rows:
        raise DatasetError(f"{root}: no images")
    return pa.Table.from_pylist(rows, schema=PICTURES)


def read_answers(path: Path, labels: list[str]) -> dict[str, int]:
    """Reads predictions: lines of `{"image", "label"}`, the label as its text or its number.

    Args:
        path: the file; images are named by their path below `test/`.
        labels: of `read_labels`.

    Raises:
        DatasetError: a line lacks a field, has no such label, or an image comes twice.
    """
    answers: dict[str, int] = {}
    for line in read_lines(path):
        image = line.text("image")
        refuse_twice(line.where, "image", image, answers)
        answers[image] = _class(line, labels)
    return answers


def _class(line: Record, labels: list[str]) -> int:
    label = line.fields.get("label")
    if isinstance(label, str) and label in labels:
        return labels.index(label)
    number = line.integer("label") if not isinstance(label, str) else -1
    if not 0 <= number < len(labels):
        raise DatasetError(
            f"{line.where}: label is {label!r}; it must be a line of {LABELS_FILE} or its number, "
            f"from 0 to {len(labels) - 1}"
        )
    return number

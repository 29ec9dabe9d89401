"""SNLI-VE: does an image entail a sentence? Lines as of SNLI, with the id of a Flickr30k image.

The image is `Flickr30K_ID` without a suffix in the files of today, and `Flikr30kID` (so spelled)
with `.jpg` in the first version. Source: Xie et al., arXiv:1901.06706.
"""

from pathlib import Path

import pyarrow as pa

from jobs.datasets.reading import Record, read_lines, refuse_twice
from jobs.datasets.tables import PAIRS
from schemas.errors import DatasetError

LABELS = ("entailment", "neutral", "contradiction")
ANSWERS = {"yes": "entailment", "maybe": "neutral", "no": "contradiction"}  # in OFA's words
UNDECIDED = "-"  # the annotators did not agree; such pairs are not scored
_IMAGE = ("Flickr30K_ID", "Flikr30kID")


def read_pairs(path: Path) -> pa.Table:
    """Reads snli_ve_{train,dev,test}.jsonl.

    Returns:
        `tables.PAIRS`, in the order of the file; the label is null where it is `-`.

    Raises:
        DatasetError: a line lacks a field, has another label, or a pair comes twice.
    """
    rows: dict[str, dict[str, str | None]] = {}
    for line in read_lines(path):
        pair = line.identity("pairID")
        refuse_twice(line.where, "pair", pair, rows)
        label = _label(line, "gold_label", (*LABELS, UNDECIDED))
        rows[pair] = {
            "pair_id": pair,
            "image_id": _image(line),
            "premise": line.text("sentence1"),
            "hypothesis": line.text("sentence2"),
            "label": None if label == UNDECIDED else label,
        }
    return pa.Table.from_pylist(list(rows.values()), schema=PAIRS)


def read_answers(path: Path) -> dict[str, str]:
    """Reads predictions: lines of `{"pairID", "label"}`, in SNLI's words or yes, maybe and no.

    Returns:
        the label of each pair, in SNLI's words.

    Raises:
        DatasetError: a line lacks a field, has another label, or a pair comes twice.
    """
    labels: dict[str, str] = {}
    for line in read_lines(path):
        pair = line.identity("pairID")
        refuse_twice(line.where, "pair", pair, labels)
        label = _label(line, "label", (*LABELS, *ANSWERS))
        labels[pair] = ANSWERS.get(label, label)
    return labels


def _label(line: Record, name: str, allowed: tuple[str, ...]) -> str:
    label = line.text(name)
    if label not in allowed:
        choices = ", ".join(map(repr, allowed))
        raise DatasetError(f"{line.where}: {name} is {label!r}; it may be {choices}")
    return label


def _image(line: Record) -> str:
    for name in _IMAGE:
        if name in line.fields:
            return line.identity(name).removesuffix(".jpg")
    there = ", ".join(map(repr, line.fields))
    raise DatasetError(f"{line.where}: no {' or '.join(map(repr, _IMAGE))}; it has {there}")

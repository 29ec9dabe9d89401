"""FiftyOne's JSON of classified images: `data/` and `labels.json`.

`fiftyone.Dataset.from_dir(dataset_dir=FOLDER, dataset_type=
fiftyone.types.FiftyOneImageClassificationDataset)` reads it. The label is the answer of the first
entailment checker, else the verdict of an acceptance, else the caption; all other columns are its
attributes, but for vectors, keys and lists of structs, which FiftyOne has no field for.

Source: https://docs.voxel51.com/user_guide/import_datasets.html#fiftyoneimageclassificationdataset
"""

from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.exporting.selection import Selection, as_json, save_picture
from jobs.roles import Roles
from schemas.enriched import ERROR
from schemas.errors import ConfigError

THEIRS = frozenset({"id", "label", "confidence", "tags", "logits"})  # of a Classification


def write(selection: Selection, folder: Path) -> int:
    """Writes both.

    Raises:
        ConfigError: the table has nothing to label an image with.
    """
    label = _label(selection.roles)
    if label is None:
        raise ConfigError(
            f"{selection.table.path}: has neither labels nor captions, which FiftyOne's labels are "
            "made of; export to another format"
        )
    (folder / "data").mkdir()
    columns = _columns(selection)
    written = 0
    with (folder / "labels.json").open("w", encoding="utf-8") as file:
        file.write('{"labels": {')
        for rows, images in selection.with_pictures(columns):
            confidence = selection.roles.confidence(rows, label)
            for n, (row, image) in enumerate(zip(rows.to_pylist(), images, strict=True)):
                name = save_picture(image, folder / "data", written).partition(".")[0]
                target = _target(row, label, float(confidence[n]))
                file.write(f"{',' if written else ''}\n{as_json(name)}: {as_json(target)}")
                written += 1
        file.write("\n}}\n")
    return written


def _label(roles: Roles) -> str | None:
    labels = [one.column for one in roles.of_kind("entailment")]
    return next(iter([*labels, *roles.verdicts, *roles.captions]), None)


def _columns(selection: Selection) -> list[str]:
    kinds = {one.name: one.type for one in selection.schema(selection.plain_columns)}
    return [name for name, kind in kinds.items() if not pa.types.is_nested(kind) and name != ERROR]


def _target(row: dict[str, Any], label: str, confidence: float) -> dict[str, Any] | None:
    if row[label] is None:
        return None
    attributes = {
        f"table_{name}" if name in THEIRS else name: value
        for name, value in row.items()
        if value is not None
    }
    return {"label": row[label], "confidence": confidence, "attributes": attributes}

"""COCO's caption annotations: `images/` and `annotations/captions.json`, as pycocotools reads them.

An image's number is the table's `image_id` where all ids are plain numbers, so that predictions and
COCO's own annotations meet; else its place. `image_id` and `uri` of the table are kept beside.

Source: https://cocodataset.org/#format-data, "Image Captioning".
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from jobs.exporting.selection import Selection, as_json, save_picture
from operators.fetcher import Fetched
from schemas.enriched import IMAGE_ID, URI
from schemas.errors import ConfigError

PLAIN_NUMBER = r"^(0|[1-9][0-9]{0,17})$"
INFO = '{"info": {"description": "captions of a tagline table", "version": "1.0"},\n"licenses": [],'


def write(selection: Selection, folder: Path) -> int:
    """Writes both.

    Raises:
        ConfigError: the table has no captions.
    """
    captions = selection.roles.captions
    if not captions:
        raise ConfigError(
            f"{selection.table.path}: has no captions, which COCO's annotations are made of; "
            "export to another format"
        )
    for name in ("images", "annotations"):
        (folder / name).mkdir()
    is_numbered = _is_numbered(selection)
    written = annotated = 0
    path = folder / "annotations" / "captions.json"
    with path.open("w", encoding="utf-8") as file, _temporary(folder) as later:
        file.write(f'{INFO}\n"images": [')
        for rows, images in selection.with_pictures([IMAGE_ID, URI, *captions]):
            for row, image in zip(rows.to_pylist(), images, strict=True):
                number = int(row[IMAGE_ID]) if is_numbered else written + 1
                name = save_picture(image, folder / "images", written + 1)
                file.write(_separator(written) + as_json(_image(row, image, number, name)))
                for text in (row[column] for column in captions if row[column] is not None):
                    said = {"id": annotated + 1, "image_id": number, "caption": text}
                    later.write(_separator(annotated) + as_json(said))
                    annotated += 1
                written += 1
        file.write('\n],\n"annotations": [')
        later.seek(0)
        shutil.copyfileobj(later, file)
        file.write("\n]}\n")
    return written


def _image(row: dict[str, Any], image: Fetched, number: int, name: str) -> dict[str, Any]:
    return {
        "id": number,
        "file_name": name,
        "width": image.width,
        "height": image.height,
        "table_image_id": row[IMAGE_ID],
        "uri": row[URI],
    }


def _is_numbered(selection: Selection) -> bool:
    batches = selection.of_all_rows().batches([IMAGE_ID])
    return all(pc.all(pc.match_substring_regex(b[IMAGE_ID], PLAIN_NUMBER)).as_py() for b in batches)


def _temporary(folder: Path) -> Any:
    return tempfile.TemporaryFile("w+", encoding="utf-8", dir=folder)


def _separator(before: int) -> str:
    return ",\n" if before else "\n"

"""Writes drawn scenes as a data set: pictures, a manifest with captions, labelled hypotheses.

`tagline scenes OUT --count N --seed S`. The manifest names pictures relative to its own folder, so
the folder can be moved. The same seed gives the same pictures; a larger count only adds some.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from operators.embedded.hypotheses import write_hypotheses
from operators.embedded.scenes import describe, describe_in_chinese, draw, draw_scenes
from schemas.enriched import IMAGE_ID, URI
from schemas.errors import ConfigError

PICTURES = "pictures"
MANIFEST = "manifest.parquet"
HYPOTHESES = "hypotheses.jsonl"
MANIFEST_SCHEMA = pa.schema(
    [
        (IMAGE_ID, pa.string()),
        (URI, pa.string()),
        ("caption", pa.string()),
        ("caption_zh", pa.string()),
    ]
)


@dataclass(frozen=True)
class Summary:
    """What was written.

    Args:
        folder: as it was asked for.
        manifest: path of the manifest.
        hypotheses: path of the hypotheses.
        scenes: number of pictures.
        seed: they were drawn with.
        seconds: it took.
    """

    folder: str
    manifest: str
    hypotheses: str
    scenes: int
    seed: int
    seconds: float


def run(out: Path, *, count: int, seed: int) -> Summary:
    """Draws `count` scenes into `out`, which is made; what an earlier call wrote there is replaced.

    Raises:
        ConfigError: there is nothing to draw, or `out` cannot be a folder.
    """
    began = time.monotonic()
    if count < 1:
        raise ConfigError(f"--count is {count}; it must be at least 1")
    try:
        (out / PICTURES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        raise ConfigError(f"{out}: cannot be made a folder of scenes ({reason})") from error
    rows, lines = [], []
    for index, scene in enumerate(draw_scenes(count, seed)):
        image_id = f"scene-{seed}-{index:06d}"
        uri = f"{PICTURES}/{image_id}.png"
        draw(scene).save(out / uri)
        rows.append((image_id, uri, describe(scene), describe_in_chinese(scene)))
        for text, label in write_hypotheses(scene, seed, index):
            line = {IMAGE_ID: image_id, URI: uri, "text": text, "label": label}
            lines.append(json.dumps(line))
    columns = [list(column) for column in zip(*rows, strict=True)]
    pq.write_table(pa.table(columns, schema=MANIFEST_SCHEMA), out / MANIFEST)
    (out / HYPOTHESES).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Summary(
        folder=str(out),
        manifest=str(out / MANIFEST),
        hypotheses=str(out / HYPOTHESES),
        scenes=count,
        seed=seed,
        seconds=round(time.monotonic() - began, 3),
    )


if __name__ == "__main__":
    from jobs.cli import main

    main(["scenes"])

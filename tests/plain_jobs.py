"""Whole jobs over tiny pictures with operators that have no weights, for tests of the job itself.

    Brightness(name, …)    the image's mean grey value, 0 to 255
    Scaled(name, of=…, …)  a column times a factor

Both can be told to go wrong on a row, in the ways that rows do go wrong.
"""

import ctypes
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from jobs.shards import Plan, Shard, part_path
from jobs.table import open_table
from operators.base import fingerprint
from operators.catalog import check_document
from operators.images import decode_column
from schemas.config import JobConfig
from schemas.enriched import IMAGE_ENCODED
from schemas.errors import ModelError


class Brightness:
    """Writes `<name>`: float32, the mean grey value of the image."""

    batch_rows = 16

    def __init__(
        self, *, name: str = "brightness", version: int = 1, upstream_keys: Any = None
    ) -> None:
        self.name = name
        self.reads = (IMAGE_ENCODED,)
        self.writes = pa.schema([(name, pa.float32())])
        self.description: Mapping[str, Any] = {"use": "brightness", "version": version}
        self.key = fingerprint(self.description)

    def load(self) -> None:
        """There are no weights."""

    def __call__(self, table: pa.Table) -> pa.Table:
        images = decode_column(table[IMAGE_ENCODED])
        values = [float(np.asarray(image.convert("L")).mean()) for image in images]
        return pa.table([pa.array(values, pa.float32())], schema=self.writes)


class Scaled:
    """Writes `<name>`: float32, the column `of` times `factor`.

    Args:
        poison: a value of `of` that kills the process, as a fault in a C library would.
        stuck: a value of `of` that never comes back, and holds the interpreter's lock.
        broken: a value of `of` for which no answer can be computed.
        unreadable: whether its weights are damaged.
    """

    batch_rows = 16

    def __init__(
        self,
        *,
        of: str,
        factor: float = 2.0,
        poison: float | None = None,
        stuck: float | None = None,
        broken: float | None = None,
        unreadable: bool = False,
        name: str = "scaled",
        upstream_keys: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.of, self.factor = name, of, factor
        self.poison, self.stuck = poison, stuck
        self.broken, self.unreadable = broken, unreadable
        self.reads = (of,)
        self.writes = pa.schema([(name, pa.float32())])
        self.description: Mapping[str, Any] = {
            "use": "scaled",
            "of": of,
            "factor": factor,
            "upstream": dict(upstream_keys or {}),
        }
        self.key = fingerprint(self.description)

    def load(self) -> None:
        """There are no weights that could be damaged, but that is what a user would be told."""
        if self.unreadable:
            raise ModelError("model.safetensors is cut short")

    def __call__(self, table: pa.Table) -> pa.Table:
        values = pc.cast(table[self.of], pa.float32())
        if self.poison is not None and self.poison in values.to_pylist():
            os.kill(os.getpid(), signal.SIGKILL)
        if self.stuck is not None and self.stuck in values.to_pylist():
            ctypes.PyDLL(None).sleep(1_000_000)
        if self.broken is not None and self.broken in values.to_pylist():
            raise ArithmeticError(f"no answer for {self.broken:g}")
        return pa.table([pc.cast(pc.multiply(values, self.factor), pa.float32())], self.writes)


def _brightness() -> Callable[..., Any]:
    return Brightness


def _scaled() -> Callable[..., Any]:
    return Scaled


CATALOG: Mapping[str, Callable[[], Callable[..., Any]]] = {
    "brightness": _brightness,
    "scaled": _scaled,
}


COLUMNS = ("image_id", "uri", "number")


def write_pictures(folder: Path, numbers: Iterable[int]) -> None:
    """Writes 8 x 8 pictures `<number>.png`, each all of the grey value number mod 256."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.new("L", (8, 8), number % 256).save(folder / f"{number}.png")


def write_large_picture(path: Path, side: int) -> None:
    """Writes a grey picture of some pixels and few bytes."""
    Image.new("L", (side, side), 100).save(path)


def noise(side: int) -> bytes:
    """A PNG file that hardly compresses."""
    file = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_manifest(
    folder: Path,
    numbers: Iterable[int],
    *,
    name: str = "manifest",
    uris: Mapping[int, str | None] | None = None,
) -> None:
    """Writes a file of a manifest: ids, relative uris save those given, the numbers themselves."""
    numbers, uris = list(numbers), uris or {}
    rows = pa.table(
        {
            "image_id": [f"id-{number:05d}" for number in numbers],
            "uri": [uris.get(number, f"{number}.png") for number in numbers],
            "number": pa.array(numbers, pa.float32()),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, folder / f"{name}.parquet")


def config(folder: Path, count: int = 0, **given: Any) -> JobConfig:
    """The config of a job over a local folder.

    Args:
        folder: of the job; pictures and manifest lie in `photos`.
        count: pictures to write, numbered from 0, with their manifest; 0 for those that are there.
        given: `scaled`: options of that operator; other keys go to the config as they are.
    """
    if count:
        write_pictures(folder / "photos", range(count))
        write_manifest(folder / "photos", range(count))
    scaled = given.pop("scaled", {"of": "number"})
    document = {
        "manifest": str(folder / "photos" / "*.parquet"),
        "table": str(folder / "table"),
        "operators": {
            "brightness": {"use": "brightness"},
            "scaled": {"use": "scaled", **scaled},
        },
    }
    return check_document({**document, **given}, catalog=CATALOG)


def part_rows(planned: Plan, shard: Shard) -> list[dict[str, Any]]:
    """Reads the rows of a part."""
    rows: list[dict[str, Any]] = pq.read_table(part_path(planned, shard)).to_pylist()
    return rows


def table_rows(folder: Path, name: str = "table") -> list[dict[str, Any]]:
    """Reads the table of a job, by image_id."""
    table = open_table(str(folder / name))
    return table.read().sort_by("image_id").to_pylist() if table else []

"""Little images, operators that see them, and fetchers, for tests of fetching."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from operators.fetcher import Fetcher
from operators.images import decode
from operators.policy import Policy


def picture(seed: int, size: tuple[int, int] = (24, 16), kind: str = "PNG") -> bytes:
    """An image file of noise, width times height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, kind)
    return target.getvalue()


class Sees:
    """An operator that writes the width of the image it saw."""

    reads: tuple[str, ...] = ("image_encoded",)

    def __init__(self, name: str = "sees", key: str = "key-1") -> None:
        self.name = name
        self.key = key
        self.description = {"operator": name}
        self.writes = pa.schema([(name, pa.int64())])
        self.batch_rows = 3

    def load(self) -> None: ...

    def __call__(self, table: pa.Table) -> pa.Table:
        widths = [decode(encoded).size[0] for encoded in table["image_encoded"].to_pylist()]
        return pa.table({self.name: widths})


class Reads(Sees):
    """An operator that sees no image, only what another made of it."""

    def __init__(self, name: str, column: str) -> None:
        super().__init__(name)
        self.reads = (column,)

    def __call__(self, table: pa.Table) -> pa.Table:
        return table.rename_columns([self.name])


def local(folder: Path, operators: Any = None, **options: Any) -> Fetcher:
    """A fetcher of a folder's images that waits for nothing."""
    chain = [Sees()] if operators is None else operators
    return Fetcher(chain, Policy(str(folder)), **{"patience_seconds": 0, **options})


def shard(*uris: str | None, **columns: Any) -> pa.Table:
    """A shard of images."""
    ids = [f"{number:03}" for number in range(len(uris))]
    return pa.table({"image_id": ids, "uri": pa.array(uris, pa.string()), **columns})


def codes(table: pa.Table) -> list[str | None]:
    """The code of each row's error."""
    return [error and error["code"] for error in table["error"].to_pylist()]

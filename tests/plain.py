"""Operators without weights, so that a test of the job costs no model.

    Brightness(name, …)    the image's mean grey value, 0 to 255
    Scaled(name, of=…, …)  a column times a factor

Both can be told to go wrong on a row, in the ways that rows do go wrong.
"""

import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.base import fingerprint
from operators.images import decode_column
from schemas.enriched import IMAGE_ENCODED


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
        broken: a value of `of` for which no answer can be computed.
    """

    batch_rows = 16

    def __init__(
        self,
        *,
        of: str,
        factor: float = 2.0,
        poison: float | None = None,
        broken: float | None = None,
        name: str = "scaled",
        upstream_keys: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.of, self.factor = name, of, factor
        self.poison, self.broken = poison, broken
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
        """There are no weights."""

    def __call__(self, table: pa.Table) -> pa.Table:
        values = pc.cast(table[self.of], pa.float32())
        if self.poison is not None and self.poison in values.to_pylist():
            os.kill(os.getpid(), signal.SIGKILL)
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

"""A server's application over operators in this process, for tests that need no Ray."""

import asyncio
import base64
import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from starlette.testclient import TestClient

from jobs.serve import application
from jobs.serving.chain import build_chain, column_types
from jobs.serving.figures import Figures
from jobs.serving.worker import Reply, Row, Worker
from operators.base import apply
from operators.catalog import build_operators
from operators.embedded.scenes import Scene, draw
from schemas.config import ServedConfig
from schemas.enriched import IMAGE_ENCODED

LOCAL = "http://127.0.0.1:8000"  # what a server without a token answers to


class InProcess:
    """Operators that answer where they are asked, one row at a time."""

    def __init__(self, operators: Sequence[Any]) -> None:
        types = column_types(operators)
        self.workers = {operator.name: Worker(operator, types) for operator in operators}

    async def answer(self, name: str, row: Row) -> Reply:
        return (await asyncio.to_thread(self.workers[name].answer, [row]))[0]


class Stuck:
    """Operators that never answer, until they are let."""

    def __init__(self) -> None:
        self.asked = 0

    async def answer(self, name: str, row: Row) -> Reply:
        self.asked += 1
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


def client(config: ServedConfig, backend: Any = None, **options: Any) -> TestClient:
    """A client of a server of a config.

    Args:
        config: checked.
        backend: the operators, in this process when None.
        options: of `application`: `tokens`; and `headers` of the client.
    """
    operators, links = build_chain(config)
    headers = options.pop("headers", None)
    app = application(
        config, links, backend or InProcess(operators), Figures(), options.pop("tokens", [])
    )
    return TestClient(app, base_url=LOCAL, headers=headers, raise_server_exceptions=False)


def data_url(encoded: bytes) -> str:
    """An image as a data URL."""
    return "data:image/png;base64," + base64.b64encode(encoded).decode()


def encoded(scene: Scene) -> bytes:
    """A drawn scene as a PNG."""
    target = io.BytesIO()
    draw(scene).save(target, "PNG")
    return target.getvalue()


def as_job(config: ServedConfig, images: Sequence[bytes]) -> list[Row]:
    """The rows that a job computes of images, all in one shard."""
    table = pa.table({IMAGE_ENCODED: pa.array(images, pa.large_binary())})
    for operator in build_operators(config, []):
        table = apply(operator, table)
    return table.to_pylist()


def near(found: Any, expected: Any, tolerance: float) -> bool:
    """Whether two values of a row are equal, their numbers to a tolerance."""
    if isinstance(found, float):
        return abs(found - expected) <= tolerance
    if isinstance(found, list):
        pairs = zip(found, expected, strict=True)
        return all(near(one, other, tolerance) for one, other in pairs)
    if isinstance(found, dict):
        return all(near(value, expected[key], tolerance) for key, value in found.items())
    return bool(found == expected)


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


BOMB = (  # a PNG of 10,000,000,000 pixels in 60 bytes
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(b"\0" * 64))
    + _chunk(b"IEND", b"")
)

"""A server's application over operators in this process, for tests that need no Ray."""

import asyncio
import base64
import io
import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake
from starlette.testclient import TestClient

import jobs.index
from jobs.pictures import record_policy
from jobs.serve import application
from jobs.serving.chain import Chain, build_chain, column_types
from jobs.serving.figures import Figures
from jobs.serving.search import open_searcher
from jobs.serving.worker import Reply, Row, Worker
from operators.base import apply
from operators.catalog import build_operators
from operators.embedded.scenes import Scene, draw
from operators.policy import Policy
from schemas.config import ServedConfig
from schemas.enriched import ENRICHED_AT, ERROR, IMAGE_ENCODED

LOCAL = "http://127.0.0.1:8000"  # what a server without a token answers to


class InProcess:
    """Operators that answer where they are asked, one row at a time."""

    def __init__(self, operators: Sequence[Any]) -> None:
        types = column_types(operators)
        self.workers = {operator.name: Worker(operator, types) for operator in operators}

    async def answer(self, name: str, row: Row) -> Reply:
        return (await asyncio.to_thread(self.workers[name].answer, [row]))[0]

    async def gone(self) -> list[str]:
        return []


class Stuck:
    """Operators that never answer, until they are let."""

    def __init__(self) -> None:
        self.asked = 0
        self.ended: list[str] = []

    async def answer(self, name: str, row: Row) -> Reply:
        self.asked += 1
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def gone(self) -> list[str]:
        return self.ended


def client(config: ServedConfig, backend: Any = None, **options: Any) -> TestClient:
    """A client of a server of a config.

    Args:
        config: checked.
        backend: the operators, in this process when None.
        options: of `application`: `tokens`; and `headers` of the client.
    """
    headers = options.pop("headers", None)
    app = served(config, backend, **options)
    return TestClient(app, base_url=LOCAL, headers=headers, raise_server_exceptions=False)


def served(config: ServedConfig, backend: Any = None, *, tokens: Sequence[str] = ()) -> Any:
    """The application of a config; its operators answer in this process, unless others do."""
    operators, links = build_chain(config)
    chain = Chain(links, backend or InProcess(operators))
    searcher = open_searcher(config.serve.index, operators)
    return application(config, chain, Figures(), tokens=list(tokens), searcher=searcher)


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
    return _computed(build_operators(config, []), images).to_pylist()


def indexed(folder: Path, config: ServedConfig, images: Sequence[bytes]) -> str:
    """Makes a table of images as `enrich` would, and the index of it; gives its path."""
    operators = build_operators(config, [])
    names = [f"{at}.png" for at in range(len(images))]
    for name, image in zip(names, images, strict=True):
        (folder / name).write_bytes(image)
    computed = _computed(operators, images)
    kept = [column for one in operators for column in (*one.writes.names, f"{one.name}_key")]
    table = computed.select([*kept, ERROR, ENRICHED_AT])
    for column in ("uri", "image_id"):
        table = table.add_column(0, column, pa.array(names, pa.string()))
    write_deltalake(folder / "table", table)
    for operator in operators:
        record = folder / "table/_tagline/operators" / f"{operator.key}.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(operator.description))
    record_policy(str(folder / "table"), Policy(manifest=str(folder)))
    jobs.index.run(str(folder / "table"), str(folder / "index"))
    return str(folder / "index")


def _computed(operators: Sequence[Any], images: Sequence[bytes]) -> pa.Table:
    table = pa.table({IMAGE_ENCODED: pa.array(images, pa.large_binary())})
    for operator in operators:
        table = apply(operator, table)
    return table


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

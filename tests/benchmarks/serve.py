"""Measures what a server does with one client, with many, and with far too many.

`python -m tests.benchmarks.serve [--count 256] [--clients 64] [--seconds 15]`. Starts `tagline
serve infra/examples/serve.yaml` on a free port and asks for captions of drawn scenes: one after the
other, then by many clients at once, then by ten times as many as are let in. Prints the figures as
JSON: pictures a second, latencies, statuses, and the memory of the server and its children.
"""

import argparse
import asyncio
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import numpy as np

from operators.embedded.scenes import draw, draw_scenes
from tests.benchmarks.memory import memory_bytes

CONFIG = Path(__file__).parents[2] / "infra/examples/serve.yaml"
QUEUED = 100  # serve.max_queued_requests of the config
OVERLOAD = 10  # times as many clients


class Asked(NamedTuple):
    """What became of a question; status 0 where it was lost."""

    status: int
    seconds: float
    text: str = ""


logger = logging.getLogger(__name__)


def measure(*, count: int, clients: int, seconds: float) -> dict[str, Any]:
    """Starts a server, measures it, ends it."""
    command = [sys.executable, "-m", "jobs.cli", "serve", str(CONFIG), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = json.loads(server.stdout.readline())["address"]
            return asyncio.run(
                _measured(address, server.pid, count=count, clients=clients, seconds=seconds)
            )
        finally:
            server.send_signal(signal.SIGTERM)


async def _measured(
    address: str, pid: int, *, count: int, clients: int, seconds: float
) -> dict[str, Any]:
    pictures = [_encoded(scene) for scene in draw_scenes(count, 7)]
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=address, timeout=60, limits=limits) as client:
        await _asked(client, pictures, clients=clients)  # connections and first batches are slow
        alone = await _asked(client, pictures, clients=1)
        many = await _asked(client, pictures, clients=clients)
        before = _memory(pid)
        flood = await _flood(client, pictures, clients=OVERLOAD * QUEUED, seconds=seconds, pid=pid)
        began = time.monotonic()
        then = await _ask(client, pictures[0])
        flood["recovered"] = time.monotonic() - began
    return {
        "load": os.getloadavg()[0],
        "one_client": alone,
        f"{clients}_clients": many,
        "speedup": many["a_second"] / alone["a_second"],
        "answers_equal": alone.pop("texts") == many.pop("texts"),
        "overload": {
            **flood,
            "megabytes_before": before,
            "then": then.status,
        },
    }


async def _asked(
    client: httpx2.AsyncClient, pictures: list[bytes], *, clients: int
) -> dict[str, Any]:
    """Every picture once, by so many clients."""
    waiting = iter(enumerate(pictures))
    found: list[Asked] = []
    texts: dict[int, str] = {}

    async def one() -> None:
        for at, picture in waiting:
            found.append(await _ask(client, picture))
            texts[at] = found[-1].text

    began = time.monotonic()
    await asyncio.gather(*(one() for _ in range(clients)))
    seconds = time.monotonic() - began
    return {"a_second": len(found) / seconds, **_figures(found), "texts": texts}


async def _flood(
    client: httpx2.AsyncClient,
    pictures: list[bytes],
    *,
    clients: int,
    seconds: float,
    pid: int,
) -> dict[str, Any]:
    """Clients that ask again at once, whatever they are told, and all hang up when it is time."""
    found: list[Asked] = []

    async def one(at: int) -> None:
        while True:
            found.append(await _ask(client, pictures[at % len(pictures)]))

    memory: list[float] = []

    async def watch() -> None:
        while True:
            memory.append(await asyncio.to_thread(_memory, pid))
            await asyncio.sleep(1)

    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(watch(), *(one(at) for at in range(clients)))
    return {**_figures(found), "megabytes": memory}


async def _ask(client: httpx2.AsyncClient, picture: bytes) -> Asked:
    began = time.monotonic()
    try:
        answer = await client.post("/v1/caption", files={"image": ("scene.png", picture)})
    except httpx2.TransportError:
        logger.exception("event=lost")
        return Asked(0, time.monotonic() - began)  # a question that was lost
    assert answer.status_code != 503 or answer.headers["retry-after"]
    text = answer.json().get("text", "")
    return Asked(answer.status_code, time.monotonic() - began, text)


def _figures(found: list[Asked]) -> dict[str, Any]:
    answered = [one.seconds for one in found if one.status == 200]
    return {
        "statuses": dict(Counter(one.status for one in found)),
        "p50": float(np.quantile(answered, 0.5)),
        "p99": float(np.quantile(answered, 0.99)),
    }


def _memory(pid: int) -> float:
    """Megabytes of the server, its Ray and its replicas together."""
    return sum(memory_bytes(pid).values()) / 1e6


def _encoded(scene: Any) -> bytes:
    target = io.BytesIO()
    draw(scene).save(target, "PNG")
    return target.getvalue()


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=256, help="pictures a measurement")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=15, help="of overload")
    arguments = parser.parse_args()
    figures = measure(count=arguments.count, clients=arguments.clients, seconds=arguments.seconds)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

"""Jobs that are killed: an S3 server that does it at a chosen write, and a reader that watches.

A kill point is told by what a driver is about to store, or has just stored: its k-th part, or its
commit. The server therefore sees to it: no hook is needed in the program, and no luck.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jobs.table import open_table
from tests import s3

PROJECT = Path(__file__).parents[2]
BUCKET = "photos"
TABLE = f"s3://{BUCKET}/table"
SECONDS = 500  # for one driver on a busy machine
WRITES = {"part": "/table/data/", "commit": "/table/_delta_log/"}


@dataclass(frozen=True)
class Kill:
    """When a driver is killed.

    Args:
        when: relative to the store having the file.
        what: it stores.
        nth: counted from 1 in the life of that driver.
    """

    when: Literal["before", "after"]
    what: Literal["part", "commit"]
    nth: int = 1


@dataclass
class Gate:
    """Stands before an S3 server and kills a driver at its kill point."""

    inner: Any
    kill: Kill | None = None
    process: int = 0
    seen: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def arm(self, kill: Kill | None, process: int) -> None:
        """Chooses whom to kill, and when; nobody when `kill` is None."""
        with self.lock:
            self.kill, self.process, self.seen = kill, process, 0

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Answers a request as the server does, unless its sender dies of it."""
        kill = self._due(environ)
        if kill and kill.when == "before":
            os.kill(self.process, signal.SIGKILL)
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return []
        answer = self.inner(environ, start_response)
        if kill:
            os.kill(self.process, signal.SIGKILL)
        return answer

    def _due(self, environ: Any) -> Kill | None:
        with self.lock:
            if self.kill is None or environ["REQUEST_METHOD"] != "PUT":
                return None
            if WRITES[self.kill.what] not in environ["PATH_INFO"]:
                return None
            self.seen += 1
            if self.seen != self.kill.nth:
                return None
            kill, self.kill = self.kill, None
            return kill


@contextmanager
def gated_server(monkeypatch: Any) -> Iterator[Gate]:
    """Runs an S3 server behind a gate, with an empty bucket, and points this process at it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    gate = Gate(server._server.app)
    server._server.app = gate
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    for name, value in s3.environment(endpoint).items():
        monkeypatch.setenv(name, value)
    _make_empty_bucket(endpoint)
    try:
        yield gate
    finally:
        server.stop()


def _make_empty_bucket(endpoint: str) -> None:
    """Makes the bucket; what an earlier server of this process held is taken out."""
    client = s3.client(endpoint)
    client.create_bucket(Bucket=BUCKET)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        keys = [{"Key": found["Key"]} for found in page.get("Contents", [])]
        if keys:
            client.delete_objects(Bucket=BUCKET, Delete={"Objects": keys})


def write_pictures(numbers: Iterable[int]) -> None:
    """Puts 8 x 8 pictures, each of one grey value, into the bucket."""
    client = s3.client(os.environ["AWS_ENDPOINT_URL"])

    def put(number: int) -> None:
        file = BytesIO()
        Image.new("L", (8, 8), number % 256).save(file, "PNG")
        client.put_object(Bucket=BUCKET, Key=f"pictures/{number}.png", Body=file.getvalue())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, numbers))


def write_manifest(numbers: Iterable[int]) -> None:
    """Puts the manifest, over the one that was there."""
    numbers = list(numbers)
    rows = pa.table(
        {
            "image_id": [f"id-{number:05d}" for number in numbers],
            "uri": [f"s3://{BUCKET}/pictures/{number}.png" for number in numbers],
            "number": pa.array(numbers, pa.float32()),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    client = s3.client(os.environ["AWS_ENDPOINT_URL"])
    data = sink.getvalue().to_pybytes()
    client.put_object(Bucket=BUCKET, Key="manifest.parquet", Body=data)


def write_config(path: Path) -> Path:
    """Writes the config of the job; its shards are of at most 250 rows of 3,000."""
    document = {
        "manifest": f"s3://{BUCKET}/manifest.parquet",
        "table": TABLE,
        "operators": {
            "brightness": {"use": "brightness"},
            "scaled": {"use": "scaled", "of": "number"},
        },
        "resources": {"scaled": {"actors": 3, "cpus": 0.2}},
    }
    path.write_text(json.dumps(document))
    return path


class Drivers:
    """Starts drivers, each a process of its own, and lets none outlive a `with`."""

    def __init__(self, config: Path, gate: Gate) -> None:
        self.config, self.gate = config, gate
        self.log = config.with_suffix(".log")
        self._all: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Drivers":
        return self

    def __exit__(self, *_: object) -> None:
        for driver in self._all:
            driver.kill()
            driver.wait()

    def killed(self, kill: Kill) -> None:
        """Runs a driver until it is killed."""
        driver = self._started()
        self.gate.arm(kill, driver.pid)
        assert driver.wait(SECONDS) == -signal.SIGKILL, self.log.read_text()

    def done(self, count: int = 1) -> None:
        """Runs some drivers at once, all to their end."""
        self.gate.arm(None, 0)
        drivers = [self._started() for _ in range(count)]
        assert [driver.wait(SECONDS) for driver in drivers] == [0] * count, self.log.read_text()

    def _started(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as out:
            driver = subprocess.Popen(
                [sys.executable, "-m", "tests.plain_driver", str(self.config)],
                cwd=PROJECT,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self._all.append(driver)
        return driver


def table_of(numbers: Iterable[int]) -> list[tuple[str, float, float]]:
    """What the table must hold at the end: ids, brightness and scaled, in order."""
    return [(f"id-{n:05d}", float(n % 256), 2.0 * n) for n in numbers]


def table_now() -> list[tuple[str, float, float]]:
    """What the table does hold, in order of ids."""
    table = open_table(TABLE)
    assert table is not None
    rows = table.read(["image_id", "brightness", "scaled"]).sort_by("image_id").to_pylist()
    return [(row["image_id"], row["brightness"], row["scaled"]) for row in rows]

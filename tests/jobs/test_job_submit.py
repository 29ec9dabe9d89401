"""`ray job submit` against a real cluster of one machine."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.table import open_table
from tests.tiny import photographs

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
START_SECONDS = 240
OPERATOR = """
import pyarrow as pa

from operators.base import fingerprint


class Length:
    def __init__(self, *, name):
        self.name, self.batch_rows, self.reads = name, 64, ("image_encoded",)
        self.writes = pa.schema([(name, pa.int64())])
        self.description = {"operator": "length", "code": 1}
        self.key = fingerprint(self.description)

    def load(self):
        pass

    def __call__(self, table):
        return pa.table([[len(one) for one in table["image_encoded"].to_pylist()]], self.writes)
"""  # that needs no torch, whose import would be most of the test's time


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A head on the loopback with ports of its own, and the environment that reaches it."""
    ports = free_ports(6)
    names = (
        "--port",
        "--dashboard-port",
        "--dashboard-agent-listen-port",
        "--dashboard-agent-grpc-port",
        "--metrics-export-port",
        "--ray-client-server-port",
    )
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",  # a job's `python` is found there
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "of-this-test-" + "0" * 32,
        "OMP_NUM_THREADS": "1",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # else the head takes 30 seconds to end
    }
    given = [f"{name}={port}" for name, port in zip(names, ports, strict=True)]
    command = [BIN / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", *given]
    command += ["--num-cpus=2", "--object-store-memory=200000000", "--dashboard-host=127.0.0.1"]
    log = (tmp_path / "head.log").open("wb")
    head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{ports[1]}"
        wait_for(address, environment["RAY_AUTH_TOKEN"])
        yield {**environment, "RAY_API_SERVER_ADDRESS": address}
    finally:
        head.terminate()
        head.wait(60)
        log.close()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(address: str, token: str) -> None:
    request = urllib.request.Request(
        f"{address}/api/version", headers={"Authorization": f"Bearer {token}"}
    )
    ends = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < ends, "the cluster did not start"
            time.sleep(0.5)  # its only sign of life is that it answers
        else:
            return


def test_a_submitted_job_with_an_operator_of_its_own_enriches_on_the_cluster(tmp_path, cluster):
    folder = tmp_path / "job"
    (folder / "photos").mkdir(parents=True)
    names, sizes = zip(*sorted((p.name, p.stat().st_size) for p in photographs()), strict=True)
    for path in photographs():
        shutil.copy(path, folder / "photos")
    manifest = pa.table({"image_id": names, "uri": names})
    pq.write_table(manifest, folder / "photos" / "manifest.parquet")
    document = {
        "manifest": str(folder / "photos" / "manifest.parquet"),
        "table": str(tmp_path / "table"),
        "operators": {"length": {"use": "user_operators:Length"}},
    }
    (folder / "user_operators.py").write_text(OPERATOR)
    (folder / "job.yaml").write_text(yaml.safe_dump(document))
    submit = ["ray", "job", "submit", "--working-dir", str(folder), "--"]
    command = [*submit, "python", "-m", "jobs.enrich", "job.yaml", "--json"]

    done = subprocess.run(
        [BIN / command[0], *command[1:]],
        env=cluster,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    summary = next(json.loads(line) for line in done.stdout.splitlines() if line[:8] == '{"rows":')
    assert summary["computed"] == {"length": len(names)}
    table = open_table(document["table"]).read(["image_id", "length"]).sort_by("image_id")
    assert table.to_pydict() == {"image_id": list(names), "length": list(sizes)}

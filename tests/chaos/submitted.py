"""Faults of submitted jobs: stopped by `ray job stop`, submitted twice under one id."""

import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.cluster import ENVIRONMENT
from tests.chaos.command import SECONDS, surroundings
from tests.chaos.fault import Fault
from tests.chaos.life import Life
from tests.chaos.processes import GOES_ON

RAY = Path(sys.executable).parent / "ray"
START_SECONDS = 240
PORTS = (
    "--port",
    "--dashboard-port",
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--metrics-export-port",
    "--ray-client-server-port",
)


@contextmanager
def head(folder: Path) -> Iterator[dict[str, str]]:
    """Runs a head on the loopback with ports of its own; gives the environment that reaches it."""
    ports = _free_ports(len(PORTS))
    environment = {
        **os.environ,
        **surroundings(),
        **ENVIRONMENT,
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # else the head takes 30 seconds to end
    }
    given = [f"{name}={port}" for name, port in zip(PORTS, ports, strict=True)]
    command = [RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", *given]
    command += ["--num-cpus=2", "--object-store-memory=200000000", "--dashboard-host=127.0.0.1"]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{ports[1]}"
            _wait_for(address, environment["RAY_AUTH_TOKEN"])
            yield {**environment, "RAY_API_SERVER_ADDRESS": address}
        finally:
            process.terminate()
            process.wait(60)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_for(address: str, token: str) -> None:
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


def job(environment: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Runs `ray job …` to its end."""
    return subprocess.run(
        [RAY, "job", *words],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def stop_job(point: random.Random, life: Life) -> None:
    """`ray job stop` in the run; a new submission goes on."""
    life.grow()
    name = f"nightly-{point.randint(0, 10**6)}"
    with head(life.folder) as environment:
        _submit(environment, life, name, "--no-wait")
        _until_parts(life, point.randint(1, 6))
        job(environment, "stop", name)
        text = job(environment, "logs", name).stdout
        status = job(environment, "status", name).stdout
        if "succeeded" not in status:  # else it was done before
            assert "was stopped" in status, status
            assert GOES_ON in text, text
            assert "event=run_failed" in text, text
        _submit(environment, life, f"{name}-r2")


def submit_twice(point: random.Random, life: Life) -> None:
    """The same id again while the first runs or is done: refused, and nothing is done twice."""
    life.grow()
    name = f"nightly-{point.randint(0, 10**6)}"
    with head(life.folder) as environment:
        _submit(environment, life, name, "--no-wait")
        if point.random() < 0.5:
            _until_parts(life, point.randint(1, 6))
        second = job(environment, "submit", "--submission-id", name, *_entry(life))
        assert second.returncode != 0, second.stdout
        assert "already exists" in second.stdout + second.stderr, second.stdout + second.stderr
        job(environment, "logs", "--follow", name)
    life.until_done()


def _submit(environment: Mapping[str, str], life: Life, name: str, *flags: str) -> None:
    """Submits the command under a name, which must be taken."""
    taken = job(environment, "submit", *flags, "--submission-id", name, *_entry(life))
    assert taken.returncode == 0, taken.stdout + taken.stderr


def _entry(life: Life) -> list[str]:
    words = life.words()
    return ["--", "python", *words[1:]]


def _until_parts(life: Life, count: int) -> None:
    before, ends = len(life.parts()), time.monotonic() + START_SECONDS
    while len(life.parts()) < before + count:
        assert time.monotonic() < ends, "the job puts no parts"
        time.sleep(0.05)


FAULTS = (
    Fault("`ray job stop`", stop_job, "says what is kept", is_short=False),
    Fault("a job submitted again with the same id", submit_twice, "refused", is_short=False),
)

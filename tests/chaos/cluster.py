"""A Ray cluster of several nodes on this machine, as a process that can be broken.

    python -m tests.chaos.cluster CPUS…      a head without cores, and a node for each number

Prints its address and the processes of its nodes as JSON; ends when its standard input does.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tests.chaos.command import PROJECT, surroundings

TOKEN = "of-these-faults-" + "0" * 32
ENVIRONMENT = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
PLACE = {"node_ip_address": "127.0.0.1", "object_store_memory": 200_000_000}


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs.

    Args:
        address: for `--address`.
        raylets: process ids, the head's first.
        all: process ids of all its processes.
    """

    address: str
    raylets: Sequence[int]
    all: Sequence[int]

    def kill_node(self, number: int) -> None:
        """Kills a node's raylet, with which its workers go."""
        os.kill(self.raylets[1 + number], signal.SIGKILL)

    def kill(self) -> None:
        """Kills all of it, the head first."""
        for process in self.all:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


@contextmanager
def running(cpus: Sequence[float]) -> Iterator[Cluster]:
    """Runs a cluster for the length of a `with`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.cluster", *map(str, cpus)],
        cwd=PROJECT,
        env={**os.environ, **surroundings(), **ENVIRONMENT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        line = next(line for line in process.stdout if line.startswith("{"))
        yield Cluster(**json.loads(line))
    finally:
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def main(cpus: Sequence[float]) -> None:
    """Starts the cluster and waits."""
    from ray.cluster_utils import Cluster as Nodes

    head = {**PLACE, "num_cpus": 0, "include_dashboard": False}
    nodes = Nodes(initialize_head=True, head_node_args=head)
    try:
        started = [nodes.head_node, *(nodes.add_node(num_cpus=one, **PLACE) for one in cpus)]
        processes = [
            {
                kind: [info.process.pid for info in infos]
                for kind, infos in node.all_processes.items()
            }
            for node in started
        ]
        told = {
            "address": nodes.address,
            "raylets": [one["raylet"][0] for one in processes],
            "all": [pid for one in processes for pids in one.values() for pid in pids],
        }
        print(json.dumps(told), flush=True)
        sys.stdin.read()
    finally:
        nodes.shutdown()


if __name__ == "__main__":
    main([float(one) for one in sys.argv[1:]])

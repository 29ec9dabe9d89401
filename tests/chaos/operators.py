"""Operators without weights for jobs that are broken on purpose: `use: tests.chaos.operators:…`.

What goes wrong is told by a file of switches, read anew at each call and in nobody's key. So the
same command does harm, and goes on once the harm is gone.

    {"seconds": 0.02,      that each row takes
     "deaths": 0.1,        of all batches kill their process
     "slow_actor": 10,     times as long takes what the first actor to come does
     "segfault": [3],      rows that read at address 0
     "hang": [5],          rows that never come back, and hold the interpreter's lock
     "memory": [7],        rows that ask for more than RLIMIT_AS has
     "oom": [9], "cgroup": "/sys/fs/cgroup/…"}   rows that the kernel kills for in a group's limit
"""

import ctypes
import json
import os
import random
import resource
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.base import fingerprint

SPARE_BYTES = 100_000_000  # of address space, when a row asks for more
BLOCK_BYTES = 1_000_000_000


class Twice:
    """Writes `<name>`: float32, the column `of` times two, unless a switch says otherwise."""

    batch_rows = 4

    def __init__(
        self,
        *,
        of: str,
        switches: str,
        name: str = "twice",
        upstream_keys: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.of, self.switches = name, of, switches
        self.reads = (of,)
        self.writes = pa.schema([(name, pa.float32())])
        upstream = dict(upstream_keys or {})
        self.description: Mapping[str, Any] = {"use": "twice", "of": of, "upstream": upstream}
        self.key = fingerprint(self.description)

    def load(self) -> None:
        """There are no weights."""

    def __call__(self, table: pa.Table) -> pa.Table:
        values = pc.cast(table[self.of], pa.float32())
        path = Path(self.switches)
        switches = json.loads(path.read_text()) if path.exists() else {}
        _do_harm(switches, {int(value) for value in values.to_pylist()})
        time.sleep(switches.get("seconds", 0) * table.num_rows * _slowness(path, switches))
        return pa.table([pc.cast(pc.multiply(values, 2.0), pa.float32())], self.writes)


def _do_harm(switches: Mapping[str, Any], numbers: set[int]) -> None:
    if random.random() < switches.get("deaths", 0):
        os.kill(os.getpid(), signal.SIGKILL)
    if numbers & set(switches.get("segfault", ())):
        ctypes.string_at(0)
    if numbers & set(switches.get("hang", ())):
        ctypes.PyDLL(None).sleep(1_000_000)
    if numbers & set(switches.get("memory", ())):
        _ask_for_too_much()
    if numbers & set(switches.get("oom", ())):
        _be_killed_for_memory(Path(switches["cgroup"]))


def _ask_for_too_much() -> None:
    """Raises MemoryError, as the allocator does where an rlimit ends."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + SPARE_BYTES, before[1]))
    try:
        np.ones(BLOCK_BYTES, np.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _be_killed_for_memory(group: Path) -> None:
    """Takes memory in a control group until the kernel kills this process."""
    (group / "cgroup.procs").write_text(str(os.getpid()))
    taken = []
    while True:
        taken.append(np.ones(SPARE_BYTES // 10, np.uint8))


def _slowness(path: Path, switches: Mapping[str, Any]) -> float:
    """10 in one process of all, where a switch says so: that which comes first."""
    if "slow_actor" not in switches:
        return 1.0
    mark = path.with_suffix(".slow")
    with suppress(FileExistsError), mark.open("x") as file:
        file.write(str(os.getpid()))
    return float(switches["slow_actor"]) if mark.read_text() == str(os.getpid()) else 1.0

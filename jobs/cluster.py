"""Where a job runs: a Ray of its own on this machine, or a cluster that is there already.

A Ray of its own listens on the loopback only, wants a token that lives in this process, has no
dashboard, and ends with the process that started it, however that ends. Measured on Ray 2.60.
"""

import logging
import os
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path

from jobs.interruption import KEPT, keeping_handler
from schemas.config import Machines
from schemas.errors import RunError

OBJECT_STORE_BYTES = 1_000_000_000  # a few shards of encoded images; what does not fit is spilled
OBJECT_STORE_FRACTION = 0.2  # of the memory, on small machines
LOOPBACK = "127.0.0.1"
ENVIRONMENT = {  # of a Ray of its own
    "OMP_NUM_THREADS": "1",  # the actors share the cores, not each all of them
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # mimalloc keeps the buffers of a shard for later
    "MALLOC_MMAP_THRESHOLD_": "8388608",  # bytes; else glibc, too, keeps large buffers it has freed
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # what matters reaches us as errors
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anyone
    "RAY_worker_niceness": "0",  # else 15: any other process would go first
    "RAY_idle_worker_killing_time_threshold_ms": "60000",  # else 1000: a new process a part
}
KNOCK_SECONDS = 10.0  # for a cluster's port to answer
KNOCK_EVERY_SECONDS = 5.0
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"  # how long Ray waits for a lost server
RECONNECT_SECONDS = 60.0  # unless that says otherwise
AHEAD_SECONDS = 20.0  # of Ray, which then ends this process without a word
LOST_SECONDS = 40.0  # without an answer, at least
LOST_KNOCKS = 3  # without an answer, at least: this process may itself have been stopped
START_TRIES = 3  # a busy machine may miss the 30 seconds Ray gives itself
MEMORY_LIMIT_FILES = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True)
class Capacity:
    """What a cluster has, whether in use or not.

    Args:
        cpus: cores.
        gpus: GPUs.
        largest_cpus: cores of the largest node; an actor cannot have more.
        largest_gpus: GPUs of the node with most.
    """

    cpus: float
    gpus: float
    largest_cpus: float
    largest_gpus: float

    def grown_to(self, machines: Machines | None) -> "Capacity":
        """What there is once an autoscaler has added all machines that it may."""
        if machines is None:
            return self
        return Capacity(
            max(self.cpus, machines.count * machines.cpus),
            max(self.gpus, machines.count * machines.gpus),
            max(self.largest_cpus, machines.cpus),
            max(self.largest_gpus, machines.gpus),
        )


def cluster_address(address: str | None = None) -> str | None:
    """Names the cluster to join; None for a Ray of one's own. A submitted job has RAY_ADDRESS."""
    named = address or os.environ.get("RAY_ADDRESS") or None
    return None if named == "local" else named


def local_capacity() -> Capacity:
    """Counts what this machine lets this process use; starts nothing."""
    cpus = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else 0.0
    cpus = cpus or float(os.cpu_count() or 1)
    gpus = float(_visible_gpus())
    return Capacity(cpus, gpus, cpus, gpus)


@contextmanager
def connected(
    address: str | None = None,
    *,
    machines: Machines | None = None,
    on_lost: Callable[[str], object] | None = None,
) -> Iterator[Capacity]:
    """Connects to Ray for the length of a `with`, starting one where no cluster is named.

    Args:
        address: of a cluster; else RAY_ADDRESS, else a Ray of its own.
        machines: that a cluster may grow to; a Ray of its own does not grow.
        on_lost: told when Ray is gone for good, before this process is ended with exit code 1;
            without it Ray itself ends it a little later, and says nothing of what is kept.

    Yields:
        What the cluster has, or may grow to.

    Raises:
        RunError: the cluster named does not answer.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # else Ray leaves 127.0.0.1
    import ray

    if ray.is_initialized():  # the caller's own: a notebook, a test module
        yield _connected_capacity()
        return
    address = cluster_address(address)
    with keeping_handler():
        logs = _start() if address is None else _join(address)
    over = threading.Event()
    try:
        if on_lost:
            _watched(address, over, on_lost)
        yield _connected_capacity().grown_to(machines if address else None)
    finally:
        over.set()
        ray.shutdown()
    if logs:  # of interest only when something went wrong
        shutil.rmtree(logs, ignore_errors=True)


def _start() -> Path:
    """Starts a Ray and gives the folder of its logs."""
    import ray

    has_token = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path("~/.ray/auth_token").expanduser()
    if not Path(has_token).exists():
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    capacity = local_capacity()
    for trial in range(1, START_TRIES + 1):
        try:
            with _no_stderr():
                started = ray.init(
                    address="local",
                    _node_ip_address=LOOPBACK,
                    num_cpus=int(capacity.cpus),
                    num_gpus=int(capacity.gpus),
                    include_dashboard=False,
                    object_store_memory=object_store_bytes(),
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                )
        except Exception as error:  # Ray raises nothing narrower
            ray.shutdown()
            if trial == START_TRIES:
                raise RunError(
                    f"Ray did not start on this machine in {trial} tries: {error}; its logs lie in "
                    "/tmp/ray; free memory and cores, or name a cluster with --address"
                ) from error
        else:
            return Path(started.address_info["session_dir"])  # type: ignore[attr-defined]
    raise AssertionError("unreachable")


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Sends file descriptor 2 nowhere: Ray's C++ tells there that it logs less, by no option.

    What Python writes to standard error meanwhile, as of another thread, goes where it did.
    """
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with open(kept, "w", encoding="utf-8", errors="surrogateescape") as ours:
        try:
            sys.stderr.flush()
            os.dup2(nowhere, 2)
            with redirect_stderr(ours):
                yield
        finally:
            ours.flush()
            os.dup2(kept, 2)
            os.close(nowhere)


def _join(address: str) -> Path | None:
    """Connects to a cluster; its logs are its own affair."""
    import ray

    try:
        knock(address)
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise RunError(
            f"no Ray cluster answers at {address!r}: {error}; start one, or leave out --address "
            "and RAY_ADDRESS to run on this machine"
        ) from error
    return None


def _watched(address: str | None, over: threading.Event, on_lost: Callable[[str], object]) -> None:
    """Starts a thread that knocks at Ray's server until `over` is set."""
    import ray

    is_remote = address is not None and address.startswith("ray://")
    server = address if is_remote and address else ray.get_runtime_context().gcs_address
    where = f"at {address!r}" if address else "on this machine"

    def watch() -> None:
        silence = _Silence(lost_seconds())
        while not over.wait(KNOCK_EVERY_SECONDS):
            try:
                knock(server)
                silence.ends()
            except OSError as error:
                if silence.is_for_good() and not over.is_set():
                    message = f"Ray {where} is gone: {error}; {KEPT}"
                    on_lost(message)
                    print(f"tagline: {message}", file=sys.stderr, flush=True)
                    os._exit(RunError.exit_code)

    threading.Thread(target=watch, name="knocking", daemon=True).start()


class _Silence:
    """How long a server has not answered, and how many knocks.

    Args:
        seconds: until it is gone.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.ends()

    def ends(self) -> None:
        """Takes an answer."""
        self._heard, self._missed = time.monotonic(), 0

    def is_for_good(self) -> bool:
        """Takes a knock that was not answered, and says whether the server is gone."""
        self._missed += 1
        waited = time.monotonic() - self._heard
        return waited > self.seconds and self._missed >= LOST_KNOCKS


def lost_seconds() -> float:
    """How long a server may not answer: less than Ray itself waits for it."""
    told = os.environ.get(RECONNECT, "")
    waits = float(told) if told.isdigit() else RECONNECT_SECONDS
    return max(LOST_SECONDS, waits - AHEAD_SECONDS)


def knock(address: str) -> None:
    """Raises OSError where nothing listens at HOST:PORT, for which Ray would wait minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


def _connected_capacity() -> Capacity:
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [node["Resources"] for node in nodes if node["Alive"]]
    cpus = [float(node.get("CPU", 0)) for node in nodes] or [0.0]
    gpus = [float(node.get("GPU", 0)) for node in nodes] or [0.0]
    return Capacity(sum(cpus), sum(gpus), max(cpus), max(gpus))


def _visible_gpus() -> int:
    """Counts NVIDIA's GPUs by their device files, less what CUDA_VISIBLE_DEVICES hides."""
    there = sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia*"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return there
    return min(there, len([device for device in visible.split(",") if device.strip()]))


def object_store_bytes() -> int:
    """The size of the object store of a Ray of one's own."""
    return int(min(OBJECT_STORE_BYTES, OBJECT_STORE_FRACTION * memory_bytes()))


def memory_bytes() -> int:
    """Memory of the machine or of the container, whichever is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in MEMORY_LIMIT_FILES:
        text = path.read_text().strip() if path.exists() else "max"
        if text.isdigit():
            total = min(total, int(text))
    return total

"""Checks of the machine: Python, packages, Ray, devices, memory, disk, ports, names of secrets."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from jobs import cluster
from jobs.health.finding import Finding, failed, ok, warning
from operators.models import checkpoint
from operators.precision import processor_flags
from schemas.errors import RunError

LEAST_PYTHON = (3, 11)
PINNED = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==([^;\s]+)\s*(;.*)?$")
LOW_DISK, LEAST_DISK = 5_000_000_000, 500_000_000  # bytes free where Ray spills and pip unpacks
LOW_MEMORY = 4_000_000_000  # bytes; Ray and one embedded model want about 2 GB
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
SMI = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
SMI_SECONDS = 20
SECRETS = (  # variables whose names are told, never their values
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "HF_TOKEN",
    "MODELSCOPE_API_TOKEN",
    "RAY_AUTH_TOKEN",
    "TAGLINE_TOKENS",
)
AWS_FILES = ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def python() -> Finding:
    """Whether this Python is new enough."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < LEAST_PYTHON:
        return failed("python", found, "install Python 3.11 or newer, and tagline anew")
    return ok("python", f"{found} at {sys.executable}")


def packages() -> Finding:
    """Whether the packages are those that this tagline was tested with."""
    try:
        wanted = metadata.requires("tagline") or []
    except metadata.PackageNotFoundError:
        advice = "pip install --editable . in the project's folder"
        return warning("packages", "tagline itself is not installed", advice)
    missing, others, fine = [], [], 0
    for name, version, is_extra in _pins(wanted):
        found = _version(name)
        if found is None:
            missing += [] if is_extra else [f"{name}=={version}"]
        elif found != version:
            others.append(f"{name} {found} instead of {version}")
        else:
            fine += 1
    if missing:
        return failed("packages", f"missing: {', '.join(missing)}", "pip install tagline anew")
    if others:
        advice = "what was tested is what is pinned: pip install tagline anew"
        return warning("packages", ", ".join(others), advice)
    return ok("packages", f"{fine} as pinned")


def ray(*, starts: bool, address: str | None = None) -> Finding:
    """Whether Ray can be reached or started.

    Args:
        starts: connects, and starts a Ray where no cluster is named, which takes seconds.
        address: of a cluster; else RAY_ADDRESS.
    """
    named = cluster.cluster_address(address)
    where = f"a cluster at {named}" if named else "a Ray of its own on this machine"
    if not starts:
        try:
            if named:
                cluster.knock(named)
        except OSError as error:
            advice = "start the cluster, or unset RAY_ADDRESS to run on this machine"
            return failed("ray", f"nothing answers at {named}: {error}", advice)
        return ok("ray", f"{where}, not tried (--ray does)")
    begun = time.monotonic()
    try:
        with cluster.connected(address) as capacity:
            seconds = time.monotonic() - begun
            found = f"{capacity.cpus:g} CPUs, {capacity.gpus:g} GPUs, in {seconds:.1f} s"
            return ok("ray", f"{where}: {found}")
    except RunError as error:
        return failed("ray", str(error), "see /tmp/ray/session_latest/logs")


def devices() -> Iterator[Finding]:
    """The cores and what they can, the memory, the GPUs and whether torch sees them."""
    capacity = cluster.local_capacity()
    flags = processor_flags()
    there = [flag for flag in CPU_FLAGS if flag in flags]
    yield ok("cores", f"{capacity.cpus:g}" + (f" with {', '.join(there)}" if there else ""))
    memory = cluster.memory_bytes()
    told = f"{memory / 1e9:.1f} GB"
    if memory < LOW_MEMORY:
        yield warning("memory", told, "run one actor an operator (resources), or a larger machine")
    else:
        yield ok("memory", told)
    if capacity.gpus:
        yield _gpus()
    else:
        yield ok("gpus", "none; models run on the cores")


def disk() -> Iterator[Finding]:
    """Room for temporary files, and for Ray's object store."""
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError as error:
        yield failed("disk", str(error), "let this user write to /tmp, or set TMPDIR")
        return
    asked = os.environ.get("TMPDIR")
    if asked and os.path.realpath(asked) != os.path.realpath(folder):
        advice = "make room in it and let this user write there, or set TMPDIR to another folder"
        yield warning("disk", f"TMPDIR {asked} cannot be written; {folder} is used", advice)
    free = shutil.disk_usage(folder).free
    told = f"{free / 1e9:.1f} GB free in {folder}"
    advice = "free some, or set TMPDIR (and RAY_TMPDIR) to a larger disk"
    if free < LEAST_DISK:
        yield failed("disk", told, advice)
    elif free < LOW_DISK:
        yield warning("disk", told, advice)
    else:
        yield ok("disk", told)
    shared = Path("/dev/shm")
    if not shared.is_dir():
        return
    free, wanted = shutil.disk_usage(shared).free, cluster.object_store_bytes()
    told = f"{free / 1e9:.2f} GB free in /dev/shm, Ray wants {wanted / 1e9:.2f}"
    if free < wanted:
        yield warning(
            "shared memory", told, "docker run --shm-size=2g; else Ray uses the slow disk"
        )
    else:
        yield ok("shared memory", told)


def cache() -> Finding:
    """Whether fetched models, and the digests of all models, can be kept."""
    folder = checkpoint.cache_folder()
    above = next(one for one in (folder, *folder.parents) if one.exists())
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        return ok("cache", str(folder))
    advice = "set TAGLINE_CACHE to a folder that this user may write"
    told = f"{folder} cannot be written: no model can be fetched, digests are computed every time"
    return warning("cache", told, advice)


def ports() -> Finding:
    """Whether this process may listen on the loopback, as Ray's own must."""
    try:
        with socket.socket() as probe:
            probe.bind((cluster.LOOPBACK, 0))
    except OSError as error:
        advice = "let processes listen on 127.0.0.1; Ray's talk to each other there"
        return failed("ports", f"cannot listen on {cluster.LOOPBACK}: {error}", advice)
    return ok("ports", f"{cluster.LOOPBACK} can be listened on")


def port(host: str, number: int) -> Finding:
    """Whether the port of `tagline serve` is free."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, number))
    except OSError as error:
        advice = "end what listens there, or give `tagline serve` another --port"
        return warning("serve's port", f"{host}:{number}: {error.strerror}", advice)
    return ok("serve's port", f"{host}:{number} is free")


def credentials(*, needs_s3: bool) -> Finding:
    """Which secrets are there, by name."""
    names = [name for name in SECRETS if os.environ.get(name)]
    files = [os.environ.get(AWS_FILES[0]) or AWS_FILES[1]]
    names += [file for file in files if Path(file).expanduser().is_file()]
    has_s3 = any(name.startswith("AWS_") or name in files for name in names)
    told = ", ".join(names) or "none"
    if needs_s3 and not has_s3:
        advice = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, unless the machine has a role"
        return warning("credentials", f"{told}; the job uses s3://", advice)
    return ok("credentials", told)


def proxies() -> Finding:
    """Proxies that libraries will take from the environment."""
    names = [name for name in PROXIES if os.environ.get(name)]
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if not names:
        return ok("proxies", "none")
    if cluster.LOOPBACK not in spared and spared != "*":
        advice = f"export no_proxy={cluster.LOOPBACK},localhost, or Ray and local stores go astray"
        return warning("proxies", f"{', '.join(names)}, also for {cluster.LOOPBACK}", advice)
    return ok("proxies", f"{', '.join(names)}; not for {spared}")


def _pins(wanted: list[str]) -> Iterator[tuple[str, str, bool]]:
    """Name, version and whether it is an extra's."""
    for line in wanted:
        if match := PINNED.match(line):
            yield match[1], match[2], "extra" in (match[3] or "")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name).partition("+")[0]  # +cpu, +cu128: the same release
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> Finding:
    """What the driver says of the GPUs, and whether torch can use them."""
    try:
        done = subprocess.run(SMI, capture_output=True, text=True, timeout=SMI_SECONDS, check=True)
        told = "; ".join(line.strip() for line in done.stdout.splitlines() if line.strip())
    except (OSError, subprocess.SubprocessError) as error:
        told = f"nvidia-smi does not answer ({type(error).__name__})"
    import torch  # only where there is a GPU to be asked about

    if not torch.cuda.is_available():
        advice = "install the driver and a torch built for CUDA; without, models run on the cores"
        return failed("gpus", f"{told}; torch {torch.__version__} sees none", advice)
    bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
    return ok("gpus", f"{told}; torch {torch.__version__}, {bf16}")

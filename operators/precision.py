"""Which numbers a net computes with, and what `auto` means on the machine at hand.

Weights stay float32; only the arithmetic is rounded. Published outputs are float32's, so that is
what operators use unless told otherwise.
"""

import subprocess
from functools import cache
from pathlib import Path
from typing import Literal

Precision = Literal["float32", "bfloat16", "float16", "auto"]

PROCESSOR = Path("/proc/cpuinfo")
AMX = "amx_bf16"  # an x86 processor's matrix unit, several times as fast as its float32
AMPERE = 8.0  # compute capability of the first GPUs that multiply bfloat16


def resolve(precision: str) -> str:
    """Turns `auto` into bfloat16 where the hardware makes that several times faster, else float32.

    Decided where the operator is built, for its key names the precision: in a job by the driver's
    machine. A GPU is asked before the processor, as nets go there. Of 500 drawn scenes the embedded
    captioner describes at least 98 % alike in bfloat16 (`tests/benchmarks/ofa_speed.py`).
    """
    if precision != "auto":
        return precision
    capabilities = _gpus()
    has_it = min(capabilities) >= AMPERE if capabilities else AMX in processor_flags()
    return "bfloat16" if has_it else "float32"


def processor_flags() -> set[str]:
    """What an x86 processor says it can; nothing elsewhere."""
    try:
        lines = PROCESSOR.read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


@cache
def _gpus() -> tuple[float, ...]:
    """Compute capabilities of NVIDIA's GPUs, told by their driver; torch would take seconds."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return tuple(float(line) for line in told.stdout.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()

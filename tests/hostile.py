"""Judges files that mean harm in processes of their own, which may crash, hang or fill up.

A judge forks for each lot of inputs, is told by the child where it is, and ends it when it stays at
one input for too long. Run it in a process without threads.
"""

import json
import os
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

MOST_FAULTS = 20  # that are told of a lot
HANG_SECONDS = 5.0  # of processor time at one input
SILENCE_SECONDS = 60.0  # of the clock, on a machine that is busy

Fate = Literal["done", "crash", "hang"]


@dataclass
class Lot:
    """What became of some inputs.

    Args:
        fate: of the process.
        tried: inputs begun.
        outcomes: how often what came out.
        faults: of ours: inputs at which another exception came out, and which; the first few.
        peak: bytes of memory above what the process had before.
        seconds: of processor time, of the slowest input.
    """

    fate: Fate = "done"
    tried: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: dict[int, str] = field(default_factory=dict)
    peak: int = 0
    seconds: float = 0.0


def judged(inputs: Iterable[Any], call: Callable[[Any], str]) -> Lot:
    """Calls a function with each input, in a process of its own."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        _work(inputs, call, writing)
    os.close(writing)
    lot = Lot()
    began = _cpu_seconds(process)
    silent_since = time.monotonic()
    said = b""
    while True:
        if select.select([reading], [], [], 0.5)[0]:
            part = os.read(reading, 1 << 16)
            if not part:
                break
            said += part
            began, silent_since = _cpu_seconds(process), time.monotonic()
        is_silent = time.monotonic() - silent_since > SILENCE_SECONDS
        if _cpu_seconds(process) - began > HANG_SECONDS or is_silent:
            os.kill(process, signal.SIGKILL)
            lot.fate = "hang"
    os.close(reading)
    _, status = os.waitpid(process, 0)
    if status and lot.fate == "done":
        lot.fate = "crash"
    begun, _, summary = said.partition(b"\n")
    lot.tried = len(begun)
    if summary:
        outcomes, faults, lot.peak, lot.seconds = json.loads(summary)
        lot.outcomes, lot.faults = Counter(outcomes), dict(faults)
    return lot


def _work(inputs: Iterable[Any], call: Callable[[Any], str], writing: int) -> None:
    """What the child does; a dot for each input, then a line of what came out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    outcomes: Counter[str] = Counter()
    faults: list[tuple[int, str]] = []
    slowest = 0.0
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is counted from here
    before = _peak()
    for number, value in enumerate(inputs):
        os.write(writing, b".")
        began = time.process_time()
        try:
            outcome = call(value)
        except Exception as error:
            outcome = f"!{type(error).__name__}"
            faults.append((number, f"{type(error).__name__}: {str(error)[:80]}"))
        slowest = max(slowest, time.process_time() - began)
        outcomes[outcome] += 1
    os.write(writing, b"\n" + _summary(outcomes, faults, before, slowest))
    os._exit(0)


def _summary(
    outcomes: Counter[str], faults: list[tuple[int, str]], before: int, slowest: float
) -> bytes:
    return json.dumps([outcomes, faults[:MOST_FAULTS], _peak() - before, slowest]).encode()


def _peak() -> int:
    with open("/proc/self/status") as file:
        kilobytes = next(line.split()[1] for line in file if line.startswith("VmHWM"))
    return int(kilobytes) * 1024


def _cpu_seconds(process: int) -> float:
    try:
        with open(f"/proc/{process}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def image_outcome(encoded: bytes, pixel_limit: int = 178_956_970) -> str:
    """All that is done with an image file: the code of its fault, or `pixels`.

    What passes `verify` has to pass `decode`, or the row would fail in a later stage.
    """
    from operators.images import decode, verified_bytes, verify
    from schemas.errors import RowFault

    try:
        verified_bytes(encoded, pixel_limit=pixel_limit)
        verify(encoded, pixel_limit=pixel_limit)
        decode(encoded, pixel_limit=pixel_limit)
    except RowFault as fault:
        return fault.code
    return "pixels"


def main() -> None:
    """Prints a line of JSON for each bomb: name, bytes, fate, outcome, peak, seconds."""
    import operators.images  # noqa: F401  so that it counts as idle
    from tests.bombs import BOMBS, LARGEST

    for name, make in {
        **BOMBS,
        **{f"largest {name}": made for name, made in LARGEST.items()},
    }.items():
        encoded = make()
        lot = judged([encoded], image_outcome)
        outcome = next(iter(lot.outcomes), "")
        line = [name, len(encoded), lot.fate, outcome, lot.peak, lot.seconds]
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

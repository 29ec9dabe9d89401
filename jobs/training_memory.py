"""Whether the parts of a batch fit into memory, found out before the first step.

Activations that a step keeps for its way back are counted on one row and on two, which gives what a
row more costs; nothing large is ever allocated to find out.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from operators.finetuning.trainee import Batch, Step, Trainee
from schemas.errors import ConfigError

RESERVE = 1.3  # of what is counted: temporary tensors come on top
CGROUP = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory.current"),
)
MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True)
class Need:
    """What training takes, in bytes: of the weights, of any part, and of each row of a part."""

    fixed: int
    part: int
    row: int

    def rows_within(self, free: int) -> int:
        """The largest part that fits."""
        left = free - self.fixed - RESERVE * self.part
        return max(0, int(left / (RESERVE * max(1, self.row))))


def check_memory(
    trainee: Trainee, one: Batch, two: Batch, *, rows: int, sharing: int, accumulate: int
) -> None:
    """Checks that parts of `rows` rows can be computed.

    Args:
        trainee: on its device.
        one: a part of one row.
        two: a part of two rows.
        rows: of the largest part.
        sharing: workers on this machine that share its memory; 1 for a GPU of one's own.
        accumulate: parts that there are now.

    Raises:
        ConfigError: they do not fit; says which parts would.
    """
    device = next(trainee.net.parameters()).device
    need = measure(trainee, one, two)
    free = free_bytes(device) // (1 if device.type == "cuda" else sharing)
    fit = need.rows_within(free)
    if rows <= fit:
        return
    needed = need.fixed + RESERVE * (need.part + rows * need.row)
    told = f"a part of {rows} rows needs about {_giga(needed)}, of which {_giga(free)} are free"
    if fit < 1:
        raise ConfigError(
            f"batch: {told}; not even one row fits: say recompute: true, freeze a part of the "
            "model, or take a larger machine"
        )
    parts = accumulate * -(-rows // fit)
    raise ConfigError(
        f"batch: {told}; a micro-batch of {fit} rows would fit: say accumulate: {parts} (or more) "
        "for the same result in more parts, or recompute: true for less memory a row"
    )


def measure(trainee: Trainee, one: Batch, two: Batch) -> Need:
    """Counts the bytes that are kept for the way back; leaves the trainee as it was."""
    memory = {name: tensor.clone() for name, tensor in trainee.memory().items()}
    counted = [_kept_bytes(trainee, part) for part in (one, two)]
    trainee.remember(memory)
    row = max(1, counted[1] - counted[0])
    trained = [p for p in trainee.net.parameters() if p.requires_grad]
    fixed = 3 * sum(p.numel() * p.element_size() for p in trained)  # gradient, AdamW's two means
    return Need(fixed=fixed, part=max(0, counted[0] - row), row=row)


def free_bytes(device: torch.device) -> int:
    """Memory that may still be taken on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    lines = MEMORY.read_text().splitlines() if MEMORY.is_file() else []
    known = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    limits = [path.read_text().strip() for path in CGROUP if path.is_file()]
    if len(limits) == len(CGROUP) and limits[0] != "max":
        known.append(max(0, int(limits[0]) - int(limits[1])))
    return min(known, default=2**62)


def _kept_bytes(trainee: Trainee, part: Batch) -> int:
    parameters = {p.untyped_storage().data_ptr() for p in trainee.net.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainee.learn([part], Step(backward=lambda loss: None))
    return sum(kept.values())


def _giga(size: float) -> str:
    return f"{size / 2**30:.1f} GB"

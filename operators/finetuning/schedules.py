"""Learning rates by step, as the published scripts have them; a rate is a share of the peak."""

import math
from typing import Literal

Schedule = Literal["cosine", "polynomial", "constant"]


def warm_up_steps(steps: int, warmup: float) -> int:
    """Steps of the warm-up: `warmup` itself from 1 on, else that share of all steps."""
    return int(warmup) if warmup >= 1 else int(warmup * steps)


def rate(schedule: Schedule, step: int, *, steps: int, warmup: int) -> float:
    """The share of the peak rate at a step, from 0 on.

    `cosine` rises from 0 and falls along half a cosine to 0 (ModelScope's Chinese CLIP: with a
    warm-up the first step has rate 0). `polynomial` rises from 1 / warmup and falls in a straight
    line to 0 (fairseq's polynomial decay of power 1, OFA's scripts). `constant` only rises.
    """
    if step < warmup:
        return (max(step, 1) if schedule == "polynomial" else step) / warmup
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    if schedule == "polynomial":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))

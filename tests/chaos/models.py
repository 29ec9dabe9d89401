"""Faults of models: weights that give no numbers."""

import random
from pathlib import Path

import torch

from tests import tiny
from tests.chaos.fault import Fault
from tests.chaos.life import Life

BROKEN = {"nan": float("nan"), "inf": float("inf")}


def not_finite(point: random.Random, life: Life) -> None:
    """Weights of an embedder that hold no number; with good ones the same command works."""
    own = Life(life.folder / "embedded", life.address, environment=life.environment)
    own.ended = life.ended
    own.grow(12)
    directory = tiny.checkpoint("chinese_clip_mini", folder=own.folder / "model")
    path = directory / "pytorch_model.bin"
    good = path.read_bytes()
    _break(path, BROKEN[point.choice(sorted(BROKEN))])
    own.config["operators"]["embedding"] = {"use": "embedder", "model": str(directory)}
    stopped = own.run(code=1)
    assert "12 of 12 rows" in stopped.message, stopped.text
    assert "model 12" in stopped.message, stopped.text
    path.write_bytes(good)
    own.until_done()
    vectors = own.opened().read(["embedding"])["embedding"]
    assert vectors.null_count == 0, f"{vectors.null_count} rows without a vector"
    assert own.law().is_kept, own.law()


def _break(path: Path, value: float) -> None:
    state = torch.load(path, weights_only=True)
    state["visual.proj"][0] = value
    torch.save(state, path)


FAULTS = (
    Fault("embedding not a number or infinite", not_finite, "rows `model`, exit 1", is_short=False),
)

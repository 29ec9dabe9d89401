"""Small checkpoints in ModelScope's on-disk format, and photographs, for tests that need a model.

The published weights are not needed to prove a model right: any weights will do, as long as two
implementations load the same ones. A recipe (`tests/data/recipes/NAME/`) holds the small files of a
directory and `tensors.json`: every tensor's shape and distribution. Each tensor is filled from its
own name and the seed, so a recipe gives the same values on every machine. The golden outputs beside
them are of ModelScope 1.40.2 with seed 0.
"""

import atexit
import json
import math
import shutil
import tempfile
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

DATA = Path(__file__).parent / "data"
RECIPES = DATA / "recipes"


def checkpoint(recipe: str, seed: int = 0, folder: Path | None = None) -> Path:
    """Writes the checkpoint directory of a recipe.

    Args:
        recipe: a folder of tests/data/recipes, such as `ofa_caption_tiny`.
        seed: other weights of the same shapes.
        folder: where to write a copy that the test may damage; None for one that all share.
    """
    if folder is None:
        return _shared(recipe, seed)
    return write(RECIPES / recipe, folder, seed)


@cache
def _shared(recipe: str, seed: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"tagline-{recipe}-{seed}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write(RECIPES / recipe, folder, seed)


def photographs() -> list[Path]:
    """Twelve pictures in order of their names: JPEG and PNG; colour, grey, with transparency."""
    return sorted((DATA / "images").iterdir())


def write(recipe: Path, folder: Path, seed: int) -> Path:
    """Fills `folder` as the recipe in the folder `recipe` says."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = json.loads((recipe / "tensors.json").read_text())
    for path in (recipe / "files").iterdir():
        shutil.copy(path, folder / path.name)
    for name in spec.get("vocabulary", []):
        shutil.copy(RECIPES / "common" / name, folder / spec.get("rename", {}).get(name, name))
    state = state_dict(spec, seed)
    wrapped = {spec["wrap"]: state} if spec.get("wrap") else state
    torch.save(wrapped, folder / spec.get("file", "pytorch_model.bin"))
    return folder


def state_dict(spec: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """The tensors of a recipe's `tensors.json`, tied ones shared, and its integer buffers."""
    state: dict[str, torch.Tensor] = {}
    for key, tensor in spec["tensors"].items():
        state[key] = state[tensor["same_as"]] if "same_as" in tensor else _fill(key, tensor, seed)
    if "buffers" in spec:
        with np.load(RECIPES / "common" / spec["buffers"]) as buffers:
            state |= {key: torch.from_numpy(buffers[key]) for key in buffers.files}
    return state


def _fill(key: str, tensor: dict[str, Any], seed: int) -> torch.Tensor:
    values = _noise(key, tensor["shape"], seed) * tensor["std"] + tensor["mean"]
    for row, shift in tensor.get("rows", {}).items():
        values[int(row)] += shift
    if tensor.get("positive"):
        values = np.abs(values) + 0.25
    return torch.from_numpy(np.asarray(values, np.float32)).to(getattr(torch, tensor["dtype"]))


def _noise(key: str, shape: list[int], seed: int) -> Any:
    """Uniform noise of zero mean and unit variance: a function of key and seed, float32."""
    count = math.prod(shape)
    bits = np.random.Philox(key=(zlib.crc32(key.encode()) << 32) + seed)
    words = bits.random_raw((count + 1) // 2).view(np.uint32)[:count]
    uniform = words.astype(np.float64) / 2**32
    return ((uniform * 2 - 1) * math.sqrt(3)).astype(np.float32).reshape(shape)

"""Writes model directories: the small files of the one that training began with, other weights."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from operators.models import checkpoint
from schemas.errors import ModelError

READABLE = 0o644  # safetensors alone would leave the file to its owner


def write_directory(source: Path, target: Path, tensors: Mapping[str, Tensor]) -> None:
    """Makes `target` a directory like `source`, with these weights in float32.

    The file of weights has the name and format of the source's and is replaced in one move: a
    reader finds the old ones or the new ones.

    Args:
        source: a model directory.
        target: made when absent; must not be `source`.
        tensors: by their published names; ones that share memory are written once each.
    """
    if target.resolve() == source.resolve():
        raise ModelError(f"{target}: the model that training begins with; write to another folder")
    target.mkdir(parents=True, exist_ok=True)
    weights = checkpoint.weights_file(source)
    kept = (checkpoint.RECORD, checkpoint.TRAINING_RECORD, *checkpoint.WEIGHT_FILES)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in checkpoint.SUFFIXES and path.name not in kept:
            shutil.copyfile(path, target / path.name)
    state = {name: _as_stored(tensor) for name, tensor in tensors.items()}
    fresh = target / f"{weights.name}.new"
    if weights.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, fresh, metadata={"format": "pt"})
    else:
        torch.save(state, fresh)
    fresh.chmod(READABLE)
    os.replace(fresh, target / weights.name)


def _as_stored(tensor: Tensor) -> Tensor:
    value = tensor.detach().cpu()
    value = value.float() if value.is_floating_point() else value
    return value.clone(memory_format=torch.contiguous_format)

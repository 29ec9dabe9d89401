"""Reads mPLUG's weights: only what inference uses, a portion at a time.

A published file holds nearly twice (captioning) or three times (matching) what is ever used: CLIP's
text half, fusion layers that never run, momentum copies, queues, stacks of another task. These are
known by their names; anything else that the net lacks is a fault. The file is mapped, not read, and
mapped anew for each portion, so that what was copied already does not count as memory.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from operators.models.checkpoint import check_strict, load_state_dict
from operators.models.mplug.config import MPlugConfig, read_for_matching
from operators.models.mplug.model import MPlugCaptionNet, MPlugMatchNet
from operators.models.unfilled import unfilled
from schemas.errors import ModelError

PORTION_BYTES = 64 * 2**20  # of the file, copied before it is mapped anew
TIED = {  # one tensor under two names, of which nets here have the second
    "text_decoder.cls.predictions.decoder.weight": (
        "text_decoder.bert.embeddings.word_embeddings.weight"
    ),
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}
UNUSED = (  # of every published file
    r"visual_encoder\.(transformer|token_embedding|ln_final)\..+",
    r"visual_encoder\.(positional_embedding|text_projection|logit_scale|visual\.proj)",
    r"[a-z_]+_m\..+",  # momentum copies
    r"(image|text|idx)_queue|queue_ptr",
    r".+\.position_ids",
)
UNUSED_BY_CAPTIONS = (
    *UNUSED,
    r"(text_encoder|fusion_encoder|vision_proj|text_proj|itm_head)\..+",
    r"temp",
)
UNUSED_BY_MATCHING = (*UNUSED, r"text_decoder\..+")

Net = TypeVar("Net", bound=nn.Module)


def load_captioner(directory: Path, dtype: torch.dtype = torch.float32) -> MPlugCaptionNet:
    """Builds the net that the directory's configuration describes, with its weights.

    Args:
        directory: in ModelScope's layout.
        dtype: of the weights in memory.

    Returns:
        in evaluation mode, on the CPU, without gradients.

    Raises:
        ModelError: a configuration or the weights are damaged, or do not fit each other.
    """
    config = MPlugConfig.read(directory)
    with unfilled():
        net = MPlugCaptionNet(config)
    return _fill(net, directory, UNUSED_BY_CAPTIONS, dtype)


def load_matcher(directory: Path, dtype: torch.dtype = torch.float32) -> MPlugMatchNet:
    """Does for the matching net what `load_captioner` does.

    Raises:
        ModelError: as there, and what `read_for_matching` refuses.
    """
    config = read_for_matching(directory)
    with unfilled():
        net = MPlugMatchNet(config)
    return _fill(net, directory, (*UNUSED_BY_MATCHING, *_dead_layers(config)), dtype)


def _dead_layers(config: MPlugConfig) -> Iterator[str]:
    """Patterns of the fusion layers that never run, and of attention that connected ones skip."""
    for number in range(config.num_hidden_layers):
        if number not in config.fusion_numbers:
            yield rf"fusion_encoder\.encoder\.layer\.{number}\..+"
        elif config.is_connected(number):
            yield rf"fusion_encoder\.encoder\.layer\.{number}\.crossattention\..+"


def _fill(net: Net, directory: Path, unused: tuple[str, ...], dtype: torch.dtype) -> Net:
    """Gives a net without memory its weights."""
    expected = net.state_dict()
    _check(expected, _named(directory), unused, directory)
    state: dict[str, Tensor] = {}
    for names in _portions(expected):
        found = _named(directory)
        for name in names:
            state[name] = torch.empty(expected[name].shape, dtype=dtype).copy_(found[name])
        del found  # and with it the memory of what was mapped
    net.load_state_dict(state, assign=True)
    return net.requires_grad_(requires_grad=False).eval()


def _named(directory: Path) -> dict[str, Tensor]:
    """The file's tensors by the names of the net, mapped."""
    found = {
        name.replace("model.", ""): tensor  # as the published loader does, wherever it stands
        for name, tensor in load_state_dict(directory, is_mapped=True).items()
    }
    for twin, name in TIED.items():
        if twin in found:
            found.setdefault(name, found[twin])
    return found


def _check(
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    unused: tuple[str, ...],
    directory: Path,
) -> None:
    pattern = re.compile("|".join(f"(?:{each})" for each in unused))
    twins = {twin for twin, name in TIED.items() if name in expected}
    used = {
        name: tensor
        for name, tensor in found.items()
        if name in expected or (name not in twins and not pattern.fullmatch(name))
    }
    check_strict(expected, used, source=directory)
    for twin in twins & set(found):
        if not _is_same(found[twin], found[TIED[twin]]):
            raise ModelError(
                f"{directory}: {twin} differs from {TIED[twin]}, but in mPLUG they are one tensor"
            )
    whole = [name for name in expected if not found[name].is_floating_point()]
    if whole:
        raise ModelError(f"{directory}: {whole[0]} holds {found[whole[0]].dtype}, not floats")


def _is_same(twin: Tensor, tensor: Tensor) -> bool:
    return twin.data_ptr() == tensor.data_ptr() or torch.equal(twin, tensor)


def _portions(expected: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """Names in order, as many at a time as fill a portion."""
    names: list[str] = []
    size = 0
    for name, tensor in expected.items():
        names.append(name)
        size += tensor.numel() * 4
        if size >= PORTION_BYTES:
            yield names
            names, size = [], 0
    yield names

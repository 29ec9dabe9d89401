"""What captioning and matching with mPLUG have in common when they are trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from operators.finetuning.trainee import Rules, recompute, set_training
from operators.finetuning.weights import write_directory
from operators.models.checkpoint import load_state_dict
from operators.models.mplug.layers import Attention
from operators.models.mplug.model import MPlugCaptionNet, MPlugMatchNet
from operators.models.mplug.weights import TIED

LONGEST = 25  # ids of a text, [CLS] and [SEP] counted, as ModelScope's preprocessor cuts
TOWER = "visual_encoder."
TOWER_RATE = 0.5  # of the image tower, 5e-6 where the rest has 1e-5; the authors' configs


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Matrices and filters are; biases and norms are not, as the authors' scripts have it."""
    return parameter.ndim > 1 and not name.endswith(".bias")


def rate_of(name: str) -> float:
    """The image tower learns at half the rate."""
    return TOWER_RATE if name.startswith(TOWER) else 1.0


RULES = Rules(
    is_decayed=is_decayed,
    rate_of=rate_of,
    parts={"vision": (TOWER,), "text": ("text_encoder.", "text_proj.")},
)


def prepare(net: MPlugCaptionNet | MPlugMatchNet, *, has_checkpoints: bool) -> None:
    """Makes a net that was read for inference one that learns."""
    net.requires_grad_(requires_grad=True)
    set_training(net, is_on=True)
    if has_checkpoints:
        blocks = list(cast(nn.Sequential, net.visual_encoder.visual.transformer["resblocks"]))
        attentions = [module for module in net.modules() if isinstance(module, Attention)]
        recompute([*blocks, *attentions])


def write_whole(source: Path, target: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a directory with all that the source's file holds, what was not trained as it was."""
    kept = {
        name.replace("model.", ""): tensor
        for name, tensor in load_state_dict(source, is_mapped=True).items()
    }
    twins = {twin: tensors[name] for twin, name in TIED.items() if twin in kept and name in tensors}
    write_directory(source, target, {**kept, **tensors, **twins})

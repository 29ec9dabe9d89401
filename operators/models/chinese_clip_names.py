"""What Chinese CLIP's tensors are called: by ModelScope, and by transformers.

ModelScope's names are those of OpenAI's CLIP and of Google's BERT.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_RENAMED = (  # ModelScope's names, transformers' names; each a part of a name
    ("bert.", "text_model."),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.conv1.", "vision_model.embeddings.patch_embedding."),
    ("visual.ln_pre.", "vision_model.pre_layrnorm."),  # sic
    ("visual.ln_post.", "vision_model.post_layernorm."),
    ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".attn.out_proj.", ".self_attn.out_proj."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
)
_TRANSPOSED = {
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
}
_FUSED = re.compile(r"(.*)\.attn\.in_proj_(weight|bias)")  # queries, keys and values, in this order
_SPLIT = re.compile(r"(.*)\.self_attn\.([qkv])_proj\.(weight|bias)")


def from_modelscope(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames ModelScope's tensors to transformers' names, and turns and splits where needed."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        fused = _FUSED.fullmatch(name)
        if fused:
            layer = _replaced(f"{fused[1]}.", forwards=True)
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{layer}self_attn.{letter}_proj.{fused[2]}"] = part
        elif name in _TRANSPOSED:
            renamed[_TRANSPOSED[name]] = tensor.T
        else:
            renamed[_replaced(name, forwards=True)] = tensor
    return renamed


def to_modelscope(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames transformers' tensors to ModelScope's names, the inverse of `from_modelscope`."""
    turned = {theirs: published for published, theirs in _TRANSPOSED.items()}
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        split = _SPLIT.fullmatch(name)
        if split and split[2] == "q":
            parts = [state[f"{split[1]}.self_attn.{letter}_proj.{split[3]}"] for letter in "qkv"]
            layer = _replaced(f"{split[1]}.", forwards=False)
            renamed[f"{layer}attn.in_proj_{split[3]}"] = torch.cat(parts)
        elif name in turned:
            renamed[turned[name]] = tensor.T
        elif not split:
            renamed[_replaced(name, forwards=False)] = tensor
    return renamed


def published_name(name: str) -> str:
    """ModelScope's name of a tensor that transformers calls `name`."""
    split = _SPLIT.fullmatch(name)
    if split:
        return f"{_replaced(f'{split[1]}.', forwards=False)}attn.in_proj_{split[3]}"
    turned = {theirs: published for published, theirs in _TRANSPOSED.items()}
    return turned.get(name) or _replaced(name, forwards=False)


def _replaced(name: str, *, forwards: bool) -> str:
    for published, theirs in _RENAMED:
        name = name.replace(published, theirs) if forwards else name.replace(theirs, published)
    return name

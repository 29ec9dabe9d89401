"""Chinese CLIP's net made fast, and fit for inference only.

A vector is made of the first token's state alone, so the last layer of either tower computes no
other: of 12 layers that is a fifteenth of all work.

Letters of shapes: N images or texts, T tokens, W width of the tower.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import ChineseCLIPModel

from operators.models.cpu import pack


def specialise(model: ChineseCLIPModel, dtype: torch.dtype) -> None:
    """Leaves out what no vector needs, and packs the linears where the net is on a CPU.

    Args:
        model: on the device where it is to run.
        dtype: of the arithmetic.
    """
    images, texts = model.vision_model.encoder.layers, model.text_model.encoder.layer
    images[-1], texts[-1] = LastImageLayer(images[-1]), LastTextLayer(texts[-1])
    pack(model, dtype)


class LastImageLayer(nn.Module):
    """Does what a layer of the vision tower does, for the first token; stands in its place."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, mask: None = None, **_: Any) -> Tensor:
        """Shapes: x (N, T, W); returns (N, 1, W)."""
        attention, normed = self.layer.self_attn, self.layer.layer_norm1(x)
        mixed = _attend(
            attention.q_proj(normed[:, :1]),
            attention.k_proj(normed),
            attention.v_proj(normed),
            head_width=attention.head_dim,
        )
        first = x[:, :1] + attention.out_proj(mixed)
        summed: Tensor = first + self.layer.mlp(self.layer.layer_norm2(first))
        return summed


class LastTextLayer(nn.Module):
    """Does what a layer of the text tower does, for the first token; stands in its place."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, mask: Tensor | None = None, **_: Any) -> Tensor:
        """Shapes: x (N, T, W); mask (N, 1, T, T) or none; returns (N, 1, W)."""
        attention, first = self.layer.attention.self, x[:, :1]
        mixed = _attend(
            attention.query(first),
            attention.key(x),
            attention.value(x),
            head_width=attention.attention_head_size,
            mask=None if mask is None else mask[:, :, :1],
        )
        summed: Tensor = self.layer.feed_forward_chunk(self.layer.attention.output(mixed, first))
        return summed


def _attend(
    queries: Tensor, keys: Tensor, values: Tensor, *, head_width: int, mask: Tensor | None = None
) -> Tensor:
    """Shapes: queries (N, 1, W); keys and values (N, T, W); returns (N, 1, W)."""
    asking, asked, told = (
        x.view(*x.shape[:2], -1, head_width).transpose(1, 2) for x in (queries, keys, values)
    )
    mixed = functional.scaled_dot_product_attention(asking, asked, told, attn_mask=mask)
    return mixed.transpose(1, 2).flatten(2)

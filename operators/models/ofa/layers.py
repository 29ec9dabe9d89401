"""Attention and the two kinds of transformer layer that OFA is made of.

Pre-norm layers with the extra norms of NormFormer (arXiv:2110.09456): one after each attention, one
inside the feed-forward, and a learned weight for each head.

Letters: B rows, T positions asking, S positions asked, D width, H heads, d = D / H.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from operators.models.ofa.config import OFAConfig
from operators.models.ofa.resnet import DropPath

KeysValues = tuple[Tensor, Tensor]  # each (B, H, S, d)

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "relu": functional.relu,
    "silu": functional.silu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
}


class Attention(nn.Module):
    """Heads whose scores are scaled down further than usual and whose outputs are weighted."""

    def __init__(self, config: OFAConfig, heads: int) -> None:
        super().__init__()
        width = config.d_model
        self.heads = heads
        self.scaling = float(width // heads * config.attn_scale_factor) ** -0.5
        self.dropout = config.attention_dropout
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.c_attn = nn.Parameter(torch.ones(heads))

    def keys_values(self, states: Tensor) -> KeysValues:
        """Shapes: states (B, S, D)."""
        return self._split(self.k_proj(states)), self._split(self.v_proj(states))

    def forward(self, x: Tensor, keys_values: KeysValues, bias: Tensor | None) -> Tensor:
        """Mixes the values that each position asks for.

        Shapes: x (B, T, D); bias broadcasts to (B, H, T, S) and is added to the scores; returns
        (B, T, D).
        """
        queries = self._split(self.q_proj(x))  # (B, H, T, d)
        mixed = functional.scaled_dot_product_attention(
            queries,
            *keys_values,
            attn_mask=bias,
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.scaling,
        )
        weighted = mixed * self.c_attn.view(1, -1, 1, 1)
        joined: Tensor = self.out_proj(weighted.transpose(1, 2).reshape(x.shape))  # (B, T, D)
        return joined

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Layer(nn.Module):
    """What both kinds of layer end with: the feed-forward, and how a branch joins its residual."""

    def __init__(
        self, config: OFAConfig, *, ffn_width: int, normalize_before: bool, drop_path_rate: float
    ) -> None:
        super().__init__()
        width = config.d_model
        self.normalize_before = normalize_before
        self.activation = ACTIVATIONS[config.activation_function]
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = DropPath(drop_path_rate)
        self.fc1 = nn.Linear(width, ffn_width)
        self.fc2 = nn.Linear(ffn_width, width)
        self.ffn_layer_norm = nn.LayerNorm(ffn_width) if config.normformer else nn.Identity()
        self.final_layer_norm = nn.LayerNorm(width)
        self.weight_ffn = _gamma(config)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Shapes: x (B, T, D), kept."""
        return self.join(x, self.final_layer_norm, self._two_linears, self.weight_ffn)

    def join(
        self,
        x: Tensor,
        norm: nn.Module,
        branch: Callable[[Tensor], Tensor],
        weight: Tensor | None,
    ) -> Tensor:
        """Adds a branch to its input; the norm stands before the branch, or after the sum."""
        y = self.dropout(branch(norm(x) if self.normalize_before else x))
        y = x + self.drop_path(y if weight is None else weight * y)
        joined: Tensor = y if self.normalize_before else norm(y)
        return joined

    def _two_linears(self, x: Tensor) -> Tensor:
        y = self.activation_dropout(self.activation(self.fc1(x)))  # (B, T, ffn_width)
        narrowed: Tensor = self.fc2(self.ffn_layer_norm(y))  # (B, T, D)
        return narrowed


class EncoderLayer(Layer):
    """Self-attention over image and text, then the feed-forward."""

    def __init__(self, config: OFAConfig, drop_path_rate: float) -> None:
        super().__init__(
            config,
            ffn_width=config.encoder_ffn_dim,
            normalize_before=config.encoder_normalize_before,
            drop_path_rate=drop_path_rate,
        )
        width = config.d_model
        self.self_attn = Attention(config, config.encoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.self_attn_mid_layer_norm = nn.LayerNorm(width) if config.normformer else nn.Identity()
        self.weight_self_attn = _gamma(config)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Shapes: x (B, S, D), kept; bias broadcasts to (B, H, S, S)."""

        def attend(y: Tensor) -> Tensor:
            attended = self.self_attn(y, self.self_attn.keys_values(y), bias)
            normed: Tensor = self.self_attn_mid_layer_norm(attended)
            return normed

        x = self.join(x, self.self_attn_layer_norm, attend, self.weight_self_attn)
        return self.feed_forward(x)


class DecoderLayer(Layer):
    """Self-attention over the text so far, attention to the image, then the feed-forward."""

    def __init__(self, config: OFAConfig, drop_path_rate: float) -> None:
        super().__init__(
            config,
            ffn_width=config.decoder_ffn_dim,
            normalize_before=config.decoder_normalize_before,
            drop_path_rate=drop_path_rate,
        )
        width = config.d_model
        self.self_attn = Attention(config, config.decoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.self_attn_mid_layer_norm = nn.LayerNorm(width) if config.normformer else nn.Identity()
        self.cross_attn = Attention(config, config.decoder_attention_heads)
        self.cross_attn_layer_norm = nn.LayerNorm(width)
        self.cross_attn_mid_layer_norm = nn.LayerNorm(width) if config.normformer else nn.Identity()
        self.weight_self_attn = _gamma(config)
        self.weight_cross_attn = _gamma(config)

    def forward(
        self,
        x: Tensor,
        self_bias: Tensor,
        memory: KeysValues,
        memory_bias: Tensor,
        past: KeysValues | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Reads T more positions.

        Rows that read the same image may come as its neighbours: with M images in `memory` and B
        rows, row r reads image r // (B / M), whose keys are then multiplied once for all its rows.

        Shapes: x (B, T, D), T being 1 where B is not M; self_bias broadcasts to (B, H, T, S), S
        counting the past; memory of M rows; memory_bias broadcasts to (M, H, T, its S); returns x
        and the keys and values of all S positions.
        """
        seen: KeysValues = past or (x.new_empty(0), x.new_empty(0))

        def attend(y: Tensor) -> Tensor:
            nonlocal seen
            keys, values = self.self_attn.keys_values(y)
            seen = _append(past, keys, values)
            normed: Tensor = self.self_attn_mid_layer_norm(self.self_attn(y, seen, self_bias))
            return normed

        def attend_memory(y: Tensor) -> Tensor:
            grouped = y.reshape(memory[0].shape[0], -1, y.shape[-1])
            attended = self.cross_attn(grouped, memory, memory_bias)
            normed: Tensor = self.cross_attn_mid_layer_norm(attended.view(y.shape))
            return normed

        x = self.join(x, self.self_attn_layer_norm, attend, self.weight_self_attn)
        x = self.join(x, self.cross_attn_layer_norm, attend_memory, self.weight_cross_attn)
        return self.feed_forward(x), seen


def _append(past: KeysValues | None, keys: Tensor, values: Tensor) -> KeysValues:
    if past is None:
        return keys, values
    return torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)


def _gamma(config: OFAConfig) -> nn.Parameter | None:
    """A learned weight of a branch, in the sizes that have one."""
    return (
        nn.Parameter(torch.full((config.d_model,), config.gamma))
        if config.use_gamma_feature
        else None
    )

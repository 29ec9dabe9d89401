"""The transformer layer that mPLUG's three text stacks are made of: BERT's, norm after the sum.

Letters: R rows of text, T tokens, M images, N image tokens, S positions asked, D width, H heads,
d = D / H. Rows of one image are neighbours, R being a multiple of M, so that the keys and values of
an image are computed once however many rows look at it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from operators.models.mplug.config import MPlugConfig

KeysValues = tuple[Tensor, Tensor]  # each (R or M, H, S, d)

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}


class Embeddings(nn.Module):
    """Turns ids into states: word, place and a type that is always the first."""

    def __init__(self, config: MPlugConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width, config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, ids: Tensor, begin: int = 0) -> Tensor:
        """Shapes: ids (R, T) int64, the first at place `begin`; returns (R, T, D)."""
        places = self.position_embeddings.weight[begin : begin + ids.shape[1]]
        x = self.word_embeddings(ids) + self.token_type_embeddings.weight[0] + places
        embedded: Tensor = self.dropout(self.LayerNorm(x))
        return embedded


class Layer(nn.Module):
    """Self-attention, a look at the image where it `sees`, and the feed-forward."""

    def __init__(self, config: MPlugConfig, *, sees: bool) -> None:
        super().__init__()
        self.attention = Attention(config)
        if sees:
            self.crossattention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = Sum(config, config.intermediate_size)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Shapes: x (R, T, D), kept."""
        summed: Tensor = self.output(self.intermediate(x), x)
        return summed


class Attention(nn.Module):
    """Attention and the sum with what asked."""

    def __init__(self, config: MPlugConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.self = Projections(config.hidden_size)  # the published name
        self.output = Sum(config, config.hidden_size)

    def keys_values(self, states: Tensor) -> KeysValues:
        """Shapes: states (R or M, S, D)."""
        return self._split(self.self.key(states)), self._split(self.self.value(states))

    def forward(
        self,
        x: Tensor,
        keys_values: KeysValues,
        *,
        mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Adds to each position the values it asks for.

        Shapes: x (R, T, D), kept; keys and values of R rows or of M images; mask bool, broadcasts
        to (R, H, T, S), False where nothing is to be seen.
        """
        asking = self.self.query(x).view(keys_values[0].shape[0], -1, x.shape[2])
        mixed = functional.scaled_dot_product_attention(
            self._split(asking),
            *keys_values,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=is_causal,
        )
        summed: Tensor = self.output(mixed.transpose(1, 2).reshape(x.shape), x)
        return summed

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Projections(nn.Module):
    """The three linears of attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)


class Intermediate(nn.Module):
    """The wide half of the feed-forward."""

    def __init__(self, config: MPlugConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (R, T, D); returns (R, T, intermediate_size)."""
        return self.activation(self.dense(x))


class Sum(nn.Module):
    """What both halves of a layer end with: a linear, the sum with their input, and its norm."""

    def __init__(self, config: MPlugConfig, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Shapes: x (R, T, width); residual (R, T, D), kept."""
        summed: Tensor = self.LayerNorm(self.dropout(self.dense(x)) + residual)
        return summed


def initialise(module: nn.Module, deviation: float) -> None:
    """Draws weights to train from, as BERT does."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=deviation)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.Embedding) and part.padding_idx is not None:
            with torch.no_grad():
                part.weight[part.padding_idx].zero_()

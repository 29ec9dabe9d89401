"""OFA's decoder: writes a text, one token after the other, looking at what the encoder read.

Letters: B rows, M images, T tokens, S positions of the encoder, D width, H heads, V vocabulary.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from operators.models.ofa import positions
from operators.models.ofa.config import OFAConfig
from operators.models.ofa.encoder import Memory, mask_out
from operators.models.ofa.layers import DecoderLayer, KeysValues
from operators.models.ofa.resnet import drop_path_rates


@dataclass
class Cache:
    """What need not be computed again for the next token.

    Shapes: memory, of each layer, keys and values of M images; past, of each layer, those of B
    rows' tokens; self_biases, of each layer (1, H, L, L), and memory_bias (1 or M, H, L, S) for
    texts of up to L tokens.
    """

    memory: list[KeysValues]
    past: list[KeysValues] | None
    self_biases: list[Tensor]
    memory_bias: Tensor

    def follow(self, parents: Tensor) -> None:
        """Makes each row go on from another; images that no row reads any more are dropped.

        Shapes: parents (B,), rows of the last call, those of one image neighbours and images in
        order.
        """
        if not self.past:
            raise ValueError("nothing was read yet, so there is no row to go on from")
        images = self.memory[0][0].shape[0]
        rows_per_image = self.past[0][0].shape[0] // images
        kept = torch.unique_consecutive(parents // rows_per_image)
        if len(kept) < images:
            self.memory = [(keys[kept], values[kept]) for keys, values in self.memory]
            if self.memory_bias.shape[0] > 1:
                self.memory_bias = self.memory_bias[kept]
        self.past = [(keys[parents], values[parents]) for keys, values in self.past]


class Decoder(nn.Module):
    """Scores every vocabulary entry as the next token."""

    def __init__(self, config: OFAConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__()
        width, heads = config.d_model, config.decoder_attention_heads
        tables = 1 if config.share_attn_bias else config.decoder_layers
        self.config = config
        self.heads = heads
        self.embed_scale = width**0.5 if config.scale_embedding else 1.0
        self.dropout = nn.Dropout(config.dropout)
        self.embed_tokens = embed_tokens
        self.layers = _layers(config)
        self.layernorm_embedding = _norm(width, exists=config.layernorm_embedding)
        self.embed_positions = nn.Embedding(config.max_position_embeddings + 2, width)
        self.pos_ln = nn.LayerNorm(width)
        self.self_pos_q_linear = nn.Linear(width, width)
        self.self_pos_k_linear = nn.Linear(width, width)
        self.cross_pos_q_linear = nn.Linear(width, width)
        self.cross_pos_k_linear = nn.Linear(width, width)
        self.layer_norm = _norm(width, exists=config.decoder_normalize_before)
        self.output_projection = nn.Linear(width, config.vocab_size, bias=False)
        if config.share_decoder_input_output_embed:
            self.output_projection.weight = embed_tokens.weight
        self.token_rel_pos_table_list = nn.ModuleList(
            positions.token_table(config.token_bucket_size, heads) for _ in range(tables)
        )
        if config.image_codes:
            self._add_image_codes(tables)

    def forward(self, memory: Memory, input_ids: Tensor) -> Tensor:
        """Reads a whole text, each token seeing those before it.

        Shapes: input_ids (B, T) int64, padded at the end; returns (B, T, D), to be projected to the
        vocabulary.
        """
        cache = self.start(memory, length=input_ids.shape[1])
        return self.read(input_ids, cache)

    def start(self, memory: Memory, *, length: int) -> Cache:
        """Prepares to write texts of up to `length` tokens about the images in `memory`."""
        places = self.pos_ln(self.embed_positions.weight[:length])[None]  # (1, L, D)
        memory_bias = positions.absolute_bias(
            self.cross_pos_q_linear(places),
            self.cross_pos_k_linear(memory.places),
            self.heads,
            self.config.attn_scale_factor,
        )
        if memory.padding is not None:
            memory_bias = memory_bias + mask_out(memory.padding, memory_bias.dtype)
        return Cache(
            memory=[layer.cross_attn.keys_values(memory.states) for layer in self._stack()],
            past=None,
            self_biases=self._self_biases(places),
            memory_bias=memory_bias,
        )

    def read(self, input_ids: Tensor, cache: Cache) -> Tensor:
        """Reads the next T tokens of each row and remembers them in the cache.

        Shapes: input_ids (B, T), where B is M, or T is 1 and rows of one image are neighbours;
        returns (B, T, D).
        """
        begin = cache.past[0][0].shape[2] if cache.past else 0
        end = begin + input_ids.shape[1]
        x = self._embed(input_ids, begin)  # (B, T, D)
        memory_bias = cache.memory_bias[:, :, begin:end]
        seen: list[KeysValues] = []
        for number, layer in enumerate(self._stack()):
            past = cache.past[number] if cache.past else None
            self_bias = cache.self_biases[number][:, :, begin:end, :end]
            y, keys_values = layer(x, self_bias, cache.memory[number], memory_bias, past)
            x = x if self._is_dropped() else y
            seen.append(keys_values)
        cache.past = seen
        normed: Tensor = self.layer_norm(x)
        return normed

    def _stack(self) -> list[DecoderLayer]:
        return cast(list[DecoderLayer], list(self.layers))

    def _is_dropped(self) -> bool:
        return self.training and bool(torch.rand(()) < self.config.decoder_layerdrop)

    def _embed(self, input_ids: Tensor, begin: int) -> Tensor:
        x = self.embed_scale * self.embed_tokens(input_ids)
        if self.config.entangle_position_embedding and not self.config.disable_entangle:
            x = x + self.embed_positions.weight[begin : begin + input_ids.shape[1]]
        embedded: Tensor = self.dropout(self.layernorm_embedding(x))
        return embedded

    def _self_biases(self, places: Tensor) -> list[Tensor]:
        """What positions add to attention among tokens, each (1, H, L, L); -inf for later ones."""
        length, device = places.shape[1], places.device
        absolute = positions.absolute_bias(
            self.self_pos_q_linear(places),
            self.self_pos_k_linear(places),
            self.heads,
            self.config.attn_scale_factor,
        )
        future = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
        absolute = absolute.masked_fill(future, float("-inf"))
        buckets = positions.token_buckets(length, self.config.token_bucket_size, device)
        biases = [absolute + positions.look_up(t, buckets) for t in self.token_rel_pos_table_list]
        return biases * len(self.layers) if self.config.share_attn_bias else biases

    def _add_image_codes(self, tables: int) -> None:
        """Makes what the published net keeps for drawing images; no text ever uses it."""
        config, width = self.config, self.config.d_model
        self.embed_image_positions = nn.Embedding(config.image_bucket_size**2 + 1, width)
        self.image_pos_ln = nn.LayerNorm(width)
        if config.code_layernorm_embedding:
            self.code_layernorm_embedding = nn.LayerNorm(width)
        self.image_rel_pos_table_list = nn.ModuleList(
            positions.cell_table(config.image_bucket_size, self.heads) for _ in range(tables)
        )


def _norm(width: int, *, exists: bool) -> nn.Module:
    return nn.LayerNorm(width) if exists else nn.Identity()


def _layers(config: OFAConfig) -> nn.ModuleList:
    rates = drop_path_rates(config.decoder_drop_path_rate, config.decoder_layers)
    return nn.ModuleList(DecoderLayer(config, rate) for rate in rates)

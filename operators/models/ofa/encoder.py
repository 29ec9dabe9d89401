"""OFA's encoder: reads an image and a text together.

Letters: B rows, P cells of the image, T tokens, S = P + T positions, D width, H heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from operators.models.ofa import positions
from operators.models.ofa.config import OFAConfig
from operators.models.ofa.layers import EncoderLayer
from operators.models.ofa.resnet import FEATURES, ResNet, drop_path_rates

CELL_PIXELS = 16  # along a side
TEXT_STEP = 32  # tokens; biases are kept for texts of up to a multiple of it


@dataclass(frozen=True)
class Memory:
    """What the encoder hands to the decoder.

    Shapes: states (B, S, D); padding (B, S), True where a text has ended, or None where none is
    shorter; places (1, S, D), the position vectors, alike for all rows.
    """

    states: Tensor
    padding: Tensor | None
    places: Tensor


class Encoder(nn.Module):
    """Image cells first, then the text's tokens, each seeing all others."""

    def __init__(self, config: OFAConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__()
        width, heads = config.d_model, config.encoder_attention_heads
        side = config.image_bucket_size
        tables = 1 if config.share_attn_bias else config.encoder_layers
        self.config = config
        self.heads = heads
        self.embed_scale = width**0.5 if config.scale_embedding else 1.0
        self.dropout = nn.Dropout(config.dropout)
        self.embed_tokens = embed_tokens
        self.layernorm_embedding = _norm(width, exists=config.layernorm_embedding)
        self.type_embedding = nn.Embedding(2, width) if config.add_type_embedding else None
        self.embed_images = ResNet(config.blocks, config.resnet_drop_path_rate)
        self.image_proj = nn.Linear(FEATURES, width)
        self.patch_layernorm_embedding = _norm(width, exists=config.patch_layernorm_embedding)
        self.embed_positions = nn.Embedding(config.max_position_embeddings + 2, width)
        self.embed_image_positions = nn.Embedding(side**2 + 1, width)
        self.pos_ln = nn.LayerNorm(width)
        self.image_pos_ln = nn.LayerNorm(width)
        self.pos_q_linear = nn.Linear(width, width)
        self.pos_k_linear = nn.Linear(width, width)
        self.layers = _layers(config)
        self.layer_norm = _norm(width, exists=config.encoder_normalize_before)
        self.token_rel_pos_table_list = nn.ModuleList(
            positions.token_table(config.token_bucket_size, heads) for _ in range(tables)
        )
        self.image_rel_pos_table_list = nn.ModuleList(
            positions.cell_table(side, heads) for _ in range(tables)
        )
        self._kept_biases: tuple[tuple[object, ...], list[Tensor]] | None = None
        self._kept_length = 0  # tokens of text that they are for

    def forward(self, features: Tensor, input_ids: Tensor) -> Memory:
        """Reads.

        Shapes: features (B, 1024, h, w) from `embed_images`, P = h w; input_ids (B, T) int64,
        padded at the end with 1.
        """
        grid = features.shape[-2:]
        words = self.embed_positions.weight[: input_ids.shape[1]]  # (T, D)
        cells = self._places_of_cells(*grid)  # (P, D)
        places = self._places(cells, input_ids.shape[1])
        x = torch.cat(
            [self._embed_cells(features, cells), self._embed_words(input_ids, words)], dim=1
        )  # (B, S, D)
        padding = _padding(input_ids, self.config.pad_token_id, cells=cells.shape[0])
        mask = None
        if padding is not None:
            x = x.masked_fill(padding[:, :, None], 0.0)
            mask = mask_out(padding, x.dtype)
        for layer, bias in zip(
            self.layers, self._biases(cells, grid, places.shape[1]), strict=True
        ):
            if not (self.training and torch.rand(()) < self.config.encoder_layerdrop):
                x = layer(x, bias if mask is None else bias + mask)
        return Memory(states=self.layer_norm(x), padding=padding, places=places)

    def train(self, mode: bool = True) -> "Encoder":
        """Forgets the biases kept for inference: weights may change between the two modes."""
        self._kept_biases = None
        return super().train(mode)

    def _embed_cells(self, features: Tensor, places: Tensor) -> Tensor:
        x = self.embed_scale * self.image_proj(features.flatten(2).transpose(1, 2))  # (B, P, D)
        return self._finish(x, places, kind=1, norm=self.patch_layernorm_embedding)

    def _embed_words(self, input_ids: Tensor, places: Tensor) -> Tensor:
        x = self.embed_scale * self.embed_tokens(input_ids)  # (B, T, D)
        return self._finish(x, places, kind=0, norm=self.layernorm_embedding)

    def _finish(self, x: Tensor, places: Tensor, *, kind: int, norm: nn.Module) -> Tensor:
        if self.config.entangle_position_embedding:
            x = x + places
        if self.type_embedding is not None:
            x = x + self.type_embedding.weight[kind]
        embedded: Tensor = self.dropout(norm(x))
        return embedded

    def _places_of_cells(self, height: int, width: int) -> Tensor:
        """Position vectors of a map, (P, D); `interpolate_position` stretches a smaller map's."""
        side, table = self.config.image_bucket_size, self.embed_image_positions.weight
        original = self.config.orig_patch_image_size // CELL_PIXELS
        if not (self.config.interpolate_position and height * width > original**2):
            return table[positions.cell_positions(height, width, side, table.device)]
        known = table[positions.cell_positions(original, original, side, table.device)]
        known = known.t().view(1, -1, original, original)  # (1, D, …)
        stretched = functional.interpolate(known, size=(height, width), mode="bilinear")
        return stretched[0].flatten(1).t()

    def _places(self, cells: Tensor, length: int) -> Tensor:
        """Position vectors of a map and of a text behind it, (1, S, D)."""
        words = self.embed_positions.weight[:length]
        return torch.cat([self.image_pos_ln(cells), self.pos_ln(words)])[None]

    def _biases(self, cells: Tensor, grid: torch.Size, size: int) -> list[Tensor]:
        """What positions add to attention in each layer, each (1, H, S, S), S being `size`.

        Kept for inference: those of a longer text begin with those of a shorter one.
        """
        length = size - cells.shape[0]
        if self.training or torch.is_grad_enabled():
            return self._compute_biases(self._places(cells, length), grid)
        shape = (*grid, cells.device)
        if self._kept_biases is None or self._kept_biases[0] != shape or self._kept_length < length:
            self._kept_length = -(-length // TEXT_STEP) * TEXT_STEP
            places = self._places(cells, self._kept_length)
            self._kept_length = places.shape[1] - cells.shape[0]  # the table may end before
            self._kept_biases = (shape, self._compute_biases(places, grid))
        return [bias[:, :, :size, :size] for bias in self._kept_biases[1]]

    def _compute_biases(self, places: Tensor, grid: torch.Size) -> list[Tensor]:
        config, count = self.config, grid[0] * grid[1]
        absolute = positions.absolute_bias(
            self.pos_q_linear(places),
            self.pos_k_linear(places),
            self.heads,
            config.attn_scale_factor,
        )
        side, device = config.image_bucket_size, places.device
        cells = positions.cell_positions(grid[0], grid[1], side, device)
        cell_buckets = positions.cell_buckets(cells, side)
        token_buckets = positions.token_buckets(
            places.shape[1] - count, config.token_bucket_size, device
        )
        biases = []
        for table in range(len(self.token_rel_pos_table_list)):
            bias = absolute.clone()
            bias[:, :, :count, :count] += positions.look_up(
                self.image_rel_pos_table_list[table], cell_buckets
            )
            bias[:, :, count:, count:] += positions.look_up(
                self.token_rel_pos_table_list[table], token_buckets
            )
            biases.append(bias)
        return biases * len(self.layers) if config.share_attn_bias else biases


def mask_out(padding: Tensor, dtype: torch.dtype) -> Tensor:
    """Shapes: padding (B, S), True where nobody may look; returns (B, 1, 1, S), for the scores."""
    mask = torch.zeros(padding.shape, dtype=dtype, device=padding.device)
    return mask.masked_fill(padding, torch.finfo(dtype).min / 2)[:, None, None, :]


def _padding(input_ids: Tensor, pad: int, *, cells: int) -> Tensor | None:
    ended = input_ids.eq(pad)
    if not ended.any():
        return None
    return functional.pad(ended, (cells, 0), value=False)


def _norm(width: int, *, exists: bool) -> nn.Module:
    return nn.LayerNorm(width) if exists else nn.Identity()


def _layers(config: OFAConfig) -> nn.ModuleList:
    rates = drop_path_rates(config.encoder_drop_path_rate, config.encoder_layers)
    return nn.ModuleList(EncoderLayer(config, rate) for rate in rates)

"""Where a token or a cell of an image stands, as a bias on attention.

Two parts are added to every attention score. The absolute one compares learned vectors of the two
positions and is shared by all layers. The relative one looks a number up for their distance, in a
table of each layer: for words distances grow coarser with a logarithm, cells have an entry for each
offset in rows and columns.

Both depend on the shape of a batch alone, so they are computed once and broadcast over it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from operators.models.ofa.config import LONGEST


def token_buckets(length: int, bucket_size: int, device: torch.device | None = None) -> Tensor:
    """Numbers the distance between any two of `length` tokens, below 2 bucket_size - 1.

    Distances up to half of `bucket_size` have a number of their own, longer ones share one.

    Returns:
        int64 (length, length): row minus column.
    """
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    half = bucket_size // 2
    far = distance.abs().clamp(min=half).float() / half
    steps = torch.ceil(torch.log(far) / math.log((LONGEST - 1) / half) * (half - 1)).long() + half
    bucket = torch.where(distance.abs() <= half, distance, steps * distance.sign())
    return bucket + bucket_size - 1


def cell_buckets(cells: Tensor, bucket_size: int) -> Tensor:
    """Numbers the offset between any two cells of an image.

    Args:
        cells: int64 (P,), from `cell_positions`.
        bucket_size: cells along a side of the largest image.

    Returns:
        int64 (P, P), below (2 bucket_size - 1)².
    """
    row, column = (cells - 1) // bucket_size, (cells - 1) % bucket_size
    rows = row[:, None] - row[None, :] + bucket_size - 1
    columns = column[:, None] - column[None, :] + bucket_size - 1
    return rows * (2 * bucket_size - 1) + columns


def cell_positions(height: int, width: int, bucket_size: int, device: torch.device) -> Tensor:
    """Numbers the cells of a map row by row, on a grid that is `bucket_size` wide; 0 is not used.

    Returns:
        int64 (height * width,).
    """
    rows = torch.arange(height, device=device)[:, None] * bucket_size
    return (rows + torch.arange(width, device=device)[None, :] + 1).flatten()


def token_table(bucket_size: int, heads: int) -> nn.Embedding:
    """What a distance between tokens adds to each head's scores."""
    return nn.Embedding(2 * bucket_size - 1, heads)


def cell_table(bucket_size: int, heads: int) -> nn.Embedding:
    """What an offset between cells adds; three entries more belong to drawn images."""
    return nn.Embedding((2 * bucket_size - 1) ** 2 + 3, heads)


def look_up(table: nn.Embedding | nn.Module, buckets: Tensor) -> Tensor:
    """Shapes: buckets (R, C); returns (1, H, R, C), H heads."""
    weight: Tensor = table.weight  # type: ignore[assignment]
    return weight.t()[:, buckets.flatten()].view(1, -1, *buckets.shape)


def absolute_bias(queries: Tensor, keys: Tensor, heads: int, scale_factor: float) -> Tensor:
    """Compares projected position vectors.

    Shapes: queries (1, R, D), keys (1, C, D); returns (1, heads, R, C).
    """
    scale = float(queries.shape[-1] / heads * scale_factor) ** -0.5
    bias: Tensor = _heads(queries, heads) * scale @ _heads(keys, heads).transpose(2, 3)
    return bias


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.view(1, x.shape[1], heads, -1).transpose(1, 2)  # (1, H, R, D / H)


def shared(tables: Sequence[nn.Module] | nn.ModuleList, layer: int) -> nn.Module:
    """The table of a layer, or the only one where layers share it."""
    return tables[0] if len(tables) == 1 else tables[layer]

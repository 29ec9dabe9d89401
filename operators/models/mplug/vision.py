"""mPLUG's image tower: CLIP's vision transformer, with the state of every patch put out.

The published class differs from CLIP's in three ways: the last norm is for all tokens, the
projection to CLIP's shared space is left out, and the position table may be longer than needed.

Letters: B images, S pixels a side, N tokens (the class token and the patches), W width, H heads.

Source: CLIP, arXiv:2103.00020.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from operators.models.cpu import linear
from operators.models.mplug.config import HEAD_WIDTH, MPlugConfig


class VisualEncoder(nn.Module):
    """Holds the tower under its published name; CLIP's text half is not kept."""

    def __init__(self, config: MPlugConfig) -> None:
        super().__init__()
        self.visual = VisionTransformer(config)

    def forward(self, pixels: Tensor) -> Tensor:
        """Shapes: pixels (B, 3, S, S), normalised; returns (B, N, W)."""
        states: Tensor = self.visual(pixels)
        return states


class VisionTransformer(nn.Module):
    """Sees an image as a row of patches."""

    def __init__(self, config: MPlugConfig) -> None:
        super().__init__()
        width, patch = config.clip_vision_width, config.clip_vision_patch_size
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(config.image_positions, width))
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.ln_pre = nn.LayerNorm(width)
        blocks = [Block(width) for _ in range(config.clip_vision_layers)]
        self.transformer = nn.ModuleDict({"resblocks": nn.Sequential(*blocks)})
        self.ln_post = nn.LayerNorm(width)
        self._initialise(width, config.clip_vision_layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """Shapes: pixels (B, 3, S, S), normalised; returns (B, N, W)."""
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)  # (B, N - 1, W)
        first = self.class_embedding.expand(len(patches), 1, -1)
        x = torch.cat([first, patches], dim=1)  # (B, N, W)
        x = self.ln_pre(x + self.positional_embedding[: x.shape[1]])
        states: Tensor = self.ln_post(self.transformer["resblocks"](x))
        return states

    def _initialise(self, width: int, layers: int) -> None:
        """Draws weights to train from, as CLIP does."""
        scale = width**-0.5
        nn.init.normal_(self.class_embedding, std=scale)
        nn.init.normal_(self.positional_embedding, std=scale)
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.normal_(module.attn.in_proj_weight, std=scale)
                nn.init.normal_(module.attn.out_proj.weight, std=scale * (2 * layers) ** -0.5)
                nn.init.normal_(module.mlp.c_fc.weight, std=(2 * width) ** -0.5)
                nn.init.normal_(module.mlp.c_proj.weight, std=scale * (2 * layers) ** -0.5)


class Block(nn.Module):
    """Attention and feed-forward, each with the norm in front; shapes (B, N, W) are kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = Attention(width)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = FeedForward(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (B, N, W), kept."""
        x = x + self.attn(self.ln_1(x))
        mixed: Tensor = x + self.mlp(self.ln_2(x))
        return mixed


class Attention(nn.Module):
    """Attention among patches; queries, keys and values share a matrix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (B, N, W), kept."""
        joint = linear(x, self.in_proj_weight, self.in_proj_bias)
        parts = joint.view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, values = parts.unbind()  # each (B, H, N, W / H)
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        joined: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))  # (B, N, W)
        return joined


class FeedForward(nn.Module):
    """Two linears around `quick_gelu`; shapes (B, N, W) are kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (B, N, W), kept."""
        narrowed: Tensor = self.c_proj(quick_gelu(self.c_fc(x)))
        return narrowed


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)

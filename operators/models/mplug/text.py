"""mPLUG's text stacks that read: the encoder of a text alone, and its fusion with an image.

Letters: R rows of text, T tokens, M images (R a multiple of M, rows of one image neighbours), N
image tokens, D width.
"""

from typing import cast

import torch
from torch import Tensor, nn

from operators.models.mplug.config import MPlugConfig
from operators.models.mplug.layers import Embeddings, Layer


class TextEncoder(nn.Module):
    """Reads texts: the first layers of a BERT."""

    def __init__(self, config: MPlugConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        layers = [Layer(config, sees=False) for _ in range(config.text_encoder_layers)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Shapes: ids (R, T) int64 and mask (R, T), 0 for padding; returns (R, T, D)."""
        seen = mask.bool()[:, None, None]  # (R, 1, 1, T)
        x: Tensor = self.embeddings(ids)
        for layer in cast(list[Layer], self.encoder["layer"]):
            x = layer.attention(x, layer.attention.keys_values(x), mask=seen)
            x = layer.feed_forward(x)
        return x


class FusionEncoder(nn.Module):
    """Lets texts look at images, and in connected layers images at texts.

    Only the layers that run are kept, under their published numbers. A connected layer reads image
    and text as one sequence; its image part is added to the image states that later layers see (the
    published code does so in place), its text part replaces the text's.
    """

    def __init__(self, config: MPlugConfig) -> None:
        super().__init__()
        self.config = config
        layers = {
            str(number): Layer(config, sees=not config.is_connected(number))
            for number in config.fusion_numbers
        }
        self.encoder = nn.ModuleDict({"layer": nn.ModuleDict(layers)})

    def forward(self, image_states: Tensor, text_states: Tensor, mask: Tensor) -> Tensor:
        """Reads texts before images.

        Shapes: image_states (M, N, D); text_states (R, T, D); mask (R, T), 0 for padding; returns
        (R, T, D).
        """
        seen = mask.bool()[:, None, None]  # (R, 1, 1, T)
        image, x = image_states, text_states
        for number in self.config.fusion_numbers:
            layer = cast(Layer, cast(nn.ModuleDict, self.encoder["layer"])[str(number)])
            if self.config.is_connected(number):
                image, x = _connect(layer, image, x, seen)
            else:
                x = layer.attention(x, layer.attention.keys_values(x), mask=seen)
                x = layer.crossattention(x, layer.crossattention.keys_values(image))
                x = layer.feed_forward(x)
        return x


def _connect(layer: Layer, image: Tensor, text: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Shapes: image (M, N, D); text (R, T, D); seen (R, 1, 1, T); returns (R, N, D), (R, T, D)."""
    rows, length = text.shape[0], image.shape[1]
    image = image.repeat_interleave(rows // image.shape[0], dim=0)  # (R, N, D)
    joint = torch.cat([image, text], dim=1)  # (R, N + T, D)
    all_seen = torch.cat([seen.new_ones(rows, 1, 1, length), seen], dim=3)
    joint = layer.attention(joint, layer.attention.keys_values(joint), mask=all_seen)
    joint = layer.feed_forward(joint)
    return image + joint[:, :length], joint[:, length:]

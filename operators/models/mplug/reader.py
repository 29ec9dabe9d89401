"""Turns images and texts into what mPLUG's nets take, as the published preprocessor does."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import torch
from PIL.Image import Resampling
from torch import Tensor

from operators.models.cpu import rows_at_once
from operators.models.mplug.config import MPlugConfig
from operators.models.mplug.model import MPlugCaptionNet, MPlugMatchNet
from operators.models.wordpiece import HUGGING_FACE, WordPiece, read_vocabulary
from schemas.errors import ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, of each channel
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
IMAGES_AT_ONCE = {"cpu": 8, "cuda": 32}  # whose states are held

Net = TypeVar("Net", MPlugCaptionNet, MPlugMatchNet)


class Reader(Generic[Net]):
    """A net for inference, with what stands before it.

    Args:
        net: from `operators.models.mplug.weights`; moved to a CUDA device where there is one.
    """

    def __init__(self, net: Net) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.net: Net = net
        net.to(device)
        self.device = device
        self.images_at_once = IMAGES_AT_ONCE[device.type]

    def arithmetic(self) -> ExitStack:
        """Computes without gradients; float32 is float32 on a GPU, too."""
        stack = ExitStack()
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        return stack

    def see(self, images: "Sequence[Image]") -> Tensor:
        """Computes the states of images. Shapes: returns (B, N, D)."""
        config = self.net.config
        widest = config.image_tokens * 4 * config.clip_vision_width  # within the feed-forward
        some = torch.split(self.pixels(images), rows_at_once(self.device, widest))
        return torch.cat([self.net.see(pixels) for pixels in some])

    def pixels(self, images: "Sequence[Image]") -> Tensor:
        """Shapes: returns (B, 3, image_res, image_res), normalised."""
        side = self.net.config.image_res
        squares = [
            np.asarray(image.convert("RGB").resize((side, side), Resampling.BICUBIC))
            for image in images
        ]
        mean = torch.tensor(MEAN, device=self.device).view(3, 1, 1)
        deviation = torch.tensor(DEVIATION, device=self.device).view(3, 1, 1)
        pixels = torch.from_numpy(np.stack(squares)).to(self.device).permute(0, 3, 1, 2)
        normalised = (pixels.float() / 255 - mean) / deviation
        return normalised.to(self.net.visual_encoder.visual.class_embedding.dtype)


def read_words(directory: Path, config: MPlugConfig) -> WordPiece:
    """Reads the vocabulary of a directory.

    Raises:
        ModelError: it is missing or damaged, or larger than the word table.
    """
    words = read_vocabulary(directory, HUGGING_FACE)
    largest = max(words.vocabulary.values())
    if largest >= config.vocab_size:
        raise ModelError(
            f"{directory}: the vocabulary has {largest + 1} pieces, but 'vocab_size' in the BERT "
            f"configuration allows {config.vocab_size}; the two files belong to different models"
        )
    return words

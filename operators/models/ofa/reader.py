"""OFA ready to read: the net on its device, its tokenizer, and the pixels it wants."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from PIL.Image import Resampling
from torch import Tensor

from operators.models.cpu import pack, rows_at_once
from operators.models.ofa.config import OFAConfig
from operators.models.ofa.encoder import CELL_PIXELS
from operators.models.ofa.model import OFAModel, load
from operators.models.ofa.settings import Settings
from operators.models.ofa.tokenizer import BOS, EOS, OFATokenizer
from schemas.errors import ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGES_AT_ONCE = 32  # in the ResNet of a GPU, whose maps are the largest in memory
MAP_VALUES = 16  # of a pixel, in the ResNet's largest map: 64 channels at half the image's side


class Reader:
    """What captioning and entailment have in common."""

    def __init__(
        self, net: OFAModel, tokenizer: OFATokenizer, settings: Settings, precision: str
    ) -> None:
        self.net = net
        self.tokenizer = tokenizer
        self.settings = settings
        self.precision = precision

    @classmethod
    def load(cls, directory: Path, *, precision: str, device: str | None = None) -> Self:
        """Reads a directory for inference.

        Args:
            directory: in ModelScope's format.
            precision: of the arithmetic; weights stay float32.
            device: CUDA where there is one, when None.

        Raises:
            ModelError: a file is missing or damaged, or the files do not fit each other.
        """
        settings, net = Settings.read(directory), load(directory)
        _check_grid(settings, net.config, directory)
        net.encoder.embed_images.fold_batch_norms()
        net.requires_grad_(requires_grad=False)
        tokenizer = OFATokenizer(directory, net.config.vocab_size)
        net.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = getattr(torch, precision)
        net.encoder.embed_images.pack(dtype)
        for part in (net.encoder, net.decoder.layers):
            pack(part, dtype)
        return cls(net, tokenizer, settings, precision)

    @property
    def device(self) -> torch.device:
        """Where the net is."""
        return self.net.decoder.output_projection.weight.device

    def arithmetic(self) -> ExitStack:
        """Computes without gradients in the given precision; float32 is float32 on a GPU, too."""
        stack = ExitStack()
        lower = self.precision != "float32"
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        stack.enter_context(
            torch.autocast(self.device.type, dtype=getattr(torch, self.precision), enabled=lower)
        )
        return stack

    def see(self, images: "Sequence[Image]") -> Iterator[Tensor]:
        """Computes the features of images, a few at a time, for any number of questions.

        Shapes: yields (b, 1024, h, w), in order.
        """
        fitting = rows_at_once(self.device, MAP_VALUES * self.settings.image_pixels**2)
        at_once = min(fitting, IMAGES_AT_ONCE)
        for start in range(0, len(images), at_once):
            pixels = self.pixels(images[start : start + at_once])
            yield self.net.encode_image_features(pixels)

    def pixels(self, images: "Sequence[Image]", *, device: torch.device | None = None) -> Tensor:
        """Squashes images to the square that the net sees, on a device or where the net is.

        Shapes: returns (B, 3, image_pixels, image_pixels), normalised.
        """
        side = self.settings.image_pixels
        squares = [
            np.asarray(image.convert("RGB").resize((side, side), Resampling.BICUBIC))
            for image in images
        ]
        device = device or self.device
        mean = torch.tensor(self.settings.mean, device=device).view(3, 1, 1)
        deviation = torch.tensor(self.settings.deviation, device=device).view(3, 1, 1)
        pixels = torch.from_numpy(np.stack(squares)).to(device).permute(0, 3, 1, 2)
        return (pixels.float() / 255 - mean) / deviation

    def source(self, text: str) -> list[int]:
        """Encodes a question, cut to the length that the settings allow."""
        tokens = self.tokenizer.encode(text, longest=self.settings.longest_source)
        return [BOS, *tokens, EOS]


def _check_grid(settings: Settings, config: OFAConfig, directory: Path) -> None:
    largest = config.image_bucket_size * CELL_PIXELS
    if settings.image_pixels > largest:
        raise ModelError(
            f"{directory}: 'patch_image_size' in configuration.json is {settings.image_pixels}, "
            f"but 'image_bucket_size' in config.json allows {largest} pixels; the two files belong "
            "to different models"
        )

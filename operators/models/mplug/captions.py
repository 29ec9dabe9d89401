"""Describes images with mPLUG, as ModelScope's image-captioning pipeline does.

The published pipeline looks at one image at a time, computes each step of the search from the
beginning, and projects the image anew for each beam; here neither is done, and the captions are the
same.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from operators.models.beam import OpenBeam, search_open
from operators.models.cpu import pack
from operators.models.mplug.config import MPlugConfig
from operators.models.mplug.decoder import Cache, Decoder
from operators.models.mplug.reader import Reader, read_words
from operators.models.mplug.weights import load_captioner

if TYPE_CHECKING:
    from PIL.Image import Image


class MPlugCaptions:
    """Writes sentences about images.

    Args:
        directory: an mPLUG directory of the task image-captioning.
        options: fields of `OpenBeam`.
        precision: of weights and arithmetic.

    Raises:
        ModelError: a file is missing or damaged, or the files do not fit each other.
    """

    def __init__(self, directory: Path, options: Mapping[str, float], precision: str) -> None:
        self.words = read_words(directory, MPlugConfig.read(directory))
        dtype = getattr(torch, precision)
        self.reader = Reader(load_captioner(directory, dtype))
        pack(self.reader.net, dtype)
        self.beam = OpenBeam(**options, begin=self.words.start, end=self.words.end)  # type: ignore[arg-type]

    def describe(self, images: "Sequence[Image]") -> list[list[tuple[str, float]]]:
        """Finds the sentences that fit each image best.

        Returns:
            for each image the best `beam_size` of its finished sentences with their scores, best
            first.
        """
        reader = self.reader
        found = []
        with reader.arithmetic():
            for start in range(0, len(images), reader.images_at_once):
                states = reader.see(images[start : start + reader.images_at_once])
                writer = _Writer(reader.net.text_decoder, states)
                found += search_open(writer, len(states), self.beam, device=reader.device)
        return [[(self.words.decode(h.tokens), h.score) for h in best] for best in found]


class _Writer:
    """The decoder as beam search wants it: reads the newest token of each row, keeps the rest."""

    def __init__(self, decoder: Decoder, image_states: Tensor) -> None:
        self.decoder = decoder
        self.cache: Cache = decoder.start(image_states)

    def __call__(self, tokens: Tensor, parents: Tensor | None) -> Tensor:
        if parents is not None:
            self.cache.follow(parents)
        return self.decoder.logits(self.decoder.read(tokens[:, -1:], self.cache)[:, 0])

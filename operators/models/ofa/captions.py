"""Describes images with OFA, as ModelScope's image-captioning pipeline does."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from operators.models.beam import Beam, search
from operators.models.cpu import pack
from operators.models.ofa.decoder import Cache
from operators.models.ofa.encoder import Memory
from operators.models.ofa.model import OFAModel
from operators.models.ofa.reader import Reader
from operators.models.ofa.tokenizer import BOS, EOS, PAD, UNK
from schemas.errors import ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

QUESTION = " what does the image describe?"  # the blank in front is part of it
PUNCTUATION = str.maketrans("", "", string.punctuation)


class OFACaptions:
    """Writes sentences about images.

    Args:
        directory: an OFA directory of the task image-captioning.
        options: fields of `Beam`.
        precision: of the arithmetic.

    Raises:
        ModelError: a file is missing or damaged, or the files do not fit each other.
    """

    def __init__(self, directory: Path, options: Mapping[str, float], precision: str) -> None:
        self.reader = Reader.load(directory, precision=precision)
        pack(self.reader.net.decoder, getattr(torch, precision))  # its vocabulary, too
        self.beam = Beam(**options, begin=BOS, pad=PAD, end=EOS, unknown=UNK)  # type: ignore[arg-type]
        self.question = self.reader.source(self.reader.settings.prompt or QUESTION)
        if len(self.question) > self.reader.net.config.positions:
            raise ModelError(
                f"{directory}: the prompt in configuration.json has {len(self.question)} tokens, "
                f"but the net in config.json {self.reader.net.config.positions} positions"
            )

    def describe(self, images: "Sequence[Image]") -> list[list[tuple[str, float]]]:
        """Finds the sentences that fit each image best.

        Returns:
            for each image its finished sentences with their scores, best first; none where the net
            computes no finite score.
        """
        with self.reader.arithmetic():
            decoder = self.reader.net.decoder
            cache = decoder.start(self._read(images), length=self.beam.max_tokens + 1)
            writer = _Writer(self.reader.net, cache)
            found = search(writer, len(images), self.beam, device=self.reader.device)
        return [[(self.clean(h.tokens), h.score) for h in hypotheses] for hypotheses in found]

    def _read(self, images: "Sequence[Image]") -> Memory:
        """Takes few images at a time to the encoder's end, and then joins them for the search."""
        question = torch.tensor([self.question], device=self.reader.device)
        memories = [
            self.reader.net.encode(features, question.expand(len(features), -1))
            for features in self.reader.see(images)
        ]
        return replace(memories[0], states=torch.cat([memory.states for memory in memories]))

    def clean(self, tokens: Sequence[int]) -> str:
        """Turns tokens into a sentence of the published form: no punctuation, no blanks around."""
        text = self.reader.tokenizer.decode(tokens).strip()
        return text.translate(PUNCTUATION).strip()


class _Writer:
    """The decoder as beam search wants it: reads the newest token of each row, keeps the rest."""

    def __init__(self, net: OFAModel, cache: Cache) -> None:
        self.net = net
        self.cache = cache

    def __call__(self, tokens: Tensor, parents: Tensor | None) -> Tensor:
        if parents is not None:
            self.cache.follow(parents)
        states = self.net.decoder.read(tokens[:, -1:], self.cache)
        return self.net.logits(states[:, 0])

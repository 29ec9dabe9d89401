"""Tells with mPLUG whether images and texts belong together, as ModelScope's pipeline does.

The published pipeline takes one pair at a time. Here an image is seen once for all its texts and a
text is read once for all its images; seeing is nearly all of the work.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from operators.models.cpu import pack
from operators.models.mplug.config import LONGEST_MATCHED, read_for_matching
from operators.models.mplug.reader import Reader, read_words
from operators.models.mplug.weights import load_matcher
from operators.models.wordpiece import pad

if TYPE_CHECKING:
    from PIL.Image import Image

TEXTS_AT_ONCE = 64  # in the text encoder
PAIRS_AT_ONCE = {"cpu": 64, "cuda": 1024}  # in the fusion stack


@dataclass(frozen=True)
class Texts:
    """What is known of texts whatever the image.

    Shapes, for U texts of up to T ids: states (U, T, D); mask (U, T); features (U, E).
    """

    states: Tensor
    mask: Tensor
    features: Tensor


class MPlugMatching:
    """Scores pairs of image and text.

    Args:
        directory: an mPLUG directory of the task image-text-retrieval.
        precision: of weights and arithmetic.

    Raises:
        ModelError: a file is missing or damaged, or the files do not fit each other.
    """

    def __init__(self, directory: Path, precision: str) -> None:
        config = read_for_matching(directory)
        self.words = read_words(directory, config)
        dtype = getattr(torch, precision)
        self.reader = Reader(load_matcher(directory, dtype))
        pack(self.reader.net, dtype)
        self.pairs_at_once = PAIRS_AT_ONCE[self.reader.device.type]

    def is_cut(self, text: str) -> bool:
        """Whether the end of a text is left unread, being too long."""
        return len(self.words.encode(text.lower(), limit=LONGEST_MATCHED + 1)) > LONGEST_MATCHED

    def read(self, texts: Sequence[str]) -> Texts:
        """Reads texts, at least one, for any number of images."""
        net, device = self.reader.net, self.reader.device
        rows = [self.words.encode(text.lower(), limit=LONGEST_MATCHED) for text in texts]
        ids = torch.tensor(pad(rows), device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
        with self.reader.arithmetic():
            some = zip(
                torch.split(ids, TEXTS_AT_ONCE), torch.split(mask, TEXTS_AT_ONCE), strict=True
            )
            states = torch.cat([net.read(*each) for each in some])
            return Texts(states, mask, net.text_feature(states))

    def match(
        self, images: "Sequence[Image]", texts: Texts, asked: Sequence[Sequence[int]]
    ) -> list[list[tuple[float, float]]]:
        """Scores some of the texts for each image.

        Args:
            images: any number; each is seen once.
            texts: from `read`.
            asked: for each image, positions in `texts`.

        Returns:
            for each image and each text asked of it: the probability that they belong together,
            and the cosine of their contrastive features.
        """
        found: dict[int, list[tuple[float, float]]] = {}
        for chunk in _chunks(asked, self.reader.images_at_once):
            rows = torch.tensor([list(asked[at]) for at in chunk], device=self.reader.device)
            with self.reader.arithmetic():
                scores = self._score([images[at] for at in chunk], texts, rows).tolist()
            found.update(
                (at, [(pair[0], pair[1]) for pair in pairs])
                for at, pairs in zip(chunk, scores, strict=True)
            )
        return [found.get(at, []) for at in range(len(images))]

    def _score(self, images: "Sequence[Image]", texts: Texts, rows: Tensor) -> Tensor:
        """Shapes: rows (B, K), texts of each of B images; returns (B, K, 2) float32."""
        states = self.reader.see(images)  # (B, N, D)
        features = self.reader.net.image_feature(states)  # (B, E)
        cosines = torch.einsum("be,bke->bk", features.float(), texts.features[rows].float())
        width = max(1, self.pairs_at_once // len(rows))
        odds = torch.cat(
            [self._fuse(states, texts, some) for some in torch.split(rows, width, dim=1)], 1
        )
        return torch.stack([odds, cosines], dim=2)

    def _fuse(self, states: Tensor, texts: Texts, rows: Tensor) -> Tensor:
        """Shapes: states (B, N, D); rows (B, K); returns (B, K) float32, probabilities."""
        chosen = rows.flatten()
        logits = self.reader.net.match(states, texts.states[chosen], texts.mask[chosen])
        odds: Tensor = logits.float().softmax(dim=-1)[:, 1].view(rows.shape)
        return odds


def _chunks(asked: Sequence[Sequence[int]], images_at_once: int) -> Iterator[list[int]]:
    """Positions of images asked equally many texts, a few at a time; those asked none left out."""
    order = sorted((at for at in range(len(asked)) if asked[at]), key=lambda at: len(asked[at]))
    for _, alike in groupby(order, key=lambda at: len(asked[at])):
        positions = list(alike)
        for start in range(0, len(positions), images_at_once):
            yield positions[start : start + images_at_once]

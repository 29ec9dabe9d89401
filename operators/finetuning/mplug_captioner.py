"""mPLUG's captioning as a trainee: teacher forcing, every token of the batch counting alike."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from operators.finetuning import mplug
from operators.finetuning.losses import IGNORED, caption_loss
from operators.finetuning.trainee import Batch, Figures, Step
from operators.models.directory import expect
from operators.models.mplug.config import MPlugConfig
from operators.models.mplug.reader import Reader, read_words
from operators.models.mplug.weights import load_captioner
from operators.models.wordpiece import pad

if TYPE_CHECKING:
    from PIL.Image import Image


class MPlugCaptionerTrainee:
    """An mPLUG captioning directory in training.

    Args:
        directory: in ModelScope's format.
        smoothing: share of a target's probability that goes to all other tokens; published is 0.
        has_checkpoints: whether layers are computed again on the way back, to save memory.
    """

    columns: tuple[str, ...] = ("caption",)
    rules = mplug.RULES

    def __init__(
        self, directory: Path, *, smoothing: float = 0.0, has_checkpoints: bool = False
    ) -> None:
        expect(directory, "captioner")
        self.directory, self.smoothing = directory, smoothing
        config = MPlugConfig.read(directory)
        self.longest = min(mplug.LONGEST, config.max_position_embeddings)
        self.words = read_words(directory, config)
        self.reader = Reader(load_captioner(directory))
        self.model = self.reader.net
        self.net: nn.Module = self.model
        mplug.prepare(self.model, has_checkpoints=has_checkpoints)

    def collate(
        self,
        images: "Sequence[Image]",
        rows: Sequence[Mapping[str, str]],
        numbers: Sequence[int],
        draws: Sequence[Random] | None = None,
    ) -> Batch:
        """Shapes: pixels (B, 3, S, S); ids (B, T) int64, padded at the end."""
        ids = [self.words.encode(row["caption"], limit=self.longest) for row in rows]
        lengths = torch.tensor([len(row) for row in ids])
        padded = torch.tensor(pad(ids))
        is_text = torch.arange(padded.shape[1]) < lengths[:, None]
        wanted = padded.masked_fill(~is_text, IGNORED)
        return {"pixels": self.reader.pixels(images), "ids": padded, "wanted": wanted}

    def learn(self, parts: Sequence[Batch], step: Step) -> Figures:
        """Adds the gradients of the mean over all tokens of all workers."""
        own = sum(int((part["wanted"][:, 1:] != IGNORED).sum()) for part in parts)
        tokens = step.workers.total(own)
        figures = {"loss": 0.0}
        for number, part in enumerate(parts):
            step.begin(number)
            states = self.model.see(part["pixels"])
            logits = self.model.logits(states, part["ids"][:, :-1])
            loss = caption_loss(logits, part["wanted"][:, 1:], self.smoothing)
            step.backward(loss / tokens)
            figures["loss"] += loss.item() / tokens
        return figures

    def settle(self) -> None:
        """Nothing comes after a step."""

    def to(self, device: torch.device) -> None:
        """Moves the net."""
        self.net.to(device)

    def memory(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Nothing is to be remembered."""

    def write(self, directory: Path) -> None:
        """Writes ModelScope's layout, with all that the file held before."""
        mplug.write_whole(self.directory, directory, self.model.state_dict())

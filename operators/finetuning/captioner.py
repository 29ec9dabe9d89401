"""OFA's captioning as a trainee: teacher forcing with smoothed labels.

As in OFA's published scripts: the target is the caption without ASCII punctuation, cut to a number
of words; the loss is the mean over all tokens of the batch, the end counted.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from operators.finetuning.losses import IGNORED, caption_loss, distillation_loss
from operators.finetuning.ofa import (
    RULES,
    Teacher,
    decoder_states,
    longest_target,
    pixels_for,
    read_for_training,
)
from operators.finetuning.trainee import Batch, Figures, Step
from operators.finetuning.weights import write_directory
from operators.models.directory import expect
from operators.models.ofa.captions import PUNCTUATION, QUESTION
from operators.models.ofa.tokenizer import BOS, EOS, PAD, pad

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_TARGET = 20  # words; --max-tgt-length of OFA's caption scripts


class CaptionerTrainee:
    """An OFA captioning directory in training.

    Args:
        directory: in ModelScope's format.
        smoothing: share of the target's probability that goes to all other tokens.
        teacher: a directory of the same task to learn from too.
        teaching: how much of the loss is the teacher's.
        has_checkpoints: whether layers are computed again on the way back, to save memory.
    """

    columns: tuple[str, ...] = ("caption",)
    rules = RULES

    def __init__(
        self,
        directory: Path,
        *,
        smoothing: float = 0.1,
        teacher: Path | None = None,
        teaching: float = 0.5,
        has_checkpoints: bool = False,
    ) -> None:
        expect(directory, "captioner")
        self.directory, self.smoothing, self.teaching = directory, smoothing, teaching
        self.reader = read_for_training(directory, has_checkpoints=has_checkpoints)
        self.model = self.reader.net
        self.net: nn.Module = self.model
        self.question = self.reader.source(self.reader.settings.prompt or QUESTION)
        self.longest = longest_target(directory, LONGEST_TARGET)
        self.teacher = None
        if teacher:
            expect(teacher, "captioner")
            self.teacher = Teacher(teacher, directory)

    def collate(
        self,
        images: "Sequence[Image]",
        rows: Sequence[Mapping[str, str]],
        numbers: Sequence[int],
        draws: Sequence[Random] | None = None,
    ) -> Batch:
        """Shapes: pixels (B, 3, S, S); source (B, T), given and wanted (B, U), int64."""
        targets = [self.target(row["caption"]) for row in rows]
        wanted = pad(targets)
        return {
            **pixels_for(self.reader, self.teacher, images),
            "source": torch.tensor([self.question] * len(rows)),
            "given": pad([[BOS, *target[:-1]] for target in targets]),
            "wanted": wanted.masked_fill(wanted == PAD, IGNORED),
        }

    def target(self, caption: str) -> list[int]:
        """The tokens that are to be written, `</s>` last."""
        longest = self.model.config.positions - 1
        text = target_text(caption, self.longest)
        return [*self.reader.tokenizer.encode(text, longest=longest), EOS]

    def learn(self, parts: Sequence[Batch], step: Step) -> Figures:
        """Adds the gradients of the mean over all tokens of all workers."""
        own = sum(int((part["wanted"] != IGNORED).sum()) for part in parts)
        tokens = step.workers.total(own)
        figures = {"loss": 0.0, "unsmoothed": 0.0}
        for number, part in enumerate(parts):
            step.begin(number)
            loss, plain = self._losses(part)
            step.backward(loss / tokens)
            figures["loss"] += loss.item() / tokens
            figures["unsmoothed"] += plain.item() / tokens
        return figures

    def settle(self) -> None:
        """Nothing comes after a step."""

    def to(self, device: torch.device) -> None:
        """Moves the net and its teacher."""
        self.net.to(device)
        if self.teacher:
            self.teacher.net.to(device)

    def memory(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Nothing is to be remembered."""

    def write(self, directory: Path) -> None:
        """Writes ModelScope's layout."""
        write_directory(self.directory, directory, self.model.published_state_dict())

    def _losses(self, part: Batch) -> tuple[Tensor, Tensor]:
        """The sum over tokens that is learned from, and that of the plain cross entropy."""
        wanted = part["wanted"]
        states = decoder_states(self.model, part["pixels"], part["source"], part["given"])
        logits = self.model.logits(states)
        plain = caption_loss(logits.detach(), wanted)
        loss = caption_loss(logits, wanted, self.smoothing)
        if self.teacher:
            seen = self.teacher.states(part["teacher_pixels"], part["source"], part["given"])
            taught = distillation_loss(logits, self.teacher.reader.net.logits(seen), wanted)
            loss = (1 - self.teaching) * loss + self.teaching * taught
        return loss, plain


def target_text(caption: str, longest: int) -> str:
    """What is to be written: no ASCII punctuation, at most `longest` words, a blank in front."""
    return f" {' '.join(caption.translate(PUNCTUATION).split()[:longest])}"

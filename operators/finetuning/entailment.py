"""OFA's visual entailment as a trainee: the loss is on the answer alone, chosen among the answers.

As in OFA's published scripts: at each token only those that continue one of the answers are
allowed, so a token without an alternative costs nothing; where the directory says so, the decoder
reads the question again before it answers.

Letters: B rows, U tokens given, M places where an answer parts from another, D width, C choices.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from operators.finetuning.losses import smoothed_cross_entropy
from operators.finetuning.ofa import (
    RULES,
    Teacher,
    decoder_states,
    pixels_for,
    read_for_training,
)
from operators.finetuning.trainee import Batch, Figures, Step
from operators.finetuning.weights import write_directory
from operators.models.directory import expect
from operators.models.ofa.answers import QUESTION, QUESTION_WITH_PREMISE, clean
from operators.models.ofa.model import OFAModel
from operators.models.ofa.tokenizer import BOS, EOS, pad
from schemas.errors import RunError

if TYPE_CHECKING:
    from PIL.Image import Image


class EntailmentTrainee:
    """An OFA visual entailment directory in training.

    Args:
        directory: in ModelScope's format.
        has_premise: whether rows have a `premise`, what is known besides the image.
        smoothing: share of the right token's probability that goes to the other choices.
        teacher: a directory of the same task to learn from too.
        teaching: how much of the loss is the teacher's.
        has_checkpoints: whether layers are computed again on the way back, to save memory.
    """

    rules = RULES

    def __init__(
        self,
        directory: Path,
        *,
        has_premise: bool = False,
        smoothing: float = 0.1,
        teacher: Path | None = None,
        teaching: float = 0.5,
        has_checkpoints: bool = False,
    ) -> None:
        expect(directory, "entailment")
        self.directory, self.smoothing, self.teaching = directory, smoothing, teaching
        self.columns = ("hypothesis", "label", *(("premise",) if has_premise else ()))
        self.has_premise = has_premise
        self.reader = read_for_training(directory, has_checkpoints=has_checkpoints)
        self.model = self.reader.net
        self.net: nn.Module = self.model
        encode = self.reader.tokenizer.encode
        self.paths = {
            answer: (*encode(f" {answer}"), EOS) for answer in self.reader.settings.answers
        }
        found = [choice for path in self.paths.values() for choice in self.choices_of(path)]
        self.choices = sorted({tuple(choice) for choice in found if len(choice) > 1})
        self.teacher = None
        if teacher:
            expect(teacher, "entailment")
            self.teacher = Teacher(teacher, directory)

    def collate(
        self,
        images: "Sequence[Image]",
        rows: Sequence[Mapping[str, str]],
        numbers: Sequence[int],
        draws: Sequence[Random] | None = None,
    ) -> Batch:
        """Shapes: pixels (B, 3, S, S); source and given (B, U) int64; places and right below.

        places (M, 3) int64: the row, the position in `given`, and which of `choices` is open there;
        right (M,): the position of the answer's token among these.
        """
        sources = [self.reader.source(self.ask(row)) for row in rows]
        repeats = self.reader.settings.repeats_prompt
        given, places, right = [], [], []
        for number, (source, row) in enumerate(zip(sources, rows, strict=True)):
            path = self.paths[row["label"]]
            prompt = source[:-1] if repeats else [BOS]
            given.append([*prompt, *path[:-1]])
            self._check_length(max(len(source), len(given[-1])), row)
            for place, choice in enumerate(self.choices_of(path)):
                if len(choice) > 1:
                    known = self.choices.index(tuple(choice))
                    places.append([number, len(prompt) - 1 + place, known])
                    right.append(choice.index(path[place]))
        return {
            **pixels_for(self.reader, self.teacher, images),
            "source": pad(sources),
            "given": pad(given),
            "places": torch.tensor(places),
            "right": torch.tensor(right),
        }

    def ask(self, row: Mapping[str, str]) -> str:
        """The question about a row, as the operator asks it."""
        settings = self.reader.settings
        told = [row["premise"]] if self.has_premise else []
        prompt = settings.prompt or (QUESTION_WITH_PREMISE if told else QUESTION)
        texts = [*told, row["hypothesis"]]
        return prompt.format(*(clean(text, settings.longest_source) for text in texts))

    def choices_of(self, path: Sequence[int]) -> list[list[int]]:
        """The tokens that are allowed at each place of an answer, in ascending order."""
        return [
            sorted({p[place] for p in self.paths.values() if p[:place] == tuple(path[:place])})
            for place in range(len(path))
        ]

    def learn(self, parts: Sequence[Batch], step: Step) -> Figures:
        """Adds the gradients of the mean over the rows of all workers."""
        rows = step.workers.total(sum(len(part["source"]) for part in parts))
        figures = {"loss": 0.0, "batch_accuracy": 0.0}
        for number, part in enumerate(parts):
            step.begin(number)
            loss, right = self._losses(part)
            step.backward(loss / rows)
            figures["loss"] += loss.item() / rows
            figures["batch_accuracy"] += right / rows
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

    def _check_length(self, tokens: int, row: Mapping[str, str]) -> None:
        longest = self.model.config.positions
        if tokens > longest:
            raise RunError(
                f"{row['hypothesis']!r}: the question has {tokens} tokens, but the net {longest} "
                "positions; shorten the text"
            )

    def _losses(self, part: Batch) -> tuple[Tensor, int]:
        """The sum over rows, and how many rows are answered rightly at every place."""
        states = decoder_states(self.model, part["pixels"], part["source"], part["given"])
        taught = states
        if self.teacher:
            pixels = part["teacher_pixels"]
            taught = self.teacher.states(pixels, part["source"], part["given"])
        losses = []
        is_wrong = torch.zeros(len(states), dtype=torch.bool, device=states.device)
        for number in range(len(self.choices)):
            is_here = part["places"][:, 2] == number
            row, position, _ = part["places"][is_here].unbind(1)
            if not len(row):
                continue
            right = part["right"][is_here]
            logits = self._choose(self.model, states[row, position], number)
            loss = smoothed_cross_entropy(logits, right, self.smoothing).sum()
            if self.teacher:
                known = self._choose(self.teacher.reader.net, taught[row, position], number)
                soft = -(known.softmax(-1) * logits.log_softmax(-1)).sum()
                loss = (1 - self.teaching) * loss + self.teaching * soft
            losses.append(loss)
            is_wrong[row[logits.argmax(dim=-1) != right]] = True
        return torch.stack(losses).sum(), int((~is_wrong).sum())

    def _choose(self, net: OFAModel, states: Tensor, number: int) -> Tensor:
        """Shapes: states (M, D); returns (M, C) float32."""
        return net.logits(states, list(self.choices[number])).float()

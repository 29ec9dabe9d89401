"""Judges hypotheses about images with OFA, as ModelScope's visual-entailment pipeline does.

The net does not choose from its whole vocabulary: at each token only those that continue one of the
answers are allowed, and an answer's probability is the product of its tokens' under that
restriction.

Letters: B rows, T tokens, D width, A answers.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from operators.models.ofa.encoder import Memory
from operators.models.ofa.reader import Reader
from operators.models.ofa.settings import blanks
from operators.models.ofa.tokenizer import BOS, EOS, pad
from schemas.errors import ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

QUESTION = ' does the image describe " {} "?'
QUESTION_WITH_PREMISE = ' can image and text1 " {} " imply text2 " {} "?'
ROWS_AT_ONCE = {"cpu": 8, "cuda": 64}  # questions in the encoder

Prefix = tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """A hypothesis about the image at a position, and what is known besides the image."""

    image: int
    hypothesis: str
    premise: str | None = None


class OFAAnswers:
    """Gives each answer of the directory its probability.

    Args:
        directory: an OFA directory of the task visual-entailment.
        precision: of the arithmetic.

    Raises:
        ModelError: a file is missing or damaged, or the files do not fit each other.
    """

    def __init__(self, directory: Path, precision: str) -> None:
        self.directory = directory
        self.reader = Reader.load(directory, precision=precision)
        self.answers = self.reader.settings.answers
        encode = self.reader.tokenizer.encode
        self._paths = [(*encode(f" {answer}"), EOS) for answer in self.answers]
        self._choices = _choices(self._paths)

    def judge(self, images: "Sequence[Image]", questions: Sequence[Question]) -> Tensor:
        """Answers questions about images; the ResNet sees each image once.

        Args:
            images: any size and mode.
            questions: none of them longer than `overflow` allows.

        Returns:
            float32 (questions, answers) on the CPU, rows summing to 1; NaN where the net computes
            no number.
        """
        sources = [self.reader.source(self._ask(question)) for question in questions]
        scores = torch.empty(len(questions), len(self.answers))
        with self.reader.arithmetic():
            features = torch.cat(list(self.reader.see(images)))
            for rows in _batches([len(source) for source in sources], self.reader.device.type):
                seen = features[[questions[row].image for row in rows]]
                scores[rows] = self._score(seen, [sources[row] for row in rows]).cpu()
        return scores.softmax(dim=-1)

    def overflow(self, question: Question) -> int:
        """How many tokens a question and its answer have beyond the net's positions; 0: it fits."""
        tokens = len(self.reader.source(self._ask(question))) + max(map(len, self._paths))
        return max(0, tokens - self.reader.net.config.positions)

    def _ask(self, question: Question) -> str:
        settings = self.reader.settings
        told = [text for text in (question.premise, question.hypothesis) if text is not None]
        prompt = settings.prompt or (QUESTION if len(told) == 1 else QUESTION_WITH_PREMISE)
        if (blanks(prompt) or 0) > len(told):
            raise ModelError(
                f"{self.directory}: 'prompt' in configuration.json is {prompt!r}, which asks for a "
                "premise too; give one (in a job `premise: COLUMN`, in `tagline apply` --text2)"
            )
        return prompt.format(*(clean(text, settings.longest_source) for text in told))

    def _score(self, features: Tensor, sources: Sequence[Sequence[int]]) -> Tensor:
        """Sums log probabilities along each answer; returns (B, A)."""
        net = self.reader.net
        memory = net.encode(features, pad(sources).to(self.reader.device))
        repeats = self.reader.settings.repeats_prompt
        prompts = [source[:-1] if repeats else [BOS] for source in sources]
        scores = torch.zeros(len(sources), len(self._paths), device=self.reader.device)
        for prefix, tokens in self._choices.items():
            log_probabilities = self._choose(memory, prompts, prefix, tokens)
            for number, path in enumerate(self._paths):
                if path[: len(prefix)] == prefix:
                    scores[:, number] += log_probabilities[:, tokens.index(path[len(prefix)])]
        return scores

    def _choose(
        self, memory: Memory, prompts: Sequence[Sequence[int]], prefix: Prefix, tokens: list[int]
    ) -> Tensor:
        """Log probabilities of `tokens` after each prompt and prefix, of these tokens alone."""
        net = self.reader.net
        rows = [[*prompt, *prefix] for prompt in prompts]
        states = net.decoder(memory, pad(rows).to(self.reader.device))  # (B, T, D)
        last = [len(row) - 1 for row in rows]
        logits = net.logits(states[range(len(rows)), last], tokens)
        return logits.float().log_softmax(dim=-1)


def _batches(lengths: Sequence[int], device: str) -> list[list[int]]:
    """Puts rows of like length together, on a CPU of equal length.

    Padding costs a CPU more than a small batch: a mask for each row and its share of the work.
    """
    groups: dict[int, list[int]] = {}
    for row, length in sorted(enumerate(lengths), key=itemgetter(1)):
        groups.setdefault(length if device == "cpu" else 0, []).append(row)
    size = ROWS_AT_ONCE[device]
    return [g[at : at + size] for g in groups.values() for at in range(0, len(g), size)]


def clean(text: str, longest: int) -> str:
    """Brings a hypothesis into the form the published models were trained on.

    Lower case, without leading punctuation; hyphens and slashes become blanks; at most `longest`
    words.
    """
    text = text.lower().lstrip(",.!?*#:;~").replace("-", " ").replace("/", " ")
    text = re.sub(r"\s{2,}", " ", text.replace("<person>", "person"))
    return " ".join(text.rstrip("\n").strip(" ").split(" ")[:longest])


def _choices(paths: Sequence[Prefix]) -> dict[Prefix, list[int]]:
    """Where answers part, and the tokens that each may go on with."""
    following: dict[Prefix, list[int]] = {}
    for path in paths:
        for place, token in enumerate(path):
            tokens = following.setdefault(path[:place], [])
            if token not in tokens:
                tokens.append(token)
    return {prefix: tokens for prefix, tokens in following.items() if len(tokens) > 1}

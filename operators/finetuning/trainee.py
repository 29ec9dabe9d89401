"""What a fine-tuning needs of a model: a protocol, and what travels through it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from operators.finetuning.workers import Workers

if TYPE_CHECKING:
    from PIL.Image import Image

Batch = Mapping[str, Tensor]
Figures = dict[str, float]


def run_backward(loss: Tensor) -> None:
    """Adds a loss's gradients to the parameters'."""
    loss.backward()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Step:
    """What a step brings along.

    Args:
        workers: that share it.
        seed: fixes dropout and draws; each part of the batch adds its number.
        backward: adds a loss's gradients to the parameters'; scales the loss where precision asks.
    """

    workers: Workers = field(default_factory=Workers)
    seed: int = 0
    backward: Callable[[Tensor], None] = run_backward

    def begin(self, part: int) -> None:
        """Seeds what is drawn while a part is computed; doing it again repeats the draws."""
        torch.manual_seed(self.seed + part)


def _as_it_is(name: str) -> str:
    return name


def _always(name: str, parameter: nn.Parameter) -> bool:
    return True


def _at_full_rate(name: str) -> float:
    return 1.0


@dataclass(frozen=True)
class Rules:
    """How a net's parameters are called and treated; all but the first go by published names.

    Args:
        published_name: of a parameter, from the net's own name; the same where not told.
        is_decayed: whether weight decay takes a parameter; all of them where not told.
        rate_of: what the learning rate of a parameter is multiplied with.
        parts: what `freeze` may name, with the beginnings of names that are meant.
    """

    published_name: Callable[[str], str] = _as_it_is
    is_decayed: Callable[[str, nn.Parameter], bool] = _always
    rate_of: Callable[[str], float] = _at_full_rate
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Trainee(Protocol):
    """A model that learns: how rows become tensors, how these become gradients, what is written."""

    net: nn.Module
    columns: tuple[str, ...]  # of a row, beside the image
    rules: Rules

    def collate(
        self,
        images: "Sequence[Image]",
        rows: Sequence[Mapping[str, str]],
        numbers: Sequence[int],
        draws: Sequence[Random] | None = None,
    ) -> Batch:
        """Makes tensors of some rows.

        Args:
            images: one a row.
            rows: the targets, by column.
            numbers: of the images; rows of one image have one number.
            draws: of the augmentation, one a row; none without.
        """

    def learn(self, parts: Sequence[Batch], step: Step) -> Figures:
        """Adds the gradients of a batch, given in parts, to the parameters'.

        Returns:
            `loss` and what else is worth a curve: this worker's shares, to be added up.
        """

    def settle(self) -> None:
        """Does what comes after each step of the optimizer."""

    def to(self, device: torch.device) -> None:
        """Moves all nets to where they compute."""

    def memory(self) -> dict[str, Tensor]:
        """What changes from step to step beside the net, to go on from: momentum copies, queues."""

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Goes on from what `memory` gave."""

    def write(self, directory: Path) -> None:
        """Writes the very directory that the operators read."""


def set_training(net: nn.Module, *, is_on: bool) -> None:
    """Turns dropout on or off; batch norms always keep the statistics they were published with.

    Statistics of small batches would make the model worse, and workers with a part of a batch each
    differ from one with all of it.
    """
    net.train(is_on)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def recompute(modules: Sequence[nn.Module]) -> None:
    """Has the activations inside modules computed again on the way back, to save memory."""
    for module in modules:
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)

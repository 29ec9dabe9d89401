"""What trainings share: losses, schedules, parameter groups, the running average of weights.

Pure functions and small modules over torch; how long, on how many processes and where the data
comes from is a job's business.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class DenseHeads(nn.Module):
    """Linear classifiers over every cell of a feature map, thrown away after training.

    Args:
        width: of the features.
        classes: number of classes of each label, in the order of the labels' second axis.
    """

    def __init__(self, width: int, classes: Mapping[str, int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, sum(classes.values()))
        self.sizes = list(classes.values())

    def loss(self, features: Tensor, labels: Tensor, weights: Sequence[float]) -> Tensor:
        """Adds up the labels' mean cross entropies.

        Args:
            features: (B, C, D) for B images and C cells.
            labels: (B, K, C) int64, -100 where a cell is not asked.
            weights: of the K labels.
        """
        scores = (
            self.head(self.norm(features)).flatten(0, 1).split(self.sizes, dim=1)
        )  # K of (B C, classes)
        losses = [
            weight * functional.cross_entropy(score, label.flatten())
            for score, label, weight in zip(scores, labels.unbind(1), weights, strict=True)
        ]
        return torch.stack(losses).sum()


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """The symmetric cross entropy of matching each image with its text, and back.

    Args:
        images: (B, D), not normalised.
        texts: (B, D), row i belongs to image i.
        scale: (), what cosines are multiplied with.

    Source: CLIP, arXiv:2103.00020, figure 3.
    """
    images = functional.normalize(images, dim=-1)
    texts = functional.normalize(texts, dim=-1)
    logits = scale * images @ texts.T  # (B, B)
    labels = torch.arange(len(logits), device=logits.device)
    forward = functional.cross_entropy(logits, labels)
    backward = functional.cross_entropy(logits.T, labels)
    return (forward + backward) / 2


def token_loss(logits: Tensor, targets: Tensor, *, smoothing: float) -> Tensor:
    """Label-smoothed cross entropy over the targets that are not -100.

    Shapes: B rows, T tokens, V vocabulary. logits (B, T, V); targets (B, T) int64; returns ().
    """
    return functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), label_smoothing=smoothing
    )


def cosine_rate(step: int, steps: int, *, peak: float, warmup: int) -> float:
    """The learning rate at a step: a linear warm-up, then half a cosine to a hundredth of it."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def trapezoid_rate(step: int, steps: int, *, peak: float, warmup: int, falling: float) -> float:
    """The learning rate at a step: a linear warm-up, `peak`, then a straight fall to nothing.

    Args:
        step: from 0.
        steps: in all.
        peak: the highest rate.
        warmup: steps.
        falling: share of the steps in which the rate falls; a run can be made longer until then.
    """
    return peak * min((step + 1) / warmup, 1.0, (steps - step) / (steps * falling))


def parameter_groups(module: nn.Module, *, decay: float) -> list[dict[str, object]]:
    """Splits trainable parameters: matrices and filters are decayed, others are not."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {
            "params": [parameter for parameter in trained if parameter.ndim > 1],
            "weight_decay": decay,
        },
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, step: int, *, horizon: int) -> None:
    """Moves `average` towards `module`: an exponential mean over the last `horizon` steps."""
    weight = max(1 / horizon, 1 / (step / 2 + 1))
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), weight)
    floats = [
        (mean, now)
        for mean, now in zip(average.buffers(), module.buffers(), strict=True)
        if mean.is_floating_point()
    ]
    if floats:
        torch._foreach_lerp_([mean for mean, _ in floats], [now for _, now in floats], weight)


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """Lays tensors end to end."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])

"""How well a probability tells how often answers are right, by people's answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from operators.claims import Scale, log_odds

FOLDS = 5
BINS = 10  # of about equally many answers each
SLOPES = (0.01, 100.0)  # what 1 / temperature may be
NEWTON_STEPS = 100
LEAST_STEP = 1e-9
START = np.array([1.0, 0.0])  # slope and shift
PRIOR = np.array([1.0, 1e-6])  # weight of its being so

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Bin:
    """Answers of about the same probability.

    Args:
        count: how many.
        probability: their mean.
        right: the share that was right.
    """

    count: int
    probability: float
    right: float


def fit_scale(confidence: Floats, is_right: Flags) -> Scale:
    """Fits a temperature and a shift by the likelihood of what was right.

    Targets are drawn in a little from 0 and 1, as Platt 1999 does, so that answers which are all
    right do not make every later one certain; and the temperature a little to 1, so that it is not
    told by a single wrong answer.

    Args:
        confidence: (n,), at least one.
        is_right: (n,).
    """
    right = int(np.count_nonzero(is_right))
    wrong = len(is_right) - right
    targets = np.where(is_right, (right + 1) / (right + 2), 1 / (wrong + 2))
    odds = log_odds(confidence)
    design = np.column_stack([odds, np.ones_like(odds)])

    def loss(at: Floats) -> float:
        scores = design @ at
        unlikely = np.logaddexp(0, scores) - targets * scores
        return float(unlikely.sum() + (PRIOR * (at - START) ** 2).sum() / 2)

    weights = START
    for _ in range(NEWTON_STEPS):
        fitted = 1 / (1 + np.exp(-np.clip(design @ weights, -500, 500)))
        slope = design.T @ (fitted - targets) + PRIOR * (weights - START)
        curvature = (design.T * (fitted * (1 - fitted))) @ design + np.diag(PRIOR)
        step = np.linalg.solve(curvature, slope)
        while loss(weights - step) > loss(weights) and np.abs(step).max() > LEAST_STEP:
            step /= 2
        weights = weights - step
        if np.abs(step).max() <= LEAST_STEP:
            break
    if SLOPES[0] <= weights[0] <= SLOPES[1]:
        return Scale(float(1 / weights[0]), float(weights[1]))
    bound = float(np.clip(weights[0], *SLOPES))  # confidence tells nothing, or all: mean odds then
    return Scale(1 / bound, float(log_odds(targets.mean(keepdims=True))[0] - bound * odds.mean()))


def cross_fitted(confidence: Floats, is_right: Flags) -> Floats:
    """The probability of each answer by a scale that was fitted to the others' folds.

    Args:
        confidence: (n,), at least one.
        is_right: (n,).
    """
    fold = np.arange(len(confidence)) % FOLDS
    found = np.empty(len(confidence))
    for one in np.unique(fold):
        others = fold != one if len(confidence) > 1 else fold == one
        found[fold == one] = fit_scale(confidence[others], is_right[others])(
            confidence[fold == one]
        )
    return found


def reliability(probability: Floats, is_right: Flags) -> list[Bin]:
    """Sorts answers into bins of about equal size, from the least probable on."""
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, min(BINS, len(order)))
    return [
        Bin(len(part), float(probability[part].mean()), float(is_right[part].mean()))
        for part in parts
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """The mean distance of probability and truth over all answers (ECE).

    Source: Guo et al. 2017, arXiv:1706.04599, with bins of equal size.
    """
    total = sum(one.count for one in bins)
    return sum(one.count * abs(one.probability - one.right) for one in bins) / total

"""Finds the threshold that keeps a promised precision, by testing candidates on people's answers.

Each candidate stands for the hypothesis that what passes it is less precise than promised, and is
taken only when the answers refute that. Candidates and the order of tests are fixed before any
answer is looked at, so the risk of taking a wrong one is bounded however many are tried: Learn then
Test, Angelopoulos et al. 2021, arXiv:2110.01052, with fixed sequences of tests from several starts
that share the risk. The test of one candidate is the exact binomial one.

The answers must be of items drawn at random from the population, and independent of each other.
Where several are about one image they are not: `independent` draws those that may be tested.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

STEPS = 100  # candidates: each lets another hundredth of the population pass
STARTS = (1 / 3, 2 / 3, 1.0)  # of the population passing: where a sequence of tests may start
RANDOM_GAP = 1.949  # sqrt(-ln(0.001 / 2) / 2), see `seems_random`
DRAW_SEED = 0
MOST_ANSWERS = 1_000_000  # more than that is not worth asking for

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Finding:
    """Thresholds, or why there are none.

    Args:
        thresholds: the candidates that are certain, the lowest last: what has at least this
            confidence passes. Any of them may be used. Empty when none is certain.
        answers: given to what passes the lowest; to all items where there is none.
        right: of these answers.
        more: about how many answers to ask for beside those given, before a threshold can be
            expected; 0 with a threshold, None where no candidate seems precise enough.
    """

    thresholds: tuple[float, ...]
    answers: int
    right: int
    more: int | None

    @property
    def threshold(self) -> float | None:
        """The one that most passes; None when none is certain."""
        return self.thresholds[-1] if self.thresholds else None


def find_threshold(
    population: Floats,
    confidence: Floats,
    is_right: npt.NDArray[np.bool_],
    *,
    precision: float,
    risk: float,
) -> Finding:
    """Finds the thresholds whose precision is certain.

    Args:
        population: (N,) confidence of all items, at least one.
        confidence: (n,) of the items that were answered, a random sample of the population.
        is_right: (n,) whether each of these was right.
        precision: promised share of right ones among those that pass, in (0, 1).
        risk: chance that the promise does not hold, in (0, 1).
    """
    thresholds = _candidates(population)
    shares = _passing(population, thresholds) / len(population)
    answers = _passing(confidence, thresholds)
    wrong = answers - _passing(confidence[is_right], thresholds)
    starts = _starts(shares, len(confidence), least_answers(precision, risk / len(STARTS)))
    starts = starts or [len(thresholds) - 1]
    each = risk / len(starts)
    certain: set[int] = set()
    for start in starts:
        for at in range(start, len(thresholds)):
            if binomial_tail(int(wrong[at]), int(answers[at]), 1 - precision) > each:
                break
            certain.add(at)
    if not certain:
        right = int(np.count_nonzero(is_right))
        needed = _answers_needed(shares, answers, wrong, precision, risk / len(STARTS))
        more = None if needed is None else math.ceil(max(1, needed - len(confidence)) / 10) * 10
        return Finding((), len(confidence), right, more)
    lowest = max(certain)
    right = int(answers[lowest] - wrong[lowest])
    return Finding(tuple(thresholds[sorted(certain)].tolist()), int(answers[lowest]), right, 0)


def independent(images: Integers) -> Integers:
    """Draws the answers that may be tested: of each image at most one, for those may err together.

    An image with k answers is kept with a chance of k in the most that any has, and then one of
    them is drawn: each answer of the population is as likely as any other (rejection sampling).
    What people said plays no part in it.

    Args:
        images: (n,) whose answers they are, at least one.

    Returns:
        Their positions, ascending; all of them where each image has one.
    """
    random = np.random.default_rng(DRAW_SEED)
    shuffled = random.permutation(len(images))
    _, firsts, counts = np.unique(images[shuffled], return_index=True, return_counts=True)
    is_kept = random.random(len(firsts)) < counts / counts.max()
    return np.sort(shuffled[firsts[is_kept]])


def least_answers(precision: float, risk: float) -> int:
    """How many answers, all right, it takes to be certain of a precision."""
    return math.ceil(math.log(risk) / math.log(precision))


def binomial_tail(most: int, trials: int, probability: float) -> float:
    """The chance of at most so many successes in a number of trials.

    Args:
        most: successes.
        trials: from 0 on.
        probability: of a success, in (0, 1).
    """
    if most >= trials:
        return 1.0
    counts = np.arange(most + 1)
    factorials = np.array([math.lgamma(k + 1) + math.lgamma(trials - k + 1) for k in counts])
    logs = counts * math.log(probability) + (trials - counts) * math.log1p(-probability)
    return min(1.0, float(np.exp(math.lgamma(trials + 1) - factorials + logs).sum()))


def _candidates(population: Floats) -> Floats:
    """Thresholds from the strictest to the one that all of the population passes."""
    ordered = np.sort(population)[::-1]
    last = np.ceil(len(ordered) * np.arange(1, STEPS + 1) / STEPS).astype(np.int64) - 1
    return np.unique(ordered[last])[::-1]


def _passing(confidence: Floats, thresholds: Floats) -> Integers:
    """How many pass each threshold."""
    below = np.searchsorted(np.sort(confidence), thresholds, side="left")
    return (len(confidence) - below).astype(np.int64)


def _starts(shares: Floats, answers: int, least: int) -> list[int]:
    """The candidates to start from: those where enough answers are to be expected."""
    firsts = [int(np.argmax(shares >= start)) for start in STARTS]
    return sorted({at for at in firsts if shares[at] * answers >= least})


def _answers_needed(
    shares: Floats, answers: Integers, wrong: Integers, precision: float, risk: float
) -> float | None:
    """How many answers it takes for the most promising candidate, if it is what it seems.

    By the normal approximation of the binomial test. Candidates are first taken with caution, so
    that a few right answers do not seem perfect; where that leaves none, as the answers make them
    seem; at last as good as one standard error allows. None where it would be too many.
    """
    seems = wrong / np.maximum(answers, 1)
    cautious = (wrong + 1) / (answers + 2)
    hopeful = seems - np.sqrt(cautious * (1 - cautious) / np.maximum(answers, 1))
    deviations = NormalDist().inv_cdf(1 - risk)
    for error in (cautious, seems, np.maximum(hopeful, 0)):
        is_precise = error < 1 - precision
        if is_precise.any():
            distance = 1 - precision - error[is_precise]
            passing = precision * (1 - precision) * (deviations / distance) ** 2
            passing = np.maximum(passing, least_answers(precision, risk))
            needed = float((passing / shares[is_precise]).min())
            return needed if needed <= MOST_ANSWERS else None
    return None


def seems_random(population: Floats, sample: Floats) -> bool:
    """Whether a sample may be a random one of a population, by the largest gap of their shares.

    Source: Kolmogorov and Smirnov's two-sample test, asymptotic, at a level of 1 in 1,000.
    """
    values = np.sort(population)
    drawn = np.sort(sample)
    ends = np.unique(drawn)
    of_population = np.searchsorted(values, ends, side="right") / len(values)
    of_sample = np.searchsorted(drawn, ends, side="right") / len(drawn)
    gap = float(np.abs(of_population - of_sample).max())
    size = len(values) * len(drawn) / (len(values) + len(drawn))
    return gap * math.sqrt(size) < RANDOM_GAP

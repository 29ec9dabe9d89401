"""Thresholds keep what they promise: on simulated people and tables, whose truth is known."""

from math import comb

import numpy as np
import pytest

from jobs.learn_then_test import (
    binomial_tail,
    find_threshold,
    independent,
    least_answers,
    seems_random,
)

ROWS, SETS = 4000, 200


def simulated(seed, answers, chance_of_right):
    """A table's confidences, the chance that each answer is right, and what people said of some."""
    random = np.random.default_rng(seed)
    population = random.beta(4, 1, ROWS)
    chance = chance_of_right(population)
    asked = random.choice(ROWS, answers, replace=False)
    return population, chance, population[asked], random.random(answers) < chance[asked]


def rising(confidence):
    return np.clip(0.3 + 0.75 * confidence, 0, 1)


def useless(confidence):
    return np.full_like(confidence, 0.949)


def dented(confidence):
    """Most confident is not most often right."""
    return np.where(confidence > 0.97, 0.85, 0.3 + 0.7 * confidence)


@pytest.mark.parametrize("chance_of_right", [rising, useless, dented])
@pytest.mark.parametrize(
    ("answers", "precision", "confidence"), [(300, 0.95, 0.9), (150, 0.8, 0.8)]
)
def test_the_promise_holds_in_the_promised_share_of_200_data_sets(
    chance_of_right, answers, precision, confidence
):
    kept = 0
    for seed in range(SETS):
        population, chance, asked, is_right = simulated(seed, answers, chance_of_right)
        found = find_threshold(
            population, asked, is_right, precision=precision, risk=1 - confidence
        )
        is_promised = found.threshold is not None
        kept += not is_promised or chance[population >= found.threshold].mean() >= precision
    assert kept / SETS >= confidence


def test_the_promise_holds_where_answers_about_one_image_err_together():
    kept = 0
    for seed in range(SETS):
        random = np.random.default_rng(seed)
        images = np.repeat(np.arange(ROWS), random.integers(1, 11, ROWS))
        population = random.beta(6, 1, len(images))
        is_right = (random.random(ROWS) < 0.942)[images]
        asked = np.flatnonzero(np.isin(images, random.choice(ROWS, 100, replace=False)))
        asked = asked[independent(images[asked])]
        found = find_threshold(
            population, population[asked], is_right[asked], precision=0.95, risk=0.1
        )
        is_promised = found.threshold is not None
        kept += not is_promised or is_right[population >= found.threshold].mean() >= 0.95
    assert kept / SETS >= 0.9  # 0.68 where all are tested


def test_answers_about_different_images_are_all_tested():
    assert independent(np.array([5, 3, 9])).tolist() == [0, 1, 2]


def test_enough_answers_let_most_of_what_may_pass_pass():
    shares, best = [], []
    for seed in range(20):
        population, chance, asked, is_right = simulated(seed, 1000, rising)
        found = find_threshold(population, asked, is_right, precision=0.95, risk=0.1)
        shares.append((population >= found.threshold).mean())
        descending = chance[np.argsort(-population)]
        best.append((descending.cumsum() / np.arange(1, ROWS + 1) >= 0.95).mean())
    assert np.mean(shares) > 0.75 * np.mean(best)


def test_too_few_answers_promise_nothing_and_about_so_many_more_do():
    population, _, asked, is_right = simulated(1, 40, lambda c: np.ones_like(c))
    found = find_threshold(population, asked, is_right, precision=0.95, risk=0.05)
    assert (found.threshold, found.answers, found.right) == (None, 40, 40)
    assert found.more is not None
    population, _, asked, is_right = simulated(1, 40 + found.more, lambda c: np.ones_like(c))
    assert find_threshold(population, asked, is_right, precision=0.95, risk=0.05).more == 0


def test_no_number_of_answers_helps_where_nothing_is_precise_enough():
    population, _, asked, is_right = simulated(2, 400, lambda c: np.full_like(c, 0.5))
    found = find_threshold(population, asked, is_right, precision=0.95, risk=0.05)
    assert (found.threshold, found.more) == (None, None)


def test_equal_confidences_pass_together():
    found = find_threshold(
        np.ones(500), np.ones(100), np.ones(100, np.bool_), precision=0.9, risk=0.05
    )
    assert (found.threshold, found.answers, found.right, found.more) == (1.0, 100, 100, 0)


@pytest.mark.parametrize(("most", "trials", "chance"), [(0, 59, 0.05), (3, 40, 0.2), (7, 7, 0.9)])
def test_the_tail_is_the_sum_of_the_binomial_distribution(most, trials, chance):
    terms = (comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(most + 1))
    assert binomial_tail(most, trials, chance) == pytest.approx(sum(terms), rel=1e-12)


def test_59_right_answers_are_the_least_for_95_percent():
    assert least_answers(0.95, 0.05) == 59
    assert binomial_tail(0, 59, 0.05) <= 0.05 < binomial_tail(0, 58, 0.05)


def test_a_sample_of_the_most_confident_is_not_taken_for_random():
    random = np.random.default_rng(0)
    population = random.random(5000)
    assert seems_random(population, random.choice(population, 200))
    assert not seems_random(population, np.sort(population)[-200:])

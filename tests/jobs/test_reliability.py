"""Probabilities that tell how often answers are right."""

import numpy as np
import pytest

from jobs.reliability import Bin, calibration_error, cross_fitted, fit_scale, reliability
from operators.claims import log_odds


def overconfident(answers, temperature, shift, seed=0):
    """Confidences whose log odds are too large, and whether each answer was right."""
    random = np.random.default_rng(seed)
    odds = random.normal(2, 2, answers)
    is_right = random.random(answers) < 1 / (1 + np.exp(-(odds / temperature + shift)))
    return 1 / (1 + np.exp(-odds)), is_right


def test_a_temperature_and_a_shift_are_found_again():
    scale = fit_scale(*overconfident(50_000, 2.5, -0.4))
    assert scale.temperature == pytest.approx(2.5, rel=0.05)
    assert scale.shift == pytest.approx(-0.4, abs=0.05)


def test_scaling_brings_probability_and_truth_together_on_answers_it_was_not_fitted_to():
    confidence, is_right = overconfident(2000, 3, 0)
    before = calibration_error(reliability(confidence, is_right))
    after = calibration_error(reliability(cross_fitted(confidence, is_right), is_right))
    assert before > 0.1
    assert after < before / 3


@pytest.mark.parametrize("is_right", [np.ones(50, np.bool_), np.zeros(50, np.bool_)])
def test_answers_that_are_all_alike_make_nothing_certain(is_right):
    confidence = np.linspace(0.5, 1, 50)
    probability = fit_scale(confidence, is_right)(confidence)
    assert np.isfinite(log_odds(probability)).all()
    assert (probability > 0).all()
    assert (probability < 1).all()
    assert abs(probability.mean() - is_right.mean()) < 0.1


def test_confidence_that_is_worse_when_higher_is_scaled_to_the_mean():
    confidence = np.repeat([0.1, 0.9], 100)
    is_right = np.repeat([True, False], 100)
    assert fit_scale(confidence, is_right)(confidence) == pytest.approx(0.5, abs=0.02)


def test_bins_hold_about_equally_many_and_the_error_is_their_mean_distance():
    bins = reliability(np.array([0.9] * 10 + [0.2] * 10), np.repeat([True, False], 10))
    assert [one.count for one in bins] == [2] * 10
    assert bins[0] == Bin(2, pytest.approx(0.2), 0.0)
    assert calibration_error(bins) == pytest.approx((0.1 + 0.2) / 2)
    assert len(reliability(np.array([0.5]), np.array([True]))) == 1

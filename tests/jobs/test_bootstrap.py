"""Intervals: what they must cover, and when."""

import numpy as np

from jobs.bootstrap import intervals


def mean(sums):
    return sums[:, :1] / sums[:, 1:]


def of_values(values, seed=0):
    return intervals(np.stack([values, np.ones(len(values))], axis=1), mean, seed=seed)


def test_the_interval_of_a_mean_is_as_wide_as_theory_says():
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = of_values(values)[0]
    error = values.std() / 20
    np.testing.assert_allclose(
        [low, high], values.mean() + np.array([-1.96, 1.96]) * error, rtol=0.02
    )


def test_the_same_seed_gives_the_same_interval():
    values = np.arange(30.0)
    assert of_values(values, 3).tolist() == of_values(values, 3).tolist()
    assert of_values(values, 3).tolist() != of_values(values, 4).tolist()


def test_values_that_do_not_differ_leave_no_doubt():
    assert of_values(np.full(10, 2.5)).tolist() == [[2.5, 2.5]]


def test_nothing_measured_has_no_interval():
    with np.errstate(invalid="ignore"):
        assert np.isnan(of_values(np.empty(0))).all()

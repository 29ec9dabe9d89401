"""How sure a figure is: percentile intervals from resampling what it was measured on.

Source: Efron and Tibshirani 1993, chapter 13.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
CONFIDENCE = 0.95
SEED = 0

Floats = npt.NDArray[np.float64]


def intervals(
    statistics: npt.NDArray[np.generic], figures: Callable[[Floats], Floats], *, seed: int = SEED
) -> Floats:
    """Tells between which values figures would lie on other samples of the same kind.

    Args:
        statistics: (n, k), for each item what the figures are made of when summed.
        figures: turns sums (r, k) into figures (r, m); not a number where they are undefined.
        seed: the same seed gives the same intervals.

    Returns:
        (m, 2), the ends of the interval that holds 95 % of the figures of 1,000 resamples; not a
        number where there is no item.
    """
    items = len(statistics)
    values = statistics.astype(np.float64)
    random = np.random.default_rng(seed)
    sums = np.zeros((RESAMPLES, values.shape[1]))
    for row in range(RESAMPLES if items else 0):
        drawn = np.bincount(random.integers(items, size=items), minlength=items)
        sums[row] = drawn @ values
    resampled = figures(sums)
    ends = np.array([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return np.array([_quantiles(column, ends) for column in resampled.T]).reshape(-1, 2)


def _quantiles(values: Floats, ends: Floats) -> Floats:
    """Of the values that are numbers."""
    known = values[~np.isnan(values)]
    return np.quantile(known, ends) if len(known) else np.full(len(ends), np.nan)

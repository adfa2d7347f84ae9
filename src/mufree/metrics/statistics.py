"""Intervals and slopes. The unit of observation is the seed, which fixes initialisation and data order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MIN_POINTS = 3
"""A slope needs this many points: two always lie on a line."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, element by element; 0-dimensional arrays for a single number.

    `se` is the standard error and `n` the number of seeds. `low`, `high` and `se` are NaN where no interval is estimable.
    """

    estimate: Floats
    low: Floats
    high: Floats
    se: Floats
    n: int


def t_interval(estimate: ArrayLike, se: ArrayLike, n: int, level: float = 0.95) -> Interval:
    """The two-sided interval estimate ± t·se, with Student's t of n − 1 degrees of freedom; NaN for n < 2."""
    from scipy.stats import t  # slow to import

    estimate, se = np.asarray(estimate, np.float64), np.asarray(se, np.float64)
    half = t.ppf((1 + level) / 2, n - 1) * se if n > 1 else np.full_like(se, np.nan)
    return Interval(estimate, estimate - half, estimate + half, se, n)


def jackknife(statistic: Callable[[Ints], ArrayLike], n_seeds: int, level: float = 0.95) -> Interval:
    """Delete-one-seed jackknife interval with a t quantile (n_seeds − 1 degrees of freedom).

    `statistic` gets the positions (of 0 … n_seeds − 1) of the seeds that are kept, and returns a number or an array of one
    shape for any set of seeds. It has to compute everything anew from these seeds, at all learning rates, widths and methods
    it looks at: that is how a seed is dropped jointly. The estimate is the statistic of all seeds, without the jackknife's
    bias correction. Where the statistic is NaN for all seeds or for any replicate, or with one seed, there is no interval.

    A percentile bootstrap is no alternative: over 3 to 5 seeds its nominal 95 % interval of a mean covers 73 % to 84 %.
    """
    seeds = np.arange(n_seeds)
    estimate = np.asarray(statistic(seeds), np.float64)
    if n_seeds < 2:
        return t_interval(estimate, np.full_like(estimate, np.nan), n_seeds, level)
    replicates = np.stack([np.asarray(statistic(np.delete(seeds, i)), np.float64) for i in range(n_seeds)])
    spread = ((replicates - replicates.mean(axis=0)) ** 2).sum(axis=0)
    se = np.sqrt((n_seeds - 1) / n_seeds * spread)
    return t_interval(estimate, np.where(np.isnan(estimate), np.nan, se), n_seeds, level)


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927); NaN for n = 0. 0 of 5 still allows 43 % (two-sided)."""
    from scipy.stats import binomtest  # slow to import

    if n == 0:
        return float("nan"), float("nan")
    interval = binomtest(successes, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def ols_slope(x: Floats, y: Floats) -> float:
    """Ordinary least-squares slope of y on x, both [points]; points with y NaN are left out; NaN with fewer than 3 left."""
    here = ~np.isnan(y)
    if here.sum() < MIN_POINTS:
        return float("nan")
    dx = x[here] - x[here].mean()
    return float(dx @ y[here] / (dx @ dx))

"""One estimate from several tasks: a random-effects mean, and how far the tasks differ beyond their own noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mufree.analysis.metrics.statistics import Floats, Interval, t_interval


@dataclass(frozen=True)
class Pooled:
    """The mean over tasks like these, with its interval by Student's t of (tasks − 1) degrees of freedom.

    tau is the standard deviation of the truth over tasks, in the unit of the estimates; i2 the share of the estimates' variance
    that is not their own noise; p the probability of tasks that differ so much if their truth were one (Cochran's Q).
    """

    mean: Interval
    tau: float
    i2: float
    p: float


def pool(estimates: Floats, errors: Floats) -> Pooled:
    """The random-effects mean of k ≥ 2 estimates with their standard errors, both [k], errors above 0.

    Each task weighs 1 / (its variance + τ²), so a noisy one counts for little. τ² is Paule and Mandel's (1982): that at which
    the estimates scatter about their mean as much as they should. The interval is Hartung and Knapp's (2001), and never shorter
    than that of the weights alone (Röver et al. 2015): few tasks may agree by chance. By this τ² their factor is 1 or, where
    τ² is 0, less and not used: so the standard error is that of the weights. The errors are taken as known.

    Raises ValueError for fewer than two estimates, or an error that is not above 0.
    """
    from scipy.stats import chi2  # slow to import

    k = len(estimates)
    if k < 2 or not (errors > 0).all():
        raise ValueError(f"pooling takes two estimates or more with errors above 0, got {estimates} and {errors}")
    tau2 = _between(estimates, errors**2)
    mean, _, weights = _about_the_mean(estimates, errors**2 + tau2)
    q = _about_the_mean(estimates, errors**2)[1]
    i2 = max(0.0, 1 - (k - 1) / q) if q > 0 else 0.0
    return Pooled(t_interval(mean, weights**-0.5, k), float(np.sqrt(tau2)), i2, float(chi2.sf(q, k - 1)))


def _about_the_mean(estimates: Floats, variances: Floats) -> tuple[float, float, float]:
    """The weighted mean, the weighted sum of squares about it, and the sum of the weights."""
    weights = 1 / variances
    mean = float(weights @ estimates / weights.sum())
    return mean, float(weights @ (estimates - mean) ** 2), float(weights.sum())


def _between(estimates: Floats, variances: Floats) -> float:
    """The variance between tasks at which the sum of squares is what k estimates give on average, k − 1; 0 where it is less."""
    from scipy.optimize import brentq  # slow to import

    def excess(tau2: float) -> float:
        return _about_the_mean(estimates, variances + tau2)[1] - (len(estimates) - 1)

    if excess(0.0) <= 0:
        return 0.0
    # With τ² this large no weight differs from 1/τ², and the sum is below k − 1.
    highest = float(((estimates - estimates.mean()) ** 2).sum())
    return float(brentq(excess, 0.0, highest, xtol=1e-14 * highest, rtol=1e-12))

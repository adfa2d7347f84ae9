"""What tuning costs: how good a few random trials are, and the compute saved by tuning narrow."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mufree.analysis.metrics.statistics import Floats


def expected_best_of_k(losses: Floats) -> Floats:
    """Expected lowest loss of k settings drawn without replacement from the N evaluated, for k = 1 … N; [N] from [N], nats.

    E_k = Σ y_(i) C(N−i, k−1)/C(N, k) over ascending losses y: y_(i) is the lowest if the other k − 1 are among the N − i above
    it. Exact, so there is no resampling (Dodge et al. 2019 draw with replacement). E_1 is the mean and E_N the minimum. A
    setting's loss is its mean cost over seeds: a diverged run counts as the loss at initialisation. ValueError for NaN.
    """
    losses = np.asarray(losses, np.float64)
    if np.isnan(losses).any():
        missing = int(np.flatnonzero(np.isnan(losses))[0])
        raise ValueError(
            f"Loss {missing} is NaN: leave out settings that were not run, and give a diverged run its loss at initialisation."
        )
    n = len(losses)
    if not n:
        return np.empty(0)
    k, i = np.arange(1, n + 1)[:, None], np.arange(1, n)
    # The binomials overflow; the ratio of a weight to the one before, (N − i − k + 1)/(N − i), does not.
    steps = np.maximum(n - i - k + 1, 0) / (n - i)
    weights = np.cumprod(np.hstack([k / n, steps]), axis=1)
    return np.asarray(weights @ np.sort(losses))


def trials_to_reach(expected: Floats, target: float) -> float:
    """The least k whose expected best is at most `target`; NaN if none is, or if the target is NaN.

    `expected` is `expected_best_of_k`, [N]. For k_ε the target is the lowest loss + ε. A float, so that it can be NaN.
    """
    reached = np.flatnonzero(expected <= target)
    return float(reached[0] + 1) if len(reached) else float("nan")


def flops_saved(base_grid: ArrayLike, wide_run: ArrayLike, wide_grid: ArrayLike) -> Floats:
    """Share of the compute saved by tuning at base width: 1 − (grid at n_0 + one run at n_K) / (grid at n_K).

    FLOPs, or anything proportional to them, of: all runs tuned at base width, a tuned β1's too; the one wide run; all runs
    that tuning at the wide width would take. Negative where the detour costs more. Report beside the regret it costs. NaN
    where the wide grid costs nothing.
    """
    base_grid, wide_run, wide_grid = (np.asarray(x, np.float64) for x in (base_grid, wide_run, wide_grid))
    return np.asarray(1 - (base_grid + wide_run) / np.where(wide_grid > 0, wide_grid, np.nan))

"""Does a learning rate tuned at base width serve the wide ones? Drift of the optimum, and the regret of transferring it.

Both are reported, since either alone misleads: in a flat valley the optimum is ill-defined and the regret tiny.
"""

from __future__ import annotations

import numpy as np

from mufree.metrics.statistics import Floats, ols_slope
from mufree.metrics.surface import Surface, grid_argmin, optima


def optimum_positions(surface: Surface) -> Floats:
    """log2 of the optimal rate of each width, [K]; NaN where it is censored (an edge of the grid, or all diverged)."""
    return np.array([np.nan if optimum.censored else optimum.log2_lr for optimum in optima(surface)])


def drift(surface: Surface) -> float:
    """Slope of log2 optimal rate on log2 width, in doublings per doubling; NaN with fewer than 3 uncensored widths.

    0 is perfect transfer; Adam under SP has about −1, since its optimum goes as 1/width.
    """
    return ols_slope(surface.log2_width_mult, optimum_positions(surface))


def regret(surface: Surface) -> Floats:
    """Same-seed transfer regret of each width, [K], in nats: mean loss at base width's argmin − at its own argmin.

    Diverged runs at the transferred rate count as the loss at initialisation. NaN where there is no base width, no argmin,
    or no run at the transferred rate. Biased upward, since the own argmin is chosen on the seeds it is judged by.
    """
    return _mean_difference(surface, surface)


def regret_cf(surface: Surface) -> Floats:
    """Cross-fitted transfer regret of each width, [K], in nats: both rates are chosen on the seeds other than the one judged.

    Mean over s of cost[k, j0(−s), s] − cost[k, jk(−s), s]. May be slightly negative; 0 at base width by construction. NaN
    with one seed, and where `regret` is NaN for any of the choices.
    """
    n = surface.n_seeds
    if n < 2:
        return np.full(len(surface.widths), np.nan)
    seeds = np.arange(n)
    differences = [_mean_difference(surface.keep(np.delete(seeds, s)), surface.keep(seeds[s : s + 1])) for s in seeds]
    return np.asarray(np.mean(differences, axis=0))


def _mean_difference(choice: Surface, judge: Surface) -> Floats:
    """Both rates chosen on one surface, judged by the mean cost on another of the same grid, [K]."""
    own = grid_argmin(choice)
    result = np.full(len(own), np.nan)
    if choice.base is None or own[choice.base] < 0:
        return result
    transferred = own[choice.base]
    cost = judge.cost.mean(axis=2)
    k = np.flatnonzero(own >= 0)
    result[k] = cost[k, transferred] - cost[k, own[k]]
    return result


def share_of_gain(regrets: Floats, best_loss: Floats, base: int) -> Floats:
    """ρ: regret as a share of what widening bought, regret[k] / (best_loss[base] − best_loss[k]); all [K].

    NaN where widening bought nothing, and so at base width: a share of nothing has no meaning.
    """
    gain = best_loss[base] - best_loss
    return regrets / np.where(gain > 0, gain, np.nan)


def seed_deviation(surface: Surface) -> Floats:
    """σ_seed of each width, [K]: standard deviation (S − 1) of the loss over seeds at the width's argmin.

    Not pooled over widths, as noise changes with width. NaN with one seed or no argmin.
    """
    own = grid_argmin(surface)
    result = np.full(len(own), np.nan)
    if surface.n_seeds > 1:
        k = np.flatnonzero(own >= 0)
        result[k] = surface.loss[k, own[k]].std(axis=1, ddof=1)
    return result

"""Does a learning rate tuned at base width serve the wide ones? Drift of the optimum, and the regret of transferring it.

Both are reported, since either alone misleads: in a flat valley the optimum is ill-defined and the regret tiny.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mufree.analysis.metrics.statistics import Bools, Floats, Ints, ols_slope
from mufree.analysis.metrics.surface import Surface, at_common_widths, cost_at, cross_fit, grid_argmin, optima


def optimum_positions(surface: Surface) -> Floats:
    """log2 of the optimal rate of each width, [K]; NaN where it is censored (an edge of the grid, or all diverged)."""
    return np.array([np.nan if optimum.censored else optimum.log2_lr for optimum in optima(surface)])


def drift(surface: Surface) -> float:
    """Slope of log2 optimal rate on log2 width, in doublings per doubling; NaN with fewer than 3 uncensored widths.

    0 is perfect transfer; Adam under SP has about −1, since its optimum goes as 1/width.
    """
    return ols_slope(surface.log2_width_mult, optimum_positions(surface))


def drifts(surfaces: Sequence[Surface]) -> list[float]:
    """Drift of each surface over the widths that all of them have, so that they can be compared."""
    return [drift(surface) for surface in at_common_widths(surfaces)]


def abs_drifts(surfaces: Sequence[Surface]) -> list[float]:
    """|drift| of each surface, likewise."""
    return list(map(abs, drifts(surfaces)))


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
    return cross_fit(lambda chosen, judged: _mean_difference(chosen[0], judged[0]), surface)


def transferred_rate(surface: Surface) -> int:
    """Position of the rate that base width would hand on, the grid argmin of all seeds there; −1 where there is none."""
    return -1 if surface.base is None else int(grid_argmin(surface)[surface.base])


def regret_held(surface: Surface, transferred: int) -> Floats:
    """Regret of one given rate at each width, [K], in nats, against the own rate chosen on the seeds other than the one judged.

    `transferred` is a position in the grid, as from `transferred_rate` of all seeds, and held in a jackknife. It answers "what
    does the rate that we found at base width cost?", where `regret_cf` answers "what would tuning at base width cost, with one
    seed fewer, on average?". Where two rates are nearly as good at base width, no interval from few seeds covers the second;
    this one's does (`metrics.calibration`). It is not flattered: the rate was chosen on other runs than those that judge it.
    0 at base width, where both are the same choice. NaN as for `regret_cf`.
    """

    def difference(chosen: list[Surface], judged: list[Surface]) -> Floats:
        own = grid_argmin(chosen[0])
        result = cost_at(judged[0], np.full(len(own), transferred)) - cost_at(judged[0], own)
        if surface.base is not None and not np.isnan(result[surface.base]):
            result[surface.base] = 0.0
        return result

    return cross_fit(difference, surface)


def _mean_difference(choice: Surface, judge: Surface) -> Floats:
    """Both rates chosen on one surface, judged by the mean cost on another of the same grid, [K]."""
    own = grid_argmin(choice)
    transferred = np.full(len(own), -1 if choice.base is None else own[choice.base])
    return cost_at(judge, transferred) - cost_at(judge, own)


def transfer_errors(surface: Surface) -> Floats:
    """Cross-fitted transfer error of each ordered pair of widths, [K, K], in nats: what the rate of another width costs.

    [i, k] is the cost at width k of the rate tuned at width i, less that of width k's own, both chosen on the seeds other than
    the one judged. So the row of the base width is `regret_cf`, and the diagonal 0. NaN with one seed, where a width has no
    usable rate, and where a rate wasn't run at width k.
    """
    return cross_fit(lambda chosen, judged: _pair_differences(chosen[0], judged[0]), surface)


def _pair_differences(choice: Surface, judge: Surface) -> Floats:
    own = grid_argmin(choice)
    at_own = cost_at(judge, own)
    return np.stack([cost_at(judge, np.full(len(own), rate)) - at_own for rate in own])


def transfer_error_mean(surface: Surface) -> float:
    """Mean of `transfer_errors` over the ordered pairs that have one; NaN with none. `transfer_error_pairs` counts them."""
    pairs = _known_pairs(surface)
    return float(pairs.mean()) if len(pairs) else float("nan")


def transfer_error_max(surface: Surface) -> float:
    """Largest of `transfer_errors` over the ordered pairs that have one; NaN with none.

    Each error is cross-fitted, but picking the largest favours noise: an upper companion of the mean, not a test.
    """
    pairs = _known_pairs(surface)
    return float(pairs.max()) if len(pairs) else float("nan")


def transfer_error_pairs(surface: Surface) -> int:
    """How many ordered pairs of different widths have a transfer error."""
    return len(_known_pairs(surface))


def _known_pairs(surface: Surface) -> Floats:
    errors = transfer_errors(surface)
    return errors[~np.eye(len(errors), dtype=bool) & ~np.isnan(errors)]


def rate_ratios(numerator: Surface, denominator: Surface) -> Floats:
    """log2 of the ratio of two methods' optimal rates at each width, [K]; NaN where either is censored.

    The widths have to be the same: ValueError.
    """
    if not np.array_equal(numerator.widths, denominator.widths):
        widths = numerator.widths.tolist(), denominator.widths.tolist()
        raise ValueError(f"Widths {widths[0]} and {widths[1]} differ: give both surfaces the same ones.")
    return optimum_positions(numerator) - optimum_positions(denominator)


def rate_ratio_slope(numerator: Surface, denominator: Surface) -> float:
    """Slope of `rate_ratios` on log2 width, in doublings per doubling; NaN with fewer than 3 widths that have both."""
    return ols_slope(numerator.log2_width_mult, rate_ratios(numerator, denominator))


def count_worse(curves: Floats) -> tuple[int, int]:
    """At how many points a wider network trains worse, and at how many that can be judged; curves [K, T, S], widths ascending.

    A point is a pair of neighbouring widths at one step (the caller leaves out the warm-up and fixes all settings), with 2 or
    more seeds, all finite. It is worse if the mean over seeds of loss[k+1] − loss[k] is above 2 standard errors of that mean:
    paired, since seeds share the order of the data. None is good under µP (Yang et al. 2022).
    """
    if curves.shape[2] < 2 or len(curves) < 2:
        return 0, 0
    finite: Bools = np.asarray(np.isfinite(curves).all(axis=2))
    judged = finite[1:] & finite[:-1]
    differences = (curves[1:][judged] - curves[:-1][judged]).reshape(-1, curves.shape[2])
    se = differences.std(axis=1, ddof=1) / np.sqrt(curves.shape[2])
    return int((differences.mean(axis=1) > 2 * se).sum()), int(judged.sum())


def kendall_tau(widths: Ints, final: Floats) -> float:
    """Kendall's τ-b between width and final train loss, both [K]; −1 where every wider network is better.

    Widths whose loss is NaN are left out; NaN with fewer than 2 left, or where all losses are equal.
    """
    from scipy.stats import kendalltau  # slow to import

    here = ~np.isnan(final)
    if here.sum() < 2:
        return float("nan")
    return float(kendalltau(widths[here], final[here]).statistic)


def share_of_gain(regrets: Floats, best_loss: Floats, base: int | None) -> Floats:
    """ρ: regret as a share of what widening bought, regret[k] / (best_loss[base] − best_loss[k]); all [K].

    NaN where widening bought nothing, and so at base width: a share of nothing has no meaning. All NaN without a base width.
    """
    gain = np.full(len(best_loss), np.nan) if base is None else best_loss[base] - best_loss
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

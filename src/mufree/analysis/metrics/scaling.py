"""How transfer changes with width, in the measures of others: fast transfer, and the quality of scaling laws.

Ghosh, Wu & Bietti (arXiv:2512.22768) call transfer fast when what a rate tuned at width n costs at infinite width vanishes
faster than what width n itself loses there. Kalra & Barkeshli (arXiv:2605.21486) report an error E of a scaling law, an
exponent κ of robustness and a penalty R(∞). The definitions below are our reading; `docs/literature.md` says what was read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mufree.analysis.metrics.stability import best_loss
from mufree.analysis.metrics.statistics import Floats, Ints, ols_slope
from mufree.analysis.metrics.surface import Surface, at_common_widths, optima
from mufree.analysis.metrics.transfer import optimum_positions, regret_held, share_of_gain
from mufree.study.limits import LAW_EXPONENTS, LAW_POINTS, MIN_POINTS


def handed_on(surface: Surface, source: int, rate: int) -> Floats:
    """What the rate tuned at one width costs at each width, [3, K]: regret, gain, and the first as a share ρ of the second.

    `source` is the position of that width and `rate` its best rate in the grid, chosen on all seeds and held in a jackknife.
    Regret in nats, as `regret_held` with that width as the base; gain is best loss at the source − best loss, in nats; ρ is NaN
    where the gain is not above 0, and so at the source.
    """
    lost = regret_held(replace(surface, base_width=int(surface.widths[source])), rate)
    best = best_loss(surface)
    return np.stack([lost, best[source] - best, share_of_gain(lost, best, source)])


def shares_at_the_widest(surface: Surface, rates: Ints) -> Floats:
    """ρ at the widest width of the rate of each narrower one, [K − 1]; `rates` [K] are the best rates, held in a jackknife.

    c_n / a_n of Ghosh et al., with the widest width in the place of an infinite one.
    """
    sources = range(len(surface.widths) - 1)
    return np.array([handed_on(surface, k, int(rates[k]))[2, -1] for k in sources])


def share_trend(surface: Surface, rates: Ints) -> float:
    """Slope of `shares_at_the_widest` on log2 of the width that was tuned, in shares per doubling; below 0 they fall.

    It takes no logarithm, and so lives with regrets around 0. NaN with fewer than 3 narrower widths, or where one has no share.
    """
    shares = shares_at_the_widest(surface, rates)
    return np.nan if np.isnan(shares).any() else ols_slope(surface.log2_width_mult[:-1], shares)


def share_exponent(surface: Surface, rates: Ints) -> float:
    """Slope of log2 of `shares_at_the_widest` on log2 of the width that was tuned: ρ goes as width to this power.

    Transfer is fast where it is below 0. NaN also where a share is not above 0: it has no logarithm, and to leave it out would
    pick the shares that noise made large.
    """
    shares = shares_at_the_widest(surface, rates)
    return ols_slope(surface.log2_width_mult[:-1], np.log2(shares)) if (shares > 0).all() else np.nan


def rate_fit_error(surface: Surface) -> float:
    """E: residual standard deviation of log2 of the best rates around their line on log2 width, in doublings.

    √(Σ residual² / (widths − 2)). NaN with fewer than 3 widths whose optimum lies inside the grid. Noise of the optima counts
    as error, so it is above 0 where the law is exact.
    """
    positions = optimum_positions(surface)
    here = ~np.isnan(positions)
    if here.sum() < MIN_POINTS:
        return np.nan
    x, y = surface.log2_width_mult[here], positions[here]
    residuals = y - y.mean() - ols_slope(x, y) * (x - x.mean())
    return float(np.sqrt(residuals @ residuals / (len(y) - 2)))


def curvature_slope(surface: Surface) -> float:
    """Slope of log2 curvature on log2 width: what an error of so many doublings of the rate costs goes as width to this power.

    Curvature in nats per doubling² of the rate. NaN with fewer than 3 widths whose optimum has a parabola.
    """
    curvature = np.array([optimum.curvature for optimum in optima(surface)])
    return ols_slope(surface.log2_width_mult, np.log2(curvature))


class PowerLaw(NamedTuple):
    """loss = limit + gain · 2^(−exponent · w), w = log2 of the width over the base width; limit and gain in nats."""

    limit: float
    gain: float
    exponent: float


NO_LAW = PowerLaw(np.nan, np.nan, np.nan)


def fit_power_law(log2_width: Floats, losses: Floats) -> PowerLaw:
    """The least-squares power law through the losses at some widths, both [K]; `NO_LAW` where there is none.

    None with fewer than 4 losses, since three parameters go through any three; where the best exponent is an end of
    `LAW_EXPONENTS`, so that the losses don't tell a limit; where the losses don't fall; or where the limit is below 0, which no
    cross-entropy is. Losses that are NaN are left out.
    """
    from scipy.optimize import minimize_scalar  # slow to import

    here = ~np.isnan(losses)
    w, y = log2_width[here], losses[here]
    if len(y) < LAW_POINTS:
        return NO_LAW
    grid = np.geomspace(*LAW_EXPONENTS, 200)
    best = int(_best_laws(w, y, grid)[0].argmin())
    if best in (0, len(grid) - 1):
        return NO_LAW
    between = (grid[best - 1], grid[best + 1])
    found = minimize_scalar(lambda exponent: _best_laws(w, y, exponent)[0], bounds=between, options={"xatol": 1e-10})
    exponent = float(found.x)
    _, limit, gain = (float(x) for x in _best_laws(w, y, exponent))
    return PowerLaw(limit, gain, exponent) if gain > 0 and limit >= 0 else NO_LAW


def _best_laws(w: Floats, y: Floats, exponents: Floats | float) -> tuple[Floats, Floats, Floats]:
    """Sum of squares, limit and gain of the best law with each exponent, each shaped like them: a line in 2^(−exponent · w)."""
    z = 2.0 ** -np.multiply.outer(exponents, w)
    centred = z - z.mean(axis=-1, keepdims=True)
    gain = centred @ y / (centred**2).sum(axis=-1)
    residuals = y - y.mean() - centred * gain[..., None]
    return (residuals**2).sum(axis=-1), y.mean() - gain * z.mean(axis=-1), gain


def loss_law(surface: Surface) -> PowerLaw:
    """The power law of the best losses in width."""
    return fit_power_law(surface.log2_width_mult, best_loss(surface))


def robustness_exponent(surface: Surface) -> float:
    """κ: what a given error in log2 of the rate costs, over what is left to gain by widening, goes as width to this power.

    The sum of `curvature_slope` and of the exponent of `loss_law`. Above 0 the same error matters more the wider the network.
    """
    return loss_law(surface).exponent + curvature_slope(surface)


def limit_penalty(one: Surface, other: Surface) -> float:
    """R(∞): the limit of the best losses of the first − that of the second, in nats, over the widths that both have."""
    limits = [loss_law(surface).limit for surface in at_common_widths([one, other])]
    return limits[0] - limits[1]

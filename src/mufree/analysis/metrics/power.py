"""What a design can see before it is run: widths of intervals and power of tests, from the noise and curvature of a pilot.

The pilot is a few widths, rates and seeds of a task as it will be run. `measure_noise` takes from it how deep the valley of the
loss is and how much runs scatter; `power` simulates studies of the planned size with that noise and counts what they find.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mufree.analysis.metrics.interaction import difference_in_differences
from mufree.analysis.metrics.statistics import Floats, Interval, at_level, jackknife, t_interval
from mufree.analysis.metrics.surface import Surface, optima
from mufree.analysis.metrics.transfer import drift
from mufree.study.limits import DRIFT_TO_DETECT, EQUIVALENCE_MARGIN, FIT_WINDOW, MIN_SEEDS, MOST_SEEDS, POWER_WANTED

BASE_WIDTH = 2**16
"""Of simulated studies: wide enough that widths below it are whole."""


@dataclass(frozen=True)
class Noise:
    """Noise near the optimum: curvature in nats per doubling², run_sd in nats, slope_sd in nats per doubling.

    run_sd is what a run scatters by once its seed's level and slope over the rate at its width are taken off; slope_sd is the
    scatter of these slopes beyond what run_sd gives them. A level that a seed has at all rates moves no optimum.
    """

    curvature: float
    run_sd: float
    slope_sd: float


def measure_noise(surface: Surface) -> Noise:
    """Noise of a pilot within ±2 doublings of each width's best rate, pooled over widths, without rates where a seed diverged.

    Raises ValueError where no width has an optimum inside its grid with three rates around it, or with fewer than three seeds.
    """
    if surface.n_seeds < MIN_SEEDS:
        raise ValueError(f"noise needs {MIN_SEEDS} seeds in common, got {surface.n_seeds}")
    curvatures, squares, freedom, slope_variances = [], 0.0, 0, []
    for k, optimum in enumerate(optima(surface)):
        if optimum.flag != "ok":
            continue
        near = ~np.isnan(surface.mean_loss[k]) & (np.abs(surface.log2_lrs - optimum.log2_lr_argmin) <= FIT_WINDOW)
        x, loss = surface.log2_lrs[near] - surface.log2_lrs[near].mean(), surface.loss[k, near]
        of_seed = loss - loss.mean(axis=1, keepdims=True)
        of_seed = of_seed - of_seed.mean(axis=0)
        slopes = x @ of_seed / (x @ x)
        residual = of_seed - x[:, None] * slopes
        squares += float((residual**2).sum())
        freedom += (len(x) - 2) * (surface.n_seeds - 1)
        slope_variances.append((float(slopes.var(ddof=1)), float(x @ x)))
        curvatures.append(optimum.curvature)
    if not freedom:
        raise ValueError(
            "no width of the pilot has its best rate inside the grid, with a rate on either side: extend its grid"
        )
    run_variance = squares / freedom
    slope_variance = float(np.mean([variance - run_variance / spread for variance, spread in slope_variances]))
    return Noise(float(np.mean(curvatures)), run_variance**0.5, max(0.0, slope_variance) ** 0.5)


@dataclass(frozen=True)
class Design:
    """A study to be: log2 width multiples [K], J rates in factors of 2, S seeds."""

    log2_width_mult: Floats
    n_rates: int
    n_seeds: int


def power(
    noise: Noise,
    design: Design,
    *,
    drift_to_detect: float = DRIFT_TO_DETECT,
    n_simulations: int = 500,
) -> dict[str, float]:
    """What a study of that design and noise would find, in `n_simulations` simulations.

    half_width: median half width of drift's 95 % interval. equivalence: how often no drift is found inside
    ±`EQUIVALENCE_MARGIN`, by its 90 % interval. detection: how often `drift_to_detect` is told from 0. interaction_half_width:
    as half_width, for the difference in differences of |drift| where SP drifts by `drift_to_detect` and µP doesn't.
    loss_half_width: half width, in nats, of the 95 % interval of the difference of two methods' losses at one rate each. The
    optimum at base width lies near mid-grid, at random between two rates. The same arguments give the same numbers.
    """
    rng = np.random.default_rng(0)
    found = [_simulated_study(noise, design, drift_to_detect, rng) for _ in range(n_simulations)]
    still = [at_level(none, 0.90) for none, _, _ in found]
    loss = t_interval(0.0, noise.run_sd * (2 / design.n_seeds) ** 0.5, design.n_seeds)
    return {
        "half_width": float(np.nanmedian([_half(none) for none, _, _ in found])),
        "equivalence": float(np.mean([i.low > -EQUIVALENCE_MARGIN and i.high < EQUIVALENCE_MARGIN for i in still])),
        "detection": float(np.mean([i.low > 0 or i.high < 0 for _, i, _ in found])),
        "interaction_half_width": float(np.nanmedian([_half(both) for _, _, both in found])),
        "loss_half_width": float(loss.high),
    }


def _simulated_study(
    noise: Noise, design: Design, moving: float, rng: np.random.Generator
) -> tuple[Interval, Interval, Interval]:
    """Intervals of no drift, of a drift, and of the difference in differences of |drift|, of one simulated study."""
    cells = [_simulated_cell(noise, design, true, rng) for true in (moving, moving, 0.0, 0.0)]

    def interval(chosen: Sequence[Surface], statistic: Callable[[list[float]], float]) -> Interval:
        return jackknife(lambda kept: statistic([drift(cell.keep(kept)) for cell in chosen]), design.n_seeds)

    return (
        interval(cells[2:3], lambda drifts: drifts[0]),
        interval(cells[:1], lambda drifts: drifts[0]),
        interval(cells, lambda drifts: float(difference_in_differences(*np.abs(drifts)))),
    )


def _simulated_cell(noise: Noise, design: Design, true_drift: float, rng: np.random.Generator) -> Surface:
    """The surface of one method: a quadratic valley, and the noise of a pilot."""
    k, j, s = len(design.log2_width_mult), design.n_rates, design.n_seeds
    log2_lrs: Floats = np.arange(j, dtype=np.float64) - (j - 1) / 2
    # Half of what the optimum moves lies on either side of the middle.
    optima_at = rng.uniform(-0.5, 0.5) + true_drift * (design.log2_width_mult - design.log2_width_mult.mean())
    distance = (log2_lrs - optima_at[:, None])[:, :, None]
    slopes = rng.normal(0, noise.slope_sd, (k, 1, s))
    loss = 1 + noise.curvature * distance**2 + slopes * distance + rng.normal(0, noise.run_sd, (k, j, s))
    widths = np.round(BASE_WIDTH * 2.0**design.log2_width_mult).astype(np.int64)
    return Surface(BASE_WIDTH, widths, log2_lrs, loss, np.full(loss.shape, 10.0), np.zeros(loss.shape, bool))


def _half(interval: Interval) -> float:
    return float(interval.high - interval.low) / 2


def seeds_needed(truth: float, sd: float, within: tuple[float, float], level: float) -> float:
    """The least number of seeds with which one-sided tests at `level` find with `POWER_WANTED` that a mean lies in a range.

    sd is the standard error of one seed, in the unit of the truth, and that of n seeds sd/√n with Student's t of n − 1 degrees
    of freedom. Either end may be infinite; of two ends both tests have to succeed, whose failures are added up. At least
    `MIN_SEEDS`; infinite where the truth is not in the range, or more than `MOST_SEEDS` are needed; NaN without an sd.
    """
    if math.isnan(sd) or math.isnan(truth):
        return math.nan
    distances = [d for d in (truth - within[0], within[1] - truth) if not math.isinf(d)]
    if not all(d > 0 for d in distances):
        return math.inf
    if sd == 0:
        return MIN_SEEDS

    def enough(n: int) -> bool:
        missed = sum(_missed(d / sd * math.sqrt(n), level, n - 1) for d in distances)
        return 1 - missed >= POWER_WANTED

    if not enough(MOST_SEEDS):
        return math.inf
    return bisect_left(range(MOST_SEEDS), True, lo=MIN_SEEDS, key=enough)


def _missed(distance: float, level: float, freedom: int) -> float:
    """How often a one-sided t test at `level` misses a truth that lies so many standard errors away.

    The noncentral t distribution, as the mean over the standard error that is estimated; scipy's own fails far away.
    """
    from scipy.stats import chi2, norm, t  # slow to import

    shares = (np.arange(1000) + 0.5) / 1000
    estimated = np.sqrt(chi2.ppf(shares, freedom) / freedom)
    return float(norm.cdf(t.ppf(1 - level, freedom) * estimated - distance).mean())

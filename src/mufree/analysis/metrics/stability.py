"""Where training diverges, and how much the final loss depends on the learning rate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np

from mufree.analysis.metrics.statistics import Bools, Floats
from mufree.analysis.metrics.surface import Optimum, Surface, grid_argmin
from mufree.analysis.metrics.transfer import optimum_positions
from mufree.study.limits import BASIN_TOLERANCE, LEARNT_NOTHING, SPIKE_DEVIATIONS, SPIKE_WINDOW

Censored = Literal["", "low", "high", "both"]


def learnt_nothing(initial_loss: Floats, train_loss: Floats, diverged: Bools) -> Bools:
    """Runs that did not diverge, and yet ended less than `LEARNT_NOTHING` below where they started; all of one shape.

    A network whose units are dead predicts the frequencies of the classes and stays at the loss that a zero readout starts
    with, by chance a little above it (and so diverged) or a little below.
    """
    return ~diverged & (train_loss > initial_loss - LEARNT_NOTHING)


def common_offsets(cells: Iterable[tuple[Surface, list[Optimum]]]) -> Floats:
    """Distances from the own argmin (doublings, ascending) at which every uncensored width of these surfaces was run.

    This is the widest set of learning rates that all methods and widths of a task have around their own optimum; it may
    reach further to one side. Censored widths are left out: their optimum isn't known, and one argmin at an edge would leave
    a one-sided window for everybody. Empty if all are censored.
    """
    own = [
        surface.log2_lrs[ran] - optimum.log2_lr_argmin
        for surface, optima in cells
        for ran, optimum in zip(surface.ran, optima, strict=True)
        if not optimum.censored
    ]
    return reduce(np.intersect1d, own) if own else np.empty(0)


def window(surface: Surface, optima: list[Optimum], offsets: Floats) -> Bools:
    """Which rates lie at the offsets from their width's argmin, [K, J]; none at a width that is censored or lacks one."""
    argmins = [np.nan if optimum.censored else optimum.log2_lr_argmin for optimum in optima]
    rates = surface.ran & [np.isin(surface.log2_lrs, argmin + offsets) for argmin in argmins]
    rates[rates.sum(axis=1) < len(offsets)] = False
    return np.asarray(rates)


def lr_sensitivity(surface: Surface, rates: Bools) -> Floats:
    """LR sensitivity of each width, [K], in nats: mean over `rates` ([K, J]) of min(L, l0), minus the best mean loss.

    l0 is the loss at initialisation, which diverged runs count as (Wortsman et al. 2023). NaN where `rates` is empty or no
    rate is free of divergence. The rates are an argument, so that a jackknife judges all replicates over the same ones.
    """
    capped = np.minimum(surface.cost, surface.initial_loss).mean(axis=2)
    return _means(capped, rates) - best_loss(surface)


def _means(values: Floats | Bools, rates: Bools) -> Floats:
    """Mean of each width over its rates, [K] from [K, J, …]; NaN where there are none."""
    return np.array([of[here].mean() if here.any() else np.nan for of, here in zip(values, rates, strict=True)])


def lr_sensitivity_normalised(surface: Surface, rates: Bools) -> Floats:
    """`lr_sensitivity` as a share of l0 − best mean loss, [K]; at 1 no other rate would be better than not training."""
    start = np.array([np.mean(l0[ran]) for l0, ran in zip(surface.initial_loss, surface.ran, strict=True)])
    learnt = start - best_loss(surface)
    return lr_sensitivity(surface, rates) / np.where(learnt > 0, learnt, np.nan)


def best_loss(surface: Surface) -> Floats:
    """The lowest mean loss of each width over rates free of divergence, [K]; NaN where there is none."""
    loss = surface.mean_loss
    return np.where(np.isnan(loss).all(axis=1), np.nan, np.where(np.isnan(loss), np.inf, loss).min(axis=1))


def max_stable_log2_lr(surface: Surface) -> Floats:
    """log2 of the largest rate that was run with no diverged seed at it or below, [K]; NaN if the lowest rate diverged.

    Where nothing diverged it is the end of the grid, and so a lower bound.
    """
    result = np.full(len(surface.widths), np.nan)
    for k, (ran, diverged) in enumerate(zip(surface.ran, surface.any_diverged, strict=True)):
        stable = ran & ~np.logical_or.accumulate(diverged)
        if stable.any():
            result[k] = surface.log2_lrs[stable].max()
    return result


def headroom(surface: Surface) -> Floats:
    """log2(η_max / η*) of each width, [K]: doublings from the optimum to `max_stable_log2_lr`; NaN for a censored width."""
    return max_stable_log2_lr(surface) - optimum_positions(surface)


def diverged_fraction(surface: Surface, rates: Bools) -> Floats:
    """Share of the runs at `rates` ([K, J]) that diverged, of each width, [K]; NaN where `rates` is empty."""
    return _means(surface.diverged, rates)


@dataclass(frozen=True)
class Basin:
    """Where the loss of each width stays near its best; low, high and width [K], in log2 of the rate.

    censored [K] says at which end of the grid the basin goes on, so that the width is only a lower bound.
    """

    low: Floats
    high: Floats
    censored: list[Censored]

    @property
    def width(self) -> Floats:
        """high − low, in doublings."""
        return self.high - self.low


def basin(surface: Surface, tolerance: float = BASIN_TOLERANCE) -> Basin:
    """The rates around each width's argmin at which the mean loss is at most `tolerance` (nats) above the best.

    Its ends are interpolated linearly, in log2 rate, between the last rate inside and the next that was run. A diverged run
    counts as the loss at initialisation. Only the piece that holds the argmin counts: one can't rely on a second one beyond a
    rise. Where the last rate that was run is still inside, the basin ends there and is censored. NaN for a width with no rate
    free of divergence.
    """
    low, high = np.full(len(surface.widths), np.nan), np.full(len(surface.widths), np.nan)
    censored: list[Censored] = [""] * len(surface.widths)
    cost = surface.cost.mean(axis=2)
    for k, best in enumerate(grid_argmin(surface)):
        if best < 0:
            continue
        ran = surface.ran[k]
        x, gap = surface.log2_lrs[ran], cost[k, ran] - cost[k, best] - tolerance
        position = int(ran[:best].sum())
        high[k], open_high = _crossing(x[position:], gap[position:])
        low[k], open_low = _crossing(x[position::-1], gap[position::-1])
        censored[k] = "both" if open_low and open_high else "low" if open_low else "high" if open_high else ""
    return Basin(low, high, censored)


def _crossing(x: Floats, gap: Floats) -> tuple[float, bool]:
    """Where gap first rises above 0, going from its start, and whether it never does; both [points], gap[0] ≤ 0."""
    outside = np.flatnonzero(gap > 0)
    if not len(outside):
        return float(x[-1]), True
    j = outside[0]
    share = -gap[j - 1] / (gap[j] - gap[j - 1])
    return float(x[j - 1] + share * (x[j] - x[j - 1])), False


def spike_window(steps: int) -> int:
    """Points in the rolling window for a run of that many steps: a tenth, at least 50 and at most 1000 (1000 in OLMo 2)."""
    least, most = SPIKE_WINDOW
    return min(most, max(least, steps // 10))


def count_spikes(series: Floats, window: int, threshold: float = SPIKE_DEVIATIONS) -> tuple[int, int]:
    """How many points of a series, [points], are spikes, and how many are judged.

    A point is a spike if it is above the mean of the `window` points before it by at least `threshold` times their standard
    deviation (window − 1 degrees of freedom). Upward only. The point itself is not in its window: in a window of 50 that
    holds it, no point can be 7 standard deviations off. The first `window` points are not judged. Points that aren't finite
    are left out beforehand, since divergence counts them. ValueError for a window of fewer than 2 points.
    """
    if window < 2:
        raise ValueError(f"A window of {window} points has no standard deviation: give at least 2.")
    finite = series[np.isfinite(series)]
    if len(finite) <= window:
        return 0, 0
    before = np.lib.stride_tricks.sliding_window_view(finite[:-1], window)
    rise = finite[window:] - before.mean(axis=1)
    # The second condition keeps a constant series from spiking.
    return int(((rise >= threshold * before.std(axis=1, ddof=1)) & (rise > 0)).sum()), len(rise)


def excess_variation(losses: Floats) -> float:
    """TVx = Σ max(0, v[i+1] − v[i]) / (v[0] − v[−1]) of one curve, [evaluations]: all rises over the net fall.

    0 is a monotone curve. NaN where the loss did not fall or was not always finite, or with fewer than 2 evaluations.
    """
    if len(losses) < 2 or not np.isfinite(losses).all() or losses[0] <= losses[-1]:
        return float("nan")
    return float(np.maximum(np.diff(losses), 0).sum() / (losses[0] - losses[-1]))

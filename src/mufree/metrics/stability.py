"""Where training diverges, and how much the final loss depends on the learning rate."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import numpy as np

from mufree.metrics.statistics import Bools, Floats
from mufree.metrics.surface import Optimum, Surface


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
    """Which rates lie at the offsets from their width's argmin, [K, J]; none for a censored width."""
    return np.stack(
        [
            np.zeros(len(surface.log2_lrs), bool)
            if optimum.censored
            else np.isin(surface.log2_lrs, optimum.log2_lr_argmin + offsets)
            for optimum in optima
        ]
    )


def lr_sensitivity(surface: Surface, rates: Bools) -> Floats:
    """LR sensitivity of each width, [K], in nats: mean over `rates` ([K, J]) of min(L, l0), minus the best mean loss.

    l0 is the loss at initialisation, which diverged runs count as (Wortsman et al. 2023). NaN where `rates` is empty or no
    rate is free of divergence. The rates are an argument, so that a jackknife judges all replicates over the same ones.
    """
    capped = np.minimum(surface.cost, surface.initial_loss).mean(axis=2)
    best = best_loss(surface)
    return (
        np.array([values[here].mean() if here.any() else np.nan for values, here in zip(capped, rates, strict=True)])
        - best
    )


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

"""The loss surface of one method on one task, over widths × learning rates × seeds, and its optima."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal, NamedTuple

import numpy as np

from mufree.analysis.metrics.statistics import Bools, Floats, Ints, cross_fitted
from mufree.study.limits import FIT_WINDOW, MIN_POINTS

Flag = Literal["ok", "argmin_only", "edge_low", "edge_high", "all_diverged"]
CENSORED: tuple[Flag, ...] = ("edge_low", "edge_high", "all_diverged")
"""Flags of cells whose optimum is not known, only bounded or not even that."""

ROUNDING = 1e-12
"""Curvature below this share of the loss is what rounding makes of a straight line."""


@dataclass(frozen=True)
class Surface:
    """Final validation losses of one method on one task. K widths, J learning rates, S seeds.

    widths [K] and log2_lrs [J] ascend. loss, initial_loss (nats) and diverged are [K, J, S]; initial_loss is NaN where no
    run was made, for all seeds of a (width, rate) alike. The loss of a diverged run is never read.
    """

    base_width: int
    widths: Ints
    log2_lrs: Floats
    loss: Floats
    initial_loss: Floats
    diverged: Bools

    @property
    def n_seeds(self) -> int:
        """S."""
        return int(self.loss.shape[2])

    @property
    def base(self) -> int | None:
        """Position of the base width in `widths`; None where the method wasn't trained at it."""
        here = np.flatnonzero(self.widths == self.base_width)
        return int(here[0]) if len(here) else None

    @property
    def log2_width_mult(self) -> Floats:
        """w_k = log2(width / base width), [K]."""
        return np.log2(self.widths / self.base_width)

    @property
    def ran(self) -> Bools:
        """Which (width, rate) were run, [K, J]."""
        return np.asarray(~np.isnan(self.initial_loss).any(axis=2))

    @property
    def any_diverged(self) -> Bools:
        """Where at least one seed diverged, [K, J]."""
        return np.asarray(self.diverged.any(axis=2))

    @property
    def mean_loss(self) -> Floats:
        """Mean loss over the seeds, [K, J]; NaN where not run or where any seed diverged.

        One diverged seed takes its rate out of argmin and fit, our choice: a mean over the survivors alone is biased
        downward exactly next to the cliff, and would pull the optimum over it.
        """
        return np.where(self.ran & ~self.any_diverged, self.loss.mean(axis=2), np.nan)

    @property
    def cost(self) -> Floats:
        """What a run costs whoever chose its rate, [K, J, S]: its loss, or the loss at initialisation if it diverged."""
        return np.where(self.diverged, self.initial_loss, self.loss)

    def keep(self, seeds: Ints) -> Surface:
        """The surface with the seeds at these positions only."""
        of_seeds = {name: getattr(self, name)[:, :, seeds] for name in ("loss", "initial_loss", "diverged")}
        return replace(self, **of_seeds)

    def at_widths(self, widths: Ints) -> Surface:
        """The surface at these widths only, of those that it has."""
        here = np.isin(self.widths, widths)
        at_these = {name: getattr(self, name)[here] for name in ("widths", "loss", "initial_loss", "diverged")}
        return replace(self, **at_these)


@dataclass(frozen=True)
class Optimum:
    """The best learning rate of one width.

    log2_lr is the vertex of the fit, or the argmin where there is no fit (flag `argmin_only`, or an edge, where it is only a
    bound). curvature is a in loss = fit_loss + a·(x − log2_lr)², in nats per doubling². loss is the mean loss at the argmin.
    """

    flag: Flag
    log2_lr: float = float("nan")
    log2_lr_argmin: float = float("nan")
    loss: float = float("nan")
    fit_loss: float = float("nan")
    curvature: float = float("nan")

    @property
    def censored(self) -> bool:
        """Whether the optimum is not known to lie inside the grid."""
        return self.flag in CENSORED


def find_optimum(log2_lrs: Floats, mean_loss: Floats, ran: Bools) -> Optimum:
    """The optimum of one width from its seed-mean losses; all arguments [J], mean_loss NaN where it can't be used.

    A least-squares quadratic in x = log2 lr, over the points within ±2 doublings of the argmin. The vertex is clipped to
    the range of these points, so it is never where nothing was measured. Fewer than 3 points, or no upward curvature:
    `argmin_only`. Ends are those of the rates that were run: an argmin whose higher neighbours all diverged is no edge.
    A tie goes to the lower rate. A grid of one rate is `edge_low`.
    """
    usable = ~np.isnan(mean_loss)
    if not usable.any():
        return Optimum("all_diverged")
    best = int(np.nanargmin(mean_loss))
    argmin, loss = float(log2_lrs[best]), float(mean_loss[best])
    if not ran[:best].any():
        return Optimum("edge_low", argmin, argmin, loss)
    if not ran[best + 1 :].any():
        return Optimum("edge_high", argmin, argmin, loss)

    near = usable & (np.abs(log2_lrs - argmin) <= FIT_WINDOW)
    fit = fit_parabola(log2_lrs[near], mean_loss[near])
    if fit is None:
        return Optimum("argmin_only", argmin, argmin, loss)
    return Optimum("ok", fit.log2_lr, argmin, loss, fit.loss, fit.curvature)


class Parabola(NamedTuple):
    """A valley's lowest place, the loss there, and its curvature in nats per doubling²."""

    log2_lr: float
    loss: float
    curvature: float


def fit_parabola(log2_lrs: Floats, losses: Floats) -> Parabola | None:
    """The least-squares quadratic through losses at some rates, both [J], its vertex clipped to the range of the rates.

    None for fewer than 3 points, or no upward curvature.
    """
    if len(losses) < MIN_POINTS:
        return None
    best = int(losses.argmin())
    x, y = log2_lrs - log2_lrs[best], losses - losses[best]  # near 0, for the sake of rounding
    a, b, c = np.linalg.lstsq(np.stack([x**2, x, np.ones_like(x)], axis=1), y, rcond=None)[0]
    if a <= ROUNDING * np.abs(losses).max():
        return None
    vertex = float(np.clip(-b / (2 * a), x.min(), x.max()))
    lowest = float(losses[best]) + float(a * vertex**2 + b * vertex + c)
    return Parabola(float(log2_lrs[best]) + vertex, lowest, float(a))


def common_widths(surfaces: Iterable[Surface]) -> Ints:
    """The widths (or horizons) that all of the surfaces have, ascending."""
    return reduce(np.intersect1d, (surface.widths for surface in surfaces))


def at_common_widths(surfaces: Sequence[Surface]) -> list[Surface]:
    """Each surface at `common_widths`."""
    widths = common_widths(surfaces)
    return [surface.at_widths(widths) for surface in surfaces]


def optima(surface: Surface) -> list[Optimum]:
    """The optimum of each width, in the order of `surface.widths`."""
    return [find_optimum(surface.log2_lrs, loss, ran) for loss, ran in zip(surface.mean_loss, surface.ran, strict=True)]


def grid_argmin(surface: Surface) -> Ints:
    """Position of the best rate of each width, [K]; −1 where no rate is free of divergence. A tie goes to the lower rate."""
    loss = surface.mean_loss
    return np.where(np.isnan(loss).all(axis=1), -1, np.where(np.isnan(loss), np.inf, loss).argmin(axis=1))


def cost_at(surface: Surface, rates: Ints) -> Floats:
    """Mean cost over the seeds of each width at the rate in position rates[k], [K]; NaN where it is −1 or wasn't run."""
    k = np.flatnonzero(rates >= 0)
    result = np.full(len(rates), np.nan)
    result[k] = surface.cost[k, rates[k]].mean(axis=1)
    return result


def cross_fit(cost: Callable[[list[Surface], list[Surface]], Floats], *surfaces: Surface) -> Floats:
    """Mean over seeds of `cost`, which gets the surfaces with all other seeds, to choose on, and with that one, to judge by.

    NaN with one seed.
    """

    def of_seed(others: Ints, judged: Ints) -> Floats:
        return cost([surface.keep(others) for surface in surfaces], [surface.keep(judged) for surface in surfaces])

    return np.asarray(cross_fitted(of_seed, surfaces[0].n_seeds).mean(axis=0))

"""The best learning rate of one width from few runs: one seed brackets it, then all seeds are trained next to it.

A trial is one training run, named by log2 of its rate, a whole number, and its seed. What was found is a mapping from trials
to final losses in nats, not finite for a run that diverged. Nothing else is remembered: a search that was interrupted goes on
from the trials that are stored. `docs/tuning.md` tells how sure it is, against a whole grid.

Two variants did worse on the surfaces of the study (`benchmarks/search.py`). Three rates with all seeds instead of four: a
parabola through three points leans to the flatter side, by more than half a doubling in 9 % of searches. Five, which are all
that the fit of a whole grid looks at, are as good as the grid, but cost more than half of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from statistics import fmean

import numpy as np

from mufree.analysis.metrics.statistics import Interval, Ints, jackknife, t_interval
from mufree.analysis.metrics.surface import Optimum, find_optimum, fit_parabola
from mufree.study.limits import FIT_WINDOW

Trial = tuple[float, int]
"""log2 of a rate, and a seed."""

LOWEST, HIGHEST = -30.0, 6.0
"""log2 of the rates between which a search stays. Our choice: no optimizer that we know has its best rate beyond them."""

STRIDE = 2.0
"""Doublings by which the first seed moves on: a valley is wider than that."""

_Wanted = tuple[Iterable[float], Sequence[int]]
"""Rates, and the seeds that are to be trained at each."""


def next_points(found: Mapping[Trial, float], seeds: Sequence[int], start: float) -> list[Trial]:
    """The trials to train next, all of them side by side; none where the search is over.

    1. The first seed at `start` (rounded) and 2 doublings on either side, then on in steps of 2 until the rates next to the
       best one are worse. A run that diverged is worse than any other; if all did, the search goes down.
    2. That seed one doubling on either side of it.
    3. All seeds at the best of these three and one doubling on either side, then on by one until the best mean has a worse
       one on either side.
    4. All seeds at a fourth rate, beyond the better of the best rate's neighbours.

    A rate at which one seed diverged is trained with no other, since its mean would not be used. The search stays between
    `LOWEST` and `HIGHEST`, and so always ends: with all seeds of each rate at worst. Raises ValueError without seeds.
    """
    if not seeds:
        raise ValueError("A search needs at least one seed.")
    return _first_missing(found, _stages(found, seeds, start))


def next_points_around(found: Mapping[Trial, float], seeds: Sequence[int], centre: float) -> list[Trial]:
    """The trials to train next at another width, where a rate is known: all seeds at it, half and double of it.

    Then on by one and a fourth rate, as in `next_points`, whose stages 3 and 4 these are; `centre` need not be a whole number.
    """
    return _first_missing(found, _with_all_seeds(found, seeds, _inside(centre - 1, centre, centre + 1)))


def found_optimum(found: Mapping[Trial, float], seeds: Sequence[int]) -> Optimum:
    """The optimum from the rates that all seeds were trained at, as `find_optimum` has it for a grid.

    An edge is a limit of the search or, before it is over, of what was trained so far. All seeds nowhere: `all_diverged`.
    """
    rates = _settled(found, seeds)
    means = np.array([_mean(found, x, seeds) for x in rates])
    return find_optimum(np.array(rates), np.where(np.isfinite(means), means, np.nan), np.ones(len(rates), bool))


def optimum_interval(found: Mapping[Trial, float], seeds: Sequence[int]) -> Interval:
    """log2 of the best rate with its delete-one-seed jackknife interval, the rates that are fitted held.

    No interval where there is no fit with all seeds, or without one of them, or with one seed.
    """
    best = found_optimum(found, seeds)
    if best.flag != "ok":
        return t_interval(best.log2_lr, np.nan, len(seeds))
    return jackknife(fit_of(found, seeds), len(seeds))


def fit_of(found: Mapping[Trial, float], seeds: Sequence[int]) -> Callable[[Ints], float]:
    """log2 of the fitted best rate as a function of the positions of the seeds that are kept; NaN where there is no fit.

    The rates that are fitted are held: those near the argmin of all seeds.
    """
    best = found_optimum(found, seeds)
    near = [x for x in _settled(found, seeds) if abs(x - best.log2_lr_argmin) <= FIT_WINDOW]
    rates = np.array([x for x in near if not _diverged(found, x, seeds)])
    losses = np.array([[found[x, s] for s in seeds] for x in rates])

    def best_rate(kept: Ints) -> float:
        valley = fit_parabola(rates, losses[:, kept].mean(axis=1))
        return math.nan if valley is None else valley.log2_lr

    return best_rate


def _first_missing(found: Mapping[Trial, float], stages: Iterable[_Wanted]) -> list[Trial]:
    """What is not trained yet of the first stage that lacks anything."""
    for rates, seeds in stages:
        if missing := [(x, s) for x in rates if not _diverged(found, x, seeds) for s in seeds if (x, s) not in found]:
            return missing
    return []


def _stages(found: Mapping[Trial, float], seeds: Sequence[int], start: float) -> Iterator[_Wanted]:
    """What is wanted, stage by stage. To be asked for more only when all that came before was found."""
    first, centre = seeds[:1], min(max(float(round(start)), LOWEST), HIGHEST)
    coarse = yield from _bracket(found, first, [centre - STRIDE, centre, centre + STRIDE], STRIDE)
    if coarse is None:
        return
    fine = _inside(coarse - 1, coarse, coarse + 1)
    yield fine, first
    best = _best(found, first, fine)
    if best is not None:
        yield from _with_all_seeds(found, seeds, _inside(best - 1, best, best + 1))


def _with_all_seeds(found: Mapping[Trial, float], seeds: Sequence[int], rates: list[float]) -> Iterator[_Wanted]:
    """Stages 3 and 4 of `next_points`, from these rates on."""
    while True:
        best = yield from _bracket(found, seeds, rates, 1.0)
        fourth = [] if best is None else _beyond_the_better_neighbour(found, seeds, best)
        if set(fourth) <= set(rates):
            return
        yield fourth, seeds
        rates += fourth


def _bracket(
    found: Mapping[Trial, float], seeds: Sequence[int], rates: list[float], step: float
) -> Generator[_Wanted, None, float | None]:
    """Wants these rates, then more on either side of the best, which are put into `rates`; returns it, None if all diverged."""
    rates[:] = _inside(*rates)
    yield rates, seeds
    while True:
        best = _best(found, seeds, rates)
        wanted = _inside(min(rates) - step) if best is None else _inside(best - step, best + step)
        new = [x for x in wanted if x not in rates]
        if not new:
            return best
        yield new, seeds
        rates += new


def _beyond_the_better_neighbour(found: Mapping[Trial, float], seeds: Sequence[int], best: float) -> list[float]:
    """The rate that a fit wants besides the best and its neighbours; none at an edge, or between two that diverged."""
    neighbours = _inside(best - 1, best + 1)
    better = _best(found, seeds, neighbours)
    return [] if better is None or len(neighbours) < 2 else _inside(2 * better - best)


def _inside(*rates: float) -> list[float]:
    return [x for x in rates if LOWEST <= x <= HIGHEST]


def _best(found: Mapping[Trial, float], seeds: Sequence[int], rates: Iterable[float]) -> float | None:
    """The rate of the lowest mean, the lower one of two; None if all diverged."""
    means = {x: _mean(found, x, seeds) for x in sorted(rates)}
    best = min(means, key=lambda x: means[x])
    return best if math.isfinite(means[best]) else None


def _mean(found: Mapping[Trial, float], rate: float, seeds: Sequence[int]) -> float:
    return math.inf if _diverged(found, rate, seeds) else fmean(found[rate, seed] for seed in seeds)


def _diverged(found: Mapping[Trial, float], rate: float, seeds: Sequence[int]) -> bool:
    """Whether one of the seeds is known to have diverged at a rate."""
    return any(not math.isfinite(found.get((rate, seed), 0.0)) for seed in seeds)


def _settled(found: Mapping[Trial, float], seeds: Sequence[int]) -> list[float]:
    """The rates of which nothing more is wanted: all seeds were trained, or one diverged. Ascending."""
    rates = sorted({rate for rate, _ in found})
    return [x for x in rates if _diverged(found, x, seeds) or all((x, s) in found for s in seeds)]

"""Tables on what tuning costs and how methods compare: best of k, rate ratios, and whether the two factors interact."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from mufree.analysis.metrics import cost as tuning_cost
from mufree.analysis.metrics import interaction as factors
from mufree.analysis.metrics import stability, transfer
from mufree.analysis.metrics.statistics import Bools, Floats, Interval
from mufree.analysis.metrics.surface import Surface, at_common_widths, common_widths
from mufree.analysis.tables.cases import CANONICAL, Case, Records, interval_columns, joint, status, widest_shared
from mufree.analysis.tables.stability import common_offsets, window

TARGET = 0.02
"""ε of k_ε, nats: the tolerance that also defines the basin."""

TRIALS = 3
"""k of best-of-k in the hypotheses."""

UNITS = {
    "abs_drift": "doublings per doubling",
    "regret_cf": "nats",
    "best_loss": "nats",
    "lr_sensitivity": "nats",
    "diverged_fraction": "share",
}
"""The statistics whose interaction is looked at, with their units."""


def best_of_k(cases: Sequence[Case]) -> Records:
    """Expected best loss of k of the rates that were run, at every width."""
    return [
        {**case.names, "width": width, "k": k, "loss": loss, "n": len(expected)}
        for case in cases
        for i, width in enumerate(case.widths)
        for expected in [tuning_cost.expected_best_of_k(_settings(case.surface, i))]
        for k, loss in enumerate(expected, start=1)
    ]


def _settings(surface: Surface, k: int) -> Floats:
    """Mean loss of each rate that was run at a width; diverged runs count as the loss at initialisation."""
    return np.asarray(surface.cost[k, surface.ran[k]].mean(axis=1))


def best_of_3_excess(surface: Surface, k: int) -> float:
    """Expected best of three rates minus the best of all, nats; NaN with fewer than three."""
    losses = _settings(surface, k)
    return (
        float(tuning_cost.expected_best_of_k(losses)[TRIALS - 1] - losses.min()) if len(losses) >= TRIALS else math.nan
    )


def cost(cases: Sequence[Case]) -> Records:
    """What a search costs at every width, and what is saved by searching at base width, beside the regret of doing so."""
    return [row for case in cases for row in _cost(case)]


def _cost(case: Case) -> Iterator[dict[str, Any]]:
    surface = case.surface
    regret = case.regret()
    excess = case.over_seeds(lambda kept: [best_of_3_excess(kept, k) for k in range(len(case.widths))])
    by_width = case.runs.drop_duplicates(["width", "log2_lr"]).groupby("width")["flops"]  # a grid of one seed
    grid, one = by_width.sum().to_numpy(np.float64), by_width.first().to_numpy(np.float64)
    for k, width in enumerate(case.widths):
        losses = _settings(surface, k)
        at_base = surface.base is None or k == surface.base
        yield {
            **case.names,
            "width": width,
            **interval_columns("best_of_3_excess", excess[k], ends="best_of_3_"),
            "k_eps": tuning_cost.trials_to_reach(tuning_cost.expected_best_of_k(losses), losses.min() + TARGET),
            "eps": TARGET,
            "flops_saved": math.nan if at_base else float(tuning_cost.flops_saved(grid[surface.base], one[k], grid[k])),
            "regret_cf": regret.estimate[k],
            "n_seeds": surface.n_seeds,
        }


def rivals(cases: Sequence[Case]) -> Iterator[tuple[Case, Case]]:
    """Each schedule-free method with the one of the same base optimizer and parametrization that follows a cosine."""
    for free in cases:
        if free.role.schedule_free:
            wanted = free.role._replace(optimizer=free.role.optimizer.removesuffix("_schedulefree"), schedule="cosine")
            yield from ((free, other) for other in cases if (other.task, other.role) == (free.task, wanted))


def rate_ratio(cases: Sequence[Case]) -> Records:
    """How many times the rate of the scheduled optimizer the schedule-free one wants, by width."""
    return [row for free, other in rivals(cases) for row in _rate_ratio(free, other)]


def _rate_ratio(free: Case, other: Case) -> Iterator[dict[str, Any]]:
    both = [free, other]
    ratio = joint(both, lambda s: transfer.rate_ratios(*at_common_widths(s)))
    for k, width in enumerate(common_widths(case.surface for case in both)):
        why = "an optimum lies at an edge of the grid, or all diverged"
        yield {
            "task": free.task,
            "parametrization": free.role.parametrization,
            "numerator": free.method,
            "denominator": other.method,
            "width": int(width),
            **interval_columns("log2_ratio", ratio[k], ends=""),
            "n_seeds": ratio.n,
            **status(ratio[k], why),
        }


def canonical(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """The four methods of the study, in their order, for each task that has all of them."""
    for _, group in groupby(cases, key=lambda case: case.task):
        of_task = list(group)
        by_name = {case.method: case for case in of_task}
        if CANONICAL.keys() <= by_name.keys():
            yield [by_name[name] for name in CANONICAL]


def interaction(cases: Sequence[Case]) -> Records:
    """The four cells, both main effects and the difference in differences of each statistic, at the widest width they share."""
    offsets = common_offsets(cases)
    return [row for four in canonical(cases) for row in _interaction(four, offsets[four[0].task])]


def _interaction(four: list[Case], offsets: Floats) -> Iterator[dict[str, Any]]:
    for name, statistic in _statistics(four, [window(case, offsets) for case in four]).items():
        found = _effects(four, statistic)
        for i, effect in enumerate((*CANONICAL, *factors.EFFECTS)):
            why = f"{name.replace('_', ' ')} is not estimable for one of the methods"
            yield {
                "task": four[0].task,
                "statistic": name,
                "effect": effect,
                **interval_columns("estimate", found[i], ends=""),
                "n_seeds": found.n,
                "unit": UNITS[name],
                **status(found[i], why),
            }


def _effects(four: list[Case], statistic: Callable[[list[Surface]], list[float]]) -> Interval:
    """Cells, main effects and interaction, [7], from (SP, SP × SF, µP, µP × SF)."""

    def effects(surfaces: list[Surface]) -> Floats:
        cells = statistic(surfaces)
        return np.concatenate([cells, factors.effects(*cells)])

    return joint(four, effects)


def _statistics(four: Sequence[Case], rates: Sequence[Bools]) -> dict[str, Callable[[list[Surface]], list[float]]]:
    """Each statistic as a function of the four surfaces."""
    _, places = widest_shared(four)

    def at_widest(values: Callable[[Surface, int], Floats]) -> Callable[[list[Surface]], list[float]]:
        return lambda surfaces: [float(values(s, i)[k]) for i, (s, k) in enumerate(zip(surfaces, places, strict=True))]

    held = [case.transferred for case in four]
    return {
        "abs_drift": transfer.abs_drifts,
        "regret_cf": at_widest(lambda surface, i: transfer.regret_held(surface, held[i])),
        "best_loss": at_widest(lambda surface, i: stability.best_loss(surface)),
        "lr_sensitivity": at_widest(lambda surface, i: stability.lr_sensitivity(surface, rates[i])),
        "diverged_fraction": at_widest(lambda surface, i: stability.diverged_fraction(surface, rates[i])),
    }

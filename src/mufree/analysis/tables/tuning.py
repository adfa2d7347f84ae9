"""Tables on what tuning costs and how methods compare: best of k, rate ratios, and whether the two factors interact."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import numpy as np

from mufree.analysis.metrics import cost as tuning_cost
from mufree.analysis.metrics import interaction as factors
from mufree.analysis.metrics import stability, transfer
from mufree.analysis.metrics.statistics import Floats
from mufree.analysis.metrics.surface import Surface
from mufree.analysis.tables.cases import (
    Case,
    Records,
    Role,
    at_widest,
    estimated,
    interval_columns,
    joint,
    over_shared_widths,
    pairs,
)
from mufree.analysis.tables.stability import common_offsets
from mufree.study.config import METHODS
from mufree.study.limits import BASIN_TOLERANCE, BEST_OF
from mufree.study.statistics import STATISTICS


def best_of_k(cases: Sequence[Case]) -> Records:
    """Expected best loss of k of the rates that were run, at every width."""
    for cell in (cell for case in cases for cell in case.cells):
        expected = tuning_cost.expected_best_of_k(_settings(cell.case.surface, cell.k))
        for k, loss in enumerate(expected, start=1):
            yield {**cell.names, "k": k, "loss": loss, "n": len(expected)}


def _settings(surface: Surface, k: int) -> Floats:
    """Mean loss of each rate that was run at a width; diverged runs count as the loss at initialisation."""
    return np.asarray(surface.cost[k, surface.ran[k]].mean(axis=1))


def best_of_3_excess(surface: Surface) -> Floats:
    """Expected best of three rates minus the best of all at each width, [K], nats; NaN with fewer than three."""
    excess = np.full(len(surface.widths), np.nan)
    for k in range(len(excess)):
        losses = _settings(surface, k)
        if len(losses) >= BEST_OF:
            excess[k] = tuning_cost.expected_best_of_k(losses)[BEST_OF - 1] - losses.min()
    return excess


def cost(cases: Sequence[Case]) -> Records:
    """What a search costs at every width, and what is saved by searching at base width, beside the regret of doing so."""
    for case in cases:
        surface, regret, excess = case.surface, case.regret(), case.over_seeds(best_of_3_excess)
        by_width = case.runs.drop_duplicates(["width", "log2_lr"]).groupby("width")["flops"]  # a grid of one seed
        grid, one = by_width.sum().to_numpy(np.float64), by_width.first().to_numpy(np.float64)
        for cell in case.cells:
            k, losses = cell.k, _settings(surface, cell.k)
            at_base = surface.base is None or k == surface.base
            saved = math.nan if at_base else float(tuning_cost.flops_saved(grid[surface.base], one[k], grid[k]))
            target = losses.min() + BASIN_TOLERANCE
            yield {
                **cell.names,
                **interval_columns("best_of_3_excess", excess[k], ends="best_of_3_"),
                "k_eps": tuning_cost.trials_to_reach(tuning_cost.expected_best_of_k(losses), target),
                "eps": BASIN_TOLERANCE,
                "flops_saved": saved,
                "regret_cf": regret.estimate[k],
                "n_seeds": surface.n_seeds,
            }


def scheduled(role: Role) -> Role | None:
    """Of a schedule-free method, the one with its base optimizer and parametrization that follows a cosine."""
    return role._replace(optimizer=role.family, schedule="cosine") if role.schedule_free else None


def rate_ratio(cases: Sequence[Case]) -> Records:
    """How many times the rate of the scheduled optimizer the schedule-free one wants, by width."""
    why = "an optimum lies at an edge of the grid, or all diverged"
    for free, other in pairs(cases, scheduled):
        for row in over_shared_widths([free, other], "log2_ratio", transfer.rate_ratios, why, ends=""):
            yield {**row, "numerator": free.method, "denominator": other.method}


def canonical(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """The four methods of the study, in their order, for each task that has all of them."""
    for _, group in groupby(cases, key=lambda case: case.task):
        by_name = {case.method: case for case in group}
        if METHODS.keys() <= by_name.keys():
            yield [by_name[name] for name in METHODS]


def interaction(cases: Sequence[Case]) -> Records:
    """The four cells, both main effects and the difference in differences of each statistic, at the widest width they share."""
    offsets = common_offsets(cases)
    for four in canonical(cases):
        for name, statistic in _statistics(four, offsets[four[0].task]).items():
            why = f"{name.replace('_', ' ')} is not estimable for one of the methods"
            found = joint(four, lambda surfaces, of=statistic: _cells_and_effects(of(surfaces)))  # type: ignore[misc]
            for i, effect in enumerate((*METHODS, *factors.EFFECTS)):
                of = {"task": four[0].task, "statistic": name, "effect": effect, "unit": STATISTICS[name].table_unit}
                yield of | estimated("estimate", found[i], why, ends="")


def _cells_and_effects(cells: list[float]) -> Floats:
    """(SP, SP × SF, µP, µP × SF), both main effects and the interaction, [7]."""
    return np.concatenate([cells, factors.effects(*cells)])


def _statistics(four: Sequence[Case], offsets: Floats) -> dict[str, Callable[[list[Surface]], list[float]]]:
    """Each crossed statistic as a function of the four surfaces."""
    held = [case.transferred for case in four]
    rates = [stability.window(case.surface, case.optima, offsets) for case in four]
    return {
        "drift": transfer.drifts,
        "abs_drift": transfer.abs_drifts,
        "regret_cf": at_widest(four, lambda s, i: transfer.regret_held(s, held[i])),
        "best_loss": at_widest(four, lambda s, i: stability.best_loss(s)),
        "lr_sensitivity": at_widest(four, lambda s, i: stability.lr_sensitivity(s, rates[i])),
        "diverged_fraction": at_widest(four, lambda s, i: stability.diverged_fraction(s, rates[i])),
    }

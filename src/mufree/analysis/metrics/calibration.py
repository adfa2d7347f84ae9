"""Do the intervals cover what they say? Surfaces with a known truth are simulated and put through the metrics as they are.

A simulated study has four cells, in the order of `metrics.interaction`, on the same seeds. The mean loss is a quadratic
valley in log2 rate at every width, and a run's noise has four parts: a level its seed has in all cells, one it has in its own
cell, a slope over the rate that its seed has in all cells (some seeds like lower rates), and its own.

What a regret should cover needs care, since it depends on choices that are themselves noisy. There are three targets:
`regret_cf` is held against the regret of the true base argmin against the true own argmin, which tuning without noise would
have. `regret_cf_expected` is the same estimate, held against what it is unbiased for: the expected regret of choosing with
one seed fewer. The two part where rates at base width are nearly tied. `regret_held` is held against the true regret of the
rate that was chosen in this very study. All at the widest width, and on the grid: beyond its edge no regret is defined.

The rates that are fitted are chosen anew for each replicate of the jackknife. `drift_window_held` is the same slope with those
that all seeds choose, held: as good in an even valley, too sure in a lopsided one between two rates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mufree.analysis.metrics.interaction import difference_in_differences
from mufree.analysis.metrics.statistics import Floats, Interval, Ints, cross_fitted, jackknife, ols_slope, wilson
from mufree.analysis.metrics.surface import Surface, fit_parabola, grid_argmin, optima
from mufree.analysis.metrics.transfer import drift, regret_cf, regret_held, transferred_rate
from mufree.study.limits import BIAS_BOUND, COVERAGE_BOUNDS, FIT_WINDOW

WIDTHS = np.array([32, 64, 128, 256])
HIGHEST = -4.0
"""log2 of the largest rate; the grid goes by factors of 2."""

START = 4.0
"""Loss at initialisation, nats, which a diverged run costs."""

SEED_LEVEL, CELL_LEVEL, RUN_NOISE = 0.01, 0.005, 0.01
"""Standard deviations in nats of a seed's level in all cells, its level in one cell, and a run's own noise."""

SEED_SLOPE = 0.004
"""Standard deviation of a seed's slope in nats per doubling of the rate, counted from the true optimum."""


@dataclass(frozen=True)
class Scenario:
    """True surfaces to simulate. `drift` is that of SP under AdamW; SP under ScheduleFree has half of it, µP none.

    `best` is log2 of the optimal rate at base width, `curvature` in nats per doubling², `lowest` the low end of the grid. A
    run diverges more than `cliff` doublings above its width's optimum, give or take `ragged`, uniform by width and seed. The
    valley is steeper above the optimum than below by `skew`: its depth at distance d is curvature · d² · (1 + skew · tanh d).
    """

    name: str
    drift: float
    best: float = -8.2
    curvature: float = 0.02
    lowest: float = -14.0
    cliff: float = np.inf
    ragged: float = 0.5
    skew: float = 0.0

    @property
    def log2_lrs(self) -> Floats:
        """The grid, [J]."""
        return np.arange(self.lowest, HIGHEST + 1)

    @property
    def drifts(self) -> tuple[float, float, float, float]:
        """The true drift of each cell."""
        return self.drift, self.drift / 2, 0.0, 0.0

    def distances(self, drift: float) -> Floats:
        """Doublings of each rate above the true optimum of each width, [K, J], for a cell with that drift."""
        optima: Floats = self.best + drift * np.log2(WIDTHS / WIDTHS[0])
        return self.log2_lrs - optima[:, None]

    def valley(self, distance: Floats) -> Floats:
        """The mean loss of runs that don't diverge, by their distance from the optimum."""
        return np.asarray(1 + self.curvature * distance**2 * (1 + self.skew * np.tanh(distance)))

    def expected_cost(self, drift: float) -> Floats:
        """The true mean cost of a run, [K, J]."""
        distance = self.distances(drift)
        diverges = np.clip((distance - self.cliff) / (2 * self.ragged) + 0.5, 0, 1)
        return np.asarray((1 - diverges) * self.valley(distance) + diverges * START)


SCENARIOS = (
    Scenario("interior, no drift", 0.0),
    Scenario("interior, drift -1", -1.0),
    Scenario("widest at the edge", -1.0, lowest=-11.0),
    Scenario("cliff", -0.5, cliff=2.5),
    Scenario("flat valley", -1.0, curvature=0.005),
    Scenario("tied rates", -1.0, best=-8.5),
    Scenario("transfer onto the cliff", -0.75, cliff=2.5),
    Scenario("lopsided valley", -1.0, curvature=0.01, skew=0.5),
    Scenario("lopsided and tied", 0.0, best=-8.5, curvature=0.01, skew=0.5),
)
"""The first four are what a good study should look like. The others are made to break: in a flat valley noise moves the
argmin, between tied rates it decides it, and on the cliff a few seeds can't show how often runs diverge."""


Of = Callable[[Sequence[Surface], Sequence[Surface]], ArrayLike]
"""A statistic of the four cells with the seeds that are kept, given the cells with all seeds, for what is held."""


@dataclass(frozen=True)
class Statistic:
    """A statistic of a study and its truth.

    `truth` gets the scenario and the cells with all seeds. A bias is in grid steps; of a statistic that is a `cost`, in
    what one step costs at the optimum. With `averaged`, the truth is the mean of `truth` over the simulations.
    """

    of: Of
    truth: Callable[[Scenario, Sequence[Surface]], float]
    cost: bool = False
    averaged: bool = False


def _regret_cf(kept: Sequence[Surface], whole: Sequence[Surface]) -> float:
    return float(regret_cf(kept[0])[-1])


def drift_with_rates_held(kept: Surface, whole: Surface) -> float:
    """The drift of a surface with some seeds, where at each width those rates are fitted that all seeds fit.

    A width whose optimum is censored with all seeds is left out.
    """
    x, positions = whole.log2_lrs, np.full(len(whole.widths), np.nan)
    for k, (optimum, usable, loss) in enumerate(zip(optima(whole), whole.mean_loss, kept.mean_loss, strict=True)):
        if not optimum.censored:
            here = ~np.isnan(usable) & (np.abs(x - optimum.log2_lr_argmin) <= FIT_WINDOW)
            valley = fit_parabola(x[here], loss[here])
            positions[k] = x[here][loss[here].argmin()] if valley is None else valley.log2_lr
    return ols_slope(whole.log2_width_mult, positions)


def _true_regret(scenario: Scenario, cells: Sequence[Surface]) -> float:
    cost = scenario.expected_cost(scenario.drift)
    return float(cost[-1, cost[0].argmin()] - cost[-1].min())


def _true_regret_of_choices(scenario: Scenario, cells: Sequence[Surface]) -> float:
    cost = scenario.expected_cost(scenario.drift)[-1]

    def of_choice(others: Ints, judged: Ints) -> float:
        own = grid_argmin(cells[0].keep(others))
        return float(cost[own[0]] - cost[own[-1]]) if min(own[0], own[-1]) >= 0 else np.nan

    return float(cross_fitted(of_choice, cells[0].n_seeds).mean())


def _true_regret_held(scenario: Scenario, cells: Sequence[Surface]) -> float:
    cost = scenario.expected_cost(scenario.drift)[-1]
    return float(cost[transferred_rate(cells[0])] - cost.min())


STATISTICS = {
    "drift": Statistic(lambda kept, _: drift(kept[0]), lambda scenario, _: scenario.drift),
    "drift_window_held": Statistic(
        lambda kept, whole: drift_with_rates_held(kept[0], whole[0]), lambda scenario, _: scenario.drift
    ),
    "did_drift": Statistic(
        lambda kept, _: difference_in_differences(*map(drift, kept)),
        lambda scenario, _: float(difference_in_differences(*scenario.drifts)),
    ),
    "regret_cf": Statistic(_regret_cf, _true_regret, cost=True),
    "regret_cf_expected": Statistic(_regret_cf, _true_regret_of_choices, cost=True, averaged=True),
    "regret_held": Statistic(
        lambda kept, whole: regret_held(kept[0], transferred_rate(whole[0]))[-1], _true_regret_held, cost=True
    ),
}


def simulate(scenario: Scenario, n_seeds: int, rng: np.random.Generator) -> list[Surface]:
    """One study: the surfaces of the four cells, on the same seeds, K = 4 widths and J rates."""
    k, j = len(WIDTHS), len(scenario.log2_lrs)
    level = rng.normal(0, SEED_LEVEL, n_seeds)
    slope = rng.normal(0, SEED_SLOPE, n_seeds)
    cells = []
    for cell_drift in scenario.drifts:
        distance = scenario.distances(cell_drift)[:, :, None]
        own = rng.normal(0, CELL_LEVEL, n_seeds) + rng.normal(0, RUN_NOISE, (k, j, n_seeds))
        loss = scenario.valley(distance) + slope * distance + level + own
        cliff = scenario.cliff + rng.uniform(-scenario.ragged, scenario.ragged, (k, 1, n_seeds))
        cells.append(
            Surface(
                base_width=int(WIDTHS[0]),
                widths=WIDTHS,
                log2_lrs=scenario.log2_lrs,
                loss=loss,
                initial_loss=np.full_like(loss, START),
                diverged=distance > cliff,
            )
        )
    return cells


def calibrate(
    n_simulations: int = 2000,
    seeds: Sequence[int] = (3, 5, 8),
    rng_seed: int = 0,
    *,
    scenarios: Iterable[Scenario] = SCENARIOS,
    statistics: Iterable[str] = tuple(STATISTICS),
    interval: Callable[[Callable[[Ints], ArrayLike], int], Interval] = jackknife,
) -> pd.DataFrame:
    """Coverage and bias of the nominal 95 % intervals, one row a scenario, statistic and number of seeds.

    estimable is the share of studies with an interval, of which are: coverage with its Wilson interval (coverage_low,
    coverage_high), bias and rmse of the estimate (in its own unit), and degenerate, the share of intervals of no length; these
    come from choices that never change, and cover 100 % where the truth is an exact 0. bias_in_steps is the bias in grid
    steps; for a regret, in what one grid step off the optimum costs. within_bounds says whether coverage and bias meet
    `COVERAGE_BOUNDS` and `BIAS_BOUND`, given their Monte Carlo error (the Wilson interval; 2 standard errors): a row too
    noisy to tell is not out of bounds. All is NaN, and out of bounds, where nothing is estimable. The same rng_seed
    gives the same frame.

    2000 simulations of everything take about eight minutes of one core.
    """
    names = list(statistics)
    records = []
    for place, scenario in enumerate(scenarios):
        for n_seeds in seeds:
            rng = np.random.default_rng([rng_seed, place, n_seeds])
            results: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in names}
            for _ in range(n_simulations):
                cells = simulate(scenario, n_seeds, rng)
                found = _intervals(cells, dict.fromkeys(STATISTICS[name].of for name in names), interval)
                for name in names:
                    one, truth = found[STATISTICS[name].of], STATISTICS[name].truth(scenario, cells)
                    results[name].append((float(one.estimate), float(one.low), float(one.high), truth))
            records += [
                {
                    "scenario": scenario.name,
                    "statistic": name,
                    "n_seeds": n_seeds,
                    "n_simulations": n_simulations,
                    **_judge(np.array(results[name]), STATISTICS[name], scenario),
                }
                for name in names
            ]
    return pd.DataFrame(records)


def _intervals(
    cells: Sequence[Surface],
    statistics: Iterable[Of],
    interval: Callable[[Callable[[Ints], ArrayLike], int], Interval],
) -> dict[Of, Interval]:
    """The interval of each statistic, once where two have different targets."""

    def on_seeds(of: Of) -> Callable[[Ints], ArrayLike]:
        return lambda kept: of([cell.keep(kept) for cell in cells], cells)

    return {of: interval(on_seeds(of), cells[0].n_seeds) for of in statistics}


def _judge(results: Floats, statistic: Statistic, scenario: Scenario) -> dict[str, float | bool]:
    """A row from (estimate, low, high, truth) of each simulation, [N, 4]."""
    if statistic.averaged and not np.isnan(results[:, 3]).all():
        results[:, 3] = np.nanmean(results[:, 3])
    here = results[~np.isnan(results).any(axis=1)]
    row = dict.fromkeys(
        ("coverage", "coverage_low", "coverage_high", "degenerate", "bias", "bias_in_steps", "rmse"), float("nan")
    )
    if not len(here):
        return {"estimable": 0.0, **row, "within_bounds": False}
    estimate, low, high, truth = here.T
    # Equal choices leave an exact 0 that sums of losses miss by rounding.
    rounding = 1e-9 * scenario.curvature
    covered = (low <= truth + rounding) & (truth - rounding <= high)
    error = estimate - truth
    step = scenario.curvature if statistic.cost else 1.0
    coverage_low, coverage_high = wilson(int(covered.sum()), len(here))
    bias, bias_se = error.mean(), error.std() / np.sqrt(len(here))
    covers = coverage_high >= COVERAGE_BOUNDS[0] and coverage_low <= COVERAGE_BOUNDS[1]
    return {
        "estimable": len(here) / len(results),
        "coverage": float(covered.mean()),
        "coverage_low": coverage_low,
        "coverage_high": coverage_high,
        "degenerate": float((high - low <= rounding).mean()),
        "bias": float(bias),
        "bias_in_steps": float(bias / step),
        "rmse": float(np.sqrt((error**2).mean())),
        "within_bounds": bool(covers and max(0.0, abs(bias) - 2 * bias_se) < BIAS_BOUND * step),
    }

"""The intervals on surfaces with a known truth, fewer of them than `calibrate` takes by itself; bounds allow for that."""

from collections.abc import Callable
from itertools import combinations_with_replacement
from math import factorial

import numpy as np
import pandas as pd
import pytest
from numpy.typing import ArrayLike
from scipy import stats

from mufree.analysis.metrics import transfer
from mufree.analysis.metrics.calibration import (
    SCENARIOS,
    STATISTICS,
    Scenario,
    calibrate,
    drift_with_rates_held,
    simulate,
)
from mufree.analysis.metrics.statistics import Floats, Interval, Ints, jackknife, wilson
from mufree.analysis.metrics.surface import Surface, optima

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
GOOD = SCENARIOS[:4]
ROW = ["scenario", "statistic", "n_seeds"]


def test_all_optima_move_but_two() -> None:
    still = [scenario.name for scenario in SCENARIOS if scenario.drift == 0]
    assert still == ["interior, no drift", "lopsided and tied"]


@pytest.fixture(scope="module")
def good() -> pd.DataFrame:
    return calibrate(150, seeds=(3, 5), scenarios=GOOD, statistics=("drift", "did_drift", "regret_held"))


@pytest.mark.slow
def test_intervals_cover_and_estimates_are_unbiased(good: pd.DataFrame) -> None:
    assert len(good) == len(GOOD) * 2 * 3
    # Where choices never change, the interval is an exact 0: it covers always, and rightly.
    exact = (good["statistic"] == "regret_held") & (good["scenario"] == "interior, no drift")
    assert good.loc[~exact, "within_bounds"].all(), good[~exact & ~good["within_bounds"]].to_string()
    assert (good.loc[exact, "coverage_high"] >= 0.95).all()
    assert (good.loc[exact, "degenerate"] > 0.2).all()


@pytest.mark.slow
def test_an_edge_costs_estimates_and_not_their_coverage(good: pd.DataFrame) -> None:
    drift = good[good["statistic"] == "drift"].pivot(index="scenario", columns="n_seeds", values="estimable")
    assert (drift.drop(index="widest at the edge") == 1).all(axis=None)
    edge = drift.loc["widest at the edge"]
    assert edge[3] < edge[5] < 1


def test_more_seeds_mean_smaller_errors() -> None:
    rows = calibrate(60, seeds=(3, 12), scenarios=GOOD[1:2], statistics=("drift",)).set_index("n_seeds")
    # Errors go as 1/√S, so by 2; the standard error of a root mean square of 60 is 9 %.
    assert 1.4 < rows.loc[3, "rmse"] / rows.loc[12, "rmse"] < 2.8


def test_between_tied_rates_only_the_held_regret_is_covered() -> None:
    """Base width chooses between two rates by noise: what it chooses on average is no rate's regret."""
    rows = calibrate(
        150,
        seeds=(5,),
        scenarios=[BY_NAME["tied rates"]],
        statistics=("regret_cf", "regret_cf_expected", "regret_held"),
    ).set_index("statistic")
    assert rows["within_bounds"].to_dict() == {"regret_cf": False, "regret_cf_expected": False, "regret_held": True}
    assert rows.loc["regret_cf", "bias_in_steps"] > 1
    assert abs(rows.loc["regret_cf_expected", "bias"]) < 0.3 * rows.loc["regret_cf", "bias"]
    assert rows.loc["regret_cf", "rmse"] > 2 * rows.loc["regret_held", "rmse"]


def test_three_seeds_cannot_show_how_often_a_cliff_is_fallen_off() -> None:
    rows = calibrate(150, seeds=(3,), scenarios=[BY_NAME["transfer onto the cliff"]], statistics=("regret_held",))
    assert not rows["within_bounds"].any()
    assert rows["coverage_high"].item() < 0.92


def normal_quantile(statistic: Callable[[Ints], ArrayLike], n: int) -> Interval:
    made = jackknife(statistic, n)
    half = stats.norm.ppf(0.975) * made.se
    return Interval(made.estimate, made.estimate - half, made.estimate + half, made.se, n)


def percentile_bootstrap(statistic: Callable[[Ints], ArrayLike], n: int) -> Interval:
    """All resamples, each with its probability."""
    resamples = list(combinations_with_replacement(range(n), n))
    counts = np.array([np.bincount(resample, minlength=n) for resample in resamples])
    weights = factorial(n) / np.array([np.prod([factorial(int(c)) for c in row]) for row in counts])
    values = np.array([float(np.asarray(statistic(np.array(resample)))) for resample in resamples])
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / n**n
    low, high = (values[order][np.searchsorted(reached, level)] for level in (0.025, 0.975))
    estimate = np.asarray(statistic(np.arange(n)))
    return Interval(estimate, np.asarray(low), np.asarray(high), np.full_like(estimate, np.nan), n)


@pytest.mark.parametrize("interval", [normal_quantile, percentile_bootstrap])
@pytest.mark.parametrize("name", ["drift", "regret_held"])
def test_a_normal_quantile_or_a_percentile_bootstrap_over_three_seeds_is_caught(
    interval: Callable[[Callable[[Ints], ArrayLike], int], Interval], name: str
) -> None:
    caught = calibrate(200, seeds=(3,), scenarios=GOOD[1:2], statistics=(name,), interval=interval).iloc[0]
    assert not caught["within_bounds"]
    assert caught["coverage_high"] < 0.92


def fixed(estimate: float, half: float) -> Callable[[Callable[[Ints], ArrayLike], int], Interval]:
    values = [np.asarray(x) for x in (estimate, estimate - half, estimate + half, half)]
    return lambda statistic, n: Interval(*values, n)


@pytest.mark.parametrize(
    ("estimate", "half", "coverage", "bias", "within"),
    [
        (-1.0, 9.0, 1.0, 0.0, False),  # covers, but far too wide
        (-0.8, 0.1, 0.0, 0.2, False),
        (-1.2, 0.3, 1.0, -0.2, False),
    ],
)
def test_a_row_by_hand(estimate: float, half: float, coverage: float, bias: float, within: bool) -> None:
    rows = calibrate(300, seeds=(3,), scenarios=GOOD[1:2], statistics=("drift",), interval=fixed(estimate, half))
    row = rows.iloc[0]
    assert (row["estimable"], row["coverage"], row["degenerate"]) == (1, coverage, 0)
    np.testing.assert_allclose([row["bias"], row["bias_in_steps"], row["rmse"]], [bias, bias, abs(bias)], atol=1e-12)
    assert (row["coverage_low"], row["coverage_high"]) == wilson(300 * int(coverage), 300)
    assert row["within_bounds"] == within


def test_a_regrets_bias_is_in_what_a_grid_step_costs() -> None:
    scenario = BY_NAME["interior, drift -1"]
    rows = calibrate(2, seeds=(3,), scenarios=[scenario], statistics=("regret_cf",), interval=fixed(0.214, 1.0))
    # Base width's rate is −8, 3.2 above the wide optimum; the best there is −11, 0.2 above. One step costs 0.02.
    assert rows["bias"].item() == pytest.approx(0.214 - 0.02 * (3.2**2 - 0.2**2))
    assert rows["bias_in_steps"].item() == pytest.approx(0.5)


def test_nothing_is_estimable_from_one_seed() -> None:
    rows = calibrate(2, seeds=(1,), scenarios=GOOD[:1])
    assert rows["statistic"].tolist() == list(STATISTICS)
    assert (rows["estimable"] == 0).all()
    assert rows[["coverage", "bias", "rmse"]].isna().all(axis=None)
    assert not rows["within_bounds"].any()


def test_the_same_seed_gives_the_same_frame_whatever_else_is_simulated() -> None:
    wanted = {"scenarios": GOOD[:1], "statistics": ("drift",)}
    once = calibrate(4, seeds=(3, 4), **wanted)  # type: ignore[arg-type]
    alone = calibrate(4, seeds=(4,), **wanted)  # type: ignore[arg-type]
    other = calibrate(4, seeds=(4,), rng_seed=1, **wanted)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(once.iloc[1:].reset_index(drop=True), alone)
    assert alone["rmse"].item() != other["rmse"].item()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_simulated_costs_have_the_mean_that_the_truth_is_computed_from(scenario: Scenario) -> None:
    n = 4000
    for cell, drift in zip(simulate(scenario, n, np.random.default_rng(0)), scenario.drifts, strict=True):
        assert cell.loss.shape == (4, len(scenario.log2_lrs), n)
        error: Floats = cell.cost.mean(axis=2) - scenario.expected_cost(drift)
        se = cell.cost.std(axis=2) / np.sqrt(n)
        assert (np.abs(error) <= 5 * se).all()


def test_noise_is_shared_as_described() -> None:
    cells = simulate(GOOD[0], 4000, np.random.default_rng(1))
    noise = np.stack([cell.loss - GOOD[0].expected_cost(0.0)[:, :, None] for cell in cells])
    at = int(np.abs(GOOD[0].distances(0.0)[0]).argmin())  # next to the optimum, where the slope hardly counts
    sd_run, sd_cell, sd_seed = 0.01, 0.005, 0.01

    def covariance(a: Floats, b: Floats) -> float:
        return float(np.cov(a, b)[0, 1])

    within, between = sd_seed**2 + sd_cell**2, sd_seed**2
    assert noise[0, 0, at].var() == pytest.approx(within + sd_run**2, rel=0.1)
    assert covariance(noise[0, 0, at], noise[0, 3, at + 1]) == pytest.approx(within, rel=0.15)
    assert covariance(noise[0, 0, at], noise[3, 0, at]) == pytest.approx(between, rel=0.15)
    far = noise[:, :, -1] - noise[:, :, 0]  # 10 doublings of slope
    assert covariance(far[0, 0], far[3, 3]) == pytest.approx((10 * 0.004) ** 2, rel=0.15)


def _surface(of_seeds: np.ndarray, x: np.ndarray) -> Surface:
    """One loss by width, rate and seed, [3, J, S]."""
    return Surface(1, np.array([1, 2, 4]), x, of_seeds, np.full_like(of_seeds, 10.0), np.zeros_like(of_seeds, bool))


def test_held_rates_are_those_of_all_seeds_wherever_the_argmin_of_some_lies() -> None:
    x = np.arange(-4.0, 5.0)
    mean = 5 + 0.1 * np.abs(x) ** 1.5
    # At the widest width the second seed's argmin lies three doublings higher; that of both is at 0.
    loss = np.stack([np.stack([mean, mean - np.where((x == 3) & (k == 2), 0.6, 0.0)], axis=1) for k in range(3)])
    whole, second = _surface(loss, x), np.array([1])
    assert [found.log2_lr_argmin for found in optima(whole)] == [0, 0, 0]
    assert [found.log2_lr_argmin for found in optima(whole.keep(second))] == [0, 0, 3]
    # The rates that are held, −2 to 2, are symmetric about 0 at every width.
    assert drift_with_rates_held(whole.keep(second), whole) == pytest.approx(0, abs=1e-9)
    assert transfer.drift(whole.keep(second)) > 0.5
    assert drift_with_rates_held(whole, whole) == transfer.drift(whole)


def test_a_width_at_an_edge_with_all_seeds_stays_left_out() -> None:
    x = np.arange(5.0)
    valley, falling = 5 + (x - 2) ** 2, 20 - 5 * x
    at_the_edge = np.stack([falling, valley], axis=1)  # of the mean, and not of the second seed
    whole = _surface(np.stack([np.stack([valley, valley], axis=1)] * 2 + [at_the_edge]), x)
    second = np.array([1])
    assert [found.censored for found in optima(whole)] == [False, False, True]
    assert not any(found.censored for found in optima(whole.keep(second)))
    assert transfer.drift(whole.keep(second)) == pytest.approx(0)
    assert np.isnan(drift_with_rates_held(whole.keep(second), whole))  # two widths are no slope

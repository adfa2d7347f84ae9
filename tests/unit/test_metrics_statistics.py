import numpy as np
import pytest
from scipy import stats

from mufree.metrics.statistics import jackknife, ols_slope, t_interval, wilson


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_jackknife_of_the_mean_is_the_classical_t_interval(n: int, level: float) -> None:
    values = np.random.default_rng(n).normal(3, 2, n)
    interval = jackknife(lambda kept: values[kept].mean(), n, level)
    low, high = stats.t.interval(level, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert interval.n == n
    assert interval.estimate == values.mean()
    np.testing.assert_allclose([interval.se, interval.low, interval.high], [stats.sem(values), low, high], rtol=1e-12)


def test_jackknife_matches_its_textbook_formula_for_a_statistic_that_is_not_linear() -> None:
    values = [0.5, 2.0, 2.5, 7.0]
    interval = jackknife(lambda kept: np.log(np.var(np.array(values)[kept])), 4)
    replicates = []
    for i in range(4):
        rest = values[:i] + values[i + 1 :]
        mean = sum(rest) / 3
        replicates.append(np.log(sum((v - mean) ** 2 for v in rest) / 3))
    centre = sum(replicates) / 4
    se = (3 / 4 * sum((r - centre) ** 2 for r in replicates)) ** 0.5
    assert float(interval.se) == pytest.approx(se, rel=1e-12)
    assert float(interval.estimate) == np.log(np.var(values)), "not bias-corrected"
    assert float(interval.high - interval.estimate) == pytest.approx(
        3.182446305284263 * se, rel=1e-9
    )  # t table, 3 d.o.f.


def test_an_array_statistic_has_an_interval_for_each_element_and_none_where_any_replicate_fails() -> None:
    values = np.array([1.0, 2.0, 4.0])

    def statistic(kept: np.ndarray) -> list[float]:
        needs_the_first = 1.0 if 0 in kept else np.nan
        return [values[kept].mean(), needs_the_first, np.nan]

    both = jackknife(statistic, 3)
    alone = jackknife(lambda kept: values[kept].mean(), 3)
    assert both.low[0] == alone.low
    assert both.estimate[1] == 1.0
    assert np.isnan([both.low[1], both.high[1], both.se[1], both.estimate[2], both.low[2]]).all()


def test_a_statistic_that_fails_on_all_seeds_alone_has_no_interval() -> None:
    interval = jackknife(lambda kept: np.nan if len(kept) == 3 else float(kept[0]), 3)
    assert np.isnan([interval.estimate, interval.se, interval.low, interval.high]).all()


def test_one_seed_has_an_estimate_and_no_interval() -> None:
    interval = jackknife(lambda kept: 7.0, 1)
    assert interval.estimate == 7.0
    assert np.isnan([interval.low, interval.high, interval.se]).all()


def test_t_interval_has_n_minus_one_degrees_of_freedom() -> None:
    interval = t_interval(1.0, 2.0, 2, 0.90)
    # Student's t of one degree of freedom is Cauchy: its quantile is tan(π(p − ½)).
    np.testing.assert_allclose([interval.low, interval.high], 1 + 2 * np.tan(np.pi * 0.45) * np.array([-1, 1]))


@pytest.mark.parametrize(("k", "n"), [(0, 5), (1, 7), (5, 5), (30, 100)])
def test_wilson_is_wilsons_formula(k: int, n: int) -> None:
    z2 = stats.norm.ppf(0.975) ** 2
    p = k / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2) / (1 + z2 / n) * np.sqrt(p * (1 - p) / n + z2 / (4 * n**2))
    np.testing.assert_allclose(wilson(k, n), [centre - half, centre + half], atol=1e-12)


def test_wilson_of_nothing_is_missing() -> None:
    assert np.isnan(wilson(0, 0)).all()


def test_ols_slope() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0])
    assert ols_slope(x, 3 - 2 * x) == -2.0
    assert ols_slope(x, np.array([0.0, np.nan, 2.0, 3.0])) == pytest.approx(1.0)
    assert np.isnan(ols_slope(x, np.array([0.0, np.nan, 2.0, np.nan])))
    y = np.random.default_rng(0).normal(size=4)
    assert ols_slope(x, y) == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-12)

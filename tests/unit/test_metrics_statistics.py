import numpy as np
import pytest
import slow_metrics as slow
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mufree.analysis.metrics.statistics import (
    agreement,
    at_level,
    cross_fitted,
    holm,
    jackknife,
    ols_slope,
    one_sided_p,
    t_interval,
    two_sided_p,
    wilson,
)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_jackknife_of_the_mean_is_the_classical_t_interval(n: int, level: float) -> None:
    values = np.random.default_rng(n).normal(3, 2, n)
    interval = at_level(jackknife(lambda kept: values[kept].mean(), n), level)
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


def test_an_element_of_an_interval_is_the_interval_of_that_element() -> None:
    values = np.random.default_rng(4).normal(size=(5, 3))
    element = jackknife(lambda kept: values[kept].mean(axis=0), 5)[1]
    alone = jackknife(lambda kept: values[kept, 1].mean(), 5)
    assert element.n == 5
    np.testing.assert_allclose(
        [element.estimate, element.low, element.high, element.se], [alone.estimate, alone.low, alone.high, alone.se]
    )


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


def test_another_level_is_the_interval_made_at_that_level() -> None:
    values = np.random.default_rng(0).normal(size=(5, 3))
    mean, se = values.mean(axis=0), stats.sem(values)
    made, changed = t_interval(mean, se, 5, 0.90), at_level(t_interval(mean, se, 5), 0.90)
    np.testing.assert_array_equal([made.low, made.high, made.se], [changed.low, changed.high, changed.se])


def test_p_values_of_a_mean_are_those_of_the_t_test() -> None:
    values = np.random.default_rng(1).normal(0.5, 1, 6)
    interval = jackknife(lambda kept: values[kept].mean(), 6)
    assert two_sided_p(interval) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    for side in ("greater", "less"):
        assert one_sided_p(interval, 0.2, side) == pytest.approx(
            stats.ttest_1samp(values, 0.2, alternative=side).pvalue
        )


def test_p_values_by_hand() -> None:
    # Two seeds, one degree of freedom: Student's t is Cauchy, and its upper tail at 1 is a quarter.
    interval = t_interval([1.0, -1.0, 0.0], 1.0, 2)
    np.testing.assert_allclose(two_sided_p(interval), [0.5, 0.5, 1.0])
    np.testing.assert_allclose(one_sided_p(interval, 0.0, "greater"), [0.25, 0.75, 0.5])
    np.testing.assert_allclose(one_sided_p(interval, 0.0, "less"), [0.75, 0.25, 0.5])


@given(st.floats(-3, 3), st.floats(0.01, 2), st.integers(2, 9), st.floats(0.01, 2))
def test_p_values_agree_with_the_intervals(estimate: float, se: float, n: int, margin: float) -> None:
    interval = t_interval(estimate, se, n)
    ninety = at_level(interval, 0.90)
    assert (two_sided_p(interval, margin) < 0.05) == (not interval.low <= margin <= interval.high)
    assert (one_sided_p(interval, 0.0, "greater") < 0.05) == (ninety.low > 0)
    assert two_sided_p(interval) <= 1


def test_p_values_without_spread_and_without_an_interval() -> None:
    exact = t_interval([0.0, 0.1, -0.1, 0.3], 0.0, 3)
    np.testing.assert_array_equal(two_sided_p(exact), [1, 0, 0, 0])
    np.testing.assert_array_equal(one_sided_p(exact, 0.0, "greater"), [1, 0, 1, 0])
    for unknown in (
        *(t_interval(np.nan, se, 4) for se in (0.0, 1.0)),
        t_interval(1.0, 1.0, 1),
        t_interval(1.0, np.nan, 4),
    ):
        assert np.isnan([two_sided_p(unknown), one_sided_p(unknown, 0.0, "less")]).all()
    with pytest.raises(ValueError, match=r"Unknown side 'up'\. Known: greater, less\."):
        one_sided_p(exact, 0.0, "up")


def test_holm_by_hand() -> None:
    # 0.01·3, 0.02·2, 0.04·1 raised to the one before; the missing one is in nobody's way.
    np.testing.assert_allclose(holm([0.04, 0.01, np.nan, 0.02]), [0.04, 0.03, np.nan, 0.04])
    assert np.isnan(holm([np.nan, np.nan])).all()
    assert holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1) | st.just(np.nan), max_size=9))
def test_holm_against_a_slow_implementation(p_values: list[float]) -> None:
    argument = np.array(p_values)
    np.testing.assert_allclose(holm(argument), slow.holm(p_values), rtol=1e-12)
    np.testing.assert_array_equal(argument, p_values)


def test_cross_fitting_gives_each_seed_to_judge_what_the_others_chose() -> None:
    seen = cross_fitted(lambda others, judged: [others.sum(), *judged], 4)
    assert seen.tolist() == [[6, 0], [5, 1], [4, 2], [3, 3]]
    assert np.isnan(cross_fitted(lambda others, judged: [1.0, 2.0], 1)).tolist() == [[True, True]]


def test_agreement_is_the_share_of_replicates_with_the_same_choice() -> None:
    votes = np.array([0, 0, 1, 1, 1])
    assert agreement(lambda kept: int(votes[kept].mean() > 0.5), 5) == 2 / 5  # a tie once a 1 is dropped
    assert np.isnan(agreement(lambda kept: 1, 1))

"""The mean over tasks: by hand where there is no heterogeneity and where weights are equal, and what it has to satisfy."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t
from test_verdicts import estimate, frame

from mufree.analysis.metrics.pooled import pool
from mufree.analysis.tables.pooled import as_estimates, pooled


def test_tasks_that_agree_are_weighed_by_their_variances() -> None:
    found = pool(np.array([1.0, 1.3]), np.array([0.5, 1.0]))
    assert float(found.mean.estimate) == pytest.approx((4 * 1.0 + 1 * 1.3) / 5)
    # They agree by chance; the interval is no shorter than that of the weights.
    assert float(found.mean.se) == pytest.approx(5**-0.5)
    assert float(found.mean.high - found.mean.estimate) == pytest.approx(t.ppf(0.975, 1) * 5**-0.5)
    assert (found.tau, found.i2) == (0.0, 0.0)


def test_with_equal_errors_tau_is_the_spread_beyond_them() -> None:
    estimates = np.array([0.0, 1.0, 2.0, 5.0])
    found = pool(estimates, np.full(4, 0.5))
    assert float(found.mean.estimate) == pytest.approx(2.0)
    assert found.tau**2 == pytest.approx(estimates.var(ddof=1) - 0.25)
    assert float(found.mean.se) == pytest.approx((estimates.var(ddof=1) / 4) ** 0.5)
    q = ((estimates - 2) ** 2 / 0.25).sum()
    assert found.i2 == pytest.approx(1 - 3 / q)
    assert found.p < 1e-10


def test_a_noisy_task_hardly_counts_and_does_not_hide_that_the_others_differ() -> None:
    found = pool(np.array([0.0, 1.0, 2.0, 50.0]), np.array([0.01, 0.01, 0.01, 100.0]))
    assert float(found.mean.estimate) == pytest.approx(1.0, abs=0.05)
    # Its own share of the three degrees of freedom is 49² / 100², and the others' squares make up the rest.
    assert found.tau**2 == pytest.approx(2 / (3 - 0.49**2), rel=0.01)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0.01, 5)), min_size=2, max_size=6))
def test_the_scatter_is_what_it_should_be_at_tau(tasks: list[tuple[float, float]]) -> None:
    estimates, errors = np.array(tasks).T
    found = pool(estimates, errors)
    assert estimates.min() - 1e-9 <= float(found.mean.estimate) <= estimates.max() + 1e-9
    scatter = ((estimates - float(found.mean.estimate)) ** 2 / (errors**2 + found.tau**2)).sum()
    if found.tau > 1e-6:
        assert scatter == pytest.approx(len(tasks) - 1, rel=1e-3)
    else:
        assert scatter <= (len(tasks) - 1) * (1 + 1e-3)


@pytest.mark.parametrize("errors", [[0.1, 0.0], [0.1, float("nan")]])
def test_an_error_that_is_not_above_0_is_refused(errors: list[float]) -> None:
    with pytest.raises(ValueError, match="errors above 0"):
        pool(np.array([1.0, 2.0]), np.array(errors))
    with pytest.raises(ValueError, match="two estimates"):
        pool(np.array([1.0]), np.array([0.1]))


def row(task: str, value: float, se: float = 0.02, statistic: str = "drift", **other: object) -> dict[str, object]:
    return estimate(statistic, "mup_adamw", value, se, task=task, **other)


def test_a_table_has_the_mean_of_what_three_tasks_have_at_their_largest_widths() -> None:
    rows = [row(task, 0.1 * i) for i, task in enumerate("abc")]
    rows += [row(task, 1.0, statistic="regret_cf", width=w) for task, w in (("a", 8), ("a", 16), ("b", 8), ("c", 64))]
    rows += [row(task, 2.0, statistic="drift_range") for task in "ab"]
    rows += [row(task, 2.0, statistic="best_loss", width=w) for task, w in (("a", 16), ("b", 8), ("c", 64))]
    table = pooled(frame(*rows)).set_index("statistic")
    assert table["n_tasks"].to_dict() == {
        "drift": 3,
        "regret_cf": 3,
    }  # two tasks are too few; a level has no mean over tasks
    assert table["at"].to_dict() == {"drift": "", "regret_cf": "largest"}
    mean = pool(np.array([0.0, 0.1, 0.2]), np.full(3, 0.02)).mean
    assert table.loc["drift", ["estimate", "low", "high"]].tolist() == pytest.approx(
        [float(mean.estimate), float(mean.low), float(mean.high)]
    )
    again = as_estimates(table.reset_index(), "all")
    assert set(again["task"]) == {"all"}
    assert again["n_seeds"].tolist() == [3, 3]


@pytest.mark.parametrize(
    "change", [{"se": float("nan")}, {"n_seeds": 2}, {"estimate": float("nan"), "status": "not_estimable"}]
)
def test_a_task_without_an_error_is_left_out_and_named(change: dict[str, object]) -> None:
    rows = [row(task, 0.1 * i) for i, task in enumerate("abc")]
    table = pooled(frame(*rows, row("d", 9.0) | change))
    assert (table["n_tasks"].tolist(), table["left_out"].tolist()) == ([3], ["d"])


def test_without_three_tasks_the_table_is_empty_with_its_columns() -> None:
    table = pooled(frame(row("a", 0.1)))
    assert table.empty
    assert "p_same" in table
    assert isinstance(table, pd.DataFrame)


def test_with_a_task_whose_error_is_0_there_is_no_mean_of_the_others() -> None:
    rows = [row(task, 0.1 * i) for i, task in enumerate("abc")]
    assert len(pooled(frame(*rows))) == 1
    assert pooled(frame(*rows, row("d", 0.0, 0.0))).empty

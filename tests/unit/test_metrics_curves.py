"""Smoothness of a curve, medians over a curve, Adam's ε, and equality of two runs."""

import numpy as np
import pandas as pd
import pytest
from surfaces import make_curve

from mufree.analysis.metrics.dynamics import epsilon_ratio, medians_after_warmup, same_bits, width_slope
from mufree.analysis.metrics.stability import excess_variation
from mufree.study.limits import EPSILON_FLAG


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([4.0, 3.0, 2.0, 2.0], 0.0),
        ([4.0, 2.0, 3.0, 2.0], 0.5),
        ([4.0, 5.0, 3.0, 3.5], 3.0),
        ([2.0, 1.0, 2.0], np.nan),
        ([1.0, 2.0], np.nan),
        ([2.0, 1.0], 0.0),
        ([2.0, np.inf, 1.0], np.nan),
        ([2.0, np.nan, 1.0], np.nan),
        ([2.0], np.nan),
        ([], np.nan),
    ],
)
def test_excess_variation_is_all_rises_over_the_net_fall(losses: list[float], expected: float) -> None:
    np.testing.assert_equal(excess_variation(np.array(losses)), expected)


def test_excess_variation_does_not_change_with_scale_and_shift() -> None:
    losses = 2.0 ** -np.arange(8) + np.array([0, 0.25, 0, 0.125, 0, 0, 0.0625, 0])
    assert excess_variation(losses) == excess_variation(4 * losses + 8) > 0


def test_medians_are_over_the_steps_after_warm_up_of_the_runs_asked_for() -> None:
    curves = pd.concat(
        [
            make_curve("b", "grad_rms", [5, 10, 15, 20], [9.0, 9.0, 1.0, 3.0], "hidden"),
            make_curve("a", "grad_rms", [5, 10, 15, 20], [9.0, 1.0, 5.0, 2.0], "hidden"),
            make_curve("a", "weight_rms", [10], [0.5], "norm"),
            make_curve("a", "train_loss", [10, 15], [7.0, 7.0]),
            make_curve("c", "grad_rms", [10, 15], [7.0, 7.0], "hidden"),
        ]
    )
    medians = medians_after_warmup(curves, pd.Series({"b": 10, "a": 5}))
    assert medians.columns.tolist() == ["run_id", "layer", "quantity", "median"]
    assert medians.to_numpy().tolist() == [
        ["a", "hidden", "grad_rms", 2.0],
        ["a", "norm", "weight_rms", 0.5],
        ["b", "hidden", "grad_rms", 2.0],
    ]


def test_width_slope_is_the_power_of_the_width() -> None:
    w = np.arange(4.0)
    medians = 3e-3 * 2.0 ** (-0.5 * w)[:, None] * np.array([1.0, 2.0])
    assert width_slope(w, medians) == pytest.approx(-0.5)


@pytest.mark.parametrize("bad", [np.nan, 0.0])
def test_a_width_with_a_run_that_has_no_median_is_left_out(bad: float) -> None:
    w = np.arange(4.0)
    medians = np.tile(2.0**-w, (2, 1)).T
    medians[3] = [bad, 1e9]
    assert width_slope(w, medians) == pytest.approx(-1.0)
    medians[2, 0] = bad
    assert np.isnan(width_slope(w, medians))


def test_same_bits() -> None:
    a = np.array([1.0, np.nan, np.nan, 0.0, np.inf, 1.0])
    b = np.array([1.0, np.nan, 1.0, -0.0, np.inf, np.nextafter(1.0, 2.0)])
    assert same_bits(a, b).tolist() == [True, True, False, False, True, False]


def test_epsilon_ratio() -> None:
    ratios = epsilon_ratio(1e-8, np.array([1e-8, 1e-6, 0.0, np.nan]))
    np.testing.assert_allclose(ratios, [1.0, 0.01, np.inf, np.nan])
    assert (ratios > EPSILON_FLAG).tolist() == [True, False, True, False]
    assert np.isnan(epsilon_ratio(0.0, 0.0))

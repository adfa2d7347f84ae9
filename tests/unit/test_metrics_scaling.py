"""Fast transfer and scaling laws, on surfaces whose answers are known by construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from surfaces import make_surface, parabolas

from mufree.analysis.metrics.scaling import (
    NO_LAW,
    curvature_slope,
    fit_power_law,
    handed_on,
    limit_penalty,
    loss_law,
    rate_fit_error,
    robustness_exponent,
    share_exponent,
    share_trend,
    shares_at_the_widest,
)
from mufree.analysis.metrics.surface import Surface, grid_argmin

W = np.arange(4.0)
"""log2 of the widths 32, 64, 128, 256 over the first."""

STEEP = parabolas([-8, -9, -10, -11], floors=[2.0, 1.5, 1.25, 1.125], curvature=0.05)


def valleys(curvatures: Sequence[float], floors: Sequence[float] | None = None) -> Surface:
    """Parabolas around −8 with one curvature a width, nats per doubling²."""
    x = np.arange(-11.0, -4)
    floor = np.ones(len(curvatures)) if floors is None else np.asarray(floors)
    loss = floor[:, None] + np.asarray(curvatures)[:, None] * (x + 8) ** 2
    return make_surface(np.repeat(loss[:, :, None], 2, axis=2), log2_lrs=x)


def sharing(shares: Sequence[float]) -> Surface:
    """Widths 32 to 256 whose best losses are 1 + 2^−w, and whose rates cost these shares of the gain at the widest."""
    floors = 1 + 2.0**-W
    lost = np.array([*shares, 0.0]) * (floors - floors[-1])
    optima = -8 - np.sqrt(lost / 0.05)
    return parabolas(list(optima), log2_lrs=sorted(set(optima)), floors=list(floors), curvature=0.05)


# --- handing a rate on -----------------------------------------------------------------------------------------------


def test_what_base_widths_rate_costs_is_set_against_what_widening_bought() -> None:
    lost, gain, share = handed_on(STEEP, 0, int(grid_argmin(STEEP)[0]))
    np.testing.assert_allclose(lost, [0, 0.05, 0.2, 0.45], atol=1e-12)
    np.testing.assert_allclose(gain, [0, 0.5, 0.75, 0.875])
    np.testing.assert_allclose(share, [np.nan, 0.1, 0.2 / 0.75, 0.45 / 0.875])


@pytest.mark.parametrize("base_width", [32, 256])
def test_any_width_can_be_the_source_whichever_is_the_base(base_width: int) -> None:
    """The base width's regret is 0 by definition, but not where the rate comes from another width."""
    surface = replace(STEEP, base_width=base_width)
    rates = grid_argmin(surface)
    np.testing.assert_allclose(handed_on(surface, 2, int(rates[2]))[:, 3], [0.05, 0.125, 0.4])
    np.testing.assert_allclose(shares_at_the_widest(surface, rates), [0.45 / 0.875, 0.2 / 0.375, 0.05 / 0.125])


def test_the_rate_is_the_one_given_and_not_chosen_anew() -> None:
    given = int(np.flatnonzero(STEEP.log2_lrs == -12)[0])
    assert handed_on(STEEP, 0, given)[0, 3] == pytest.approx(0.05)


def test_there_is_no_share_of_nothing() -> None:
    level = parabolas([-8, -9, -10], floors=[1.0, 1.0, 1.2])
    assert np.isnan(handed_on(level, 0, int(grid_argmin(level)[0]))[2]).all()
    assert np.isnan(share_trend(level, grid_argmin(level)))
    assert np.isnan(share_exponent(level, grid_argmin(level)))


# --- how the share goes with width -----------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [-1.0, -0.5, 0.0, 0.5])
def test_the_exponent_of_the_share_is_the_one_built_in(exponent: float) -> None:
    shares = 0.1 * 2 ** (exponent * W[:3])
    surface = sharing(shares)
    rates = grid_argmin(surface)
    np.testing.assert_allclose(shares_at_the_widest(surface, rates), shares)
    assert share_exponent(surface, rates) == pytest.approx(exponent, abs=1e-9)
    assert share_trend(surface, rates) == pytest.approx((shares[2] - shares[0]) / 2, abs=1e-9)


def test_a_share_of_zero_has_a_trend_and_no_exponent() -> None:
    surface = sharing([0.2, 0.1, 0.0])
    assert share_trend(surface, grid_argmin(surface)) == pytest.approx(-0.1)
    assert np.isnan(share_exponent(surface, grid_argmin(surface)))


def test_a_share_below_zero_is_not_left_out_of_the_exponent() -> None:
    """At the widest, 128's rate is 0.03 better for one seed and 0.01 worse for two: the rival is chosen on the others."""
    surface = sharing([0.2, 0.1, 0.05])
    near, best = grid_argmin(surface)[2:]
    loss = surface.loss.copy()
    loss[3, near] = loss[3, best] + np.array([-0.03, 0.01, 0.01])
    noisy = replace(surface, loss=loss)
    rates = grid_argmin(noisy)
    lost, gain, share = handed_on(noisy, 2, int(near))[:, 3]
    assert lost == pytest.approx((-0.03 + 0 + 0) / 3)
    assert share == pytest.approx(-0.01 / gain)
    assert (shares_at_the_widest(noisy, rates)[:2] > 0).all()
    assert np.isnan(share_exponent(noisy, rates))
    assert np.isfinite(share_trend(noisy, rates))


def test_two_narrower_widths_make_no_slope() -> None:
    surface = sharing([0.3, 0.2, 0.1]).at_widths(np.array([32, 64, 256]))
    assert np.isnan(share_trend(surface, grid_argmin(surface)))
    assert np.isnan(share_exponent(surface, grid_argmin(surface)))


# --- E and the curvature ---------------------------------------------------------------------------------------------


def test_the_error_of_the_rates_line_by_hand() -> None:
    """−8, −7, −8: the line is level at −7⅔, residuals −⅓, ⅔, −⅓, and one degree of freedom is left."""
    assert rate_fit_error(parabolas([-8, -7, -8])) == pytest.approx(np.sqrt(6 / 9))
    assert rate_fit_error(parabolas([-8, -8.5, -9, -9.5])) == pytest.approx(0, abs=1e-9)


def test_the_error_does_not_see_the_drift_and_counts_doublings_of_width() -> None:
    bent = parabolas([-8, -7, -8], widths=(32, 128, 512))
    assert rate_fit_error(bent) == pytest.approx(np.sqrt(6 / 9))
    uneven = parabolas([-8, -9, -11], widths=(32, 64, 256))
    assert rate_fit_error(uneven) == pytest.approx(0, abs=1e-9)


def test_censored_widths_are_left_out_of_the_error() -> None:
    rates = range(-10, -4)
    assert rate_fit_error(parabolas([-7, -7.5, -8, -11], log2_lrs=rates)) == pytest.approx(0, abs=1e-9)
    assert np.isnan(rate_fit_error(parabolas([-7, -7.5, -12, -11], log2_lrs=rates)))


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 1.0])
def test_the_slope_of_the_curvature_is_the_one_built_in(exponent: float) -> None:
    assert curvature_slope(valleys(0.05 * 2 ** (exponent * W))) == pytest.approx(exponent, abs=1e-9)


def test_two_curvatures_make_no_slope() -> None:
    assert np.isnan(curvature_slope(valleys([0.05, 0.1])))


# --- the power law of the loss ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [(1.2, 0.8, 0.5), (0.0, 2.0, 0.2), (3.0, 0.1, 2.0)])
@pytest.mark.parametrize("w", [W, np.arange(-1.0, 5), np.array([0.0, 1, 3, 4])])
def test_a_power_law_without_noise_comes_back(law: tuple[float, float, float], w: np.ndarray) -> None:
    limit, gain, exponent = law
    found = fit_power_law(w, limit + 1e-9 + gain * 2 ** (-exponent * w))
    np.testing.assert_allclose(found, law, rtol=1e-5, atol=1e-6)


def test_no_law_near_the_fitted_one_is_closer_to_noisy_losses() -> None:
    rng = np.random.default_rng(0)
    w = np.arange(6.0)
    losses = 1.2 + 0.8 * 2 ** (-0.7 * w) + rng.normal(0, 0.01, 6)

    def squares(limit: float, gain: float, exponent: float) -> float:
        return float(((losses - limit - gain * 2 ** (-exponent * w)) ** 2).sum())

    found = fit_power_law(w, losses)
    others = np.asarray(found) + rng.normal(0, 1, (500, 3)) * 10.0 ** rng.uniform(-5, -1, (500, 1))
    assert found.exponent != pytest.approx(0.7, abs=1e-3), "noise moves the best law"
    assert min(squares(*other) for other in others) >= squares(*found)


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param(2.0 - 0.3 * W, id="a fall along a line has no limit"),
        pytest.param(2.0 - 0.1 * W**2, id="nor has one that becomes steeper"),
        pytest.param(1.0 + 0.1 * W, id="wider is worse"),
        pytest.param(2.0 - 2.0**-W, id="wider is worse, and slows down"),
        pytest.param(np.array([2.0, 1.0, 1.0, 1.0]), id="the limit is there at once"),
        pytest.param(-0.5 + 2 * 2 ** (-0.5 * W), id="the limit lies below 0"),
        pytest.param((1.2 + 2.0**-W)[:3], id="three losses"),
        pytest.param(np.array([2.2, np.nan, 1.45, 1.325]), id="three losses that are known"),
    ],
)
def test_losses_that_tell_no_limit_have_no_law(losses: np.ndarray) -> None:
    assert np.isnan(fit_power_law(W[: len(losses)], losses)).all()
    assert np.isnan(NO_LAW).all()


def test_the_same_fall_above_zero_has_a_law() -> None:
    assert fit_power_law(W, 0.5 + 2 * 2 ** (-0.5 * W)).limit == pytest.approx(0.5, rel=1e-5)


def test_kappa_is_the_sum_of_both_exponents() -> None:
    """What an error of a doubling costs, 0.05·2^(w/4), over what is left to gain, 2^(−w/2), goes as 2^(3w/4)."""
    surface = valleys(0.05 * 2 ** (0.25 * W), floors=list(1.2 + 2 ** (-0.5 * W)))
    assert loss_law(surface).exponent == pytest.approx(0.5, rel=1e-5)
    assert robustness_exponent(surface) == pytest.approx(0.75, rel=1e-5)
    assert np.isnan(robustness_exponent(valleys(0.05 * 2 ** (0.25 * W)))), "no fall, so no law"


def test_the_penalty_is_the_difference_of_the_limits_over_the_widths_that_both_have() -> None:
    sp = parabolas([-8] * 4, floors=list(1.5 + 2 ** (-0.5 * W)))
    mup = parabolas([-8] * 5, widths=(32, 64, 128, 256, 512), floors=[*(1.2 + 2.0**-W), 3.0])
    assert limit_penalty(sp, mup) == pytest.approx(0.3, rel=1e-5)
    assert np.isnan(loss_law(mup).limit), "with its fifth width µP would have no limit"
    assert np.isnan(limit_penalty(sp, parabolas([-8] * 3, floors=list(1.2 + 2.0 ** -W[:3]))))

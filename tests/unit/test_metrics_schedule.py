"""Horizons stand where widths do: a surface's widths are steps here."""

from collections.abc import Callable

import numpy as np
import pytest
import slow_metrics as slow
from surfaces import START, make_surface, parabolas, random_surface

from mufree.analysis.metrics.schedule import anytime_gaps_cf, premium_cf
from mufree.analysis.metrics.surface import Surface
from mufree.analysis.metrics.transfer import drift, regret_held, transferred_rate

STEPS = (32, 64, 128)


def test_horizon_drift_is_in_doublings_per_doubling_of_the_horizon() -> None:
    surface = parabolas([-8, -8.5, -9], widths=(100, 200, 400))
    assert drift(surface) == pytest.approx(-0.5, abs=1e-9)
    assert np.isnan(drift(parabolas([-8, -8.5], widths=(100, 200))))


def test_horizon_regret_is_that_of_the_shortest_horizons_rate_at_the_longest() -> None:
    surface = parabolas([-8, -9, -10], curvature=0.05)
    rate = transferred_rate(surface)
    assert regret_held(surface, rate)[-1] == pytest.approx(0.05 * 4)
    assert np.isnan(regret_held(surface.keep(np.array([0])), rate)[-1])


def test_the_schedule_free_run_is_tuned_once_and_its_rival_at_each_horizon() -> None:
    # Tuned at the last horizon, where −9 is best, although −10 would be better at the first.
    free = make_surface([[[1.0] * 2, [1.5] * 2], [[0.9] * 2, [1.0] * 2], [[0.8] * 2, [0.5] * 2]])
    rival = make_surface([[[1.2] * 2, [1.3] * 2], [[1.1] * 2, [0.9] * 2], [[0.7] * 2, [0.6] * 2]])
    np.testing.assert_allclose(anytime_gaps_cf(free, rival), [1.5 - 1.2, 1.0 - 0.9, 0.5 - 0.6])


def test_cross_fitted_gaps_by_hand() -> None:
    # Seed 0 prefers rate −10 and seed 1 rate −9, on both sides; so each is judged where the other is best.
    free = make_surface([[[1.0, 2.0], [2.0, 1.0]]])
    rival = make_surface([[[1.0, 1.2], [1.1, 1.0]]])
    np.testing.assert_allclose(anytime_gaps_cf(free, rival), [((2.0 - 1.1) + (2.0 - 1.2)) / 2])


def test_a_rate_that_diverged_later_costs_the_start_where_it_is_judged() -> None:
    # Without seed 1, rate −9 is free of divergence at the end and wins; seed 1 then diverges there at the last horizon.
    died = [[[False, False]] * 2, [[False, False], [False, True]]]
    free = make_surface([[[1.0] * 2, [0.5] * 2], [[0.9] * 2, [0.4] * 2]], diverged=died)
    rival = make_surface([[[1.0] * 2, [1.0] * 2]] * 2)
    kept = [1.0 - 1.0, 0.9 - 1.0]  # without seed 0 rate −10 is chosen
    np.testing.assert_allclose(anytime_gaps_cf(free, rival), np.mean([kept, [0.5 - 1.0, START - 1.0]], axis=0))


def test_gaps_are_missing_where_a_side_has_no_rate() -> None:
    fine = make_surface([[[1.0] * 3] * 2] * 2)
    no_start = make_surface([[[1.0] * 3] * 2] * 2, diverged=[[[True] * 3] * 2, [[False] * 3] * 2])
    no_end = make_surface([[[1.0] * 3] * 2] * 2, diverged=[[[False] * 3] * 2, [[True] * 3] * 2])
    assert np.isnan(anytime_gaps_cf(fine, no_start)).tolist() == [True, False]
    assert np.isnan(anytime_gaps_cf(no_end, fine)).all(), "it is tuned at the end"
    one = np.array([0])
    assert np.isnan(anytime_gaps_cf(fine.keep(one), fine.keep(one))).all()
    assert np.isnan(premium_cf(fine.keep(one), fine.keep(one))).all()
    assert np.isnan(premium_cf(no_start, fine)).tolist() == [True, False]


def test_a_method_has_no_gap_to_itself_at_the_horizon_it_was_tuned_at() -> None:
    for seed in range(10):
        surface = random_surface(np.random.default_rng(seed))
        gaps, known = anytime_gaps_cf(surface, surface), ~np.isnan(anytime_gaps_cf(surface, surface))
        assert gaps[-1] == 0
        assert (premium_cf(surface, surface)[known] == 0).all()


def test_premium_by_hand() -> None:
    constant = make_surface([[[1.2, 1.4], [1.3, 1.0]]])
    scheduled = make_surface([[[1.0, 1.0], [2.0, 2.0]]])
    np.testing.assert_allclose(premium_cf(constant, scheduled), [(0.3 + 0.4) / 2])


@pytest.mark.parametrize("seed", range(20))
def test_against_a_slow_implementation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (random_surface(rng, seeds=3, holes=seed % 2 == 1) for _ in range(2))
    slow_a, slow_b = slow.to_grid(a), slow.to_grid(b)
    expected = [slow.anytime_gap(slow_a, slow_b, h, 3) for h in range(4)]
    np.testing.assert_allclose(anytime_gaps_cf(a, b), expected, atol=1e-12)
    expected = [slow.premium(slow_a, slow_b, k) for k in range(4)]
    np.testing.assert_allclose(premium_cf(a, b), expected, atol=1e-12)


@pytest.mark.parametrize("metric", [anytime_gaps_cf, premium_cf])
def test_surfaces_that_cannot_be_paired_are_refused(metric: Callable[[Surface, Surface], object]) -> None:
    three = parabolas([-8, -8, -8], widths=STEPS)
    with pytest.raises(ValueError, match=r"\[32, 64, 128\] and \[32, 64\] differ"):
        metric(three, parabolas([-8, -8], widths=STEPS))
    with pytest.raises(ValueError, match="3 and 2 seeds can't be paired"):
        metric(three, three.keep(np.array([0, 1])))

import numpy as np
import pytest
import slow_metrics as slow
from numpy.typing import NDArray
from surfaces import START, make_surface, parabolas, random_surface

from mufree.analysis.metrics.stability import (
    basin,
    best_loss,
    common_offsets,
    count_spikes,
    diverged_fraction,
    headroom,
    learnt_nothing,
    lr_sensitivity,
    lr_sensitivity_normalised,
    max_stable_log2_lr,
    spike_window,
    window,
)
from mufree.analysis.metrics.surface import Surface, optima


def offsets_of(*surfaces: Surface) -> list[float]:
    return common_offsets((surface, optima(surface)) for surface in surfaces).tolist()


def test_the_common_window_is_the_widest_that_every_cell_has_around_its_own_argmin() -> None:
    wide = parabolas([-8, -9], log2_lrs=range(-14, -3))  # −6 … +4 and −5 … +5
    low = parabolas([-8], log2_lrs=range(-10, -2))  # −2 … +5
    assert offsets_of(wide) == [-5, -4, -3, -2, -1, 0, 1, 2, 3, 4]
    assert offsets_of(wide, low) == [-2, -1, 0, 1, 2, 3, 4]


def test_censored_cells_neither_narrow_the_window_nor_have_one() -> None:
    surface = parabolas([-8, -20], log2_lrs=range(-11, -5))
    offsets = common_offsets([(surface, optima(surface))])
    assert offsets.tolist() == [-3, -2, -1, 0, 1, 2]
    rates = window(surface, optima(surface), offsets)
    assert rates.sum(axis=1).tolist() == [6, 0]
    assert offsets_of(parabolas([-20])) == []


def test_the_window_moves_with_the_optimum() -> None:
    surface = parabolas([-8, -9], log2_lrs=range(-12, -4))
    rates = window(surface, optima(surface), np.array([-1.0, 0.0, 1.0, 2.0]))
    assert [surface.log2_lrs[here].tolist() for here in rates] == [[-9, -8, -7, -6], [-10, -9, -8, -7]]


def test_the_window_holds_rates_that_all_cells_have_also_on_uneven_grids() -> None:
    even = parabolas([-8], log2_lrs=range(-12, -4))
    coarse = parabolas([-8], log2_lrs=(-12, -10, -8, -6))
    assert offsets_of(even, coarse) == [-4, -2, 0, 2]


def test_sensitivity_by_hand_counts_no_run_worse_than_not_training() -> None:
    # Means of min(L, 4): 3, 1, (2 + 4)/2, 4; the best mean is 1.
    surface = make_surface(
        [[[3, 3], [1, 1], [2, 0], [9, 5]]], diverged=[[[False] * 2, [False] * 2, [False, True], [False] * 2]]
    )
    everything = np.ones((1, 4), bool)
    np.testing.assert_allclose(lr_sensitivity(surface, everything), [(3 + 1 + 3 + 4) / 4 - 1])
    np.testing.assert_allclose(lr_sensitivity_normalised(surface, everything), [1.75 / (START - 1)])
    np.testing.assert_allclose(lr_sensitivity(surface, np.array([[True, True, False, False]])), [1.0])


def test_sensitivity_of_a_parabola() -> None:
    surface = parabolas([-8, -9], curvature=0.02)
    rates = window(surface, optima(surface), np.arange(-3.0, 4.0))
    np.testing.assert_allclose(lr_sensitivity(surface, rates), [0.02 * 28 / 7] * 2)


def test_normalised_sensitivity_is_one_where_only_one_rate_trains() -> None:
    surface = make_surface([[[7.0], [1.0], [7.0]]])
    others = np.array([[True, False, True]])
    np.testing.assert_allclose(lr_sensitivity_normalised(surface, others), [1.0])


def test_sensitivity_is_missing_without_a_window_or_an_optimum() -> None:
    surface = make_surface([[[2.0], [1.0]], [[2.0], [1.0]]], diverged=[[[False], [False]], [[True], [True]]])
    rates = np.array([[False, False], [True, True]])
    assert np.isnan(lr_sensitivity(surface, rates)).all()
    assert np.isnan(best_loss(surface)).tolist() == [False, True]
    assert np.isnan(lr_sensitivity_normalised(make_surface([[[6.0], [5.0]]]), rates[1:])).all(), "nothing was learnt"


@pytest.mark.parametrize(
    ("diverged", "largest"),
    [
        ([[0, 0], [0, 0], [0, 0]], -8),
        ([[0, 0], [0, 0], [0, 1]], -9),
        ([[0, 0], [1, 0], [0, 0]], -10),  # a stable rate above one that diverged does not count
        ([[0, 1], [0, 0], [0, 0]], np.nan),
    ],
)
def test_the_largest_stable_rate(diverged: list[list[int]], largest: float) -> None:
    surface = make_surface(np.ones((1, 3, 2)), diverged=[diverged])
    np.testing.assert_array_equal(max_stable_log2_lr(surface), [largest])


def test_the_largest_stable_rate_is_one_that_was_run() -> None:
    surface = make_surface(np.ones((2, 3, 1)), ran=[[True, True, False], [False, True, True]])
    assert max_stable_log2_lr(surface).tolist() == [-9, -8]


def test_headroom_is_from_the_fitted_optimum_and_missing_where_that_is_censored() -> None:
    surface = parabolas([-8.25, -30], cliff=2.5, log2_lrs=range(-12, -3))
    np.testing.assert_allclose(headroom(surface), [-6 + 8.25, np.nan])


def test_diverged_fraction_is_over_runs() -> None:
    surface = make_surface(np.ones((2, 3, 2)), diverged=[[[0, 0], [0, 1], [1, 1]], [[0, 0]] * 3])
    rates = np.array([[False, True, True], [False] * 3])
    np.testing.assert_array_equal(diverged_fraction(surface, rates), [0.75, np.nan])


def test_basin_by_hand() -> None:
    # Best 1 at −8; the limit is 2. To the left it is crossed half way from 1.5 to 2.5, to the right a quarter from 1 to 5.
    surface = make_surface([[[3.0], [2.5], [1.5], [1.0], [5.0], [9.0]]], log2_lrs=[-11, -10, -9, -8, -7, -6])
    found = basin(surface, tolerance=1.0)
    np.testing.assert_allclose([found.low, found.high, found.width], [[-9.5], [-7.75], [1.75]])
    assert found.censored == [""]


def test_basin_of_a_parabola_is_wider_by_less_than_a_chord_hides() -> None:
    exact = 2 * (0.02 / 0.01) ** 0.5
    fine = basin(parabolas([-8], curvature=0.01, log2_lrs=np.arange(-12, -4, 1 / 64)))
    np.testing.assert_allclose(fine.width, [exact], atol=1e-3)
    assert basin(parabolas([-8], curvature=0.04)).width == pytest.approx(1.0), "half way to the neighbours, 0.04 up"


@pytest.mark.parametrize(
    ("losses", "ends", "censored"),
    [
        ([1.0, 1.0, 3.0], (-10, -8.5), "low"),
        ([3.0, 1.0, 1.5], (-9.5, -8), "high"),
        ([1.5, 1.0, 1.5], (-10, -8), "both"),
        ([1.0, 3.0, 1.0], (-10, -9.5), "low"),  # a second valley does not count
        ([2.0, 1.0, 2.0], (-10, -8), "both"),  # at the limit is inside
        ([1.0], (-10, -10), "both"),
    ],
)
def test_a_basin_ends_at_the_grid_and_says_so(losses: list[float], ends: tuple[float, float], censored: str) -> None:
    found = basin(make_surface([[[loss] for loss in losses]]), tolerance=1.0)
    np.testing.assert_allclose([found.low[0], found.high[0]], ends)
    assert found.censored == [censored]


def test_a_diverged_neighbour_ends_the_basin_and_is_no_edge() -> None:
    died = [[[False, False]] * 2 + [[False, True]]]
    found = basin(make_surface([[[3.0] * 2, [1.0] * 2, [1.0] * 2]], diverged=died), tolerance=0.5)
    # One of two seeds costs 4 at the start: the mean rises from 1 to 2.5.
    np.testing.assert_allclose([found.low[0], found.high[0]], [-9.25, -9 + 0.5 / 1.5])
    assert found.censored == [""]


def test_a_basin_crosses_rates_that_were_not_run_and_is_missing_without_an_optimum() -> None:
    surface = make_surface(
        [[[1.0], [0.0], [3.0]], [[0.0], [9.0], [2.0]]],
        diverged=[[[True]] * 3, [[False]] * 3],
        ran=[[True] * 3, [True, False, True]],
    )
    found = basin(surface, tolerance=1.0)
    np.testing.assert_allclose([found.low, found.high], [[np.nan, -10], [np.nan, -9]])
    assert found.censored == ["", "low"]
    assert np.isnan(found.width).tolist() == [True, False]


@pytest.mark.parametrize("seed", range(20))
def test_basin_against_a_slow_implementation(seed: int) -> None:
    surface = random_surface(np.random.default_rng(seed), seeds=1 + seed % 4, holes=seed % 2 == 1)
    found, grid = basin(surface, 0.3), slow.to_grid(surface)
    for k in range(4):
        low, high, censored = slow.basin(grid, k, surface.log2_lrs.tolist(), 0.3)
        np.testing.assert_allclose([found.low[k], found.high[k]], [low, high], rtol=1e-12)
        assert found.censored[k] == censored


@pytest.mark.parametrize(
    ("steps", "points"), [(1, 50), (509, 50), (600, 60), (4999, 499), (10_000, 1000), (10**6, 1000)]
)
def test_the_spike_window_is_a_tenth_within_bounds(steps: int, points: int) -> None:
    assert spike_window(steps) == points


def test_spikes_by_hand() -> None:
    # Before each judged point, 4 points of mean 1 and variance 4/3·0.01; 7 deviations are 0.80829.
    before = [0.9, 1.1, 0.9, 1.1]
    assert count_spikes(np.array([*before, 1.8082]), 4) == (0, 1)
    assert count_spikes(np.array([*before, 1.8083]), 4) == (1, 1)
    assert count_spikes(np.array([*before, 1.24]), 4, threshold=2.0) == (1, 1)
    assert count_spikes(np.array([*before, -9.0]), 4) == (0, 1), "upward only"
    # The spike is in the windows of the next four points, which it makes blind.
    assert count_spikes(np.array([*before, 5.0, 5.0, 1.0]), 4) == (1, 3)


def spike_score(series: NDArray[np.float64], window: int) -> float:
    spikes, points = count_spikes(series, window)
    return spikes / points if points else np.nan


def test_a_point_that_its_own_window_held_could_not_spike() -> None:
    series = np.zeros(51)
    series[:50:2], series[50] = 1.0, 1e9
    assert spike_score(series, 50) == 1.0
    own = series[1:]
    assert (own[-1] - own.mean()) / own.std(ddof=1) < 7, "whatever its height: 49/√50"


def test_the_first_points_are_not_judged_and_a_short_series_has_no_score() -> None:
    assert count_spikes(np.array([0.0, 9.0, 0.0, 9.0]), 4) == (0, 0)
    assert np.isnan(spike_score(np.array([0.0, 9.0, 0.0, 9.0]), 4))
    assert spike_score(np.array([0.0, 1.0, 0.0, 1.0, 99.0, 0.0]), 4) == 0.5


def test_a_constant_series_has_no_spikes_and_a_step_up_from_it_is_one() -> None:
    assert spike_score(np.full(200, 0.1), 50) == 0.0
    assert count_spikes(np.array([0.5] * 50 + [0.6]), 50) == (1, 1)


def test_points_that_are_not_finite_are_left_out() -> None:
    series = np.array([0.9, np.nan, 1.1, 0.9, np.inf, 1.1, 9.0, np.nan])
    assert count_spikes(series, 4) == (1, 1)


def test_a_window_of_one_point_is_refused() -> None:
    with pytest.raises(ValueError, match="A window of 1 points has no standard deviation"):
        count_spikes(np.ones(9), 1)


@pytest.mark.parametrize("seed", range(10))
def test_spikes_against_a_slow_implementation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    series = rng.standard_t(2, 300)
    series[[70, 71, 250]] += 40
    series[rng.random(300) < 0.02] = np.nan
    found = count_spikes(series, 50, 4.0)
    assert found == slow.count_spikes(series.tolist(), 50, 4.0)
    assert 0 < found[0] < found[1] < 250


def test_a_run_at_the_loss_that_it_started_with_learnt_nothing_unless_it_diverged() -> None:
    start = np.full(5, 2.3)
    end = np.array([2.2999, 2.2899, 1.5, 2.3001, np.nan])
    diverged = np.array([False, False, False, True, True])
    assert learnt_nothing(start, end, diverged).tolist() == [True, False, False, False, False]

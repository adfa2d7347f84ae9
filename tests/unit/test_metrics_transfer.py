import math

import numpy as np
import pytest
import slow_metrics as slow
from numpy.typing import NDArray
from surfaces import START, make_surface, parabolas, random_surface

from mufree.analysis.metrics.statistics import jackknife
from mufree.analysis.metrics.surface import Surface
from mufree.analysis.metrics.transfer import (
    count_worse,
    drift,
    kendall_tau,
    optimum_positions,
    rate_ratio_slope,
    rate_ratios,
    regret,
    regret_cf,
    regret_held,
    seed_deviation,
    share_of_gain,
    transfer_error_max,
    transfer_error_mean,
    transfer_error_pairs,
    transfer_errors,
    transferred_rate,
)

Grid = dict[tuple[int, int, int], tuple[float, bool]]
"""(width, rate, seed) → (loss, diverged), the same surface for the slow way."""


def slow_grid(surface: Surface) -> Grid:
    ran = ~np.isnan(surface.initial_loss)
    return {
        (k, j, s): (float(surface.loss[k, j, s]), bool(surface.diverged[k, j, s]))
        for k, j, s in np.ndindex(*ran.shape)
        if ran[k, j, s]
    }


def slow_means(grid: Grid, k: int, seeds: list[int]) -> dict[int, float]:
    """Mean loss by rate, of the rates where none of the seeds diverged."""
    rates = sorted({j for kk, j, _ in grid if kk == k})
    cells = {j: [grid[k, j, s] for s in seeds] for j in rates}
    return {j: sum(loss for loss, _ in c) / len(c) for j, c in cells.items() if not any(died for _, died in c)}


def slow_argmin(grid: Grid, k: int, seeds: list[int]) -> int | None:
    means = slow_means(grid, k, seeds)
    return min(means, key=lambda j: (means[j], j)) if means else None


def slow_regret_cf(grid: Grid, k: int, seeds: list[int]) -> float:
    differences = []
    for s in seeds:
        others = [other for other in seeds if other != s]
        if not others:
            return math.nan
        transferred, own = slow_argmin(grid, 0, others), slow_argmin(grid, k, others)
        if transferred is None or own is None or (k, transferred, s) not in grid:
            return math.nan
        costs = [START if died else loss for loss, died in (grid[k, transferred, s], grid[k, own, s])]
        differences.append(costs[0] - costs[1])
    return sum(differences) / len(differences)


def slow_drift(grid: Grid, seeds: list[int]) -> float:
    points = []
    for k in sorted({k for k, _, _ in grid}):
        means, argmin = slow_means(grid, k, seeds), slow_argmin(grid, k, seeds)
        rates = sorted({j for kk, j, _ in grid if kk == k})
        if argmin is None or argmin in (rates[0], rates[-1]):
            continue
        near = [j for j in means if abs(j - argmin) <= 2]
        best = float(argmin)
        if len(near) >= 3:
            a, b, _ = np.polyfit(near, [means[j] for j in near], 2)
            if a > 1e-9:
                best = min(max(-b / (2 * a), near[0]), near[-1])
        points.append((k, best))
    return float(np.polyfit(*zip(*points, strict=True), 1)[0]) if len(points) >= 3 else math.nan


@pytest.mark.parametrize("slope", [0.0, -1.0, 0.2, -2 / 3])
def test_drift_of_a_surface_without_noise_is_exact(slope: float) -> None:
    surface = parabolas([-8 + slope * w for w in range(4)], cliff=3.0)
    assert drift(surface) == pytest.approx(slope, abs=1e-9)
    np.testing.assert_allclose(optimum_positions(surface), [-8 + slope * w for w in range(4)], rtol=1e-9)


def test_drift_counts_doublings_of_width_and_not_widths() -> None:
    surface = parabolas([-6, -8, -10], widths=(32, 128, 512))
    assert drift(surface) == pytest.approx(-1.0)


def test_censored_widths_are_left_out_of_the_slope() -> None:
    rates = range(-10, -4)
    inside = parabolas([-7, -7.5, -8], log2_lrs=rates)
    with_edge = parabolas([-7, -7.5, -8, -11], log2_lrs=rates)
    assert np.isnan(optimum_positions(with_edge)[3])
    assert drift(with_edge) == pytest.approx(drift(inside)) == pytest.approx(-0.5)
    assert np.isnan(drift(parabolas([-7, -7.5, -12, -11], log2_lrs=rates))), "two widths make no slope"


def test_regret_of_a_parabola_is_curvature_times_distance_squared() -> None:
    surface = parabolas([-8, -9, -10, -11], curvature=0.05)
    expected = 0.05 * np.array([0, 1, 4, 9])
    np.testing.assert_allclose(regret(surface), expected, atol=1e-12)
    np.testing.assert_allclose(regret_cf(surface), expected, atol=1e-12)


def test_cross_fitting_by_hand_takes_the_winners_curse_away() -> None:
    # At the wide network, each rate is the best for one seed: judged on the seed that did not choose it, it costs 0.2.
    surface = make_surface([[[1.0, 1.0], [2.0, 2.0]], [[1.0, 1.3], [1.2, 1.0]]])
    # Same seed: means 1.15 and 1.10, so −9 wins; transferred is −10.
    np.testing.assert_allclose(regret(surface), [0, 0.05])
    # s = 0: seed 1 chooses −9, costs 1.2 against 1.0; s = 1: seed 0 chooses −10, the transferred rate.
    np.testing.assert_allclose(regret_cf(surface), [0, (1.0 - 1.2) / 2])


def test_a_diverged_target_costs_the_loss_at_initialisation() -> None:
    surface = make_surface(
        [[[2.0, 2.0], [1.0, 1.0]], [[1.5, 1.5], [1.0, 1.0]]],
        diverged=[[[False] * 2] * 2, [[False] * 2, [True, False]]],
    )
    np.testing.assert_allclose(regret(surface)[1], (START + 1.0) / 2 - 1.5)
    # Without seed 0 the wide optimum is −9 too, where seed 0 diverges: no difference. Without seed 1 it is −10.
    np.testing.assert_allclose(regret_cf(surface)[1], (0.0 + (1.0 - 1.5)) / 2)


def test_regret_is_missing_without_a_base_a_target_or_a_second_seed() -> None:
    surface = parabolas([-8, -9])
    one = surface.keep(np.array([0]))
    assert np.isnan(regret_cf(one)).all()
    np.testing.assert_allclose(regret(one), [0, 0.05])

    other_base = parabolas([-8, -9], widths=(64, 128))
    assert np.isnan(regret(other_base)).all()

    not_run = make_surface(np.ones((2, 2, 2)), ran=[[True, False], [False, True]])
    assert np.isnan(regret(not_run)).tolist() == [False, True]
    assert np.isnan(regret_cf(not_run)).tolist() == [False, True]

    dead = make_surface(np.ones((2, 2, 2)), diverged=[[[True] * 2] * 2, [[False] * 2] * 2])
    assert np.isnan(regret(dead)).all()


@pytest.mark.parametrize("seed", range(25))
def test_against_a_slow_implementation(seed: int) -> None:
    surface = random_surface(np.random.default_rng(seed), holes=seed % 2 == 1)
    grid, seeds = slow_grid(surface), [0, 1, 2, 3]
    np.testing.assert_allclose(drift(surface), slow_drift(grid, seeds), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(regret_cf(surface), [slow_regret_cf(grid, k, seeds) for k in range(4)], atol=1e-12)

    interval = jackknife(lambda kept: drift(surface.keep(kept)), 4)
    replicates = [slow_drift(grid, [s for s in seeds if s != left_out]) for left_out in seeds]
    mean = sum(replicates) / 4
    se = math.sqrt(3 / 4 * sum((r - mean) ** 2 for r in replicates)) if math.isfinite(interval.estimate) else math.nan
    np.testing.assert_allclose(float(interval.se), se, rtol=1e-6, atol=1e-7)


def test_the_random_surfaces_reach_every_branch() -> None:
    surfaces = [random_surface(np.random.default_rng(seed), holes=seed % 2 == 1) for seed in range(25)]
    assert any(np.isnan(optimum_positions(surface)).any() for surface in surfaces)
    assert any((surface.diverged.any(axis=2) & ~surface.diverged.all(axis=2)).any() for surface in surfaces)
    assert any((regret_cf(surface) < 0).any() for surface in surfaces)
    assert any(np.isnan(regret_cf(surface)).any() for surface in surfaces)


def test_same_seed_regret_is_never_negative_without_divergence() -> None:
    rng = np.random.default_rng(0)
    values = [regret(make_surface(rng.normal(size=(4, 6, 3)))) for _ in range(50)]
    assert np.min(values) >= 0


def test_share_of_gain() -> None:
    share = share_of_gain(np.array([0.0, 0.1, 0.1, 0.1]), np.array([1.0, 0.8, 1.0, 1.2]), base=0)
    np.testing.assert_allclose(share, [np.nan, 0.5, np.nan, np.nan])


def test_seed_deviation_is_that_of_the_argmin() -> None:
    surface = make_surface([[[9, 1], [1.0, 1.5], [4, 4]], [[2, 2], [1, 1], [3, 3]]])
    np.testing.assert_allclose(seed_deviation(surface), [0.5 / math.sqrt(2), 0.0])
    assert np.isnan(seed_deviation(surface.keep(np.array([0])))).all()
    assert np.isnan(seed_deviation(make_surface([[[1, 2]]], diverged=True))).all()


def test_the_drift_interval_covers_what_it_says() -> None:
    """5 seeds, noise that is partly shared by all rates of a seed; a percentile bootstrap would cover 84 %."""
    rng = np.random.default_rng(0)
    truth, trials, covered = -0.5, 300, 0
    for _ in range(trials):
        noise = rng.normal(0, 0.01, (4, 7, 5)) + rng.normal(0, 0.01, (4, 1, 5))
        surface = parabolas([-6.2 + truth * w for w in range(4)], log2_lrs=range(-10, -3), seeds=5, noise=noise)
        interval = jackknife(lambda kept, surface=surface: drift(surface.keep(kept)), 5)
        covered += bool(interval.low <= truth <= interval.high)
    assert 0.90 <= covered / trials <= 0.99


def test_cross_fitted_regret_is_the_mean_of_its_seeds() -> None:
    surface = make_surface([[[1.0, 1.0], [2.0, 2.0]], [[1.0, 1.3], [1.2, 1.0]]])
    np.testing.assert_allclose(regret_cf(surface), np.mean([[0, -0.2], [0, 0.0]], axis=0), atol=1e-12)
    assert np.isnan(regret_cf(surface.keep(np.array([0])))).all()


def test_held_regret_by_hand() -> None:
    # Base width: seed 0 alone prefers −9, all seeds −10. Wide: −9 is best for everybody.
    surface = make_surface([[[1.2, 1.0, 1.0], [1.0, 1.3, 1.3]], [[1.5, 1.5, 1.5], [1.0, 1.1, 1.2]]])
    assert transferred_rate(surface) == 0
    assert transferred_rate(surface.keep(np.array([0]))) == 1
    np.testing.assert_allclose(regret_held(surface, 0), [0, (0.5 + 0.4 + 0.3) / 3])
    np.testing.assert_allclose(regret_held(surface.keep(np.array([0, 1])), 0), [0, 0.45])
    np.testing.assert_allclose(regret_held(surface, 1), [0, 0])


def test_held_regret_is_missing_where_cross_fitted_regret_is() -> None:
    surface = parabolas([-8, -9])
    assert np.isnan(regret_held(surface.keep(np.array([0])), 3)).all()
    assert np.isnan(regret_held(surface, -1)).all()
    assert transferred_rate(parabolas([-8, -9], widths=(64, 128))) == -1
    dead = make_surface(np.ones((2, 2, 2)), diverged=[[[False] * 2] * 2, [[True] * 2] * 2])
    assert np.isnan(regret_held(dead, transferred_rate(dead))).tolist() == [False, True]


def test_transfer_errors_of_parabolas_are_curvature_times_distance_squared() -> None:
    surface = parabolas([-8, -9, -11], curvature=0.05)
    expected = 0.05 * np.array([[0, 1, 9], [1, 0, 4], [9, 4, 0]])
    np.testing.assert_allclose(transfer_errors(surface), expected, atol=1e-12)
    assert transfer_error_mean(surface) == pytest.approx(0.05 * 14 / 3)
    assert transfer_error_max(surface) == pytest.approx(0.45)
    assert transfer_error_pairs(surface) == 6


def test_rows_of_transfer_errors_are_where_the_rate_comes_from() -> None:
    # The narrow rate costs 3 at the wide width; the wide one 0.5 at the narrow width.
    surface = make_surface([[[1.0] * 2, [1.5] * 2], [[5.0] * 2, [2.0] * 2]])
    np.testing.assert_allclose(transfer_errors(surface), [[0, 3.0], [0.5, 0]])


def test_pairs_without_a_transfer_error_are_left_out_and_counted() -> None:
    dead = make_surface(np.ones((3, 2, 2)), diverged=[[[False] * 2] * 2, [[True] * 2] * 2, [[False] * 2] * 2])
    assert np.isnan(transfer_errors(dead)).tolist() == [[False, True, False], [True] * 3, [False, True, False]]
    assert (transfer_error_mean(dead), transfer_error_max(dead), transfer_error_pairs(dead)) == (0.0, 0.0, 2)
    one = parabolas([-8, -9]).keep(np.array([0]))
    assert np.isnan([transfer_error_mean(one), transfer_error_max(one)]).all()
    assert transfer_error_pairs(one) == 0


@pytest.mark.parametrize("seed", range(20))
def test_transfer_errors_and_held_regret_against_a_slow_implementation(seed: int) -> None:
    surface = random_surface(np.random.default_rng(seed), seeds=3, holes=seed % 2 == 1)
    grid = slow.to_grid(surface)
    expected = np.array([[slow.transfer_error(grid, i, k) for k in range(4)] for i in range(4)])
    found = transfer_errors(surface)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(found[0], regret_cf(surface), atol=1e-12)
    pairs = [expected[i, k] for i in range(4) for k in range(4) if i != k and not math.isnan(expected[i, k])]
    assert transfer_error_pairs(surface) == len(pairs)
    assert transfer_error_mean(surface) == pytest.approx(slow.mean(pairs), abs=1e-12)
    assert transfer_error_max(surface) == pytest.approx(max(pairs), abs=1e-12)
    base = slow.argmin(grid, 0, [0, 1, 2])
    assert transferred_rate(surface) == base
    np.testing.assert_allclose(
        regret_held(surface, base), [slow.regret_held(grid, k, 0, base) for k in range(4)], atol=1e-12
    )


def test_rate_ratios() -> None:
    numerator, denominator = parabolas([-7, -6.5, -6, -20]), parabolas([-9, -9, -9, -9])
    np.testing.assert_allclose(rate_ratios(numerator, denominator), [2, 2.5, 3, np.nan])
    assert rate_ratio_slope(numerator, denominator) == pytest.approx(0.5)
    assert np.isnan(rate_ratio_slope(parabolas([-7, -7]), parabolas([-7, -7])))
    with pytest.raises(ValueError, match="differ"):
        rate_ratios(numerator, parabolas([-9, -9]))


def share_worse(curves: NDArray[np.float64]) -> float:
    worse, points = count_worse(curves)
    return worse / points if points else np.nan


def test_worse_points_by_hand() -> None:
    narrow = [[1.0, 1.0, 1.0]] * 4
    # Rises: sure; mean 0.1 and standard error 0.1, so no more than 2; a fall; one seed missing.
    wide = [[1.1, 1.1, 1.1], [1.1, 1.1 + 0.03**0.5, 1.1 - 0.03**0.5], [0.9, 0.9, 0.9], [9.0, 9.0, np.nan]]
    assert count_worse(np.array([narrow, wide])) == (1, 3)
    assert share_worse(np.array([narrow, wide])) == pytest.approx(1 / 3)


def test_worse_is_judged_seed_by_seed_since_seeds_share_the_order_of_the_data() -> None:
    level = np.array([1.0, 2.0, 3.0])
    curves = np.array([[level], [level + np.array([0.01, 0.011, 0.012])]])
    assert share_worse(curves) == 1.0
    assert share_worse(curves[:, :, [0]].repeat(2, axis=2)) == 1.0, "no spread at all, and worse"
    assert share_worse(curves[::-1]) == 0.0
    shuffled = np.array([[level], [(level + 0.01)[[2, 0, 1]]]])
    assert share_worse(shuffled) == 0.0


def test_worse_needs_two_seeds_and_two_widths() -> None:
    curves = np.ones((3, 4, 2))
    assert share_worse(curves) == 0.0
    assert np.isnan([share_worse(curves[:, :, :1]), share_worse(curves[:1]), share_worse(curves * np.nan)]).all()


@pytest.mark.parametrize("seed", range(10))
def test_worse_and_tau_against_a_slow_implementation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    curves = rng.normal(0, 0.3, (4, 30, 3)) + np.arange(4)[:, None, None] * 0.2
    curves[rng.random(curves.shape) < 0.02] = np.nan
    worse, points = count_worse(curves)
    assert (worse, points) == slow.count_worse(curves.tolist())
    assert 0 < worse < points < 90
    widths, final = np.array([32, 64, 128, 256, 512]), rng.integers(0, 4, 5) * 0.5
    final[rng.integers(5)] = np.nan
    assert kendall_tau(widths, final) == pytest.approx(slow.kendall_tau(widths.tolist(), final.tolist()), nan_ok=True)


@pytest.mark.parametrize(
    ("final", "tau"),
    [
        ([4.0, 3.0, 2.0, 1.0], -1.0),
        ([1.0, 2.0, 3.0, 4.0], 1.0),
        ([4.0, 3.0, 1.0, 2.0], -4 / 6),
        ([4.0, np.nan, 1.0, 2.0], -1 / 3),
        ([np.nan, np.nan, 1.0, np.nan], np.nan),
        ([1.0, 1.0, 1.0, 1.0], np.nan),
    ],
)
def test_kendall_tau(final: list[float], tau: float) -> None:
    assert kendall_tau(np.array([32, 64, 128, 256]), np.array(final)) == pytest.approx(tau, nan_ok=True)

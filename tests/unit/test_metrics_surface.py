import numpy as np
import pytest
from surfaces import make_surface, parabolas, random_surface

from mufree.analysis.metrics.surface import Optimum, at_common_widths, common_widths, find_optimum, grid_argmin, optima


def test_widths_are_counted_in_doublings_from_the_base_which_may_be_missing() -> None:
    found = make_surface([[[1.0]]] * 3, widths=(16, 48, 64), base_width=32)
    assert found.base is None
    np.testing.assert_allclose(found.log2_width_mult, [-1, np.log2(1.5), 1], rtol=1e-15)
    assert make_surface([[[1.0]]] * 3, widths=(16, 32, 64), base_width=32).base == 1


def fit(losses: list[float], ran: list[bool] | None = None) -> Optimum:
    """The optimum of one width at rates 0, 1, …; NaN is a rate that diverged."""
    return find_optimum(
        np.arange(len(losses), dtype=float),
        np.array(losses),
        np.array(ran if ran is not None else [True] * len(losses)),
    )


@pytest.mark.parametrize("truth", [-9.0, -8.75, -8.5, -8.3])
def test_an_exact_parabola_gives_its_vertex_depth_and_curvature(truth: float) -> None:
    best = optima(parabolas([truth], curvature=0.07, floors=[1.5]))[0]
    assert best.flag == "ok"
    assert not best.censored
    np.testing.assert_allclose([best.log2_lr, best.fit_loss, best.curvature], [truth, 1.5, 0.07], rtol=1e-9)
    assert best.log2_lr_argmin == (-9.0 if truth <= -8.5 else -8.0), "a tie goes to the lower rate"
    assert best.loss == pytest.approx(1.5 + 0.07 * (best.log2_lr_argmin - truth) ** 2)


def test_three_points_by_hand() -> None:
    best = fit([1.0, 0.0, 0.5])  # ¾x² − ¼x around rate 1
    np.testing.assert_allclose([best.log2_lr, best.curvature, best.fit_loss], [1 + 1 / 6, 0.75, -1 / 48])


def test_least_squares_is_over_two_doublings_on_either_side_and_no_further() -> None:
    near = [3.0, 1.2, 0.9, 1.1, 2.0]
    best, far = fit([9.0, *near, 50.0, 7.0]), fit([4.0, *near, 3.9, 1e6])
    assert best == far
    a, b, _ = np.polyfit([-2, -1, 0, 1, 2], near, 2)
    assert best.curvature == pytest.approx(a)
    assert best.log2_lr == pytest.approx(3 - b / (2 * a))


def test_the_window_is_in_doublings_and_not_in_points() -> None:
    rates = np.array([-12.0, -10.0, -8.0, -6.0, -4.0])
    best = find_optimum(rates, 0.1 * (rates + 7.5) ** 2, np.ones(5, bool))
    assert best.flag == "ok"
    bent = find_optimum(rates, np.where(np.abs(rates + 8) > 2, 99.0, 0.1 * (rates + 7.5) ** 2), np.ones(5, bool))
    assert bent == best


@pytest.mark.parametrize(
    ("losses", "flag", "argmin"),
    [
        ([1.0, 2.0, 3.0], "edge_low", 0),
        ([3.0, 2.0, 1.0], "edge_high", 2),
        ([5.0], "edge_low", 0),
        ([3.0, 2.0, 1.0, np.nan], "argmin_only", 2),  # on a line: rounding is no curvature
        ([0.3, 0.2, 0.1, np.nan], "argmin_only", 2),
        ([np.nan, 1.0, 2.0, np.nan], "argmin_only", 1),
        ([1.0, 3.0, 0.0, 3.0, 1.0], "argmin_only", 2),  # curvature −1/7
        ([1.0, 1.0, 1.0], "edge_low", 0),
    ],
)
def test_flags(losses: list[float], flag: str, argmin: float) -> None:
    best = fit(losses)
    assert best.flag == flag
    assert best.log2_lr == best.log2_lr_argmin == argmin
    assert np.isnan([best.curvature, best.fit_loss]).all()


def test_the_last_rate_before_the_cliff_is_no_edge_and_the_vertex_stays_on_this_side() -> None:
    best = fit([1.8, 1.2, 0.8, 0.7, np.nan, np.nan])  # 0.15x² + 0.05x around rate 3, through the last three
    assert best.flag == "ok"
    assert best.log2_lr == pytest.approx(3 - 1 / 6)
    steeper = fit([2.0, 1.2, 0.7, 0.5, np.nan, np.nan])
    assert steeper.log2_lr == 3.0, "clipped to the last rate that did not diverge"
    assert steeper.fit_loss == pytest.approx(0.5)


def test_the_end_of_the_grid_is_the_end_of_what_was_run_at_this_width() -> None:
    assert fit([3.0, 2.0, 1.0, np.nan], ran=[True, True, True, False]).flag == "edge_high"
    assert fit([np.nan, 1.0, 2.0, 3.0], ran=[False, True, True, True]).flag == "edge_low"
    assert fit([np.nan, 1.0, 2.0, 4.0]).flag == "ok", "the lower rate was run, and diverged"


def test_a_rate_counts_only_if_no_seed_diverged_there() -> None:
    diverged = np.zeros((1, 4, 2), bool)
    diverged[0, 2, 1] = True
    surface = make_surface([[[3, 3], [2, 2], [0.1, 0.1], [2.5, 2.5]]], diverged=diverged)
    np.testing.assert_array_equal(surface.mean_loss, [[3, 2, np.nan, 2.5]])
    assert optima(surface)[0].log2_lr_argmin == -9
    assert optima(surface.keep(np.array([0])))[0].log2_lr_argmin == -8, "without the seed that diverged it counts"


def test_all_diverged() -> None:
    surface = make_surface([[[1, 1], [1, 1]]], diverged=[[[True, False], [False, True]]])
    (best,) = optima(surface)
    assert best.flag == "all_diverged"
    assert best.censored
    assert np.isnan([best.log2_lr, best.log2_lr_argmin, best.loss]).all()
    assert grid_argmin(surface).tolist() == [-1]


def test_grid_argmin_is_the_argmin_of_the_optima() -> None:
    for seed in range(20):
        surface = random_surface(np.random.default_rng(seed), holes=True)
        at = [surface.log2_lrs[j] if j >= 0 else np.nan for j in grid_argmin(surface)]
        np.testing.assert_array_equal(at, [optimum.log2_lr_argmin for optimum in optima(surface)])


def test_cost_of_a_diverged_run_is_the_loss_at_initialisation() -> None:
    surface = make_surface([[[1.0, 9.0]]], diverged=[[[True, False]]])
    assert surface.cost.tolist() == [[[4.0, 9.0]]]


def test_a_surface_at_some_widths_is_its_rows() -> None:
    whole = random_surface(np.random.default_rng(0))
    widths = whole.widths[[0, 2]]
    some = whole.at_widths(np.array([*widths, 7]))  # it has no width 7
    assert some.base_width == whole.base_width
    np.testing.assert_array_equal(some.widths, widths)
    np.testing.assert_array_equal(some.log2_lrs, whole.log2_lrs)
    for name in ("loss", "initial_loss", "diverged"):
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[[0, 2]])


def test_surfaces_meet_at_the_widths_that_all_have() -> None:
    whole = parabolas([-8.0, -8.5, -9.0, -9.5])
    first, second = whole.at_widths(whole.widths[:3]), whole.at_widths(whole.widths[1:])
    shared = whole.widths[1:3].tolist()
    assert common_widths([first, second]).tolist() == shared
    assert [surface.widths.tolist() for surface in at_common_widths([second, first])] == [shared, shared]
    for surface in at_common_widths([second, first]):
        np.testing.assert_array_equal(surface.loss, whole.loss[1:3])

import numpy as np
import pytest
from surfaces import START, make_surface, parabolas

from mufree.metrics.stability import (
    best_loss,
    common_offsets,
    lr_sensitivity,
    lr_sensitivity_normalised,
    max_stable_log2_lr,
    window,
)
from mufree.metrics.surface import Surface, optima


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

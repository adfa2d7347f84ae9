import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from surfaces import parabolas

from mufree.analysis.metrics.interaction import (
    EFFECTS,
    difference_in_differences,
    effects,
)
from mufree.analysis.metrics.statistics import jackknife
from mufree.analysis.metrics.transfer import drift

NUMBERS = st.floats(-100, 100)


def test_effects_by_hand() -> None:
    cells = (10.0, 7.0, 4.0, 3.0)  # SP+AdamW, SP+SF, µP+AdamW, µP+SF
    assert effects(*cells)[0] == ((4 - 10) + (3 - 7)) / 2 == -5
    assert effects(*cells)[1] == ((7 - 10) + (3 - 4)) / 2 == -2
    assert difference_in_differences(*cells) == (3 - 7) - (4 - 10) == 2
    assert dict(zip(EFFECTS, effects(*cells), strict=True)) == {"mup": -5, "schedulefree": -2, "interaction": 2}


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_effects_give_the_cells_back(grand: float, mup: float, schedulefree: float, interaction: float) -> None:
    """A two by two table is its mean ± half the main effects ± a quarter of the interaction."""
    cells = [
        grand + p * mup / 2 + o * schedulefree / 2 + p * o * interaction / 4
        for p, o in ((-1, -1), (-1, 1), (1, -1), (1, 1))
    ]
    np.testing.assert_allclose(effects(*cells), [mup, schedulefree, interaction], atol=1e-11)


def test_additive_cells_do_not_interact_and_swapping_the_factors_changes_nothing() -> None:
    assert difference_in_differences(1.0, 3.0, 11.0, 13.0) == 0
    assert difference_in_differences(1.0, 2.0, 5.0, 9.0) == difference_in_differences(1.0, 5.0, 2.0, 9.0) == 3


def test_arrays_go_element_by_element_and_a_missing_cell_is_missing_in_all_effects() -> None:
    found = effects([1.0, 1.0], [2.0, 2.0], [3.0, np.nan], [5.0, 5.0])
    assert found.shape == (3, 2)
    np.testing.assert_array_equal(found[:, 0], [2.5, 1.5, 1.0])
    assert np.isnan(found[:, 1]).all()


def test_a_joint_jackknife_is_free_of_what_all_cells_share() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 5.0, (4, 11, 4))
    cells = [parabolas([-8 + b * w for w in range(4)], noise=1e-3 * shared, seeds=4) for b in (-1.0, -0.5, 0.0, 0.0)]
    one = jackknife(lambda kept: drift(cells[0].keep(kept)), 4)
    both = jackknife(lambda kept: effects(*(drift(cell.keep(kept)) for cell in cells)), 4)
    # Cells 2 and 3 are the same surface, so their part cancels exactly.
    rest = jackknife(lambda kept: drift(cells[0].keep(kept)) - drift(cells[1].keep(kept)), 4)
    assert both.estimate[2] == pytest.approx(-rest.estimate * -1)
    np.testing.assert_allclose(both.se[2], rest.se, rtol=1e-9)
    assert one.se > 0

import numpy as np
import pytest
import slow_metrics as slow
from hypothesis import given
from hypothesis import strategies as st

from mufree.analysis.metrics.cost import expected_best_of_k, flops_saved, trials_to_reach


def test_expected_best_by_hand() -> None:
    # Pairs of {1, 2, 4}: the lower ones are 1, 1, 2.
    np.testing.assert_allclose(expected_best_of_k(np.array([4.0, 1.0, 2.0])), [7 / 3, 4 / 3, 1.0], rtol=1e-15)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
def test_expected_best_is_the_mean_over_all_subsets(losses: list[float]) -> None:
    expected = [slow.expected_best_of_k(losses, k) for k in range(1, len(losses) + 1)]
    np.testing.assert_allclose(expected_best_of_k(np.array(losses)), expected, atol=1e-12)


def test_expected_best_of_thousands_of_settings_does_not_overflow() -> None:
    # The k-th of N equally spaced losses 1 … N: the expected lowest of k is (N + 1)/(k + 1).
    n = 2000
    expected = expected_best_of_k(np.arange(n, 0, -1.0))
    np.testing.assert_allclose(expected, (n + 1) / (np.arange(1, n + 1) + 1), rtol=1e-10)
    assert expected[-1] == 1.0


def test_expected_best_falls_from_the_mean_to_the_minimum() -> None:
    losses = np.random.default_rng(0).normal(size=55)
    expected = expected_best_of_k(losses)
    assert expected[0] == pytest.approx(losses.mean())
    assert expected[-1] == losses.min()
    assert (np.diff(expected) < 0).all()


def test_expected_best_of_no_settings_and_of_one_that_was_not_run() -> None:
    assert expected_best_of_k(np.array([])).shape == (0,)
    with pytest.raises(ValueError, match="Loss 1 is NaN: leave out"):
        expected_best_of_k(np.array([1.0, np.nan]))


@pytest.mark.parametrize(
    ("target", "trials"), [(3.0, 1), (2.0, 2), (1.9, 3), (1.0, 3), (0.9, np.nan), (np.nan, np.nan)]
)
def test_trials_to_reach(target: float, trials: float) -> None:
    np.testing.assert_equal(trials_to_reach(np.array([3.0, 2.0, 1.0]), target), trials)


def test_no_trials_reach_nothing() -> None:
    assert np.isnan(trials_to_reach(np.array([]), 1.0))


def test_flops_saved() -> None:
    # 11 rates; the wide network costs 16 times as much: 1 − (11 + 16)/176.
    assert flops_saved(11.0, 16.0, 176.0) == pytest.approx(149 / 176)
    np.testing.assert_allclose(flops_saved([1.0, 9.0, 1.0], 1.0, [4.0, 4.0, 0.0]), [0.5, -1.5, np.nan])

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from mufree.analysis.metrics.search import (
    HIGHEST,
    LOWEST,
    Trial,
    fit_of,
    found_optimum,
    next_points,
    next_points_around,
    optimum_interval,
)
from mufree.analysis.metrics.statistics import jackknife

Loss = Callable[[float, int], float]
SEEDS = (3, 1, 7)


def search(
    loss: Loss, seeds: Sequence[int] = SEEDS, start: float = -9.0
) -> tuple[dict[Trial, float], list[list[Trial]]]:
    """All that was found, and the lists that were asked for."""
    found: dict[Trial, float] = {}
    asked = []
    while trials := next_points(found, seeds, start):
        assert not set(trials) & set(found), "nothing is trained twice"
        assert len(set(trials)) == len(trials)
        asked.append(trials)
        found |= {(x, seed): loss(x, seed) for x, seed in trials}
    return found, asked


def parabola(best: float, curvature: float = 0.05, cliff: float = math.inf) -> Loss:
    """A level for each seed, and a run diverges more than `cliff` above the best rate."""
    return lambda x, seed: math.inf if x > best + cliff else 1 + seed / 100 + curvature * (x - best) ** 2


def noisy(sigma: float, key: int, loss: Loss) -> Loss:
    """The same noise whenever a trial is looked up."""

    def value(x: float, seed: int) -> float:
        return loss(x, seed) + float(np.random.default_rng([key, seed, int(x) + 100]).normal(0, sigma))

    return value


def rates(found: dict[Trial, float], seed: int) -> list[float]:
    return sorted(x for x, s in found if s == seed)


def test_every_request_by_hand() -> None:
    found, asked = search(parabola(-6.3))
    assert asked == [
        [(-11, 3), (-9, 3), (-7, 3)],
        [(-5, 3)],  # −7 is best, at the end
        [(-8, 3), (-6, 3)],
        [(-7, 1), (-7, 7), (-6, 1), (-6, 7), (-5, 1), (-5, 7)],  # round −6
        [(-8, 1), (-8, 7)],  # −7 is better than −5, so beyond it
    ]
    assert len(found) == 14


def test_every_request_around_a_known_rate_by_hand() -> None:
    loss, found, asked = parabola(-6.3), dict[Trial, float](), []
    while trials := next_points_around(found, (3, 1), -7.5):
        asked.append(trials)
        found |= {(x, seed): loss(x, seed) for x, seed in trials}
    assert asked == [
        [(-8.5, 3), (-8.5, 1), (-7.5, 3), (-7.5, 1), (-6.5, 3), (-6.5, 1)],
        [(-5.5, 3), (-5.5, 1)],  # −6.5 is best, at the end
        [(-4.5, 3), (-4.5, 1)],  # −5.5 is better than −7.5, so beyond it
    ]


def test_a_rate_far_from_the_best_is_not_fitted() -> None:
    loss = parabola(-6.3)
    found = {(x, seed): loss(x, seed) for x in (-8.0, -7.0, -6.0, -5.0) for seed in SEEDS}
    far = found | {(-16.0, seed): 1.5 for seed in SEEDS}
    assert fit_of(far, SEEDS)(np.arange(3)) == pytest.approx(-6.3)


@pytest.mark.parametrize("start", [-30.0, -17.0, -9.0, -8.0, -2.0, 6.0])
@pytest.mark.parametrize("best", [-12.5, -9.0, -8.7, -6.3, 0.4])
def test_an_exact_parabola_gives_its_vertex_from_wherever_it_starts(best: float, start: float) -> None:
    found, _ = search(parabola(best), start=start)
    optimum = found_optimum(found, SEEDS)
    assert optimum.flag == "ok"
    np.testing.assert_allclose([optimum.log2_lr, optimum.curvature], [best, 0.05], rtol=1e-8)
    assert len(found) <= 4 * len(SEEDS) + 5 + abs(start - best) / 2
    assert [len(rates(found, seed)) for seed in SEEDS[1:]] == [4, 4]


def test_a_run_that_diverged_ends_the_valley() -> None:
    found, _ = search(parabola(-6.3, cliff=0.9))
    optimum = found_optimum(found, SEEDS)
    assert max(x for x, loss in found.items() if loss < math.inf)[0] == -6
    assert optimum.flag == "ok", "with a cliff above, the fourth rate is below"
    assert optimum.log2_lr_argmin == -6
    assert optimum.log2_lr == pytest.approx(-6.3)
    assert (-5.0, 3) in found
    assert (-5.0, 1) not in found, "where the first seed diverged no other is trained"


def test_one_seed_of_three_that_diverges_takes_its_rate_out() -> None:
    gentle = parabola(-6.3)
    found, _ = search(lambda x, seed: math.inf if seed == 7 and x >= -6 else gentle(x, seed))
    optimum = found_optimum(found, SEEDS)
    assert optimum.log2_lr_argmin == -7
    assert optimum.flag == "ok"
    assert set(rates(found, 7)) >= {-9, -8, -7, -6}


def test_where_another_seed_diverges_all_round_the_first_ones_best_all_seeds_go_down() -> None:
    gentle = parabola(-6.3)
    found, _ = search(lambda x, seed: math.inf if seed == 1 and x >= -8 else gentle(x, seed))
    assert found_optimum(found, SEEDS).log2_lr_argmin == -9


@pytest.mark.parametrize(("slope", "flag", "end"), [(1, "edge_low", LOWEST), (-1, "edge_high", HIGHEST)])
def test_a_loss_that_falls_all_the_way_ends_at_a_limit(slope: int, flag: str, end: float) -> None:
    found, _ = search(lambda x, seed: slope * x)
    optimum = found_optimum(found, SEEDS)
    assert (optimum.flag, optimum.log2_lr) == (flag, end)
    assert all(LOWEST <= x <= HIGHEST for x, _ in found)
    assert np.isnan(optimum_interval(found, SEEDS).low)
    assert rates(found, 7) == sorted([end, end + slope]), "no fit is wanted there"


def test_if_everything_diverges_one_seed_goes_down_to_the_limit() -> None:
    found, asked = search(lambda x, seed: math.nan)
    assert asked == [[(-11, 3), (-9, 3), (-7, 3)], *([(x, 3)] for x in range(-13, -30, -2))]
    optimum = found_optimum(found, SEEDS)
    assert optimum.flag == "all_diverged"
    assert np.isnan(optimum_interval(found, SEEDS).estimate)


def test_a_start_that_diverges_is_left_downwards() -> None:
    found, _ = search(parabola(-14.2, cliff=1.5), start=-5)
    assert found_optimum(found, SEEDS).log2_lr == pytest.approx(-14.2)


def test_a_tie_goes_to_the_lower_rate() -> None:
    found, asked = search(lambda x, seed: 1.0)
    assert asked[1] == [(-13, 3)], "of three equals the lowest"
    assert asked[2] == [(-15, 3)]
    assert found_optimum(found, SEEDS).log2_lr_argmin == LOWEST
    _, asked = search(lambda x, seed: abs(x + 9))
    assert asked[-1] == [(-11, 1), (-11, 7)], "of two neighbours the lower"


def test_a_spike_between_two_that_diverged_has_no_fit_and_no_interval() -> None:
    found, _ = search(lambda x, seed: 1.0 if x == -9 else math.inf)
    optimum = found_optimum(found, SEEDS)
    assert (optimum.flag, optimum.log2_lr) == ("argmin_only", -9)
    assert rates(found, 7) == [-9], "there is no better neighbour to look beyond"
    assert np.isnan(optimum_interval(found, SEEDS).low)


@pytest.mark.parametrize("key", range(40))
def test_on_nothing_but_noise_it_ends(key: int) -> None:
    found, _ = search(noisy(1.0, key, lambda x, seed: 0.0))
    assert len(found) <= 37 * len(SEEDS)
    optimum = found_optimum(found, SEEDS)
    settled = [x for x in rates(found, 7) if LOWEST < x < HIGHEST]
    assert settled, "all seeds were trained somewhere"
    assert optimum.flag != "all_diverged"


def test_a_first_seed_that_misleads_makes_all_seeds_walk() -> None:
    low, high = parabola(-12.0), parabola(-7.0)
    found, _ = search(lambda x, seed: low(x, seed) if seed == 3 else high(x, seed))
    assert found_optimum(found, SEEDS).log2_lr == pytest.approx((-12.0 - 2 * 7.0) / 3)


def everywhere() -> Iterator[Loss]:
    yield parabola(-6.3)
    yield parabola(-11.5, cliff=0.2)
    yield lambda x, seed: x
    yield lambda x, seed: math.inf
    for key in range(10):
        yield noisy(0.1, key, parabola(-7.4, cliff=2.0))


@pytest.mark.parametrize("number", range(14))
def test_a_search_that_is_interrupted_goes_on_as_if_it_had_not_been(number: int) -> None:
    """What is asked for after a part of a list is the rest of it, but for what a run that diverged has settled."""
    loss = list(everywhere())[number]
    whole, asked = search(loss)
    before: dict[Trial, float] = {}
    for trials in asked:
        assert next_points(dict(reversed(before.items())), SEEDS, -9.0) == trials, "in whatever order it was found"
        for some in (trials[:1], trials[1:], trials[::2]):
            if len(some) == len(trials):
                continue
            part = before | {trial: loss(*trial) for trial in some}
            rest = [trial for trial in trials if trial not in part]
            gone = {x for x, seed in some if part[x, seed] == math.inf}
            left = [trial for trial in rest if trial[0] not in gone]
            if left:
                assert next_points(part, SEEDS, -9.0) == left
        before |= {trial: loss(*trial) for trial in trials}
    assert before == whole
    assert next_points(whole, SEEDS, -9.0) == []


def test_trials_that_nobody_asked_for_change_nothing_on_the_way() -> None:
    loss = parabola(-6.3)
    strangers = {(2.0, 1): 0.0, (-20.0, 3): 0.0, (-6.0, 99): 0.0}
    assert next_points(strangers, SEEDS, -9.0) == [(-11, 3), (-9, 3), (-7, 3)]
    whole, _ = search(loss)
    assert next_points(whole | strangers, SEEDS, -9.0) == []


@pytest.mark.parametrize("n_seeds", [1, 2, 5])
def test_any_number_of_seeds(n_seeds: int) -> None:
    seeds = tuple(range(n_seeds))
    found, _ = search(parabola(-8.2), seeds)
    assert found_optimum(found, seeds).log2_lr == pytest.approx(-8.2)
    assert len(found) <= 4 * n_seeds + 2
    assert np.isnan(optimum_interval(found, seeds).low) == (n_seeds == 1)


def test_no_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        next_points({}, (), -9.0)


def test_the_start_is_rounded_and_put_between_the_limits() -> None:
    assert next_points({}, SEEDS, -9.4) == next_points({}, SEEDS, -9.0) == [(-11, 3), (-9, 3), (-7, 3)]
    assert next_points({}, SEEDS, 40.0) == [(4, 3), (6, 3)]


def test_the_interval_is_the_jackknifes_over_rates_that_are_held() -> None:
    """Seed 7's own best rate is −9 and a fit round it would look at others."""
    places = dict(zip(SEEDS, (-8.2, -8.4, -9.1), strict=True))
    found, _ = search(lambda x, seed: parabola(places[seed], curvature=0.1)(x, seed))
    interval = optimum_interval(found, SEEDS)
    # Parabolas of one curvature: the vertex of their mean is the mean of theirs.
    by_hand = jackknife(lambda kept: np.mean([places[SEEDS[k]] for k in kept]), 3)
    np.testing.assert_allclose(
        [interval.estimate, interval.low, interval.high], [by_hand.estimate, by_hand.low, by_hand.high]
    )
    assert interval.n == 3


def test_the_interval_is_of_the_very_fit_that_gives_the_optimum() -> None:
    """Of four rates, one of which is 2 doublings off, in a valley that is no parabola."""
    found, _ = search(lambda x, seed: 0.05 * (x + 8.4) ** 2 + 0.01 * (x + 8.4) ** 3 + seed / 100)
    assert optimum_interval(found, SEEDS).estimate == pytest.approx(found_optimum(found, SEEDS).log2_lr)


def test_where_a_fit_without_one_seed_has_no_valley_there_is_no_interval() -> None:
    found = {(x, seed): (-0.01 if seed else 0.5) * x**2 for x in (-1.0, 0.0, 1.0) for seed in (0, 1, 2)}
    optimum = found_optimum(found, (0, 1, 2))
    assert optimum.flag == "ok"
    interval = optimum_interval(found, (0, 1, 2))
    assert interval.estimate == optimum.log2_lr == pytest.approx(0)
    assert np.isnan(interval.low)

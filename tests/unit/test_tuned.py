"""What is made of trials: rows with a known valley, and what must follow by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args, get_type_hints

import pandas as pd
import pytest
from scipy.stats import t

from mufree.analysis import tuned
from mufree.analysis.metrics.statistics import t_interval
from mufree.analysis.tuned import (
    At,
    Cost,
    Judgement,
    Reason,
    Result,
    Tuned,
    found_in,
    judge,
    judge_unchecked,
    margin_of,
    seeds_needed,
)
from mufree.publish.report.tuned import SAID, sentences
from mufree.study.trials import Settings

BASE, RATE = 64, -8.0
CURVATURE = 0.1
SEEDS = (0, 1, 2)
Valley = Callable[[int], float]


def rows_of(
    best: Valley,
    noise: Callable[[int, float, int], float] = lambda width, x, seed: 0.02 * seed,
    widths: tuple[int, ...] = (BASE, 128, 256),
    rates: Callable[[int], list[float]] = lambda _: [-10.0, -9.0, -8.0, -7.0],
    diverged: Callable[[int, float, int], bool] = lambda *_: False,
    seeds: tuple[int, ...] = SEEDS,
) -> pd.DataFrame:
    """Trials in a valley of known curvature whose best rate is known at each width."""
    rows = []
    for width in widths:
        for x in rates(width):
            for seed in seeds:
                loss = 2.0 + CURVATURE * (x - best(width)) ** 2 + noise(width, x, seed)
                died = diverged(width, x, seed)
                rows.append(
                    {
                        **{"width": width, "base_width": BASE, "log2_lr": x, "seed": seed, "initial_loss": 5.0},
                        **{"status": "diverged" if died else "ok", "val_loss": math.nan if died else loss},
                    }
                )
    return pd.DataFrame(rows)


def judged(rows: pd.DataFrame, log2_lr: float = RATE, margin: float = 0.01, target: int | None = None) -> Judgement:
    return judge(rows, base_width=BASE, log2_lr=log2_lr, margin=margin, target_width=target)


def wobble(width: int, x: float, seed: int) -> float:
    """A tilt by seed: the vertex of each seed lies elsewhere, by ±0.1 about the same mean."""
    return -2 * CURVATURE * 0.1 * (seed - 1) * (x + 8.0)


def test_a_rate_that_stays_best_transfers_and_its_valley_is_read_exactly() -> None:
    found = judged(rows_of(lambda _: RATE))
    assert found.verdict == "transfers"
    assert [reason.kind for reason in found.reasons] == ["kept"]
    assert found.interval.estimate == pytest.approx(RATE)
    assert [float(check.moved.estimate) for check in found.checks] == pytest.approx([0.0, 0.0], abs=1e-9)
    assert [check.cost.estimate for check in found.checks] == pytest.approx([0.0, 0.0], abs=1e-9)
    assert float(found.slope.estimate) == pytest.approx(0.0, abs=1e-9)


def test_cost_move_and_slope_by_hand() -> None:
    """The best rate falls by 0.3 for each doubling: at four times the width by 0.6, which costs 0.1 × 0.36."""
    found = judged(rows_of(lambda width: RATE - 0.3 * math.log2(width / BASE)))
    first, second = found.checks
    assert (float(first.moved.estimate), float(second.moved.estimate)) == (pytest.approx(-0.3), pytest.approx(-0.6))
    assert (first.cost.estimate, second.cost.estimate) == (pytest.approx(0.009), pytest.approx(0.036))
    assert float(found.slope.estimate) == pytest.approx(-0.3)


def test_the_interval_of_the_cost_follows_from_how_far_the_best_rate_may_have_moved() -> None:
    """Each seed's valley lies 0.1 off the next one's: the mean of three has a standard error of 0.1 / √3, and t 2.92."""
    found = judged(rows_of(lambda width: RATE - 0.3 * math.log2(width / BASE), wobble))
    half = float(t.ppf(0.95, 2)) * 0.1 / math.sqrt(3)
    for check, moved in zip(found.checks, (-0.3, -0.6), strict=True):
        assert check.cost.ends() == pytest.approx((CURVATURE * (moved + half) ** 2, CURVATURE * (moved - half) ** 2))
    still = judged(rows_of(lambda _: RATE, wobble))  # the interval holds zero, where the cost is least
    assert still.checks[0].cost.ends() == pytest.approx((0.0, CURVATURE * half**2))


def test_a_rate_that_costs_more_than_the_margin_does_not_transfer() -> None:
    found = judged(rows_of(lambda width: RATE - 0.6 * math.log2(width / BASE), noise=lambda *_: 0.0))
    assert found.verdict == "does not transfer"
    assert [(reason.kind, reason.check.width) for reason in found.reasons if reason.check] == [
        ("costs", 128),
        ("costs", 256),
    ]


def test_noise_makes_no_verdict_easier() -> None:
    """Seeds that differ at all rates alike change nothing; those whose valleys lie apart make it harder to tell."""
    quiet = judged(rows_of(lambda width: RATE - 0.3 * math.log2(width / BASE), noise=lambda *_: 0.0))
    apart = judged(rows_of(lambda width: RATE - 0.3 * math.log2(width / BASE), noise=lambda w, x, s: 5.0 * s))
    noisy = judged(rows_of(lambda width: RATE - 0.3 * math.log2(width / BASE), wobble))
    assert [check.word for check in quiet.checks] == [check.word for check in apart.checks] == ["keeps", "costs"]
    assert [check.word for check in noisy.checks] == ["unsure", "costs"]
    assert {check.margin for found in (quiet, apart, noisy) for check in found.checks} == {0.01}


def test_what_can_not_be_told_says_how_many_seeds_would() -> None:
    found = judged(rows_of(lambda width: RATE - 0.1 * math.log2(width / BASE), wobble))
    assert found.verdict == "can't tell"
    reason = found.reasons[0]
    assert reason.check is not None
    needed = seeds_needed(reason.check)
    assert needed is not None

    def settled(seeds: int) -> bool:
        """By hand, from the scatter of where the valley lies."""
        assert reason.check is not None
        half = float(t.ppf(0.95, seeds - 1)) * 0.1 / math.sqrt(seeds)
        moved = float(reason.check.moved.estimate)
        return CURVATURE * (abs(moved) + half) ** 2 < 0.01 or CURVATURE * max(abs(moved) - half, 0) ** 2 > 0.01

    assert settled(needed)
    assert not settled(needed - 1)


def test_more_seeds_are_no_advice_where_the_cost_is_the_margin() -> None:
    on_it = At(128, t_interval(0, 0, 3), "ok", Cost(t_interval(0.01, 0.005, 3)), 0.01, 0, "unsure")
    assert seeds_needed(on_it) is None


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_fewer_than_three_seeds_tell_nothing(seeds: tuple[int, ...]) -> None:
    for best in (lambda _: RATE, lambda width: RATE - 2 * math.log2(width / BASE)):
        found = judged(rows_of(best, seeds=seeds, rates=lambda _: [-13.0, -12.0, -11.0, -10.0, -9.0, -8.0, -7.0]))
        assert found.verdict == "can't tell"
        assert {seeds_needed(reason.check) for reason in found.reasons if reason.check} == {3}


def test_a_best_rate_far_away_is_judged_by_the_losses_themselves() -> None:
    """Two doublings off, with the losses at hand: 0.1 × 4, whatever a parabola says of the cliff beside it."""
    rows = rows_of(
        lambda width: RATE if width == BASE else -10.0, rates=lambda _: [-12.0, -11.0, -10.0, -9.0, -8.0, -7.0]
    )
    steep = rows["width"].ne(BASE) & rows["log2_lr"].eq(-9.0)
    rows.loc[steep, "val_loss"] += 0.2  # which bends the parabola, and leaves the loss at the rate alone
    found = judged(rows)
    assert [check.cost.estimate for check in found.checks] == pytest.approx([0.4, 0.4])
    assert found.verdict == "does not transfer"


def test_a_best_rate_at_the_end_of_what_was_tried_is_a_bound() -> None:
    found = judged(rows_of(lambda width: RATE if width == BASE else -12.0))
    assert [check.flag for check in found.checks] == ["edge_low", "edge_low"]
    assert [float(check.moved.estimate) for check in found.checks] == [-2.0, -2.0]
    assert all(math.isnan(float(check.moved.low)) for check in found.checks)
    assert math.isnan(float(found.slope.estimate))  # base width alone has one


def test_divergence_at_the_rate_is_never_transfer() -> None:
    all_die = judged(rows_of(lambda _: RATE, diverged=lambda width, x, seed: width == 256 and x >= RATE))
    assert (all_die.checks[-1].word, all_die.verdict) == ("costs", "does not transfer")
    one_dies = judged(rows_of(lambda _: RATE, diverged=lambda width, x, seed: (width, x, seed) == (256, RATE, 1)))
    assert (one_dies.checks[-1].word, one_dies.checks[-1].diverged) == ("unsure", 1)
    assert one_dies.verdict == "can't tell"


@pytest.mark.parametrize(
    ("rates", "best", "flag"), [([-8.0, -7.0, -6.0], -9.0, "edge_low"), ([-10.0, -9.0, -8.0], -7.0, "edge_high")]
)
def test_without_an_optimum_at_base_width_nothing_is_told(rates: list[float], best: float, flag: str) -> None:
    rows = rows_of(lambda _: best, rates=lambda width: rates if width == BASE else [-9.0, -8.0, -7.0])
    found = judged(rows)
    assert found.verdict == "can't tell"
    assert [reason.kind for reason in found.reasons] == [flag]


def test_trust_ends_where_the_slope_s_far_end_reaches_the_margin() -> None:
    """By hand: curvature 0.1, margin 0.01, slope −0.05 ± …: √(0.01 / 0.1) / far end is the doublings that are sure."""
    rows = rows_of(
        lambda width: RATE - 0.05 * math.log2(width / BASE), noise=lambda width, x, s: wobble(width, x, s) / 20
    )
    found = judged(rows)
    assert found.verdict == "transfers"
    half = float(t.ppf(0.95, 2) * found.slope.se)
    far = max(abs(float(found.slope.estimate) - half), abs(float(found.slope.estimate) + half))
    assert found.trusted_width == pytest.approx(min(BASE * 2 ** (math.sqrt(0.1) / far), 16 * 256))
    assert judged(rows, target=int(found.trusted_width)).verdict == "transfers"
    beyond = judged(rows, target=int(found.trusted_width) + 1)
    assert (beyond.verdict, [reason.kind for reason in beyond.reasons]) == ("can't tell", ["beyond"])


def test_nothing_is_foretold_beyond_sixteen_times_what_was_checked() -> None:
    assert judged(rows_of(lambda _: RATE)).trusted_width == 16 * 256


def test_the_margin_of_a_loss_of_one_s_own_is_a_share_of_what_training_gains() -> None:
    rows = rows_of(lambda _: RATE, noise=lambda *_: 0.0)
    assert margin_of(rows, BASE, cross_entropy=True) == 0.01
    assert margin_of(rows, BASE, cross_entropy=False) == pytest.approx(0.003 * (5.0 - 2.0))


def test_a_diverged_trial_is_infinitely_bad_for_the_search() -> None:
    rows = rows_of(lambda _: RATE, diverged=lambda width, x, seed: x == -7.0 and seed == 2)
    found = found_in(rows, BASE)
    assert found[-7.0, 2] == math.inf
    assert math.isfinite(found[-7.0, 1])


def test_plain_values_have_no_nan() -> None:
    plain = tuned.as_dict(judged(rows_of(lambda width: RATE if width == BASE else -12.0)))
    assert plain["slope"]["estimate"] is None
    assert plain["checks"][0]["moved"] == {"estimate": -2.0, "low": None, "high": None}


# --- in words --------------------------------------------------------------------------------------------------------


def said(judgement: Judgement, target: int | None = None) -> str:
    settings = Settings(BASE, (128, 256), 100, target_width=target)
    return " ".join(
        sentences(Result("net", settings, [Tuned("mup_schedulefree", judgement, 0.99, None)], pd.DataFrame(), 1.0))
    )


def test_every_reason_has_words() -> None:
    assert set(get_args(get_type_hints(Reason)["kind"])) <= set(SAID)


@pytest.mark.parametrize(
    ("judgement", "words"),
    [
        (judged(rows_of(lambda _: RATE)), "it can be kept up to width 4096"),
        (judged(rows_of(lambda width: RATE if width == BASE else -12.0)), "at least 2.0 doublings lower"),
        (
            judged(rows_of(lambda width: RATE - 0.6 * math.log2(width / BASE), lambda *_: 0.0)),
            "is 1.2 doublings lower",
        ),
        (judged(rows_of(lambda _: RATE, diverged=lambda w, x, s: w == 256)), "every seed diverged"),
        (
            judged(rows_of(lambda _: RATE, diverged=lambda w, x, s: (w, x, s) == (256, RATE, 1))),
            "1 of 3 seeds diverged",
        ),
        (judged(rows_of(lambda _: RATE, seeds=(0,))), "Nothing is judged by 1 seed(s): take 3 or more"),
        (judged(rows_of(lambda width: RATE - 0.1 * math.log2(width / BASE), wobble)), "seeds would settle it"),
        (judge_unchecked("readout (readout): change"), "first in readout (readout): change. So nothing was trained"),
    ],
)
def test_what_is_said(judgement: Judgement, words: str) -> None:
    assert words in said(judgement)


def test_a_target_beyond_what_is_sure_is_said() -> None:
    assert "up to width 4096, and 9999 is asked for" in said(judged(rows_of(lambda _: RATE), target=9999), 9999)

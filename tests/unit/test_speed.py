"""How long runs take: laws that are there are found, and what has been seen comes before what is like it."""

from __future__ import annotations

from typing import Any

import pytest
from studies import study, with_grid

from mufree.lab import speed
from mufree.study.config import Study
from mufree.study.plan import Run, evaluation_flops, expand, training_flops

LAW = speed.Law(per_step=0.004, per_flop=2e-10)
GRID: dict[str, Any] = {"methods": ["sp_adamw", "mup_schedulefree"], "widths": [16, 32, 256], "horizons": [1, 2]}


def runs() -> list[Run]:
    return expand(Study.model_validate(with_grid(**GRID)))


def test_a_law_by_hand() -> None:
    (run, *_) = expand(Study.model_validate(study()))
    assert run.training.steps == 40
    assert run.training.evaluations == 20
    assert LAW(run) == pytest.approx(0.004 * 80 + 2e-10 * (training_flops(run) + evaluation_flops(run)))


def test_a_law_is_found_in_what_follows_it() -> None:
    found = speed.fit([(100, 1e9, 0.6), (100, 1e11, 20.4), (7, 5e9, 1.028)])
    assert (found.per_step, found.per_flop) == pytest.approx((0.004, 2e-10), rel=1e-6)
    # One width tells a step's cost from a FLOP's in no way; what it predicts is right there all the same.
    alone = speed.fit([(100, 1e9, 0.6)])
    assert 100 * alone.per_step + 1e9 * alone.per_flop == pytest.approx(0.6)
    # Larger networks that take less: no number is negative.
    odd = speed.fit([(100, 1e9, 2.0), (100, 1e12, 1.0)])
    assert odd.per_step >= 0
    assert odd.per_flop >= 0


def test_a_quarter_of_a_study_tells_how_long_the_rest_takes() -> None:
    planned = runs()
    narrow = [(run, LAW(run)) for run in planned if run.width < 256]
    seconds_of = speed.learn(narrow, lambda run: pytest.fail("measured what could be learnt"))
    assert len(narrow) < len(planned)
    assert sum(map(seconds_of, planned)) == pytest.approx(sum(map(LAW, planned)), rel=1e-6)


def test_runs_alike_are_asked_before_others() -> None:
    (slow, *_), free = runs(), [run for run in runs() if run.method_name == "mup_schedulefree"]
    seconds_of = speed.learn([(run, 3 * LAW(run)) for run in free], LAW)
    assert seconds_of(free[0]) == pytest.approx(3 * LAW(free[0]))
    assert seconds_of(slow) == pytest.approx(3 * LAW(slow))  # of the task, if not of the optimizer
    other = slow.model_copy(update={"task": "other"})
    assert seconds_of(other) == LAW(other)


def test_a_measured_law_knows_that_more_is_longer() -> None:
    seconds_of = speed.measure(runs())
    short, long = (
        next(run for run in runs() if run.width == width and run.training.steps == steps)
        for width, steps in ((16, 20), (256, 40))
    )
    assert 0 < seconds_of(short) < seconds_of(long)

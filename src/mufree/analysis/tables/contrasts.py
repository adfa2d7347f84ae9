"""Comparisons that no other table holds: one method against the best of others, and what hypotheses ask besides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mufree.analysis.metrics import stability, transfer
from mufree.analysis.metrics.schedule import horizon_drift
from mufree.analysis.metrics.statistics import Floats, Interval
from mufree.analysis.metrics.surface import Surface, at_common_widths
from mufree.analysis.tables.cases import (
    Case,
    Records,
    interval_columns,
    joint,
    over_common_seeds,
    status,
    widest_shared,
)
from mufree.analysis.tables.schedule import OverHorizons, anytime_extremes, at_common_horizons, rivalries
from mufree.analysis.tables.stability import common_offsets, window
from mufree.analysis.tables.tuning import best_of_3_excess, canonical, rivals
from mufree.analysis.tables.weight_decay import DecayMap, both_at_the_edge, decay_difference


def contrasts(cases: Sequence[Case], horizons: Sequence[OverHorizons], maps: Sequence[DecayMap]) -> Records:
    """All of them, in the long form of `estimates` without the columns that follow from the others."""
    offsets = common_offsets(cases)
    return [
        *(row for four in canonical(cases) for row in _against_best_single(four, offsets[four[0].task])),
        *(row for four in canonical(cases) for row in _against_best(four)),
        *_ratio_slopes(cases),
        *_anytime(horizons),
        *_horizon_drifts(horizons),
        *_weight_decays(maps),
        *(row for four in canonical(cases) for row in _embedding_arms(four, cases)),
    ]


def _row(
    task: str, subject: str, width: int | None, statistic: str, value: Interval, unit: str, why: str
) -> dict[str, Any]:
    return {
        "task": task,
        "subject": subject,
        "width": width,
        "statistic": statistic,
        **interval_columns("estimate", value, ends=""),
        "n_seeds": value.n,
        "unit": unit,
        **status(value, why),
    }


def _against_best_single(four: list[Case], offsets: Floats) -> Iterator[dict[str, Any]]:
    """µP × ScheduleFree minus the better of the two methods that have one factor alone, at the widest width."""
    _, sp_free, mup, both = four
    parts = [both, sp_free, mup]
    widest, places = widest_shared(parts)
    rates = [window(case, offsets) for case in parts]
    single: dict[str, tuple[Callable[[Surface, int], float], str]] = {
        "sensitivity_vs_best_single": (lambda s, i: float(stability.lr_sensitivity(s, rates[i])[places[i]]), "nats"),
        "diverged_vs_best_single": (lambda s, i: float(stability.diverged_fraction(s, rates[i])[places[i]]), "share"),
        "best_of_3_vs_best_single": (lambda s, i: best_of_3_excess(s, places[i]), "nats"),
        "basin_vs_best_single": (lambda s, i: -float(stability.basin(s).width[places[i]]), "doublings"),
    }
    for name, (statistic, unit) in single.items():
        value = joint(parts, _less_the_lower(statistic))
        why = "not estimable for one of the three methods"
        yield _row(both.task, f"{both.method} - best single factor", widest, name, value, unit, why)


def _less_the_lower(statistic: Callable[[Surface, int], float]) -> Callable[[list[Surface]], float]:
    """A statistic of the first of three surfaces minus the lower one of the others; `statistic` also gets the position."""
    return lambda s: statistic(s[0], 0) - min(statistic(s[1], 1), statistic(s[2], 2))


def _against_best(four: list[Case]) -> Iterator[dict[str, Any]]:
    """Best loss of µP × ScheduleFree minus the lowest of the other three, at the widest width."""
    widest, places = widest_shared(four)

    def statistic(surfaces: list[Surface]) -> float:
        losses = [float(stability.best_loss(s)[k]) for s, k in zip(surfaces, places, strict=True)]
        return losses[3] - min(losses[:3])

    why = "every rate of one of the methods diverged"
    yield _row(
        four[3].task, f"{four[3].method} - best other", widest, "loss_vs_best", joint(four, statistic), "nats", why
    )


def _ratio_slopes(cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
    for free, other in rivals(cases):
        subject = f"{free.method} / {other.method}"
        why = "fewer than 3 widths have both optima inside the grid"
        value = joint([free, other], lambda s: transfer.rate_ratio_slope(*at_common_widths(s)))
        yield _row(free.task, subject, None, "rate_ratio_slope", value, "doublings per doubling", why)


def _anytime(horizons: Sequence[OverHorizons]) -> Iterator[dict[str, Any]]:
    for found in anytime_extremes(horizons):
        subject = f"{found['method']} - {found['rival']}"
        why = "no rate is free of divergence on both sides"
        yield _row(found["task"], subject, found["width"], found["statistic"], found["interval"], "nats", why)


def _horizon_drifts(horizons: Sequence[OverHorizons]) -> Iterator[dict[str, Any]]:
    """|h| of the schedule-free method minus |h| of its rival: below 0, its best rate depends less on the horizon."""
    for free, rival in rivalries(horizons):
        parts = at_common_horizons(free, rival)
        value = over_common_seeds(parts, lambda s: abs(horizon_drift(s[0])) - abs(horizon_drift(s[1])))
        subject = f"{free.case.method} - {rival.case.method}"
        unit, why = "doublings per doubling", "fewer than 3 horizons have both optima inside the grid"
        yield _row(free.case.task, subject, free.width, "abs_horizon_drift_difference", value, unit, why)


def _weight_decays(maps: Sequence[DecayMap]) -> Iterator[dict[str, Any]]:
    """λ* and lr·λ* of a schedule-free method minus those of the scheduled one, on the same map."""
    for mine in maps:
        role = mine.case.role
        if not role.schedule_free:
            continue
        wanted = role._replace(optimizer=role.optimizer.removesuffix("_schedulefree"), schedule="cosine")
        for other in maps:
            same = (other.case.task, other.width, other.scaling) == (mine.case.task, mine.width, mine.scaling)
            if same and other.case.role == wanted:
                subject = f"{mine.case.method} - {other.case.method}, {mine.scaling}"
                edge = both_at_the_edge(mine, other)
                why = "both are best at the largest decay tried" if edge else "every cell of one map diverged"
                for name, times_lr in (("weight_decay_difference", False), ("lr_weight_decay_difference", True)):
                    value = decay_difference(mine, other, times_lr)
                    yield _row(mine.case.task, subject, mine.width, name, value, "1", why)


def _embedding_arms(four: list[Case], cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
    """How much of SP's excess over µP an embedding rate × width removes alone, for arms that have it."""
    for plain, mup in ((four[0], four[2]), (four[1], four[3])):
        wanted = plain.role._replace(embedding_lr="times_width")
        for arm in cases:
            if (arm.task, arm.role) == (plain.task, wanted):
                yield from _embedding_arm(plain, arm, mup)


def _embedding_arm(plain: Case, arm: Case, mup: Case) -> Iterator[dict[str, Any]]:
    """The share of the gap in |drift|, and in regret at the widest width, over the widths that all three have."""
    parts = [plain, arm, mup]
    widest, places = widest_shared(parts)
    why = "there is no gap between SP and µP, or an optimum is not inside the grid"
    drift = joint(parts, lambda s: _share_closed(*transfer.abs_drifts(s)))
    yield _row(arm.task, arm.method, None, "embedding_gap_closed_drift", drift, "share", why)
    held = [case.transferred for case in parts]
    regret = joint(
        parts,
        lambda s: _share_closed(
            *(float(transfer.regret_held(x, rate)[k]) for x, rate, k in zip(s, held, places, strict=True))
        ),
    )
    yield _row(arm.task, arm.method, widest, "embedding_gap_closed_regret", regret, "share", why)


def _share_closed(plain: float, arm: float, mup: float) -> float:
    """(plain − arm) / (plain − µP); NaN where SP is no worse than µP."""
    return (plain - arm) / (plain - mup) if plain > mup else math.nan

"""Comparisons that no other table holds: one method against the best of others, and what hypotheses ask besides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from operator import sub
from typing import Any

from mufree.analysis.metrics import stability, transfer
from mufree.analysis.metrics.statistics import Floats, Interval
from mufree.analysis.metrics.surface import Surface, at_common_widths
from mufree.analysis.tables.cases import Case, Records, at_widest, estimated, joint, pairs, widest_shared
from mufree.analysis.tables.schedule import OverHorizons, anytime_extremes, rivalries
from mufree.analysis.tables.stability import common_offsets
from mufree.analysis.tables.tuning import best_of_3_excess, canonical, scheduled
from mufree.analysis.tables.weight_decay import DecayMap, both_at_the_edge, decay_difference
from mufree.study.statistics import STATISTICS


def contrasts(cases: Sequence[Case], horizons: Sequence[OverHorizons], maps: Sequence[DecayMap]) -> Records:
    """All of them, in the long form of `estimates` without the columns that follow from the others."""
    offsets = common_offsets(cases)
    for four in canonical(cases):
        yield from _against_best_single(four, offsets[four[0].task])
        yield from _against_best(four)
        yield from _embedding_arms(four, cases)
    yield from _ratio_slopes(cases)
    yield from _over_horizons(horizons)
    yield from _weight_decays(maps)


def _row(task: str, subject: str, width: int | None, statistic: str, value: Interval, why: str) -> dict[str, Any]:
    of = {"task": task, "subject": subject, "width": width, "statistic": statistic}
    return {**of, "unit": STATISTICS[statistic].table_unit, **estimated("estimate", value, why, ends="")}


def _against_best_single(four: list[Case], offsets: Floats) -> Records:
    """µP × ScheduleFree minus the better of the two methods that have one factor alone, at the widest width."""
    _, sp_free, mup, both = four
    parts = [both, sp_free, mup]
    rates = [stability.window(case.surface, case.optima, offsets) for case in parts]
    single: dict[str, Callable[[Surface, int], Floats]] = {
        "sensitivity_vs_best_single": lambda s, i: stability.lr_sensitivity(s, rates[i]),
        "diverged_vs_best_single": lambda s, i: stability.diverged_fraction(s, rates[i]),
        "best_of_3_vs_best_single": lambda s, i: best_of_3_excess(s),
        "basin_vs_best_single": lambda s, i: -stability.basin(s).width,
    }
    subject, why = f"{both.method} - best single factor", "not estimable for one of the three methods"
    for name, values in single.items():
        yield _row(both.task, subject, widest_shared(parts), name, _less_the_lowest(parts, values), why)


def _against_best(four: list[Case]) -> Records:
    """Best loss of µP × ScheduleFree minus the lowest of the other three, at the widest width."""
    parts = [four[3], *four[:3]]
    value = _less_the_lowest(parts, lambda s, i: stability.best_loss(s))
    subject, why = f"{four[3].method} - best other", "every rate of one of the methods diverged"
    yield _row(four[3].task, subject, widest_shared(parts), "loss_vs_best", value, why)


def _less_the_lowest(parts: Sequence[Case], values: Callable[[Surface, int], Floats]) -> Interval:
    """What the first case has at the widest width, minus the lowest of the others."""
    found = at_widest(parts, values)

    def difference(surfaces: list[Surface]) -> float:
        first, *others = found(surfaces)
        return first - min(others)

    return joint(parts, difference)


def _ratio_slopes(cases: Sequence[Case]) -> Records:
    why = "fewer than 3 widths have both optima inside the grid"
    for free, other in pairs(cases, scheduled):
        value = joint([free, other], lambda s: transfer.rate_ratio_slope(*at_common_widths(s)))
        yield _row(free.task, f"{free.method} / {other.method}", None, "rate_ratio_slope", value, why)


def _over_horizons(horizons: Sequence[OverHorizons]) -> Records:
    """The extremes of the anytime gap, and |h| of the schedule-free method minus that of its rival.

    Below 0, the best rate of the schedule-free method depends less on the horizon.
    """
    for free, rival in rivalries(horizons):
        of = (free.case.task, f"{free.case.method} - {rival.case.method}", free.width)
        gaps = anytime_extremes(free, rival)
        for i, name in enumerate(("anytime_max", "anytime_mean")):
            yield _row(*of, name, gaps[i], "no rate is free of divergence on both sides")
        drifts = joint([free, rival], lambda s: sub(*transfer.abs_drifts(s)))
        why = "fewer than 3 horizons have both optima inside the grid"
        yield _row(*of, "abs_horizon_drift_difference", drifts, why)


def _weight_decays(maps: Sequence[DecayMap]) -> Records:
    """λ* and lr·λ* of a schedule-free method minus those of the scheduled one, on the same map."""
    for mine, other in product(maps, repeat=2):
        same = (other.case.task, other.width, other.scaling) == (mine.case.task, mine.width, mine.scaling)
        if same and other.case.role == scheduled(mine.case.role):
            subject = f"{mine.case.method} - {other.case.method}, {mine.scaling}"
            edge = both_at_the_edge(mine, other)
            why = "both are best at the largest decay tried" if edge else "every cell of one map diverged"
            for name, times_lr in (("weight_decay_difference", False), ("lr_weight_decay_difference", True)):
                value = decay_difference(mine, other, times_lr)
                yield _row(mine.case.task, subject, mine.width, name, value, why)


def _embedding_arms(four: list[Case], cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
    """How much of SP's excess over µP an embedding rate × width removes alone, for arms that have it."""
    for plain, mup in ((four[0], four[2]), (four[1], four[3])):
        wanted = plain.role._replace(embedding_lr="times_width")
        for arm in cases:
            if (arm.task, arm.role) == (plain.task, wanted):
                yield from _embedding_arm(plain, arm, mup)


def _embedding_arm(plain: Case, arm: Case, mup: Case) -> Records:
    """The share of the gap in |drift|, and in regret and best loss at the widest width, over the widths that all three have."""
    parts = [plain, arm, mup]
    widest, held = widest_shared(parts), [case.transferred for case in parts]
    gaps: list[tuple[str, int | None, Callable[[list[Surface]], list[float]]]] = [
        ("drift", None, transfer.abs_drifts),
        ("regret", widest, at_widest(parts, lambda s, i: transfer.regret_held(s, held[i]))),
        ("loss", widest, at_widest(parts, lambda s, i: stability.best_loss(s))),
    ]
    why = "there is no gap between SP and µP, or an optimum is not inside the grid"
    for name, width, of in gaps:
        value = joint(parts, lambda surfaces, of=of: _share_closed(*of(surfaces)))  # type: ignore[misc]
        yield _row(arm.task, arm.method, width, f"embedding_gap_closed_{name}", value, why)


def _share_closed(plain: float, arm: float, mup: float) -> float:
    """(plain − arm) / (plain − µP); NaN where SP is no worse than µP."""
    return (plain - arm) / (plain - mup) if plain > mup else math.nan

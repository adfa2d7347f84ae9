"""Tables on schedules: all arms, the anytime gap, drift and regret across horizons, and what a schedule is worth."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mufree.analysis.metrics import schedule, transfer
from mufree.analysis.metrics.stability import best_loss
from mufree.analysis.metrics.statistics import Floats, Interval, at_level
from mufree.analysis.metrics.surface import Surface, at_common_widths, grid_argmin
from mufree.analysis.tables.cases import (
    PRIMARY,
    Case,
    Judged,
    Records,
    Role,
    common_seeds,
    estimated,
    interval_columns,
    joint,
    over_shared_widths,
    surface_of,
)
from mufree.study.limits import MIN_POINTS

HORIZON = re.compile(r"T/\d+")
"""The variant of a run that differs from the primary one in its length alone."""


@dataclass(frozen=True)
class OverHorizons(Judged):
    """One method at one width: losses over horizons (in steps) × rates × seeds."""

    case: Case
    width: int


def arms(cases: Sequence[Case]) -> Records:
    """The optimum of every cell that was run, primary or not."""
    for case in cases:
        sigma = transfer.seed_deviation(case.surface)
        for cell in case.cells:
            first, optimum = cell.runs.iloc[0], cell.optimum
            yield {
                **case.names,
                "variant": case.variant,
                **{name: first[name] for name in ("horizon", "beta1", "weight_decay", "weight_decay_scaling")},
                "width": cell.width,
                "log2_lr_opt": optimum.log2_lr,
                "log2_lr_argmin": optimum.log2_lr_argmin,
                "flag": optimum.flag,
                "best_loss": optimum.loss,
                "best_loss_se": sigma[cell.k] / math.sqrt(case.surface.n_seeds),
                **cell.counts,
            }


def over_horizons(cases: Sequence[Case], curves: pd.DataFrame) -> list[OverHorizons]:
    """Every method at every width that has horizons.

    An ordinary optimizer has a run of its own for each; a schedule-free one is read along its one run, at the horizons that
    an ordinary one of its task has there, since it needs no other.
    """
    primary = [case for case in cases if case.variant == PRIMARY]
    own = [found for case in primary for found in _own_horizons(case, cases)]
    validation = curves[curves["series"] == "val_loss"]
    read = []
    for cell in (cell for case in primary if case.role.schedule_free for cell in case.cells):
        rivals = [found for found in own if (found.case.task, found.width) == (cell.case.task, cell.width)]
        steps = sorted({int(step) for rival in rivals for step in rival.surface.widths})
        if steps:
            read.append(_read_along(cell.case, cell.width, steps, validation))
    return own + read


def _own_horizons(case: Case, cases: Sequence[Case]) -> Iterator[OverHorizons]:
    """A method with runs of two horizons or more, by width; none for a schedule-free one."""
    if case.role.schedule_free:
        return
    shorter = [other.runs for other in cases if other.names == case.names and HORIZON.fullmatch(other.variant)]
    runs = pd.concat([case.runs, *shorter])
    for width, mine in runs.groupby("width"):
        if mine["steps"].nunique() > 1:
            seeds = common_seeds(mine, ("steps", "log2_lr"))
            if seeds:
                surface = surface_of(mine[mine["seed"].isin(seeds)], seeds, axis="steps")
                yield OverHorizons(surface, seeds, case, int(str(width)))


def _read_along(case: Case, width: int, steps: list[int], validation: pd.DataFrame) -> OverHorizons:
    """Full runs, with their validation loss at x at each of the steps instead of the last."""
    runs = case.judged[case.judged["width"] == width]
    at = validation[validation["step"].isin(steps) & validation["run_id"].isin(runs["run_id"])]
    along = runs.drop(columns=["steps", "val_loss"]).merge(
        at[["run_id", "step", "value"]].rename(columns={"step": "steps", "value": "val_loss"}), on="run_id", how="inner"
    )
    # A run that was stopped has no loss at later steps; it counts as diverged at all of them.
    lost = runs[~runs["run_id"].isin(along.loc[along["steps"] == steps[-1], "run_id"])]
    whole = along[~along["run_id"].isin(lost["run_id"])]
    stopped = [lost.drop(columns="val_loss").assign(steps=step, val_loss=math.nan, status="diverged") for step in steps]
    surface = surface_of(pd.concat([whole, *(part for part in stopped if len(part))]), case.seeds, axis="steps")
    return OverHorizons(surface, case.seeds, case, width)


def anytime(found: Sequence[OverHorizons]) -> Records:
    """One schedule-free run against rivals that were told the horizon, of the same parametrization and kind of optimizer."""
    for free, rival in rivalries(found):
        gap = joint([free, rival], lambda surfaces: schedule.anytime_gaps_cf(*surfaces))
        narrow = at_level(gap, 0.90)
        losses, rivals = _tuned_at_last(free.surface), best_loss(rival.surface)
        whole = int(free.case.runs["steps"].iloc[0])
        for h, steps in enumerate(free.surface.widths):
            yield {
                **free.case.names,
                "parametrization": free.case.role.parametrization,
                "rival": rival.case.method,
                "width": free.width,
                "horizon": float(steps) / whole,
                "loss": losses[h],
                "rival_loss": rivals[h],
                "gap_low90": narrow.low[h],
                "gap_high90": narrow.high[h],
                **estimated("gap", gap[h], "no rate is free of divergence on both sides"),
            }


def anytime_extremes(free: OverHorizons, rival: OverHorizons) -> Interval:
    """The greatest and the mean anytime gap over the horizons of a pair, [2]."""

    def extremes(surfaces: list[Surface]) -> Floats:
        gaps = schedule.anytime_gaps_cf(*surfaces)
        return np.array([gaps.max(), gaps.mean()])

    return joint([free, rival], extremes)


def horizon(found: Sequence[OverHorizons]) -> Records:
    """How the best rate moves with the horizon, and what the rate of the shortest one costs at the longest."""
    return [_horizon(one) for one in found]


def _horizon(one: OverHorizons) -> dict[str, Any]:
    n, rate = len(one.surface.widths), transfer.transferred_rate(one.surface)
    few = f"{n} horizons, and a slope takes {MIN_POINTS}"
    why = few if n < MIN_POINTS else "an optimum lies at an edge of the grid"
    return {
        **one.case.names,
        "width": one.width,
        "n_horizons": n,
        **interval_columns("regret", one.over_seeds(lambda kept: transfer.regret_held(kept, rate)[-1])),
        **estimated("drift", one.over_seeds(transfer.drift), why),
    }


def premium(cases: Sequence[Case]) -> Records:
    """What a falling schedule is worth: the best loss at a constant rate minus the best one with the schedule."""
    why = "no rate is free of divergence on both sides"
    for constant in map(_without_average, cases):
        for scheduled in cases:
            if constant.task == scheduled.task and _same_but_schedule(constant.role, scheduled.role):
                for row in over_shared_widths([constant, scheduled], "premium", schedule.premium_cf, why):
                    yield {**row, "constant": constant.method, "scheduled": scheduled.method}


def _without_average(case: Case) -> Case:
    """The case read at its raw weights, which an average of them does not touch; the case itself if it has none."""
    if case.role.average == "none":
        return case
    raw = case.judged.assign(val_loss=case.judged["val_loss_y"])
    return replace(case, role=case.role._replace(average="none"), judged=raw, surface=surface_of(raw, case.seeds))


def _same_but_schedule(constant: Role, scheduled: Role) -> bool:
    return (
        constant.schedule == "constant"
        and scheduled.schedule != "constant"
        and constant._replace(schedule=scheduled.schedule) == scheduled
    )


def rivalries(found: Sequence[OverHorizons]) -> Iterator[tuple[OverHorizons, OverHorizons]]:
    """Each schedule-free method with each ordinary one of the same task, width, parametrization and base optimizer.

    Both at the horizons that they share.
    """
    for free in found:
        for rival in found:
            mine, other = free.case.role, rival.case.role
            if (
                (free.case.task, free.width) == (rival.case.task, rival.width)
                and mine.optimizer == f"{other.optimizer}_schedulefree"
                and (mine.parametrization, mine.embedding_lr) == (other.parametrization, other.embedding_lr)
            ):
                surfaces = at_common_widths([free.surface, rival.surface])
                yield replace(free, surface=surfaces[0]), replace(rival, surface=surfaces[1])


def _tuned_at_last(surface: Surface) -> Floats:
    """Mean loss at each horizon of the rate that is best at the last one, [H]."""
    best = int(grid_argmin(surface)[-1])
    return np.full(len(surface.widths), math.nan) if best < 0 else np.asarray(surface.mean_loss[:, best])

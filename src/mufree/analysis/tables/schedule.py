"""Tables on schedules: all arms, the anytime gap, drift and regret across horizons, and what a schedule is worth."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from mufree.analysis.metrics import schedule, transfer
from mufree.analysis.metrics.stability import best_loss
from mufree.analysis.metrics.statistics import MIN_POINTS, Floats, at_level
from mufree.analysis.metrics.surface import Surface, at_common_widths, common_widths, grid_argmin, optima
from mufree.analysis.tables.cases import (
    PRIMARY,
    Case,
    Records,
    Role,
    common_seeds,
    interval_columns,
    joint,
    over_common_seeds,
    status,
    surface_of,
)

HORIZON = re.compile(r"T/\d+")
"""The variant of a run that differs from the primary one in its length alone."""


@dataclass(frozen=True)
class OverHorizons:
    """One method at one width: losses over horizons (in steps) × rates × seeds."""

    case: Case
    width: int
    surface: Surface
    seeds: list[int]
    steps: int

    @property
    def shares(self) -> list[float]:
        """Horizons as shares of the full one, ascending."""
        return [float(steps) / self.steps for steps in self.surface.widths]


def arms(cases: Sequence[Case]) -> Records:
    """The optimum of every cell that was run, primary or not."""
    records = []
    for case in cases:
        sigma = transfer.seed_deviation(case.surface)
        for k, (width, optimum) in enumerate(zip(case.widths, case.optima, strict=True)):
            runs = case.runs[case.runs["width"] == width]
            first = runs.iloc[0]
            records.append(
                {
                    **case.names,
                    "variant": case.variant,
                    **{name: first[name] for name in ("horizon", "beta1", "weight_decay", "weight_decay_scaling")},
                    "width": width,
                    "log2_lr_opt": optimum.log2_lr,
                    "log2_lr_argmin": optimum.log2_lr_argmin,
                    "flag": optimum.flag,
                    "best_loss": optimum.loss,
                    "best_loss_se": sigma[k] / math.sqrt(case.surface.n_seeds),
                    "n_seeds": case.surface.n_seeds,
                    "n_runs": len(runs),
                    "n_diverged": int((runs["status"] == "diverged").sum()),
                }
            )
    return records


def over_horizons(cases: Sequence[Case], curves: pd.DataFrame) -> list[OverHorizons]:
    """Every method at every width that has horizons.

    An ordinary optimizer has a run of its own for each; a schedule-free one is read along its one run, at the horizons that
    an ordinary one of its task has there, since it needs no other.
    """
    own = [found for case in cases if case.variant == PRIMARY for found in _own_horizons(case, cases)]
    validation = curves[curves["series"] == "val_loss"]
    read = []
    for case in cases:
        if case.variant == PRIMARY and case.role.schedule_free:
            for width in case.widths:
                rivals = [found for found in own if found.case.task == case.task and found.width == width]
                steps = sorted({int(step) for rival in rivals for step in rival.surface.widths})
                if steps:
                    read.append(_read_along(case, width, steps, validation))
    return own + read


def _own_horizons(case: Case, cases: Sequence[Case]) -> Iterator[OverHorizons]:
    """A method with runs of two horizons or more, by width; none for a schedule-free one."""
    if case.role.schedule_free:
        return
    siblings = [
        other
        for other in cases
        if (other.task, other.method) == (case.task, case.method) and HORIZON.fullmatch(other.variant)
    ]
    runs = pd.concat([case.runs, *(other.runs for other in siblings)])
    for width, mine in runs.groupby("width"):
        if mine["steps"].nunique() > 1:
            seeds = common_seeds(mine, ("steps", "log2_lr"))
            if seeds:
                surface = surface_of(mine[mine["seed"].isin(seeds)], seeds, axis="steps")
                yield OverHorizons(case, int(str(width)), surface, seeds, int(case.runs["steps"].iloc[0]))


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
    return OverHorizons(case, width, surface, case.seeds, int(case.runs["steps"].iloc[0]))


def anytime(found: Sequence[OverHorizons]) -> Records:
    """One schedule-free run against rivals that were told the horizon, of the same parametrization and kind of optimizer."""
    records = []
    for free, rival in rivalries(found):
        parts = at_common_horizons(free, rival)
        (mine, _), (other, _) = parts
        gap = over_common_seeds(parts, lambda s: schedule.anytime_gaps_cf(*s))
        narrow = at_level(gap, 0.90)
        losses, rivals = _tuned_at_last(mine), best_loss(other)
        for h, steps in enumerate(mine.widths):
            records.append(
                {
                    **_pair(free, rival),
                    "horizon": float(steps) / free.steps,
                    "loss": losses[h],
                    "rival_loss": rivals[h],
                    **interval_columns("gap", gap[h]),
                    "gap_low90": narrow.low[h],
                    "gap_high90": narrow.high[h],
                    "n_seeds": gap.n,
                    **status(gap[h], "no rate is free of divergence on both sides"),
                }
            )
    return records


def anytime_extremes(found: Sequence[OverHorizons]) -> Records:
    """The greatest and the mean anytime gap over the horizons of each pair, for the estimates."""
    records = []
    for free, rival in rivalries(found):
        gaps = over_common_seeds(at_common_horizons(free, rival), lambda s: _extremes(schedule.anytime_gaps_cf(*s)))
        for i, name in enumerate(("anytime_max", "anytime_mean")):
            records.append({**_pair(free, rival), "statistic": name, "interval": gaps[i]})
    return records


def _extremes(gaps: Floats) -> Floats:
    """Greatest and mean gap, [2]."""
    return np.array([gaps.max(), gaps.mean()])


def horizon(found: Sequence[OverHorizons]) -> Records:
    """How the best rate moves with the horizon, and what the rate of the shortest one costs at the longest."""
    records = []
    for one in found:
        drift = over_common_seeds([(one.surface, one.seeds)], lambda s: schedule.horizon_drift(s[0]))
        rate = transfer.transferred_rate(one.surface)
        regret = over_common_seeds([(one.surface, one.seeds)], partial(_horizon_regret, rate=rate))
        few = f"{len(one.surface.widths)} horizons, and a slope takes {MIN_POINTS}"
        why = few if len(one.surface.widths) < MIN_POINTS else "an optimum lies at an edge of the grid"
        records.append(
            {
                **one.case.names,
                "width": one.width,
                **interval_columns("drift", drift),
                "n_horizons": len(one.surface.widths),
                **interval_columns("regret", regret),
                "n_seeds": drift.n,
                **status(drift, why),
            }
        )
    return records


def _horizon_regret(surfaces: list[Surface], rate: int) -> float:
    return schedule.horizon_regret(surfaces[0], rate)


def premium(cases: Sequence[Case]) -> Records:
    """What a falling schedule is worth: the best loss at a constant rate minus the best one with the schedule."""
    primary = [case for case in cases if case.variant == PRIMARY]
    return [
        row
        for constant in [_without_average(case) for case in primary]
        for scheduled in primary
        if constant.task == scheduled.task and _same_but_schedule(constant.role, scheduled.role)
        for row in _premium(constant, scheduled)
    ]


def _without_average(case: Case) -> Case:
    """The case read at its raw weights, which an average of them does not touch; the case itself if it has none."""
    if case.role.average == "none":
        return case
    raw = case.judged.assign(val_loss=case.judged["val_loss_y"])
    surface = surface_of(raw, case.seeds)
    return replace(case, role=case.role._replace(average="none"), judged=raw, surface=surface, optima=optima(surface))


def _same_but_schedule(constant: Role, scheduled: Role) -> bool:
    return (
        constant.schedule == "constant"
        and scheduled.schedule != "constant"
        and constant._replace(schedule=scheduled.schedule) == scheduled
    )


def _premium(constant: Case, scheduled: Case) -> Iterator[dict[str, Any]]:
    both = [constant, scheduled]
    value = joint(both, lambda s: schedule.premium_cf(*at_common_widths(s)))
    for k, width in enumerate(common_widths(case.surface for case in both)):
        yield {
            "task": constant.task,
            "parametrization": constant.role.parametrization,
            "width": int(width),
            "constant": constant.method,
            "scheduled": scheduled.method,
            **interval_columns("premium", value[k]),
            "n_seeds": value.n,
            **status(value[k], "no rate is free of divergence on both sides"),
        }


def rivalries(found: Sequence[OverHorizons]) -> Iterator[tuple[OverHorizons, OverHorizons]]:
    """Each schedule-free method with each ordinary one of the same task, width, parametrization and base optimizer."""
    for free in found:
        for rival in found:
            mine, other = free.case.role, rival.case.role
            if (
                (free.case.task, free.width) == (rival.case.task, rival.width)
                and mine.optimizer == f"{other.optimizer}_schedulefree"
                and (mine.parametrization, mine.embedding_lr) == (other.parametrization, other.embedding_lr)
            ):
                yield free, rival


def at_common_horizons(free: OverHorizons, rival: OverHorizons) -> list[tuple[Surface, list[int]]]:
    """The surfaces of both at the horizons that they share, each with its seeds."""
    surfaces = at_common_widths([free.surface, rival.surface])
    return list(zip(surfaces, (free.seeds, rival.seeds), strict=True))


def _pair(free: OverHorizons, rival: OverHorizons) -> dict[str, object]:
    return {
        "task": free.case.task,
        "parametrization": free.case.role.parametrization,
        "method": free.case.method,
        "rival": rival.case.method,
        "width": free.width,
    }


def _tuned_at_last(surface: Surface) -> Floats:
    """Mean loss at each horizon of the rate that is best at the last one, [H]."""
    best = int(grid_argmin(surface)[-1])
    return np.full(len(surface.widths), math.nan) if best < 0 else np.asarray(surface.mean_loss[:, best])

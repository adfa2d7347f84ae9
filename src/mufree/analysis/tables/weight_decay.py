"""Tables on weight decay: the map over decay and rate, and where its optimum lies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mufree.analysis.metrics.statistics import Interval, agreement
from mufree.analysis.metrics.surface import Surface
from mufree.analysis.tables.cases import PRIMARY, Case, Judged, Records, joint, surface_of


@dataclass(frozen=True)
class DecayMap(Judged):
    """One method at one width and one way of scaling: losses over weight decays (in the place of widths) × rates × seeds."""

    case: Case
    width: int
    scaling: str

    @property
    def names(self) -> dict[str, object]:
        """The columns that say which map it is."""
        return {**self.case.names, "width": self.width, "weight_decay_scaling": self.scaling}


def best(surface: Surface) -> tuple[int, int] | None:
    """Positions of the best decay and rate, of those free of divergence; a tie goes to the lower."""
    mean = surface.mean_loss
    if np.isnan(mean).all():
        return None
    row, column = np.unravel_index(int(np.nanargmin(mean)), mean.shape)
    return int(row), int(column)


def best_decay(surface: Surface, times_lr: bool = False) -> float:
    """The best weight decay, or with `times_lr` the product of both at the best cell; NaN where every cell diverged."""
    where = best(surface)
    if where is None:
        return math.nan
    return float(surface.widths[where[0]] * (2 ** surface.log2_lrs[where[1]] if times_lr else 1.0))


def maps(cases: Sequence[Case]) -> list[DecayMap]:
    """All maps of the study. A decay of zero is the same however it scales, and belongs to each map."""
    return [found for case in cases if case.variant == PRIMARY for found in _maps(case, cases)]


def _maps(case: Case, cases: Sequence[Case]) -> Iterator[DecayMap]:
    runs = pd.concat([other.runs for other in cases if other.names == case.names])
    runs = runs[(runs["horizon"] == 1) & (runs["beta1"] == case.runs["beta1"].iloc[0])]
    for width, mine in runs.groupby("width"):
        decayed = mine[mine["weight_decay"] > 0]
        if mine["weight_decay"].nunique() < 2:
            continue
        for scaling in sorted(decayed["weight_decay_scaling"].unique()):
            here = mine[(mine["weight_decay_scaling"] == scaling) | (mine["weight_decay"] == 0)]
            yield from _map(case, int(str(width)), str(scaling), here)


def _map(case: Case, width: int, scaling: str, runs: pd.DataFrame) -> Iterator[DecayMap]:
    """The map over the rates and seeds that every decay has; nothing if they share none."""
    groups = [part for _, part in runs.groupby("weight_decay")]
    rates = sorted(set.intersection(*(set(part["log2_lr"]) for part in groups)))
    seeds = sorted(set.intersection(*(set(part["seed"]) for part in groups)))
    runs = runs[runs["log2_lr"].isin(rates) & runs["seed"].isin(seeds)]
    if not len(runs) or len(runs) < len(groups) * len(rates) * len(seeds):
        return
    surface = surface_of(runs, seeds, axis="weight_decay")
    yield DecayMap(surface, [int(seed) for seed in seeds], case, width, scaling)


def weight_decay(found: Sequence[DecayMap]) -> Records:
    """Every cell of every map."""
    for one in found:
        surface = one.surface
        for i, j in np.ndindex(surface.mean_loss.shape):
            losses = surface.loss[i, j][~surface.diverged[i, j]]
            yield {
                **one.names,
                "weight_decay": surface.widths[i],
                "log2_lr": surface.log2_lrs[j],
                "mean_loss": losses.mean() if len(losses) else math.nan,
                "se": losses.std(ddof=1) / math.sqrt(len(losses)) if len(losses) > 1 else math.nan,
                "n_seeds": surface.n_seeds,
                "n_diverged": int(surface.diverged[i, j].sum()),
            }


def weight_decay_optimum(found: Sequence[DecayMap]) -> Records:
    """The best cell of each map, and how many leave-one-seed-out replicates have the same best decay."""
    for one in found:
        surface, where = one.surface, best(one.surface)
        numbers: dict[str, object] = {}
        if where is not None:
            decay, rate = surface.widths[where[0]], surface.log2_lrs[where[1]]
            numbers = {
                "weight_decay": decay,
                "log2_lr": rate,
                "log2_lr_weight_decay": rate + math.log2(decay) if decay > 0 else math.nan,
                "best_loss": surface.loss[where].mean(),
                "agreement": _agreement(surface),
            }
        yield {**one.names, "n_seeds": surface.n_seeds, "flag": _flag(surface), **numbers}


def _agreement(surface: Surface) -> float:
    return agreement(lambda kept: best_decay(surface.keep(kept)), surface.n_seeds)


def _flag(surface: Surface) -> str:
    """Where the best cell lies; a decay of zero is no edge, since there is nothing below it."""
    where = best(surface)
    if where is None:
        return "all_diverged"
    if where[0] == len(surface.widths) - 1:
        return "edge_high"
    return "edge_lr" if where[1] in (0, len(surface.log2_lrs) - 1) else "ok"


def decay_difference(mine: DecayMap, other: DecayMap, times_lr: bool) -> Interval:
    """λ* of one minus λ* of the other, or lr·λ* with `times_lr`; an interval over the seeds in common.

    NaN where both are best at the largest decay tried: the grid ends there, and their difference is unknown. With one of them
    there it is a bound, and kept.
    """
    censored = both_at_the_edge(mine, other)

    def difference(surfaces: list[Surface]) -> float:
        lambdas = [best_decay(surface, times_lr) for surface in surfaces]
        return math.nan if censored else lambdas[0] - lambdas[1]

    return joint([mine, other], difference)


def both_at_the_edge(*both: DecayMap) -> bool:
    """Whether each map is best at the largest decay tried."""
    return all(_flag(one.surface) == "edge_high" for one in both)

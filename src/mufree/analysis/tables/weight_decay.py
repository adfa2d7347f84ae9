"""Tables on weight decay: the map over decay and rate, and where its optimum lies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mufree.analysis.metrics.statistics import Bools, Floats, Interval, Ints, agreement, jackknife
from mufree.analysis.tables.cases import PRIMARY, Case, Records


@dataclass(frozen=True)
class DecayMap:
    """One method at one width and one way of scaling: mean losses over weight decays × rates × seeds, NaN where diverged."""

    case: Case
    width: int
    scaling: str
    decays: Floats
    log2_lrs: Floats
    seeds: list[int]
    loss: Floats
    diverged: Bools

    @property
    def names(self) -> dict[str, object]:
        """The columns that say which map it is."""
        return {**self.case.names, "width": self.width, "weight_decay_scaling": self.scaling}

    def best(self, kept: Ints | None = None) -> tuple[int, int] | None:
        """Positions of the best decay and rate on these seeds, of those free of divergence; a tie goes to the lower."""
        kept = np.arange(len(self.seeds)) if kept is None else kept
        mean = np.where(self.diverged[:, :, kept].any(axis=2), np.nan, self.loss[:, :, kept].mean(axis=2))
        if np.isnan(mean).all():
            return None
        row, column = np.unravel_index(int(np.nanargmin(mean)), mean.shape)
        return int(row), int(column)

    def best_row(self, kept: Ints) -> int | None:
        """Position of the best decay on these seeds, whichever rate it goes with."""
        best = self.best(kept)
        return None if best is None else best[0]


def maps(cases: Sequence[Case]) -> list[DecayMap]:
    """All maps of the study. A decay of zero is the same however it scales, and belongs to each map."""
    return [found for case in cases if case.variant == PRIMARY for found in _maps(case, cases)]


def _maps(case: Case, cases: Sequence[Case]) -> Iterator[DecayMap]:
    siblings = [other.runs for other in cases if (other.task, other.method) == (case.task, case.method)]
    runs = pd.concat(siblings)
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
    ordered = runs.sort_values(["weight_decay", "log2_lr", "seed"])
    shape = (len(groups), len(rates), len(seeds))
    died = (ordered["status"] == "diverged").to_numpy().reshape(shape)
    loss = np.where(died, np.nan, ordered["val_loss"].to_numpy(np.float64).reshape(shape))
    decays = np.sort(runs["weight_decay"].unique())
    yield DecayMap(case, width, scaling, decays, np.array(rates, float), [int(s) for s in seeds], loss, died)


def weight_decay(found: Sequence[DecayMap]) -> Records:
    """Every cell of every map."""
    records = []
    for one in found:
        for i, decay in enumerate(one.decays):
            for j, rate in enumerate(one.log2_lrs):
                losses = one.loss[i, j][~one.diverged[i, j]]
                records.append(
                    {
                        **one.names,
                        "weight_decay": decay,
                        "log2_lr": rate,
                        "mean_loss": losses.mean() if len(losses) else math.nan,
                        "se": losses.std(ddof=1) / math.sqrt(len(losses)) if len(losses) > 1 else math.nan,
                        "n_seeds": len(one.seeds),
                        "n_diverged": int(one.diverged[i, j].sum()),
                    }
                )
    return records


def weight_decay_optimum(found: Sequence[DecayMap]) -> Records:
    """The best cell of each map, and how many leave-one-seed-out replicates have the same best decay."""
    records = []
    for one in found:
        best = one.best()
        if best is None:
            numbers: dict[str, object] = {"flag": "all_diverged"}
        else:
            row, column = best
            decay, rate = one.decays[row], one.log2_lrs[column]
            numbers = {
                "weight_decay": decay,
                "log2_lr": rate,
                "log2_lr_weight_decay": rate + math.log2(decay) if decay > 0 else math.nan,
                "best_loss": one.loss[row, column].mean(),
                "agreement": agreement(one.best_row, len(one.seeds)),
                "flag": _flag(one, row, column),
            }
        records.append({**one.names, "n_seeds": len(one.seeds), **numbers})
    return records


def _flag(one: DecayMap, row: int, column: int) -> str:
    """Where the best cell lies; a decay of zero is no edge, since there is nothing below it."""
    if row == len(one.decays) - 1:
        return "edge_high"
    return "edge_lr" if column in (0, len(one.log2_lrs) - 1) else "ok"


def decay_difference(mine: DecayMap, other: DecayMap, times_lr: bool) -> Interval:
    """λ* of one minus λ* of the other, or lr·λ* with `times_lr`; an interval over the seeds in common.

    NaN where both are best at the largest decay tried: the grid ends there, and their difference is unknown. With one of them
    there it is a bound, and kept.
    """
    common = sorted(set(mine.seeds) & set(other.seeds))
    places = [np.searchsorted(one.seeds, common) for one in (mine, other)]
    censored = both_at_the_edge(mine, other)

    def statistic(kept: Ints) -> float:
        if censored:
            return math.nan
        values = []
        for one, where in zip((mine, other), places, strict=True):
            best = one.best(where[kept])
            if best is None:
                return math.nan
            values.append(one.decays[best[0]] * (2 ** one.log2_lrs[best[1]] if times_lr else 1.0))
        return float(values[0] - values[1])

    return jackknife(statistic, len(common))


def both_at_the_edge(*both: DecayMap) -> bool:
    """Whether each map is best at the largest decay tried."""
    return all(best is not None and _flag(one, *best) == "edge_high" for one in both for best in [one.best()])

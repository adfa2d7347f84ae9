"""How many seeds a hypothesis needs, by what another study found: one row a hypothesis, task, condition and width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mufree.analysis.metrics.power import seeds_needed
from mufree.analysis.tables.cases import Records
from mufree.analysis.verdicts import estimates_of, ranges
from mufree.study.config import METHODS
from mufree.study.hypotheses import Condition, Hypothesis

TIMES = ("setup_seconds", "train_seconds", "evaluate_seconds")

COLUMNS = [
    *("id", "task", "statistic", "subject", "width", "estimate", "sd", "outcome", "seeds", "seeds_holm"),
    *("core_hours_a_seed", "core_hours", "core_hours_holm", "reason"),
]


def seeds_table(estimates: pd.DataFrame, hypotheses: Sequence[Hypothesis], timings: pd.DataFrame) -> pd.DataFrame:
    """Seeds with which each condition would come out, at the level alone and at Holm's first, if its estimates were the truth.

    `outcome` is which of the two ranges of the condition the estimate lies in; neither where it lies in none. sd is the
    standard error of one seed. `seeds_holm` is at the level over the number of primary hypotheses, for those.
    core_hours_a_seed is what a seed of the task's four methods took at the widths and rates of `timings` (a row a task, method
    and width, with the runs of all seeds), whatever the condition needs of them.
    """
    return pd.DataFrame(_rows(estimates, hypotheses, timings), columns=COLUMNS)


def _rows(estimates: pd.DataFrame, hypotheses: Sequence[Hypothesis], timings: pd.DataFrame) -> Records:
    family = sum(h.kind == "primary" for h in hypotheses)
    for h in hypotheses:
        for task, here in estimates.groupby("task"):
            price = _hours_a_seed(timings[timings["task"].eq(task)], here)
            for condition in h.conditions:
                for row in estimates_of(condition, here):
                    yield {"id": h.id, "task": task, **_needed(condition, row, here, h, family, price)}


def _needed(
    condition: Condition, row: dict[str, Any], estimates: pd.DataFrame, h: Hypothesis, family: int, price: float
) -> dict[str, Any]:
    """What one estimate needs; of both ranges the one that it lies in, and the one that contradicts where it lies in both."""
    sd = row["se"] * math.sqrt(row["n_seeds"] or math.nan)
    supports, contradicts = ranges(condition, row, estimates)
    found = {"refuted": contradicts, "supported": supports, "neither": (math.nan, math.nan)}
    outcome = next(o for o, (low, high) in found.items() if o == "neither" or low < row["estimate"] < high)
    # The test of `excludes_zero` has two sides.
    level = h.level / 2 if condition.rule == "excludes_zero" and outcome == "supported" else h.level
    alone = seeds_needed(row["estimate"], sd, found[outcome], level)
    holm = seeds_needed(row["estimate"], sd, found[outcome], level / family) if h.kind == "primary" else math.nan
    return {
        "statistic": condition.statistic,
        "subject": row["subject"],
        "width": row["width"],
        "estimate": row["estimate"],
        "sd": sd,
        "outcome": "" if math.isnan(sd) else outcome,
        "seeds": alone,
        "seeds_holm": holm,
        "core_hours_a_seed": price,
        "core_hours": alone * price,
        "core_hours_holm": holm * price,
        "reason": row["reason"] if math.isnan(sd) else "",
    }


def _hours_a_seed(timings: pd.DataFrame, estimates: pd.DataFrame) -> float:
    """Core-hours that the runs of the four methods took, over the seeds."""
    mine = timings[timings["method"].isin(list(METHODS))]
    seconds = mine[list(TIMES)].to_numpy(np.float64).sum()
    return float(seconds / 3600 / estimates["n_seeds"].max())

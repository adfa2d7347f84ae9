"""Each estimate over all tasks at once: their random-effects mean, and what they differ by."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mufree.analysis.metrics.pooled import pool
from mufree.analysis.metrics.statistics import at_level
from mufree.analysis.tables.cases import Records, interval_columns, plain_records
from mufree.analysis.tables.estimates import COLUMNS as ESTIMATE_COLUMNS
from mufree.study.limits import MIN_SEEDS, MIN_TASKS

LARGEST = "largest"
"""What stands in `at` for an estimate that has a width: it is that of each task's largest width."""

OF_ONE_TASK = ("best_loss", "log2_lr_opt", "loss_limit")
"""Statistics whose mean over tasks says nothing: each task has a level of its own."""

COLUMNS = [
    *("subject", "at", "statistic", "estimate", "low", "high", "low90", "high90", "se", "tau", "i2", "p_same"),
    *("n_tasks", "tasks", "left_out", "unit"),
]


def pooled(estimates: pd.DataFrame) -> pd.DataFrame:
    """The pooled estimates of a table of estimates; of a statistic by width, that of each task's largest width.

    A task is left out, and named, where its estimate has no standard error or fewer seeds than are judged. With fewer than
    `MIN_TASKS` left there is no row; nor where a task's error is 0, since no seed changes its choice of a rate: the mean of the
    others would leave out those that agree best.
    """
    widest = estimates.groupby("task")["width"].transform("max")
    here = estimates[estimates["width"].isna() | estimates["width"].eq(widest)]
    here = here[~here["statistic"].isin(OF_ONE_TASK)]
    here = here.assign(at=np.where(here["width"].isna(), "", LARGEST))
    return pd.DataFrame(_rows(here), columns=COLUMNS)


def _rows(here: pd.DataFrame) -> Records:
    for (subject, at, statistic), found in here.groupby(["subject", "at", "statistic"], sort=True):
        usable = found["se"].notna() & found["n_seeds"].ge(MIN_SEEDS) & np.isfinite(found["estimate"])
        tasks = found[usable]
        if len(tasks) < MIN_TASKS or tasks["se"].eq(0).any():
            continue
        result = pool(tasks["estimate"].to_numpy(np.float64), tasks["se"].to_numpy(np.float64))
        at90 = at_level(result.mean, 0.90)
        yield {
            "subject": subject,
            "at": at,
            "statistic": statistic,
            **interval_columns("estimate", result.mean, ends=""),
            "low90": float(at90.low),
            "high90": float(at90.high),
            "se": float(result.mean.se),
            "tau": result.tau,
            "i2": result.i2,
            "p_same": result.p,
            "n_tasks": len(tasks),
            "tasks": " ".join(tasks["task"]),
            "left_out": " ".join(found[~usable]["task"]),
            "unit": found["unit"].iloc[0],
        }


def as_estimates(table: pd.DataFrame, task: str) -> pd.DataFrame:
    """The table in the columns of `estimates`, under the name of a task; what was judged by seeds is judged by tasks."""
    rows = [
        {**row, "task": task, "width": pd.NA, "n_seeds": row["n_tasks"], "status": "ok", "reason": ""}
        for row in plain_records(table)
    ]
    return pd.DataFrame(rows, columns=ESTIMATE_COLUMNS)

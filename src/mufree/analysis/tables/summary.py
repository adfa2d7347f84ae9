"""Plain numbers of a study for the report's sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mufree.analysis.tables.cases import PRIMARY, methods_of, tasks_of
from mufree.analysis.tables.stability import divergences


def summary(rows: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Counts of all runs, and the main numbers of the primary cells, ready for JSON: None where a number is missing.

    `best_method` has the lowest validation loss at the largest width of the task, among the methods trained there.
    """
    primary = rows[rows["variant"] == PRIMARY]
    return {
        **_counts(rows),
        "n_primary": len(primary),
        "tasks": {task: _task_summary(task, primary[primary["task"] == task], tables) for task in tasks_of(primary)},
    }


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    return {**divergences(rows), "n_tasks": rows["task"].nunique(), "n_methods": rows["method"].nunique()}


def _task_summary(task: str, rows: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    of_task = {name: table[table["task"] == task] for name, table in tables.items()}
    widest = int(rows["width"].max())
    best = (
        of_task["optima"].query("width == @widest").dropna(subset="best_loss").sort_values("best_loss", kind="stable")
    )
    control = of_task["control"]
    spans = of_task["stability"]["span"]
    return {
        **divergences(rows),
        "dataset": str(rows["dataset"].iloc[0]),
        "model": str(rows["model"].iloc[0]),
        "base_width": int(rows["base_width"].iloc[0]),
        "widths": sorted(int(width) for width in rows["width"].unique()),
        "largest_width": widest,
        "log2_lr_min": int(rows["log2_lr"].min()),
        "log2_lr_max": int(rows["log2_lr"].max()),
        "n_seeds": rows["seed"].nunique(),
        "window_span": _plain(spans.iloc[0]),
        "control_pairs": int(control["n_pairs"].sum()),
        "control_equal": int(control["n_equal"].sum()),
        "best_method": str(best["method"].iloc[0]) if len(best) else None,
        "methods": {
            method: _method_summary(method, widest, rows[rows["method"] == method], of_task)
            for method in methods_of(rows)
        },
    }


def _method_summary(method: str, widest: int, rows: pd.DataFrame, of_task: dict[str, pd.DataFrame]) -> dict[str, Any]:
    drift = of_task["transfer"].set_index("method").loc[method]
    result = divergences(rows) | {
        name: _plain(drift[name]) for name in ("drift", "drift_low", "drift_high", "equivalent", "status", "reason")
    }
    for table, columns in (
        ("optima", ["log2_lr_opt", "flag", "best_loss", "best_loss_se", "val_accuracy", "test_loss", "test_accuracy"]),
        ("regret", ["regret_cf", "regret_cf_low", "regret_cf_high", "good"]),
        ("stability", ["diverged_fraction", "headroom", "lr_sensitivity"]),
    ):
        cell = of_task[table].query("method == @method and width == @widest")
        result |= {name: _plain(cell[name].iloc[0]) if len(cell) else None for name in columns}
    return result


def _plain(value: Any) -> Any:
    """A value of JSON: None for what is missing, Python's own types for numpy's."""
    if pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value

"""Tables on stability: what diverges, how much the rate matters, spikes, and how smoothly the loss falls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from mufree.analysis.metrics import stability as stable
from mufree.analysis.metrics.statistics import Bools, Floats, wilson
from mufree.analysis.tables.cases import Case, Records, interval_columns, mean_interval
from mufree.study.config import METHODS
from mufree.study.limits import SPIKE_FACTORS

DIVERGENCES = ("nonfinite", "above_start", "rebound")
"""The ways in which a run diverges."""


def stability(cases: Sequence[Case]) -> Records:
    """Divergence, headroom, LR sensitivity and basin of every width."""
    offsets = common_offsets(cases)
    return [row for case in cases for row in _stability_of(case, offsets[case.task])]


def common_offsets(cases: Sequence[Case]) -> dict[str, Floats]:
    """The window of each task: what the study's four methods have in common, or all methods where none of the four was run.

    Other methods are judged over the same window if their grid has it: a control with a short grid must not narrow it.
    """
    found = {}
    for task, group in groupby(cases, key=lambda case: case.task):
        of_task = list(group)
        four = [case for case in of_task if case.method in METHODS] or of_task
        found[task] = stable.common_offsets((case.surface, case.optima) for case in four)
    return found


def _stability_of(case: Case, offsets: Floats) -> Records:
    surface = case.surface
    rates = stable.window(surface, case.optima, offsets)
    sensitivity = case.over_seeds(lambda kept: stable.lr_sensitivity(kept, rates))
    normalised = stable.lr_sensitivity_normalised(surface, rates)
    largest, headroom = stable.max_stable_log2_lr(surface), stable.headroom(surface)
    basin = stable.basin(surface)
    for cell in case.cells:
        k = cell.k
        yield {
            **cell.names,
            **cell.counts,
            **{f"n_{kind}": int((cell.runs["divergence"] == kind).sum()) for kind in DIVERGENCES},
            "n_learnt_nothing": learnt_nothing(cell.runs),
            **_inside(case, k, rates[k]),
            "log2_lr_max": largest[k],
            "headroom": headroom[k],
            **interval_columns("lr_sensitivity", sensitivity[k]),
            "lr_sensitivity_normalised": normalised[k],
            "span": offsets[-1] - offsets[0] if len(offsets) else math.nan,
            "basin_width": basin.width[k],
            "basin_low": basin.low[k],
            "basin_high": basin.high[k],
            "basin_censored": basin.censored[k],
        }


def _inside(case: Case, k: int, rates: Bools) -> dict[str, Any]:
    """Divergence of one width over the rates of the window, [J]."""
    surface = case.surface
    inside = surface.log2_lrs[rates]
    n, diverged = len(inside) * surface.n_seeds, int(surface.diverged[k, rates].sum())
    low, high = wilson(diverged, n)
    return {
        "window_low": inside[0] if n else math.nan,
        "window_high": inside[-1] if n else math.nan,
        "window_runs": n,
        "window_diverged": diverged if n else math.nan,
        "diverged_fraction": diverged / n if n else math.nan,
        "diverged_low": low,
        "diverged_high": high,
    }


def learnt_nothing(runs: pd.DataFrame) -> int:
    """How many runs learnt nothing, besides those that diverged."""
    initial, final = (runs[name].to_numpy(np.float64) for name in ("initial_loss", "train_loss"))
    return int(stable.learnt_nothing(initial, final, runs["status"].eq("diverged").to_numpy()).sum())


def smoothness(cases: Sequence[Case], curves: pd.DataFrame) -> Records:
    """At the argmin of all seeds; the curve starts with the loss at initialisation."""
    cells = [(cell, cell.judged()["run_id"]) for case in cases for cell in case.cells]
    wanted = pd.concat([run_ids for _, run_ids in cells])
    found = _in_order(curves[curves["run_id"].isin(wanted)], ["val_loss", "val_loss_y"])
    variation = {
        key: stable.excess_variation(curve.to_numpy(np.float64))
        for key, curve in found.groupby(["run_id", "series"], observed=True)["value"]
    }
    for cell, run_ids in cells:
        for at, name in (("x", "val_loss"), ("y", "val_loss_y")):
            values = np.array([variation.get((run_id, name), math.nan) for run_id in run_ids])
            yield {
                **cell.names,
                "at": at,
                "log2_lr": cell.optimum.log2_lr_argmin,
                **interval_columns("tvx", mean_interval(values)),
                "n_seeds": int(np.isfinite(values).sum()),
            }


def _in_order(curves: pd.DataFrame, series: list[str]) -> pd.DataFrame:
    """The curves of some series, by run, series and step."""
    return curves[curves["series"].isin(series)].sort_values(["run_id", "series", "step"])


def spikes(cases: Sequence[Case], curves: pd.DataFrame) -> Records:
    """Spike scores of train loss and gradient norm at the best rate and above it, a row a multiple of it that was run."""
    wanted = _in_order(curves, ["train_loss", "grad_norm"])
    places = wanted.groupby(["run_id", "series"], observed=True)["value"].indices
    values = wanted["value"].to_numpy(np.float64)
    for cell in (cell for case in cases for cell in case.cells):
        for factor in SPIKE_FACTORS:
            runs = cell.judged(factor)
            for series in ("train_loss", "grad_norm"):
                found = [values[places[run, series]] for run in runs["run_id"] if (run, series) in places]
                if found:
                    of = {"lr_factor": factor, "log2_lr": float(runs["log2_lr"].iloc[0]), "series": series}
                    yield {**cell.names, **of, **_spikes(found, stable.spike_window(int(runs["steps"].iloc[0])))}


def _spikes(curves: Sequence[Floats], size: int) -> dict[str, Any]:
    counts = np.array([stable.count_spikes(curve, size) for curve in curves])
    scores = np.divide(counts[:, 0], counts[:, 1], out=np.full(len(counts), math.nan), where=counts[:, 1] > 0)
    return {
        **interval_columns("score", mean_interval(scores)),
        "n_spikes": int(counts[:, 0].sum()),
        "n_points": int(counts[:, 1].sum()),
        "window": size,
        "n_seeds": len(scores),
    }

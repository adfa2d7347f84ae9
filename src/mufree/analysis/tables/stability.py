"""Tables on stability: what diverges, how much the rate matters, spikes, and how smoothly the loss falls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pandas as pd

from mufree.analysis.metrics import smoothness as smooth
from mufree.analysis.metrics import stability as stable
from mufree.analysis.metrics.statistics import Bools, Floats, wilson
from mufree.analysis.tables.cases import CANONICAL, Case, Records, interval_columns, mean_interval

SPIKE_FACTORS = (1, 2, 4)
"""Multiples of the best rate at which spikes are counted."""


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
        four = [case for case in of_task if case.method in CANONICAL] or of_task
        found[task] = stable.common_offsets((case.surface, case.optima) for case in four)
    return found


def window(case: Case, offsets: Floats) -> Bools:
    """Which rates of a case lie in the window, [K, J]; none at a width that was not run at all of them."""
    rates = stable.window(case.surface, case.optima, offsets) & case.surface.ran
    rates[rates.sum(axis=1) < len(offsets)] = False
    return np.asarray(rates)


def _stability_of(case: Case, offsets: Floats) -> Records:
    surface = case.surface
    rates = window(case, offsets)
    sensitivity = case.over_seeds(lambda kept: stable.lr_sensitivity(kept, rates))
    normalised = stable.lr_sensitivity_normalised(surface, rates)
    largest, headroom = stable.max_stable_log2_lr(surface), stable.headroom(surface)
    basin = stable.basin(surface)
    records = []
    for k, width in enumerate(case.widths):
        runs = case.runs[case.runs["width"] == width]
        inside = surface.log2_lrs[rates[k]]
        n, diverged = len(inside) * surface.n_seeds, int(surface.diverged[k, rates[k]].sum())
        low, high = wilson(diverged, n)
        records.append(
            {
                **case.names,
                "width": width,
                **divergences(runs),
                "n_learnt_nothing": learnt_nothing(runs),
                "window_low": inside[0] if n else math.nan,
                "window_high": inside[-1] if n else math.nan,
                "window_runs": n,
                "window_diverged": diverged if n else math.nan,
                "diverged_fraction": diverged / n if n else math.nan,
                "diverged_low": low,
                "diverged_high": high,
                "log2_lr_max": largest[k],
                "headroom": headroom[k],
                **interval_columns("lr_sensitivity", sensitivity[k]),
                "lr_sensitivity_normalised": normalised[k],
                "span": offsets[-1] - offsets[0] if len(offsets) else math.nan,
                "basin_width": basin.width[k],
                "basin_low": basin.low[k],
                "basin_high": basin.high[k],
                "basin_censored": basin.censored[k],
                "n_seeds": surface.n_seeds,
            }
        )
    return records


def divergences(runs: pd.DataFrame) -> dict[str, int]:
    """How many runs there are, how many diverged, and how."""
    kinds = {f"n_{kind}": int((runs["divergence"] == kind).sum()) for kind in ("nonfinite", "above_start", "rebound")}
    return {"n_runs": len(runs), "n_diverged": int((runs["status"] == "diverged").sum()), **kinds}


def learnt_nothing(runs: pd.DataFrame) -> int:
    """How many runs learnt nothing, besides those that diverged."""
    initial, final = (runs[name].to_numpy(np.float64) for name in ("initial_loss", "train_loss"))
    return int(stable.learnt_nothing(initial, final, runs["status"].eq("diverged").to_numpy()).sum())


def smoothness(cases: Sequence[Case], curves: pd.DataFrame) -> Records:
    """At the argmin of all seeds; the curve starts with the loss at initialisation."""
    series = {"x": "val_loss", "y": "val_loss_y"}
    best = {
        (case.task, case.method, width): case.judged_at(width, optimum.log2_lr_argmin)["run_id"]
        for case in cases
        for width, optimum in zip(case.widths, case.optima, strict=True)
    }
    wanted = curves[curves["series"].isin(list(series.values()))]
    wanted = wanted[wanted["run_id"].isin(pd.concat(list(best.values())))].sort_values(["run_id", "series", "step"])
    variation = {
        key: smooth.excess_variation(curve.to_numpy(np.float64))
        for key, curve in wanted.groupby(["run_id", "series"], observed=True)["value"]
    }
    records = []
    for case in cases:
        for width, optimum in zip(case.widths, case.optima, strict=True):
            for at, name in series.items():
                run_ids = best[case.task, case.method, width]
                values = np.array([variation.get((run_id, name), math.nan) for run_id in run_ids])
                mean = mean_interval(values)
                records.append(
                    {
                        **case.names,
                        "width": width,
                        "at": at,
                        "log2_lr": optimum.log2_lr_argmin,
                        **interval_columns("tvx", mean),
                        "n_seeds": int(np.isfinite(values).sum()),
                    }
                )
    return records


def spikes(cases: Sequence[Case], curves: pd.DataFrame) -> Records:
    """Spike scores of train loss and gradient norm at the best rate and above it, a row a multiple of it that was run."""
    wanted = curves[curves["series"].isin(["train_loss", "grad_norm"])].sort_values(["run_id", "series", "step"])
    groups = wanted.groupby(["run_id", "series"], observed=True)["value"]
    places = groups.indices
    values = wanted["value"].to_numpy(np.float64)
    records = []
    for case in cases:
        for width, optimum in zip(case.widths, case.optima, strict=True):
            for factor in SPIKE_FACTORS:
                rate = optimum.log2_lr_argmin + math.log2(factor)
                runs = case.judged_at(width, rate)
                for series in ("train_loss", "grad_norm"):
                    found = [values[places[run, series]] for run in runs["run_id"] if (run, series) in places]
                    if found:
                        size = stable.spike_window(int(runs["steps"].iloc[0]))
                        records.append(_spikes(case, width, factor, rate, series, found, size))
    return records


def _spikes(
    case: Case, width: int, factor: int, log2_lr: float, series: str, curves: Sequence[Floats], size: int
) -> dict[str, object]:
    counts = np.array([stable.count_spikes(curve, size) for curve in curves])
    scores = np.divide(counts[:, 0], counts[:, 1], out=np.full(len(counts), math.nan), where=counts[:, 1] > 0)
    mean = mean_interval(scores)
    return {
        **case.names,
        "width": width,
        "lr_factor": factor,
        "log2_lr": log2_lr,
        "series": series,
        **interval_columns("score", mean),
        "n_spikes": int(counts[:, 0].sum()),
        "n_points": int(counts[:, 1].sum()),
        "window": size,
        "n_seeds": len(scores),
    }

"""From the rows and curves of all runs to the tables that figures and report read. Frames in, frames out, no file touched.

All tables are deterministic: neither the order of rows nor that of curves matters. They are sorted by task, method (the four of
the study first) and width. What is missing or not estimable is NaN, never 0. Intervals are delete-one-seed jackknife, 95 %
unless the column ends in 90.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mufree.config import METHODS
from mufree.metrics import dynamics, smoothness, stability, transfer
from mufree.metrics.control import same_bits
from mufree.metrics.statistics import MIN_POINTS, Floats, Interval, jackknife, t_interval, wilson
from mufree.metrics.surface import Optimum, Surface, grid_argmin, optima

log = logging.getLogger(__name__)

EQUIVALENCE_MARGIN = 0.25
"""|drift| below this, in doublings per doubling of width, counts as no drift."""

NEGLIGIBLE_REGRET = 0.01
"""Nats. A regret is good below this or below two standard deviations over seeds, whichever is larger."""

RUN_KEY = ["task", "method", "width", "log2_lr", "seed"]

COLUMNS: dict[str, list[str]] = {
    "optima": [
        *("task", "method", "width", "base_width", "log2_lr_opt", "log2_lr_opt_low", "log2_lr_opt_high"),
        *("log2_lr_argmin", "curvature", "flag", "best_loss", "best_loss_se", "best_loss_fit", "sigma_seed"),
        *("n_seeds", "n_runs", "n_diverged", "test_loss", "test_accuracy", "val_accuracy"),
    ],
    "loss": ["task", "method", "width", "log2_lr", "mean_loss", "se", "n_seeds", "n_diverged"],
    "transfer": [
        *("task", "method", "drift", "drift_low", "drift_high", "drift_low90", "drift_high90", "equivalent"),
        *("drift_range", "n_widths", "n_censored", "status", "reason"),
    ],
    "regret": [
        *("task", "method", "width", "log2_lr_transferred", "regret_cf", "regret_cf_low", "regret_cf_high"),
        *("regret", "regret_in_sigma", "rho", "n_seeds", "good", "flag"),
    ],
    "stability": [
        *("task", "method", "width", "n_runs", "n_diverged", "n_nonfinite", "n_above_start", "n_rebound"),
        *("window_low", "window_high", "window_runs", "window_diverged"),
        *("diverged_fraction", "diverged_low", "diverged_high", "log2_lr_max", "headroom"),
        *("lr_sensitivity", "lr_sensitivity_low", "lr_sensitivity_high", "lr_sensitivity_normalised", "span"),
    ],
    "smoothness": ["task", "method", "width", "at", "log2_lr", "tvx", "tvx_low", "tvx_high", "n_seeds"],
    "dynamics_points": ["task", "method", "width", "seed", "layer", "quantity", "median", "log2_lr"],
    "dynamics": ["task", "method", "layer", "quantity", "slope", "slope_low", "slope_high", "n_widths"],
    "control": ["task", "optimizer", "width", "n_pairs", "n_equal"],
}
"""The tables that `build` makes, and their columns."""

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """One method on one task.

    `runs` are all its runs; `judged` those of the seeds that were run at all its widths and rates, of which `surface` is
    made, with the seeds in the order of `seeds`. `optima` has one entry a width of the surface.
    """

    task: str
    method: str
    runs: pd.DataFrame
    judged: pd.DataFrame
    seeds: list[int]
    surface: Surface
    optima: list[Optimum]

    @property
    def names(self) -> dict[str, Any]:
        """The first two columns of every table."""
        return {"task": self.task, "method": self.method}

    @property
    def widths(self) -> list[int]:
        """Widths, ascending."""
        return [int(width) for width in self.surface.widths]

    @property
    def base_optimum(self) -> Optimum | None:
        """The optimum at base width, or None if it wasn't run."""
        return None if self.surface.base is None else self.optima[self.surface.base]

    def over_seeds(self, statistic: Callable[[Surface], ArrayLike]) -> Interval:
        """A statistic of the surface with its jackknife interval."""
        return jackknife(lambda kept: statistic(self.surface.keep(kept)), self.surface.n_seeds)

    def judged_at(self, width: int, log2_lr: float) -> pd.DataFrame:
        """The judged runs at a width and a rate, by seed."""
        return self.judged[(self.judged["width"] == width) & (self.judged["log2_lr"] == log2_lr)]


def build(rows: pd.DataFrame, curves: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """All tables of `COLUMNS` from one row a run and the long frame of curves.

    Methods, widths and tasks may have different learning rates. Within a task and method only the seeds that were run at
    every (width, rate) are judged, since a mean over different seeds would compare seeds; runs of other seeds are counted
    and plotted, and a warning tells how many they are.

    Raises ValueError for missing columns, a run given twice, an ok run without a loss, two base widths in a task, or a method
    with no seed in common.
    """
    cases = _cases(rows)
    points = _dynamics_points(cases, curves)
    records: dict[str, Records | pd.DataFrame] = {
        "optima": _optima(cases),
        "loss": _loss(cases),
        "transfer": _transfer(cases),
        "regret": _regret(cases),
        "stability": _stability(cases),
        "smoothness": _smoothness(cases, curves),
        "dynamics_points": points,
        "dynamics": _dynamics(cases, points),
        "control": _control(cases),
    }
    tables = {name: pd.DataFrame(records[name], columns=columns) for name, columns in COLUMNS.items()}
    for name, column in (("transfer", "equivalent"), ("regret", "good")):
        tables[name][column] = tables[name][column].astype("boolean")  # a verdict may be missing
    return tables


def summary(rows: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Plain numbers for the report's sentences, ready for JSON: None where a number is missing.

    `best_method` has the lowest validation loss at the largest width of the task, among the methods trained there.
    """
    return {
        **_counts(rows),
        "tasks": {task: _task_summary(task, rows[rows["task"] == task], tables) for task in _tasks(rows)},
    }


# --- runs to surfaces ------------------------------------------------------------------------------------------------


def _cases(rows: pd.DataFrame) -> list[Case]:
    _check(rows)
    rows = rows.sort_values(RUN_KEY, ignore_index=True)
    return [
        _case(task, method, of_task[of_task["method"] == method])
        for task in _tasks(rows)
        for of_task in [rows[rows["task"] == task]]
        for method in _methods(of_task)
    ]


def _check(rows: pd.DataFrame) -> None:
    needed = {
        *(*RUN_KEY, "run_id", "base_width", "parametrization", "optimizer", "schedule", "warmup_steps", "status"),
        *("divergence", "initial_loss", "train_loss", "val_loss", "val_accuracy", "test_loss", "test_accuracy"),
    }
    missing = sorted(needed - set(rows.columns))
    if missing:
        raise ValueError(f"rows have no column {', '.join(missing)}; collect the study again")
    twice = rows[rows.duplicated(RUN_KEY)]
    if len(twice):
        raise ValueError(f"run {twice['run_id'].iloc[0]} is there twice; collect the study again")
    lossless = rows[~np.isfinite(rows["initial_loss"]) | ((rows["status"] == "ok") & ~np.isfinite(rows["val_loss"]))]
    if len(lossless):
        raise ValueError(
            f"run {lossless['run_id'].iloc[0]} has a loss that is not finite; its status has to be 'diverged', and its "
            "initial_loss finite"
        )
    bases = rows.groupby("task")["base_width"].nunique()
    if (bases > 1).any():
        raise ValueError(f"task '{bases.idxmax()}' has more than one base_width; a study has one for each task")


def _case(task: str, method: str, runs: pd.DataFrame) -> Case:
    points = runs.groupby(["width", "log2_lr"]).ngroups
    times = runs["seed"].value_counts()
    seeds = sorted(int(seed) for seed in times[times == points].index)
    if not seeds:
        raise ValueError(
            f"{task}/{method}: no seed was run at every width and learning rate; give its grids a seed in common"
        )
    judged = runs[runs["seed"].isin(seeds)]
    if len(judged) < len(runs):
        log.warning(
            "%s/%s: only seeds %s were run at every width and learning rate; %d runs of other seeds are counted and "
            "plotted but not judged",
            *(task, method, seeds, len(runs) - len(judged)),
        )
    surface = _surface(judged, seeds)
    return Case(task, method, runs, judged, seeds, surface, optima(surface))


def _surface(runs: pd.DataFrame, seeds: list[int]) -> Surface:
    widths, k = np.unique(runs["width"].to_numpy(np.int64), return_inverse=True)
    log2_lrs, j = np.unique(runs["log2_lr"].to_numpy(np.float64), return_inverse=True)
    s = np.searchsorted(seeds, runs["seed"].to_numpy())
    shape = (len(widths), len(log2_lrs), len(seeds))
    loss, initial_loss, diverged = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, bool)
    loss[k, j, s] = runs["val_loss"]
    initial_loss[k, j, s] = runs["initial_loss"]
    diverged[k, j, s] = runs["status"] == "diverged"
    return Surface(int(runs["base_width"].iloc[0]), widths, log2_lrs, loss, initial_loss, diverged)


def _tasks(rows: pd.DataFrame) -> list[str]:
    return sorted(rows["task"].unique())


def _methods(rows: pd.DataFrame) -> list[str]:
    known = list(METHODS)
    return sorted(rows["method"].unique(), key=lambda name: (known.index(name) if name in known else len(known), name))


# --- tables ----------------------------------------------------------------------------------------------------------


def _optima(cases: Sequence[Case]) -> Records:
    """An interval stands only beside a fitted optimum: an argmin moves in whole steps, and often not at all."""
    records = []
    for case in cases:
        position = case.over_seeds(transfer.optimum_positions)
        sigma = transfer.seed_deviation(case.surface)
        for k, (width, optimum) in enumerate(zip(case.widths, case.optima, strict=True)):
            runs = case.runs[case.runs["width"] == width]
            best = case.judged_at(width, optimum.log2_lr_argmin)
            fitted = optimum.flag == "ok"
            records.append(
                {
                    **case.names,
                    "width": width,
                    "base_width": case.surface.base_width,
                    "log2_lr_opt": optimum.log2_lr,
                    "log2_lr_opt_low": position.low[k] if fitted else math.nan,
                    "log2_lr_opt_high": position.high[k] if fitted else math.nan,
                    "log2_lr_argmin": optimum.log2_lr_argmin,
                    "curvature": optimum.curvature,
                    "flag": optimum.flag,
                    "best_loss": optimum.loss,
                    "best_loss_se": sigma[k] / math.sqrt(case.surface.n_seeds),
                    "best_loss_fit": optimum.fit_loss,
                    "sigma_seed": sigma[k],
                    "n_seeds": case.surface.n_seeds,
                    "n_runs": len(runs),
                    "n_diverged": int((runs["status"] == "diverged").sum()),
                    **{name: best[name].mean(skipna=False) for name in ("test_loss", "test_accuracy", "val_accuracy")},
                }
            )
    return records


def _loss(cases: Sequence[Case]) -> Records:
    """All seeds that were run at a point, also those that are not judged; the mean is over those that did not diverge."""
    records = []
    for case in cases:
        for (width, log2_lr), runs in case.runs.groupby(["width", "log2_lr"]):
            losses = runs.loc[runs["status"] == "ok", "val_loss"]
            records.append(
                {
                    **case.names,
                    "width": width,
                    "log2_lr": log2_lr,
                    "mean_loss": losses.mean(),
                    "se": losses.sem(),
                    "n_seeds": len(runs),
                    "n_diverged": len(runs) - len(losses),
                }
            )
    return records


def _transfer(cases: Sequence[Case]) -> Records:
    records = []
    for case in cases:
        drift = case.over_seeds(transfer.drift)
        drift90 = t_interval(drift.estimate, drift.se, drift.n, 0.90)
        positions = transfer.optimum_positions(case.surface)
        used = positions[~np.isnan(positions)]
        estimable = len(used) >= MIN_POINTS
        inside = bool(drift90.low > -EQUIVALENCE_MARGIN and drift90.high < EQUIVALENCE_MARGIN)
        records.append(
            {
                **case.names,
                "drift": float(drift.estimate),
                "drift_low": float(drift.low),
                "drift_high": float(drift.high),
                "drift_low90": float(drift90.low),
                "drift_high90": float(drift90.high),
                "equivalent": None if np.isnan(drift90.se) else inside,
                "drift_range": float(np.ptp(used)) if len(used) > 1 else math.nan,
                "n_widths": len(used),
                "n_censored": len(positions) - len(used),
                "status": "ok" if estimable else "not_estimable",
                "reason": _why_no_interval(case, drift) if estimable else _why_no_drift(case),
            }
        )
    return records


def _why_no_drift(case: Case) -> str:
    censored = [f"{width} ({o.flag})" for width, o in zip(case.widths, case.optima, strict=True) if o.censored]
    found = len(case.widths) - len(censored)
    text = f"{found} of {len(case.widths)} widths have an optimum inside the grid, {MIN_POINTS} are needed"
    return text + (f"; censored: {', '.join(censored)}" if censored else "")


def _why_no_interval(case: Case, drift: Interval) -> str:
    if case.surface.n_seeds < 2:
        return "one seed, so no interval"
    return f"without one of the seeds fewer than {MIN_POINTS} widths are left" if np.isnan(drift.se) else ""


def _regret(cases: Sequence[Case]) -> Records:
    records = []
    for case in cases:
        surface, base = case.surface, case.base_optimum
        sigma = transfer.seed_deviation(surface)
        same_seed = transfer.regret(surface)
        cross_fitted = case.over_seeds(transfer.regret_cf)
        best = stability.best_loss(surface)
        rho = (
            np.full(len(best), np.nan)
            if surface.base is None
            else transfer.share_of_gain(cross_fitted.estimate, best, surface.base)
        )
        for k, width in enumerate(case.widths):
            known = not np.isnan(cross_fitted.high[k])
            records.append(
                {
                    **case.names,
                    "width": width,
                    "log2_lr_transferred": base.log2_lr_argmin if base else math.nan,
                    "regret_cf": cross_fitted.estimate[k],
                    "regret_cf_low": cross_fitted.low[k],
                    "regret_cf_high": cross_fitted.high[k],
                    "regret": same_seed[k],
                    "regret_in_sigma": same_seed[k] / sigma[k] if sigma[k] > 0 else math.nan,
                    "rho": rho[k],
                    "n_seeds": surface.n_seeds,
                    "good": bool(cross_fitted.high[k] < max(NEGLIGIBLE_REGRET, 2 * sigma[k])) if known else None,
                    "flag": _regret_flag(case, k),
                }
            )
    return records


def _regret_flag(case: Case, k: int) -> str:
    """The first that applies; from `diverged` on there is a regret, and at an edge it may be too small."""
    surface, base = case.surface, case.base_optimum
    if base is None:
        return "no_base_width"
    if base.flag == "all_diverged":
        return "base_all_diverged"
    transferred = grid_argmin(surface)[surface.base]
    if not surface.ran[k, transferred]:
        return "not_run"
    if case.optima[k].flag == "all_diverged":
        return "all_diverged"
    if surface.diverged[k, transferred].any():
        return "diverged"
    if base.censored or case.optima[k].censored:
        return "edge"
    return "ok" if surface.n_seeds > 2 else "few_seeds"  # cross-fitting needs 2 seeds, its interval 3


def _stability(cases: Sequence[Case]) -> Records:
    records = []
    for _, group in groupby(cases, key=lambda case: case.task):
        of_task = list(group)
        offsets = stability.common_offsets((case.surface, case.optima) for case in of_task)
        for case in of_task:
            records += _stability_of(case, offsets)
    return records


def _stability_of(case: Case, offsets: Floats) -> Records:
    surface = case.surface
    rates = stability.window(surface, case.optima, offsets)
    sensitivity = case.over_seeds(lambda kept: stability.lr_sensitivity(kept, rates))
    normalised = stability.lr_sensitivity_normalised(surface, rates)
    largest = stability.max_stable_log2_lr(surface)
    records = []
    for k, (width, optimum) in enumerate(zip(case.widths, case.optima, strict=True)):
        runs = case.runs[case.runs["width"] == width]
        window = surface.log2_lrs[rates[k]]
        n, diverged = len(window) * surface.n_seeds, int(surface.diverged[k, rates[k]].sum())
        low, high = wilson(diverged, n)
        records.append(
            {
                **case.names,
                "width": width,
                **_divergences(runs),
                "window_low": window[0] if n else math.nan,
                "window_high": window[-1] if n else math.nan,
                "window_runs": n,
                "window_diverged": diverged if n else math.nan,
                "diverged_fraction": diverged / n if n else math.nan,
                "diverged_low": low,
                "diverged_high": high,
                "log2_lr_max": largest[k],
                "headroom": math.nan if optimum.censored else largest[k] - optimum.log2_lr,
                "lr_sensitivity": sensitivity.estimate[k],
                "lr_sensitivity_low": sensitivity.low[k],
                "lr_sensitivity_high": sensitivity.high[k],
                "lr_sensitivity_normalised": normalised[k],
                "span": offsets[-1] - offsets[0] if len(offsets) else math.nan,
            }
        )
    return records


def _divergences(runs: pd.DataFrame) -> dict[str, int]:
    kinds = {f"n_{kind}": int((runs["divergence"] == kind).sum()) for kind in ("nonfinite", "above_start", "rebound")}
    return {"n_runs": len(runs), "n_diverged": int((runs["status"] == "diverged").sum()), **kinds}


def _smoothness(cases: Sequence[Case], curves: pd.DataFrame) -> Records:
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
        key: smoothness.excess_variation(curve.to_numpy(np.float64))
        for key, curve in wanted.groupby(["run_id", "series"], observed=True)["value"]
    }
    records = []
    for case in cases:
        for width, optimum in zip(case.widths, case.optima, strict=True):
            for at, name in series.items():
                run_ids = best[case.task, case.method, width]
                values = np.array([variation.get((run_id, name), math.nan) for run_id in run_ids])
                mean = _mean_interval(values)
                records.append(
                    {
                        **case.names,
                        "width": width,
                        "at": at,
                        "log2_lr": optimum.log2_lr_argmin,
                        "tvx": float(mean.estimate),
                        "tvx_low": float(mean.low),
                        "tvx_high": float(mean.high),
                        "n_seeds": int(np.isfinite(values).sum()),
                    }
                )
    return records


def _mean_interval(values: Floats) -> Interval:
    """Mean and t interval, NaN if any value is or there is none."""
    if not len(values):
        return t_interval(math.nan, math.nan, 0)
    return jackknife(lambda kept: values[kept].mean(), len(values))


def _dynamics_points(cases: Sequence[Case], curves: pd.DataFrame) -> pd.DataFrame:
    """One point a run at the argmin of its method at base width, layer and quantity; the median of a diverged run is NaN."""
    runs = pd.concat(
        [
            case.judged[case.judged["log2_lr"] == (case.base_optimum.log2_lr_argmin if case.base_optimum else math.nan)]
            for case in cases
        ]
    )
    medians = dynamics.medians_after_warmup(curves, runs.set_index("run_id")["warmup_steps"])
    points = runs.merge(medians, on="run_id")  # keeps the order of the runs: task, method, width, seed
    points.loc[points["status"] == "diverged", "median"] = math.nan
    return points


def _dynamics(cases: Sequence[Case], points: pd.DataFrame) -> Records:
    records = []
    for case in cases:
        mine = points[(points["task"] == case.task) & (points["method"] == case.method)]
        for (layer, quantity), group in mine.groupby(["layer", "quantity"]):
            medians = group.pivot(index="width", columns="seed", values="median")
            grid = medians.reindex(index=case.widths, columns=case.seeds).to_numpy(np.float64)
            slope = _slope_interval(case.surface.log2_width_mult, grid)
            records.append(
                {
                    **case.names,
                    "layer": layer,
                    "quantity": quantity,
                    "slope": float(slope.estimate),
                    "slope_low": float(slope.low),
                    "slope_high": float(slope.high),
                    "n_widths": int(np.isfinite(dynamics.complete_log2_means(grid)).sum()),
                }
            )
    return records


def _slope_interval(log2_width_mult: Floats, medians: Floats) -> Interval:
    return jackknife(lambda kept: dynamics.width_slope(log2_width_mult, medians[:, kept]), medians.shape[1])


def _control(cases: Sequence[Case]) -> Records:
    """Runs at base width of each pair of methods that differ in nothing but the parametrization."""
    records = []
    for sp in cases:
        for mup in cases:
            if sp.task != mup.task or _kind(sp) != ("sp", *_kind(mup)[1:]) or _kind(mup)[0] != "mup":
                continue
            width = sp.surface.base_width
            here = [case.runs[case.runs["width"] == width] for case in (sp, mup)]
            pairs = here[0].merge(here[1], on=["log2_lr", "seed"], suffixes=("_sp", "_mup"))
            equal = [
                same_bits(pairs[f"{loss}_sp"].to_numpy(np.float64), pairs[f"{loss}_mup"].to_numpy(np.float64))
                for loss in ("val_loss", "train_loss")
            ]
            records.append(
                {
                    "task": sp.task,
                    "optimizer": f"{sp.method}={mup.method}",
                    "width": width,
                    "n_pairs": len(pairs),
                    "n_equal": int((equal[0] & equal[1]).sum()),
                }
            )
    return records


def _kind(case: Case) -> tuple[str, str, str]:
    first = case.runs.iloc[0]
    return first["parametrization"], first["optimizer"], first["schedule"]


# --- summary ---------------------------------------------------------------------------------------------------------


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    return {**_divergences(rows), "n_tasks": rows["task"].nunique(), "n_methods": rows["method"].nunique()}


def _task_summary(task: str, rows: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    of_task = {name: table[table["task"] == task] for name, table in tables.items()}
    widest = int(rows["width"].max())
    best = (
        of_task["optima"].query("width == @widest").dropna(subset="best_loss").sort_values("best_loss", kind="stable")
    )
    control = of_task["control"]
    spans = of_task["stability"]["span"]
    return {
        **_divergences(rows),
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
            for method in _methods(rows)
        },
    }


def _method_summary(method: str, widest: int, rows: pd.DataFrame, of_task: dict[str, pd.DataFrame]) -> dict[str, Any]:
    drift = of_task["transfer"].set_index("method").loc[method]
    result = _divergences(rows) | {
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

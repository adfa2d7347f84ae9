"""Tables on what happens inside a network: gradients and updates across width, Adam's ε, and the negative control."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mufree.analysis.metrics import dynamics as within
from mufree.analysis.metrics.statistics import Floats, Interval, jackknife
from mufree.analysis.tables.cases import Case, Records, Role, interval_columns, pairs
from mufree.study.limits import EPSILON_FLAG


def dynamics_points(cases: Sequence[Case], curves: pd.DataFrame) -> pd.DataFrame:
    """One point a run at the argmin of its method at base width, layer and quantity; the median of a diverged run is NaN."""
    runs = pd.concat([case.at_base_rate for case in cases])
    medians = within.medians_after_warmup(curves, runs.set_index("run_id")["warmup_steps"])
    points = runs.merge(medians, on="run_id")  # keeps the order of the runs: task, method, width, seed
    points.loc[points["status"] == "diverged", "median"] = math.nan
    return points[["task", "method", "width", "seed", "layer", "quantity", "median", "log2_lr"]]


def dynamics(cases: Sequence[Case], points: pd.DataFrame) -> Records:
    """Slopes against width of the medians in `points`."""
    for case in cases:
        mine = points[(points["task"] == case.task) & (points["method"] == case.method)]
        for (layer, quantity), group in mine.groupby(["layer", "quantity"]):
            found = group.pivot(index="width", columns="seed", values="median")
            medians = found.reindex(index=case.widths, columns=case.seeds).to_numpy(np.float64)
            slope = _slope(case.surface.log2_width_mult, medians)
            yield {
                **case.names,
                "layer": layer,
                "quantity": quantity,
                **interval_columns("slope", slope),
                "n_seeds": len(case.seeds),
                "n_widths": int(np.isfinite(within.complete_log2_means(medians)).sum()),
            }


def _slope(log2_width_mult: Floats, medians: Floats) -> Interval:
    return jackknife(lambda kept: within.width_slope(log2_width_mult, medians[:, kept]), medians.shape[1])


def _twin(role: Role) -> Role | None:
    """Of a method that isn't under µP, the one that differs in nothing else."""
    return None if role.parametrization == "mup" else role._replace(parametrization="mup")


def control(cases: Sequence[Case]) -> Records:
    """Runs at base width of each pair of methods that differ in nothing but the parametrization."""
    for sp, mup in pairs(cases, _twin):
        width = sp.surface.base_width
        here = [case.runs[case.runs["width"] == width] for case in (sp, mup)]
        runs = here[0].merge(here[1], on=["log2_lr", "seed"], suffixes=("_sp", "_mup"))
        equal = [
            within.same_bits(runs[f"{loss}_sp"].to_numpy(np.float64), runs[f"{loss}_mup"].to_numpy(np.float64))
            for loss in ("val_loss", "train_loss")
        ]
        yield {
            "task": sp.task,
            "optimizer": f"{sp.method}={mup.method}",
            "width": width,
            "n_pairs": len(runs),
            "n_equal": int((equal[0] & equal[1]).sum()),
        }


def epsilon(cases: Sequence[Case], curves: pd.DataFrame) -> Records:
    """Adam's ε against the median of √v at the end of training, at each width's best rate, a row a layer type."""
    ends = curves[curves["series"] == "sqrt_v"].set_index("run_id")
    for cell in (cell for case in cases for cell in case.cells):
        runs = cell.judged()
        found = ends[ends.index.isin(runs["run_id"])]
        for layer, values in found.groupby("layer", observed=True)["value"]:
            epsilon, median = float(runs["eps"].iloc[0]), float(values.median())
            ratio = within.epsilon_ratio(epsilon, median)
            yield {
                **cell.names,
                "layer": layer,
                "median_sqrt_v": median,
                "epsilon": epsilon,
                "ratio": ratio,
                "flagged": bool(ratio > EPSILON_FLAG),
            }

"""Gradients, updates and weights across width, at one learning rate for all widths."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mufree.metrics.statistics import Floats, ols_slope

QUANTITIES = ("grad_rms", "update_rms", "weight_rms")


def medians_after_warmup(curves: pd.DataFrame, warmup_steps: pd.Series[int]) -> pd.DataFrame:
    """Median over the steps after warm-up of each run, layer and quantity.

    Takes curves (run_id, series, layer, step, value) and the warm-up steps by run_id; other runs and other series are left
    out. Returns run_id, layer, quantity, median, sorted by the first three.
    """
    wanted = curves[curves["series"].isin(QUANTITIES)]
    wanted = wanted.merge(warmup_steps.rename("warmup_steps").rename_axis("run_id").reset_index(), on="run_id")
    after = wanted[wanted["step"] > wanted["warmup_steps"]]
    medians = after.groupby(["run_id", "layer", "series"], observed=True)["value"].median().reset_index()
    return medians.rename(columns={"series": "quantity", "value": "median"})


def width_slope(log2_width_mult: Floats, medians: Floats) -> float:
    """Slope of log2 median on log2(width / base width); medians [K, S], positive.

    A width's value is the mean over seeds of log2 median, and a width with any NaN (a run that diverged or is missing) is
    left out; NaN with fewer than 3 widths. A slope of raw gradients is no failure: they may scale with width.
    """
    return ols_slope(log2_width_mult, complete_log2_means(medians))


def complete_log2_means(medians: Floats) -> Floats:
    """Mean over seeds of log2 median, [K] from [K, S]; NaN for a width with any seed missing, zero or negative."""
    means: Floats = np.log2(np.where(medians > 0, medians, np.nan)).mean(axis=1)
    return means

"""Gradients, updates and weights across width, at one learning rate for all widths."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mufree.analysis.metrics.statistics import Bools, Floats, ols_slope

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


def epsilon_ratio(epsilon: ArrayLike, median_sqrt_v: ArrayLike) -> Floats:
    """Adam's ε over the median √v of a layer; flagged above `EPSILON_FLAG`, as the layer's updates are then not Adam's.

    Infinite where √v is 0 and ε is not (a layer without gradient), NaN where both are 0 or one is NaN.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.divide(np.asarray(epsilon, np.float64), np.asarray(median_sqrt_v, np.float64)))


def same_bits(a: Floats, b: Floats) -> Bools:
    """Element by element, whether two float64 arrays hold the same bits; all NaN count as one value, 0 and −0 as two.

    The negative control: at base width SP and µP are the same network, so their runs must agree in every bit.
    """
    equal: Bools = a.view(np.int64) == b.view(np.int64)
    return equal | (np.isnan(a) & np.isnan(b))

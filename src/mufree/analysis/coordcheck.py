"""What a coordinate check says: the slopes of activations on width, and whether they pass.

The frames come from `lab.coordcheck`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student

from mufree.study.limits import FIRST_STEP, MAX_SLOPE
from mufree.study.reading import UserError

JUDGED_LAYERS = ("embedding", "hidden", "readout")
"""Layer types whose modules are judged. A normalisation's output has the size its weight gives it whatever comes in, so it is
recorded and not judged."""
JUDGED_QUANTITIES = ("size", "change")
"""Quantities whose slopes are judged."""

FAMILY_ERROR = 0.025
"""Probability with which a place of a correct model may be called failed: that of a 95 % interval to lie wholly beyond a bound
on one side. Here for all slopes of a place together."""

_KEYS = ("module", "layer", "at", "step")
RAW = (*_KEYS, "task", "method", "width", "seed", "mean_abs", "mean_abs_change")
"""Columns of a study's raw checks."""
_QUANTITIES = {"size": "mean_abs", "change": "mean_abs_change", "relative": "relative"}


class Outcome(NamedTuple):
    """Slopes, verdicts and the word for them all; the first step that is judged, the number of seeds, and the modules in the
    order in which a forward pass ends them."""

    table: pd.DataFrame
    verdicts: pd.DataFrame
    word: str
    first_step: int
    seeds: int
    modules: list[str]


def slopes(frame: pd.DataFrame) -> pd.DataFrame:
    """Slope of log2 size, change and relative change on log2 width, for each module, place and step of `coord_check`'s frame.

    Columns: module, layer, at, step, quantity ("size", "change" or "relative"), slope, slope_low, slope_high, passed
    (|slope| < 0.1), n_seeds, judged. The slope is the least-squares slope of the seed mean. The interval is the 95 %
    delete-one-seed jackknife interval with a t quantile; as each seed has all widths, that is mean ± t·s/√S of the seeds' own
    slopes. With one seed it is NaN.

    Judged are size and change of embeddings, hidden layers and readouts, but for the size of a readout that does not start at
    zero: under µP its random part falls as width^-½ by construction. Such a readout is known by a slope of its size at step 0;
    its change is what it has learnt.

    Where an activation or a change is zero or not finite at any width and seed, there is no logarithm: the slope is NaN and
    has not passed. Changes at step 0 are left out; modules, and frames, without a relative change have no slope of it. Columns
    that `coord_check` does not make, such as task and method, are kept as keys.
    """
    extra = [c for c in frame.columns if c not in {*_KEYS, "width", "seed", *_QUANTITIES.values()}]
    keys = [*extra, *_KEYS]
    parts = []
    for quantity, column in _QUANTITIES.items():
        used = frame if quantity == "size" else frame[frame["step"] > 0]
        if quantity == "relative":
            if column not in used or used[column].isna().all():
                continue
            used = used[used.groupby([*extra, "module"])[column].transform("count") > 0]
        values = used.set_index([*keys, "seed", "width"])[column].unstack("width")
        log_width = np.log2(values.columns.to_numpy(dtype=float))
        centred = log_width - log_width.mean()
        finite = values.where((values > 0) & (values < math.inf)).to_numpy(dtype=float)
        per_seed = pd.Series(np.log2(finite) @ centred / (centred @ centred), index=values.index)
        groups = per_seed.groupby(level=keys, sort=False)
        count = groups.size()
        # skipna=False: a seed without a slope must not drop out silently.
        mean = groups.mean(skipna=False)
        half = student.ppf(0.975, (count - 1).where(count > 1)) * groups.std(skipna=False) / np.sqrt(count)
        part = pd.DataFrame({"slope": mean, "slope_low": mean - half, "slope_high": mean + half}).reset_index()
        part["n_seeds"] = count.to_numpy()
        part.insert(len(keys), "quantity", quantity)
        parts.append(part)
    result = pd.concat(parts, ignore_index=True)
    result.insert(len(result.columns) - 1, "passed", result["slope"].abs() < MAX_SLOPE)
    result["judged"] = _judged(result, [*extra, "module", "at"])
    return result


def _judged(slopes: pd.DataFrame, keys: list[str]) -> pd.Series[bool]:
    """Whether a slope belongs to the verdict, at whatever step; `keys` are what tells modules and places apart."""
    judged = slopes["layer"].isin(JUDGED_LAYERS) & slopes["quantity"].isin(JUDGED_QUANTITIES)
    readout_size = (slopes["layer"] == "readout") & (slopes["quantity"] == "size")
    random = readout_size & (slopes["step"] == 0) & slopes["slope"].notna()
    from_random = random.groupby([slopes[key] for key in keys]).transform("any")
    return judged & ~(readout_size & from_random)


def first_judged_step(frame: pd.DataFrame) -> int:
    """The step after the first one that moved anything, in `coord_check`'s frame: `FIRST_STEP` where the first one does.

    For optimizers that start late, whose changes are zero until then: RAdam, which by default moves nothing for five steps, and
    a warm-up from a learning rate of zero. Raises ValueError if nothing moved at all.
    """
    moved = frame.loc[frame["mean_abs_change"] > 0, "step"]
    if moved.empty:
        raise ValueError(f"nothing moved in {frame['step'].max()} steps; use more steps or a larger learning rate")
    return int(moved.min()) + FIRST_STEP - 1


def verdict(slopes: pd.DataFrame, *, first_step: int = FIRST_STEP, looks: int = 1) -> pd.DataFrame:
    """What the coordinate check says, one row for each place (`at`), from the table that `slopes` returns.

    Judged are the slopes marked so (`judged`) at every step ≥ `first_step` (see `first_judged_step`). The word in the column
    `verdict` is "passed" if all have |slope| < 0.1, "failed" if one is surely beyond, else "unsure": its seeds are too few.

    Surely beyond is a NaN, or a slope whose t test over seeds rejects |slope| ≤ 0.1. Among hundreds of slopes some have a 95 %
    interval beyond the bound by chance, so their number and that of `looks`, the times that seeds are added and looked at
    again, divide the error that the test may have (Bonferroni 1936): whatever they have to do with each other, a place whose
    true slopes all lie within the bound is called failed with a probability of at most 2.5 %. (Holm's procedure, which allows
    more for the second one, finds a first one exactly where this does.)

    Columns: at, passed, verdict, worst_module, worst_slope with its interval worst_low and worst_high, n_failed, n_sure,
    n_proven, n_checked; more key columns as in `slopes`. n_sure are the failing slopes that are NaN or whose own 95 % interval
    lies outside ±0.1 as a whole, n_proven those surely beyond.

    Raises ValueError if there is nothing to judge.
    """
    judged = slopes[slopes["judged"] & (slopes["step"] >= first_step)]
    if judged.empty:
        raise UserError(f"no module of type {', '.join(JUDGED_LAYERS)} at a step ≥ {first_step}; use more steps")
    known = {*_KEYS, "quantity", "slope", "slope_low", "slope_high", "passed", "n_seeds", "judged"}
    keys = [*(c for c in slopes.columns if c not in known), "at"]
    rows = []
    for key, group in judged.groupby(keys, sort=False):
        worst = group.iloc[group["slope"].abs().fillna(math.inf).argmax()]
        passed, proven = bool(group["passed"].all()), int(_proven(group, looks).sum())
        rows.append(
            dict(zip(keys, key, strict=True))
            | {
                "passed": passed,
                "verdict": "passed" if passed else "failed" if proven else "unsure",
                "worst_module": worst["module"],
                "worst_slope": worst["slope"],
                "worst_low": worst["slope_low"],
                "worst_high": worst["slope_high"],
                "n_failed": int((~group["passed"]).sum()),
                "n_sure": int(_surely_failed(group).sum()),
                "n_proven": proven,
                "n_checked": len(group),
            }
        )
    return pd.DataFrame(rows)


def outcome(verdicts: pd.DataFrame) -> str:
    """The word for all places together: "failed" if one failed, else "unsure" if one is, else "passed"."""
    found = set(verdicts["verdict"])
    return next(word for word in ("failed", "unsure", "passed") if word in found)


def first_failure(table: pd.DataFrame, first_step: int, modules: Sequence[str]) -> str:
    """The first of `modules` with a judged slope that surely failed at a step ≥ `first_step`, in words, with its steepest one.

    Give them in the order of a forward pass: what fails in one module shows in all behind it.
    """
    judged = table[table["judged"] & (table["step"] >= first_step)]
    failed = judged[_surely_failed(judged)]
    first = failed[failed["module"] == min(failed["module"], key=list(modules).index)]
    worst = first.loc[first["slope"].abs().fillna(math.inf).idxmax()]
    power = f"goes as width^{worst['slope']:+.2f}" if np.isfinite(worst["slope"]) else "is zero or not finite somewhere"
    return f"{worst['module']} ({worst['layer']}): {worst['quantity']} {power} at {worst['at']}, step {worst['step']}"


def tables(measured: Iterable[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """A study's tables `coordcheck`, of slopes, and `coordcheck_verdict`, from its raw checks; none of them without a check.

    A frame a task, since tasks have different widths. A study's seeds are as many as it says; what only helps to decide on
    more of them is left out.
    """
    found = [slopes(frame) for frame in measured]
    if not found:
        return {}
    joined = pd.concat(found, ignore_index=True)
    return {
        "coordcheck": joined.drop(columns=["n_seeds", "judged"]),
        "coordcheck_verdict": verdict(joined).drop(columns=["verdict", "n_proven"]),
    }


def _surely_failed(slopes: pd.DataFrame) -> pd.Series[bool]:
    """Where a slope is NaN, or its whole interval lies beyond the bound on one side."""
    return slopes["slope"].isna() | (slopes["slope_low"] >= MAX_SLOPE) | (slopes["slope_high"] <= -MAX_SLOPE)


def _proven(slopes: pd.DataFrame, looks: int) -> pd.Series[bool]:
    """Where a slope is NaN, or beyond the bound by a t test whose error is shared by all of them, at each of `looks`."""
    degrees = (slopes["n_seeds"] - 1).where(slopes["n_seeds"] > 1)
    half = (slopes["slope_high"] - slopes["slope_low"]) / 2
    # Without scatter the distance is divided by zero: an infinite t, or NaN at the bound itself, which proves nothing.
    t = (slopes["slope"].abs() - MAX_SLOPE) / half * student.ppf(0.975, degrees)
    surely = pd.Series(student.sf(t, degrees) * len(slopes) * looks <= FAMILY_ERROR, index=slopes.index)
    return slopes["slope"].isna() | surely

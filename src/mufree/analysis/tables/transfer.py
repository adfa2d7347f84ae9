"""Tables on transfer: optima, drift, regret, and whether wider is better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mufree.analysis.metrics import stability, transfer
from mufree.analysis.metrics.statistics import Floats, at_level, jackknife
from mufree.analysis.tables.cases import ONE_SEED, Case, Records, estimated, interval_columns
from mufree.study.limits import EQUIVALENCE_MARGIN, MIN_POINTS, NEGLIGIBLE_LOSS, SIGMAS

FEW_LEFT = f"without one of the seeds fewer than {MIN_POINTS} widths are left"


def optima(cases: Sequence[Case]) -> Records:
    """An interval stands only beside a fitted optimum: an argmin moves in whole steps, and often not at all."""
    for case in cases:
        position = case.over_seeds(transfer.optimum_positions)
        sigma = transfer.seed_deviation(case.surface)
        for cell in case.cells:
            k, optimum, best = cell.k, cell.optimum, cell.judged()
            fitted = optimum.flag == "ok"
            yield {
                **cell.names,
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
                **cell.counts,
                **{name: best[name].mean(skipna=False) for name in ("test_loss", "test_accuracy", "val_accuracy")},
            }


def loss(cases: Sequence[Case]) -> Records:
    """All seeds that were run at a point, also those that are not judged; the mean is over those that did not diverge."""
    for case in cases:
        for (width, log2_lr), runs in case.runs.groupby(["width", "log2_lr"]):
            losses = runs.loc[runs["status"] == "ok", "val_loss"]
            yield {
                **case.names,
                "width": width,
                "log2_lr": log2_lr,
                "mean_loss": losses.mean(),
                "se": losses.sem(),
                "n_seeds": len(runs),
                "n_diverged": len(runs) - len(losses),
            }


def drift(cases: Sequence[Case]) -> Records:
    """The drift of the optimum over widths, and whether it is inside the margin of equivalence."""
    for case in cases:
        drift = case.over_seeds(transfer.drift)
        drift90 = at_level(drift, 0.90)
        bound = float(max(abs(drift90.low), abs(drift90.high)))  # the least margin inside which it is shown to lie
        positions = transfer.optimum_positions(case.surface)
        used = positions[~np.isnan(positions)]
        yield {
            **case.names,
            **estimated("drift", drift, _why_no_drift(case), why_no_interval=FEW_LEFT),
            "drift_low90": float(drift90.low),
            "drift_high90": float(drift90.high),
            "drift_bound": bound,
            "equivalent": None if math.isnan(bound) else bound < EQUIVALENCE_MARGIN,
            "drift_range": float(np.ptp(used)) if len(used) > 1 else math.nan,
            "n_widths": len(used),
            "n_censored": len(positions) - len(used),
        }


def _why_no_drift(case: Case) -> str:
    censored = [f"{cell.width} ({cell.optimum.flag})" for cell in case.cells if cell.optimum.censored]
    found = len(case.widths) - len(censored)
    text = f"{found} of {len(case.widths)} widths have an optimum inside the grid, {MIN_POINTS} are needed"
    return text + (f"; censored: {', '.join(censored)}" if censored else "")


def regret(cases: Sequence[Case]) -> Records:
    """What base width's best rate costs at every width."""
    for case in cases:
        surface = case.surface
        sigma, same_seed = transfer.seed_deviation(surface), transfer.regret(surface)
        cross_fitted = case.regret()
        rho = transfer.share_of_gain(cross_fitted.estimate, stability.best_loss(surface), surface.base)
        for cell in case.cells:
            k = cell.k
            known = not np.isnan(cross_fitted.high[k])
            yield {
                **cell.names,
                "log2_lr_transferred": case.base_rate,
                **interval_columns("regret_cf", cross_fitted[k]),
                "regret": same_seed[k],
                "regret_in_sigma": same_seed[k] / sigma[k] if sigma[k] > 0 else math.nan,
                "rho": rho[k],
                "n_seeds": surface.n_seeds,
                "good": bool(cross_fitted.high[k] < max(NEGLIGIBLE_LOSS, SIGMAS * sigma[k])) if known else None,
                "flag": _regret_flag(case, k),
            }


def _regret_flag(case: Case, k: int) -> str:
    """The first that applies; from `diverged` on there is a regret, and at an edge it may be too small."""
    surface, base = case.surface, case.base_optimum
    if base is None:
        return "no_base_width"
    if base.flag == "all_diverged":
        return "base_all_diverged"
    transferred = case.transferred
    if not surface.ran[k, transferred]:
        return "not_run"
    if case.optima[k].flag == "all_diverged":
        return "all_diverged"
    if surface.diverged[k, transferred].any():
        return "diverged"
    if base.censored or case.optima[k].censored:
        return "edge"
    return "ok" if surface.n_seeds > 2 else "few_seeds"  # cross-fitting needs 2 seeds, its interval 3


def transfer_error(cases: Sequence[Case]) -> Records:
    """The cost of tuning at one width and training at another, over all ordered pairs of widths."""
    for case in cases:
        mean, worst = (case.over_seeds(f) for f in (transfer.transfer_error_mean, transfer.transfer_error_max))
        if len(case.widths) < 2:
            why = "one width, and transfer takes two"
        else:
            why = ONE_SEED if mean.n < 2 else "a width has no rate free of divergence"
        yield {
            **case.names,
            **estimated("mean", mean, why),
            **interval_columns("max", worst),
            "n_pairs": transfer.transfer_error_pairs(case.surface),
        }


def wider_is_better(cases: Sequence[Case], curves: pd.DataFrame) -> Records:
    """On the train loss at base width's best rate, since overfitting breaks it on other losses for other reasons."""
    # Few of all curves are looked at; to leave the others out at once is most of the speed.
    wanted = {run_id for case in cases for run_id in case.at_base_rate["run_id"]}
    losses = curves[(curves["series"] == "train_loss") & curves["run_id"].isin(wanted)]
    return [_wider(case, losses) for case in cases]


def _wider(case: Case, losses: pd.DataFrame) -> dict[str, Any]:
    runs = case.at_base_rate
    worse, points = transfer.count_worse(_train_losses(case, runs, losses))
    final = runs[runs["status"] == "ok"].pivot(index="width", columns="seed", values="train_loss")
    ends = final.reindex(index=case.widths, columns=case.seeds).to_numpy(np.float64)
    tau = jackknife(lambda kept: transfer.kendall_tau(case.surface.widths, ends[:, kept].mean(axis=1)), len(case.seeds))
    return {
        **case.names,
        "log2_lr": case.base_rate,
        "share_worse": worse / points if points else math.nan,
        "n_points": points,
        **interval_columns("tau", tau),
        "n_widths": len(case.widths),
        "n_seeds": len(case.seeds),
        "status": "ok" if points else "not_estimable",
        "reason": "" if points else _why_not_wider(case),
    }


def _why_not_wider(case: Case) -> str:
    if len(case.widths) < 2:
        return "one width"
    if len(case.seeds) < 2:
        return "one seed, so no standard error"
    if math.isnan(case.base_rate):
        return "no best rate at base width"
    return "runs at base width's rate diverged or are missing"


def _train_losses(case: Case, runs: pd.DataFrame, losses: pd.DataFrame) -> Floats:
    """Train loss after warm-up, [widths, steps, seeds]; NaN where a run is missing or was stopped."""
    found = losses.merge(runs[["run_id", "width", "seed", "warmup_steps"]], on="run_id")
    found = found[found["step"] > found["warmup_steps"]]
    steps = np.sort(found["step"].unique())
    losses_of = found.pivot_table(index=["width", "step"], columns="seed", values="value", observed=True)
    points = pd.MultiIndex.from_product([case.widths, steps])
    shape = (len(case.widths), len(steps), len(case.seeds))
    return losses_of.reindex(index=points, columns=case.seeds).to_numpy(np.float64).reshape(shape)

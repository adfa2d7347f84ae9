"""Every estimate that has an interval, in long form: what hypotheses, the paper's numbers and its claims read.

The numbers are those of the other tables: the standard error and the 90 % interval follow from the 95 % one, since all of them
are t intervals. An interval of another kind (Wilson's) has neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mufree.analysis.metrics.statistics import Floats

COLUMNS = [
    *("task", "subject", "width", "statistic", "estimate", "low", "high", "low90", "high90", "se"),
    *("n_seeds", "unit", "status", "reason"),
]


@dataclass(frozen=True)
class Source:
    """A column of a table as a statistic. `statistic`, `subject` and `where` may name columns in braces."""

    table: str
    statistic: str
    estimate: str
    low: str
    high: str
    unit: str
    subject: str = "{method}"
    where: str = ""
    t_interval: bool = True


SOURCES = [
    Source("transfer", "drift", "drift", "drift_low", "drift_high", "doublings per doubling"),
    Source("optima", "log2_lr_opt", "log2_lr_opt", "log2_lr_opt_low", "log2_lr_opt_high", "log2"),
    Source("regret", "regret_cf", "regret_cf", "regret_cf_low", "regret_cf_high", "nats"),
    Source("transfer_error", "transfer_error_mean", "mean", "mean_low", "mean_high", "nats"),
    Source("transfer_error", "transfer_error_max", "max", "max_low", "max_high", "nats"),
    Source("wider_is_better", "wider_share", "share_worse", "", "", "share"),
    Source("wider_is_better", "wider_tau", "tau", "tau_low", "tau_high", "1"),
    Source("stability", "lr_sensitivity", "lr_sensitivity", "lr_sensitivity_low", "lr_sensitivity_high", "nats"),
    Source("stability", "lr_sensitivity_normalised", "lr_sensitivity_normalised", "", "", "share"),
    Source("stability", "diverged_fraction", "diverged_fraction", "diverged_low", "diverged_high", "share", t_interval=False),
    Source("stability", "basin_width", "basin_width", "", "", "doublings"),
    Source("stability", "headroom", "headroom", "", "", "doublings"),
    Source("spikes", "spike_score", "score", "score_low", "score_high", "share", where="lr_factor == 2 and series == 'train_loss'"),  # noqa: E501
    Source("smoothness", "tvx_{at}", "tvx", "tvx_low", "tvx_high", "share"),
    Source("cost", "best_of_3_excess", "best_of_3_excess", "best_of_3_low", "best_of_3_high", "nats"),
    Source("cost", "flops_saved", "flops_saved", "", "", "share"),
    Source("horizon", "horizon_drift", "drift", "drift_low", "drift_high", "doublings per doubling"),
    Source("horizon", "horizon_regret", "regret", "regret_low", "regret_high", "nats"),
    Source("anytime", "anytime_gap_{horizon}", "gap", "gap_low", "gap_high", "nats", subject="{method} - {rival}"),
    Source("premium", "premium", "premium", "premium_low", "premium_high", "nats", subject="{constant} - {scheduled}"),
    Source("rate_ratio", "rate_ratio", "log2_ratio", "low", "high", "doublings", subject="{numerator} / {denominator}"),
    *(
        Source("dynamics", f"{name}_slope_{{layer}}", "slope", "slope_low", "slope_high", "doublings per doubling",
               where=f"quantity == '{name}_rms'")
        for name in ("grad", "update", "weight")
    ),
    Source("interaction", "did_{statistic}", "estimate", "low", "high", "{unit}", "interaction", "effect == 'interaction'"),
    Source("interaction", "effect_mup_{statistic}", "estimate", "low", "high", "{unit}", "interaction", "effect == 'mup'"),
    Source("interaction", "effect_schedulefree_{statistic}", "estimate", "low", "high", "{unit}", "interaction",
           "effect == 'schedulefree'"),
    Source("interaction", "abs_drift", "estimate", "low", "high", "{unit}", "{effect}",
           "statistic == 'abs_drift' and effect not in ('mup', 'schedulefree', 'interaction')"),
]  # fmt: skip


def estimates(tables: dict[str, pd.DataFrame], contrasts: pd.DataFrame) -> pd.DataFrame:
    """All estimates of the finished tables, and the contrasts; one row for each (task, subject, width, statistic)."""
    losses = tables["optima"].rename(columns={"best_loss": "estimate"})
    freedom = losses["n_seeds"].to_numpy(np.int64)
    half = _quantile(freedom, 0.95) * losses["best_loss_se"].to_numpy(np.float64)
    best = _long(losses, "best_loss", losses["method"], "nats", losses["estimate"] - half, losses["estimate"] + half)
    parts = [best, *(_from(source, tables[source.table]) for source in SOURCES), contrasts]
    found = pd.concat([part for part in parts if len(part)], ignore_index=True)
    value, low, high = (found[name].to_numpy(np.float64) for name in ("estimate", "low", "high"))
    seeds = found["n_seeds"].fillna(0).to_numpy(np.int64)
    error = np.where(found["t_interval"].fillna(True).astype(bool), (high - low) / 2 / _quantile(seeds, 0.95), np.nan)
    found["se"] = error
    found["low90"], found["high90"] = (value + sign * _quantile(seeds, 0.90) * error for sign in (-1, 1))
    lacking = np.isnan(value)
    found["status"] = found["status"].where(~lacking, "not_estimable")
    found["width"] = found["width"].astype("Int64")
    found["n_seeds"] = seeds
    return found[COLUMNS].sort_values(["task", "subject", "statistic", "width"], ignore_index=True, kind="stable")


def _quantile(n_seeds: np.ndarray, level: float) -> Floats:
    """Student's t quantile of n − 1 degrees of freedom; NaN below two seeds."""
    from scipy.stats import t  # slow to import

    freedom = np.where(n_seeds > 1, n_seeds - 1, 1)
    return np.where(n_seeds > 1, t.ppf((1 + level) / 2, freedom), np.nan)


def _from(source: Source, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of one source in long form; horizons are written as T/4, T/2 and T."""
    rows = table.query(source.where) if source.where else table
    if rows.empty:
        return pd.DataFrame()
    if "horizon" in rows:
        rows = rows.assign(horizon=["T" if share == 1 else f"T/{1 / share:.0f}" for share in rows["horizon"]])
    records = [{str(key): value for key, value in record.items()} for record in rows.to_dict("records")]
    names = pd.Series([source.statistic.format(**record) for record in records], index=rows.index)
    subjects = pd.Series([source.subject.format(**record) for record in records], index=rows.index)
    units = pd.Series([source.unit.format(**record) for record in records], index=rows.index)
    nothing = pd.Series(np.nan, index=rows.index)
    low, high = (rows[name] if name else nothing for name in (source.low, source.high))
    found = _long(rows.assign(estimate=rows[source.estimate]), names, subjects, units, low, high)
    found["t_interval"] = source.t_interval
    return found


def _long(
    rows: pd.DataFrame,
    statistic: pd.Series | str,
    subject: pd.Series,
    unit: pd.Series | str,
    low: pd.Series,
    high: pd.Series,
) -> pd.DataFrame:
    found = pd.DataFrame({"task": rows["task"], "subject": subject, "statistic": statistic, "unit": unit})
    found["width"] = rows.get("width", pd.NA)
    found["estimate"], found["low"], found["high"] = rows["estimate"], low, high
    found["n_seeds"] = rows["n_seeds"]
    found["status"] = rows.get("status", "ok")
    found["reason"] = rows.get("reason", rows.get("flag", ""))
    return found

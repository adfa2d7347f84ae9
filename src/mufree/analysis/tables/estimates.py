"""Every estimate that has an interval, in long form: what hypotheses, the paper's numbers and its claims read.

The numbers are those of the other tables, by the declarations of `study.statistics`: the standard error and the 90 % interval
follow from the 95 % one, since all of them are t intervals. An interval of another kind (Wilson's) has neither.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mufree.analysis.metrics.statistics import Floats
from mufree.analysis.tables.cases import plain_records
from mufree.study.statistics import ALL, Statistic

COLUMNS = [
    *("task", "subject", "width", "statistic", "estimate", "low", "high", "low90", "high90", "se"),
    *("n_seeds", "unit", "status", "reason"),
]


def estimates(tables: dict[str, pd.DataFrame], contrasts: pd.DataFrame) -> pd.DataFrame:
    """All estimates of the finished tables, and the contrasts; one row for each (task, subject, width, statistic)."""
    optima = tables["optima"]
    half = _quantile(optima["n_seeds"], 0.95) * optima["best_loss_se"]
    spread = optima.assign(best_loss_low=optima["best_loss"] - half, best_loss_high=optima["best_loss"] + half)
    tables = tables | {"optima": spread}
    parts = [*(_from(statistic, tables[statistic.table]) for statistic in ALL if statistic.table), contrasts]
    found = pd.concat([part for part in parts if len(part)], ignore_index=True)
    value, low, high = (found[name].to_numpy(np.float64) for name in ("estimate", "low", "high"))
    seeds = found["n_seeds"].fillna(0).astype(np.int64)
    error = np.where(found["t_interval"].fillna(True).astype(bool), (high - low) / 2 / _quantile(seeds, 0.95), np.nan)
    found["se"] = error
    found["low90"], found["high90"] = (value + sign * _quantile(seeds, 0.90) * error for sign in (-1, 1))
    found["status"] = found["status"].mask(np.isnan(value), "not_estimable")
    found["width"] = found["width"].astype("Int64")
    found["n_seeds"] = seeds
    return found[COLUMNS].sort_values(["task", "subject", "statistic", "width"], ignore_index=True, kind="stable")


def _quantile(n_seeds: pd.Series, level: float) -> Floats:
    """Student's t quantile of n − 1 degrees of freedom; NaN below two seeds."""
    from scipy.stats import t  # slow to import

    freedom = n_seeds.to_numpy(np.int64) - 1
    return np.where(freedom > 0, t.ppf((1 + level) / 2, np.maximum(freedom, 1)), np.nan)


def _from(statistic: Statistic, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of one statistic in long form; horizons are written as T/4, T/2 and T."""
    rows = table.query(statistic.where) if statistic.where else table
    if rows.empty:
        return pd.DataFrame()
    if "horizon" in rows:
        rows = rows.assign(horizon=["T" if share == 1 else f"T/{1 / share:.0f}" for share in rows["horizon"]])
    records = plain_records(rows)
    estimate, low, high = (rows[name] if name else np.nan for name in statistic.columns)
    return pd.DataFrame(
        {
            "task": rows["task"],
            "subject": [statistic.subject.format(**record) for record in records],
            "statistic": [statistic.name.format(**record) for record in records],
            "unit": statistic.table_unit,
            "width": rows.get("width", pd.NA),
            "estimate": estimate,
            "low": low,
            "high": high,
            "n_seeds": rows["n_seeds"],
            "status": rows.get("status", "ok"),
            "reason": rows.get("reason", rows.get("flag", "")),
            "t_interval": statistic.interval == "t",
        }
    )

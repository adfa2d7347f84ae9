"""The tables of a made-up study that need more than its primary cells, or compare methods. `synthetic_study` is the way in.

Estimates follow from the made-up rows, intervals have made-up sizes and vanish with one seed. A table has its columns also when
it has no rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from math import comb
from typing import Any

import numpy as np
import pandas as pd

from mufree.analysis.tables.pooled import pooled

CANONICAL = {
    "sp_adamw": (0, 0),
    "sp_schedulefree": (0, 1),
    "mup_adamw": (1, 0),
    "mup_schedulefree": (1, 1),
}
EPSILON = 0.02
CELL = ["task", "method", "variant", "horizon", "beta1", "weight_decay", "weight_decay_scaling", "width"]
STATUS = ["n_seeds", "status", "reason"]
COLUMNS = {
    "transfer_error": [
        *("task", "method", "mean", "mean_low", "mean_high", "max", "max_low", "max_high", "n_pairs"),
        *STATUS,
    ],
    "fast_transfer": [
        *("task", "method", "base_width", "source", "width", "lost", "lost_low", "lost_high"),
        *("gain", "gain_low", "gain_high", "rho", "rho_low", "rho_high", *STATUS),
    ],
    "scaling": [
        *("task", "statistic", "method", "rival", "estimate", "low", "high", "n_widths", "n_seeds", "unit"),
        *("status", "reason"),
    ],
    "wider_is_better": [
        *("task", "method", "log2_lr", "share_worse", "n_points", "tau", "tau_low", "tau_high", "n_widths"),
        *STATUS,
    ],
    "spikes": [
        *("task", "method", "width", "lr_factor", "log2_lr", "series", "score", "n_spikes", "n_points", "window"),
        "n_seeds",
    ],
    "arms": [
        *CELL,
        "log2_lr_opt",
        "log2_lr_argmin",
        "flag",
        "best_loss",
        "best_loss_se",
        "n_seeds",
        "n_runs",
        "n_diverged",
    ],
    "anytime": [
        *("task", "parametrization", "method", "rival", "width", "horizon", "loss", "rival_loss"),
        *("gap", "gap_low", "gap_high", "gap_low90", "gap_high90", *STATUS),
    ],
    "horizon": [
        *("task", "method", "width", "drift", "drift_low", "drift_high", "n_horizons"),
        *("regret", "regret_low", "regret_high", *STATUS),
    ],
    "premium": [
        *("task", "parametrization", "width", "constant", "scheduled", "premium", "premium_low", "premium_high"),
        *STATUS,
    ],
    "best_of_k": ["task", "method", "width", "k", "loss", "n"],
    "cost": [
        *("task", "method", "width", "best_of_3_excess", "best_of_3_low", "best_of_3_high", "k_eps", "eps"),
        *("flops_saved", "regret_cf", "n_seeds"),
    ],
    "rate_ratio": [
        "task",
        "parametrization",
        "numerator",
        "denominator",
        "width",
        "log2_ratio",
        "low",
        "high",
        *STATUS,
    ],
    "interaction": ["task", "statistic", "effect", "estimate", "low", "high", "n_seeds", "unit", "status", "reason"],
    "weight_decay": [
        *("task", "method", "width", "weight_decay", "weight_decay_scaling", "log2_lr", "mean_loss", "se"),
        *("n_seeds", "n_diverged"),
    ],
    "weight_decay_optimum": [
        *("task", "method", "width", "weight_decay_scaling", "weight_decay", "log2_lr", "log2_lr_weight_decay"),
        *("best_loss", "agreement", "n_seeds", "flag"),
    ],
    "epsilon": ["task", "method", "width", "layer", "median_sqrt_v", "epsilon", "ratio", "flagged"],
    "estimates": [
        *("task", "subject", "width", "statistic", "estimate", "low", "high", "low90", "high90", "se"),
        *("n_seeds", "unit", "status", "reason"),
    ],
    "verdicts": [
        *("id", "task", "claim", "statistic", "subject", "width", "rule", "margin", "estimate"),
        *("low", "high", "low90", "high90", "p", "p_holm", "verdict", "reason", "evidence", "post_hoc"),
    ],
}
Records = list[dict[str, Any]]


def make_factor_tables(study: Mapping[str, pd.DataFrame], seeds: int) -> dict[str, pd.DataFrame]:
    """All tables of `COLUMNS`; `study` has the rows, the curves and the tables of primary cells."""
    arms = make_arms(study["rows"])
    made: dict[str, Records | pd.DataFrame] = {
        "transfer_error": make_transfer_error(study["transfer"], seeds),
        "fast_transfer": make_fast_transfer(study["regret"], study["optima"], seeds),
        "scaling": make_scaling(study["transfer"], seeds),
        "wider_is_better": make_wider_is_better(study["transfer"], study["optima"], seeds),
        "spikes": make_spikes(study["optima"]),
        "arms": arms,
        "anytime": make_anytime(study["rows"], study["curves"], arms, seeds),
        "horizon": make_horizon(arms, seeds),
        "premium": make_premium(study["rows"], study["optima"], seeds),
        "best_of_k": make_best_of_k(study["rows"]),
        "rate_ratio": make_rate_ratio(study["rows"], study["optima"], seeds),
        "interaction": make_interaction(study, seeds),
        "weight_decay": make_weight_decay(study["rows"]),
        "epsilon": make_epsilon(study["optima"]),
    }
    tables = {name: pd.DataFrame(records, columns=COLUMNS[name]) for name, records in made.items()}
    tables["cost"] = pd.DataFrame(make_cost(tables["best_of_k"], study["regret"], seeds), columns=COLUMNS["cost"])
    best = make_weight_decay_optimum(tables["weight_decay"])
    tables["weight_decay_optimum"] = pd.DataFrame(best, columns=COLUMNS["weight_decay_optimum"])
    found = make_estimates(study, tables, seeds)
    verdicts, estimates = make_verdicts(found), pd.DataFrame(found, columns=COLUMNS["estimates"])
    return tables | {
        "estimates": estimates,
        "pooled": pooled(estimates),
        "verdicts": pd.DataFrame(verdicts, columns=COLUMNS["verdicts"]),
    }


def interval(value: float, half: float, seeds: int, name: str = "") -> dict[str, float]:
    """The ends around `value`, NaN with one seed; called low and high, or `name`_low and `name`_high."""
    half = half if seeds > 1 else np.nan
    prefix = f"{name}_" if name else ""
    return {f"{prefix}low": value - half, f"{prefix}high": value + half}


def status(value: float, seeds: int) -> dict[str, Any]:
    """Number of seeds, and whether there is an estimate."""
    known = bool(np.isfinite(value))
    return {
        "n_seeds": seeds,
        "status": "ok" if known else "not_estimable",
        "reason": "" if known else "every run of one side diverged",
    }


def make_transfer_error(transfer: pd.DataFrame, seeds: int) -> Records:
    """Mean and greatest loss of carrying a rate between two widths: the more drift, the more."""
    return [
        {
            **{"task": row.task, "method": row.method, "n_pairs": row.n_widths * (row.n_widths - 1)},
            **{"mean": 0.03 * abs(row.drift), "max": 0.2 * abs(row.drift)},
            **interval(0.03 * abs(row.drift), 0.01, seeds, "mean"),
            **interval(0.2 * abs(row.drift), 0.04, seeds, "max"),
            **status(row.drift, seeds),
        }
        for row in transfer.itertuples()
    ]


def make_fast_transfer(regret: pd.DataFrame, optima: pd.DataFrame, seeds: int) -> Records:
    """From base width to each wider one, which is 0.1 nats better."""
    base = optima.groupby("task").base_width.first()
    return [
        {
            **{"task": row.task, "method": row.method, "base_width": base[row.task], "source": base[row.task]},
            **{"width": row.width, "lost": row.regret_cf, "gain": 0.1, "rho": 10 * row.regret_cf},
            **interval(row.regret_cf, 0.01, seeds, "lost"),
            **interval(0.1, 0.02, seeds, "gain"),
            **interval(10 * row.regret_cf, 0.2, seeds, "rho"),
            **status(row.regret_cf, seeds),
        }
        for row in regret.itertuples()
        if row.width > base[row.task]
    ]


def make_scaling(transfer: pd.DataFrame, seeds: int) -> Records:
    """A trend and an exponent that follow the drift, and a limit that no width tells."""
    return [
        {
            **{"task": row.task, "statistic": name, "method": row.method, "rival": "", "unit": unit},
            **{"estimate": value, "n_widths": row.n_widths},
            **interval(value, 0.1, seeds),
            **status(value, seeds),
        }
        for row in transfer.itertuples()
        for name, unit, value in (
            ("rho_trend", "1", 0.2 * row.drift),
            ("robustness_exponent", "1", 0.5 + row.drift),
            ("loss_limit", "nats", np.nan),
        )
    ]


def make_wider_is_better(transfer: pd.DataFrame, optima: pd.DataFrame, seeds: int) -> Records:
    """Under µP no wider network is worse, under SP some are."""
    base = optima[optima.width.eq(optima.base_width)].set_index(["task", "method"]).log2_lr_argmin
    return [
        {
            **{"task": row.task, "method": row.method, "log2_lr": base.get((row.task, row.method), np.nan)},
            **{"share_worse": 0.3 if row.method.startswith("sp") else 0.0, "n_points": 60},
            **{"tau": -0.3 if row.method.startswith("sp") else -1.0, "tau_low": -1.0, "tau_high": -0.1},
            **{"n_widths": row.n_widths, **status(row.drift, seeds)},
        }
        for row in transfer.itertuples()
    ]


def make_spikes(optima: pd.DataFrame) -> Records:
    """More of them the further a rate is above the best."""
    return [
        {
            **{"task": cell.task, "method": cell.method, "width": cell.width, "lr_factor": factor},
            **{"log2_lr": cell.log2_lr_argmin + np.log2(factor), "series": series, "score": 0.01 * (factor - 1)},
            **{"n_spikes": 2 * (factor - 1), "n_points": 200, "window": 50, "n_seeds": cell.n_seeds},
        }
        for cell, factor, series in product(optima.itertuples(), (1, 2, 4), ("train_loss", "grad_norm"))
        if cell.flag != "all_diverged"
    ]


def make_arms(rows: pd.DataFrame) -> Records:
    """Every cell, by the argmin of its seeds' means."""
    arms = []
    for names, cell in rows.groupby(CELL, sort=False):
        ok = cell[cell.status.eq("ok")]
        means = ok.groupby("log2_lr").val_loss.mean()
        argmin = means.idxmin() if len(means) else np.nan
        at = ok.loc[ok.log2_lr.eq(argmin), "val_loss"]
        edges = {cell.log2_lr.min(): "edge_low", cell.log2_lr.max(): "edge_high"}
        arms.append(
            {
                **dict(zip(CELL, names, strict=True)),
                "log2_lr_opt": argmin,
                "log2_lr_argmin": argmin,
                "flag": "all_diverged" if ok.empty else edges.get(argmin, "ok"),
                "best_loss": at.mean(),
                "best_loss_se": at.sem(),
                "n_seeds": cell.seed.nunique(),
                "n_runs": len(cell),
                "n_diverged": int(cell.status.eq("diverged").sum()),
            }
        )
    return arms


def _roles(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a task and method, with the columns of its role."""
    first = rows.drop_duplicates(["task", "method"])
    return first.assign(free=first.optimizer.str.contains("schedulefree"), sgd=first.optimizer.str.startswith("sgd"))


def make_anytime(rows: pd.DataFrame, curves: pd.DataFrame, arms: Records, seeds: int) -> Records:
    """The schedule-free run read at each horizon against the rivals of its parametrization trained that long."""
    if rows.horizon.nunique() == 1:
        return []
    cells = {(a["task"], a["method"], a["width"], a["horizon"]): a for a in arms if a["weight_decay"] == 0}
    curve = curves[curves.series.eq("val_loss")].set_index(["run_id", "step"]).value
    out = []
    for _, roles in _roles(rows).groupby("task"):
        rivals = roles[~roles.free & ~roles.sgd & roles.embedding_lr.eq("shared")]
        for free, rival in product(roles[roles.free].itertuples(), rivals.itertuples()):
            if free.parametrization != rival.parametrization:
                continue
            for width, horizon in product(sorted(rows.width.unique()), sorted(rows.horizon.unique())):
                own = cells.get((free.task, free.method, width, 1.0))
                other = cells.get((free.task, rival.method, width, horizon))
                if own is None or other is None:
                    continue
                runs = rows[rows.task.eq(free.task) & rows.method.eq(free.method) & rows.variant.eq("")]
                runs = runs[runs.width.eq(width) & runs.log2_lr.eq(own["log2_lr_argmin"])]
                loss = (
                    float(np.mean([curve[i, int(free.steps * horizon)] for i in runs.run_id])) if len(runs) else np.nan
                )
                gap = loss - other["best_loss"]
                out.append(
                    {
                        **{"task": free.task, "parametrization": free.parametrization, "method": free.method},
                        **{"rival": rival.method, "width": width, "horizon": horizon},
                        **{"loss": loss, "rival_loss": other["best_loss"], "gap": gap},
                        **interval(gap, 0.015, seeds, "gap"),
                        **{f"{k}90": v for k, v in interval(gap, 0.01, seeds, "gap").items()},
                        **status(gap, seeds),
                    }
                )
    return out


def make_horizon(arms: Records, seeds: int) -> Records:
    """Drift of the best rate over the horizons, from the known shift of the made-up parabolas."""
    frame = pd.DataFrame(arms, columns=COLUMNS["arms"])
    frame = frame[frame.weight_decay.eq(0)]
    out = []
    for (task, method, width), cells in frame.groupby(["task", "method", "width"]):
        if len(cells) == 1:
            continue
        drift = 0.0 if "schedulefree" in method else -0.5
        drift = drift if cells.best_loss.notna().all() else np.nan
        out.append(
            {
                **{
                    "task": task,
                    "method": method,
                    "width": width,
                    "drift": drift,
                    **interval(drift, 0.1, seeds, "drift"),
                },
                **{"n_horizons": len(cells), "regret": 0.05 * (2 * drift) ** 2},
                **interval(0.05 * (2 * drift) ** 2, 0.01, seeds, "regret"),
                **status(drift, seeds),
            }
        )
    return out


def make_premium(rows: pd.DataFrame, optima: pd.DataFrame, seeds: int) -> Records:
    """Constant against scheduled, the same optimizer without an average."""
    best = optima.set_index(["task", "method", "width"]).best_loss
    out = []
    for _, roles in _roles(rows).groupby("task"):
        plain = roles[~roles.free & roles.average.eq("none") & roles.embedding_lr.eq("shared")]
        constants, scheduled = plain[plain.schedule.eq("constant")], plain[plain.schedule.ne("constant")]
        for a, b in product(constants.itertuples(), scheduled.itertuples()):
            if (a.parametrization, a.optimizer) != (b.parametrization, b.optimizer):
                continue
            for width in sorted(rows.width.unique()):
                if (a.task, a.method, width) not in best or (a.task, b.method, width) not in best:
                    continue
                premium = best[a.task, a.method, width] - best[a.task, b.method, width]
                out.append(
                    {
                        **{"task": a.task, "parametrization": a.parametrization, "width": width},
                        **{"constant": a.method, "scheduled": b.method, "premium": premium},
                        **interval(premium, 0.01, seeds, "premium"),
                        **status(premium, seeds),
                    }
                )
    return out


def make_best_of_k(rows: pd.DataFrame) -> Records:
    """E_k of the settings' mean losses (Dodge et al. 2019), a diverged run at the loss of initialisation."""
    primary = rows[rows.variant.eq("")]
    cost = primary.val_loss.where(primary.status.eq("ok"), primary.initial_loss)
    out = []
    for (task, method, width), cell in primary.assign(cost=cost).groupby(["task", "method", "width"]):
        losses = np.sort(cell.groupby("log2_lr").cost.mean())
        n = len(losses)
        for k in range(1, n + 1):
            weights = [comb(n - i, k - 1) / comb(n, k) for i in range(1, n + 1)]
            out.append(
                {"task": task, "method": method, "width": width, "k": k, "loss": float(losses @ weights), "n": n}
            )
    return out


def make_cost(best_of_k: pd.DataFrame, regret: pd.DataFrame, seeds: int) -> Records:
    """Excess after three draws, and the draws that it takes to come within `EPSILON`."""
    of_cell = regret.set_index(["task", "method", "width"]).regret_cf
    out = []
    for (task, method, width), curve in best_of_k.groupby(["task", "method", "width"]):
        excess = (curve.set_index("k").loss - curve.loss.min()).to_dict()
        three = excess.get(3, np.nan)
        out.append(
            {
                **{"task": task, "method": method, "width": width, "best_of_3_excess": three},
                **interval(three, 0.02, seeds, "best_of_3"),
                **{"k_eps": next(k for k, e in excess.items() if e <= EPSILON), "eps": EPSILON},
                **{"flops_saved": 0.85, "regret_cf": of_cell.get((task, method, width), np.nan), "n_seeds": seeds},
            }
        )
    return out


def make_rate_ratio(rows: pd.DataFrame, optima: pd.DataFrame, seeds: int) -> Records:
    """The best rate of schedule-free over that of the same optimizer with a cosine, log2."""
    best = optima.set_index(["task", "method", "width"])
    out = []
    for (task, parametrization), roles in _roles(rows).groupby(["task", "parametrization"]):
        plain = roles[roles.schedule.eq("cosine") & roles.average.eq("none") & roles.embedding_lr.eq("shared")]
        for a, b in product(roles[roles.free].itertuples(), plain.itertuples()):
            if a.optimizer != f"{b.optimizer}_schedulefree":
                continue
            for width in sorted(rows.width.unique()):
                if (task, a.method, width) not in best.index or (task, b.method, width) not in best.index:
                    continue
                cells = [best.loc[(task, m, width)] for m in (a.method, b.method)]
                inside = all(cell.flag == "ok" for cell in cells)
                ratio = cells[0].log2_lr_opt - cells[1].log2_lr_opt if inside else np.nan
                out.append(
                    {
                        **{"task": task, "parametrization": parametrization, "numerator": a.method},
                        **{"denominator": b.method, "width": width, "log2_ratio": ratio},
                        **interval(ratio, 0.3, seeds),
                        **status(ratio, seeds),
                    }
                )
    return out


def make_interaction(study: Mapping[str, pd.DataFrame], seeds: int) -> Records:
    """Cells, main effects and difference in differences of six statistics, where all four methods were run."""
    out = []
    for task, optima in study["optima"].groupby("task"):
        if not set(CANONICAL) <= set(optima.method):
            continue
        widest = optima.width.max()
        at_widest = {
            name: table[table.task.eq(task) & table.width.eq(widest)].set_index("method")
            for name, table in ((name, study[name]) for name in ("optima", "regret", "stability"))
        }
        drift = study["transfer"][study["transfer"].task.eq(task)].set_index("method").drift
        statistics = {
            "drift": (drift, 0.12, "doublings per doubling"),
            "abs_drift": (drift.abs(), 0.12, "doublings per doubling"),
            "regret_cf": (at_widest["regret"].regret_cf, 0.01, "nats"),
            "best_loss": (at_widest["optima"].best_loss, 0.006, "nats"),
            "lr_sensitivity": (at_widest["stability"].lr_sensitivity, 0.03, "nats"),
            "diverged_fraction": (at_widest["stability"].diverged_fraction, 0.1, "share"),
        }
        for statistic, (values, half, unit) in statistics.items():
            cells = {m: float(values.get(m, np.nan)) for m in CANONICAL}
            a, b, c, d = cells.values()
            effects = {
                "mup": (c + d - a - b) / 2,
                "schedulefree": (b + d - a - c) / 2,
                "interaction": (d - b) - (c - a),
            }
            for i, (effect, estimate) in enumerate((cells | effects).items()):
                out.append(
                    {
                        **{"task": task, "statistic": statistic, "effect": effect, "estimate": estimate},
                        **interval(estimate, half * (2 if i == 6 else 1), seeds),
                        **status(estimate, seeds),
                        "unit": unit,
                    }
                )
    return out


def make_weight_decay(rows: pd.DataFrame) -> Records:
    """Every cell of those (method, width) that were run with weight decay."""
    short = rows[rows.horizon.eq(1)]
    keys = ["task", "method", "width", "weight_decay_scaling"]
    out = []
    for names, cells in short[short.weight_decay.gt(0)].groupby(keys):
        task, method, width, scaling = names
        zero = short[short.variant.eq("") & short.task.eq(task) & short.method.eq(method) & short.width.eq(width)]
        both = pd.concat([zero.assign(weight_decay_scaling=scaling), cells])
        for (decay, rate), runs in both.groupby(["weight_decay", "log2_lr"]):
            ok = runs.loc[runs.status.eq("ok"), "val_loss"]
            out.append(
                {
                    **dict(zip(keys, names, strict=True)),
                    **{"weight_decay": decay, "log2_lr": rate, "mean_loss": ok.mean(), "se": ok.sem()},
                    **{"n_seeds": len(runs), "n_diverged": len(runs) - len(ok)},
                }
            )
    return out


def make_weight_decay_optimum(cells: pd.DataFrame) -> Records:
    """The best of the cells in which no seed diverged."""
    out = []
    keys = ["task", "method", "width", "weight_decay_scaling"]
    for names, panel in cells.groupby(keys):
        alive = panel[panel.n_diverged.eq(0)]
        best = alive.loc[alive.mean_loss.idxmin()] if len(alive) else pd.Series(dtype=float)
        decay, rate = best.get("weight_decay", np.nan), best.get("log2_lr", np.nan)
        out.append(
            {
                **dict(zip(keys, names, strict=True)),
                **{"weight_decay": decay, "log2_lr": rate},
                "log2_lr_weight_decay": rate + np.log2(decay) if decay > 0 else np.nan,
                "best_loss": best.get("mean_loss", np.nan),
                "agreement": 0.8 if len(alive) else np.nan,
                "n_seeds": int(panel.n_seeds.max()),
                "flag": "ok" if len(alive) else "all_diverged",
            }
        )
    return out


def make_epsilon(optima: pd.DataFrame) -> Records:
    """Adam's ε against the size of √v, which falls with width."""
    return [
        {
            **{"task": cell.task, "method": cell.method, "width": cell.width, "layer": layer},
            **{"median_sqrt_v": 1e-4 / cell.width, "epsilon": 1e-12, "ratio": 1e-8 * cell.width, "flagged": False},
        }
        for cell, layer in product(optima.itertuples(), ("embedding", "hidden", "readout"))
        if cell.flag != "all_diverged" and "sgd" not in cell.method
    ]


def make_estimates(study: Mapping[str, pd.DataFrame], tables: Mapping[str, pd.DataFrame], seeds: int) -> Records:
    """What the other tables say, one row an estimate."""
    out: Records = []

    def add(task: str, subject: str, width: float, statistic: str, value: float, half: float, unit: str) -> None:
        known = half if seeds > 1 else np.nan
        out.append(
            {
                **{"task": task, "subject": subject, "width": width, "statistic": statistic, "estimate": value},
                **{"low": value - known, "high": value + known, "unit": unit},
                **{"low90": value - 0.7 * known, "high90": value + 0.7 * known, "se": 0.4 * known},
                **status(value, seeds),
            }
        )

    for row in study["transfer"].itertuples():
        add(row.task, row.method, np.nan, "drift", row.drift, 0.12, "doublings per doubling")
        add(row.task, row.method, np.nan, "abs_drift", abs(row.drift), 0.12, "doublings per doubling")
    for table, statistics in (
        ("regret", {"regret_cf": "nats", "rho": "share"}),
        ("stability", {"lr_sensitivity": "nats", "diverged_fraction": "share", "basin_width": "doublings"}),
        ("optima", {"best_loss": "nats", "log2_lr_opt": "log2"}),
    ):
        for row, (statistic, unit) in product(study[table].to_dict("records"), statistics.items()):
            add(row["task"], row["method"], row["width"], statistic, row[statistic], 0.02, unit)
    labels = {0.25: "T/4", 0.5: "T/2", 1.0: "T"}
    for row in tables["anytime"].itertuples():
        statistic = f"anytime_gap_{labels[row.horizon]}"
        add(row.task, f"{row.method} - {row.rival}", row.width, statistic, row.gap, 0.015, "nats")
    for row in tables["horizon"].itertuples():
        add(row.task, row.method, row.width, "horizon_drift", row.drift, 0.1, "doublings per doubling")
    for row in tables["premium"].itertuples():
        add(row.task, f"{row.constant} - {row.scheduled}", row.width, "premium", row.premium, 0.01, "nats")
    for row in tables["rate_ratio"].itertuples():
        add(row.task, f"{row.numerator} / {row.denominator}", row.width, "rate_ratio", row.log2_ratio, 0.3, "doublings")
    for row in tables["cost"].itertuples():
        add(row.task, row.method, row.width, "best_of_3_excess", row.best_of_3_excess, 0.02, "nats")
        add(row.task, row.method, row.width, "flops_saved", row.flops_saved, 0.0, "share")
    for row in tables["interaction"].itertuples():
        names = {"interaction": f"did_{row.statistic}"}
        names |= {effect: f"effect_{effect}_{row.statistic}" for effect in ("mup", "schedulefree")}
        if row.effect in names:
            add(row.task, "interaction", np.nan, names[row.effect], row.estimate, row.high - row.estimate, row.unit)
    return out


def make_verdicts(estimates: Iterable[Mapping[str, Any]]) -> Records:
    """One verdict for each drift under µP and each interaction: supported where the interval decides."""
    out = []
    for row in estimates:
        null = row["statistic"] == "drift" and row["subject"].startswith("mup")
        synergy = row["statistic"].startswith("did_")
        if not (null or synergy):
            continue
        inside = abs(row["low90"]) < 0.25 and abs(row["high90"]) < 0.25 if null else row["high"] < 0
        known = np.isfinite(row["low"])
        ends = {name: row[name] for name in ("estimate", "low", "high", "low90", "high90")}
        out.append(
            {
                **{"id": "H1a" if null else "H1b", "task": row["task"], "claim": "a made-up claim"},
                **{name: row[name] for name in ("statistic", "subject", "width")},
                **{"rule": "equivalence" if null else "below", "margin": 0.25 if null else 0.0},
                **ends,
                **{"p": 0.01 if inside else 0.4, "p_holm": 0.03 if inside else 1.0},
                "verdict": "not_estimable" if not known else "supported" if inside else "inconclusive",
                "reason": "" if known else row["reason"] or "one seed, so no interval",
                "evidence": f"{row['subject']}: {row['estimate']:.2f}",
                "post_hoc": False,
            }
        )
    return out

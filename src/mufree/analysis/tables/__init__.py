"""From the rows and curves of all runs to the tables that figures, report and paper read. Frames in, frames out.

All tables are deterministic: neither the order of rows nor that of curves matters. They are sorted by task, method (the four of
the study first) and width. What is missing or not estimable is NaN, never 0. Intervals are delete-one-seed jackknife, 95 %
unless the column ends in 90.

Most tables are of primary cells, whose settings are all the task's own; `arms`, `anytime`, `horizon`, `weight_decay` and
`weight_decay_optimum` look beyond. `estimates` holds again, in long form, everything that has an interval.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from mufree.analysis.tables import estimates as long_form
from mufree.analysis.tables import inside, scaling, schedule, stability, transfer, tuning
from mufree.analysis.tables import weight_decay as decay
from mufree.analysis.tables.cases import PRIMARY, Records, make_cases, primary
from mufree.analysis.tables.contrasts import contrasts
from mufree.analysis.tables.pooled import COLUMNS as POOLED
from mufree.analysis.tables.pooled import pooled
from mufree.study.reading import read_csv

COLUMNS: dict[str, list[str]] = {
    "dynamics": ["task", "method", "layer", "quantity", "slope", "slope_low", "slope_high", "n_seeds", "n_widths"],
    "control": ["task", "optimizer", "width", "n_pairs", "n_equal"],
    "epsilon": ["task", "method", "width", "layer", "median_sqrt_v", "epsilon", "ratio", "flagged"],
    "spikes": [
        *("task", "method", "width", "lr_factor", "log2_lr", "series", "score", "score_low", "score_high"),
        *("n_spikes", "n_points", "window", "n_seeds"),
    ],
    "anytime": [
        *("task", "parametrization", "method", "rival", "width", "horizon", "loss", "rival_loss"),
        *("gap", "gap_low", "gap_high", "gap_low90", "gap_high90", "n_seeds", "status", "reason"),
    ],
    "horizon": [
        *("task", "method", "width", "drift", "drift_low", "drift_high", "n_horizons"),
        *("regret", "regret_low", "regret_high", "n_seeds", "status", "reason"),
    ],
    "premium": [
        *("task", "parametrization", "width", "constant", "scheduled", "premium", "premium_low", "premium_high"),
        *("n_seeds", "status", "reason"),
    ],
    "rate_ratio": [
        *("task", "parametrization", "numerator", "denominator", "width", "log2_ratio", "low", "high"),
        *("n_seeds", "status", "reason"),
    ],
    "fast_transfer": [
        *("task", "method", "base_width", "source", "width", "lost", "lost_low", "lost_high"),
        *("gain", "gain_low", "gain_high", "rho", "rho_low", "rho_high", "n_seeds", "status", "reason"),
    ],
    "scaling": [
        *("task", "statistic", "method", "rival", "estimate", "low", "high"),
        *("n_widths", "n_seeds", "unit", "status", "reason"),
    ],
    "interaction": ["task", "statistic", "effect", "estimate", "low", "high", "n_seeds", "unit", "status", "reason"],
    "weight_decay": [
        *("task", "method", "width", "weight_decay", "weight_decay_scaling", "log2_lr"),
        *("mean_loss", "se", "n_seeds", "n_diverged"),
    ],
    "weight_decay_optimum": [
        *("task", "method", "width", "weight_decay_scaling", "weight_decay", "log2_lr", "log2_lr_weight_decay"),
        *("best_loss", "agreement", "n_seeds", "flag"),
    ],
    "arms": [
        *("task", "method", "variant", "horizon", "beta1", "weight_decay", "weight_decay_scaling", "width"),
        *("log2_lr_opt", "log2_lr_argmin", "flag", "best_loss", "best_loss_se", "n_seeds", "n_runs"),
        "n_diverged",
    ],
    "best_of_k": ["task", "method", "width", "k", "loss", "n"],
    "coordcheck_verdict": [
        *("task", "method", "at", "passed", "worst_module", "worst_slope", "worst_low", "worst_high"),
        *("n_failed", "n_sure", "n_checked"),
    ],
    "cost": [
        *("task", "method", "width", "best_of_3_excess", "best_of_3_low", "best_of_3_high", "k_eps", "eps"),
        *("flops_saved", "regret_cf", "n_seeds"),
    ],
    "dynamics_points": ["task", "method", "width", "seed", "layer", "quantity", "median", "log2_lr"],
    "loss": ["task", "method", "width", "log2_lr", "mean_loss", "se", "n_seeds", "n_diverged"],
    "optima": [
        *("task", "method", "width", "base_width", "log2_lr_opt", "log2_lr_opt_low", "log2_lr_opt_high"),
        *("log2_lr_argmin", "curvature", "flag", "best_loss", "best_loss_se", "best_loss_fit", "sigma_seed"),
        *("n_seeds", "n_runs", "n_diverged", "test_loss", "test_accuracy", "val_accuracy"),
    ],
    "regret": [
        *("task", "method", "width", "log2_lr_transferred", "regret_cf", "regret_cf_low", "regret_cf_high"),
        *("regret", "regret_in_sigma", "rho", "n_seeds", "good", "flag"),
    ],
    "smoothness": ["task", "method", "width", "at", "log2_lr", "tvx", "tvx_low", "tvx_high", "n_seeds"],
    "stability": [
        *("task", "method", "width", "n_runs", "n_diverged", "n_nonfinite", "n_above_start", "n_rebound"),
        *("n_learnt_nothing", "window_low", "window_high", "window_runs", "window_diverged"),
        *("diverged_fraction", "diverged_low", "diverged_high", "log2_lr_max", "headroom", "lr_sensitivity"),
        *("lr_sensitivity_low", "lr_sensitivity_high", "lr_sensitivity_normalised", "span", "basin_width"),
        *("basin_low", "basin_high", "basin_censored", "n_seeds"),
    ],
    "transfer": [
        *("task", "method", "drift", "drift_low", "drift_high", "drift_low90", "drift_high90", "drift_bound"),
        *("equivalent", "drift_range", "n_widths", "n_censored", "n_seeds", "status", "reason"),
    ],
    "transfer_error": [
        *("task", "method", "mean", "mean_low", "mean_high", "max", "max_low", "max_high", "n_pairs"),
        *("n_seeds", "status", "reason"),
    ],
    "wider_is_better": [
        *("task", "method", "log2_lr", "share_worse", "n_points", "tau", "tau_low", "tau_high", "n_widths"),
        *("n_seeds", "status", "reason"),
    ],
    "coordcheck": [
        *("task", "method", "module", "layer", "at", "step", "quantity", "slope", "slope_low", "slope_high"),
        "passed",
    ],
    "estimates": long_form.COLUMNS,
    "pooled": POOLED,
}
"""The columns of each table, as they stand in its file."""

ALWAYS = frozenset({"best_of_k", "cost", "estimates", "loss", "optima", "regret", "stability", "transfer"})
"""Tables that every study has, with a row at least."""


def build(rows: pd.DataFrame, curves: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """All tables from one row a run and the long frame of curves.

    Methods, widths and tasks may have different learning rates. Within a task, method and variant only the seeds that were
    run at every (width, rate) are judged, since a mean over different seeds would compare seeds; runs of other seeds are
    counted and plotted, and a warning tells how many they are. A comparison of methods takes the seeds that they share.

    Raises `RecordError` for missing columns, a run given twice, an ok run without a loss, two base widths in a task, or a
    method with no seed in common.
    """
    everything = make_cases(rows)
    cases = [case for case in everything if case.variant == PRIMARY]
    points = inside.dynamics_points(cases, curves)
    horizons = schedule.over_horizons(everything, curves)
    maps = decay.maps(everything)
    records: dict[str, Records] = {
        "optima": transfer.optima(cases),
        "loss": transfer.loss(cases),
        "transfer": transfer.drift(cases),
        "regret": transfer.regret(cases),
        "stability": stability.stability(cases),
        "smoothness": stability.smoothness(cases, curves),
        "dynamics": inside.dynamics(cases, points),
        "control": inside.control(cases),
        "epsilon": inside.epsilon(cases, curves),
        "transfer_error": transfer.transfer_error(cases),
        "wider_is_better": transfer.wider_is_better(cases, curves),
        "fast_transfer": scaling.fast_transfer(cases),
        "scaling": scaling.laws(cases),
        "spikes": stability.spikes(cases, curves),
        "arms": schedule.arms(everything),
        "anytime": schedule.anytime(horizons),
        "horizon": schedule.horizon(horizons),
        "premium": schedule.premium(cases),
        "best_of_k": tuning.best_of_k(cases),
        "cost": tuning.cost(cases),
        "rate_ratio": tuning.rate_ratio(cases),
        "interaction": tuning.interaction(cases),
        "weight_decay": decay.weight_decay(maps),
        "weight_decay_optimum": decay.weight_decay_optimum(maps),
    }
    tables = {name: _frame(name, found) for name, found in records.items()} | {"dynamics_points": points}
    for name, column in (("transfer", "equivalent"), ("regret", "good")):
        tables[name][column] = tables[name][column].astype("boolean")  # a verdict may be missing
    others = pd.DataFrame(list(contrasts(cases, horizons, maps)))
    estimates = long_form.estimates(tables, others)
    return tables | {"estimates": estimates, "pooled": pooled(estimates)}


def surfaces(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tables `loss`, `optima` and `regret` alone, from rows as in `build`: what a picture of the valleys takes."""
    cases = make_cases(primary(rows))
    made = {"loss": transfer.loss, "optima": transfer.optima, "regret": transfer.regret}
    return {name: _frame(name, table(cases)) for name, table in made.items()}


def _frame(name: str, records: Records) -> pd.DataFrame:
    rows = list(records)
    unknown = {column for row in rows for column in row} - set(COLUMNS[name]) if name in COLUMNS else set()
    assert not unknown, f"COLUMNS of {name} lack {', '.join(sorted(unknown))}"
    return pd.DataFrame(rows, columns=COLUMNS.get(name))


def read_table(path: Path) -> pd.DataFrame:
    """The table in a CSV file of its name, checked. Raises `RecordError`."""
    has_rows = path.stem in ALWAYS or path.stem.startswith("coordcheck")
    return read_csv(path, COLUMNS.get(path.stem, ()), empty=not has_rows)


def read_tables(folder: Path, needed: Iterable[str] = ()) -> dict[str, pd.DataFrame]:
    """All CSV tables of a folder, by name, checked. Raises `RecordError`, also for one that is needed and isn't there."""
    names = {path.stem for path in folder.glob("*.csv")} | set(needed)
    return {name: read_table(folder / f"{name}.csv") for name in sorted(names)}


def to_csv(table: pd.DataFrame) -> str:
    """A table as the text of its file: numbers with 8 digits, what is missing empty."""
    return table.to_csv(index=False, float_format="%.8g")

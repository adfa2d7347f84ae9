"""A made-up study: every table that figures and report read, from a loss surface that is known.

Under SP the optimum drifts by −1 doubling per doubling of width, under µP by 0. A loss is a parabola in log2 of the rate, above
the optimum's cliff a run diverges. Intervals have made-up sizes; they vanish with one seed, as real ones do.

`make_study()` has the four methods and no other factor: its tables of horizons and weight decays are empty. Horizons and weight
decays are asked for by name; `make_full_study()` has ten methods and all factors.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from synthetic_factors import make_factor_tables

from mufree.publish.results import Results

TASKS = {
    "patches-mlp": ("photo_patches", "mlp", 2.3),
    "wiki-gpt": ("wiki_sample", "gpt", 6.2),
}
METHODS = ("sp_adamw", "sp_schedulefree", "mup_adamw", "mup_schedulefree")
MORE_METHODS = (
    "sp_adamw_embedding",
    "mup_adamw_wsd",
    "mup_adamw_constant",
    "mup_adamw_constant_ema",
    "mup_adamw_ema",
    "sp_sgd",
)
LAYERS = ("embedding", "hidden", "readout", "norm")
TRAINING_STEPS = 200
WEIGHT_DECAY = 0.05
"""The best one without schedules; it is half of that for schedule-free methods."""
CLIFF = 3.2
"""Doublings above the optimum from which a run diverges."""


def role(method: str) -> dict[str, str]:
    """The columns of a row that say what a method is; the made-up methods have telling names."""
    words = method.split("_")
    free = "schedulefree" in words
    base = next((word for word in ("sgd", "radam") if word in words), "adamw")
    plain = next((word for word in ("wsd", "constant") if word in words), "cosine")
    return {
        "parametrization": words[0],
        "optimizer": f"{base}_schedulefree" if free else base,
        "schedule": "constant" if free else plain,
        "average": "ema" if "ema" in words else "none",
        "embedding_lr": "times_width" if "embedding" in words else "shared",
    }


def optimum(method: str, width: int, base: int) -> float:
    """log2 of the best rate."""
    drift = -1.0 if method.startswith("sp") else 0.0
    return -9.0 + (0.5 if "schedulefree" in method else 0.0) + drift * np.log2(width / base)


def make_rows(
    tasks: Sequence[str],
    methods: Sequence[str],
    widths: Sequence[int],
    log2_lrs: Sequence[int],
    seeds: int,
    diverged: Sequence[str],
    few_widths: Mapping[str, Sequence[int]],
) -> pd.DataFrame:
    """One row a run; every run of the methods in `diverged` diverges. `few_widths` are those of methods with fewer."""
    rng = np.random.default_rng(0)
    rows = []
    for task, method, width, lr, seed in product(tasks, methods, widths, log2_lrs, range(seeds)):
        if width not in few_widths.get(method, widths):
            continue
        dataset, model, l0 = TASKS[task]
        gap = lr - optimum(method, width, widths[0])
        best = 0.6 * l0 - 0.05 * np.log2(width / widths[0]) - 0.01 * ("schedulefree" in method)
        loss = min(best + 0.05 * gap**2 + 0.01 * rng.standard_normal(), l0)
        died = method in diverged or gap > CLIFF + 0.4 * rng.standard_normal()
        accuracy = 1 - loss / (2 * l0)
        rows.append(
            {
                "run_id": f"{task}.{method}.w{width}.lr{lr}.s{seed}",
                "task": task,
                "dataset": dataset,
                "model": model,
                "method": method,
                **role(method),
                "width": width,
                "base_width": widths[0],
                "log2_lr": lr,
                "seed": seed,
                "steps": TRAINING_STEPS,
                "batch_size": 64,
                "warmup_steps": 20,
                "beta1": 0.9,
                "beta2": 0.99,
                "eps": 1e-12,
                "weight_decay": 0.0,
                "weight_decay_scaling": "coupled",
                "variant": "",
                "horizon": 1.0,
                "flops": 6.0 * 64 * width**2 * TRAINING_STEPS,
                "status": "diverged" if died else "ok",
                "divergence": "above_start" if died else None,
                "initial_loss": l0,
                "train_loss": loss - 0.02,
                "val_loss": np.nan if died else loss,
                "val_loss_y": np.nan if died else loss + 0.03 * ("schedulefree" in method),
                "val_accuracy": accuracy,
                "test_loss": loss + 0.01 if model == "mlp" else np.nan,
                "test_accuracy": accuracy - 0.01 if model == "mlp" else np.nan,
            }
        )
    return pd.DataFrame(rows)


def add_horizons(rows: pd.DataFrame, horizons: Sequence[int]) -> pd.DataFrame:
    """The primary runs again, T/h steps long: worse, and with a cosine the best rate is higher by half a doubling a halving."""
    parts = [rows]
    for divisor in horizons:
        if divisor == 1:
            continue
        halvings = np.log2(divisor)
        free = rows["optimizer"].str.contains("schedulefree")
        run = rows.assign(
            run_id=rows["run_id"] + f".T{divisor}",
            variant=f"T/{divisor}",
            horizon=1 / divisor,
            steps=TRAINING_STEPS // divisor,
            warmup_steps=20 // divisor,
            flops=rows["flops"] / divisor,
        )
        cells = zip(rows["method"], rows["width"], rows["base_width"], strict=True)
        distance = rows["log2_lr"] - [optimum(*cell) for cell in cells]
        tilt = np.where(free, 0.0, -0.05 * halvings * distance)  # what shifts a parabola
        run["val_loss"] = (rows["val_loss"] + 0.08 * halvings + tilt).clip(upper=rows["initial_loss"])
        parts.append(run.assign(val_loss_y=run["val_loss"] + 0.03 * free))
    return pd.concat(parts, ignore_index=True)


def add_weight_decays(rows: pd.DataFrame, decays: Sequence[float], scalings: Sequence[str]) -> pd.DataFrame:
    """The primary runs at the narrowest and the widest network with weight decay; SP has no scaling to choose."""
    ends = rows[rows["variant"].eq("") & rows["width"].isin([rows["width"].min(), rows["width"].max()])]
    parts = [rows]
    for decay, scaling in product([d for d in decays if d], scalings):
        some = ends if scaling == "coupled" else ends[ends["parametrization"].eq("mup")]
        best = np.where(some["optimizer"].str.contains("schedulefree"), WEIGHT_DECAY / 2, WEIGHT_DECAY)
        gain = 0.02 - 0.01 * np.log2(decay / best) ** 2 - 0.004 * (scaling == "independent")
        variant = f"weight_decay={decay:g}" + ("" if scaling == "coupled" else ", independent")
        parts.append(
            some.assign(
                run_id=some["run_id"] + f".wd{decay:g}{scaling[0]}",
                variant=variant,
                weight_decay=decay,
                weight_decay_scaling=scaling,
                val_loss=some["val_loss"] - gain,
                val_loss_y=some["val_loss_y"] - gain,
            )
        )
    return pd.concat(parts, ignore_index=True)


def make_curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Validation losses of the runs that end well, at x and y; those of the others end where they started.

    Without a schedule the loss is at every step what a run of that length would end with, a little worse.
    """
    share = np.linspace(0, 1, 21)[None]
    steps = (rows["steps"].to_numpy()[:, None] * share).astype(np.int32)
    end = rows["val_loss"].fillna(rows["initial_loss"]).to_numpy()[:, None]
    start = rows["initial_loss"].to_numpy()[:, None]
    free = rows["optimizer"].str.contains("schedulefree").to_numpy()[:, None]
    early = np.minimum(end + 0.09 * np.log2(1 / np.maximum(share, 1e-3)), start)
    plain = np.where(free, np.where(share > 0, early, start), end + (start - end) * np.exp(-5 * share))
    frames = []
    for series, lift in (("val_loss", 0.0), ("val_loss_y", 0.05)):
        run_id = np.repeat(rows["run_id"].to_numpy(), steps.shape[1])
        columns = {"run_id": run_id, "series": series, "layer": "", "step": steps.ravel()}
        frames.append(pd.DataFrame(columns | {"value": (plain + lift * (share > 0)).ravel()}))
    return pd.concat(frames, ignore_index=True)


def make_optima(rows: pd.DataFrame, seeds: int) -> pd.DataFrame:
    """The optimum of each cell by the known surface, its flag by the grid."""
    out = []
    for (task, method, width), cell in rows.groupby(["task", "method", "width"]):
        ok = cell[cell.status == "ok"]
        means = ok.groupby("log2_lr").val_loss.mean()
        truth = optimum(method, width, int(cell.base_width.iloc[0]))
        low, high = cell.log2_lr.min(), cell.log2_lr.max()
        argmin = means.idxmin() if len(means) else np.nan
        flag = "all_diverged" if ok.empty else {low: "edge_low", high: "edge_high"}.get(argmin, "ok")
        at = ok[ok.log2_lr == argmin]
        fitted = flag == "ok"
        out.append(
            {
                "task": task,
                "method": method,
                "width": width,
                "base_width": cell.base_width.iloc[0],
                "log2_lr_opt": truth if fitted else argmin,
                "log2_lr_opt_low": truth - 0.2 if fitted and seeds > 1 else np.nan,
                "log2_lr_opt_high": truth + 0.25 if fitted and seeds > 1 else np.nan,
                "log2_lr_argmin": argmin,
                "curvature": 0.05 if fitted else np.nan,
                "flag": flag,
                "best_loss": at.val_loss.mean(),
                "best_loss_se": at.val_loss.std() / np.sqrt(seeds) if seeds > 1 else np.nan,
                "best_loss_fit": at.val_loss.mean(),
                "sigma_seed": at.val_loss.std() if seeds > 1 else np.nan,
                "n_seeds": seeds,
                "n_runs": len(cell),
                "n_diverged": int((cell.status == "diverged").sum()),
                "test_loss": at.test_loss.mean(),
                "test_accuracy": at.test_accuracy.mean(),
                "val_accuracy": at.val_accuracy.mean(),
            }
        )
    return pd.DataFrame(out)


def make_transfer(optima: pd.DataFrame, seeds: int) -> pd.DataFrame:
    """Drift by least squares over the cells that aren't censored."""
    out = []
    for (task, method), cells in optima.groupby(["task", "method"]):
        fitted = cells[cells.flag == "ok"]
        enough = len(fitted) >= 3
        drift = np.polyfit(np.log2(fitted.width), fitted.log2_lr_opt, 1)[0] if enough else np.nan
        known = enough and seeds > 1
        out.append(
            {
                "task": task,
                "method": method,
                "drift": drift,
                "drift_low": drift - 0.12 if known else np.nan,
                "drift_high": drift + 0.12 if known else np.nan,
                "drift_low90": drift - 0.08 if known else np.nan,
                "drift_high90": drift + 0.08 if known else np.nan,
                "drift_bound": abs(drift) + 0.08 if known else np.nan,
                "equivalent": bool(abs(drift) + 0.08 < 0.25) if known else np.nan,
                "drift_range": np.ptp(fitted.log2_lr_opt) if enough else np.nan,
                "n_widths": len(fitted),
                "n_censored": len(cells) - len(fitted),
                "status": "ok" if enough else "not_estimable",
                "reason": "" if enough else f"{len(fitted)} widths with an optimum inside the grid, 3 are needed",
            }
        )
    return pd.DataFrame(out)


def make_regret(optima: pd.DataFrame, seeds: int) -> pd.DataFrame:
    """Regret of a parabola: curvature times the square of the distance."""
    out = []
    for (task, method), cells in optima.groupby(["task", "method"]):
        base = cells.sort_values("width").iloc[0]
        for cell in cells.itertuples():
            regret = 0.05 * (cell.log2_lr_argmin - base.log2_lr_argmin) ** 2
            known = np.isfinite(regret)
            spread = 0.01 if known and seeds > 1 else np.nan
            out.append(
                {
                    "task": task,
                    "method": method,
                    "width": cell.width,
                    "log2_lr_transferred": base.log2_lr_argmin,
                    "regret_cf": regret - 0.001 * (cell.width > base.width) if seeds > 1 else np.nan,
                    "regret_cf_low": regret - spread,
                    "regret_cf_high": regret + spread,
                    "regret": regret,
                    "regret_in_sigma": regret / cell.sigma_seed if cell.sigma_seed else np.nan,
                    "rho": regret / 0.05,
                    "n_seeds": seeds,
                    "good": bool(regret + spread < 0.02) if np.isfinite(spread) else np.nan,
                    "flag": cell.flag,
                }
            )
    return pd.DataFrame(out)


def make_stability(optima: pd.DataFrame, seeds: int) -> pd.DataFrame:
    """Counts and sensitivities of each cell."""
    some = [1.0 if seeds > 1 and flag != "all_diverged" else np.nan for flag in optima.flag]
    cells = optima[["task", "method", "width", "n_runs", "n_diverged"]]
    alive = np.where(optima.flag == "all_diverged", np.nan, 1.0)
    return cells.assign(
        n_nonfinite=0,
        n_above_start=optima.n_diverged,
        n_rebound=0,
        n_learnt_nothing=0,
        window_low=optima.log2_lr_argmin - 2,
        window_high=optima.log2_lr_argmin + 2,
        window_runs=5 * seeds,
        window_diverged=seeds,
        diverged_fraction=0.2 * alive,
        diverged_low=0.1 * alive,
        diverged_high=0.4 * alive,
        log2_lr_max=optima.log2_lr_argmin + 3,
        headroom=3.0 * alive,
        basin_width=1.6 * alive,
        basin_low=(optima.log2_lr_opt - 0.8) * alive,
        basin_high=(optima.log2_lr_opt + 0.8) * alive,
        basin_censored=optima.flag.map({"edge_low": "low", "edge_high": "high"}).fillna(""),
        lr_sensitivity=0.31 * alive,
        lr_sensitivity_low=0.28 * np.array(some),
        lr_sensitivity_high=0.34 * np.array(some),
        lr_sensitivity_normalised=0.25 * alive,
        span=8,
    )


def make_dynamics(rows: pd.DataFrame, optima: pd.DataFrame, seeds: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """RMS of gradients and updates: falling with width at half a power under SP, by a whole one under µP."""
    rng = np.random.default_rng(1)
    points, slopes = [], []
    quantities = ("grad_rms", "update_rms", "weight_rms")
    for (task, method), cells in optima.groupby(["task", "method"]):
        base = cells.sort_values("width").iloc[0]
        if not np.isfinite(base.log2_lr_argmin):
            continue
        for layer, quantity in product(LAYERS, quantities):
            power = -0.5 if method.startswith("sp") else -1.0
            for width, seed in product(cells.width, range(seeds)):
                median = 1e-3 * (width / base.width) ** power * np.exp(0.05 * rng.standard_normal())
                common = {"task": task, "method": method, "width": width, "seed": seed, "layer": layer}
                points.append(common | {"quantity": quantity, "median": median, "log2_lr": base.log2_lr_argmin})
            known = len(cells) > 1
            slopes.append(
                {
                    "task": task,
                    "method": method,
                    "layer": layer,
                    "quantity": quantity,
                    "slope": power if known else np.nan,
                    "slope_low": power - 0.1 if known and seeds > 1 else np.nan,
                    "slope_high": power + 0.1 if known and seeds > 1 else np.nan,
                    "n_widths": len(cells),
                }
            )
    columns = ["task", "method", "width", "seed", "layer", "quantity", "median", "log2_lr"]
    slope_columns = ["task", "method", "layer", "quantity", "slope", "slope_low", "slope_high", "n_widths"]
    return pd.DataFrame(points, columns=columns), pd.DataFrame(slopes, columns=slope_columns)


def make_coordcheck(
    tasks: Sequence[str], methods: Sequence[str], widths: Sequence[int]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Slopes that rise with the steps under SP and stay at 0 under µP, and the verdicts."""
    modules = {"embed": "embedding", "block.0": "hidden", "block.1": "hidden", "readout": "readout"}
    slopes, verdicts = [], []
    known = len(widths) > 1
    for task, method, at in product(tasks, methods, ("y", "x")):
        for (i, (module, layer)), step, quantity in product(
            enumerate(modules.items()), range(1, 11), ("size", "change", "relative")
        ):
            slope = (0.05 * step if method.startswith("sp") else 0.0) + 0.01 * i
            slopes.append(
                {
                    "task": task,
                    "method": method,
                    "at": at,
                    "module": module,
                    "layer": layer,
                    "step": step,
                    "quantity": quantity,
                    "slope": slope if known else np.nan,
                    "slope_low": slope - 0.03 if known else np.nan,
                    "slope_high": slope + 0.03 if known else np.nan,
                    "passed": known and abs(slope) < 0.1,
                }
            )
        failed = 32 if method.startswith("sp") else 0
        verdicts.append(
            {
                "task": task,
                "method": method,
                "at": at,
                "passed": failed == 0,
                "worst_module": "block.1",
                "worst_slope": 0.52 if failed else 0.02,
                "worst_low": 0.49 if failed else -0.01,
                "worst_high": 0.55 if failed else 0.05,
                "n_failed": failed,
                "n_sure": failed,
                "n_checked": 36,
            }
        )
    return pd.DataFrame(slopes), pd.DataFrame(verdicts)


def make_study(
    tasks: Sequence[str] = tuple(TASKS),
    methods: Sequence[str] = METHODS,
    widths: Sequence[int] = (32, 64, 128, 256),
    log2_lrs: Sequence[int] = tuple(range(-14, -5)),
    seeds: int = 3,
    diverged: Sequence[str] = (),
    horizons: Sequence[int] = (1,),
    weight_decays: Sequence[float] = (0.0,),
    weight_decay_scalings: Sequence[str] = ("coupled",),
    few_widths: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, pd.DataFrame]:
    """All tables, by the names that `figures` and `report` use.

    Runs of the methods in `diverged` all diverge. The last arguments are named as the axes of a study's grids; `few_widths`
    are the widths of methods that have fewer.
    """
    rows = make_rows(tasks, methods, widths, log2_lrs, seeds, diverged, few_widths or {})
    study = make_primary_tables(rows, tasks, methods, widths, log2_lrs, seeds)
    every = add_weight_decays(add_horizons(rows, horizons), weight_decays, weight_decay_scalings)
    study |= {"rows": every, "curves": make_curves(every)}
    return study | make_factor_tables(study, seeds)


def make_full_study(**settings: Any) -> dict[str, pd.DataFrame]:
    """A study with everything: ten methods, the added ones at the narrowest and the widest network, and every other factor."""
    widths = settings.get("widths", (32, 64, 128, 256))
    everything: dict[str, Any] = {
        "methods": (*METHODS, *MORE_METHODS),
        "horizons": (1, 2, 4),
        "weight_decays": (0.0, 0.01, 0.05, 0.1),
        "weight_decay_scalings": ("coupled", "independent"),
        "few_widths": dict.fromkeys(MORE_METHODS, (min(widths), max(widths))),
    }
    return make_study(**(everything | settings))


def make_primary_tables(
    rows: pd.DataFrame,
    tasks: Sequence[str],
    methods: Sequence[str],
    widths: Sequence[int],
    log2_lrs: Sequence[int],
    seeds: int,
) -> dict[str, pd.DataFrame]:
    """The tables that primary cells make."""
    optima = make_optima(rows, seeds)
    cell = rows.groupby(["task", "method", "width", "log2_lr"])
    loss = cell.agg(mean_loss=("val_loss", "mean"), n_seeds=("seed", "size")).reset_index()
    loss["se"] = 0.006 if seeds > 1 else np.nan
    loss["n_diverged"] = cell.status.apply(lambda s: int((s == "diverged").sum())).to_numpy()
    points, dynamics = make_dynamics(rows, optima, seeds)
    coordcheck, verdict = make_coordcheck(tasks, methods, widths)
    smooth = optima[["task", "method", "width", "n_seeds"]].assign(
        log2_lr=optima.log2_lr_argmin, tvx=0.02, tvx_low=0.01, tvx_high=0.03
    )
    pairs = [("sp_adamw", "mup_adamw"), ("sp_schedulefree", "mup_schedulefree")]
    n_pairs = len(log2_lrs) * seeds
    control = [
        {"task": t, "optimizer": f"{a}={b}", "width": widths[0], "n_pairs": n_pairs, "n_equal": n_pairs}
        for t in tasks
        for a, b in pairs
        if {a, b} <= set(methods)
    ]
    return {
        "optima": optima,
        "loss": loss,
        "transfer": make_transfer(optima, seeds),
        "regret": make_regret(optima, seeds),
        "stability": make_stability(optima, seeds),
        "smoothness": pd.concat([smooth.assign(at="x"), smooth.assign(at="y", tvx=0.1)], ignore_index=True),
        "dynamics_points": points,
        "dynamics": dynamics,
        "coordcheck": coordcheck,
        "coordcheck_verdict": verdict,
        "control": pd.DataFrame(control, columns=["task", "optimizer", "width", "n_pairs", "n_equal"]),
    }


def make_results(tables: dict[str, pd.DataFrame], verdicts: pd.DataFrame | None = None, **more: Any) -> Results:
    """The made-up study as pages read it, its tables as they come back from CSV files; `more` are fields of a frozen one."""
    rows = tables["rows"]
    tasks = list(dict.fromkeys(rows["task"]))
    datasets = {task: {"name": TASKS[task][0]} for task in tasks}
    study = {
        "name": "madeup",
        "title": "A made-up study",
        "tasks": {
            task: {
                "description": f"{TASKS[task][1].upper()} on {TASKS[task][0]}",
                "dataset": datasets[task],
                "base_width": int(tables["optima"]["base_width"].iloc[0]),
                "optimizers": {"adamw": {"beta2": 0.95}},
                "note": "",
            }
            for task in tasks
        },
    }
    manifests = [
        {
            "settings": datasets[task],
            "source": f"the source of {TASKS[task][0]}",
            "version": "1.0",
            "licence": "CC0",
            "sizes": {"train": 1000, "valid": 200},
            "digest": "0123456789abcdef" * 4,
        }
        for task in tasks
    ]
    provenance = {"environment": {"python": "3.11", "packages": {"torch": "2.6"}}, "core_hours": 1.5, "data": manifests}
    read = {
        name: pd.read_csv(io.StringIO(table.to_csv(index=False)))
        for name, table in tables.items()
        if name not in ("rows", "curves", "verdicts")
    }
    return Results(study, rows, read, provenance, pd.DataFrame() if verdicts is None else verdicts, **more)

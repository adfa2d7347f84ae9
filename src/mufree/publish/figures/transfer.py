"""Figures on transfer: the loss surface, the optimum against width, and the regret of carrying a rate to a wider network."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from mufree.analysis.tables.cases import part
from mufree.publish.figures import panels
from mufree.publish.figures.panels import LINE, SMALL, Drawn, empty_figure, finite, minus
from mufree.publish.figures.style import Styles, at_several_widths, left_out, present, width_styles
from mufree.study.limits import NEGLIGIBLE_LOSS, SIGMAS

NO_REGRET = {
    "no_base_width": "not run\nat base width",
    "base_all_diverged": "every run\nat base width\ndiverged",
    "not_run": "base width's rate\nnot run",
}
"""Flags of a regret that there isn't, in words."""
OPTIMUM = {"log2_lr_opt": "log2_lr", "log2_lr_opt_low": "low", "log2_lr_opt_high": "high"}
"""An optimum and the ends of its interval, and what they are called when they are drawn."""
KEPT: Any = LINE | {"ls": "--"}
OVER_TASKS = "mean over tasks"
SLOPE = ["task", "method", "drift", "low", "high"]
AS_METHODS = {"method": "panel", "width": "method"}
"""Where a panel is a method and a line a width."""


def loss_vs_lr(
    rows: DataFrame, loss: DataFrame, optima: DataFrame, regret: DataFrame, *, title: str, styles: Styles
) -> Drawn:
    """Final validation loss (nats) against log2 learning rate, a panel a method, a line a width.

    Methods at one width are left out, if others are not.
    """
    if rows.empty:
        return empty_figure(title, "no runs"), DataFrame()
    shown, others = at_several_widths(styles, rows)
    rows, loss, optima = (frame[frame["method"].isin(shown)] for frame in (rows, loss, optima))
    wider = regret["width"].eq(regret.groupby("method")["width"].transform("max"))
    kept = regret[wider & ~regret["width"].eq(regret["width"].min()) & finite(regret["regret_cf"])]
    counts: Any = rows.assign(died=rows["status"].eq("diverged")).groupby(["method", "width", "log2_lr"])["died"]
    counts = counts.agg(n_diverged="sum", n_seeds="size").reset_index()
    seeds = rows[rows["status"].ne("diverged") & finite(rows["val_loss"])]
    kinds = {
        "mean": loss[["method", "width", "log2_lr", "mean_loss"]].rename(columns={"mean_loss": "loss"}),
        "seed": seeds[["method", "width", "log2_lr", "seed", "val_loss"]].rename(columns={"val_loss": "loss"}),
        "diverged": counts[counts["n_diverged"].gt(0)],
        "optimum": optima[["method", "width", *OPTIMUM, "flag"]].rename(columns=OPTIMUM),
    }
    plotted = pd.concat([frame.assign(kind=kind) for kind, frame in kinds.items() if len(frame)], ignore_index=True)
    columns = ["kind", "method", "width", "log2_lr"]
    plotted = plotted[columns + [c for c in plotted.columns if c not in columns]]

    across = min(2 if len(shown) <= 4 else 3 if len(shown) <= 6 else 4, len(shown))
    heads = {m: styles[m] for m in shown}
    labels = ("log2 of the learning rate", "validation loss (nats)")
    figure, axes = panels.sheet(title, heads, 2.35 if across < 3 else 2.0, *labels, across=across)
    looks = width_styles(sorted(rows["width"].unique()))
    rates = sorted(rows["log2_lr"].unique())
    whole = all(float(rate).is_integer() for rate in rates)
    ticks = rates if whole else list(range(math.ceil(rates[0]), math.floor(rates[-1]) + 1))
    strip = 0.04 * (len(looks) + 0.6)
    # from the best seed to where nine in ten means lie, at most the loss at initialisation
    low: float
    low, high = (seeds["val_loss"].min(), loss["mean_loss"].quantile(0.9)) if len(seeds) else (0.0, 1.0)
    span = max(min(high, float(rows["initial_loss"].median())) - low, 0.02)
    room = span / (1 - 2 * strip)
    for method, (ax,) in axes.items():
        ax.set_xticks(ticks[:: -(-len(ticks) // (12 if across < 3 else 7))])
        ax.set(xlim=(rates[0] - 0.6, rates[-1] + 0.6), ylim=(low - (strip + 0.02) * room, low + (1.02 - strip) * room))
        ax.set_yticks(
            [t for t in MaxNLocator(6).tick_values(float(low), float(low + span)) if low < t < low + 0.95 * span]
        )
        mine = {kind: part(frame, method=method).rename(columns=AS_METHODS) for kind, frame in kinds.items()}
        panels.method_lines(ax, mine["seed"], "log2_lr", "loss", looks, **SMALL)
        panels.method_lines(ax, mine["mean"], "log2_lr", "loss", looks, ms=3.2)
        for artist in ax.lines:
            artist.set_clip_path(Rectangle((0, strip), 1, 1 - 2 * strip, transform=ax.transAxes))
        _strips(ax, mine["diverged"], mine["optimum"], looks, strip)
        _kept_rate(ax, part(kept, method=method))
    cross = Line2D([], [], color="0.3", marker="x", ls="", label="above: all seeds diverged; pale: some")
    fit = Line2D([], [], color="0.3", marker="o", ms=3.5, label="below: optimum, 95 % interval")
    edge = Line2D([], [], color="0.3", marker=">", mfc="white", ls="", label="optimum at the grid's edge")
    carried = [Line2D([], [], **KEPT, label="base width's rate")] if len(kept) else []
    handles = [*(Line2D([], [], **look.drawn) for look in looks.values()), cross, fit, edge, *carried]
    panels.legend_below(figure, handles, 3, left_out(styles, others))
    return figure, plotted


def _kept_rate(ax: Axes, kept: Any) -> None:
    """The base width's rate, and in words above the low rates, where nothing diverges, what it costs."""
    for cell in kept.itertuples():
        ax.axvline(cell.log2_lr_transferred, **KEPT)
        words = f"kept at width {cell.width}: {cell.regret_cf:+.3f} nats"
        if cell.regret_cf_low < cell.regret_cf_high:
            words += f"\n[{cell.regret_cf_low:+.3f}, {cell.regret_cf_high:+.3f}]"
        ax.text(0.02, 0.98, minus(words), transform=ax.transAxes, va="top", fontsize=6)


def _strips(ax: Axes, diverged: Any, optima: Any, looks: Styles, strip: float) -> None:
    """Above and below the curves, in strips of this share of the panel: a line a width, the narrowest on top."""
    ax.plot([0, 1], [[strip, 1 - strip]] * 2, color="0.75", lw=0.5, transform=ax.transAxes)
    for row, (width, look) in enumerate(looks.items()):
        edge = 0.04 * (row + 0.8)
        inside: Any = {"color": look.colour, "transform": ax.get_xaxis_transform()}
        for cell in part(diverged, method=width).itertuples():
            cross: Any = {"marker": "x", "ms": 3, "mew": 0.9, "alpha": 1 if cell.n_diverged == cell.n_seeds else 0.4}
            cross["label"] = f"{look.name}: {cell.n_diverged} of {cell.n_seeds} seeds diverged"
            ax.plot(cell.log2_lr, 1 - edge, **inside | cross)
        for cell in part(optima, method=width).itertuples():
            ax.plot([cell.low, cell.high], [strip - edge] * 2, lw=1.1, **inside)
            fit: Any = {
                "marker": {"edge_low": "<", "edge_high": ">"}.get(cell.flag, look.marker),
                "ms": 3.6,
                "mew": 0.8,
            }
            fit |= {"mfc": look.colour if cell.flag == "ok" else "white", "label": f"{look.name}, optimum"}
            ax.plot(cell.log2_lr, strip - edge, **inside | fit)


def optimum_vs_width(optima: DataFrame, transfer: DataFrame, *, title: str, styles: Styles) -> Drawn:
    """Best log2 learning rate against width, a line a method, with 95 % intervals; the drift stands in the legend.

    An optimum at an end of the grid is an open triangle that points to where the true one lies; it is not on the line, as it
    is not in the drift. More than four methods are shown in a panel for each parametrization.
    """
    plotted = optima[["method", "width", *OPTIMUM, "flag"]].sort_values(["method", "width"], ignore_index=True)
    plotted = plotted.merge(transfer[["method", "drift", "drift_low", "drift_high", "status"]], on="method", how="left")
    shown = plotted[finite(plotted["log2_lr_opt"])].rename(columns=OPTIMUM)
    if shown.empty:
        return empty_figure(title, "every run diverged: there is no optimum to show"), plotted
    shown["open"] = shown["flag"].ne("ok")
    shown["shape"] = shown["flag"].map({"edge_low": "v", "edge_high": "^"}).fillna("")
    widths, methods = sorted(plotted["width"].unique()), present(styles, shown)
    shown["family"] = [[*styles[m].parts[:-1], "others"][0] if len(methods) > 4 else "" for m in shown["method"]]
    drifts = {row.method: _drift(row) for row in plotted.itertuples()}
    looks = {m: replace(styles[m], name=f"{styles[m].name}\n{drifts[m]}") for m in methods}
    heads = {family: family for family in ("SP", "µP", *sorted(shown["family"])) if family in set(shown["family"])}
    figure, axes = panels.sheet(title, heads, 2.3, "width (log2 scale)", "log2 of the best learning rate")
    start = part(shown, width=shown["width"].min())["log2_lr"].mean()
    for family, (ax,) in axes.items():
        panels.width_axis(ax, widths)
        ax.set_ylim(panels.robust_limits(shown["log2_lr"], shown["low"], shown["high"], floor=2.0))
        for slope in (0, -1) if len(widths) > 1 else ():
            ax.plot(widths, start + slope * np.log2(np.divide(widths, widths[0])), **LINE)
        panels.method_lines(ax, part(shown, family=family), "width", "log2_lr", looks, apart=2.5, ms=5)
    panels.methods_below(figure, looks, methods, "Thin lines have slopes of 0 and −1." if len(widths) > 1 else "")
    return figure, plotted


def _drift(row: Any) -> str:
    """A method's drift in words, with its interval."""
    if not np.isfinite(row.drift):
        return "drift not estimable"
    interval = f" [{row.drift_low:+.2f}, {row.drift_high:+.2f}]" if np.isfinite(row.drift_low) else ""
    return minus(f"drift {row.drift:+.2f}{interval}")


def best_rates(optima: DataFrame, transfer: DataFrame, pooled: DataFrame, styles: Styles) -> Drawn:
    """How far each method's best rate has moved from its own at the narrowest width, in doublings; a panel a task.

    Optima at an end of the grid are left out, as they are of the drift, which stands below.
    """
    inside = optima["method"].isin(styles) & ~optima["flag"].str.startswith("edge") & finite(optima["log2_lr_opt"])
    moved = optima.loc[inside, ["task", "method", "width", *OPTIMUM]]
    narrowest = moved.sort_values("width").groupby(["task", "method"])["log2_lr_opt"].transform("first")
    moved[[*OPTIMUM]] = moved[[*OPTIMUM]].sub(narrowest, axis=0)
    name = "How far the best learning rate moves as the network widens"
    tasks = sorted(set(moved["task"]))
    if not tasks:
        return empty_figure(name, "no best rate lies inside its grid"), moved
    slopes = _slopes(transfer, pooled, list(styles))
    plotted = pd.concat([moved.assign(kind="moved"), slopes.assign(kind="drift")], ignore_index=True)
    heads = {task: task for task in [*tasks, *({OVER_TASKS} & set(slopes["task"]))]}
    labels = ("", "doublings of the best rate", "drift (doublings\nper doubling)")
    look: dict[str, Any] = {"sharex": False, "sharey": "row", "height_ratios": [1.5, 1]}
    figure, axes = panels.sheet(name, heads, 3.0, *labels, across=len(heads), **look)
    shown = moved.rename(columns=OPTIMUM)
    for task, (upper, lower) in axes.items():
        _drifts(lower, part(slopes, task=task), slopes, styles)
        if task == OVER_TASKS:
            panels.leave_out(upper)
            lower.set_title(task, loc="left", fontweight="bold")
            continue
        here = part(shown, task=task)
        panels.width_axis(upper, here["width"].unique(), margin=0.35)
        upper.set_xlabel("width (log2 scale)", visible=True)
        upper.set_ylim(panels.robust_limits(shown["log2_lr"], shown["low"], shown["high"], floor=2.0))
        upper.axhline(0, **LINE)
        panels.method_lines(upper, here, "width", "log2_lr", styles, apart=2)
    panels.methods_below(figure, styles, list(styles))
    return figure, plotted


def _slopes(transfer: DataFrame, pooled: DataFrame, methods: list[str]) -> DataFrame:
    """The drift of each method in each task, and over all tasks."""
    of_tasks = transfer[["task", "method", "drift", "drift_low", "drift_high"]]
    over_tasks = pooled[pooled["statistic"].eq("drift")].assign(task=OVER_TASKS)
    over_tasks = over_tasks[["task", "subject", "estimate", "low", "high"]]
    found = pd.concat([frame.set_axis(SLOPE, axis=1) for frame in (of_tasks, over_tasks) if len(frame)])
    return found[found["method"].isin(methods) & finite(found["drift"])]


def _drifts(ax: Axes, here: Any, slopes: DataFrame, styles: Styles) -> None:
    """A marker and an interval a method, side by side."""
    places = {method: i for i, method in enumerate(styles)}
    ax.set(xticks=[], xlim=(-0.6, len(places) - 0.4))
    ax.set_ylim(panels.robust_limits([*slopes["drift"], 0], slopes["low"], slopes["high"], floor=0.5))
    ax.axhline(0, **LINE)
    panels.method_lines(ax, here.assign(place=here["method"].map(places)), "place", "drift", styles)


def regret_vs_width(regret: DataFrame, optima: DataFrame, *, title: str, styles: Styles) -> Drawn:
    """Cross-fitted regret (nats) of the base width's rate at each width, a panel a method.

    A method that was run at one width is left out.
    """
    crossed = ["regret_cf", "regret_cf_low", "regret_cf_high"]
    plotted = regret[["method", "width", "log2_lr_transferred", *crossed, "regret", "flag"]]
    plotted = plotted.merge(optima[["method", "width", "sigma_seed"]], on=["method", "width"], how="left")
    plotted = plotted.sort_values(["method", "width"], ignore_index=True)
    plotted["margin"] = (SIGMAS * plotted["sigma_seed"]).clip(lower=NEGLIGIBLE_LOSS).fillna(NEGLIGIBLE_LOSS)
    plotted["shown"] = plotted["regret_cf"].fillna(plotted["regret"])
    if not finite(plotted["shown"]).any():
        return empty_figure(title, "no regret can be computed: every run diverged, or base width was not run"), plotted
    methods, alone = at_several_widths(styles, plotted)  # of the others no rate was carried over
    plotted = plotted[plotted["method"].isin(methods)].reset_index(drop=True)
    cells = plotted.rename(columns={"regret_cf_low": "low", "regret_cf_high": "high"})
    cells["open"] = ~finite(cells["regret_cf"])
    heads = {m: styles[m] for m in methods}
    figure, axes = panels.sheet(title, heads, 2.0, "width (log2 scale)", "regret (nats)")
    points = [*cells["shown"], 0.0, 1.2 * cells["margin"].max()]
    for method, (ax,) in axes.items():
        mine = part(cells, method=method)
        panels.width_axis(ax, cells["width"].unique())
        ax.set_ylim(panels.robust_limits(points, cells["low"], cells["high"], floor=0.03))
        ax.axhline(0, **LINE)
        ax.fill_between(mine["width"], 0, mine["margin"], color="0.85", lw=0)
        panels.method_lines(ax, mine, "width", "shown", styles)
        if not finite(mine["shown"]).any():
            panels.note(ax, next((NO_REGRET[flag] for flag in mine["flag"] if flag in NO_REGRET), "every run diverged"))
    if alone:
        panels.legend_below(figure, [], note=left_out(styles, alone, "run at one width"))
    return figure, plotted

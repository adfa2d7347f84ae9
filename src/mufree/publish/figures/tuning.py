"""Figures on tuning: how the loss depends on the rate, what a search of k rates finds, and weight decay beside the rate."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mufree.publish.figures.style import (
    PAGE_WIDTH,
    MethodStyle,
    empty_figure,
    finite,
    interval_bars,
    left_out,
    legend_below,
    main_methods,
    method_handles,
    new_figure,
    note,
    panel_title,
    robust_limits,
    rows_of,
    width_axis,
)

Styles = dict[str, MethodStyle]
LEAST_EXCESS = 0.003
"""Nats; the dark end of the colours of weight-decay maps: a loss above the best by less is as good."""
MAP_COLOURS = "mako"
"""Seaborn's sequential map from dark to light; a cell that diverged is white, beyond its light end."""


def lr_sensitivity(
    stability: pd.DataFrame, rows: pd.DataFrame, optima: pd.DataFrame, *, title: str, styles: Styles
) -> tuple[Figure, pd.DataFrame]:
    """Sensitivity to the rate (nats) against width, and the share of runs that diverged against the distance from the best.

    Left: with 95 % intervals. Right: over all widths of a method, by whole doublings from each width's best rate of the grid;
    an open marker where not all widths have such a rate. A width whose best rate is not known, or lies at an end of the grid,
    is left out.
    """
    left = stability[["method", "width", "lr_sensitivity", "lr_sensitivity_low", "lr_sensitivity_high"]]
    left = left.rename(columns={"lr_sensitivity": "value", "lr_sensitivity_low": "low", "lr_sensitivity_high": "high"})
    right = _diverged_by_distance(rows, optima)
    plotted = pd.concat([left.assign(kind="sensitivity"), right.assign(kind="diverged")], ignore_index=True)
    columns = ["kind", "method", "width", "distance", "value", "low", "high", "n_runs", "n_widths", "of_widths"]
    plotted = plotted.reindex(columns=columns).sort_values(columns[:4], ignore_index=True)
    plotted["width"] = plotted["width"].astype("Int64")  # none where widths are pooled
    known = plotted[finite(plotted["value"])]
    if known.empty:
        return empty_figure(title, "no optimum inside the grid, and so no window of rates around it"), plotted
    methods = [m for m in styles if m in set(known["method"])]
    legend_columns = min(len(methods), 3 if len(methods) > 4 else 4)
    figure = new_figure(title, 3.0 + 0.14 * -(-len(methods) // legend_columns))
    axes = figure.subplots(1, 2)
    _sensitivities(axes[0], known[known["kind"].eq("sensitivity")], methods, styles)
    _diverged_shares(axes[1], known[known["kind"].eq("diverged")], methods, styles)
    legend_below(figure, method_handles(styles, methods, legend_columns), legend_columns)
    return figure, plotted


def _diverged_by_distance(rows: pd.DataFrame, optima: pd.DataFrame) -> pd.DataFrame:
    """Share of runs that diverged by method and doublings from the best rate of the grid, over the widths that have one."""
    best = optima.loc[optima["flag"].isin(["ok", "argmin_only"]), ["method", "width", "log2_lr_argmin"]]
    runs = rows.merge(best, on=["method", "width"])
    runs = runs.assign(distance=runs["log2_lr"] - runs["log2_lr_argmin"], died=runs["status"].eq("diverged"))
    found = runs.groupby(["method", "distance"], as_index=False).agg(
        value=("died", "mean"), n_runs=("died", "size"), n_widths=("width", "nunique")
    )
    widths = best.groupby("method", as_index=False).agg(of_widths=("width", "nunique"))
    return found.merge(widths, on="method")


def _sensitivities(ax: Axes, cells: pd.DataFrame, methods: list[str], styles: Styles) -> None:
    ax.set_title("sensitivity to the learning rate", loc="left")
    if cells.empty:
        note(ax, "no optimum inside the grid")
        return
    width_axis(ax, sorted(cells["width"].unique()), margin=0.3)
    low, high = robust_limits(np.append(cells["value"], 0.0), cells["low"], cells["high"], floor=0.02)
    ax.set_ylim(min(low, 0.0), high)
    step = 0.3 / max(len(methods), 6)
    for i, method in enumerate(methods):
        look, mine = styles[method], cells[cells["method"].eq(method)].sort_values("width")
        places = np.log2(mine["width"].astype(float)) + step * (i - (len(methods) - 1) / 2)
        ax.plot(places, mine["value"], color=look.colour, ls=look.line, marker=look.marker)
        interval_bars(ax, places, mine["low"], mine["high"], look.colour)
    ax.set_xlabel("width (log2 scale)")
    ax.set_ylabel("LR sensitivity (nats)")


def _diverged_shares(ax: Axes, cells: pd.DataFrame, methods: list[str], styles: Styles) -> None:
    ax.set_title("runs that diverged", loc="left")
    if cells.empty:
        note(ax, "no optimum inside the grid")
        return
    step = 0.4 / max(len(methods), 6)
    for i, method in enumerate(methods):
        look, mine = styles[method], cells[cells["method"].eq(method)].sort_values("distance")
        places = mine["distance"] + step * (i - (len(methods) - 1) / 2)
        ax.plot(places, mine["value"], color=look.colour, ls=look.line, lw=1)
        for place, cell in zip(places, rows_of(mine), strict=True):
            face = look.colour if cell.n_widths == cell.of_widths else "white"
            ax.plot(place, cell.value, ls="", marker=look.marker, ms=3.5, color=look.colour, mfc=face, zorder=3)
    ax.axvline(0, color="0.6", lw=0.7, zorder=1)
    ax.set_ylim(-0.04, 1.04)
    ax.set_xlim(cells["distance"].min() - 0.5, cells["distance"].max() + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    ax.set_xlabel("doublings from the own best rate")
    ax.set_ylabel("share of runs")


def best_of_k(
    expected: pd.DataFrame, cost: pd.DataFrame, *, title: str, styles: Styles, column: bool = False
) -> tuple[Figure, pd.DataFrame]:
    """Expected best loss (nats) of k rates drawn from the grid, at the widest network, and how far it is from the best of all.

    The second panel has a logarithmic scale and ends where k is the whole grid; its line is ε, and a ring marks k_ε, the first
    k within it.
    """
    if expected.empty or not finite(expected["loss"]).any():
        return empty_figure(title, "no losses to draw from", column), pd.DataFrame()
    widest = expected["width"].max()
    here = expected[expected["width"].eq(widest)]
    plotted = here.assign(excess=here["loss"] - here.groupby("method")["loss"].transform("min"))
    plotted = plotted.merge(cost[["method", "width", "k_eps", "eps"]], on=["method", "width"], how="left")
    columns = ["method", "width", "k", "n", "loss", "excess", "k_eps", "eps"]
    plotted = plotted[columns].sort_values(columns[:3], ignore_index=True)
    methods = [m for m in styles if m in set(plotted["method"])]
    others = [m for m in styles if m in set(expected["method"]) - set(methods)]
    across = 1 if column else min(3 if len(methods) > 4 else 4, len(methods))
    lines = 0.14 * -(-len(methods) // across)
    figure = new_figure(title, (4.4 if column else 2.8) + lines + 0.12 * bool(others), column)
    axes = figure.subplots(2, 1, sharex=True) if column else figure.subplots(1, 2, sharex=True)
    _expected_losses(axes[0], plotted, methods, styles)
    _excesses(axes[1], plotted, methods, styles)
    for ax in axes:
        ax.set_xlabel("k, rates tried")
        ax.set_xlim(0.5, plotted["k"].max() + 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        ax.tick_params(labelbottom=True)
    axes[0].set_title(f"width {widest}", loc="left", fontweight="bold")
    absent = left_out(styles, others, f"not run at width {widest}")
    legend_below(figure, method_handles(styles, methods, across), across, absent)
    return figure, plotted


def _expected_losses(ax: Axes, plotted: pd.DataFrame, methods: list[str], styles: Styles) -> None:
    for method in methods:
        look, mine = styles[method], plotted[plotted["method"].eq(method)]
        ax.plot(mine["k"], mine["loss"], color=look.colour, ls=look.line, marker=look.marker, ms=3.5)
    ax.set_ylabel("expected best loss (nats)")


def _excesses(ax: Axes, plotted: pd.DataFrame, methods: list[str], styles: Styles) -> None:
    """Excess on a log scale; the last k, whose excess is zero, is not on it."""
    shown = plotted[plotted["excess"].gt(1e-6)]
    eps = plotted["eps"].dropna()
    if shown.empty:
        note(ax, "one rate, or all alike")
        return
    ax.set_yscale("log")
    bottom, top = 0.6 * shown["excess"].min(), 1.6 * shown["excess"].max()
    ax.set_ylim(min(bottom, 0.6 * eps.min()) if len(eps) else bottom, top)
    bottom = ax.get_ylim()[0]
    for method in methods:
        look, mine = styles[method], shown[shown["method"].eq(method)]
        ax.plot(mine["k"], mine["excess"], color=look.colour, ls=look.line, marker=look.marker, ms=3.5)
        reached = plotted[plotted["method"].eq(method) & plotted["k"].eq(plotted["k_eps"])]
        for cell in rows_of(reached) if len(mine) else ():  # where all rates are alike, all diverged
            height = max(cell.excess, bottom)
            ax.plot(cell.k, height, ls="", marker="o", ms=8, mfc="none", color=look.colour, mew=0.9, clip_on=False)
    if len(eps):
        ax.axhline(float(eps.iloc[0]), color="0.3", lw=0.7)
        ax.annotate(
            f"ε = {eps.iloc[0]:g}",
            (1, float(eps.iloc[0])),
            (-2, 2),
            xycoords=ax.get_yaxis_transform(),
            textcoords="offset points",
            ha="right",
            color="0.3",
            fontsize=6.5,
        )
    ax.set_ylabel("above the best of all (nats)")


def weight_decay(cells: pd.DataFrame, best: pd.DataFrame, *, title: str, styles: Styles) -> tuple[Figure, pd.DataFrame]:
    """Maps of weight decay × learning rate, a column a method and a row a width and way of scaling.

    Colour is the mean validation loss above that of the map's best cell (nats), on one logarithmic scale. The star is the best
    cell, open where it lies at an edge of the map; a cross marks cells where all seeds diverged, k/n those where some did.
    """
    if cells.empty:
        return empty_figure(title, "no weight decay but the task's own was run"), pd.DataFrame()
    keys = ["method", "width", "weight_decay_scaling"]
    own_best = best[[*keys, "weight_decay", "log2_lr", "best_loss", "agreement", "flag"]]
    own_best = own_best.rename(columns={"weight_decay": "best_weight_decay", "log2_lr": "best_log2_lr"})
    columns = [*keys, "weight_decay", "log2_lr", "mean_loss", "n_seeds", "n_diverged"]
    plotted = cells[columns].merge(own_best, on=keys, how="left")
    least = plotted["best_loss"].fillna(plotted.groupby(keys)["mean_loss"].transform("min"))
    plotted["excess"] = plotted["mean_loss"] - least
    plotted = plotted.sort_values(columns[:5], ignore_index=True)
    if not finite(plotted["excess"]).any():
        return empty_figure(title, "every run with weight decay diverged"), plotted
    methods, others = main_methods([m for m in styles if m in set(plotted["method"])])
    plotted = plotted[plotted["method"].isin(methods)].reset_index(drop=True)
    return _maps_figure(plotted, methods, title, styles, left_out(styles, others)), plotted


def _maps_figure(plotted: pd.DataFrame, methods: list[str], title: str, styles: Styles, note_below: str) -> Figure:
    """The maps, four methods side by side at most, and the colour bar that they share."""
    kinds = plotted[["weight_decay_scaling", "width"]].drop_duplicates().sort_values(["weight_decay_scaling", "width"])
    across = len(methods) if len(methods) <= 4 else 3
    blocks = -(-len(methods) // across)
    far = float(plotted["excess"].astype(float).quantile(0.95))
    norm = LogNorm(LEAST_EXCESS, max(10 * LEAST_EXCESS, far), clip=True)
    rows = len(kinds) * blocks
    height = rows * (0.35 + 0.14 * plotted["weight_decay"].nunique()) + 0.6 * blocks
    figure = new_figure(title, height + 0.5 + 0.25 * bool(note_below))
    axes = figure.subplots(rows, across, sharex=True, sharey=True, squeeze=False)
    drawn = np.zeros(axes.shape, bool)
    for i, method in enumerate(methods):
        top, column = len(kinds) * (i // across), i % across
        for k, (scaling, width) in enumerate(kinds.itertuples(index=False, name=None)):
            here = plotted[plotted["method"].eq(method) & plotted["width"].eq(width)]
            here = here[here["weight_decay_scaling"].eq(scaling)]
            if here.empty:
                continue
            ax = axes[top + k, column]
            _map(ax, here, plotted, norm)
            first = not drawn[top : top + k, column].any()
            words = ax.annotate(
                f"width {width}, {scaling}", (0, 1), (0, 2.5), textcoords="offset points", xycoords="axes fraction"
            )
            words.set(fontsize=6.5, in_layout=False)
            ax.set_title(" ")  # room for the words
            if first:
                panel_title(ax, styles[method], min(PAGE_WIDTH / across - 0.3, 2.4))
                ax.set_title(ax.get_title(loc="left") + "\n ", loc="left", fontweight="bold")
            drawn[top + k, column] = True
        shown = np.flatnonzero(drawn[top : top + len(kinds), column])
        if len(shown):
            axes[top + shown[-1], column].tick_params(labelbottom=True)
            axes[top + shown[-1], column].set_xlabel("log2 of the rate")
    for row, visible in zip(axes, drawn, strict=True):
        for ax, seen in zip(row, visible, strict=True):
            ax.set_visible(bool(seen))
        if visible.any():
            row[int(np.argmax(visible))].tick_params(labelleft=True)
    figure.supylabel("weight decay", fontsize=7.5)
    if note_below:
        legend_below(figure, [], 1, note_below)
    bar = figure.colorbar(
        ScalarMappable(norm, MAP_COLOURS),
        ax=axes,
        extend="both",
        shrink=min(1.0, 3 / height),
        aspect=30,
        format=FuncFormatter(lambda value, _: f"{value:g}"),
        label="loss above the map's best (nats)",
    )
    bar.minorticks_off()
    return figure


def _map(ax: Axes, here: pd.DataFrame, every: pd.DataFrame, norm: LogNorm) -> None:
    """One map on the decays and rates of all of them; what was not run is blank."""
    import seaborn  # slow to import

    decays = sorted(every["weight_decay"].unique(), reverse=True)
    rates = list(range(int(every["log2_lr"].min()), int(every["log2_lr"].max()) + 1))
    table = here.pivot(index="weight_decay", columns="log2_lr", values="excess").reindex(index=decays, columns=rates)
    labels = [f"{rate}".replace("-", "−") if i % -(-len(rates) // 6) == 0 else "" for i, rate in enumerate(rates)]
    seaborn.heatmap(
        table,
        ax=ax,
        norm=norm,
        vmin=norm.vmin,  # or it looks for them in the table, which may have no number
        vmax=norm.vmax,
        cmap=MAP_COLOURS,
        cbar=False,
        xticklabels=labels,
        yticklabels=[f"{decay:g}" for decay in decays],
        linewidths=0.4,
        linecolor="white",
    )
    ax.grid(False)
    ax.set(xlabel="", ylabel="")
    ax.tick_params(axis="both", length=0, labelrotation=0)
    for cell in rows_of(here[here["n_diverged"].gt(0)]):
        place = (rates.index(int(cell.log2_lr)) + 0.5, decays.index(cell.weight_decay) + 0.5)
        if cell.n_diverged == cell.n_seeds:
            ax.plot(*place, "x", color="0.35", ms=3.5, mew=0.9)
        else:
            text = ax.text(*place, f"{cell.n_diverged}/{cell.n_seeds}", size=5, ha="center", va="center", color="0.1")
            text.set_path_effects([withStroke(linewidth=1, foreground="white")])
    best = here.iloc[0]
    if np.isfinite(best["best_log2_lr"]):
        place = (rates.index(int(best["best_log2_lr"])) + 0.5, decays.index(best["best_weight_decay"]) + 0.5)
        face = "white" if best["flag"] == "ok" else "none"
        ax.plot(*place, "*", ms=7, color="white", mfc=face, mec="white", mew=0.8)

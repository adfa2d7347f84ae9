"""Figures on tuning: what a search of k rates finds, what weight decay does to it, and what the method does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator
from pandas import DataFrame

from mufree.analysis.tables.cases import part
from mufree.publish.figures import panels
from mufree.publish.figures.panels import LINE, NOTE, Drawn, empty_figure, finite, minus
from mufree.publish.figures.style import MethodStyle, Styles, left_out, main_methods, present

LEAST_EXCESS = 0.003
"""Nats; the dark end of the colours of weight-decay maps: a loss above the best by less is as good."""
MAP_COLOURS = "mako"
"""Seaborn's sequential map from dark to light; a cell that diverged is white, beyond its light end."""
MAP_LABEL = "loss above the map's best (nats)"

EFFECTS = {
    "mup": MethodStyle("effect of µP", "0.15", "o", ""),
    "schedulefree": MethodStyle("effect of ScheduleFree", "0.15", "o", ""),
    "interaction": MethodStyle("interaction", "0.15", "D", ""),
}
STATISTICS = {
    "abs_drift": "|drift|",
    "regret_cf": "regret",
    "best_loss": "best loss",
    "lr_sensitivity": "LR sensitivity",
    "diverged_fraction": "diverged",
}
"""The statistics in the order in which they are shown; another one is shown after them by its own name."""
UNITS = {"doublings per doubling": "doublings/\ndoubling"}
LEAST_SPAN = 0.02
"""What a scale shows at least, in any unit, so that no difference looks like one."""
INTERACTION_COLUMNS = ["statistic", "effect", "estimate", "low", "high", "n_seeds", "unit", "status", "reason"]


def lr_sensitivity(stability: DataFrame, rows: DataFrame, optima: DataFrame, *, title: str, styles: Styles) -> Drawn:
    """Sensitivity to the rate (nats) against width, and the share of runs that diverged against the distance from the best.

    Right: an open marker where not all widths have such a rate. A width whose best rate is not known, or lies at an end of the
    grid, is left out.
    """
    names = {"lr_sensitivity": "value", "lr_sensitivity_low": "low", "lr_sensitivity_high": "high"}
    best = optima.loc[optima["flag"].isin(["ok", "argmin_only"]), ["method", "width", "log2_lr_argmin"]]
    runs = rows.merge(best, on=["method", "width"])
    runs = runs.assign(distance=runs["log2_lr"] - runs["log2_lr_argmin"], died=runs["status"].eq("diverged"))
    shares: Any = runs.groupby(["method", "distance"], as_index=False)
    shares = shares.agg(value=("died", "mean"), n_runs=("died", "size"), n_widths=("width", "nunique"))
    shares = shares.merge(best.groupby("method", as_index=False).agg(of_widths=("width", "nunique")), on="method")
    kinds = {"sensitivity": stability[["method", "width", *names]].rename(columns=names), "diverged": shares}
    columns = ["kind", "method", "width", "distance", "value", "low", "high", "n_runs", "n_widths", "of_widths"]
    plotted = pd.concat([frame.assign(kind=kind) for kind, frame in kinds.items()], ignore_index=True)
    plotted = plotted.reindex(columns=columns).sort_values(columns[:4], ignore_index=True)
    plotted["width"] = plotted["width"].astype("Int64")  # none where widths are pooled
    known = plotted[finite(plotted["value"])]
    if known.empty:
        return empty_figure(title, "no optimum inside the grid, and so no window of rates around it"), plotted
    methods = present(styles, known)
    heads = {"sensitivity": "sensitivity to the learning rate", "diverged": "runs that diverged"}
    figure, axes = panels.sheet(title, heads, 2.3, "", "", sharex=False, sharey=False)
    (left,), (right,) = axes.values()
    left.set(xlabel="width (log2 scale)", ylabel="LR sensitivity (nats)")
    right.set(xlabel="doublings from the own best rate", ylabel="share of runs")
    here = part(known, kind="sensitivity").astype({"width": float})
    there = part(known, kind="diverged").drop(columns=["low", "high"])
    nothing = "no optimum inside the grid"
    if here.empty:
        panels.note(left, nothing)
    else:
        panels.width_axis(left, here["width"].unique(), margin=0.3)
        low, high = panels.robust_limits([*here["value"], 0.0], here["low"], here["high"], floor=0.02)
        left.set_ylim(min(low, 0.0), high)
        panels.method_lines(left, here, "width", "value", styles, apart=3)
    if there.empty:
        panels.note(right, nothing)
    else:
        there["open"] = there["n_widths"].ne(there["of_widths"])
        panels.method_lines(right, there, "distance", "value", styles, apart=2, lw=1, ms=3.5)
        right.axvline(0, **LINE)
        right.set(ylim=(-0.04, 1.04), xlim=(there["distance"].min() - 0.5, there["distance"].max() + 0.5))
        right.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    panels.methods_below(figure, styles, methods)
    return figure, plotted


def best_of_k(expected: DataFrame, cost: DataFrame, *, title: str, styles: Styles) -> Drawn:
    """Expected best loss (nats) of k rates drawn from the grid, at the widest network, and how far it is from the best of all.

    The second panel has a logarithmic scale and ends where k is the whole grid; its line is ε, and a ring marks k_ε, the first
    k within it.
    """
    if expected.empty or not finite(expected["loss"]).any():
        return empty_figure(title, "no losses to draw from"), DataFrame()
    widest = expected["width"].max()
    here = part(expected, width=widest)
    plotted = here.assign(excess=here["loss"] - here.groupby("method")["loss"].transform("min"))
    plotted = plotted.merge(cost[["method", "width", "k_eps", "eps"]], on=["method", "width"], how="left")
    columns = ["method", "width", "k", "n", "loss", "excess", "k_eps", "eps"]
    plotted = plotted[columns].sort_values(columns[:3], ignore_index=True)
    methods = present(styles, plotted)
    absent = left_out(styles, [m for m in present(styles, expected) if m not in methods], f"not run at width {widest}")
    heads = {"loss": f"width {widest}", "excess": f"width {widest}, from the best"}
    figure, axes = panels.sheet(title, heads, 2.3, "k, rates tried", "expected best loss (nats)", sharey=False)
    (left,), (right,) = axes.values()
    left.set_xlim(0.5, plotted["k"].max() + 0.5)
    left.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    panels.method_lines(left, plotted, "k", "loss", styles, ms=3.5)
    shown = plotted[plotted["excess"].gt(1e-6)]  # the last k, whose excess is zero, is not on a log scale
    if shown.empty:
        panels.note(right, "one rate, or all alike")
    else:
        _excesses(right, plotted, shown, styles)
    panels.methods_below(figure, styles, methods, absent)
    return figure, plotted


def _excesses(ax: Axes, plotted: Any, shown: Any, styles: Styles) -> None:
    """The lines of `shown`, ε, and rings where a method's line gets below it."""
    eps = plotted["eps"].dropna().head(1)
    bottom = min([0.6 * shown["excess"].min(), *0.6 * eps])
    ax.set(yscale="log", ylim=(bottom, 1.6 * shown["excess"].max()), ylabel="above the best of all (nats)")
    panels.method_lines(ax, shown, "k", "excess", styles, ms=3.5)
    rings = plotted[plotted["k"].eq(plotted["k_eps"]) & plotted["method"].isin(shown["method"])]
    for cell in rings.itertuples():
        ring: Any = {"mfc": "none", "mew": 0.9, "clip_on": False, "color": styles[cell.method].colour}
        ax.plot(cell.k, max(cell.excess, bottom), "o", ms=8, **ring)
    for value in eps:
        ax.axhline(value, **LINE)
        place = ax.get_yaxis_transform()
        ax.text(1, 1.05 * value, f"ε = {value:g}", transform=place, ha="right", color="0.3", fontsize=6.5)


def weight_decay(cells: DataFrame, best: DataFrame, *, title: str, styles: Styles) -> Drawn:
    """Maps of weight decay × learning rate, a column a method and a row a width and way of scaling.

    The star is the best cell, open where it lies at an edge of the map; a cross marks cells where all seeds diverged, k/n those
    where some did.
    """
    if cells.empty:
        return empty_figure(title, "no weight decay but the task's own was run"), DataFrame()
    keys = ["method", "width", "weight_decay_scaling"]
    names = {"weight_decay": "best_weight_decay", "log2_lr": "best_log2_lr"}
    own_best = best[[*keys, *names, "best_loss", "agreement", "flag"]].rename(columns=names)
    columns = [*keys, "weight_decay", "log2_lr", "mean_loss", "n_seeds", "n_diverged"]
    plotted = cells[columns].merge(own_best, on=keys, how="left")
    least = plotted["best_loss"].fillna(plotted.groupby(keys)["mean_loss"].transform("min"))
    plotted["excess"] = plotted["mean_loss"] - least
    plotted = plotted.sort_values(columns[:5], ignore_index=True)
    if not finite(plotted["excess"]).any():
        return empty_figure(title, "every run with weight decay diverged"), plotted
    methods, others = main_methods(present(styles, plotted))
    plotted = plotted[plotted["method"].isin(methods)].reset_index(drop=True)
    kinds = sorted(set(zip(plotted["weight_decay_scaling"], plotted["width"], strict=True)))
    inches = len(kinds) * (0.35 + 0.14 * plotted["weight_decay"].nunique()) + 0.6
    labels = ("log2 of the rate", *["weight decay"] * len(kinds))
    figure, axes = panels.sheet(title, {m: styles[m] for m in methods}, inches, *labels, sharey="none")
    far = float(plotted["excess"].astype(float).quantile(0.95))
    norm = LogNorm(LEAST_EXCESS, max(10 * LEAST_EXCESS, far), clip=True)
    for method, stack in axes.items():
        for ax, (scaling, width) in zip(stack, kinds, strict=True):
            here = part(plotted, method=method, weight_decay_scaling=scaling, width=width)
            if here.empty:
                panels.leave_out(ax)
            else:
                _map(ax, here, plotted, norm)
                place: Any = {"textcoords": "offset points", "xycoords": "axes fraction", "in_layout": False}
                ax.annotate(f"width {width}, {scaling}", (0, 1), (0, 2.5), fontsize=6.5, **place)
                ax.set_title(
                    ax.get_title(loc="left") + "\n ", loc="left", color=styles[method].colour, fontweight="bold"
                )
        last = [ax for ax in stack if ax.get_visible()][-1]
        last.tick_params(labelbottom=True)
        last.xaxis.label.set_visible(True)
    if others:
        panels.legend_below(figure, [], note=left_out(styles, others))
    bar: Any = {"extend": "both", "shrink": min(1.0, 3 / figure.get_figheight()), "aspect": 30, "label": MAP_LABEL}
    bar["format"] = FuncFormatter(lambda value, _: f"{value:g}")
    figure.colorbar(ScalarMappable(norm, MAP_COLOURS), ax=figure.axes, **bar).minorticks_off()
    return figure, plotted


def _map(ax: Axes, here: Any, every: DataFrame, norm: LogNorm) -> None:
    """One map on the decays and rates of all of them; what was not run is blank."""
    import seaborn  # slow to import

    decays = sorted(every["weight_decay"].unique(), reverse=True)
    rates = list(range(int(every["log2_lr"].min()), int(every["log2_lr"].max()) + 1))
    table = here.pivot(index="weight_decay", columns="log2_lr", values="excess").reindex(index=decays, columns=rates)
    names = [f"{decay:g}" for decay in decays]
    scale: Any = {"norm": norm, "vmin": norm.vmin, "vmax": norm.vmax}  # or it looks for them, maybe among no numbers
    look: Any = {"cmap": MAP_COLOURS, "cbar": False, "linewidths": 0.4, "linecolor": "white"}
    seaborn.heatmap(table, ax=ax, xticklabels=False, yticklabels=names, **scale, **look)
    ax.collections[0].set_label(MAP_LABEL)
    ax.set_xticks(np.arange(len(rates))[:: -(-len(rates) // 6)] + 0.5)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda at, _: minus(f"{rates[int(at)]}")))
    ax.grid(False)
    ax.set(xlabel="log2 of the rate", ylabel="weight decay")
    ax.tick_params(axis="both", length=0, labelrotation=0)

    def place(rate: float, decay: float) -> tuple[float, float]:
        return rates.index(int(rate)) + 0.5, decays.index(decay) + 0.5

    for cell in here[here["n_diverged"].gt(0)].itertuples():
        at = place(cell.log2_lr, cell.weight_decay)
        if cell.n_diverged == cell.n_seeds:
            ax.plot(*at, "x", color="0.35", ms=3.5, mew=0.9)
        else:
            text = ax.text(*at, f"{cell.n_diverged}/{cell.n_seeds}", size=5, ha="center", va="center", color="0.1")
            text.set_path_effects([withStroke(linewidth=1, foreground="white")])
    best = here.iloc[0]
    if np.isfinite(best["best_log2_lr"]):
        at, face = place(best["best_log2_lr"], best["best_weight_decay"]), "white" if best["flag"] == "ok" else "none"
        ax.plot(*at, "*", ms=7, color="white", mfc=face, mec="white", mew=0.8)


def interaction(effects: DataFrame, *, title: str, styles: Styles) -> Drawn:
    """Each statistic in each of the four cells, and below, on a scale of its own, both main effects and the interaction."""
    if effects.empty:
        return empty_figure(title, "the four methods were not all run, so there is no interaction"), DataFrame(
            columns=INTERACTION_COLUMNS
        )
    sizes = effects["statistic"].ne("drift")  # its size stands for it: all that is shown is better when lower
    plotted = effects.loc[sizes, INTERACTION_COLUMNS].reset_index(drop=True)
    statistics = [s for s in STATISTICS if s in set(plotted["statistic"])]
    statistics += sorted(set(plotted["statistic"]) - set(statistics))
    cells = {m: look for m, look in styles.items() if m in set(plotted["effect"])}
    across = min(len(statistics), 5)
    heads = {s: STATISTICS.get(s, s.replace("_", " ")) for s in statistics}
    ratios = [len(cells) + 0.2, len(EFFECTS) + 0.2] * -(-len(statistics) // across)
    shared = {"sharex": False, "sharey": "row", "height_ratios": ratios}
    figure, axes = panels.sheet(title, heads, 2.6, "", "", "", across=across, **shared)
    for statistic, stack in axes.items():
        mine = part(plotted, statistic=statistic).set_index("effect")
        for ax, looks in zip(stack, (cells, EFFECTS), strict=True):
            _forest(ax, mine.reindex(list(looks)), looks)
            ax.set_xlabel(UNITS.get(mine["unit"].iloc[0], mine["unit"].iloc[0]), visible=ax is stack[-1])
        if finite(mine["estimate"].reindex(list(EFFECTS))).any():
            stack[-1].axvline(0, **LINE)
    return figure, plotted


def _forest(ax: Axes, rows: Any, looks: Styles) -> None:
    """Points and bars, one row each from above; zero is in view for effects."""
    points = np.append(rows["estimate"].to_numpy(float), [0.0] if looks is EFFECTS else [])
    known = np.abs(points[np.isfinite(points)])
    spans = (rows["high"] - rows["low"]).astype(float)
    typical = float(spans.median()) if finite(spans).any() else 0.0  # an interval is cut only if it is far wider
    floor = max(0.05 * float(known.max(initial=0.0)), typical, LEAST_SPAN)
    ax.set_xlim(panels.robust_limits(points, rows["low"], rows["high"], floor=floor))
    ax.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 3, 4, 5, 10]))
    # No trailing zeros: labels of neighbouring ticks would touch.
    ax.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: minus(f"{round(tick, 9):.4g}")))
    if not finite(rows["estimate"]).any():
        ax.set_xticks([])
    ax.set_yticks(range(len(rows)), [look.name for look in looks.values()])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    for place, (look, (_, row)) in enumerate(zip(looks.values(), rows.iterrows(), strict=True)):
        if np.isfinite(row["estimate"]):
            ax.plot(row["estimate"], place, **look.drawn | {"ls": "", "ms": 4.5, "zorder": 3})
            panels.interval_bars(ax, [place], [row["low"]], [row["high"]], look.colour, across=True)
        else:
            ax.text(0.5, place, "not estimable", transform=ax.get_yaxis_transform(), fontsize=5.5, **NOTE)

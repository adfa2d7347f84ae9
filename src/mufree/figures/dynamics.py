"""Figures on what happens inside: the coordinate check, gradients and updates against width, and validation over time."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mufree.figures.style import (
    LAYER_COLOURS,
    MethodStyle,
    empty_figure,
    finite,
    new_figure,
    note,
    rows_of,
    width_axis,
)

Styles = dict[str, MethodStyle]
SLOPE_MARGIN = 0.1
"""A judged module passes where |slope| is below this from step 2 on (METRICS, section 2)."""
JUDGED_LAYERS = ("embedding", "hidden", "readout")
QUANTITIES = {"grad_rms": "gradient RMS", "update_rms": "update RMS"}


def coordcheck(
    slopes: pd.DataFrame, verdicts: pd.DataFrame, *, title: str, styles: Styles
) -> tuple[Figure, pd.DataFrame]:
    """Slope against width of each module's activation size and change, over the first steps, a column a method.

    Solid lines are at x (the weights that are evaluated), dashed ones at y (where gradients are taken); the band is what
    embedding, hidden and readout modules have to stay in.
    """
    plotted = slopes.sort_values(["method", "quantity", "at", "module", "step"], ignore_index=True)
    known = plotted[finite(plotted["slope"])]
    if known.empty:
        return empty_figure(title, "no slope against width: that takes two widths"), plotted
    methods = [m for m in styles if m in set(plotted["method"])]
    columns, blocks = min(len(methods), 4), -(-len(methods) // 4)
    figure = new_figure(title, 0.5 + 3.8 * blocks)
    axes = figure.subplots(2 * blocks, columns, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat:
        ax.set_visible(False)
    low, high = known["slope"].quantile([0.01, 0.99])
    axes[0, 0].set_ylim(min(-0.2, low - 0.1), max(0.2, high + 0.1))
    for i, method in enumerate(methods):
        pair = axes[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]
        mine = known[known["method"].eq(method)]
        for ax, quantity in zip(pair, ("size", "change"), strict=True):
            ax.set_visible(True)
            ax.axhspan(-SLOPE_MARGIN, SLOPE_MARGIN, color="0.9", lw=0)
            for (layer, at, _), line in mine[mine["quantity"].eq(quantity)].groupby(["layer", "at", "module"]):
                judged = layer in JUDGED_LAYERS
                ax.plot(
                    line["step"],
                    line["slope"],
                    color=LAYER_COLOURS.get(str(layer), "0.5"),
                    ls="-" if at == "x" else (0, (2, 1.5)),
                    lw=1.1 if judged else 0.7,
                    zorder=3 if judged else 2,
                )
        pair[0].set_title(
            styles[method].name.replace(" · ", "\n"), loc="left", color=styles[method].colour, fontweight="bold"
        )
        pair[1].tick_params(labelbottom=True)
        pair[1].set_xlabel(f"step\n{_verdict_words(verdicts[verdicts['method'].eq(method)])}", linespacing=1.5)
    for block in range(blocks):
        axes[2 * block, 0].set_ylabel("slope of mean |h|")
        axes[2 * block + 1, 0].set_ylabel("slope of mean |h − h₀|")
    handles: list[Artist] = [
        Line2D([], [], color=c, label=n) for n, c in LAYER_COLOURS.items() if n in set(known["layer"])
    ]
    handles += [
        Line2D([], [], color="0.3", label="at x"),
        Line2D([], [], color="0.3", ls=(0, (2, 1.5)), label="at y"),
        Patch(color="0.9", label=f"band of ±{SLOPE_MARGIN}"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure, plotted


def _verdict_words(verdicts: pd.DataFrame) -> str:
    lines = []
    for row in rows_of(verdicts.sort_values("at")):
        word = "passes" if row.passed else f"fails {row.n_failed}/{row.n_checked}"
        worst = f", worst {row.worst_slope:+.2f}" if np.isfinite(row.worst_slope) else ""
        lines.append(f"at {row.at}: {word}{worst}".replace("-", "−"))
    return "\n".join(lines) or "no verdict"


def dynamics(points: pd.DataFrame, slopes: pd.DataFrame, *, title: str, styles: Styles) -> tuple[Figure, pd.DataFrame]:
    """Median RMS of gradients and updates against width, a column a layer type, both axes logarithmic.

    Points are seeds, lines their geometric means; the slopes of log2 median on log2 width stand above each panel, in the
    legend's order and colours.
    """
    points = points[points["quantity"].isin(QUANTITIES)].sort_values(["method", "quantity", "layer", "width", "seed"])
    plotted = points.merge(
        slopes[["method", "layer", "quantity", "slope", "slope_low", "slope_high"]],
        on=["method", "layer", "quantity"],
        how="left",
    )
    shown = plotted[finite(plotted["median"]) & plotted["median"].gt(0)]
    if shown.empty:
        return empty_figure(title, "no gradients were logged by a run that ended well"), plotted
    methods = [m for m in styles if m in set(shown["method"])]
    layers = [x for x in LAYER_COLOURS if x in set(shown["layer"])]
    figure = new_figure(title, 4.3)
    axes = figure.subplots(2, len(layers), sharex=True, sharey="row", squeeze=False)
    width_axis(axes[0, 0], sorted(shown["width"].unique()))
    for row, (quantity, label) in enumerate(QUANTITIES.items()):
        for column, layer in enumerate(layers):
            ax = axes[row, column]
            panel = shown[shown["quantity"].eq(quantity) & shown["layer"].eq(layer)]
            for method in methods:
                _medians(ax, panel[panel["method"].eq(method)], styles[method])
            _slopes_above(ax, [(styles[m].colour, panel.loc[panel["method"].eq(m), "slope"]) for m in methods])
            if row == 0:
                ax.set_title(layer, pad=5 + 11 * -(-len(methods) // 4), fontweight="bold")
        axes[row, 0].yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes[row, 0].set_ylabel(f"log2 {label}")
    for ax in axes[-1]:
        ax.set_xlabel("width (log2 scale)")
    figure.legend(handles=_method_handles(styles, methods), loc="outside lower center", ncols=min(len(methods), 4))
    return figure, plotted.reset_index(drop=True)


def _medians(ax: Axes, panel: pd.DataFrame, look: MethodStyle) -> None:
    if panel.empty:
        return
    heights = np.log2(panel["median"])
    mean = heights.groupby(panel["width"]).mean()
    ax.plot(np.log2(panel["width"]), heights, ls="", marker=".", ms=3, color=look.colour, alpha=0.4, mew=0)
    ax.plot(np.log2(mean.index), mean, color=look.colour, ls=look.line, marker=look.marker, ms=3.5)


def _slopes_above(ax: Axes, slopes: list[tuple[str, pd.Series]]) -> None:
    """The methods' slopes above the panel, in rows of four."""
    for i, (colour, slope) in enumerate(slopes):
        known = len(slope) and np.isfinite(slope.iloc[0])
        text = f"{slope.iloc[0]:+.2f}".replace("-", "−") if known else "—"
        row, column = divmod(i, 4)
        place = ((column + 0.5) / min(len(slopes), 4), 1.03 + 0.1 * (-(-len(slopes) // 4) - 1 - row))
        ax.text(*place, text, transform=ax.transAxes, ha="center", color=colour, fontsize=6.5)


def _method_handles(styles: Styles, methods: list[str]) -> list[Line2D]:
    return [
        Line2D([], [], color=look.colour, ls=look.line, marker=look.marker, label=look.name)
        for look in (styles[m] for m in methods)
    ]


def validation_curves(
    rows: pd.DataFrame, curves: pd.DataFrame, optima: pd.DataFrame, *, title: str, styles: Styles
) -> tuple[Figure, pd.DataFrame]:
    """Validation loss (nats) over the steps at each method's best rate of the grid, at the narrowest and the widest network.

    Solid: the mean over seeds at x, thin lines the seeds; dashed: at y, for schedule-free methods. Step 0 is not shown.
    """
    best = optima[["method", "width", "log2_lr_argmin"]].rename(columns={"log2_lr_argmin": "log2_lr"}).dropna()
    widths = sorted({int(rows["width"].min()), int(rows["width"].max())}) if len(rows) else []
    chosen = rows.merge(best[best["width"].isin(widths)], on=["method", "width", "log2_lr"])
    chosen = chosen[["run_id", "method", "width", "log2_lr", "seed", "optimizer"]]
    series = curves[curves["series"].isin(["val_loss", "val_loss_y"])]
    plotted = chosen.merge(series, on="run_id")
    plotted = plotted[plotted["step"].gt(0) & finite(plotted["value"])]
    plotted = plotted[plotted["series"].eq("val_loss") | plotted["optimizer"].str.contains("schedulefree")]
    plotted["at"] = plotted["series"].map({"val_loss": "x", "val_loss_y": "y"})
    columns = ["method", "width", "log2_lr", "seed", "at", "step", "value"]
    plotted = plotted[columns].sort_values(columns[:6], ignore_index=True)
    if plotted.empty:
        return empty_figure(title, "every run diverged: there is no best rate to show"), plotted
    figure = new_figure(title, 3.9)
    axes = figure.subplots(1, len(widths), sharey=True, squeeze=False)[0]
    late = plotted.loc[plotted["step"].ge(0.2 * plotted["step"].max()), "value"]
    low, high = float(late.min()), float(late.max())
    pad = 0.05 * max(high - low, 0.02)
    axes[0].set_ylim(low - pad, high + pad)
    methods = [m for m in styles if m in set(plotted["method"])]
    for ax, width in zip(axes, widths, strict=True):
        panel = plotted[plotted["width"].eq(width)]
        for method in methods:
            _curve(ax, panel[panel["method"].eq(method)], styles[method])
        ax.set_title(f"width {width}", loc="left", fontweight="bold")
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if panel.empty:
            note(ax, "every run diverged")
        elif ax.get_legend_handles_labels()[0]:
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16))
    axes[0].set_ylabel("validation loss (nats)")
    keys = [Line2D([], [], color="0.3", label="at x"), Line2D([], [], color="0.3", ls=(0, (2, 1.5)), label="at y")]
    figure.legend(handles=keys, loc="outside lower center", ncols=2)
    return figure, plotted


def _curve(ax: Axes, lines: pd.DataFrame, look: MethodStyle) -> None:
    """One method in one panel; markers, unlike dashes, are free to tell methods apart here."""
    for at, part in lines.groupby("at"):
        mean = part.groupby("step")["value"].mean()
        if at == "y":
            ax.plot(mean.index, mean, color=look.colour, ls=(0, (2, 1.5)), lw=0.9)
            continue
        for _, seed in part.groupby("seed"):
            ax.plot(seed["step"], seed["value"], color=look.colour, lw=0.5, alpha=0.4)
        rate = f"log2 rate {int(part['log2_lr'].iloc[0])}".replace("-", "−")
        every = max(1, len(mean) // 7)
        ax.plot(
            mean.index,
            mean,
            color=look.colour,
            marker=look.marker,
            ms=3.5,
            markevery=every,
            label=f"{look.name}, {rate}",
        )

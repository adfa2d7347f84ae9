"""Figures on what happens inside: the coordinate check, gradients and updates against width, and validation over time."""

from __future__ import annotations

from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mufree.publish.figures.style import (
    LAYER_COLOURS,
    PAGE_WIDTH,
    MethodStyle,
    empty_figure,
    finite,
    left_out,
    legend_below,
    main_methods,
    method_handles,
    new_figure,
    note,
    panel_title,
    roles_of,
    rows_of,
    width_axis,
)

Styles = dict[str, MethodStyle]
SLOPE_MARGIN = 0.1
"""A judged module passes where |slope| is below this from step 2 on (METRICS, section 2)."""
JUDGED_LAYERS = ("embedding", "hidden", "readout")
MEASURES = {"size": "mean |h|", "change": "mean |h − h₀|", "relative": "‖ΔW·h‖/‖W·h‖"}
"""What the coordinate check measures of a module, and how it is written."""
QUANTITIES = {"grad_rms": "gradient RMS", "update_rms": "update RMS"}


def coordcheck(
    slopes: pd.DataFrame, verdicts: pd.DataFrame, *, title: str, styles: Styles
) -> tuple[Figure, pd.DataFrame]:
    """Slope against width of each module's activation size and change, over the first steps, a column a method.

    Solid lines are at x (the weights that are evaluated), dashed ones at y (where gradients are taken); the band is what
    embedding, hidden and readout modules have to stay in. Of more than six methods the canonical ones are drawn, and of the
    others the worst slope alone.
    """
    plotted = slopes.sort_values(["method", "quantity", "at", "module", "step"], ignore_index=True)
    known = plotted[finite(plotted["slope"])]
    if known.empty:
        return empty_figure(title, "no slope against width: that takes two widths"), plotted
    methods, others = main_methods([m for m in styles if m in set(plotted["method"])])
    measures = [q for q in MEASURES if q in set(known["quantity"])]
    columns = len(methods) if len(methods) <= 4 else 3
    blocks = -(-len(methods) // columns)
    below = 0.55 + 0.17 * len(others) if others else 0.0
    panel = 1.55 if len(measures) < 3 and blocks == 1 else 1.1
    inches = blocks * (panel * len(measures) + 0.75)
    figure = new_figure(title, 0.5 + inches + below)
    upper: Figure | SubFigure = figure
    lower: SubFigure | None = None
    if others:
        upper, lower = figure.subfigures(2, 1, height_ratios=[inches, below], squeeze=False)[:, 0]
    axes = upper.subplots(len(measures) * blocks, columns, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat:
        ax.set_visible(False)
    low, high = known["slope"].quantile([0.01, 0.99])
    axes[0, 0].set_ylim(min(-0.2, low - 0.1), max(0.2, high + 0.1))
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for i, method in enumerate(methods):
        start = len(measures) * (i // columns)
        stack = axes[start : start + len(measures), i % columns]
        mine = known[known["method"].eq(method)]
        for ax, measure in zip(stack, measures, strict=True):
            ax.set_visible(True)
            _slopes_over_steps(ax, mine[mine["quantity"].eq(measure)], judged=measure != "relative")
        panel_title(stack[0], styles[method], min(PAGE_WIDTH / columns - 0.1, 2.4))
        stack[-1].tick_params(labelbottom=True)
        words = _verdict_words(verdicts[verdicts["method"].eq(method)])
        stack[-1].set_xlabel(f"step\n{words}", linespacing=1.5, fontsize=7)
    for row in range(len(axes)):
        axes[row, 0].set_ylabel(f"slope of\n{MEASURES[measures[row % len(measures)]]}")
    if lower is not None:
        _worst_slopes(lower.subplots(), verdicts, others, styles)
    handles: list[Artist] = [
        Line2D([], [], color=c, label=n) for n, c in LAYER_COLOURS.items() if n in set(known["layer"])
    ]
    handles += [
        Line2D([], [], color="0.3", label="at x"),
        Line2D([], [], color="0.3", ls=(0, (2, 1.5)), label="at y"),
        Patch(color="0.9", label=f"band of ±{SLOPE_MARGIN}"),
    ]
    upper.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure, plotted[plotted["method"].isin(methods)].reset_index(drop=True)


def _slopes_over_steps(ax: Axes, lines: pd.DataFrame, judged: bool) -> None:
    """One panel, with the band where a verdict hangs on it, else with a line at zero."""
    if judged:
        ax.axhspan(-SLOPE_MARGIN, SLOPE_MARGIN, color="0.9", lw=0)
    else:
        ax.axhline(0, color="0.7", lw=0.7)
    for (layer, at, _), line in lines.groupby(["layer", "at", "module"]):
        main = layer in JUDGED_LAYERS
        ax.plot(
            line["step"],
            line["slope"],
            color=LAYER_COLOURS.get(str(layer), "0.5"),
            ls="-" if at == "x" else (0, (2, 1.5)),
            lw=1.1 if main else 0.7,
            zorder=3 if main else 2,
        )


def _worst_slopes(ax: Axes, verdicts: pd.DataFrame, methods: list[str], styles: Styles) -> None:
    """The worst slope of each method that has no panel, with its interval: filled at x, open at y."""
    ax.axvspan(-SLOPE_MARGIN, SLOPE_MARGIN, color="0.9", lw=0)
    for row, method in enumerate(methods):
        look = styles[method]
        for verdict in rows_of(verdicts[verdicts["method"].eq(method)]):
            face = look.colour if verdict.at == "x" else "none"
            ax.plot([verdict.worst_low, verdict.worst_high], [row, row], color=look.colour, lw=1)
            ax.plot(verdict.worst_slope, row, ls="", marker=look.marker, color=look.colour, mfc=face)
    ax.set_yticks(range(len(methods)), [styles[m].name for m in methods])
    ax.set_ylim(len(methods) - 0.4, -0.6)
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, -0.2) - 0.02, max(high, 0.2) + 0.02)
    ax.set_xlabel("worst slope of a judged module in the other methods; filled at x, open at y")


def _verdict_words(verdicts: pd.DataFrame) -> str:
    lines = []
    for row in rows_of(verdicts.sort_values("at")):
        failing = "fails" if row.n_sure else "undecided:"
        word = "passes" if row.passed else f"{failing} {row.n_failed}/{row.n_checked}"
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
    methods, others = main_methods([m for m in styles if m in set(shown["method"])])
    plotted, shown = (frame[~frame["method"].isin(others)] for frame in (plotted, shown))
    per_row = len(methods) if len(methods) <= 4 else 3
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
            slope = [(styles[m].colour, panel.loc[panel["method"].eq(m), "slope"]) for m in methods]
            _slopes_above(ax, slope, per_row)
            if row == 0:
                ax.set_title(layer, pad=5 + 11 * -(-len(methods) // per_row), fontweight="bold")
        axes[row, 0].yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes[row, 0].set_ylabel(f"log2 {label}")
    for ax in axes[-1]:
        ax.set_xlabel("width (log2 scale)")
    legend_below(figure, method_handles(styles, methods, per_row), per_row, left_out(styles, others))
    return figure, plotted.reset_index(drop=True)


def _medians(ax: Axes, panel: pd.DataFrame, look: MethodStyle) -> None:
    if panel.empty:
        return
    heights = np.log2(panel["median"])
    mean = heights.groupby(panel["width"]).mean()
    ax.plot(np.log2(panel["width"]), heights, ls="", marker=".", ms=3, color=look.colour, alpha=0.4, mew=0)
    ax.plot(np.log2(mean.index), mean, color=look.colour, ls=look.line, marker=look.marker, ms=3.5)


def _slopes_above(ax: Axes, slopes: list[tuple[str, pd.Series]], per_row: int) -> None:
    """The methods' slopes above the panel, in rows like the legend's."""
    for i, (colour, slope) in enumerate(slopes):
        known = len(slope) and np.isfinite(slope.iloc[0])
        text = f"{slope.iloc[0]:+.2f}".replace("-", "−") if known else "—"
        row, column = divmod(i, per_row)
        place = ((column + 0.5) / per_row, 1.03 + 0.1 * (-(-len(slopes) // per_row) - 1 - row))
        ax.text(*place, text, transform=ax.transAxes, ha="center", color=colour, fontsize=6.5)


def validation_curves(
    rows: pd.DataFrame, curves: pd.DataFrame, optima: pd.DataFrame, *, title: str, styles: Styles
) -> tuple[Figure, pd.DataFrame]:
    """Validation loss (nats) over the steps at each method's best rate of the grid, at the narrowest and the widest network.

    Solid: the mean over seeds at x, thin lines the seeds; dashed: at y, for methods that average. Step 0 is not shown.
    """
    best = optima[["method", "width", "log2_lr_argmin"]].rename(columns={"log2_lr_argmin": "log2_lr"}).dropna()
    widths = sorted({int(rows["width"].min()), int(rows["width"].max())}) if len(rows) else []
    methods, others = main_methods([m for m in styles if m in set(rows["method"])])
    best = best[best["width"].isin(widths) & best["method"].isin(methods)]
    plotted = curves_at(rows, curves, best)
    if plotted.empty:
        return empty_figure(title, "every run diverged: there is no best rate to show"), plotted
    figure = new_figure(title, 3.9 + 0.15 * max(len(methods) - 4, 0))
    axes = figure.subplots(1, len(widths), sharey=True, squeeze=False)[0]
    axes[0].set_ylim(late_limits(plotted))
    methods = [m for m in methods if m in set(plotted["method"])]
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
    legend_below(figure, keys, 2, left_out(styles, others))
    return figure, plotted


def curves_at(rows: pd.DataFrame, curves: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Validation curves of the runs at `cells` (method, width, log2_lr), at x and, where that is another thing, at y."""
    chosen = rows.merge(cells, on=["method", "width", "log2_lr"])
    chosen = chosen[["run_id", "method", "width", "log2_lr", "seed"]]
    series = curves[curves["series"].isin(["val_loss", "val_loss_y"])]
    found = chosen.merge(series, on="run_id")
    averaging = [method for method, role in roles_of(rows).items() if role.averages]
    found = found[found["step"].gt(0) & finite(found["value"])]
    found = found[found["series"].eq("val_loss") | found["method"].isin(averaging)]
    found["at"] = found["series"].map({"val_loss": "x", "val_loss_y": "y"})
    columns = ["method", "width", "log2_lr", "seed", "at", "step", "value"]
    return found[columns].sort_values(columns[:6], ignore_index=True)


def late_limits(curves: pd.DataFrame, start: float = 0.2) -> tuple[float, float]:
    """Limits that show the curves from this share of the longest on: before, all fall steeply."""
    late = curves.loc[curves["step"].ge(start * curves["step"].max()), "value"]
    low, high = float(late.min()), float(late.max())
    pad = 0.05 * max(high - low, 0.02)
    return low - pad, high + pad


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
            label="\n".join(wrap(f"{look.name}, {rate}", 48)),
        )

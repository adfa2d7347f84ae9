"""Figures on what happens inside: the coordinate check, gradients and updates against width, and validation over time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from mufree.analysis.tables.cases import part
from mufree.publish.figures import panels
from mufree.publish.figures.panels import DASHES, LINE, SMALL, Drawn, empty_figure, finite, minus
from mufree.publish.figures.style import LAYER_COLOURS, Styles, left_out, main_methods, present, roles_of
from mufree.study.limits import MAX_SLOPE

MEASURES = {"size": "mean |h|", "change": "mean |h − h₀|", "relative": "‖ΔW·h‖/‖W·h‖"}
"""What the coordinate check measures of a module, and how it is written."""
QUANTITIES = {"grad_rms": "gradient RMS", "update_rms": "update RMS"}


def coordcheck(slopes: DataFrame, verdicts: DataFrame, *, title: str, styles: Styles) -> Drawn:
    """Slope against width of each module's activation size and change, over the first steps, a column a method.

    Of a crowd of methods the canonical ones are drawn, and of the others the verdicts alone are given.
    """
    plotted = slopes.sort_values(["method", "quantity", "at", "module", "step"], ignore_index=True)
    known = plotted[finite(plotted["slope"])]
    if known.empty:
        return empty_figure(title, "no slope against width: that takes two widths"), plotted
    methods, others = main_methods(present(styles, plotted))
    measures = [q for q in MEASURES if q in set(known["quantity"])]
    labels = ("step", *(f"slope of\n{MEASURES[q]}" for q in measures))
    figure, axes = panels.sheet(title, {m: styles[m] for m in methods}, 0.75 + 1.1 * len(measures), *labels)
    low, high = known["slope"].quantile([0.01, 0.99])
    verdict = {m: _verdict_words(part(verdicts, method=m)) for m in [*methods, *others]}
    for method, stack in axes.items():
        for ax, measure in zip(stack, measures, strict=True):
            _slopes_over_steps(ax, part(known, method=method, quantity=measure), judged=measure != "relative")
        stack[0].set_ylim(min(-0.2, low - 0.1), max(0.2, high + 0.1))
        stack[0].xaxis.set_major_locator(MaxNLocator(5, integer=True))
        look: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center", "va": "top"}
        stack[-1].annotate(verdict[method], (0.5, 0), (0, -26), fontsize=6.5, linespacing=1.5, **look)
    handles: list[Any] = [
        Line2D([], [], color=c, label=n) for n, c in LAYER_COLOURS.items() if n in set(known["layer"])
    ]
    handles += [Line2D([], [], color="0.3", ls=x, label=n) for n, x in (("at x", "-"), ("at y", DASHES))]
    handles.append(Patch(color="0.9", label=f"band of ±{MAX_SLOPE}"))
    without = "; ".join(f"{styles[m].name} ({verdict[m]})".replace("\n", "; ") for m in others)
    panels.legend_below(figure, handles, len(handles), f"Without a panel: {without}." if others else "")
    return figure, plotted[plotted["method"].isin(methods)].reset_index(drop=True)


def _slopes_over_steps(ax: Axes, lines: Any, judged: bool) -> None:
    """One panel, with the band where a verdict hangs on it, else with a line at zero."""
    if judged:
        ax.axhspan(-MAX_SLOPE, MAX_SLOPE, color="0.9", lw=0)
    else:
        ax.axhline(0, **LINE)
    for (layer, at, module), line in lines.groupby(["layer", "at", "module"]):
        look: Any = {"color": LAYER_COLOURS.get(layer, "0.5"), "ls": "-" if at == "x" else DASHES}
        look["lw"], look["zorder"] = (0.7, 2) if layer in ("norm", "bias") else (1.1, 3)  # not judged; judged
        ax.plot(line["step"], line["slope"], label=f"{module} ({layer}), at {at}", **look)


def _verdict_words(verdicts: Any) -> str:
    """Passed or not, at x and at y, and by how much."""
    lines = []
    for row in verdicts.sort_values("at").itertuples():
        # A check of one's own has decided between the two for all its slopes together.
        fails = row.verdict == "failed" if "verdict" in verdicts else row.n_sure > 0
        word = "passes" if row.passed else f"{'fails' if fails else 'undecided:'} {row.n_failed}/{row.n_checked}"
        worst = f", worst {row.worst_slope:+.2f}" if np.isfinite(row.worst_slope) else ""
        lines.append(minus(f"at {row.at}: {word}{worst}"))
    return "\n".join(lines) or "no verdict"


def dynamics(points: DataFrame, slopes: DataFrame, *, title: str, styles: Styles) -> Drawn:
    """Median RMS of gradients and updates against width, a column a layer type; lines are geometric means over seeds."""
    points = points[points["quantity"].isin(QUANTITIES)].sort_values(["method", "quantity", "layer", "width", "seed"])
    keys = ["method", "layer", "quantity"]
    plotted = points.merge(slopes[[*keys, "slope", "slope_low", "slope_high"]], on=keys, how="left")
    shown = plotted[finite(plotted["median"]) & plotted["median"].gt(0)]
    if shown.empty:
        return empty_figure(title, "no gradients were logged by a run that ended well"), plotted
    methods, others = main_methods(present(styles, shown))
    plotted, shown = (frame[~frame["method"].isin(others)] for frame in (plotted, shown))
    shown = shown.assign(height=np.log2(shown["median"].to_numpy(float)))
    heads = {layer: layer for layer in LAYER_COLOURS if layer in set(shown["layer"])}
    labels = ("width (log2 scale)", *(f"log2 {label}" for label in QUANTITIES.values()))
    figure, axes = panels.sheet(title, heads, 3.4, *labels, across=len(heads), sharey="row")
    for layer, stack in axes.items():
        for ax, quantity in zip(stack, QUANTITIES, strict=True):
            panel = part(shown, quantity=quantity, layer=layer)
            panels.width_axis(ax, shown["width"].unique())
            panels.method_lines(ax, panel, "width", "height", styles, **SMALL)
            means = panel.groupby(["method", "width"], as_index=False)["height"].mean()
            panels.method_lines(ax, means, "width", "height", styles, ms=3.5)
            ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
            room = _slopes_above(ax, panel.groupby("method")["slope"].first().reindex(methods), styles)
        stack[0].set_title(layer, loc="left", pad=5 + 11 * room, fontweight="bold")
    panels.methods_below(figure, styles, methods, left_out(styles, others))
    return figure, plotted.reset_index(drop=True)


def _slopes_above(ax: Axes, slopes: Any, styles: Styles) -> int:
    """The methods' slopes above the panel, in rows like the legend's; how many rows."""
    across = panels.columns_for(len(slopes))
    rows = -(-len(slopes) // across)
    for i, (method, slope) in enumerate(slopes.items()):
        place = ((i % across + 0.5) / across, 1.03 + 0.1 * (rows - 1 - i // across))
        text = minus(f"{slope:+.2f}") if np.isfinite(slope) else "—"
        ax.text(*place, text, transform=ax.transAxes, ha="center", color=styles[method].colour, size=6.5)
    return rows


def validation_curves(rows: DataFrame, curves: DataFrame, optima: DataFrame, *, title: str, styles: Styles) -> Drawn:
    """Validation loss (nats) over the steps, but for step 0, at the narrowest and the widest network."""
    widths = sorted({int(rows["width"].min()), int(rows["width"].max())}) if len(rows) else []
    methods, others = main_methods(present(styles, rows))
    plotted = curves_at(rows, curves, optima[optima["width"].isin(widths) & optima["method"].isin(methods)])
    if plotted.empty:
        return empty_figure(title, "every run diverged: there is no best rate to show"), plotted
    heads = {width: f"width {width}" for width in widths}
    inches = 3.1 + 0.15 * max(len(methods) - 4, 0)
    figure, axes = panels.sheet(title, heads, inches, "step", "validation loss (nats)")
    for width, (ax,) in axes.items():
        panel = part(plotted, width=width)
        rates = panel.groupby("method")["log2_lr"].first()
        looks = {
            m: replace(styles[m], name=f"{styles[m].name}, rate 2^{minus(f'{rates[m]:.0f}')}") for m in rates.index
        }
        panels.method_curves(ax, panel, {m: looks[m] for m in styles if m in looks})
        ax.set_ylim(panels.late_limits(plotted))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panels.curves_below(figure, left_out(styles, others))
    return figure, plotted


def curves_at(rows: DataFrame, curves: DataFrame, optima: DataFrame) -> DataFrame:
    """Validation curves of the runs at the grid's best rates in `optima`, at x and, where that is another thing, at y."""
    cells = optima[["method", "width", "log2_lr_argmin"]].rename(columns={"log2_lr_argmin": "log2_lr"})
    chosen = rows[["run_id", "method", "width", "log2_lr", "seed"]].merge(cells)
    found = chosen.merge(curves[curves["series"].isin(["val_loss", "val_loss_y"])], on="run_id")
    averaging = [m for m, role in roles_of(rows).items() if role.schedule_free or role.average != "none"]
    found = found[found["step"].gt(0) & finite(found["value"])]
    found = found[found["series"].eq("val_loss") | found["method"].isin(averaging)]
    found["at"] = found["series"].map({"val_loss": "x", "val_loss_y": "y"})
    columns = ["method", "width", "log2_lr", "seed", "at", "step", "value"]
    return found[columns].sort_values(columns[:6], ignore_index=True)

"""What figures are put together from: sheets, panels on them, legends, scales, and lines with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation
from pandas import DataFrame

from mufree.analysis.tables.cases import part
from mufree.publish.figures.style import MethodStyle, Styles, present

Drawn = tuple[Figure, DataFrame]
PAGE_WIDTH = 7.0
"""Inches between the margins of an A4 page."""
DPI = 200
NOTE: Any = {"ha": "center", "va": "center", "color": "0.35", "style": "italic"}
"""Words that stand where data would."""
DASHES: Any = (0, (2, 1.5))
"""How a line at y, the weights where gradients are taken, is drawn."""
LINE: Any = {"color": "0.3", "lw": 0.7, "zorder": 1}
"""A line to compare with."""
SMALL: Any = {"ls": "", "marker": ".", "ms": 4, "alpha": 0.5, "mew": 0, "label": None}
"""Seeds beside their mean."""


def theme() -> Any:
    """Seaborn's, with a grid and letters for a page."""
    import seaborn  # slow to import

    own = {"font.family": "DejaVu Sans", "figure.titlesize": 8.5, "axes.titlesize": 8, "lines.markersize": 4}
    own |= {"axes.grid": True, "grid.color": "0.9", "grid.linewidth": 0.5, "legend.frameon": False, "savefig.dpi": DPI}
    own |= {"axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "axes.edgecolor": "0"}
    own |= {f"{axis}tick.major.{what}": value for axis in "xy" for what, value in (("size", 3), ("width", 0.6))}
    return seaborn.axes_style("ticks") | seaborn.plotting_context("paper", font_scale=0.78) | own


def finite(values: pd.Series) -> pd.Series:
    """Where a column has a finite number; also for one that a CSV file left empty, and so without a type."""
    return values.astype(float).abs().lt(np.inf)


def minus(text: str) -> str:
    """`text` with a true minus sign."""
    return text.replace("-", "−")


def new_figure(title: str, height: float) -> Figure:
    """An empty figure with a title, `height` inches high and as wide as a page."""
    # dots as in the PNG: at fewer, hinting makes letters narrower, and labels would stick out
    figure = Figure(figsize=(PAGE_WIDTH, height), dpi=DPI, layout="constrained")
    plain = title.replace("$", r"\$")  # or what stands between two of them is a formula, which may be a wrong one
    figure.suptitle("\n".join(wrap(plain, int(10.5 * PAGE_WIDTH))), x=0.01, ha="left", fontweight="bold")
    return figure


def empty_figure(title: str, why: str) -> Figure:
    """A figure that says in words why it shows nothing."""
    figure = new_figure(title, 1.4)
    note(figure.add_subplot(), "\n".join(wrap(why, 90)))
    return figure


def note(ax: Axes, text: str) -> None:
    """Write `text` in the middle of a panel that has nothing else to show."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, **NOTE)
    ax.set_axis_off()


def leave_out(ax: Axes) -> None:
    """Leave the place of a panel empty."""
    ax.set_axis_off()
    ax.set_visible(False)


def columns_for(n: int) -> int:
    """In how many columns so many panels or entries stand, up to four side by side."""
    return n if n <= 4 else 3


def sheet(
    title: str, heads: Mapping[Any, str | MethodStyle], inches: float, *labels: str, across: int = 0, **shared: Any
) -> tuple[Figure, dict[Any, Any]]:
    """A figure with a stack of panels under each of `heads`, in rows of `inches`: the figure, and the stacks by key.

    `labels` are that of x, and one of y for each panel of a stack. The lowest panel of each stack, or, if a stack is one panel,
    of each column has ticks and its label. All axes are labelled, also where that isn't visible. `shared` goes to `subplots`.
    """
    (xlabel, *ylabels), n = labels, len(heads)
    across = across or columns_for(n)
    depth, blocks = len(ylabels), -(-n // across)
    figure = new_figure(title, 0.5 + blocks * inches)
    shared = {"sharex": True, "sharey": True, "squeeze": False} | shared
    axes = figure.subplots(blocks * depth, across, **shared).reshape(blocks, depth, across)
    stacks = axes.transpose(0, 2, 1).reshape(-1, depth)
    for (i, k), ax in np.ndenumerate(stacks):
        lowest = k == depth - 1 and (depth > 1 or i + across >= n)
        ax.set_xlabel(xlabel, visible=lowest)
        ax.set_ylabel(ylabels[k], visible=i % across == 0 or not shared["sharey"])
        if lowest:
            ax.tick_params(labelbottom=True)
    for ax in stacks[n:].flat:
        leave_out(ax)
    room = PAGE_WIDTH / across - 0.3
    for ax, head in zip(stacks[:, 0], heads.values(), strict=False):
        parts = [head] if isinstance(head, str) else head.parts
        words = "\n".join(line for part in parts for line in wrap(part, int(13 * room)))
        ax.set_title(words, loc="left", color="0" if isinstance(head, str) else head.colour, fontweight="bold")
    return figure, dict(zip(heads, stacks, strict=False))


def method_handles(styles: Styles, methods: Sequence[str], columns: int) -> list[Line2D]:
    """What a legend of so many columns shows of each method, in an order that reads by rows (matplotlib fills by columns)."""
    handles = [Line2D([], [], **styles[m].drawn) for m in methods]
    return [handle for column in range(columns) for handle in handles[column::columns]]


def legend_below(figure: Figure, handles: Sequence[Artist], columns: int = 1, note: str = "") -> None:
    """A legend under the panels, with `note` above its entries; the figure grows by its height."""
    lines = wrap(note, int(19 * PAGE_WIDTH))
    entry = max((1 + str(handle.get_label()).count("\n") for handle in handles), default=0)
    figure.set_figheight(figure.get_figheight() + 0.1 + 0.15 * entry * -(-len(handles) // columns) + 0.1 * len(lines))
    look: Any = {"title_fontproperties": {"size": 6}, "alignment": "left", "title": "\n".join(lines) or None}
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, **look)


def methods_below(figure: Figure, styles: Styles, methods: Sequence[str], note: str = "") -> None:
    """A legend of methods under the panels, by rows; of as many columns as their names leave room for."""
    lengths = [max(map(len, styles[method].name.split("\n"))) for method in methods]
    columns = columns_for(len(methods))
    while columns > 1 and sum(max(lengths[place::columns]) + 7 for place in range(columns)) > 18 * PAGE_WIDTH:
        columns -= 1
    legend_below(figure, method_handles(styles, methods, columns), columns, note)


def width_axis(ax: Axes, widths: Any, margin: float = 0.2) -> None:
    """Make x, of all panels that share it, logarithmic, with ticks at the widths, and `margin` doublings beyond them."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(widths), [f"{w:.0f}" for w in sorted(widths)])
    for each in ax.get_shared_x_axes().get_siblings(ax):
        each.tick_params(axis="x", labelrotation=45 if len(widths) > 5 else 0)
        each.xaxis.minorticks_off()
    ax.set_xlim(min(widths) * 2**-margin, max(widths) * 2**margin)


def robust_limits(points: Any, lows: Any, highs: Any, floor: float) -> tuple[float, float]:
    """Axis limits that show all points, and the ends of intervals as far as they don't dwarf the points.

    An interval of two seeds has a t quantile of 12.7, and would leave the points a flat line. `floor` is the least span, in
    data units. Bars that go beyond are marked by `interval_bars`.
    """
    values, ends = (np.asarray(x, dtype=float) for x in (points, [*lows, *highs]))
    values, ends = values[np.isfinite(values)], ends[np.isfinite(ends)]
    if not values.size:
        return -floor, floor
    low, high = float(values.min()), float(values.max())
    span = max(high - low, floor)
    if ends.size:
        low, high = min(low, max(float(ends.min()), low - span)), max(high, min(float(ends.max()), high + span))
    lack = max(floor - (high - low), 0.0) / 2
    pad = 0.08 * max(high - low, floor)
    return low - lack - pad, high + lack + pad


def late_limits(curves: DataFrame, start: float = 0.2) -> tuple[float, float]:
    """Limits that show the curves from this share of the longest on: before, all fall steeply."""
    late: Any = curves.loc[curves["step"].ge(start * curves["step"].max()), "value"]
    pad = 0.05 * max(late.max() - late.min(), 0.02)
    return late.min() - pad, late.max() + pad


def interval_bars(
    ax: Axes, places: Any, low: Any, high: Any, colour: Any, *, across: bool = False, **look: Any
) -> None:
    """Bars from `low` to `high` (skipped where NaN), upright or `across`; a caret marks an end beyond the limits of `ax`."""
    least, most = ax.get_xlim() if across else ax.get_ylim()
    look = {"color": colour, "solid_capstyle": "butt", "zorder": 2} | look
    for place, start, end in zip(places, low, high, strict=True):
        if not (np.isfinite(start) and np.isfinite(end)):
            continue
        ends = [max(start, least), min(end, most)]
        ax.plot(*((ends, [place] * 2) if across else ([place] * 2, ends)), lw=1, **look)
        for cut, edge, marker in ((start < least, least, 8 if across else 11), (end > most, most, 9 if across else 10)):
            if cut:
                at = ([edge], [place]) if across else ([place], [edge])
                ax.plot(*at, ls="", marker=marker, ms=4, clip_on=False, **look)


def method_lines(ax: Axes, cells: Any, x: str, y: str, styles: Styles, apart: float = 0, **look: Any) -> None:
    """A line a method through its cells, with bars where these have `low` and `high`.

    Methods stand `apart` points of paper from each other, so that they don't hide each other; the data stay where they are. If
    `cells` have a column `open`, each has a marker of its own, open where it says so. One that has a `shape` is drawn by that,
    and is not on the line.
    """
    methods = present(styles, cells)
    for i, method in enumerate(methods):
        mine, style = part(cells, method=method).sort_values(x), styles[method]
        aside = min(apart, 16 / len(methods)) * (i - (len(methods) - 1) / 2) / 72
        scale: Any = ax.figure.dpi_scale_trans
        place = ax.transData + ScaledTranslation(aside, 0, scale) if aside else ax.transData
        drawn = style.drawn | {"transform": place} | look
        if "open" in mine:
            shapes = mine.get("shape", pd.Series("", mine.index))
            line = mine[shapes.eq("")]
            ax.plot(line[x], line[y], **drawn | {"marker": "", "label": None})
            for at, height, empty, shape in zip(mine[x], mine[y], mine["open"], shapes, strict=True):
                face = "white" if empty else style.colour
                ax.plot(at, height, **drawn | {"marker": shape or style.marker, "mfc": face, "ls": "", "zorder": 3})
        else:
            ax.plot(mine[x], mine[y], **drawn)
        if "low" in mine:
            interval_bars(ax, mine[x], mine["low"], mine["high"], style.colour, transform=place)


def method_curves(ax: Axes, found: Any, styles: Styles, legend: bool = True, **look: Any) -> None:
    """Each method's `value` over `step`: seeds thin, their mean at x with markers, dashed at y; a legend or words below."""
    means = []
    for method in present(styles, found):
        style = styles[method]
        for at, lines in part(found, method=method).groupby("at"):
            seeds = lines.pivot(index="step", columns="seed", values="value")
            mean = seeds.mean(axis=1)
            if at == "y":
                ax.plot(mean.index, mean, color=style.colour, ls=DASHES, lw=0.9, label=f"{style.name}, at y")
            else:
                ax.plot(seeds.index, seeds, color=style.colour, lw=0.5, alpha=0.4)
                every = {"ls": "-", "ms": 3.5, "markevery": max(1, len(mean) // 7)}
                means += ax.plot(mean.index, mean, **style.drawn | every | look)
    if legend and means:
        ax.legend(handles=means, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    elif legend:
        note(ax, "every run diverged")


def curves_below(figure: Figure, note: str = "") -> None:
    """A legend of lines at x and at y."""
    kinds = {"at x, what is evaluated": "-", "at y, where gradients are taken": DASHES}
    legend_below(figure, [Line2D([], [], color="0.3", ls=ls, label=name) for name, ls in kinds.items()], 2, note)

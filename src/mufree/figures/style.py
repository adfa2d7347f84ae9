"""How a method, a width and a layer type look, in every figure: one place, so that they look the same everywhere.

Colours are Okabe & Ito's (2008), which stay apart for colour-blind readers; SP is warm and µP is cool. Each method also has a
marker and a dash of its own, so that figures read in grey.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PAGE_WIDTH = 7.0
"""Inches between the margins of an A4 page."""

RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "figure.titlesize": 8.5,
    "savefig.dpi": 200,
}

DISPLAY_NAMES = {
    "sp_adamw": "SP · AdamW + cosine",
    "sp_schedulefree": "SP · ScheduleFree AdamW",
    "mup_adamw": "µP · AdamW + cosine",
    "mup_schedulefree": "µP · ScheduleFree AdamW",
}
"""The canonical methods, in the order in which they are always shown."""


@dataclass(frozen=True)
class MethodStyle:
    """The look of a method: display name, colour, marker, line style."""

    name: str
    colour: str
    marker: str
    line: Any


_CANONICAL = {
    "sp_adamw": ("#D55E00", "s", "--"),
    "sp_schedulefree": ("#E69F00", "D", "-."),
    "mup_adamw": ("#0072B2", "o", (0, (1, 1))),
    "mup_schedulefree": ("#009E73", "^", "-"),
}
_OTHERS = [
    ("#CC79A7", "v", (0, (5, 1))),
    ("#56B4E9", "P", (0, (3, 1, 1, 1))),
    ("#000000", "X", "--"),
    ("#7F7F7F", "*", "-"),
]
LAYER_COLOURS = {
    "embedding": "#E69F00",
    "hidden": "#0072B2",
    "readout": "#CC79A7",
    "norm": "#7F7F7F",
    "bias": "#56B4E9",
}
"""Layer types, in the order in which they are shown."""


def display_name(method: str) -> str:
    """The name of a method in figures and prose; one that isn't canonical is spelt from its own name."""
    if method in DISPLAY_NAMES:
        return DISPLAY_NAMES[method]
    head, _, rest = method.partition("_")
    family = {"sp": "SP", "mup": "µP"}.get(head)
    words = rest if family and rest else method
    words = words.replace("adamw", "AdamW").replace("schedulefree", "ScheduleFree").replace("_", " ")
    return f"{family} · {words}" if family and rest else words


def ordered(methods: Iterable[str]) -> list[str]:
    """Methods in the order of display: the canonical ones first, the others by name."""
    found = set(methods)
    return [m for m in DISPLAY_NAMES if m in found] + sorted(found - set(DISPLAY_NAMES))


def method_styles(methods: Iterable[str]) -> dict[str, MethodStyle]:
    """The look of each method. Give all methods of a study, so that an extra one looks the same for every task."""
    names = ordered(methods)
    extras = [m for m in names if m not in _CANONICAL]
    looks = _CANONICAL | {m: _OTHERS[i % len(_OTHERS)] for i, m in enumerate(extras)}
    return {m: MethodStyle(display_name(m), *looks[m]) for m in names}


def width_styles(widths: Sequence[int]) -> dict[int, tuple[Any, str]]:
    """Colour and marker of each width: viridis from dark to light, so that the order shows in grey as well."""
    places = np.linspace(0.0, 0.8, max(len(widths), 2))
    return {w: (matplotlib.colormaps["viridis"](places[i]), "osD^vPX*"[i % 8]) for i, w in enumerate(sorted(widths))}


def finite(values: pd.Series) -> pd.Series:
    """Where a column has a finite number; also for one that a CSV file left empty, and so without a type."""
    return values.astype(float).abs().lt(np.inf)


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows as named tuples."""
    return iter(frame.itertuples(index=False))


def new_figure(title: str, height: float) -> Figure:
    """An empty page-wide figure of `height` inches with a title."""
    figure = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def empty_figure(title: str, why: str) -> Figure:
    """A figure that says in words why it shows nothing."""
    figure = new_figure(title, 1.4)
    note(figure.add_subplot(), why)
    return figure


def note(ax: Axes, text: str) -> None:
    """Write `text` in the middle of a panel that has nothing else to show."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color="0.35", style="italic")
    ax.set_axis_off()


def panel_grid(figure: Figure, n: int, columns: int, xlabel: str) -> list[Axes]:
    """`n` panels in rows of `columns`, on shared scales, the lowest of each column with ticks and a label on its x axis."""
    columns = min(columns, n)
    axes = figure.subplots(-(-n // columns), columns, sharex=True, sharey=True, squeeze=False)
    for column in range(columns):
        shown = [axes[i, column] for i in range(len(axes)) if i * columns + column < n]
        shown[-1].tick_params(labelbottom=True)
        shown[-1].set_xlabel(xlabel)
    for ax in axes.flat[n:]:
        ax.set_visible(False)
    return list(axes.flat[:n])


def width_axis(ax: Axes, widths: Sequence[int], margin: float = 0.2) -> None:
    """Make x log2(width) and label it by the widths themselves. Positions on it are log2 of the width."""
    places = np.log2(sorted(widths))
    ax.set_xticks(places, [str(w) for w in sorted(widths)])
    for each in ax.get_shared_x_axes().get_siblings(ax):
        each.tick_params(axis="x", labelrotation=45 if len(places) > 5 else 0)
    ax.set_xlim(places[0] - margin, places[-1] + margin)


def robust_limits(points: Any, lows: Any, highs: Any, floor: float) -> tuple[float, float]:
    """Axis limits that show all points, and the ends of intervals as far as they don't dwarf the points.

    An interval of two seeds has a t quantile of 12.7, and would leave the points a flat line. `floor` is the least span, in
    data units. Bars that go beyond are marked by `interval_bars`.
    """
    values = np.asarray(points, dtype=float)
    values = values[np.isfinite(values)]
    if not values.size:
        return -floor, floor
    low, high = float(values.min()), float(values.max())
    span = max(high - low, floor)
    ends = np.concatenate([np.asarray(lows, dtype=float), np.asarray(highs, dtype=float)])
    ends = ends[np.isfinite(ends)]
    if ends.size:
        low, high = min(low, max(float(ends.min()), low - span)), max(high, min(float(ends.max()), high + span))
    pad = 0.08 * max(high - low, floor)
    return low - pad, high + pad


def interval_bars(ax: Axes, x: Any, low: Any, high: Any, colour: Any) -> None:
    """Vertical bars from `low` to `high` (skipped where NaN); an end beyond the limits of `ax` is marked by a caret."""
    bottom, top = ax.get_ylim()
    for place, start, end in zip(x, low, high, strict=True):
        if not (np.isfinite(start) and np.isfinite(end)):
            continue
        ax.plot(
            [place, place], [max(start, bottom), min(end, top)], color=colour, lw=1, solid_capstyle="butt", zorder=2
        )
        for cut, edge, marker in ((start < bottom, bottom, 11), (end > top, top, 10)):
            if cut:
                ax.plot(place, edge, ls="", marker=marker, ms=4, color=colour, clip_on=False)


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Places for labels: as near to `values` as can be, in the same order, at least `gap` apart."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    places = [float(v) for v in values]
    for _ in range(200):
        moved = False
        for below, above in pairwise(order):
            lack = gap - (places[above] - places[below])
            if lack > 1e-6 * gap:
                places[below] -= lack / 2
                places[above] += lack / 2
                moved = True
        if not moved:
            break
    return places

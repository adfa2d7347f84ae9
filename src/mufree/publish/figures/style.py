"""How a method, a width and a layer type look, in every figure: one place, so that they look the same everywhere.

Colours are Okabe & Ito's (2008), which stay apart for colour-blind readers; SP is warm and µP is cool. Methods beyond the four
take the rest of theirs and some of Tol's (2021). Each method also has a marker of its own, so that figures read in grey.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import wrap
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

PAGE_WIDTH = 7.0
"""Inches between the margins of an A4 page."""
COLUMN_WIDTH = 3.4
"""Inches across one of two columns."""
MAIN_METHODS = 6
"""A figure that would be crowded by more methods than this shows the four of the study, and says which it leaves out."""

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

NOTE: Any = {"ha": "center", "va": "center", "color": "0.35", "style": "italic"}
"""Words that stand where data would."""

DISPLAY_NAMES = {
    "sp_adamw": "SP · AdamW + cosine",
    "sp_schedulefree": "SP · ScheduleFree AdamW",
    "mup_adamw": "µP · AdamW + cosine",
    "mup_schedulefree": "µP · ScheduleFree AdamW",
}
"""The canonical methods, in the order in which they are always shown."""


PARAMETRIZATIONS = {"sp": "SP", "mup": "µP"}
OPTIMIZERS = {"adamw": "AdamW", "radam": "RAdam", "sgd": "SGD"}
SCHEDULES = {"cosine": "cosine", "wsd": "WSD", "constant": "constant"}


@dataclass(frozen=True)
class Role:
    """What a method is made of, in the words of the columns of a run."""

    parametrization: str
    optimizer: str
    schedule: str
    average: str = "none"
    embedding_lr: str = "shared"

    @property
    def schedule_free(self) -> bool:
        """Whether its optimizer averages instead of decaying a rate."""
        return self.optimizer.endswith("schedulefree")

    @property
    def family(self) -> str:
        """The optimizer without its way of averaging: adamw, radam, sgd."""
        return self.optimizer.removesuffix("_schedulefree")

    @property
    def averages(self) -> bool:
        """Whether what is evaluated, x, is another thing than where gradients are taken, y."""
        return self.schedule_free or self.average != "none"


@dataclass(frozen=True)
class MethodStyle:
    """The look of a method: display name, colour, marker, line style."""

    name: str
    colour: str
    marker: str
    line: Any

    @property
    def parametrization(self) -> str:
        """The first part of the name, as in `SP · SGD + cosine`; empty if it has one part."""
        return self.name.partition(" · ")[0] if " · " in self.name else ""

    @property
    def rest(self) -> str:
        """The name without the parametrization, for panels that have one."""
        return self.name.partition(" · ")[2] or self.name


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
    ("#882255", "<", (0, (4, 1, 1, 1))),
    ("#999933", ">", (0, (2, 1))),
    ("#332288", "p", (0, (6, 1, 2, 1))),
    ("#8C564B", "h", (0, (1, 1.5))),
]
LAYER_COLOURS = {
    "embedding": "#E69F00",
    "hidden": "#0072B2",
    "readout": "#CC79A7",
    "norm": "#7F7F7F",
    "bias": "#56B4E9",
}
"""Layer types, in the order in which they are shown."""


def role_name(role: Role) -> str:
    """A readable name for a method of this role, the same for all methods that share it."""
    base = OPTIMIZERS.get(role.family, role.family)
    words = f"ScheduleFree {base}" if role.schedule_free else f"{base} + {SCHEDULES.get(role.schedule, role.schedule)}"
    if role.embedding_lr == "times_width" and role.schedule == "cosine" and not role.schedule_free:
        words = base  # a control of the plain method: what differs is said next
    if role.average == "ema":
        words += " + EMA"
    if role.embedding_lr == "times_width":
        words += ", embedding rate × width"
    return f"{PARAMETRIZATIONS.get(role.parametrization, role.parametrization)} · {words}"


def roles_of(rows: pd.DataFrame) -> dict[str, Role]:
    """The role of each method of `rows`, from its columns; columns that `rows` lacks have their defaults."""
    columns = [c for c in Role.__dataclass_fields__ if c in rows]
    if "method" not in rows or not {"parametrization", "optimizer", "schedule"} <= set(columns):
        return {}
    first = rows.drop_duplicates("method").set_index("method")[columns]
    return {
        str(method): Role(**{str(name): str(value) for name, value in values.items()})
        for method, values in first.to_dict("index").items()
    }


def display_names(rows: pd.DataFrame) -> dict[str, str]:
    """The name of each method of `rows` from its role. Where two have the same role, the second has its own name besides."""
    names: dict[str, str] = {}
    roles = roles_of(rows)
    for method in ordered(roles):
        name = DISPLAY_NAMES.get(method) or role_name(roles[method])
        names[method] = f"{name} ({method})" if name in names.values() else name
    return names


def display_name(method: str) -> str:
    """The name of a method in figures and prose where only its own name is known; what isn't understood is kept as it is."""
    if method in DISPLAY_NAMES:
        return DISPLAY_NAMES[method]
    head, *words = method.split("_")
    optimizers = [w for w in words if w in OPTIMIZERS]
    free = "schedulefree" in words
    if head not in PARAMETRIZATIONS or len(optimizers) > 1 or not (optimizers or free):
        return method.replace("adamw", "AdamW").replace("schedulefree", "ScheduleFree").replace("_", " ")
    base = optimizers[0] if optimizers else "adamw"
    role = Role(
        head,
        f"{base}_schedulefree" if free else base,
        next((w for w in words if w in SCHEDULES), "cosine"),
        "ema" if "ema" in words else "none",
        "times_width" if "embedding" in words else "shared",
    )
    rest = [w for w in words if w not in {*OPTIMIZERS, *SCHEDULES, "schedulefree", "ema", "embedding"}]
    return " ".join([role_name(role), *rest])


def ordered(methods: Iterable[str]) -> list[str]:
    """Methods in the order of display: the canonical ones first, the others by name."""
    found = set(methods)
    return [m for m in DISPLAY_NAMES if m in found] + sorted(found - set(DISPLAY_NAMES))


def method_styles(methods: Iterable[str], rows: pd.DataFrame | None = None) -> dict[str, MethodStyle]:
    """The look of each method. Give all methods of a study, so that an extra one looks the same for every task.

    `rows` are the study's runs, which say what an extra method is; without them its name has to.
    """
    names = ordered(methods)
    known = display_names(rows) if rows is not None else {}
    extras = [m for m in names if m not in _CANONICAL]
    looks = _CANONICAL | {m: _extra_look(i) for i, m in enumerate(extras)}
    return {m: MethodStyle(known.get(m) or display_name(m), *looks[m]) for m in names}


def _extra_look(i: int) -> tuple[str, str, Any]:
    """Colour, marker and line of the i-th method beyond the four: no two of the first 64 share both colour and marker."""
    turn, place = divmod(i, len(_OTHERS))
    colour, _, line = _OTHERS[place]
    return colour, _OTHERS[(place + turn) % len(_OTHERS)][1], line


def main_methods(methods: Sequence[str], limit: int = MAIN_METHODS) -> tuple[list[str], list[str]]:
    """The methods that a figure has room for, and those it leaves out: if more than `limit`, the canonical ones stay."""
    if len(methods) <= limit:
        return list(methods), []
    kept = [m for m in methods if m in DISPLAY_NAMES] or list(methods[:4])
    return kept, [m for m in methods if m not in kept]


def legend_below(figure: Figure, handles: Sequence[Artist], columns: int, note: str = "") -> None:
    """A legend under the panels, with `note` above its entries."""
    title = "\n".join(wrap(note, int(19 * figure.get_size_inches()[0]))) or None
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        title=title,
        title_fontproperties={"size": 6},
        alignment="left",
    )


def left_out(styles: dict[str, MethodStyle], methods: Sequence[str], why: str = "") -> str:
    """The words that say which methods a figure doesn't show; none if it shows all."""
    names = "; ".join(styles[m].name for m in methods)
    return f"Not shown{f' ({why})' if why else ''}: {names}." if methods else ""


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


def new_figure(title: str, height: float, column: bool = False) -> Figure:
    """An empty figure with a title, `height` inches high and as wide as a page, or as one of two columns."""
    width = COLUMN_WIDTH if column else PAGE_WIDTH
    # dots as in the PNG: at fewer, hinting makes letters narrower, and labels would stick out
    figure = Figure(figsize=(width, height), dpi=RC["savefig.dpi"], layout="constrained")
    figure.suptitle("\n".join(wrap(title, int(10.5 * width))), x=0.01, ha="left", fontweight="bold")
    return figure


def empty_figure(title: str, why: str, column: bool = False) -> Figure:
    """A figure that says in words why it shows nothing."""
    figure = new_figure(title, 1.4, column)
    note(figure.add_subplot(), "\n".join(wrap(why, 40 if column else 90)))
    return figure


def panel_title(ax: Axes, look: MethodStyle, inches: float) -> None:
    """A method's name above its panel, in as many lines as a panel of this width needs."""
    parts = [look.parametrization, look.rest] if look.parametrization else [look.rest]
    if inches > 2.4:
        parts = [look.name]
    lines = [line for part in parts for line in wrap(part, int(13 * inches))]
    ax.set_title("\n".join(lines), loc="left", color=look.colour, fontweight="bold")


def note(ax: Axes, text: str) -> None:
    """Write `text` in the middle of a panel that has nothing else to show."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, **NOTE)
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
    lack = max(floor - (high - low), 0.0) / 2
    pad = 0.08 * max(high - low, floor)
    return low - lack - pad, high + lack + pad


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


def interval_rows(ax: Axes, y: Any, low: Any, high: Any, colour: Any) -> None:
    """As `interval_bars`, but horizontal, for forest plots."""
    left, right = ax.get_xlim()
    for place, start, end in zip(y, low, high, strict=True):
        if not (np.isfinite(start) and np.isfinite(end)):
            continue
        ax.plot(
            [max(start, left), min(end, right)], [place, place], color=colour, lw=1, solid_capstyle="butt", zorder=2
        )
        for cut, edge, marker in ((start < left, left, 8), (end > right, right, 9)):
            if cut:
                ax.plot(edge, place, ls="", marker=marker, ms=4, color=colour, clip_on=False)


def end_labels(ax: Axes, labels: Sequence[tuple[float, str, str]], height: float, size: float = 7) -> None:
    """Write (value, text, colour) to the right of `ax`, level with the value or as near as the others let it.

    `height` is about that of the panel in inches. Limits have to be set before.
    """
    if not labels:
        return
    bottom, top = ax.get_ylim()
    lines = max(text.count("\n") + 1 for _, text, _ in labels)
    gap = (top - bottom) * min(1.4 * size * lines / 72 / height, 1 / max(len(labels) - 1, 1))
    values = [min(max(value, bottom), top) for value, _, _ in labels]
    places = spread(values, gap, bottom, top)
    for (_, text, colour), value, place in zip(labels, values, places, strict=True):
        ax.annotate(
            text,
            (1.0, value),
            (1.05, place),
            xycoords=ax.get_yaxis_transform(),
            textcoords=ax.get_yaxis_transform(),
            color=colour,
            va="center",
            fontsize=size,
            linespacing=1.1,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)},
        )


def method_handles(styles: dict[str, MethodStyle], methods: Sequence[str], columns: int) -> list[Line2D]:
    """What a legend of so many columns shows of each method, in an order that reads by rows (matplotlib fills by columns)."""
    handles = [
        Line2D([], [], color=look.colour, ls=look.line, marker=look.marker, label=look.name)
        for look in (styles[m] for m in methods)
    ]
    return [handle for column in range(columns) for handle in handles[column::columns]]


def spread(values: Sequence[float], gap: float, low: float = -np.inf, high: float = np.inf) -> list[float]:
    """Places for labels: as near to `values` as can be, in the same order, at least `gap` apart, if they fit in [low, high]."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    places = [min(max(float(v), low), high) for v in values]
    for _ in range(500):
        moved = False
        for below, above in pairwise(order):
            lack = gap - (places[above] - places[below])
            if lack > 1e-6 * gap:
                places[below] -= lack / 2
                places[above] += lack / 2
                moved = True
        places = [min(max(place, low), high) for place in places]
        if not moved:
            break
    return places

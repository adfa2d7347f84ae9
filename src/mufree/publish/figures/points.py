"""What the pointer can find in a picture: the labelled points of a finished figure, each with words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

MOST_POINTS = 400
"""Points of a picture; more are thinned evenly."""
MOST_BYTES = 40_000
"""Of the file."""

Point = tuple[float, float, str]


def text(figure: Figure) -> str:
    """`{"points": [[x, y, words], ...]}`, as JSON of less than 40 KB.

    x and y are shares of the picture's width, from the left, and height, from the top. Words are lines: the panel, the series,
    and a line for x and for y. A figure's layout has to be fixed; the picture has to be saved whole, without a tight box.
    """
    found = [point for ax in figure.axes if ax.get_visible() for point in _points(ax, figure)]
    most = min(MOST_POINTS, len(found))
    while True:
        kept = [found[i] for i in np.linspace(0, len(found) - 1, most).round().astype(int)]
        written = json.dumps({"points": kept}, ensure_ascii=False, separators=(",", ":")) + "\n"
        size = len(written.encode())
        if size < MOST_BYTES:
            return written
        most = min(most - 1, most * MOST_BYTES // size)


def _points(ax: Axes, figure: Figure) -> Iterator[Point]:
    """The points of lines, scatters and maps that have a label and lie where they are drawn."""
    for artist, name, xy, extra in _series(ax):
        place = artist.get_offset_transform() if isinstance(artist, PathCollection) else artist.get_transform()
        of_data = place.contains_branch_seperately(ax.transData)
        axes = [
            axis for axis, is_data in zip((ax.xaxis, ax.yaxis), of_data, strict=True) if is_data or not any(of_data)
        ]
        box = artist.get_clip_box() if artist.get_clip_on() else figure.bbox
        for at, (across, up), more in zip(xy, place.transform(xy), extra, strict=True):
            if box.x0 - 1 <= across <= box.x1 + 1 and box.y0 - 1 <= up <= box.y1 + 1:  # NaN is nowhere
                values = [_value(axis, at[int(axis is ax.yaxis)]) for axis in axes]
                lines = dict.fromkeys([_title(ax, figure), *name.split("\n"), *values, more])
                words = "\n".join(line for line in lines if line)
                yield round(across / figure.bbox.width, 4), round(1 - up / figure.bbox.height, 4), words


def _title(ax: Axes, figure: Figure) -> str:
    """The title of a panel, or of the nearest above it that has one."""
    left, low = ax.get_position().p0 - 1e-6
    above = [
        x for x in figure.axes if x.get_title(loc="left").strip() and x.get_visible() and x.get_position().y0 >= low
    ]
    above = sorted((x for x in above if abs(x.get_position().x0 - left) < 1e-2), key=lambda x: x.get_position().y0)
    return " · ".join(line for line in above[0].get_title(loc="left").split("\n") if line.strip()) if above else ""


def _series(ax: Axes) -> Iterator[tuple[Any, str, np.ndarray, list[str]]]:
    """Artist, label, data [n, 2] and what else there is to say of each."""
    for line in ax.lines:
        if not str(line.get_label()).startswith("_"):
            xy = np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])
            yield line, str(line.get_label()), xy, [""] * len(xy)
    for artist in ax.collections:
        label = str(artist.get_label())
        if isinstance(artist, PathCollection) and not label.startswith("_"):
            xy = np.asarray(artist.get_offsets(), float)
            yield artist, label, xy, [""] * len(xy)
        elif isinstance(artist, QuadMesh) and not label.startswith("_"):
            corners: Any = artist.get_coordinates()
            middles = ((corners[:-1, :-1] + corners[1:, 1:]) / 2).reshape(-1, 2)
            values: Any = np.ma.filled(np.ma.asarray(artist.get_array(), float), np.nan).ravel()
            middles[np.isnan(values)] = np.nan
            yield artist, "", middles, [f"{label}: {number(value)}" for value in values]


def _value(axis: Axis, value: float) -> str:
    """`label: value`; what the axis calls this value, if it has a name for it, and a power of two on an axis of log2."""
    label = axis.get_label_text().replace("/\n", "/").replace("\n", " ")
    formatter = axis.get_major_formatter()
    named = formatter(value) if isinstance(formatter, FuncFormatter) else ""
    shown = " ".join(named.split("\n")) or number(value)
    plain, powers = re.subn(r"^log2 (of the )?", "", label)
    plain = plain.removesuffix(" (log2 scale)")
    return ": ".join(x for x in (plain, f"2^{shown}" if powers else shown) if x)


def number(value: float) -> str:
    """Four significant digits, and a true minus sign."""
    return f"{value:.4g}".replace("-", "−")

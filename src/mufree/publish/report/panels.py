"""Lines, panels and legends as plotly's JSON, built from its own classes, which refuse a misspelt property."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mufree.publish.report.words import known

Plot = dict[str, Any]

ROW = {"wide": 300, "narrow": 280}
"""Height of a row of panels, pixels."""
PLOT_WIDTH = {"wide": 900, "narrow": 290}
"""Room for the legend, pixels: less than the window, so that the estimate of its height is no less than it needs."""
MARGIN = {"l": 58, "r": 12, "t": 34, "b": 46}


def line(
    *,
    x: pd.Series,
    y: pd.Series,
    name: str,
    colour: str,
    panel: int,
    errors: pd.Series | None = None,
    errors_below: pd.Series | None = None,
    symbols: Sequence[str] | None = None,
    text: Sequence[str] | None = None,
    template: str = "%{text}<extra></extra>",
    dash: str = "solid",
    markers: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """A trace with lines, and markers with error bars if there are any."""
    from plotly import graph_objects  # slow to import

    bars: dict[str, Any] = {}
    if errors is not None and np.isfinite(errors.astype(float)).any():
        bars["error_y"] = {"type": "data", "array": _numbers(errors), "thickness": 1, "width": 3}
        if errors_below is not None:
            bars["error_y"] |= {"symmetric": False, "arrayminus": _numbers(errors_below)}
    if text is not None:
        bars["text"] = list(text)
    if markers:
        bars["marker"] = {"size": 7, "symbol": list(symbols) if symbols else "circle"}
    axis = "" if panel == 1 else str(panel)
    trace = graph_objects.Scatter(
        x=_numbers(x),
        y=_numbers(y),
        mode="lines+markers" if markers else "lines",
        name=name,
        line={"color": colour, "width": 2, "dash": dash},
        hovertemplate=template,
        xaxis=f"x{axis}",
        yaxis=f"y{axis}",
        **bars,
        **settings,
    )
    return dict(trace.to_plotly_json())


def _numbers(values: Iterable[Any]) -> list[float | int | None]:
    """Plain numbers to six significant digits, None where there is none: JSON has no NaN."""
    return [float(f"{value:.6g}") if known(value) else None for value in values]


def plot(traces: list[dict[str, Any]], titles: Sequence[str], axes: Mapping[str, Any], legend: str) -> Plot:
    """A plot of such lines: `titles` are the panels', `axes` the settings of x and y, `legend` the legend's title."""
    entries = [trace["name"] for trace in traces if trace.get("showlegend", True)]
    layouts = {kind: _layout(kind, titles, axes, legend, entries) for kind in ROW}
    return {"data": traces, "layouts": layouts}


def _layout(
    kind: str, titles: Sequence[str], axes: Mapping[str, Any], legend: str, entries: Sequence[str]
) -> dict[str, Any]:
    """Panels in two columns, or one below the other, all on the same scales; the legend above."""
    from plotly import graph_objects

    columns = 1 if kind == "narrow" else min(2, len(titles))
    n_rows = math.ceil(len(titles) / columns)
    in_line = max(1, int(PLOT_WIDTH[kind] / (50 + 7 * max(map(len, entries)))))
    legend_height = 40 + 20 * math.ceil(len(entries) / in_line)
    height = ROW[kind] * n_rows + legend_height
    layout: dict[str, Any] = {
        "height": height,
        "margin": MARGIN | {"t": legend_height},
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#1c1c1c"},
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "#fff", "font": {"color": "#1c1c1c"}},
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1 + 30 / (height - legend_height - MARGIN["b"]),
            "yanchor": "bottom",
            "title": {"text": legend},
            "groupclick": "togglegroup",
        },
        "annotations": [],
    }
    plain = {"gridcolor": "#e5e5e5", "zeroline": False, "linecolor": "#777", "ticks": "outside", "fixedrange": True}
    across, down = _domains(columns, 0.08), _domains(n_rows, 78 / (height - legend_height - MARGIN["b"]))[::-1]
    for i, title in enumerate(titles):
        row, column = divmod(i, columns)
        axis = "" if i == 0 else str(i + 1)
        shared = {} if i == 0 else {"matches": "x"}
        x = {k: v for k, v in axes["x"].items() if k != "title"}
        layout[f"xaxis{axis}"] = (
            plain
            | x
            | shared
            | {
                "domain": across[column],
                "anchor": f"y{axis}",
                "title": {"text": axes["x"]["title"], "standoff": 6},
            }
        )
        y = {k: v for k, v in axes["y"].items() if k != "title"}
        layout[f"yaxis{axis}"] = (
            plain
            | y
            | ({} if i == 0 else {"matches": "y"})
            | {
                "domain": down[row],
                "anchor": f"x{axis}",
                "title": {"text": axes["y"]["title"] if column == 0 else "", "standoff": 8},
            }
        )
        if title:
            layout["annotations"].append(
                {
                    "text": f"<b>{title}</b>",
                    "x": across[column][0],
                    "xanchor": "left",
                    "xref": "paper",
                    "y": down[row][1],
                    "yanchor": "bottom",
                    "yref": "paper",
                    "showarrow": False,
                }
            )
    return dict(graph_objects.Layout(layout).to_plotly_json())


def _domains(n: int, gap: float) -> list[list[float]]:
    """`n` equal parts of [0, 1] with gaps between them, ascending."""
    size = (1 - gap * (n - 1)) / n
    return [[round(i * (size + gap), 5), round(i * (size + gap) + size, 5)] for i in range(n)]


def hexadecimal(colour: Any) -> str:
    """#rrggbb of a colour of matplotlib's."""
    from matplotlib.colors import to_hex

    return str(to_hex(colour))

"""The figure of progress."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from mufree.publish.figures.panels import new_figure, width_axis
from mufree.publish.figures.style import MethodStyle


def progress_vs_width(
    table: pd.DataFrame, *, title: str, styles: dict[str, MethodStyle]
) -> tuple[Figure, pd.DataFrame]:
    """Progress against width, a line a method."""
    figure = new_figure(title, 3.0)
    ax = figure.subplots()
    for method, found in table.groupby("method"):
        ax.plot(found["width"], found["progress"], color=styles[method].colour, label=styles[method].name)
    width_axis(ax, sorted(table["width"].unique()))
    ax.set_ylabel("progress")
    ax.legend()
    return figure, table

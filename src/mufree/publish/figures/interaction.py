"""The forest plot of the interaction: four cells, two main effects, and the difference in differences."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mufree.publish.figures.style import (
    MethodStyle,
    empty_figure,
    finite,
    interval_rows,
    new_figure,
    robust_limits,
)

Styles = dict[str, MethodStyle]
EFFECTS = {
    "mup": "effect of µP",
    "schedulefree": "effect of ScheduleFree",
    "interaction": "interaction",
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
COLUMNS = ["statistic", "effect", "estimate", "low", "high", "n_seeds", "unit", "status", "reason"]


def interaction(
    effects: pd.DataFrame, *, title: str, styles: Styles, column: bool = False
) -> tuple[Figure, pd.DataFrame]:
    """Each statistic in each of the four cells, and below, on a scale of its own, both main effects and the interaction.

    With 95 % intervals. All statistics are better when lower: an effect left of the zero line helps, and an interaction left of
    it says that µP helps more under ScheduleFree than without.
    """
    if effects.empty:
        why = "the four methods were not all run, so there is no interaction"
        return empty_figure(title, why, column), pd.DataFrame(columns=COLUMNS)
    plotted = effects[COLUMNS].reset_index(drop=True)
    statistics = [s for s in STATISTICS if s in set(plotted["statistic"])]
    statistics += sorted(set(plotted["statistic"]) - set(statistics))
    cells = [m for m in styles if m in set(plotted["effect"])]
    across = min(len(statistics), 2 if column else 5)
    blocks = -(-len(statistics) // across)
    figure = new_figure(title, 0.5 + blocks * (2.0 if column else 2.6), column)
    heights = [len(cells) + 0.2, len(EFFECTS) + 0.2] * blocks
    axes = figure.subplots(2 * blocks, across, sharey="row", squeeze=False, height_ratios=heights)
    for ax in axes.flat:
        ax.set_visible(False)
    names = {m: styles[m].name for m in cells}
    for i, statistic in enumerate(statistics):
        upper, lower = axes[2 * (i // across) : 2 * (i // across) + 2, i % across]
        mine = plotted[plotted["statistic"].eq(statistic)].set_index("effect")
        unit = str(mine["unit"].iloc[0])
        for ax, rows in ((upper, names), (lower, EFFECTS)):
            ax.set_visible(True)
            _forest(ax, mine.reindex(list(rows)), styles, 2 if column else 3)
            ax.set_yticks(range(len(rows)), list(rows.values()))
            ax.set_ylim(len(rows) - 0.4, -0.6)
            ax.tick_params(labelsize=6 if column else 7)
            ax.tick_params(axis="y", length=0)
        if finite(mine["estimate"].reindex(list(EFFECTS))).any():
            lower.axvline(0, color="0.3", lw=0.8, zorder=1)
        upper.set_title(STATISTICS.get(statistic, statistic.replace("_", " ")), loc="left", fontweight="bold")
        lower.set_xlabel(UNITS.get(unit, unit))
    return figure, plotted


def _forest(ax: Axes, rows: pd.DataFrame, styles: Styles, bins: int) -> None:
    """Points and bars, one row each from above; zero is in view for effects."""
    is_effect = [name in EFFECTS for name in rows.index]
    points = np.append(rows["estimate"].to_numpy(float), [0.0] if any(is_effect) else [])
    known = np.abs(points[np.isfinite(points)])
    spans = (rows["high"] - rows["low"]).astype(float)
    typical = float(spans.median()) if finite(spans).any() else 0.0  # an interval is cut only if it is far wider
    floor = max(0.05 * float(known.max(initial=0.0)), typical, LEAST_SPAN)
    ax.set_xlim(robust_limits(points, rows["low"], rows["high"], floor=floor))
    ax.xaxis.set_major_locator(MaxNLocator(bins, steps=[1, 2, 3, 4, 5, 10]))
    # No trailing zeros: labels of neighbouring ticks would touch.
    ax.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{round(tick, 9):g}".replace("-", "−")))
    if not finite(rows["estimate"]).any():
        ax.set_xticks([])
    ax.grid(False, axis="y")
    for place, (name, row) in enumerate(rows.iterrows()):
        look = styles.get(str(name))
        colour, marker = (look.colour, look.marker) if look else ("0.15", "o")
        if not np.isfinite(row["estimate"]):
            ax.text(
                0.5,
                place,
                "not estimable",
                transform=ax.get_yaxis_transform(),
                ha="center",
                va="center",
                fontsize=5.5,
                style="italic",
                color="0.35",
            )
            continue
        heavy = name == "interaction"
        ax.plot(row["estimate"], place, ls="", marker="D" if heavy else marker, ms=4.5, color=colour, zorder=3)
        interval_rows(ax, [place], [row["low"]], [row["high"]], colour)

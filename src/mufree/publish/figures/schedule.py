"""Figures on the schedule: one schedule-free run against runs made for each horizon, and the controls that average."""

from __future__ import annotations

from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mufree.publish.figures.dynamics import curves_at, late_limits
from mufree.publish.figures.style import (
    NOTE,
    MethodStyle,
    empty_figure,
    end_labels,
    finite,
    interval_bars,
    legend_below,
    new_figure,
    robust_limits,
    roles_of,
)

Styles = dict[str, MethodStyle]
GAP_MARGIN = 0.01
"""Nats; an anytime gap whose interval ends below this is negligible (METRICS, hypothesis H2)."""
GAP_STEP = 0.022
"""Share of the horizon by which the gaps to different rivals stand apart."""
DASHES = (0, (2, 1.5))
"""How a curve at y is drawn."""
AVERAGES_COLUMNS = ["parametrization", "method", "width", "log2_lr", "seed", "at", "step", "value"]


def anytime(
    rows: pd.DataFrame,
    curves: pd.DataFrame,
    arms: pd.DataFrame,
    gaps: pd.DataFrame,
    *,
    title: str,
    styles: Styles,
    column: bool = False,
) -> tuple[Figure, pd.DataFrame]:
    """One schedule-free run, tuned once at T, against the rivals' own runs of T/4, T/2 and T; a panel a parametrization.

    Line: validation loss (nats) at x, mean over seeds, thin lines the seeds. Points: where a rival's runs of that length end,
    small ones the seeds. Below: the gap, schedule-free minus rival, with its 95 % interval. At the largest width that was run.
    `rows` are those of all variants.
    """
    if gaps.empty:
        return empty_figure(title, "no horizon but the task's own was run", column), pd.DataFrame()
    gaps = gaps[gaps["width"].eq(gaps.groupby("parametrization")["width"].transform("max"))]
    steps = int(rows.loc[rows["method"].isin(gaps["method"]) & _variant(rows).eq(""), "steps"].max())
    own = _own_curves(rows, curves, arms, gaps)
    rivals = gaps[["parametrization", "method", "rival", "width", "horizon", "rival_loss"]]
    plotted = _anytime_frame(own, rivals, _rival_seeds(rows, arms, gaps), gaps, steps)
    if own.empty and not finite(gaps["rival_loss"]).any():
        return empty_figure(title, "every run diverged: there is nothing to compare", column), plotted
    families = [f for f in ("sp", "mup") if f in set(gaps["parametrization"])]
    families += sorted(set(gaps["parametrization"]) - set(families))
    figure = new_figure(title, 3.0 * len(families) + 0.5 if column else 3.8, column)
    axes = _anytime_axes(figure, len(families), column)
    _anytime_scales(axes, plotted, steps)
    for (upper, lower), family in zip(axes, families, strict=True):
        mine = plotted[plotted["parametrization"].eq(family)]
        _frontier(upper, mine, styles, column)
        _gap_panel(lower, mine, styles, steps)
        width = int(mine["width"].max())
        name = styles[str(mine["method"].iloc[0])].parametrization or family
        upper.set_title(f"{name}, width {width}", loc="left", fontweight="bold")
        if column or family == families[0]:
            upper.set_ylabel("validation loss (nats)")
            lower.set_ylabel("above the rival\n(nats)")
        reasons = gaps.loc[gaps["parametrization"].eq(family) & ~finite(gaps["gap"]), "reason"].dropna().unique()
        if not finite(mine.loc[mine["kind"].eq("gap"), "value"]).any():
            why = f"not estimable: {reasons[0]}" if len(reasons) else "not estimable"
            lower.text(0.5, 0.8, "\n".join(wrap(why, 30)), transform=lower.transAxes, **NOTE)
    axes[-1][1].set_xlabel("step")
    if not column:
        for _, lower in axes:
            lower.set_xlabel("step")
    return figure, plotted


def _variant(rows: pd.DataFrame) -> pd.Series:
    """Labels of the variants, empty for a primary cell also where a file gave NaN."""
    if "variant" not in rows:
        return pd.Series("", index=rows.index)
    return rows["variant"].astype(object).where(rows["variant"].notna(), "").astype(str)


def _horizon_cells(arms: pd.DataFrame) -> pd.DataFrame:
    """The cells that differ from a primary one in their horizon at most, with the best rate of the grid."""
    plain = arms[_variant(arms).str.fullmatch(r"|T/\d+")]
    cells = plain[["method", "width", "horizon", "log2_lr_argmin"]].rename(columns={"log2_lr_argmin": "log2_lr"})
    return cells[finite(cells["log2_lr"])]


def _own_curves(rows: pd.DataFrame, curves: pd.DataFrame, arms: pd.DataFrame, gaps: pd.DataFrame) -> pd.DataFrame:
    """The schedule-free runs of the whole horizon at their best rate, at x."""
    cells = _horizon_cells(arms)
    cells = cells[cells["horizon"].eq(1)].drop(columns="horizon")
    cells = cells.merge(gaps[["parametrization", "method", "width"]].drop_duplicates(), on=["method", "width"])
    found = curves_at(rows[_variant(rows).eq("")], curves, cells.drop(columns="parametrization"))
    found = found[found["at"].eq("x")].drop(columns="at")
    return found.merge(cells[["parametrization", "method", "width"]], on=["method", "width"])


def _rival_seeds(rows: pd.DataFrame, arms: pd.DataFrame, gaps: pd.DataFrame) -> pd.DataFrame:
    """Final losses of the rivals' runs, each horizon at its own best rate."""
    cells = _horizon_cells(arms).rename(columns={"method": "rival"})
    pairs = gaps[["parametrization", "method", "rival", "width", "horizon"]]
    cells = pairs.merge(cells, on=["rival", "width", "horizon"])
    plain = rows[_variant(rows).str.fullmatch(r"|T/\d+") & rows["status"].ne("diverged")]
    plain = plain.rename(columns={"method": "rival"})
    columns = ["rival", "width", "horizon", "log2_lr"]
    plain = plain[[*columns, "seed", "val_loss"]] if "horizon" in plain else plain.assign(horizon=1.0)
    return cells.merge(plain, on=columns)[[*pairs.columns, "log2_lr", "seed", "val_loss"]]


def _anytime_frame(
    own: pd.DataFrame, rivals: pd.DataFrame, seeds: pd.DataFrame, gaps: pd.DataFrame, steps: int
) -> pd.DataFrame:
    gap = gaps.rename(columns={"gap": "value", "gap_low": "low", "gap_high": "high"})
    gap = gap[["parametrization", "method", "rival", "width", "horizon", "value", "low", "high"]]
    parts = {
        "curve": own,
        "rival": rivals.rename(columns={"rival_loss": "value"}),
        "rival_seed": seeds.rename(columns={"val_loss": "value"}),
        "gap": gap,
    }
    frame = pd.concat([part.assign(kind=kind) for kind, part in parts.items() if len(part)], ignore_index=True)
    if "step" not in frame:
        frame["step"] = np.nan
    frame["step"] = frame["step"].fillna(frame["horizon"] * steps)
    first = ["kind", "parametrization", "method", "rival", "width", "horizon", "log2_lr", "seed", "step", "value"]
    return frame.reindex(columns=[*first, "low", "high"]).astype({"seed": "Int64"})


def _anytime_axes(figure: Figure, n: int, column: bool) -> list[tuple[Axes, Axes]]:
    """For each parametrization a panel of losses and, below it, one of gaps; all steps on one scale."""
    if column:
        grid = figure.subplots(2 * n, 1, sharex=True, squeeze=False, height_ratios=[2.2, 1] * n)
        return [(grid[2 * i, 0], grid[2 * i + 1, 0]) for i in range(n)]
    grid = figure.subplots(2, n, sharex=True, sharey="row", squeeze=False, height_ratios=[2.2, 1])
    return [(grid[0, i], grid[1, i]) for i in range(n)]


def _anytime_scales(axes: list[tuple[Axes, Axes]], plotted: pd.DataFrame, steps: int) -> None:
    """The same scales for all parametrizations, from an eighth of the horizon on."""
    ends = plotted.loc[plotted["kind"].isin(["rival", "rival_seed"]), ["step", "value"]]
    losses = pd.concat([plotted.loc[plotted["kind"].eq("curve"), ["step", "value"]], ends]).dropna()
    gap = plotted[plotted["kind"].eq("gap")]
    shares = sorted(gap["horizon"].unique())
    n_rivals = gap.groupby("parametrization")["rival"].nunique().max()
    for upper, lower in axes:
        if len(losses):
            upper.set_ylim(late_limits(losses, start=0.125))
        upper.set_xlim(0, (1.03 + GAP_STEP * n_rivals / 2) * steps)
        upper.set_xticks([share * steps for share in shares], [_horizon_words(share, steps) for share in shares])
        upper.tick_params(labelbottom=False)
        lower.tick_params(labelbottom=True)
        points = np.append(gap["value"].to_numpy(float), [0.0, 1.5 * GAP_MARGIN])
        lower.set_ylim(robust_limits(points, gap["low"], gap["high"], floor=0.02))


def _horizon_words(share: float, steps: int) -> str:
    return f"{share * steps:.0f}\n" + ("T" if share == 1 else f"T/{1 / share:g}")


def _frontier(ax: Axes, mine: pd.DataFrame, styles: Styles, column: bool) -> None:
    """Curves and end points of one parametrization, named at the right."""
    labels: list[tuple[float, str, str]] = []
    for method, lines in mine[mine["kind"].eq("curve")].groupby("method", sort=False):
        look = styles[str(method)]
        for _, seed in lines.groupby("seed"):
            ax.plot(seed["step"], seed["value"], color=look.colour, lw=0.5, alpha=0.4)
        mean = lines.groupby("step")["value"].mean()
        ax.plot(mean.index, mean, color=look.colour, lw=1.8, zorder=2)
        labels.append((float(mean.iloc[-1]), f"{_lines(look.rest)},\none run", look.colour))
    ends, seeds = mine[mine["kind"].eq("rival")], mine[mine["kind"].eq("rival_seed")]
    for rival in [m for m in styles if m in set(ends["rival"])]:
        look = styles[rival]
        own = ends[ends["rival"].eq(rival)].drop_duplicates("horizon").sort_values("step")
        small = seeds[seeds["rival"].eq(rival)].drop_duplicates(["horizon", "seed"])
        ax.plot(small["step"], small["value"], ls="", marker=".", ms=4, color=look.colour, alpha=0.5, mew=0)
        known = own[finite(own["value"])]
        ax.plot(
            known["step"], known["value"], color=look.colour, ls=look.line, lw=0.7, marker=look.marker, ms=4.5, zorder=3
        )
        if len(known):
            labels.append((float(known["value"].iloc[-1]), _lines(look.rest), look.colour))
    end_labels(ax, labels, 1.7 if column else 2.0, size=6)


def _lines(name: str) -> str:
    """A long name in several lines."""
    return "\n".join(wrap(name, 22))


def _gap_panel(ax: Axes, mine: pd.DataFrame, styles: Styles, steps: int) -> None:
    ax.axhline(0, color="0.3", lw=0.7)
    ax.axhspan(-GAP_MARGIN, GAP_MARGIN, color="0.9", lw=0)
    gaps = mine[mine["kind"].eq("gap")]
    found = {(str(a), str(b)) for a, b in zip(gaps["method"], gaps["rival"], strict=True)}
    pairs = [(a, b) for b in styles for a in styles if (a, b) in found]
    several = len({method for method, _ in pairs}) > 1  # then the face says which schedule-free method it is
    for i, (method, rival) in enumerate(pairs):
        look = styles[rival]
        cells = gaps[gaps["method"].eq(method) & gaps["rival"].eq(rival)]
        places = cells["step"] + GAP_STEP * steps * (i - (len(pairs) - 1) / 2)
        face = styles[method].colour if several else look.colour
        ax.plot(places, cells["value"], ls="", marker=look.marker, ms=3.5, color=look.colour, mfc=face, zorder=3)
        interval_bars(ax, places, cells["low"], cells["high"], look.colour)


def averages(
    rows: pd.DataFrame, curves: pd.DataFrame, optima: pd.DataFrame, *, title: str, styles: Styles
) -> tuple[Figure, pd.DataFrame]:
    """Validation loss (nats) over the steps with the controls for averaging, each method at its best rate of the grid.

    A panel a parametrization, at the largest width at which a control was run: a method with an average of its weights, or
    with a schedule other than cosine. Solid: the mean over seeds at x, thin lines the seeds; dashed: at y, the weights where
    gradients are taken.
    """
    chosen = _averaging_cells(rows, optima)
    if chosen.empty:
        return empty_figure(title, "no control for averaging was run"), pd.DataFrame(columns=AVERAGES_COLUMNS)
    found = curves_at(rows, curves, chosen[["method", "width", "log2_lr"]])
    plotted = found.merge(chosen[["parametrization", "method"]], on="method")[AVERAGES_COLUMNS]
    if plotted.empty:
        return empty_figure(title, "every run diverged: there is no best rate to show"), plotted
    families = list(dict.fromkeys(plotted["parametrization"]))
    families.sort(key=lambda family: family != "sp")
    figure = new_figure(title, 3.6)
    axes = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
    axes[0].set_ylim(late_limits(plotted))
    for ax, family in zip(axes, families, strict=True):
        panel = plotted[plotted["parametrization"].eq(family)]
        labels = []
        for method in [m for m in styles if m in set(panel["method"])]:
            labels += _averaging_curves(ax, panel[panel["method"].eq(method)], styles[method])
        end_labels(ax, labels, 2.6, size=6)
        name = styles[str(panel["method"].iloc[0])].parametrization or family
        ax.set_title(f"{name}, width {int(panel['width'].iloc[0])}", loc="left", fontweight="bold")
        ax.set_xlabel("step")
    axes[0].set_ylabel("validation loss (nats)")
    keys = [
        Line2D([], [], color="0.3", label="at x, what is evaluated"),
        Line2D([], [], color="0.3", ls=DASHES, lw=0.9, label="at y, where gradients are taken"),
    ]
    legend_below(figure, keys, 2)
    return figure, plotted


def _averaging_cells(rows: pd.DataFrame, optima: pd.DataFrame) -> pd.DataFrame:
    """The methods to compare with the controls, at the controls' largest width, each at its best rate of the grid."""
    roles = roles_of(rows)
    controls = {
        m: r
        for m, r in roles.items()
        if not r.schedule_free and (r.average != "none" or r.schedule != "cosine") and r.embedding_lr == "shared"
    }
    best = optima[["method", "width", "log2_lr_argmin"]].rename(columns={"log2_lr_argmin": "log2_lr"})
    parts = []
    for family in dict.fromkeys(r.parametrization for r in controls.values()):
        mine = {m: r for m, r in controls.items() if r.parametrization == family}
        kinds = {r.family for r in mine.values()}
        width = rows.loc[rows["method"].isin(mine), "width"].max()
        alike = [
            m
            for m, r in roles.items()
            if r.parametrization == family and r.family in kinds and r.embedding_lr == "shared"
        ]
        parts.append(best[best["method"].isin(alike) & best["width"].eq(width)].assign(parametrization=family))
    cells = pd.concat(parts, ignore_index=True) if parts else best.iloc[:0].assign(parametrization="")
    return cells if len(cells) else cells.iloc[:0]


def _averaging_curves(ax: Axes, lines: pd.DataFrame, look: MethodStyle) -> list[tuple[float, str, str]]:
    """Draw one method; what to write at its end."""
    labels = []
    for at, part in lines.groupby("at"):
        mean = part.groupby("step")["value"].mean()
        if at == "y":
            ax.plot(mean.index, mean, color=look.colour, ls=DASHES, lw=0.9)
            continue
        for _, seed in part.groupby("seed"):
            ax.plot(seed["step"], seed["value"], color=look.colour, lw=0.5, alpha=0.4)
        every = max(1, len(mean) // 6)
        ax.plot(mean.index, mean, color=look.colour, marker=look.marker, ms=3.5, markevery=every)
        labels.append((float(mean.iloc[-1]), _lines(look.rest), look.colour))
    return labels

"""Figures on the schedule: one schedule-free run against runs made for each horizon, and the controls that average."""

from __future__ import annotations

from dataclasses import replace
from textwrap import wrap
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from pandas import DataFrame

from mufree.analysis.tables.cases import part, primary
from mufree.publish.figures import panels
from mufree.publish.figures.dynamics import curves_at
from mufree.publish.figures.panels import LINE, NOTE, SMALL, Drawn, empty_figure, finite
from mufree.publish.figures.style import WORDS, MethodStyle, Styles, present, roles_of
from mufree.study.limits import NEGLIGIBLE_LOSS

DOTS: Any = (0, (1, 1))
"""The line of another study's runs."""
AVERAGES_COLUMNS = ["parametrization", "method", "width", "log2_lr", "seed", "at", "step", "value"]


def anytime(
    rows: DataFrame,
    curves: DataFrame,
    arms: DataFrame,
    gaps: DataFrame,
    beside: DataFrame,
    *,
    title: str,
    styles: Styles,
) -> Drawn:
    """One schedule-free run, tuned once at T, against the rivals' own runs of T/4, T/2 and T; a panel a parametrization.

    At the largest width that was run. `rows` are those of all variants. Dotted: what is in `beside`, from `another_beta2`, at
    the same width.
    """
    if gaps.empty:
        return empty_figure(title, "no horizon but the task's own was run"), DataFrame()
    gaps = gaps[gaps["width"].eq(gaps.groupby("parametrization")["width"].transform("max"))]
    plotted, steps = _anytime_frame(rows, curves, arms, gaps, beside)
    shown = plotted.assign(at="x")
    ends = shown[shown["kind"].ne("gap") & finite(shown["value"])]
    if ends.empty:
        return empty_figure(title, "every run diverged: there is nothing to compare"), plotted
    heads = _heads(gaps)
    labels = ("step", "validation loss (nats)", "above the rival\n(nats)")
    figure, axes = panels.sheet(title, heads, 3.3, *labels, sharey="row", height_ratios=[2.2, 1] * -(-len(heads) // 4))
    gap = part(shown, kind="gap")
    ticks = {
        share * steps: f"{share * steps:.0f}\nT{f'/{1 / share:g}' if share != 1 else ''}"
        for share in set(gap["horizon"])
    }
    for family, (upper, lower) in axes.items():
        upper.set(ylim=panels.late_limits(ends, start=0.125), xlim=(0, 1.06 * steps))
        upper.set_xticks(sorted(ticks), [ticks[step] for step in sorted(ticks)])
        lower.set_ylim(
            panels.robust_limits([*gap["value"], 0.0, 1.5 * NEGLIGIBLE_LOSS], gap["low"], gap["high"], floor=0.02)
        )
        mine = part(shown, parametrization=family)
        panels.method_curves(upper, part(mine, kind="curve"), styles, legend=False, lw=1.8, marker="")
        panels.method_curves(upper, part(mine, kind="beside"), styles, legend=False, lw=1.8, marker="", ls=DOTS)
        rivals = mine[finite(mine["value"])].drop(columns=["method", "low", "high"]).rename(columns={"rival": "method"})
        rivals = rivals.drop_duplicates(["kind", "method", "step", "seed"])
        panels.method_lines(upper, part(rivals, kind="rival_seed"), "step", "value", styles, **SMALL)
        panels.method_lines(upper, part(rivals, kind="rival"), "step", "value", styles, lw=0.7, ms=4.5)
        _gap_panel(lower, part(mine, kind="gap"), styles, part(gaps, parametrization=family)["reason"])
    one_run = {m: MethodStyle(f"{styles[m].name}, one run", styles[m].colour, "", "-") for m in present(styles, gap)}
    for method, beta2 in part(shown, kind="beside")[["method", "beta2"]].drop_duplicates().itertuples(index=False):
        own = rows.loc[rows["method"].eq(method), "beta2"].iloc[0]
        one_run[method] = replace(one_run[method], name=f"{one_run[method].name}, β₂ {own:g}")
        one_run[f"{method} {beta2}"] = MethodStyle(f"with β₂ {beta2:g}", styles[method].colour, "", DOTS)
    others = {m: styles[m] for m in styles if m in set(gap["rival"])}
    panels.methods_below(figure, one_run | others, [*one_run, *others])
    return figure, plotted


def another_beta2(rows: DataFrame, curves: DataFrame, optima: DataFrame) -> DataFrame:
    """Curves at x of a task of another study: each method and width at its best rate of the grid, with its β₂."""
    settings = rows[["method", "beta2"]].drop_duplicates()
    found = curves_at(rows, curves, optima).merge(settings, on="method")
    return found[found["at"].eq("x")].drop(columns="at")


def _anytime_frame(
    rows: DataFrame, curves: DataFrame, arms: DataFrame, gaps: DataFrame, beside: DataFrame
) -> tuple[DataFrame, int]:
    """What is plotted, and the steps of the whole horizon; variants other than in the horizon are left out.

    `kind` is `curve`: the schedule-free runs of the whole horizon at x; `rival`: the rivals' losses; `rival_seed`: those of
    their runs, each horizon at its own best rate of the grid; `gap`; or `beside`.
    """
    rows, arms = (frame[frame["variant"].fillna("").str.fullmatch(r"|T/\d+")] for frame in (rows, arms))
    whole = primary(rows)
    steps = int(whole.loc[whole["method"].isin(gaps["method"]), "steps"].max())
    cells = arms.loc[finite(arms["log2_lr_argmin"]), ["method", "width", "horizon", "log2_lr_argmin"]]
    tuned = part(cells, horizon=1)
    tuned = tuned.merge(gaps[["parametrization", "method", "width"]].drop_duplicates(), on=["method", "width"])
    own = part(curves_at(whole, curves, tuned), at="x").drop(columns="at")
    runs = rows[rows["status"].ne("diverged")].rename(columns={"method": "rival"})
    run = ["rival", "width", "horizon", "log2_lr"]
    pair = ["parametrization", "method", "rival", "width", "horizon"]
    tried = cells.rename(columns={"method": "rival", "log2_lr_argmin": "log2_lr"})
    seeds = gaps[pair].merge(tried, on=["rival", "width", "horizon"])
    seeds = seeds.merge(runs[[*run, "seed", "val_loss"]], on=run)
    shown = tuned[["parametrization", "method", "width"]]
    parts = {
        "curve": own.merge(shown, on=["method", "width"]),
        "beside": beside.merge(shown, on=["method", "width"]) if len(beside) else beside,
        "rival": gaps[[*pair, "rival_loss"]].rename(columns={"rival_loss": "value"}),
        "rival_seed": seeds.rename(columns={"val_loss": "value"}),
        "gap": gaps[[*pair, "gap", "gap_low", "gap_high"]].set_axis([*pair, "value", "low", "high"], axis=1),
    }
    frame = pd.concat([part.assign(kind=kind) for kind, part in parts.items() if len(part)], ignore_index=True)
    frame = frame.reindex(columns=["kind", *pair, "log2_lr", "beta2", "seed", "step", "value", "low", "high"])
    frame["step"] = frame["step"].fillna(frame["horizon"] * steps)
    return frame.astype({"seed": "Int64"}), steps


def _gap_panel(ax: Axes, gaps: DataFrame, styles: Styles, reasons: pd.Series) -> None:
    """The gap to each rival; where there are several schedule-free methods, the marker is theirs."""
    ax.axhspan(-NEGLIGIBLE_LOSS, NEGLIGIBLE_LOSS, color="0.9", lw=0)
    ax.axhline(0, **LINE)
    pairs = {}
    for method, rival in gaps[["method", "rival"]].drop_duplicates().itertuples(index=False):
        marker = styles[rival if gaps["method"].nunique() == 1 else method].marker
        name = f"{styles[method].name} above {styles[rival].parts[-1]}"
        pairs[f"{method} {rival}"] = MethodStyle(name, styles[rival].colour, marker, "")
    named = gaps.assign(method=gaps["method"] + " " + gaps["rival"])
    panels.method_lines(ax, named, "step", "value", pairs, apart=5, ms=3.5)
    if not finite(gaps["value"]).any():
        why = ": ".join(["not estimable", *reasons.dropna().unique()[:1]])
        ax.text(0.5, 0.8, "\n".join(wrap(why, 30)), transform=ax.transAxes, **NOTE)


def averages(rows: DataFrame, curves: DataFrame, optima: DataFrame, *, title: str, styles: Styles) -> Drawn:
    """Validation loss (nats) over the steps with the controls for averaging; a panel a parametrization.

    A control is a method with an average of its weights, or with a schedule other than cosine.
    """
    chosen = _averaging_cells(rows, optima)
    if chosen.empty:
        return empty_figure(title, "no control for averaging was run"), DataFrame(columns=AVERAGES_COLUMNS)
    plotted = curves_at(rows, curves, chosen).merge(chosen[["parametrization", "method"]], on="method")
    plotted = plotted[AVERAGES_COLUMNS]
    if plotted.empty:
        return empty_figure(title, "every run diverged: there is no best rate to show"), plotted
    inches = 2.6 + 0.14 * plotted["method"].nunique()
    figure, axes = panels.sheet(title, _heads(plotted), inches, "step", "validation loss (nats)")
    for family, (ax,) in axes.items():
        ax.set_ylim(panels.late_limits(plotted))
        panels.method_curves(ax, part(plotted, parametrization=family), styles)
    panels.curves_below(figure)
    return figure, plotted


def _heads(frame: DataFrame) -> dict[str, str]:
    """What stands above the panel of each parametrization, SP first, with the width at which it is shown."""
    widths: Any = frame.groupby("parametrization")["width"].first().sort_index(ascending=False)
    return {family: f"{WORDS[family]}, width {width}" for family, width in widths.items()}


def _averaging_cells(rows: DataFrame, optima: DataFrame) -> DataFrame:
    """The methods to compare with the controls, at the controls' largest width, each at its best rate of the grid."""
    roles = {m: role for m, role in roles_of(rows).items() if role.embedding_lr == "shared"}
    controls = {
        m: role
        for m, role in roles.items()
        if not role.schedule_free and (role.average != "none" or role.schedule != "cosine")
    }
    best = optima[["method", "width", "log2_lr_argmin"]]
    cells = [best.iloc[:0].assign(parametrization="")]
    for family in dict.fromkeys(role.parametrization for role in controls.values()):
        mine = {m: role.family for m, role in controls.items() if role.parametrization == family}
        width = rows.loc[rows["method"].isin(mine), "width"].max()
        alike = [m for m, role in roles.items() if role.parametrization == family and role.family in mine.values()]
        cells.append(part(best[best["method"].isin(alike)], width=width).assign(parametrization=family))
    return pd.concat(cells, ignore_index=True)

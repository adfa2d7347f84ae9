"""Figures on transfer: the loss surface, the optimum against width, and the regret of carrying a rate to a wider network."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from mufree.publish.figures.style import (
    COLUMN_WIDTH,
    MAIN_METHODS,
    PAGE_WIDTH,
    MethodStyle,
    empty_figure,
    end_labels,
    finite,
    interval_bars,
    left_out,
    legend_below,
    main_methods,
    method_handles,
    new_figure,
    note,
    panel_grid,
    panel_title,
    robust_limits,
    roles_of,
    rows_of,
    width_axis,
    width_styles,
)

Styles = dict[str, MethodStyle]
CENSORED_MARKERS = {"edge_low": "<", "edge_high": ">"}
REGRET_MARGIN = 0.01
"""Nats; a regret below this, or below twice the seeds' standard deviation, is good (METRICS, section 1)."""

NO_REGRET = {
    "no_base_width": "not run\nat base width",
    "base_all_diverged": "every run\nat base width\ndiverged",
    "not_run": "base width's rate\nnot run",
}
"""Flags of a regret that there isn't, in words."""


def loss_vs_lr(
    rows: pd.DataFrame,
    loss: pd.DataFrame,
    optima: pd.DataFrame,
    *,
    title: str,
    styles: Styles,
    column: bool = False,
) -> tuple[Figure, pd.DataFrame]:
    """Final validation loss (nats) against log2 learning rate, a panel a method, a line a width.

    Small points are seeds, lines their means. The strip above the curves counts diverged seeds, the strip below shows each
    width's optimum with its interval. All panels have the same scales. Methods that were run at one width say nothing on
    transfer and are left out, unless there are no others. A column has room for two methods: of more, the schedule-free ones.
    """
    methods = [m for m in styles if m in set(rows["method"])]
    if not methods:
        return empty_figure(title, "no runs", column), pd.DataFrame()
    several = _at_several_widths(methods, rows)
    kept = _two_methods(several, rows) if column else several
    rows, loss, optima = (frame[frame["method"].isin(kept)] for frame in (rows, loss, optima))
    widths = width_styles(sorted(rows["width"].unique()))
    counts = rows.assign(n_diverged=rows["status"].eq("diverged"))
    counts = counts.groupby(["method", "width", "log2_lr"], as_index=False).agg(
        n_diverged=("n_diverged", "sum"), n_seeds=("seed", "size")
    )
    seeds = rows[rows["status"].ne("diverged") & finite(rows["val_loss"])]
    low, high = _loss_limits(seeds, loss, rows["initial_loss"])

    across = 1 if column else 2 if len(kept) <= 4 else 3 if len(kept) <= 6 else 4
    across = min(across, len(kept))
    figure = new_figure(title, 0.95 + (2.35 if across < 3 else 2.0) * -(-len(kept) // across), column)
    axes = panel_grid(figure, len(kept), across, "log2 of the learning rate")
    inches = (COLUMN_WIDTH if column else PAGE_WIDTH) / across - 0.3
    rates = sorted(rows["log2_lr"].unique())
    # Counts at neighbouring rates must not touch: "3/5" is some 9 points wide.
    of_how_many = 72 * inches / (rates[-1] - rates[0] + 1) > 9
    for ax, method in zip(axes, kept, strict=True):
        _surface(ax, method, widths, loss, seeds)
        _strips(ax, method, widths, counts, optima, of_how_many)
        panel_title(ax, styles[method], inches)
    strip = _strip_share(len(widths))
    for ax in axes[::across]:
        for word, height in (("diverged", 1 - strip / 2), ("best rate", strip / 2)):
            ax.text(-0.02, height, word, transform=ax.transAxes, ha="right", va="center", fontsize=6, color="0.45")
    span = (high - low) / (1 - 2 * strip)
    first = axes[0]
    first.set_ylim(low - strip * span, high + strip * span)
    margin = 0.04 * span  # a tick's label would touch the strip's
    first.set_yticks([t for t in MaxNLocator(6).tick_values(low, high) if low + margin <= t <= high - margin])
    first.set_xticks(rates[:: -(-len(rates) // (12 if across < 3 else 7))])
    first.set_xlim(rates[0] - 0.6, rates[-1] + 0.6)
    figure.supylabel("final validation loss (nats)", fontsize=7.5)
    some = "k/n: some did" if of_how_many else "a number: as many did"
    handles = [Line2D([], [], color=c, marker=m, label=f"width {w}") for w, (c, m) in widths.items()]
    handles += [
        Line2D([], [], color="0.3", marker="x", ls="", ms=4, label=f"all seeds diverged; {some}"),
        Line2D([], [], color="0.3", marker="o", ms=3.5, label="optimum, 95 % interval"),
        Line2D([], [], color="0.3", marker=">", mfc="white", ls="", label="optimum at the grid's edge"),
    ]
    others = left_out(styles, [m for m in methods if m not in kept])
    entries = (2 if len(widths) > 2 else 1) if column else min(len(handles), 4)
    legend_below(figure, handles, entries, others)
    return figure, _plotted_surface(loss, seeds, counts, optima)


def _at_several_widths(methods: list[str], rows: pd.DataFrame) -> list[str]:
    """The methods that were run at more than one width; all of them if none was."""
    widths = rows.groupby("method")["width"].nunique()
    return [m for m in methods if widths[m] > 1] or methods


def _two_methods(methods: list[str], rows: pd.DataFrame) -> list[str]:
    """Two at most, schedule-free ones first."""
    roles = roles_of(rows)
    free = [m for m in methods if m in roles and roles[m].schedule_free]
    chosen = [*free, *(m for m in methods if m not in free)][:2]
    return [m for m in methods if m in chosen]


def _loss_limits(seeds: pd.DataFrame, loss: pd.DataFrame, initial: pd.Series) -> tuple[float, float]:
    """From the best seed to where nine in ten means lie, at most the loss at initialisation."""
    start = float(initial.median())
    if seeds.empty:
        return (start - 1, start) if np.isfinite(start) else (0.0, 1.0)
    low = float(seeds["val_loss"].min())
    high = float(loss["mean_loss"].dropna().quantile(0.9))
    high = min(high, start) if np.isfinite(start) else high
    high = max(high, low + 0.02)
    pad = 0.05 * (high - low)
    return low - pad, high + pad


def _strip_share(n_widths: int) -> float:
    """Share of a panel's height that each of the two strips takes."""
    return min(max(0.05 * n_widths + 0.02, 0.1), 0.22)


def _surface(
    ax: Axes, method: str, widths: dict[int, tuple[object, str]], loss: pd.DataFrame, seeds: pd.DataFrame
) -> None:
    strip = _strip_share(len(widths))
    for width, (colour, marker) in widths.items():
        mean = loss[loss["method"].eq(method) & loss["width"].eq(width)].sort_values("log2_lr")
        raw = seeds[seeds["method"].eq(method) & seeds["width"].eq(width)]
        drawn = ax.plot(raw["log2_lr"], raw["val_loss"], ls="", marker=".", ms=4, color=colour, alpha=0.5, mew=0)
        drawn += ax.plot(mean["log2_lr"], mean["mean_loss"], color=colour, marker=marker, ms=3.2)
        for artist in drawn:  # not into the strips
            artist.set_clip_path(Rectangle((0, strip), 1, 1 - 2 * strip, transform=ax.transAxes))


def _strips(
    ax: Axes,
    method: str,
    widths: dict[int, tuple[object, str]],
    counts: pd.DataFrame,
    optima: pd.DataFrame,
    of_how_many: bool,
) -> None:
    """Above: diverged seeds, as k/n or as k alone; below: fitted optima; a line a width, the narrowest on top.

    y is in shares of the panel.
    """
    across = ax.get_xaxis_transform()
    share = _strip_share(len(widths))
    for edge in (share, 1 - share):
        ax.plot([0, 1], [edge, edge], color="0.75", lw=0.5, transform=ax.transAxes)
    for row, (width, (colour, marker)) in enumerate(widths.items()):
        above, below = (
            1 - share * (row + 0.7) / (len(widths) + 0.4),
            share - share * (row + 0.7) / (len(widths) + 0.4),
        )
        died = counts[counts["method"].eq(method) & counts["width"].eq(width) & counts["n_diverged"].gt(0)]
        every = died[died["n_diverged"].eq(died["n_seeds"])]
        ax.plot(every["log2_lr"], [above] * len(every), "x", ms=3.2, mew=0.9, color=colour, transform=across)
        for cell in rows_of(died.drop(every.index)):
            text = f"{cell.n_diverged}/{cell.n_seeds}" if of_how_many else f"{cell.n_diverged}"
            ax.text(cell.log2_lr, above, text, color=colour, size=5, ha="center", va="center", transform=across)
        for cell in rows_of(optima[optima["method"].eq(method) & optima["width"].eq(width)]):
            ends = [cell.log2_lr_opt_low, cell.log2_lr_opt_high]
            if np.isfinite(ends).all():
                ax.plot(ends, [below, below], color=colour, lw=1.1, transform=across)
            shape, open_ = CENSORED_MARKERS.get(cell.flag, marker), cell.flag != "ok"
            face = "white" if open_ else colour
            ax.plot(cell.log2_lr_opt, below, marker=shape, ms=3.6, color=colour, mfc=face, mew=0.8, transform=across)


def _plotted_surface(
    loss: pd.DataFrame, seeds: pd.DataFrame, counts: pd.DataFrame, optima: pd.DataFrame
) -> pd.DataFrame:
    mean = loss[["method", "width", "log2_lr", "mean_loss"]].rename(columns={"mean_loss": "loss"})
    raw = seeds[["method", "width", "log2_lr", "seed", "val_loss"]].rename(columns={"val_loss": "loss"})
    fits = optima[["method", "width", "log2_lr_opt", "log2_lr_opt_low", "log2_lr_opt_high", "flag"]]
    fits = fits.rename(columns={"log2_lr_opt": "log2_lr", "log2_lr_opt_low": "low", "log2_lr_opt_high": "high"})
    parts = {"mean": mean, "seed": raw, "diverged": counts[counts["n_diverged"].gt(0)], "optimum": fits}
    frame = pd.concat([part.assign(kind=kind) for kind, part in parts.items() if len(part)], ignore_index=True)
    return _first(frame, ["kind", "method", "width", "log2_lr"])


def _first(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    return frame[columns + [c for c in frame.columns if c not in columns]]


def optimum_vs_width(
    optima: pd.DataFrame, transfer: pd.DataFrame, *, title: str, styles: Styles, column: bool = False
) -> tuple[Figure, pd.DataFrame]:
    """Best log2 learning rate against width, a line a method, with 95 % intervals; the drift stands at the line's end.

    An optimum at an end of the grid is an open triangle that points to where the true one lies; it is not on the line, as it
    is not in the drift. More than four methods are shown in a panel for each parametrization.
    """
    columns = ["method", "width", "log2_lr_opt", "log2_lr_opt_low", "log2_lr_opt_high", "flag"]
    plotted = optima[columns].sort_values(["method", "width"], ignore_index=True)
    plotted = plotted.merge(transfer[["method", "drift", "drift_low", "drift_high", "status"]], on="method", how="left")
    shown = plotted[finite(plotted["log2_lr_opt"])]
    if shown.empty:
        return empty_figure(title, "every run diverged: there is no optimum to show", column), plotted
    widths = sorted(plotted["width"].unique())
    methods = [m for m in styles if m in set(shown["method"])]
    methods, others = main_methods(methods) if column else (methods, [])
    plotted, shown = (frame[~frame["method"].isin(others)] for frame in (plotted, shown))
    groups = [methods]
    if len(methods) > 4:
        families = dict.fromkeys(styles[m].parametrization for m in methods)
        groups = [[m for m in methods if styles[m].parametrization == family] for family in families]
    labels = {m: f"{styles[m].name}\n{_drift_words(transfer[transfer['method'].eq(m)])}" for m in methods}
    heights = [max(1.9 if column or len(groups) > 1 else 2.7, 0.27 * len(group)) for group in groups]
    words = 0.29 * len(methods) + 0.4 * bool(others) if column else 0.0
    figure = new_figure(title, sum(heights) + words + 0.5, column)
    axes = figure.subplots(len(groups), sharex=True, sharey=True, squeeze=False, height_ratios=heights)[:, 0]
    width_axis(axes[0], widths)
    axes[0].set_ylim(
        robust_limits(shown["log2_lr_opt"], shown["log2_lr_opt_low"], shown["log2_lr_opt_high"], floor=2.0)
    )
    start = float(shown.loc[shown["width"].eq(shown["width"].min()), "log2_lr_opt"].mean())
    for ax, group, height in zip(axes, groups, heights, strict=True):
        _guides(ax, widths, start)
        _optima_lines(ax, group, shown, styles)
        ends = [float(shown.loc[shown["method"].eq(m), "log2_lr_opt"].iloc[-1]) for m in group]
        if not column:
            end_labels(ax, [(e, labels[m], styles[m].colour) for m, e in zip(group, ends, strict=True)], height)
        ax.set_ylabel("log2 of the best learning rate" if height > 2 else "log2 of the best rate")
    axes[-1].set_xlabel("width (log2 scale)")
    if column:
        handles = [
            Line2D([], [], color=x.colour, ls=x.line, marker=x.marker, label=labels[m])
            for m, x in ((m, styles[m]) for m in methods)
        ]
        legend_below(figure, handles, 1, left_out(styles, others))
    return figure, plotted.reset_index(drop=True)


def best_rates(optima: pd.DataFrame, styles: Styles) -> tuple[Figure, pd.DataFrame]:
    """How far each method's best rate has moved from its own at the narrowest width, in doublings; a panel a task.

    Bars are the optima's own 95 % intervals. Optima at an end of the grid are left out, as they are of the drift.
    """
    inside = optima[
        optima["method"].isin(styles) & ~optima["flag"].str.startswith("edge") & finite(optima["log2_lr_opt"])
    ]
    narrowest = inside.sort_values("width").groupby(["task", "method"])["log2_lr_opt"].transform("first")
    ends = ["log2_lr_opt", "log2_lr_opt_low", "log2_lr_opt_high"]
    moved = inside[["task", "method", "width", *ends]].copy()
    moved[ends] = moved[ends].sub(narrowest, axis=0)
    tasks = sorted(moved["task"].unique())
    figure = new_figure("How far the best learning rate moves as the network widens", 2.6)
    axes = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    axes[0].set_ylim(robust_limits(moved[ends[0]], moved[ends[1]], moved[ends[2]], floor=2.0))
    for ax, task in zip(axes, tasks, strict=True):
        here = moved[moved["task"].eq(task)]
        width_axis(ax, sorted(here["width"].unique()))
        ax.axhline(0, color="0.6", lw=0.8, zorder=1)
        for place, (method, look) in enumerate(styles.items()):
            line = here[here["method"].eq(method)].sort_values("width")
            x = np.log2(line["width"]) + 0.05 * (place - (len(styles) - 1) / 2)
            ax.plot(x, line[ends[0]], color=look.colour, ls=look.line, marker=look.marker, ms=4, zorder=3)
            interval_bars(ax, x, line[ends[1]], line[ends[2]], look.colour)
        ax.set_title(task, loc="left")
        ax.set_xlabel("width")
    axes[0].set_ylabel("doublings of the best rate")
    legend_below(figure, method_handles(styles, list(styles), len(styles)), len(styles))
    return figure, moved.reset_index(drop=True)


def _optima_lines(ax: Axes, methods: list[str], shown: pd.DataFrame, styles: Styles) -> None:
    """The methods side by side at each width, so that intervals don't hide each other."""
    step = min(0.03, 0.2 / len(methods))
    for i, method in enumerate(methods):
        look, cells = styles[method], shown[shown["method"].eq(method)]
        places = np.log2(cells["width"]) + step * (i - (len(methods) - 1) / 2)
        inside = ~cells["flag"].isin(CENSORED_MARKERS)
        ax.plot(places[inside], cells["log2_lr_opt"][inside], color=look.colour, ls=look.line)
        for place, cell in zip(places, rows_of(cells), strict=True):
            shape = {"edge_low": "v", "edge_high": "^"}.get(cell.flag, look.marker)
            face = look.colour if cell.flag == "ok" else "white"
            ax.plot(place, cell.log2_lr_opt, marker=shape, color=look.colour, mfc=face, ms=5, ls="", zorder=3)
        interval_bars(ax, places, cells["log2_lr_opt_low"], cells["log2_lr_opt_high"], look.colour)


def _guides(ax: Axes, widths: list[int], start: float) -> None:
    """Thin lines of slope 0 and −1 from the mean optimum at the narrowest width, if there is a wider one."""
    if len(widths) < 2:
        return
    bottom, _ = ax.get_ylim()
    x = np.array([np.log2(widths[0]), ax.get_xlim()[1]])
    for slope in (0, -1):
        y = start + slope * (x - x[0])
        ax.plot(x, y, color="0.6", lw=0.7, zorder=1)
        # label inside the frame, also where the line leaves it
        at = x[0] + 0.5 * (x[1] - x[0])
        if slope and start - (at - x[0]) < bottom:
            at = x[0] + 0.8 * (start - bottom)
        ax.annotate(
            f"slope {slope}".replace("-", "−"),
            (at, start + slope * (at - x[0])),
            (2, 2),
            textcoords="offset points",
            color="0.45",
            fontsize=6,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )


def _drift_words(transfer: pd.DataFrame) -> str:
    if transfer.empty or not np.isfinite(transfer["drift"].iloc[0]):
        return "drift not estimable"
    row = transfer.iloc[0]
    words = f"drift {row['drift']:+.2f}"
    if np.isfinite(row["drift_low"]):
        words += f" [{row['drift_low']:+.2f}, {row['drift_high']:+.2f}]"
    return words.replace("-", "−")


def regret_vs_width(
    regret: pd.DataFrame, optima: pd.DataFrame, *, title: str, styles: Styles, column: bool = False
) -> tuple[Figure, pd.DataFrame]:
    """Cross-fitted regret (nats) of the base width's rate at each width, a panel a method, with 95 % intervals.

    The band reaches to max(0.01 nats, 2 σ of the seeds): a regret whose interval ends inside it is small. Where there is no
    cross-fitted regret (one seed), the same-seed regret is shown by an open marker. A method that was run at one width is left
    out.
    """
    sigma = optima[["method", "width", "sigma_seed"]]
    columns = [
        "method",
        "width",
        "log2_lr_transferred",
        "regret_cf",
        "regret_cf_low",
        "regret_cf_high",
        "regret",
        "flag",
    ]
    plotted = regret[columns].merge(sigma, on=["method", "width"], how="left")
    plotted = plotted.sort_values(["method", "width"], ignore_index=True)
    plotted["margin"] = (2 * plotted["sigma_seed"]).clip(lower=REGRET_MARGIN).fillna(REGRET_MARGIN)
    plotted["shown"] = plotted["regret_cf"].fillna(plotted["regret"])
    if not finite(plotted["shown"]).any():
        why = "no regret can be computed: every run diverged, or base width was not run"
        return empty_figure(title, why, column), plotted
    methods = [m for m in styles if m in set(plotted["method"])]
    n_widths = plotted.groupby("method")["width"].nunique()
    alone = [m for m in methods if n_widths[m] == 1] if n_widths.max() > 1 else []  # no rate was carried over
    methods, others = main_methods(
        [m for m in methods if m not in alone], limit=MAIN_METHODS if column else len(methods)
    )
    plotted = plotted[plotted["method"].isin(methods)].reset_index(drop=True)
    widths = sorted(plotted["width"].unique())
    across = min(2 if column else 4, len(methods))
    figure = new_figure(title, 0.7 + (1.7 if column else 2.0) * -(-len(methods) // across), column)
    axes = panel_grid(figure, len(methods), across, "width (log2 scale)")
    width_axis(axes[0], widths)
    points = np.append(plotted["shown"], [0.0, 1.2 * plotted["margin"].max()])
    axes[0].set_ylim(robust_limits(points, plotted["regret_cf_low"], plotted["regret_cf_high"], floor=0.03))
    for ax, method in zip(axes, methods, strict=True):
        look, cells = styles[method], plotted[plotted["method"].eq(method)]
        places = np.log2(cells["width"])
        ax.axhline(0, color="0.3", lw=0.7)
        ax.fill_between(places, 0, cells["margin"], color="0.85", lw=0)
        ax.plot(places, cells["shown"], color=look.colour, ls=look.line)
        for place, cell in zip(places, rows_of(cells), strict=True):
            face = look.colour if np.isfinite(cell.regret_cf) else "white"
            ax.plot(place, cell.shown, marker=look.marker, color=look.colour, mfc=face)
        interval_bars(ax, places, cells["regret_cf_low"], cells["regret_cf_high"], look.colour)
        panel_title(ax, look, min((COLUMN_WIDTH if column else PAGE_WIDTH) / across - 0.2, 2.4))
        if not finite(cells["shown"]).any():
            known = [NO_REGRET[flag] for flag in cells["flag"] if flag in NO_REGRET]
            note(ax, known[0] if known else "every run diverged")
    figure.supylabel("regret (nats)", fontsize=7.5)
    if others or alone:
        notes = (left_out(styles, others), left_out(styles, alone, "run at one width"))
        legend_below(figure, [], 1, " ".join(note for note in notes if note))
    return figure, plotted

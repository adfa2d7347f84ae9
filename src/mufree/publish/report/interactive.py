"""Plots that one can hover over, as plotly's JSON: the same numbers as the pictures, which stay beside them.

A plot is `{"data": [...], "layouts": {"wide": ..., "narrow": ...}}`: traces once, and a layout for each of two kinds of window,
in which panels stand in columns or one below the other. No NaN, no date, no identifier of chance: the same tables give the same
text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mufree.publish.figures import ordered
from mufree.publish.figures.style import method_styles, width_styles
from mufree.publish.report.panels import Plot, hexadecimal, line, plot
from mufree.publish.report.words import MISSING, interval, known, number, plain

MOST_POINTS = 120
"""Points of a curve that a page carries; longer curves are thinned evenly."""
PLOTS = ("loss_vs_lr", "optimum_vs_width", "validation_curves")
"""The figures that have one."""

Names = Mapping[str, str]


def plots(
    tables: Mapping[str, pd.DataFrame],
    rows: pd.DataFrame | None,
    curves: pd.DataFrame | None,
    names: Mapping[str, str],
) -> dict[str, Plot]:
    """All plots of a study, by the stem of the picture that they stand beside. `names` are the methods' names for readers.

    Curves need `rows` and `curves`; without them there are none of those. `rows` also gives the seeds' own losses.
    """
    out: dict[str, Plot] = {}
    for task in dict.fromkeys(tables["optima"]["task"]):
        mine = {name: table[table["task"].eq(task)] for name, table in tables.items() if "task" in table}
        runs = None if rows is None else _primary(rows[rows["task"].eq(task)])
        found = {
            "loss_vs_lr": loss_vs_lr(mine["loss"], runs, names),
            "optimum_vs_width": optimum_vs_width(mine["optima"], names),
            "validation_curves": None
            if runs is None or curves is None
            else validation_curves(mine["optima"], runs, curves, names),
        }
        out |= {f"{task}.{name}": plot for name, plot in found.items() if plot is not None}
    return out


def _primary(rows: pd.DataFrame) -> pd.DataFrame:
    """Runs whose settings are all the task's own."""
    return rows[rows["variant"].map(plain).eq("")] if "variant" in rows else rows


def loss_vs_lr(loss: pd.DataFrame, rows: pd.DataFrame | None, names: Names) -> Plot | None:
    """Mean final loss against the rate: a panel a method, a line a width; the legend switches a width in all panels."""
    means = loss[np.isfinite(loss["mean_loss"].astype(float))]
    if means.empty:
        return None
    methods = ordered(means["method"])
    looks = width_styles(sorted(int(w) for w in loss["width"].unique()))
    traces = []
    first = set()
    for panel, method in enumerate(methods, start=1):
        own = None if rows is None else rows[rows["method"].eq(method)]
        for width, group in means[means["method"].eq(method)].groupby("width"):
            points = group.sort_values("log2_lr")
            name = str(width)
            traces.append(
                line(
                    x=points["log2_lr"],
                    y=points["mean_loss"],
                    errors=points["se"],
                    name=name,
                    colour=hexadecimal(looks[int(name)][0]),
                    panel=panel,
                    showlegend=name not in first,
                    legendgroup=name,
                    legendrank=int(name),
                    text=[_loss_label(names[method], row, own) for row in points.itertuples()],
                )
            )
            first.add(name)
    titles = [names[method] for method in methods]
    axes = {"x": {"title": "log2 of the learning rate", "dtick": 2}, "y": {"title": "Validation loss (nats)"}}
    return plot(traces, titles, axes, legend="Width")


def _loss_label(name: str, row: Any, rows: pd.DataFrame | None) -> str:
    """What a point says: method, width, rate, mean, seeds."""
    error = f" ± {number(row.se)}" if known(row.se) else ""
    ended = int(row.n_seeds - row.n_diverged)
    lines = [
        f"<b>{name}</b>, width {row.width}",
        f"rate 2^{number(row.log2_lr, 0)}",
        f"mean loss {number(row.mean_loss)}{error} nats",
        f"{ended} of {row.n_seeds} seeds" + (f"; {row.n_diverged} diverged" if row.n_diverged else ""),
    ]
    if rows is not None:
        at = rows["width"].eq(row.width) & rows["log2_lr"].eq(row.log2_lr)
        losses = rows[at & rows["status"].eq("ok")].sort_values("seed")["val_loss"]
        lines.append("seeds: " + ", ".join(number(value) for value in losses))
    return "<br>".join(lines)


def optimum_vs_width(optima: pd.DataFrame, names: Names) -> Plot | None:
    """Best rate against width with its interval, a line a method; open markers where it is no fit inside the grid."""
    found = optima[np.isfinite(optima["log2_lr_opt"].astype(float))]
    if found.empty:
        return None
    looks = method_styles(names)
    traces = []
    for method in ordered(found["method"]):
        points = found[found["method"].eq(method)].sort_values("width")
        traces.append(
            line(
                x=points["width"],
                y=points["log2_lr_opt"],
                errors=points["log2_lr_opt_high"] - points["log2_lr_opt"],
                errors_below=points["log2_lr_opt"] - points["log2_lr_opt_low"],
                name=names[method],
                colour=looks[method].colour,
                panel=1,
                symbols=["circle" if flag == "ok" else "circle-open" for flag in points["flag"]],
                text=[_optimum_label(names[method], row) for row in points.itertuples()],
            )
        )
    widths = sorted(int(w) for w in optima["width"].unique())
    x = {"title": "Width", "type": "log", "tickvals": widths, "ticktext": [str(w) for w in widths]}
    return plot(traces, [""], {"x": x, "y": {"title": "log2 of the best rate"}}, legend="")


def _optimum_label(name: str, row: Any) -> str:
    between = interval(row.log2_lr_opt_low, row.log2_lr_opt_high, 2)
    lines = [
        f"<b>{name}</b>, width {row.width}",
        f"best rate 2^{number(row.log2_lr_opt, 2)}",
        "no interval" if between == MISSING else f"95 % interval of the log2 {between}",
        f"{row.n_seeds} {'seed' if row.n_seeds == 1 else 'seeds'}",
    ]
    if row.flag != "ok":
        lines.append(str(row.flag).replace("_", " "))
    return "<br>".join(lines)


def validation_curves(optima: pd.DataFrame, rows: pd.DataFrame, curves: pd.DataFrame, names: Names) -> Plot | None:
    """Mean validation loss over the steps at each method's best rate: a panel for the base and one for the largest width.

    Solid at x, dotted at y where the two differ; only runs that ended well.
    """
    widths = sorted({int(optima["width"].min()), int(optima["width"].max())})
    looks = method_styles(names)
    traces: list[dict[str, Any]] = []
    first = set()
    for panel, width in enumerate(widths, start=1):
        for method in ordered(optima["method"]):
            cell = optima[optima["method"].eq(method) & optima["width"].eq(width)]
            if cell.empty or not known(cell["log2_lr_argmin"].iloc[0]):
                continue
            rate = cell["log2_lr_argmin"].iloc[0]
            here = rows["method"].eq(method) & rows["width"].eq(width) & rows["log2_lr"].eq(rate)
            runs = rows[here & rows["status"].eq("ok")]
            means = _mean_curves(curves[curves["run_id"].isin(runs["run_id"])])
            same = "val_loss_y" in means and means["val_loss"].equals(means["val_loss_y"])
            for series, dash in (("val_loss", "solid"), ("val_loss_y", "dot")):
                if series not in means or (series == "val_loss_y" and same):
                    continue
                mean = means[series]
                what = "x" if series == "val_loss" else "y"
                label = f"<b>{names[method]}</b>, width {width}<br>at {what}, rate 2^{number(rate, 0)}"
                seeds = f"{len(runs)} {'seed' if len(runs) == 1 else 'seeds'}"
                traces.append(
                    line(
                        x=pd.Series(mean.index),
                        y=mean,
                        name=names[method],
                        colour=looks[method].colour,
                        panel=panel,
                        dash=dash,
                        markers=False,
                        showlegend=method not in first,
                        legendgroup=method,
                        template=f"{label}<br>step %{{x}}: %{{y:.3f}} nats, mean of {seeds}<extra></extra>",
                    )
                )
                first.add(method)
    if not traces:
        return None
    titles = [f"Width {width}" for width in widths]
    y = {"title": "Validation loss (nats)", "range": _late_range(traces)}
    return plot(traces, titles, {"x": {"title": "Step"}, "y": y}, legend="")


def _late_range(traces: Sequence[Mapping[str, Any]]) -> list[float]:
    """From the lowest loss to the highest after an eighth of the steps: the fall before dwarfs what differs later."""
    ends = [max(trace["x"]) for trace in traces]
    late = [
        y
        for trace, end in zip(traces, ends, strict=True)
        for x, y in zip(trace["x"], trace["y"], strict=True)
        if x >= end / 8
    ]
    pad = 0.05 * (max(late) - min(late))
    return [float(f"{min(late) - pad:.4g}"), float(f"{max(late) + pad:.4g}")]


def _mean_curves(curves: pd.DataFrame) -> dict[str, pd.Series]:
    """Mean over runs by series, on the steps that all of them have, thinned."""
    out = {}
    for series in ("val_loss", "val_loss_y"):
        mine = curves[curves["series"].eq(series)]
        if mine.empty:
            continue
        table = mine.pivot_table(index="step", columns="run_id", values="value", observed=True).dropna()
        out[series] = _thinned(table.mean(axis=1))
    return out


def _thinned(curve: pd.Series) -> pd.Series:
    """At most `MOST_POINTS` values, evenly spaced, first and last among them."""
    if len(curve) <= MOST_POINTS:
        return curve
    return curve.iloc[np.unique(np.linspace(0, len(curve) - 1, MOST_POINTS).round().astype(int))]

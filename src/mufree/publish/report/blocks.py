"""The pieces that a page is made of: dicts of strings with a `kind`, which the templates lay out.

Kinds are `text`, `table` and `figure`. Nothing is rounded or worded later. Any table of a study can be shown: estimates with
their intervals, methods by their names, numbers rounded. How it looks follows from its columns, so that a new one needs nothing
here: a column `x` that is followed by its ends, `x_low` and `x_high`, becomes one with its interval; one followed by `x_se`
becomes x ± its standard error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mufree.publish.words import MISSING, interval, known, number

Block = dict[str, Any]

HEADS = {
    "at": "at",
    "best_loss": "best loss (nats)",
    "best_loss_fit": "loss of the fit",
    "drift": "drift (doublings per doubling)",
    "gap": "gap (nats)",
    "log2_lr": "log2 rate",
    "log2_lr_argmin": "best log2 rate of the grid",
    "log2_lr_max": "largest stable log2 rate",
    "log2_lr_opt": "best log2 rate",
    "log2_lr_transferred": "log2 rate kept",
    "log2_lr_weight_decay": "log2 of rate × decay",
    "log2_ratio": "log2 of the ratio",
    "lr_factor": "times the best rate",
    "lr_sensitivity": "LR sensitivity (nats)",
    "lr_sensitivity_normalised": "as a share of what training gains",
    "mean_loss": "mean loss (nats)",
    "regret": "regret, same seeds (nats)",
    "regret_cf": "regret (nats)",
    "rho": "regret / gain of widening",
    "sigma_seed": "σ over seeds",
    "tvx": "excess variation",
}
"""Columns whose heading isn't their own name."""

TWO_DIGITS = ("log2", "drift", "slope", "basin", "headroom", "span", "tau", "window", "worst")
"""How the names of columns begin whose numbers are shown to two decimals; others are to three."""


def text(content: str) -> Block:
    """A paragraph."""
    return {"kind": "text", "text": content}


def figure(file: str, caption: str) -> Block:
    """The figure whose files are `file`.pdf, .png and .points.json."""
    return {"kind": "figure", "file": file, "caption": caption}


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Block:
    """A table of strings."""
    return {"kind": "table", "caption": caption, "columns": list(columns), "rows": [list(row) for row in rows]}


def show(caption: str, frame: pd.DataFrame, names: Mapping[str, str]) -> Block:
    """One task's rows of a table; columns that hold nothing are left out. `names` are the methods' names for readers."""
    columns = [column for column in frame.columns if column != "task" and not frame[column].isna().all()]
    heads, cells = [], []
    ends: set[str | None] = set()
    for place, column in enumerate(columns):
        found = [_next(column, columns[place + 1 :], end) for end in ("low", "high", "se")]
        if not column.endswith(("low", "high")):
            ends.update(found)
        # 90 % intervals follow from the 95 % ones, and stay in the CSV file.
        if column in ends or column.endswith(("low90", "high90")):
            continue
        heads.append(HEADS.get(column, column.replace("_", " ")))
        cells.append(_cells(frame, column, found, names))
    return table(caption, heads, list(zip(*cells, strict=True)))


def _cells(frame: pd.DataFrame, column: str, beside: Sequence[str | None], names: Mapping[str, str]) -> list[str]:
    """A column as text, with the interval or the standard error that columns `beside` it hold: low, high, error."""
    low, high, error = beside
    digits = 2 if column.startswith(TWO_DIGITS) else 3
    values = [cell(value, digits, names) for value in frame[column]]
    if low and high:
        bounds = zip(frame[low], frame[high], strict=True)
        return [joined(value, interval(*ends, digits)) for value, ends in zip(values, bounds, strict=True)]
    if error:
        return [
            joined(value, f"± {number(size, digits)}") if known(size) else value
            for value, size in zip(values, frame[error], strict=True)
        ]
    return values


def joined(value: str, more: str) -> str:
    """A number and its interval or error; the number alone where it has none."""
    return value if MISSING in (value, more) else f"{value} {more}"


def _next(column: str, after: Sequence[str], end: str) -> str | None:
    """The column that is this one's end: the first that follows and ends so, if it begins as this one does."""
    for name in after:
        if name == end or name.endswith(f"_{end}"):
            return name if column.startswith(name.removesuffix(end).rstrip("_")) else None
        if not name.endswith(("low", "high")):
            return None
    return None


def cell(value: Any, digits: int, names: Mapping[str, str]) -> str:
    """A value as a reader sees it; a dash for nothing."""
    if isinstance(value, bool) or str(value) in ("True", "False"):
        return "yes" if str(value) == "True" else "no"
    if isinstance(value, str):
        return names.get(value, value.replace("_", " ")) or MISSING
    if not known(value):
        return MISSING
    if float(value).is_integer():
        return number(value, 0)
    return number(value, digits) if abs(value) >= 0.5 * 10.0**-digits else f"{value:.1e}".replace("-", "−")

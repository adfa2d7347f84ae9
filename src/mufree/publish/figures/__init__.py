"""The figures of a task: tables in, a matplotlib figure and the frame of what it shows out.

`draw(name, tables, task, title)` draws one of `FIGURES`; `save` writes it as PDF, PNG and CSV where the caller says. Nothing
here draws by pyplot, so there is no global state and no window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from mufree.publish.figures.dynamics import coordcheck, dynamics, validation_curves
from mufree.publish.figures.interaction import interaction
from mufree.publish.figures.schedule import anytime, averages
from mufree.publish.figures.style import DISPLAY_NAMES, RC, display_name, display_names, method_styles, ordered
from mufree.publish.figures.transfer import best_rates, loss_vs_lr, optimum_vs_width, regret_vs_width
from mufree.publish.figures.tuning import best_of_k, lr_sensitivity, weight_decay
from mufree.study import record

__all__ = [
    "COLUMN_FIGURES",
    "DISPLAY_NAMES",
    "FIGURES",
    "TABLES",
    "display_name",
    "display_names",
    "draw",
    "draw_coordcheck",
    "ordered",
    "save",
]

FIGURES: dict[str, tuple[Callable[..., tuple[Figure, pd.DataFrame]], tuple[str, ...]]] = {
    "loss_vs_lr": (loss_vs_lr, ("rows", "loss", "optima")),
    "optimum_vs_width": (optimum_vs_width, ("optima", "transfer")),
    "regret_vs_width": (regret_vs_width, ("regret", "optima")),
    "coordcheck": (coordcheck, ("coordcheck", "coordcheck_verdict")),
    "dynamics": (dynamics, ("dynamics_points", "dynamics")),
    "validation_curves": (validation_curves, ("rows", "curves", "optima")),
    "lr_sensitivity": (lr_sensitivity, ("stability", "rows", "optima")),
    "best_of_k": (best_of_k, ("best_of_k", "cost")),
    "interaction": (interaction, ("interaction",)),
    "anytime": (anytime, ("all_rows", "curves", "arms", "anytime")),
    "averages": (averages, ("rows", "curves", "optima")),
    "weight_decay": (weight_decay, ("weight_decay", "weight_decay_optimum")),
}
"""Each figure: the function that draws it, and the tables it takes. `rows` and `curves` are the study's Parquet files, the
others are its metrics tables, by file name; `coordcheck` is the table of slopes. `rows` gives a function the primary cells,
`all_rows` every variant."""

TABLES = tuple(sorted({table for _, tables in FIGURES.values() for table in tables} - {"all_rows"}))
"""All tables that the figures take."""

COLUMN_FIGURES = ("loss_vs_lr", "optimum_vs_width", "regret_vs_width", "anytime", "best_of_k", "interaction")
"""The figures that can also be drawn for one of two columns."""

FACTOR_TABLES = ("anytime", "arms", "best_of_k", "cost", "interaction", "weight_decay", "weight_decay_optimum")
"""Tables that a study without the factor may lack; their figures then say that there is nothing to show."""


def draw(
    name: str, tables: Mapping[str, pd.DataFrame], task: str, title: str, *, column: bool = False
) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure `name` of `task` with `title` above it, as wide as a page, or as one of two columns.

    `tables` are those of the whole study, so that an extra method looks the same for every task. The frame is what is plotted;
    it is empty where the study lacks the factor that the figure is about, so that a report can leave it out. Raises KeyError
    for an unknown figure or a table that is missing, ValueError for a figure that has no form for a column.
    """
    if name not in FIGURES:
        raise KeyError(f"Unknown figure '{name}'. Known: {', '.join(FIGURES)}")
    if column and name not in COLUMN_FIGURES:
        raise ValueError(f"figure '{name}' needs the width of a page. Drawn for a column: {', '.join(COLUMN_FIGURES)}")
    function, needs = FIGURES[name]
    missing = [t for t in needs if t not in {*tables, *FACTOR_TABLES, *({"all_rows"} if "rows" in tables else ())}]
    if missing:
        raise KeyError(f"figure '{name}' needs the tables {', '.join(missing)}")
    found = {m for table in tables.values() if "method" in table for m in table["method"].unique()}
    styles = method_styles(found, tables.get("rows"))
    frames = [_of_task(_table(tables, table), task) for table in needs]
    with matplotlib.rc_context(RC):
        return function(*frames, title=title, styles=styles, **({"column": True} if column else {}))


def _table(tables: Mapping[str, pd.DataFrame], name: str) -> pd.DataFrame:
    """The table that a figure calls `name`; one of a factor that the study lacks is empty."""
    if name == "all_rows":
        return tables["rows"]
    frame = tables.get(name, pd.DataFrame())
    if name == "rows" and "variant" in frame:
        return frame[frame["variant"].isna() | frame["variant"].eq("")]  # a file may give NaN for an empty text
    return frame


def draw_coordcheck(slopes: pd.DataFrame, verdicts: pd.DataFrame, *, title: str, name: str = "") -> Figure:
    """The coordinate check of one optimizer of one's own: the tables of `coordcheck.slopes` and `coordcheck.verdict`.

    `name` is what its column is called. The figure is a matplotlib one, with `savefig`.
    """
    tables = {"coordcheck": slopes.assign(method=name), "coordcheck_verdict": verdicts.assign(method=name)}
    return draw("coordcheck", tables, "", title)[0]


def draw_best_rates(optima: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Best rates against width for all tasks and the four methods side by side, and what is plotted."""
    with matplotlib.rc_context(RC):
        return best_rates(optima, method_styles(DISPLAY_NAMES))


def _of_task(frame: pd.DataFrame, task: str) -> pd.DataFrame:
    """The task's part of a table; curves have no task and are picked by their run."""
    return frame[frame["task"].eq(task)] if "task" in frame else frame


def save(figure: Figure, plotted: pd.DataFrame, stem: Path) -> None:
    """Write `stem`.pdf, `stem`.png (200 dpi) and `stem`.csv; the same figure gives the same bytes.

    The files carry no date and no version, and appear whole or not at all.
    """
    kinds: dict[str, dict[str, Any]] = {
        "pdf": {"CreationDate": None, "Creator": "mufree", "Producer": None},
        "png": {"Software": None},
    }
    with matplotlib.rc_context(RC):
        layout = figure.get_layout_engine()
        if layout is not None:  # here, or each format would do it again; twice, since the first may change the ticks
            layout.execute(figure)
            layout.execute(figure)
            figure.set_layout_engine("none")
        for kind, metadata in kinds.items():
            with record.atomic(stem.with_name(f"{stem.name}.{kind}")) as path:
                figure.savefig(path, format=kind, metadata=metadata)
    record.write_text(stem.with_name(f"{stem.name}.csv"), plotted.to_csv(index=False, lineterminator="\n"))

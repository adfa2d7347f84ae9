"""The figures of a task: tables in, a matplotlib figure and the frame of what it shows out.

`draw(name, tables, task, title)` draws one of `FIGURES`; `save` writes it as PDF, PNG, CSV and the points that a pointer can
find, where the caller says. What a figure shows, its caption says, in `publish.contents`. Nothing here draws by pyplot, so
there is no global state and no window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from pandas import DataFrame

from mufree.analysis.tables.cases import primary
from mufree.publish.figures import points
from mufree.publish.figures.dynamics import coordcheck, dynamics, validation_curves
from mufree.publish.figures.panels import Drawn, theme
from mufree.publish.figures.schedule import another_beta2, anytime, averages
from mufree.publish.figures.style import DISPLAY_NAMES, display_names, method_styles
from mufree.publish.figures.transfer import best_rates, loss_vs_lr, optimum_vs_width, regret_vs_width
from mufree.publish.figures.tuning import best_of_k, interaction, lr_sensitivity, weight_decay
from mufree.study import files

__all__ = [
    "FIGURES",
    "another_beta2",
    "display_names",
    "draw",
    "draw_coordcheck",
    "save",
]

FIGURES: dict[str, tuple[Callable[..., Drawn], tuple[str, ...]]] = {
    "loss_vs_lr": (loss_vs_lr, ("rows", "loss", "optima", "regret")),
    "optimum_vs_width": (optimum_vs_width, ("optima", "transfer")),
    "regret_vs_width": (regret_vs_width, ("regret", "optima")),
    "coordcheck": (coordcheck, ("coordcheck", "coordcheck_verdict")),
    "dynamics": (dynamics, ("dynamics_points", "dynamics")),
    "validation_curves": (validation_curves, ("rows", "curves", "optima")),
    "lr_sensitivity": (lr_sensitivity, ("stability", "rows", "optima")),
    "best_of_k": (best_of_k, ("best_of_k", "cost")),
    "interaction": (interaction, ("interaction",)),
    "anytime": (anytime, ("all_rows", "curves", "arms", "anytime", "beside")),
    "averages": (averages, ("rows", "curves", "optima")),
    "weight_decay": (weight_decay, ("weight_decay", "weight_decay_optimum")),
}
"""Each figure: the function that draws it, and the tables it takes. `rows` and `curves` are the study's Parquet files, the
others are its metrics tables, by file name; `coordcheck` is the table of slopes. `rows` gives a function the primary cells,
`all_rows` every variant; `beside` has the curves of another study, which few figures are given."""

FACTOR_TABLES = ("anytime", "arms", "best_of_k", "cost", "interaction", "weight_decay", "weight_decay_optimum")
"""Tables that a study without the factor may lack; their figures then say that there is nothing to show."""


def needed(names: Iterable[str]) -> set[str]:
    """What some figures can't be drawn without: `rows`, `curves` and metrics tables."""
    tables = {table for name in names for table in FIGURES[name][1]}
    return {"rows" if table == "all_rows" else table for table in tables} - {"beside", *FACTOR_TABLES}


def draw(name: str, tables: Mapping[str, DataFrame], task: str, title: str) -> Drawn:
    """Draw the figure `name` of `task` with `title` above it, as wide as a page.

    `tables` are those of the whole study, so that an extra method looks the same for every task. The frame is what is plotted;
    it is empty where the study lacks the factor that the figure is about, so that a report can leave it out. Raises KeyError
    for an unknown figure or a table that is missing.
    """
    if name not in FIGURES:
        raise KeyError(f"Unknown figure '{name}'. Known: {', '.join(FIGURES)}")
    function, needs = FIGURES[name]
    if missing := sorted(needed([name]) - set(tables)):
        raise KeyError(f"figure '{name}' needs the tables {', '.join(missing)}")
    found = {m for table in tables.values() if "method" in table for m in table["method"].unique()}
    styles = method_styles(found, tables.get("rows"))
    frames = [_table(tables, table, task) for table in needs]
    with matplotlib.rc_context(theme()):
        return function(*frames, title=title, styles=styles)


def _table(tables: Mapping[str, DataFrame], name: str, task: str) -> DataFrame:
    """The task's part of what a figure calls `name`; curves have no task. A factor's table that the study lacks is empty."""
    frame = tables.get("rows" if name == "all_rows" else name, DataFrame())
    if name == "rows":
        frame = primary(frame)
    return frame[frame["task"].eq(task)] if "task" in frame else frame


def draw_coordcheck(slopes: DataFrame, verdicts: DataFrame, *, title: str, name: str = "") -> Figure:
    """The coordinate check of one optimizer of one's own: the tables of `coordcheck.slopes` and `coordcheck.verdict`.

    `name` is what its column is called. The figure is a matplotlib one, with `savefig`.
    """
    tables = {"coordcheck": slopes.assign(method=name), "coordcheck_verdict": verdicts.assign(method=name)}
    return draw("coordcheck", tables, "", title)[0]


def draw_best_rates(optima: DataFrame, transfer: DataFrame, pooled: DataFrame, rows: DataFrame) -> Drawn:
    """Best rates against width, and drifts, of all tasks, and what is plotted; of the four methods, unless none was run.

    `rows` are the study's runs, which say what a method is.
    """
    shown = set(optima["method"]) & set(DISPLAY_NAMES) or set(optima["method"])
    with matplotlib.rc_context(theme()):
        return best_rates(optima, transfer, pooled, method_styles(shown, rows))


def save(figure: Figure, plotted: DataFrame, stem: Path) -> None:
    """Write `stem`.pdf, `stem`.png (200 dpi), `stem`.csv and `stem`.points.json; the same figure gives the same bytes.

    The files carry no date and no version, and appear whole or not at all.
    """
    with matplotlib.rc_context(theme()):
        layout = figure.get_layout_engine()
        if layout is not None:  # here, or each format would do it again; twice, since the first may change the ticks
            layout.execute(figure)
            layout.execute(figure)
            figure.set_layout_engine("none")
        pdf = {"CreationDate": None, "Creator": "mufree", "Producer": None}
        for kind, metadata in {"pdf": pdf, "png": {"Software": None}}.items():
            with files.atomic(stem.with_name(f"{stem.name}.{kind}")) as path:
                figure.savefig(path, format=kind, metadata=metadata)
        files.write_text(stem.with_name(f"{stem.name}.points.json"), points.text(figure))
    files.write_text(stem.with_name(f"{stem.name}.csv"), plotted.to_csv(index=False, lineterminator="\n"))

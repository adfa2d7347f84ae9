"""The paper's tables, as CSV, as LaTeX and for Typst, and its PDF. All of it is strings by now: `numbers` has the numbers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mufree.analysis.metrics.calibration import BIAS_BOUND, COVERAGE_BOUNDS
from mufree.analysis.tables.power import DRIFT_TO_DETECT
from mufree.analysis.tables.transfer import EQUIVALENCE_MARGIN
from mufree.publish.frozen import Frozen
from mufree.publish.numbers.captions import tail
from mufree.publish.numbers.words import about, drift_words
from mufree.publish.recipe import times
from mufree.publish.report.terms import bounds, statistic, value
from mufree.publish.report.verdicts import WORDS, p_value
from mufree.publish.report.words import MISSING, flag_words, known, number, percent, plus_minus, span
from mufree.study import record

LATEX = {
    "−": "$-$", "µ": "$\\mu$", "×": "$\\times$", "±": "$\\pm$", "·": "$\\cdot$", "—": "---", "–": "--", "…": "\\ldots{}",
    "τ": "$\\tau$", "λ": "$\\lambda$", "σ": "$\\sigma$", "β": "$\\beta$", "η": "$\\eta$", "ε": "$\\epsilon$", "∞": "$\\infty$",
    "≤": "$\\le$", "≥": "$\\ge$", "₀": "$_0$", "“": "``", "”": "''", "’": "'", "√": "$\\surd$",
}  # fmt: skip
"""What pdfLaTeX can't read, in its own words."""


RULES = {
    "inside": "inside ±{}",
    "below": "below {}",
    "above": "above {}",
    "within": "within {}",
    "excludes_zero": "excludes 0",
}
"""Rules with their margin, as they are read."""


class PaperError(Exception):
    """The paper can't be built from what is there."""


@dataclass(frozen=True)
class DisplayTable:
    """A table of strings with its caption, and what a dash in it means."""

    caption: str
    frame: pd.DataFrame
    note: str = ""


def display_tables(frozen: Frozen) -> dict[str, DisplayTable]:
    """Every table of the paper, by name."""
    return {
        "answer": _answer(frozen),
        "tasks": _tasks(frozen),
        "main": _main(frozen),
        "cells": _cells(frozen),
        "verdicts": _verdicts(frozen),
        "conditions": _conditions(frozen),
        "optima": _optima(frozen),
        "data": _data(frozen),
        **({"calibration": _calibration(frozen)} if frozen.calibration is not None else {}),
        **({"power": _power(frozen)} if frozen.power is not None else {}),
    }


def write_tables(tables: Mapping[str, DisplayTable], out: Path) -> None:
    """Each table as `out`/<name>.csv and as `out`/<name>.tex with booktabs."""
    for name, table in tables.items():
        record.write_text(out / f"{name}.csv", table.frame.to_csv(index=False, lineterminator="\n"))
        record.write_text(out / f"{name}.tex", to_latex(table, f"tab:{name}"))


def to_latex(table: DisplayTable, label: str) -> str:
    """The table for LaTeX, with booktabs; ASCII only, so that every engine reads it."""
    style = table.frame.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
    # Styler escapes cells, not captions.
    caption = " ".join(part for part in (table.caption, table.note) if part)
    for character in ("\\", "&", "%", "$", "#", "_", "{", "}"):
        caption = caption.replace(character, "\\textbackslash{}" if character == "\\" else f"\\{character}")
    text = style.to_latex(hrules=True, caption=caption, label=label, column_format="l" * len(table.frame.columns))
    for character, words in LATEX.items():
        text = text.replace(character, words)
    odd = sorted({character for character in text if not character.isascii()})
    if odd:
        raise PaperError(f"no LaTeX for {' '.join(odd)} in table {label}; add it to paper.LATEX")
    return str(text)


def to_pdf(source: Path, build: Path, figures: Iterable[Path]) -> bytes:
    """The article as PDF, by Typst with the fonts it brings along: no network, no date, the same input the same bytes.

    `source` is the folder of paper.typ, template.typ and references.bib, `build` that of numbers.json and tables/; a figure is
    found there under the name of its own folder. Raises `PaperError` with Typst's message, as for an unknown key.
    """
    import typst

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("paper.typ", "template.typ", "references.bib"):
            shutil.copyfile(source / file, folder / file)
        shutil.copyfile(build / "numbers.json", folder / "numbers.json")
        shutil.copytree(build / "tables", folder / "tables", ignore=shutil.ignore_patterns("*.tex"))
        for figure in figures:
            (folder / figure.parent.name).mkdir(exist_ok=True)
            shutil.copyfile(figure, folder / figure.parent.name / figure.name)
        try:
            pdf, warnings = typst.compile_with_warnings(folder / "paper.typ", root=folder, ignore_system_fonts=True)
        except typst.TypstError as error:
            raise PaperError(f"Typst: {error}") from error
    if warnings:
        raise PaperError("Typst warns: " + "; ".join(map(str, warnings)))
    return bytes(pdf)


# --- tables ----------------------------------------------------------------------------------------------------------


def _frame(columns: list[str], rows: list[list[str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns, dtype=str)


def _answer(frozen: Frozen) -> DisplayTable:
    """The study's question, answered by task."""
    found = {(task, method): estimates for task, method, estimates in _at_widest(frozen)}
    rows = []
    for task in frozen.tasks:
        mup, sp = (found.get((task, f"{kind}_schedulefree"), {}) for kind in ("mup", "sp"))
        loss = {
            "statistic": "loss_vs_best",
            "subject": "mup_schedulefree - best other",
            "width": frozen.widths(task)[-1],
        }
        rows.append(
            [
                task,
                span(frozen.widths(task)),
                *(_cell(each.get(name)) for name in ("drift", "regret_cf") for each in (mup, sp)),
                times(frozen, task) or MISSING,
                _cell(next(iter(frozen.records("estimates", task=task, **loss)), None)),
            ]
        )
    columns = ["Task", "Widths", "Drift, µP", "Drift, SP", "Regret, µP", "Regret, SP", "Rate ratio, µP", "Loss, µP"]
    note = (
        "All of ScheduleFree AdamW, with 95 % intervals. Drift: doublings of the best rate per doubling of width. At the "
        "largest width, in nats: regret, what keeping the base width's best rate costs; loss, how far its best is above that "
        "of the best other method. Rate ratio: its best rate over that of AdamW with cosine, least to largest over widths. "
        "Where no seed changes an estimate its interval is a point, and the error is the grid's step."
    )
    return DisplayTable(f"The answer by task. {tail(frozen, frozen.tasks)}", _frame(columns, rows), note)


def _tasks(frozen: Frozen) -> DisplayTable:
    rows = []
    for task in frozen.tasks:
        runs = frozen.primary(task)
        first = runs.iloc[0]
        base = frozen.base_width(task)
        rows.append(
            [
                task,
                str(frozen.study["tasks"][task]["description"]),
                ", ".join(f"{w} (base)" if w == base else str(w) for w in frozen.widths(task)),
                span([int(x) for x in runs["log2_lr"]]),
                span(frozen.seeds(task)),
                f"{int(first['steps'])} × {int(first['batch_size'])}",
                str(int(frozen.runs["task"].eq(task).sum())),
            ]
        )
    columns = ["Task", "Model and data", "Widths", "log2 rates", "Seeds", "Steps × batch", "Runs"]
    caption = (
        f"Tasks. Widths, rates and seeds are those of the primary cells; runs are all. {tail(frozen, frozen.tasks)}"
    )
    return DisplayTable(caption, _frame(columns, rows))


def _main(frozen: Frozen) -> DisplayTable:
    rows = []
    for task, method, found in _at_widest(frozen):
        if "best_loss" not in found:
            continue  # a control at one narrow width: its row is in the next table
        rows.append(
            [
                task,
                frozen.named(method),
                _cell(found.get("drift")),
                drift_words(found["drift"]) if "drift" in found else MISSING,
                *(_cell(found.get(name)) for name in ("regret_cf", "lr_sensitivity", "best_loss")),
                _anytime(frozen, task, method),
            ]
        )
    columns = ["Task", "Method", "Drift b", "Reading", "Regret", "LR sensitivity", "Best loss", "Anytime gap"]
    caption = (
        "Drift of the best log2 rate in doublings per doubling of width; at the largest width, in nats: cross-fitted regret of "
        "the base width's rate, sensitivity to the rate, best validation loss; largest anytime gap against AdamW with cosine, "
        "where horizons were run. Readings: no drift, the 90 % interval is inside "
        f"±{EQUIVALENCE_MARGIN}; small, it is, yet the 95 % interval excludes 0; drifts, that excludes 0; else undecided. "
        + tail(frozen, frozen.tasks)
    )
    note = f"{MISSING}: not estimable, or without an interval. Not run: no horizons of this method, or no rival's."
    return DisplayTable(caption, _frame(columns, rows), note)


def _cells(frozen: Frozen) -> DisplayTable:
    rows = []
    for task, method, _ in _at_widest(frozen):
        runs = frozen.primary(task)
        mine = runs[runs["method"].eq(method)]
        optima = frozen.records("optima", task=task, method=method)
        widest = max(optima, key=lambda row: int(row["width"]))
        odd = [f"{flag_words(row['flag'])} at {row['width']}" for row in optima if row["flag"] != "ok"]
        rows.append(
            [
                task,
                frozen.named(method),
                str(widest["width"]),
                plus_minus(widest["best_loss"], widest["best_loss_se"]),
                number(widest["sigma_seed"]),
                f"{int(mine['status'].eq('diverged').sum())}/{len(mine)}",
                str(widest["n_seeds"]),
                ", ".join(odd) or "none",
            ]
        )
    columns = ["Task", "Method", "Width", "Best loss ± SE", "σ over seeds", "Diverged", "Seeds", "Flags of optima"]
    caption = (
        "The same methods: best validation loss at their largest width with its standard error over seeds, its standard "
        "deviation over seeds (nats), diverged runs of all widths and rates, seeds, and at which widths the best rate is no "
        f"vertex of a fitted parabola inside the grid. {tail(frozen, frozen.tasks)}"
    )
    return DisplayTable(caption, _frame(columns, rows), f"{MISSING}: not estimable.")


def _at_widest(frozen: Frozen) -> Iterator[tuple[str, str, dict[str, dict[str, Any]]]]:
    """Task, method, and its estimates at the largest width and of all widths, by statistic; where there is a best loss."""
    for task in frozen.tasks:
        widest = frozen.widths(task)[-1]
        at_widest = frozen.estimates[frozen.estimates["task"].eq(task) & frozen.estimates["width"].eq(widest)]
        everywhere = frozen.estimates[frozen.estimates["task"].eq(task) & frozen.estimates["width"].isna()]
        for method in frozen.methods(task):
            found = {
                str(row["statistic"]): {str(k): v for k, v in row.items()}
                for part in (everywhere, at_widest)
                for row in part[part["subject"].eq(method)].to_dict("records")
            }
            if found:
                yield task, method, found


def _anytime(frozen: Frozen, task: str, method: str) -> str:
    """The largest anytime gap of a schedule-free method against AdamW with cosine under the same parametrization."""
    if not method.endswith("schedulefree"):
        return "is the rival" if method.endswith("_adamw") else "not asked"
    rival = f"{method.partition('_')[0]}_adamw"
    rows = frozen.records("estimates", task=task, statistic="anytime_max", subject=f"{method} - {rival}")
    return "; ".join(f"{_cell(row)} at {int(row['width'])}" for row in rows) or "not run"


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or not known(row["estimate"]):
        return MISSING
    what = statistic(row["statistic"])
    return f"{value(row['estimate'], what)} {bounds(row['low'], row['high'], what)}"


def _verdicts(frozen: Frozen) -> DisplayTable:
    rows = []
    for h in frozen.hypotheses.hypotheses:
        by_task = {row["task"]: WORDS[row["verdict"]] for row in frozen.judged(h.id, "task")}
        (overall,) = frozen.judged(h.id, "overall")
        late = " (post hoc)" if h.post_hoc else ""
        rows.append([h.id + late, h.claim, *(by_task[task] for task in frozen.tasks), WORDS[overall["verdict"]]])
    caption = (
        "Verdicts, computed by rules that were written before the runs. H: this study's hypotheses, with Holm's correction in "
        "each task; R: claims of others, tried again; C: controls (C1 has to be refuted). Overall: what is true of every task "
        f"in which it can be estimated, else inconclusive. {tail(frozen, frozen.tasks)}"
    )
    return DisplayTable(caption, _frame(["Id", "Claim", *frozen.tasks, "Overall"], rows))


def _conditions(frozen: Frozen) -> DisplayTable:
    rows = []
    frame = frozen.verdicts[frozen.verdicts["scope"].eq("condition") & frozen.verdicts["verdict"].ne("not_estimable")]
    for record_ in frame.to_dict("records"):
        row = {str(k): v for k, v in record_.items()}
        what = statistic(row["statistic"])
        rows.append(
            [
                row["id"],
                row["task"],
                f"{what.words}{about(frozen, row)}",
                _cell(row),
                bounds(row["low90"], row["high90"], what),
                RULES[row["rule"]].format(row["margin"]),
                p_value(row["p"]),
                p_value(row["p_holm"]),
                WORDS[row["verdict"]],
            ]
        )
    columns = ["Id", "Task", "Statistic", "Estimate [95 %]", "90 %", "Rule", "p", "p Holm", "Condition"]
    caption = (
        "What decides: every condition that can be estimated, with its own p and verdict, and the p of its hypothesis in the "
        f"task after Holm's correction. {tail(frozen, frozen.tasks)}"
    )
    return DisplayTable(caption, _frame(columns, rows), f"{MISSING}: no interval is needed, or none can be had.")


def _optima(frozen: Frozen) -> DisplayTable:
    rows = [
        [
            row["task"],
            frozen.named(row["method"]),
            str(int(row["width"])),
            f"{number(row['log2_lr_opt'], 2)} {_interval(row)}",
            number(row["log2_lr_argmin"], 0),
            number(row["best_loss"]),
            f"{int(row['n_diverged'])}/{int(row['n_runs'])}",
            str(row["flag"]).replace("_", " "),
        ]
        for row in frozen.records("optima")
    ]
    columns = ["Task", "Method", "Width", "log2 best rate", "Best of grid", "Loss (nats)", "Diverged", "Flag"]
    caption = f"Best learning rates by width: vertex of the fitted parabola. {tail(frozen, frozen.tasks)}"
    return DisplayTable(caption, _frame(columns, rows), f"{MISSING}: no fit, or no interval.")


def _interval(row: Mapping[str, Any]) -> str:
    return bounds(row["log2_lr_opt_low"], row["log2_lr_opt_high"], statistic("log2_lr_opt"))


def _data(frozen: Frozen) -> DisplayTable:
    rows = [
        [
            str(entry["settings"]["name"]).replace("_", " "),
            str(entry.get("source", MISSING)),
            str(entry.get("licence", MISSING)),
            ", ".join(f"{split} {n}" for split, n in entry["sizes"].items()),
            str(entry["digest"])[:12],
        ]
        for entry in frozen.provenance["data"]
    ]
    columns = ["Data set", "Source", "Licence", "Sizes", "Digest"]
    return DisplayTable(f"Data, as prepared. {tail(frozen, frozen.tasks, 'no error bars')}", _frame(columns, rows))


CALIBRATED_SHORT = {
    "drift": "drift",
    "did_drift": "interaction",
    "regret_held": "regret",
    "regret_cf": "regret, anew",
    "regret_cf_expected": "regret, mean",
}
"""Names short enough for a table; section 3.4 has the long ones, in the same order."""


def _calibration(frozen: Frozen) -> DisplayTable:
    assert frozen.calibration is not None
    rows = [
        [
            str(row["scenario"]).replace("_", " "),
            CALIBRATED_SHORT[str(row["statistic"])],
            str(int(row["n_seeds"])),
            percent(row["estimable"], 0),
            f"{percent(row['coverage'])} [{number(100 * row['coverage_low'], 1)}, {number(100 * row['coverage_high'], 1)}]",
            percent(row["degenerate"], 0),
            f"{number(row['bias_in_steps'], 2, sign=True)}",
            "yes" if str(row["within_bounds"]) == "True" else "no",
        ]
        for row in frozen.calibration.to_dict("records")
    ]
    simulations = int(frozen.calibration["n_simulations"].iloc[0])
    columns = ["Scenario", "Statistic", "Seeds", "Estimable", "Coverage", "No length", "Bias (steps)", "As wanted"]
    caption = (
        f"Do the intervals cover what they say? {simulations} simulated studies of known truth a line, put through the same "
        "code: share with an interval; coverage of the nominal 95 % intervals, with Wilson's interval; share of intervals "
        "without length; bias in steps of the grid, for a regret in what one step off the optimum costs. Regret is as "
        "reported; anew: both rates chosen anew for each seed; mean: the same, against what it costs on average. As wanted: "
        f"coverage from {number(100 * COVERAGE_BOUNDS[0], 1)} to {number(100 * COVERAGE_BOUNDS[1], 1)} % and bias under "
        f"{number(BIAS_BOUND, 1)} steps, given the error of the simulation. No run of any network is in it."
    )
    return DisplayTable(caption, _frame(columns, rows))


def _power(frozen: Frozen) -> DisplayTable:
    assert frozen.power is not None
    planned = frozen.power[frozen.power["planned"]]
    rows = [
        [
            str(row["task"]),
            frozen.named(str(row["method"])),
            f"{int(row['widths'])} over {number(row['width_range'], 0)}×",
            str(int(row["n_seeds"])),
            number(row["curvature"], 3),
            number(row["run_sd"], 3),
            f"±{number(row['half_width'], 2)}",
            percent(row["equivalence"], 0),
            percent(row["detection"], 0),
            f"±{number(row['interaction_half_width'], 2)}",
            f"±{number(row['loss_half_width'], 3)}",
        ]
        for row in planned.to_dict("records")
    ]
    columns = [
        *("Task", "Method", "Widths", "Seeds", "Curvature", "Noise", "Drift", "None shown", "Drift seen"),
        *("Interaction", "Loss"),
    ]
    caption = (
        "What the design could be expected to see, from a pilot on seeds that the study does not use: curvature of the loss "
        "(nats per squared doubling) and noise of a run (nats). Then, of simulated studies of this design: half width of "
        f"the 95 % interval of drift, how often no drift is shown to lie inside ±{EQUIVALENCE_MARGIN}, how often a drift of "
        f"{number(DRIFT_TO_DETECT, 1)} is told from none, half widths of the interaction in |drift| and of a difference in "
        "loss (nats). No run of the study is in it."
    )
    return DisplayTable(
        caption, _frame(columns, rows), f"{MISSING}: the pilot's best rate was at the edge of its grid."
    )

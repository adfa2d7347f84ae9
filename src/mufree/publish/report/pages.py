"""What stands on which page: a study's report, and the supplement of the paper, as plain data that templates lay out.

A page has a title, `lead` (what one sees first) and `sections`, each of `groups` with a title and blocks (see `blocks`).
Nothing here words a result: numbers stand in tables, beside the words that a rule gave them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mufree.analysis.tables.cases import plain_records as records
from mufree.publish import contents
from mufree.publish.report.blocks import Block, cell, figure, joined, show, table, text
from mufree.publish.results import Results
from mufree.publish.words import (
    MISSING,
    bounds,
    interval,
    known,
    number,
    p_value,
    span,
    statistic,
    subject_words,
    thousands,
    value,
)
from mufree.study.config import METHODS, Method
from mufree.study.hypotheses import Hypotheses

Page = dict[str, Any]

INTERVALS = "Intervals: 95 %, delete-one-seed jackknife with a t quantile; how each metric is defined: docs/metrics.md."


def report(results: Results, shown: Collection[str], *, printed: bool = False) -> Page:
    """A study's report. `shown` are the stems of the figures that there are; in print only the main ones stand."""
    lead = [*_overview_figure(shown), overview(results), *verdicts(results), text(_runs(results))]
    return {
        "title": str(results.study["title"]),
        "subtitle": f"Study {results.name}",
        "lead": lead,
        "sections": [
            *(
                section(task, results.description(task), _task(results, task, shown, printed=printed))
                for task in results.tasks
            ),
            *([] if printed else _over_tasks(results)),
            section("setting", "What was run", [("", setting(results))]),
            *([] if printed else [section("provenance", "Where it comes from", [("", [provenance(results)])])]),
        ],
    }


def supplement(studies: Sequence[Results], shown: Collection[str]) -> Page:
    """Everything that the paper's studies have: the first is the study itself; of the others some are judged, too.

    A figure's stem has the study's name and `figures` before it, each with a slash.
    """
    main, sections = studies[0], []
    for results in studies:
        if results.hypotheses is not None and len(results.verdicts):
            title = f"{results.study['title']}: hypotheses and verdicts"
            sections.append(section(f"{results.name}-verdicts", title, _judged(results, results.hypotheses)))
    for results in studies:
        groups = [
            (results.description(task), [block for _, blocks in of_task for block in blocks])
            for task in results.tasks
            for of_task in [_task(results, task, shown, folder=f"{results.name}/figures/")]
        ]
        title = str(results.study["title"])
        sections += [
            section(f"{results.name}-setting", title, [("What was run", setting(results))]),
            section(results.name, f"{title}: tables and figures", groups),
            *_over_tasks(results),
        ]
    frames = {
        "Calibration of the intervals": main.calibration,
        "What the design could see": main.power,
        "Error by the choice of held-out examples (se, nats)": main.validation_noise,
    }
    sections += [
        section(title.split()[0], title, [("", [show(title, frame, main.names)])])
        for title, frame in frames.items()
        if frame is not None
    ]
    return {
        "title": "Supplement",
        "subtitle": str(main.study["title"]),
        "lead": [text(INTERVALS)],
        "sections": sections,
    }


def section(key: str, title: str, groups: Sequence[tuple[str, Sequence[Block]]]) -> dict[str, Any]:
    """A section of a page; groups without a block are left out."""
    filled = [{"title": title, "blocks": list(blocks)} for title, blocks in groups if blocks]
    return {"id": key, "title": title, "groups": filled}


# --- the answer ------------------------------------------------------------------------------------------------------


def overview(results: Results) -> Block:
    """The study in one table: how far the best rate moves, and what keeping it costs at the largest width."""
    rows = []
    for task in results.tasks:
        widest = results.widths(task)[-1]
        ran = dict.fromkeys(results.of("optima", task)["method"])
        for method in [name for name in ran if name in METHODS] or ran:
            drift = results.record("transfer", task, method=method)
            regret = results.record("regret", task, method=method, width=widest)
            best = results.record("optima", task, method=method, width=widest)
            runs = results.primary(task)[results.primary(task)["method"].eq(method)]
            rows.append(
                [
                    task,
                    results.names[method],
                    _estimate(drift, "drift", 2),
                    _estimate(regret, "regret_cf", 3),
                    number(best.get("best_loss"), 3),
                    f"{int(runs['status'].eq('diverged').sum())} of {len(runs)}",
                ]
            )
    caption = (
        "Drift: doublings of the best rate for each doubling of width, 0 is perfect transfer. Regret: nats lost at the task's "
        "largest width by keeping the rate that was best at base width. With 95 % intervals"
    )
    columns = ["Task", "Method", "Drift", "Regret (nats)", "Best loss (nats)", "Diverged"]
    return table(f"{caption}; {MISSING}: not estimable from these runs.", columns, rows)


def _estimate(row: Mapping[str, Any], name: str, digits: int) -> str:
    """A number and its interval; the number alone where it has none."""
    ends = interval(row.get(f"{name}_low"), row.get(f"{name}_high"), digits)
    return joined(number(row.get(name), digits, sign=name == "drift"), ends)


def _runs(results: Results) -> str:
    """The study's size, in a line of labels."""
    diverged = int(results.rows["status"].eq("diverged").sum())
    return (
        f"Runs: {len(results.rows)}, diverged: {diverged}. Tasks: {len(results.tasks)}. Methods: "
        f"{results.rows['method'].nunique()}. Core-hours: {number(results.core_hours, 1)}. {INTERVALS}"
    )


def verdicts(results: Results) -> list[Block]:
    """The word of each hypothesis by task; nothing where nothing was judged."""
    if results.verdicts.empty:
        return []
    rows = []
    for name, mine in results.verdicts.groupby("id", sort=False):
        words = mine[mine["scope"].ne("condition")].set_index("task")["verdict"].str.replace("_", " ")
        rows.append([str(name), str(mine["claim"].iloc[0]), *(words.get(task, MISSING) for task in results.tasks)])
        rows[-1] += [words.get("all", MISSING), str(mine["expects"].iloc[0])]
    caption = "Verdicts by rules that were written before the runs. H: this study's; R: claims of others; C: controls"
    return [table(f"{caption}.", ["Id", "Claim", *results.tasks, "All tasks", "Expected"], rows)]


# --- a task ----------------------------------------------------------------------------------------------------------


def _task(
    results: Results, task: str, shown: Collection[str], *, folder: str = "", printed: bool = False
) -> list[tuple[str, list[Block]]]:
    """What there is of a task, question by question; `folder` stands before the stems of its figures."""
    note = str(results.study["tasks"][task]["note"])
    groups = [("", [text(note)] if note else [])]
    for question in contents.QUESTIONS:
        figures = [name for name in question.figures if not printed or name in contents.IN_PRINT]
        tables = [name for name in question.tables if not printed or name in contents.TABLES_IN_PRINT]
        blocks = [*_figures(results, task, figures, folder, shown), *_tables(results, task, tables)]
        groups.append((question.title, blocks))
    return groups


def _over_tasks(results: Results) -> list[dict[str, Any]]:
    """What is of no task, as a section; none where nothing is."""
    frame = results.tables.get("pooled")
    if frame is None or frame.empty:
        return []
    means = show(contents.TABLES["pooled"], frame, results.names)
    return [section(f"{results.name}-pooled", "Over all tasks", [("", [means])])]


def _figures(results: Results, task: str, names: Sequence[str], folder: str, shown: Collection[str]) -> list[Block]:
    stems = {name: f"{folder}{task}.{name}" for name in names}
    return [
        figure(stem, f"{results.description(task)}. {contents.FIGURES[name]}{_caveat(results, task)}")
        for name, stem in stems.items()
        if stem in shown
    ]


def _overview_figure(shown: Collection[str]) -> list[Block]:
    return [figure(contents.OVERVIEW, contents.FIGURES[contents.OVERVIEW])] if contents.OVERVIEW in shown else []


def _tables(results: Results, task: str, names: Sequence[str]) -> list[Block]:
    found = {name: results.of(name, task) for name in names}
    return [
        show(f"{contents.TABLES[name]}{_caveat(results, task)}", frame, results.names)
        for name, frame in found.items()
        if not frame.empty
    ]


def _caveat(results: Results, task: str) -> str:
    """What every caption has to say of data that are not used as published."""
    splits = results.other_splits(task)
    return f" Not the usual splits: {splits}." if splits else ""


# --- what was run ----------------------------------------------------------------------------------------------------


def setting(results: Results) -> list[Block]:
    """Tasks, methods and data."""
    return [_tasks_table(results), _methods_table(results), _data_table(results)]


def _tasks_table(results: Results) -> Block:
    rows = []
    for task in results.tasks:
        first = results.primary(task).iloc[0]
        rows.append(
            [
                task,
                results.description(task),
                results.widths_words(task),
                span([int(rate) for rate in results.primary(task)["log2_lr"]]),
                span(results.seeds(task)),
                f"{int(first['steps'])} × {int(first['batch_size'])}",
                str(len(results.runs(task))),
            ]
        )
    columns = ["Task", "Model and data", "Widths", "log2 rates", "Seeds", "Steps × batch", "Runs"]
    return table(
        "Tasks. Widths, rates and seeds are those of primary runs, whose settings are the task's own.", columns, rows
    )


def _methods_table(results: Results) -> Block:
    fields = list(Method.model_fields)
    first = results.rows.drop_duplicates("method").set_index("method")
    rows = [
        [shown, *(cell(first.at[name, field], 3, {}) if field in first else MISSING for field in fields)]
        for name, shown in results.names.items()
        if name in first.index
    ]
    return table("Methods.", ["Method", *(field.replace("_", " ") for field in fields)], rows)


def _data_table(results: Results) -> Block:
    rows = []
    for task in results.tasks:
        data = results.data_of(task)
        sizes = ", ".join(f"{split} {thousands(size)}" for split, size in data["sizes"].items())
        said = [str(data.get(name, MISSING)) for name in ("source", "version", "licence")]
        rows.append([task, *said, sizes, results.other_splits(task) or "as published", str(data["digest"])[:12]])
    return table("Data, as prepared.", ["Task", "Source", "Version", "Licence", "Sizes", "Splits", "Digest"], rows)


def provenance(results: Results) -> Block:
    """Versions, machine and digests, as they are on record."""
    return table("Provenance.", ["What", "Value"], _flat(results.provenance))


def _flat(found: Mapping[str, Any], before: str = "") -> list[list[str]]:
    rows = []
    for name, inside in found.items():
        label = f"{before}{name}".replace("_", " ")
        if name == "data":
            continue  # a table of its own
        rows += _flat(inside, f"{label}: ") if isinstance(inside, Mapping) else [[label, _listed(inside)]]
    return rows


def _listed(found: Any) -> str:
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found)


# --- verdicts --------------------------------------------------------------------------------------------------------


def _judged(results: Results, written: Hypotheses) -> list[tuple[str, list[Block]]]:
    """Verdicts, what decides them, the hypotheses as they were written, and what was changed since."""
    hypotheses = [
        [h.id, h.claim, h.decided_by, h.known, ", ".join(h.sources) or MISSING, f"{h.written}"]
        for h in written.hypotheses
    ]
    deviations = [[str(d.date), "after" if d.after_results else "before", d.what, d.why] for d in written.deviations]
    return [
        ("Verdicts", verdicts(results)),
        ("What decides", [conditions(results)]),
        (
            "As written before the runs",
            [table("Hypotheses.", ["Id", "Claim", "Decided by", "Known before", "Sources", "Written"], hypotheses)],
        ),
        ("Deviations", [table("Changes to the plan.", ["Date", "Results seen", "What", "Why"], deviations)]),
    ]


def conditions(results: Results) -> Block:
    """Every condition with its numbers, its own p-value, and that of its hypothesis after Holm's correction."""
    rows = []
    for row in records(results.verdicts[results.verdicts["scope"].eq("condition")]):
        if not known(row["estimate"]):
            continue
        what = statistic(str(row["statistic"]))
        rows.append(
            [
                str(row["id"]),
                str(row["task"]),
                f"{what.words}, {subject_words(row['subject'], results.names)}",
                cell(row["width"], 0, {}),
                f"{value(row['estimate'], what)} {bounds(row['low'], row['high'], what)}",
                bounds(row["low90"], row["high90"], what),
                f"{row['rule']} {row['margin']}".replace("_", " ").replace("-", "−"),
                p_value(row["p"]),
                p_value(row["p_holm"]),
                str(row["verdict"]).replace("_", " "),
            ]
        )
    columns = ["Id", "Task", "Statistic", "Width", "Estimate", "90 % interval", "Rule", "p", "p (Holm)", "Verdict"]
    return table(f"What decides each hypothesis. {INTERVALS}", columns, rows)

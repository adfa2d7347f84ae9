"""The report as plain data: sections of paragraphs, lists, tables and figures, which both templates lay out.

A block is a dict with a `kind`: `text`, `heading`, `points`, `table` or `figure`. All of it is strings: nothing is rounded or
worded later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from mufree.figures.style import display_name, ordered
from mufree.report.sentences import Facts, Record, headline, plain_words
from mufree.report.words import (
    MISSING,
    count,
    interval,
    known,
    listing,
    number,
    percent,
    plus_minus,
    span,
    with_interval,
)

Block = dict[str, Any]

FIGURE_CAPTIONS = {
    "loss_vs_lr": "Final validation loss against learning rate, a line a width. Small points are seeds, lines the means of "
    "those that did not diverge. Above the upper line: a cross where all seeds diverged, k/n where some did. Below the lower "
    "line: each width's best rate with its interval; an open triangle is at an edge of the grid. The frame ends near the loss "
    "at initialisation.",
    "optimum_vs_width": "Best learning rate against width. The drift, its slope, stands at the line's end. Thin grey lines "
    "have slopes 0 and −1. Open markers: no fit, or an optimum at an edge of the grid (triangles, left out of line and drift). "
    "Carets: an interval goes on beyond the frame.",
    "regret_vs_width": "Cross-fitted regret of using the base width's best rate at each width. Grey: below 0.01 nats or twice "
    "the standard deviation over seeds. Open markers: one seed, regret on the same seed. Carets: an interval goes on beyond "
    "the frame.",
    "coordcheck": "Coordinate check: slope against width (both log2) of the mean size |h| and the mean change |h − h₀| of each "
    "module's activations over the first steps. Solid at x, dashed at y. Embedding, hidden and readout modules have to "
    "stay in the grey band from step 2 on; SP should leave it.",
    "dynamics": "Gradient and update size (RMS, median over the steps after warm-up) against width by layer type, all widths "
    "at the method's best rate at base width. Points are seeds. Above each panel: slopes of log2 on log2, in the legend's "
    "order. Gradients may well scale with width.",
    "validation_curves": "Validation loss over the steps at each method's best rate of the grid, narrowest and widest network. "
    "Thin lines are seeds, thick ones their means. For schedule-free methods: solid at x, the averaged weights that are "
    "evaluated; dashed at y, where gradients are taken.",
}
"""What each figure shows, without its data."""

ROLES = {"train": "trained", "valid": "validated", "test": "tested"}
FLAGS = {
    "argmin_only": "no parabola fits; the best rate of the grid stands in",
    "edge_low": "best at the lowest rate of the grid; the optimum may be lower",
    "edge_high": "best at the highest rate of the grid; the optimum may be higher",
    "all_diverged": "every run diverged",
}
"""What the flags of an optimum mean."""


def document(
    study: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    summary: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole report.

    `study` is the study file's content, `tables` the metrics' tables by name, `summary` summary.json and `provenance`
    provenance.json, whose `data` lists the data sets' manifests. Raises ValueError if tables and summary disagree on the
    number of runs.
    """
    runs = int(tables["optima"]["n_runs"].sum())
    if runs != summary["n_runs"]:
        raise ValueError(
            f"the tables have {runs} runs and summary.json {summary['n_runs']}; run `mufree metrics` again"
        )
    tasks = [
        Facts(
            name,
            task["description"],
            len(task["coordinate_check"]["seeds"]),
            {k: t[t["task"].eq(name)] for k, t in tables.items() if "task" in t},
        )
        for name, task in study["tasks"].items()
    ]
    manifests = {f.name: _manifest(study["tasks"][f.name]["dataset"], provenance["data"]) for f in tasks}
    return {
        "title": study["title"],
        "subtitle": f"Study “{study['name']}”: learning-rate transfer across width, SP and µP, AdamW and ScheduleFree",
        "sections": [
            {"title": "In plain words", "blocks": _summary_blocks(tasks)},
            {"title": "What was run", "blocks": _setting_blocks(study, tasks, manifests)},
            *(
                {
                    "title": f.description,
                    "blocks": _task_blocks(f, manifests[f.name], study["tasks"][f.name]["coordinate_check"]),
                }
                for f in tasks
            ),
            {"title": "How to read this", "blocks": [{"kind": "points", "lead": "", "items": HOW_TO_READ}]},
            {"title": "Provenance", "blocks": _provenance_blocks(provenance)},
        ],
    }


def _manifest(dataset: Mapping[str, Any], manifests: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The manifest of a task's data set. Raises ValueError if there is none with its settings."""
    for manifest in manifests:
        if manifest["settings"] == dataset:
            return manifest
    raise ValueError(f"provenance.json has no manifest of data set {dataset['name']} with this study's settings")


def _text(text: str) -> Block:
    return {"kind": "text", "text": text}


def _table(
    caption: str,
    columns: Sequence[str],
    rows: list[list[str]],
    *,
    missing: str = "",
    notes: Sequence[str] = (),
    fill: Sequence[int] = (),
) -> Block:
    """A table of strings; columns `fill` share the spare width. A dash in a cell adds a note that says what `missing` says."""
    dash = any(MISSING in cell for row in rows for cell in row)
    note = [f"{MISSING}: {missing or 'not available'}."] if dash else []
    return {
        "kind": "table",
        "caption": caption,
        "columns": list(columns),
        "rows": rows,
        "notes": [*note, *notes],
        "fill": list(fill),
    }


def _summary_blocks(tasks: list[Facts]) -> list[Block]:
    blocks = [_text(" ".join(headline(tasks)))]
    for facts in tasks:
        widths = f"widths {facts.widths[0]}–{facts.widest}" if len(facts.widths) > 1 else f"width {facts.widest}"
        blocks.append({"kind": "heading", "text": f"{facts.description}, {widths}, {facts.seeds_words}"})
        blocks += [{"kind": "points", **point} for point in plain_words(facts)]
    return blocks


def _setting_blocks(
    study: Mapping[str, Any], tasks: list[Facts], manifests: Mapping[str, Mapping[str, Any]]
) -> list[Block]:
    rows = []
    for facts in tasks:
        training = study["tasks"][facts.name]["training"]
        rates = [int(x) for x in facts.tables["loss"]["log2_lr"].unique()]
        rows.append(
            [
                f"{facts.description}\n({facts.name})",
                ", ".join(f"{w} (base)" if w == facts.base else str(w) for w in facts.widths),
                span(rates),
                span(facts.seeds),
                f"{training['steps']} × {training['batch_size']}",
                str(facts.runs),
            ]
        )
    methods = ordered(m for f in tasks for m in f.methods)
    columns = ["Task", "Widths", "log2 learning rates", "Seeds", "Steps × batch", "Runs"]
    data = [
        [
            facts.description,
            manifests[facts.name]["source"],
            str(manifests[facts.name].get("version", MISSING)),
            str(manifests[facts.name].get("licence", MISSING)),
            ", ".join(f"{split} {n}" for split, n in manifests[facts.name]["sizes"].items()),
        ]
        for facts in tasks
    ]
    return [
        _table("Tasks", columns, rows, fill=[0]),
        _text("Methods: " + "; ".join(display_name(m) for m in methods) + "."),
        _table(
            "Data",
            ["Task", "Source", "Version", "Licence", "Examples or tokens"],
            data,
            missing="not stated in the manifest",
            fill=[0, 1, 3],
        ),
        *(_text(f"{f.description}: {_caveat(manifests[f.name])}") for f in tasks if _caveat(manifests[f.name])),
    ]


def _caveat(manifest: Mapping[str, Any]) -> str:
    """A sentence for every table and figure if the published splits are not used as published; else nothing.

    `published_splits` of a manifest says which published split has which role.
    """
    roles = manifest.get("published_splits", {})
    if all(role == split for role, split in roles.items()):
        return ""
    used = [f"{ROLES[role]} on the published {split} split" for role, split in roles.items()]
    return f"Not the usual splits: {listing(used)}" + ("." if "test" in roles else "; there is no test split.")


def _task_blocks(facts: Facts, manifest: Mapping[str, Any], check: Mapping[str, Any]) -> list[Block]:
    caveat = _caveat(manifest)
    caveat = f" {caveat}" if caveat else ""
    where = f"{facts.description}; {facts.error_bars}." + caveat
    plain = f"{facts.description}; {facts.seeds_words}." + caveat
    checked = (
        f"{facts.description}; widths {listing([str(w) for w in check['widths'] or facts.widths])}, "
        f"{count(check['steps'], 'step')} at a learning rate of 2^{check['log2_lr']} on one batch of {check['batch_size']}, "
        f"{count(facts.check_seeds, 'seed')}."
    ) + caveat
    context = {"coordcheck": checked, "dynamics": plain, "validation_curves": plain}
    figures: list[Block] = [
        {"kind": "figure", "file": f"{facts.name}.{name}", "caption": f"{caption} {context.get(name, where)}"}
        for name, caption in FIGURE_CAPTIONS.items()
    ]
    return [
        _primary_table(facts, where),
        *figures[:3],
        _optima_table(facts, where),
        _stability_table(facts, where),
        *figures[3:],
        _test_block(facts, where),
    ]


def _primary_table(facts: Facts, where: str) -> Block:
    by_method = {m: {t: _cell(facts, t, m) for t in ("regret", "stability", "optima")} for m in facts.methods}
    rows = []
    for drift in facts.records("transfer"):
        cell = by_method[drift["method"]]
        regret, stability, best = cell["regret"], cell["stability"], cell["optima"]
        mine = facts.tables["optima"][facts.tables["optima"]["method"].eq(drift["method"])]
        rows.append(
            [
                display_name(drift["method"]),
                with_interval(drift["drift"], drift["drift_low"], drift["drift_high"], 2, sign=True),
                with_interval(regret.get("regret_cf"), regret.get("regret_cf_low"), regret.get("regret_cf_high")),
                with_interval(
                    stability.get("lr_sensitivity"),
                    stability.get("lr_sensitivity_low"),
                    stability.get("lr_sensitivity_high"),
                ),
                f"{mine['n_diverged'].sum()}/{mine['n_runs'].sum()}",
                plus_minus(best.get("best_loss"), best.get("best_loss_se")),
                _flag_words(mine, regret),
            ]
        )
    last = facts.widest
    return _table(
        f"Drift of the best rate; regret and sensitivity at width {last}; best validation loss at width {last}. {where}",
        ["Method", "Drift", "Regret (nats)", "LR sensitivity (nats)", "Diverged", "Best loss ± SE", "Flags"],
        rows,
        missing="cannot be computed (one seed has no interval, standard error or cross-fitted regret, two have no interval of "
        "the regret; too few optima inside the grid have no drift; see flags and the plain words)",
        fill=[6],
    )


def _cell(facts: Facts, table: str, method: str) -> Record:
    """The row of a method at the largest width; empty if it did not run there."""
    return next(iter(facts.records(table, method=method, width=facts.widest)), {})


def _flag_words(optima: pd.DataFrame, regret: Record) -> str:
    marked = [
        f"{row.width}: {str(row.flag).replace('_', ' ')}"
        for row in optima.sort_values("width").itertuples()
        if row.flag != "ok"
    ]
    flag = regret.get("flag", "not_run")
    if flag != "ok":
        marked.append(f"regret: {str(flag).replace('_', ' ')}")
    return "; ".join(marked) or "none"


def _optima_table(facts: Facts, where: str) -> Block:
    records = facts.records("optima")
    rows = [
        [
            display_name(row["method"]),
            str(row["width"]),
            number(row["log2_lr_opt"], 2),
            interval(row["log2_lr_opt_low"], row["log2_lr_opt_high"], 2),
            number(row["log2_lr_argmin"], 0),
            plus_minus(row["best_loss"], row["best_loss_se"]),
            f"{row['n_diverged']}/{row['n_runs']}",
            str(row["flag"]).replace("_", " "),
        ]
        for row in sorted(records, key=lambda r: (facts.methods.index(r["method"]), r["width"]))
    ]
    notes = [
        f"{flag.replace('_', ' ')}: {meaning}."
        for flag, meaning in FLAGS.items()
        if any(r["flag"] == flag for r in records)
    ]
    return _table(
        f"Best learning rates, as log2. {where}",
        ["Method", "Width", "Best rate", "95 % interval", "Best of grid", "Loss ± SE (nats)", "Diverged", "Flag"],
        rows,
        missing="one seed, no parabola, or every run diverged",
        notes=notes,
        fill=[0],
    )


def _stability_table(facts: Facts, where: str) -> Block:
    rows = []
    for row in facts.records("stability", width=facts.widest):
        smooth = {r["at"]: r for r in facts.records("smoothness", method=row["method"], width=facts.widest)}
        rows.append(
            [
                display_name(row["method"]),
                f"{row['n_nonfinite']} + {row['n_above_start']} + {row['n_rebound']}",
                _share(row),
                f"{number(row['window_low'], 0)} to {number(row['window_high'], 0)}"
                if known(row["window_low"])
                else MISSING,
                number(row["headroom"], 1),
                *(
                    with_interval(s.get("tvx"), s.get("tvx_low"), s.get("tvx_high"))
                    for s in (smooth.get("x", {}), smooth.get("y", {}))
                ),
            ]
        )
    return _table(
        f"Stability at width {facts.widest}: runs that diverged, as not finite + above the start + rebound; share diverged in "
        "a window of rates of equal width around each method's own optimum, with Wilson's 95 % interval; headroom, the "
        "doublings from the optimum to the largest rate without divergence; excess variation of the validation curve at the "
        f"best rate (0: monotone). {where}",
        ["Method", "Diverged", "Share in window", "Window (log2)", "Headroom", "Variation at x", "Variation at y"],
        rows,
        missing="every run diverged, no optimum inside the grid, or one seed (no interval)",
        fill=[0],
    )


def _share(row: Record) -> str:
    """Share of diverged runs in the window, with its interval."""
    if not known(row["diverged_fraction"]):
        return MISSING
    share, low, high = (percent(row[name], 0) for name in ("diverged_fraction", "diverged_low", "diverged_high"))
    return f"{share}\n[{low}, {high}]"


def _test_block(facts: Facts, where: str) -> Block:
    records = facts.records("optima", width=facts.widest)
    if not any(known(row["test_loss"]) for row in records):
        ended = any(known(row["best_loss"]) for row in records)
        why = "this task's data has no test split" if ended else f"every run at width {facts.widest} diverged"
        return _text(f"{facts.description}: no test result, since {why}.")
    rows = [
        [
            display_name(row["method"]),
            number(row["log2_lr_argmin"], 0),
            number(row["test_loss"]),
            percent(row["test_accuracy"]),
            percent(row["val_accuracy"]),
        ]
        for row in records
    ]
    return _table(
        f"Test split, once: at width {facts.widest} and the rate that validation chose, mean over seeds. {where}",
        ["Method", "log2 rate", "Test loss (nats)", "Test accuracy", "Validation accuracy"],
        rows,
        missing="every run diverged, or one of the seeds at this rate did",
        fill=[0],
    )


HOW_TO_READ = [
    "Learning rates are powers of two, and a “doubling” is a factor of two. Under µP a rate is the one at base width.",
    "Best rate: the vertex of a parabola through the mean losses within two doublings of the best rate of the grid. Drift: "
    "the slope of the best log2 rate on log2 width; 0 is perfect transfer, and Adam under SP is expected near −1. A drift "
    "counts as none only if its 90 % interval is inside ±0.25: an interval that includes 0 is no proof.",
    "Regret: what using the base width's best rate costs, against the best rate of the grid at that width. Cross-fitted: both "
    "rates are chosen on the other seeds, so that no seed judges itself. It may be slightly negative. Read drift and regret "
    "together: in a flat valley the optimum wanders and costs nothing.",
    "LR sensitivity: the mean excess loss over a window of rates of equal width around each method's own optimum; a diverged "
    "run counts as the loss at initialisation.",
    "Intervals: 95 %, delete-one-seed jackknife with a t quantile; wide with few seeds, and rightly so.",
    "Schedule-free methods have three iterates: gradients are taken at y, the average x is what is evaluated and reported.",
    "A run that diverges is a result: it is counted, never trained again with another seed, and left out of fits.",
]


def _provenance_blocks(provenance: Mapping[str, Any]) -> list[Block]:
    rows = [[key.replace("_", " "), value] for key, value in _flat(provenance)]
    caption = "Where the numbers come from. provenance.json has more: checksums of the source files, and all digits."
    return [_table(caption, ["What", "Value"], rows, missing="not recorded or none", fill=[1])]


LEFT_OUT = ("files", "inputs", "class_names", "mean", "std")
"""Parts of a data set's manifest that are too long for a report."""


def _flat(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    """Nested JSON as lines: a path and what stands there. Plain values that stand together make one line."""
    if isinstance(value, Mapping):
        kept = {key: inner for key, inner in value.items() if key not in LEFT_OUT}
        if path and not any(isinstance(inner, Mapping | list) for inner in kept.values()):
            yield path, ", ".join(f"{key} {_plain(inner)}" for key, inner in kept.items()) or MISSING
            return
        for key, inner in kept.items():
            yield from _flat(inner, f"{path} · {key}" if path else key)
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for i, inner in enumerate(value, start=1):
            yield from _flat(inner, f"{path} · {inner['settings']['name']}" if "settings" in inner else f"{path} {i}")
    elif isinstance(value, list):
        yield path, ", ".join(_plain(inner) for inner in value) or MISSING
    else:
        yield path, _plain(value)


def _plain(value: Any) -> str:
    """A leaf of JSON; fractions to four digits."""
    return MISSING if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

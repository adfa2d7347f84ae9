"""What surprised in the study, tried once more: the paper's sentences on experiments that were designed after its results.

Such experiments are a study and a frozen folder of their own, so that nothing of them enters a table or a verdict of the study
that they follow. Each of their tasks has the question in its `note`; here is what came out, beside what the study had found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from mufree.analysis.metrics.stability import learnt_nothing
from mufree.analysis.metrics.statistics import Bools
from mufree.analysis.verdicts import judge
from mufree.publish.frozen import Frozen
from mufree.publish.numbers.captions import tail
from mufree.publish.numbers.words import design, drift_words, with_interval
from mufree.publish.report.captions import FIGURE_CAPTIONS
from mufree.publish.report.words import known, listing, number, plain, sentence

FIGURE = "loss_vs_lr"
"""The one figure that the paper shows of each follow-up."""

WIDTHS_OF_A_DRIFT = 3
"""With fewer widths a slope is not reported."""

SHARED = ["method", "width", "log2_lr", "seed"]
"""What two runs have in common that are compared."""


def collect(study: Frozen, later: Frozen) -> dict[str, Any]:
    """What `numbers.json` holds on the follow-ups `later` of `study`: questions, findings and captions by task."""
    tasks = []
    for task, settings in sorted(later.study["tasks"].items()):
        before = counterpart(study, settings)
        # The note is a question, and no caveat on the data; that is the one of the study's task.
        caveat = study.study["tasks"][before].get("note") if before else ""
        captioned = replace(later, study={"tasks": {task: {**settings, "note": caveat}}})
        tasks.append(
            {
                "name": task,
                "question": plain(settings.get("note")),
                "findings": findings(study, later, task, before),
                "caption": f"Post hoc. {settings['description']} ({task}). {FIGURE_CAPTIONS[FIGURE]} "
                + tail(captioned, [task]),
            }
        )
    return {"run_set": later.manifest["run_set"], "tasks": tasks}


def again(study: Frozen, later: Frozen) -> str:
    """Whether both parts of H1a hold once more where the study's own design was run on other seeds; nothing where none was.

    Each part by its own rule, with no correction: it is the only question that such a follow-up asks.
    """
    outcomes: dict[bool, list[str]] = {True: [], False: []}
    for task, settings in later.study["tasks"].items():
        before = counterpart(study, settings)
        if before and _on_other_seeds(study, before, later, task):
            outcomes[_both_parts_hold(study, later, task)].append(before)
    said = {
        True: "both parts hold again on other seeds of {}, post hoc",
        False: "not so on other seeds of {}, post hoc",
    }
    return "; ".join(said[held].format(listing(sorted(tasks))) for held, tasks in outcomes.items() if tasks)


def _on_other_seeds(study: Frozen, before: str, later: Frozen, task: str) -> bool:
    """Whether a follow-up is the study's task `before` on seeds that this has not."""
    same = _design(later.study["tasks"][task]) == _design(study.study["tasks"][before])
    return same and not set(study.primary(before)["seed"]) & set(later.primary(task)["seed"])


def _design(settings: Mapping[str, Any]) -> list[Any]:
    """All that makes ScheduleFree's runs of a task what they are, but for method, width, rate and seed."""
    optimizer = settings.get("optimizers", {}).get("adamw_schedulefree")
    return [*(settings.get(name) for name in ("dataset", "model", "base_width", "training")), optimizer]


def _both_parts_hold(study: Frozen, later: Frozen, task: str) -> bool:
    """That each of H1a's conditions is supported by a follow-up's estimates, as the study's hypotheses have them."""
    judged = judge(later.estimates[later.estimates["task"].eq(task)], study.hypotheses)
    return set(judged[judged["id"].eq("H1a") & judged["scope"].eq("condition")]["verdict"]) == {"supported"}


def counterpart(study: Frozen, settings: Mapping[str, Any]) -> str | None:
    """The task of the study with the same data set and kind of model as a follow-up, which that is compared with."""

    def kind(task: Mapping[str, Any]) -> tuple[str, str]:
        return task["dataset"]["name"], task["model"]["name"]

    return next((name for name in study.tasks if kind(study.study["tasks"][name]) == kind(settings)), None)


def failed(runs: pd.DataFrame) -> Bools:
    """Runs that diverged or learnt nothing."""
    diverged = runs["status"].eq("diverged").to_numpy(bool)
    return diverged | learnt_nothing(runs["initial_loss"].to_numpy(float), runs["train_loss"].to_numpy(float), diverged)


def findings(study: Frozen, later: Frozen, task: str, before: str | None) -> list[str]:
    """Design, drifts, best losses, and where runs fail, each beside that of the study's task `before` where it has the like."""
    parts = (_drifts, _losses, _failures)
    return [design(later, task), *(line for part in parts for line in part(study, later, task, before))]


def _drifts(study: Frozen, later: Frozen, task: str, before: str | None) -> list[str]:
    out = []
    for row in later.records("estimates", task=task, statistic="drift"):
        method = row["subject"]
        if later.n_widths(task, method) < WIDTHS_OF_A_DRIFT or not known(row["estimate"]):
            continue
        text = f"drift of {later.named(method)} {with_interval(row)}, {drift_words(row)}"
        out.append(sentence(text + _in_the_study(study, before, statistic="drift", subject=method)))
    return out


def _losses(study: Frozen, later: Frozen, task: str, before: str | None) -> list[str]:
    """By method, its best loss at its largest width; at an edge of the rates tried it is not known, and left out."""
    out = []
    for method in later.methods(task):
        found = {"statistic": "best_loss", "subject": method}
        rows = [row for row in later.records("estimates", task=task, **found) if known(row["estimate"])]
        if not rows:
            continue
        widest = max(rows, key=lambda row: float(row["width"]))
        (optimum,) = later.records("optima", task=task, method=method, width=widest["width"])
        if optimum["flag"].startswith("edge"):
            continue
        text = f"best loss of {later.named(method)} at width {int(widest['width'])} {with_interval(widest)} nats"
        out.append(sentence(text + _in_the_study(study, before, width=widest["width"], **found)))
    return out


def _in_the_study(study: Frozen, before: str | None, **found: Any) -> str:
    """What to add to an estimate: the same one in the study's task `before`, if that has it."""
    rows = study.records("estimates", task=before, **found)
    return f"; in {before} it is {with_interval(rows[0])}" if rows and known(rows[0]["estimate"]) else ""


def _failures(study: Frozen, later: Frozen, task: str, before: str | None) -> list[str]:
    """By method: how many runs failed, of those that the study has as well, and from which rate on."""
    runs = later.primary(task)
    runs = runs.assign(failed=failed(runs))
    out = []
    for method in later.methods(task):
        mine = runs[runs["method"].eq(method)]
        edges = [f"width {width}: {_edge(mine[mine['width'].eq(width)])}" for width in sorted(mine["width"].unique())]
        text = f"{later.named(method)} fails, by divergence or by learning nothing, {'; '.join(edges)}"
        if before is not None:
            theirs = study.primary(before)
            both = mine.merge(theirs.assign(failed=failed(theirs)), on=SHARED, suffixes=("", "_before"))
            if len(both):
                text += (
                    f". Of the {len(both)} runs whose method, width, rate and seed {before} has as well, "
                    f"{int(both['failed'].sum())} fail here and {int(both['failed_before'].sum())} there"
                )
        out.append(sentence(text))
    return out


def _edge(runs: pd.DataFrame) -> str:
    """The lowest rate at which a run failed, and how many did there."""
    bad = runs[runs["failed"]]
    if bad.empty:
        return f"at no log2 rate up to {number(runs['log2_lr'].max(), 0)}"
    lowest = bad["log2_lr"].min()
    there = runs[runs["log2_lr"].eq(lowest)]
    return f"from log2 rate {number(lowest, 0)} on ({int(there['failed'].sum())} of {len(there)} seeds there)"

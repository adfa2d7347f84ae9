"""The report as plain data: sections of blocks, which both templates lay out (see `blocks`).

All of it is strings: nothing is rounded or worded later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from mufree.publish.report import questions, reading, setting, summary
from mufree.publish.report.blocks import text
from mufree.publish.report.facts import Facts, names_of, roles_of
from mufree.study.config import Method


def document(
    study: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    summary_numbers: Mapping[str, Any],
    provenance: Mapping[str, Any],
    rows: pd.DataFrame | None = None,
    figures: Collection[str] | None = None,
) -> dict[str, Any]:
    """The whole report, question by question and within a question task by task.

    `study` is the study file's content, `tables` the metrics' tables by name (a table that is missing or empty is a question
    not asked), `summary_numbers` summary.json and `provenance` provenance.json, whose `data` lists the data sets' manifests.
    `rows` say what a method is that the study file doesn't define. `figures` are the stems of the figures that can be shown,
    all of them if None. Raises ValueError if tables and summary disagree on the number of runs.
    """
    tasks, manifests = _facts(study, tables, provenance, rows, figures)
    runs = sum(facts.runs for facts in tasks)
    if runs != summary_numbers["n_runs"]:
        raise ValueError(
            f"the tables have {runs} runs and summary.json {summary_numbers['n_runs']}; run `mufree metrics` again"
        )
    left = questions.not_asked(tasks)
    return {
        "title": study["title"],
        "subtitle": f"Study “{study['name']}”: learning-rate transfer across width, SP and µP, AdamW and ScheduleFree",
        "sections": [
            _section("summary", "Summary", summary.blocks(tasks, tables.get("verdicts"))),
            _section("setting", "What was run", setting.blocks(tasks, manifests)),
            *questions.sections(tasks),
            _section("reading", "How to read this", [*reading.how_to_read(), *([text(left)] if left else [])]),
            _section("provenance", "Provenance", reading.provenance(provenance)),
        ],
    }


def names(
    study: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], rows: pd.DataFrame | None = None
) -> dict[str, str]:
    """The names for readers of all methods in the tables."""
    return names_of(_roles(study, tables, rows))


def _roles(
    study: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], rows: pd.DataFrame | None
) -> dict[str, Method]:
    return roles_of(
        study, rows, {method for table in tables.values() if "method" in table for method in table["method"]}
    )


def _section(key: str, title: str, blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"id": key, "title": title, "blocks": list(blocks)}


def _facts(
    study: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    provenance: Mapping[str, Any],
    rows: pd.DataFrame | None,
    figures: Collection[str] | None,
) -> tuple[list[Facts], dict[str, Mapping[str, Any]]]:
    """The tasks' facts, and the manifests of their data by task."""
    roles = _roles(study, tables, rows)
    called = names_of(roles)
    manifests = {
        name: setting.manifest_of(task["dataset"], provenance["data"]) for name, task in study["tasks"].items()
    }
    tasks = []
    for name, task in study["tasks"].items():
        caveat = setting.caveat_of(manifests[name])
        mine = {key: table[table["task"].eq(name)] for key, table in tables.items() if "task" in table}
        shown = None if figures is None else frozenset(figures)
        tasks.append(Facts(name, task, mine, roles, called, f" {caveat}" if caveat else "", shown))
    return tasks, manifests

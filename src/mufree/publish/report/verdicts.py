"""What the rows of the verdicts say, as `mufree.analysis.verdicts.judge` makes them: a sentence, and a table a question.

A row is a condition of a hypothesis in a task, or all its conditions together (scope `task`), or all tasks together
(scope `overall`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mufree.publish.report.blocks import Block, table
from mufree.publish.report.facts import Facts, Record
from mufree.publish.report.terms import (
    EFFECTS,
    PREFIXES,
    STATISTICS,
    bounds,
    question_of,
    statistic,
    subject_words,
    value,
    with_unit,
)
from mufree.publish.report.words import MISSING, known, number, plain, sentence, with_names

WORDS = {
    "supported": "supported",
    "refuted": "refuted",
    "inconclusive": "inconclusive",
    "not_estimable": "not estimable",
}
"""Verdicts as they are read, in the order in which they are listed."""
KINDS = {
    "primary": "Hypotheses of this study",
    "replication": "What others have published, tried again here",
    "control": "Controls of the measurement",
}
"""Kinds of hypotheses, in the order in which they are told."""


def in_words(row: Record) -> str:
    """The verdict of a row, and whether it was asked after results were seen."""
    late = " (post hoc)" if str(row.get("post_hoc")) == "True" else ""
    return WORDS.get(str(row["verdict"]), plain(row["verdict"])) + late


def of_question(facts: Facts, question: str) -> list[Record]:
    """The rows of this task whose hypothesis is about a question, which its first condition's statistic says."""
    rows = facts.records("verdicts")
    chosen = {
        row["id"]
        for row in rows
        if row["scope"] == "condition" and row["condition"] == 1 and question_of(str(row["statistic"])) == question
    }
    return [row for row in rows if row["id"] in chosen]


def answer(rows: Sequence[Record], facts: Facts) -> str:
    """What came out in one task: the verdict, and the numbers that decide. `rows` are one hypothesis's there."""
    whole = next(row for row in rows if row["scope"] == "task")
    if whole["verdict"] == "not_estimable":
        missing = [_reason(row, facts) for row in rows if row["scope"] == "condition" and not known(row["estimate"])]
        return f"{in_words(whole)}{f' ({missing[0]})' if missing else ''}."
    conditions = [row for row in rows if row["scope"] == "condition"]
    groups = dict.fromkeys(row["condition"] for row in conditions)
    details = [_condition([row for row in conditions if row["condition"] == group], facts) for group in groups]
    refuted = whole["verdict"] == "refuted"
    p = whole.get("p_refuted_holm" if refuted else "p_holm")
    if known(p):
        details.append(f"p {'of the refutation ' if refuted else ''}{_compared(p)} after Holm's correction")
    return f"{in_words(whole)}. {sentence('; '.join(details))}"


def _condition(rows: Sequence[Record], facts: Facts) -> str:
    """The statistic of a condition with its 95 % interval; of many widths the least and the greatest."""
    estimated = sorted((row for row in rows if known(row["estimate"])), key=lambda row: float(row["estimate"]))
    what = statistic(str(rows[0]["statistic"]))
    if not estimated:
        return f"{what.words} of {about(rows[0], facts)} not estimable"
    shown = estimated if len(estimated) == 1 else [estimated[0], estimated[-1]]
    numbers = [_with_bounds(row, with_width=len(rows) > 1) for row in shown]
    subject = about(rows[0] if len(rows) == 1 else rows[0] | {"width": None}, facts)
    return f"{what.words} of {subject}: {' to '.join(numbers)}"


def _with_bounds(row: Record, with_width: bool) -> str:
    what = statistic(str(row["statistic"]))
    between = bounds(row["low"], row["high"], what)
    text = with_unit(row["estimate"], what) + ("" if between == MISSING else f" {between}")
    return f"{text} at width {int(row['width'])}" if with_width and known(row["width"]) else text


def about(row: Record, facts: Facts) -> str:
    """The subject of a row and its width."""
    width = f" at width {int(row['width'])}" if known(row.get("width")) else ""
    return (
        "the four methods" if row["subject"] == "interaction" else subject_words(row["subject"], facts.named)
    ) + width


RULES = {"inside": "inside ±{}", "excludes_zero": "excludes 0; no effect is ±{}"}


def _rule(row: Record) -> str:
    """The rule and its margin, which comes from a file as a number or as text."""
    margin = row.get("margin")
    amount = f"{margin:g}".replace("-", "−") if known(margin) else plain(margin)
    rule = plain(row.get("rule"))
    return RULES.get(rule, f"{rule} {{}}").format(amount).strip() or MISSING


def _reason(row: Record, facts: Facts) -> str:
    """Why, with methods and statistics called as they are elsewhere."""

    def named(word: str) -> str:
        listed = word in STATISTICS or word.startswith((*EFFECTS, *PREFIXES))
        return statistic(word).words if listed else facts.named(word)

    return with_names(plain(row.get("reason")), named).rstrip(".")


def _compared(p: Any) -> str:
    shown = p_value(p)
    return shown if shown.startswith("<") else f"= {shown}"


def p_value(p: Any) -> str:
    """Three decimals, and `< 0.001` below that."""
    if not known(p):
        return MISSING
    return "< 0.001" if p < 0.001 else number(p)


def verdict_table(facts: Facts, question: str) -> list[Block]:
    """The rules of a question's hypotheses and what they gave; nothing if there are none."""
    rows = of_question(facts, question)
    if not rows:
        return []
    cells: list[list[str]] = []
    for name in dict.fromkeys(row["id"] for row in rows):
        mine = [row for row in rows if row["id"] == name]
        whole = next(row for row in mine if row["scope"] == "task")
        conditions = [row for row in mine if row["scope"] == "condition"]
        if len(conditions) == 1:
            cells.append(_cells(conditions[0], whole, facts))
        else:
            cells += [_cells(row, None, facts) for row in conditions]
            cells.append([str(name), "all of these together", *4 * [""], p_value(whole.get("p_holm")), in_words(whole)])
    cells = [[cell or " " for cell in row] for row in cells]
    reasons = dict.fromkeys(
        f"{row['id']}: {_reason(row, facts)}."
        for row in rows
        if row["scope"] == "task" and row["verdict"] in ("inconclusive", "not_estimable") and plain(row.get("reason"))
    )
    return [
        table(
            f"What decides the hypotheses of this question, by which rule, and the verdict. {facts.where}",
            ["Id", "Statistic", "Estimate", "95 % interval", "90 % interval", "Rule", "p (Holm)", "Verdict"],
            cells,
            missing="not estimable, or no part of the rule; Holm's correction is for the primary hypotheses of a task",
            notes=list(reasons),
            fill=[1, 5],
        )
    ]


def _cells(row: Record, whole: Record | None, facts: Facts) -> list[str]:
    what = statistic(str(row["statistic"]))
    judged = row if whole is None else whole
    unit = f" ({what.shown_unit})" if what.shown_unit else ""
    return [
        str(row["id"]),
        f"{what.words}{unit}\n{about(row, facts)}",
        value(row["estimate"], what),
        bounds(row.get("low"), row.get("high"), what),
        bounds(row.get("low90"), row.get("high90"), what),
        _rule(row),
        "" if whole is None else p_value(whole.get("p_holm")),
        in_words(judged),
    ]

"""The executive summary: what was run, and the answers with the numbers that decide.

It claims what was observed in these models at these widths, and no more. Every number in it is a table's.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mufree.analysis.tables.transfer import EQUIVALENCE_MARGIN
from mufree.analysis.verdicts import PRIMARY_SEEDS
from mufree.publish.report.best import best_sentence
from mufree.publish.report.blocks import Block, heading, points, table, text
from mufree.publish.report.facts import Facts, Record
from mufree.publish.report.stability import diverged_sentence
from mufree.publish.report.transfer import drift_class
from mufree.publish.report.verdicts import KINDS, answer, in_words
from mufree.publish.report.words import MISSING, count, gates, interval, known, listing, number, plain, verdict

DRIFTS = {
    "drifts": "drifts",
    "none": f"does not drift beyond ±{EQUIVALENCE_MARGIN}",
    "small": f"moves, but by less than ±{EQUIVALENCE_MARGIN},",
    "undecided": "is undecided",
    "not_estimable": "has no estimable drift",
}


def blocks(tasks: Sequence[Facts], verdicts: pd.DataFrame | None) -> list[Block]:
    """What was run, then the verdicts; where there are none, the main answers from the tables."""
    head = text(" ".join(headline(tasks)))
    if verdicts is None or verdicts.empty:
        return [head, *(points(facts.scope, answers(facts)) for facts in tasks)]
    return [head, *_exploratory(tasks), *_verdicts(tasks, verdicts)]


def headline(tasks: Sequence[Facts]) -> list[str]:
    """The study in a few sentences: its size, and how drift came out under SP and under µP."""
    runs, diverged = sum(f.runs for f in tasks), sum(f.diverged for f in tasks)
    out = [
        f"{count(runs, 'run')} of {count(len(tasks), 'task')} were trained; {diverged} diverged. "
        "What follows holds for these models, widths, data and numbers of steps, and not beyond them."
    ]
    for family, parametrization in (("SP", "sp"), ("µP", "mup")):
        kinds = [
            drift_class(row)
            for facts in tasks
            for row in facts.records("transfer")
            if facts.roles[row["method"]].parametrization == parametrization and row["n_widths"] + row["n_censored"] > 1
        ]
        found = [f"{words} in {kinds.count(kind)}" for kind, words in DRIFTS.items() if kind in kinds]
        if kinds:
            pairs = count(len(kinds), "pair")
            out.append(f"Under {family}, of {pairs} of task and method, the best learning rate {listing(found)}.")
    if any(f.seeds == [1] for f in tasks):
        out.append("Where there is one seed there is no interval: such numbers say nothing about chance.")
    return out


def _exploratory(tasks: Sequence[Facts]) -> list[Block]:
    """Which verdicts rest on few seeds."""
    out = []
    for facts in tasks:
        judged = [row for row in facts.records("verdicts") if row["scope"] == "condition" and known(row["n_seeds"])]
        few = dict.fromkeys(str(row["id"]) for row in judged if row["n_seeds"] < PRIMARY_SEEDS)
        which = "all verdicts" if set(few) == {str(row["id"]) for row in judged} else listing(list(few))
        if few:
            said = f"{facts.description}: exploratory, with fewer than {PRIMARY_SEEDS} seeds: {which}."
            out.append(text(said))
    return out


def _verdicts(tasks: Sequence[Facts], verdicts: pd.DataFrame) -> list[Block]:
    """By kind of hypothesis: a table of verdicts, then each with its numbers."""
    records: list[Record] = [{str(k): v for k, v in row.items()} for row in verdicts.to_dict("records")]
    out: list[Block] = []
    for kind, title in KINDS.items():
        mine = [row for row in records if row["kind"] == kind]
        if mine:
            out += [heading(title), _overview(title, tasks, mine), *_details(tasks, mine)]
    return out


def _overview(title: str, tasks: Sequence[Facts], records: Sequence[Record]) -> Block:
    rows = []
    for name in dict.fromkeys(row["id"] for row in records):
        mine = [row for row in records if row["id"] == name]
        by_task = {row["task"]: in_words(row) for row in mine if row["scope"] == "task"}
        overall = next((in_words(row) for row in mine if row["scope"] == "overall"), MISSING)
        cells = [by_task.get(facts.name, MISSING) for facts in tasks]
        rows.append([str(name), plain(mine[0]["claim"]), plain(mine[0].get("expects")) or MISSING, *cells])
        if len(tasks) > 1:
            rows[-1].append(overall)
    columns = [
        "Id",
        "Claim",
        "Expected",
        *(facts.description for facts in tasks),
        *(["All tasks"] if len(tasks) > 1 else []),
    ]
    caption = f"{title}: the verdicts. Claims, rules and what was expected were written before the runs"
    if any(str(row.get("post_hoc")) == "True" for row in records):
        caption += ", those marked post hoc after results were seen"
    return table(caption, columns, rows, missing="not asked of this task", fill=range(1, 2))


def _details(tasks: Sequence[Facts], records: Sequence[Record]) -> list[Block]:
    """The numbers that decide, a line a hypothesis and task; those that no task can tell are named together."""
    items, untold = [], []
    for name in dict.fromkeys(row["id"] for row in records):
        mine = [row for row in records if row["id"] == name]
        if all(row["verdict"] == "not_estimable" for row in mine if row["scope"] == "task"):
            untold.append(str(name))
            continue
        for facts in tasks:
            here = [row for row in mine if row["task"] == facts.name]
            if here:
                items.append(f"{name}, {facts.description}: {answer(here, facts)}")
    if untold:
        items.append(
            f"{listing(untold)}: not estimable; this study lacks what the rule takes, see the questions below."
        )
    return [points("The numbers that decide, with 95 % intervals in brackets", items)]


def answers(facts: Facts) -> list[str]:
    """The main answers of one task, a sentence each, with the numbers that decide."""
    return [
        *_drifts(facts),
        *_regrets(facts),
        f"Best at width {facts.widest}: {best_sentence(facts)}",
        f"Diverged: {diverged_sentence(facts)}",
        f"Coordinate check: {_check(facts)}",
        f"Negative control: {_control(facts)}",
    ]


def _drifts(facts: Facts) -> list[str]:
    """One sentence for each way in which drifts came out."""
    rows = facts.records("transfer")
    words = {
        "drifts": "The best learning rate drifts with width in",
        "none": f"The best learning rate does not drift beyond ±{EQUIVALENCE_MARGIN} doublings per doubling of width in",
        "small": f"The best learning rate moves, but by less than ±{EQUIVALENCE_MARGIN} doublings per doubling of width, in",
        "undecided": "Whether the best learning rate drifts with width is undecided in",
        "not_estimable": "The drift of the best learning rate is not estimable in",
    }
    classes = {kind: [_with_drift(row, facts) for row in rows if drift_class(row) == kind] for kind in words}
    return [f"{words[kind]} {listing(found)}." for kind, found in classes.items() if found]


def _with_drift(row: Record, facts: Facts) -> str:
    name = facts.named(row["method"])
    if not known(row["drift"]):
        return name
    between = interval(row["drift_low"], row["drift_high"], 2, sign=True)
    return (
        f"{name} (b = {number(row['drift'], 2, sign=True)}{'' if between == MISSING else f', 95 % interval {between}'})"
    )


def _regrets(facts: Facts) -> list[str]:
    if facts.widest == facts.base:
        return []
    rows = facts.records("regret", width=facts.widest)
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(_regret_class(row), []).append(_with_regret(row, facts))
    start = f"Using the rate of width {facts.base} at width {facts.widest}"
    words = {
        "small": f"{start} costs little (below 0.01 nats or twice the seeds' standard deviation) in",
        "cost": f"{start} costs something in",
        "undecided": f"Whether {start[0].lower()}{start[1:]} costs anything is undecided in",
        "not_estimable": f"{start}: the cost is not estimable in",
    }
    return [f"{words[kind]} {listing(groups[kind])}." for kind in words if kind in groups]


def _regret_class(row: Record) -> str:
    if not known(row["regret_cf"]):
        return "not_estimable"
    if verdict(row["good"]):
        return "small"
    return "cost" if known(row["regret_cf_low"]) and row["regret_cf_low"] > 0 else "undecided"


def _with_regret(row: Record, facts: Facts) -> str:
    name = facts.named(row["method"])
    if not known(row["regret_cf"]):
        return name
    between = interval(row["regret_cf_low"], row["regret_cf_high"])
    return f"{name} ({number(row['regret_cf'])} nats{'' if between == MISSING else f', 95 % interval {between}'})"


def _check(facts: Facts) -> str:
    """Which methods passed at every point that was checked."""
    rows = facts.records("coordcheck_verdict")
    if not rows:
        return "not run."
    outcomes = gates(rows)
    parts = [
        f"{verb} {listing([facts.named(m) for m in outcomes if outcomes[m] == outcome])}"
        for verb, outcome in (("passed by", "passed"), ("failed by", "failed"), ("not decided for", "undecided"))
        if outcome in outcomes.values()
    ]
    expected = all(outcomes[m] == ("passed" if facts.roles[m].parametrization == "mup" else "failed") for m in outcomes)
    return f"{', '.join(parts)}{', as should be' if expected else ', which is not as should be'}."


def _control(facts: Facts) -> str:
    rows = [row for row in facts.records("control") if row["n_pairs"]]
    if not rows:
        return "not checked."
    equal, pairs = sum(int(r["n_equal"]) for r in rows), sum(int(r["n_pairs"]) for r in rows)
    text = f"at width {facts.base}, SP and µP gave bit for bit the same losses in {equal} of {pairs} pairs of runs"
    return f"{text}." if equal == pairs else f"{text}; the implementation is in doubt."

"""What the tables say about one task, in sentences. Every number in them is a table's.

The wording claims what was observed in these models at these widths, and says so when a number is not there and why.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from mufree.figures.style import display_name, ordered
from mufree.report.words import count, interval, known, listing, number, span, verdict

DRIFT_MARGIN = 0.25
"""Doublings per doubling of width; a drift inside it counts as none (METRICS, section 1)."""
Record = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """One task: its name, its description, the number of seeds of its coordinate check, and its part of every table."""

    name: str
    description: str
    check_seeds: int
    tables: dict[str, pd.DataFrame]

    def records(self, table: str, **where: Any) -> list[Record]:
        """Rows of a table in the methods' order of display, those with the given values."""
        frame = self.tables[table]
        for column, value in where.items():
            frame = frame[frame[column].eq(value)]
        found: list[Record] = [
            dict(zip(map(str, frame.columns), row, strict=True)) for row in frame.itertuples(index=False, name=None)
        ]
        if "method" not in frame:
            return found
        place = {method: i for i, method in enumerate(self.methods)}
        return sorted(found, key=lambda record: place[record["method"]])

    @cached_property
    def methods(self) -> list[str]:
        """Methods in the order of display."""
        return ordered(self.tables["optima"]["method"])

    @cached_property
    def widths(self) -> list[int]:
        """All widths, ascending."""
        return sorted(int(w) for w in self.tables["optima"]["width"].unique())

    @property
    def widest(self) -> int:
        """The largest width."""
        return self.widths[-1]

    @property
    def base(self) -> int:
        """The width at which SP and µP are the same network."""
        return int(self.tables["optima"]["base_width"].iloc[0])

    @cached_property
    def seeds(self) -> list[int]:
        """How many seeds the methods were judged by: one number, unless methods differ."""
        return sorted(int(n) for n in self.tables["optima"]["n_seeds"].unique())

    @property
    def seeds_words(self) -> str:
        """The number of seeds and its noun."""
        return count(self.seeds[0], "seed") if len(self.seeds) == 1 else f"{span(self.seeds)} seeds"

    @property
    def diverged(self) -> int:
        """Runs that diverged."""
        return int(self.tables["optima"]["n_diverged"].sum())

    @property
    def runs(self) -> int:
        """All runs."""
        return int(self.tables["optima"]["n_runs"].sum())

    @property
    def error_bars(self) -> str:
        """What an interval of this task is."""
        if self.seeds == [1]:
            return "one seed, so there are no intervals"
        freedom = f", {count(self.seeds[0] - 1, 'degree')} of freedom" if len(self.seeds) == 1 else ""
        return f"intervals: 95 %, delete-one-seed jackknife with t quantile, {self.seeds_words}{freedom}"


def plain_words(facts: Facts) -> list[dict[str, Any]]:
    """The answers to the study's questions for one task, each with what it is about and a sentence a method or one for all."""
    return [
        {"lead": "Does the best learning rate drift with width?", "items": drift_sentences(facts)},
        {"lead": _regret_lead(facts), "items": regret_sentences(facts)},
        {"lead": f"Which method is best at width {facts.widest}?", "items": [best_sentence(facts)]},
        {"lead": "What diverged?", "items": [diverged_sentence(facts)]},
        {"lead": "Negative control: are SP and µP the same at base width?", "items": control_sentences(facts)},
        {
            "lead": "Coordinate check: do activations keep their size as width grows?",
            "items": coordcheck_sentences(facts),
        },
    ]


def drift_class(row: Record) -> str:
    """`none`, `drifts`, `small` (not 0, but inside the margin), `undecided` or `not_estimable`."""
    if row["status"] != "ok" or not known(row["drift"]):
        return "not_estimable"
    if not (known(row["drift_low"]) and known(row["drift_high"])):
        return "undecided"
    excludes_zero = row["drift_low"] > 0 or row["drift_high"] < 0
    if verdict(row["equivalent"]):
        return "small" if excludes_zero else "none"
    return "drifts" if excludes_zero else "undecided"


def drift_sentences(facts: Facts) -> list[str]:
    """For each method: drift, interval, and what they decide."""
    return [f"{display_name(row['method'])}: {_drift(row, facts)}" for row in facts.records("transfer")]


def _drift(row: Record, facts: Facts) -> str:
    reason = row["reason"] if isinstance(row["reason"], str) and row["reason"] else "no reason is on record"
    kind = drift_class(row)
    if kind == "not_estimable":
        return f"not estimable: {reason.replace('_', ' ')}."
    text = f"b = {number(row['drift'], 2, sign=True)} doublings per doubling of width"
    if not known(row["drift_low"]):
        return f"{text}, without an interval ({_no_interval(facts, reason)}), so nothing is decided."
    text += f", 95 % interval {interval(row['drift_low'], row['drift_high'], 2, sign=True)}"
    margin = f"±{DRIFT_MARGIN}"
    meaning = {
        "none": f"no drift beyond {margin} (the 90 % interval is inside)",
        "small": f"not zero, yet inside {margin} (the 90 % interval is)",
        "drifts": f"it drifts (the interval excludes 0; the 90 % interval is not inside {margin})",
        "undecided": f"undecided (the interval includes 0, and the 90 % interval is not inside {margin})",
    }[kind]
    censored = f"; {count(row['n_censored'], 'width')} left out, censored" if row["n_censored"] else ""
    return f"{text}: {meaning}{censored}."


def _no_interval(facts: Facts, reason: str) -> str:
    return "one seed" if facts.seeds == [1] else reason


def _regret_lead(facts: Facts) -> str:
    return f"What does it cost to use the rate of width {facts.base} at width {facts.widest}?"


def regret_sentences(facts: Facts) -> list[str]:
    """For each method: the regret at the largest width, in nats."""
    if facts.widest == facts.base:
        return [f"Not estimable: {facts.base} is the only width, or the largest."]
    rows = facts.records("regret", width=facts.widest)
    return [f"{display_name(row['method'])}: {_regret(row)}" for row in rows] or ["Not estimable: no method ran there."]


def _regret(row: Record) -> str:
    flag = row["flag"]
    if not known(row["regret"]):
        return f"not estimable: {REGRET_FLAGS.get(flag, flag)}."
    note = f"; {REGRET_FLAGS[flag]}" if flag in ("diverged", "edge") else ""
    if not known(row["regret_cf"]):
        same = f"{number(row['regret'])} nats on the same seeds, which is biased upward"
        return f"{same}; the cross-fitted regret takes two seeds{note}."
    text = f"{number(row['regret_cf'])} nats"
    if not known(row["regret_cf_low"]):
        return f"{text}, without an interval (that takes three seeds){note}."
    text += f", 95 % interval {interval(row['regret_cf_low'], row['regret_cf_high'])}"
    if verdict(row["good"]):
        return f"{text}: small (below 0.01 nats or twice the seeds' standard deviation){note}."
    if row["regret_cf_low"] > 0:
        return f"{text}: a cost (the interval excludes 0 and isn't small){note}."
    return f"{text}: undecided (the interval includes 0 and isn't small){note}."


REGRET_FLAGS = {
    "ok": "",
    "few_seeds": "too few seeds for an interval",
    "edge": "an optimum is at an edge of the grid, so the true regret may be larger",
    "diverged": "a run diverged at the transferred rate and counts as the loss at initialisation",
    "all_diverged": "every run of this width diverged",
    "base_all_diverged": "every run at base width diverged",
    "not_run": "the transferred rate was not run at this width",
    "no_base_width": "the method was not run at base width",
}
"""What the flags of the regret table mean."""


def best_sentence(facts: Facts) -> str:
    """The method of the lowest best validation loss at the largest width, and how far the next is."""
    rows = [r for r in facts.records("optima", width=facts.widest) if known(r["best_loss"])]
    if not rows:
        return f"No method has a loss to compare: every run at width {facts.widest} diverged."
    first, *others = sorted(rows, key=lambda r: float(r["best_loss"]))
    text = f"{display_name(first['method'])}, with a validation loss of {_loss(first)}"
    if not others:
        return f"{text}; no other method has one."
    gap = others[0]["best_loss"] - first["best_loss"]
    text += f"; next is {display_name(others[0]['method'])} with {_loss(others[0])}, {number(gap)} nats more"
    errors = [first["best_loss_se"], others[0]["best_loss_se"]]
    if not all(known(e) for e in errors):
        return f"{text}. One seed has no standard error, so the order may be chance."
    if gap < 2 * sum(e**2 for e in errors) ** 0.5:
        return f"{text}, which is less than two standard errors of the difference (seeds taken as independent)."
    return f"{text}, which is more than two standard errors of the difference (seeds taken as independent)."


def _loss(row: Record) -> str:
    error = f" ± {number(row['best_loss_se'])} (standard error)" if known(row["best_loss_se"]) else ""
    return f"{number(row['best_loss'])}{error} nats"


def diverged_sentence(facts: Facts) -> str:
    """How many runs diverged, in all and by method."""
    if not facts.diverged:
        return f"None of {facts.runs} runs."
    totals = facts.tables["optima"].groupby("method")[["n_diverged", "n_runs"]].sum()
    each = [f"{display_name(m)} {totals.n_diverged[m]} of {totals.n_runs[m]}" for m in facts.methods]
    head = "All" if facts.diverged == facts.runs else f"{facts.diverged} of"
    return f"{head} {facts.runs} runs: {listing(each)}. The grid reaches into divergence on purpose."


def control_sentences(facts: Facts) -> list[str]:
    """Whether SP and µP gave the same bits at base width, for each pair of methods."""
    out = []
    for row in facts.records("control"):
        pair = listing([display_name(m) for m in row["optimizer"].split("=")])
        share = f"{row['n_equal']} of {row['n_pairs']} pairs of runs at width {row['width']}"
        if not row["n_pairs"]:
            out.append(f"{pair}: not checked, no pair of runs at base width.")
        elif row["n_equal"] == row["n_pairs"]:
            out.append(f"{pair}: yes, bit for bit the same losses in {share}.")
        else:
            out.append(f"{pair}: NO, the same losses in only {share}; the implementation is in doubt.")
    return out or ["Not checked: no two methods differ in the parametrization alone."]


def coordcheck_sentences(facts: Facts) -> list[str]:
    """The verdicts, and for SP that it has to fail."""
    rows = facts.records("coordcheck_verdict")
    out = []
    for method in facts.methods:
        mine = sorted((r for r in rows if r["method"] == method), key=lambda r: str(r["at"]))
        if mine:
            parts = [f"{_passed(row)} at {row['at']}{_worst(row)}" for row in mine]
            out.append(f"{display_name(method)}: {listing(parts)}{_expectation(method, mine)}.")
    return out or ["Not run."]


def _passed(row: Record) -> str:
    if not row["n_checked"]:
        return "not checked"
    return "passes" if verdict(row["passed"]) else f"fails {row['n_failed']} of {row['n_checked']} slopes"


def _worst(row: Record) -> str:
    if not known(row["worst_slope"]):
        return ""
    return f" (worst slope {number(row['worst_slope'], 2, sign=True)}, {row['worst_module']})"


def _expectation(method: str, rows: Iterable[Record]) -> str:
    passed = all(verdict(row["passed"]) for row in rows)
    if method.startswith("sp_"):
        return "; SP should fail, so here the check does not tell µP from SP" if passed else ", as SP should"
    return "" if passed else "; what is said of this method under µP is in doubt"


def headline(tasks: list[Facts]) -> list[str]:
    """The study in a few sentences: its size, and how drift came out under SP and under µP."""
    runs, diverged = sum(f.runs for f in tasks), sum(f.diverged for f in tasks)
    out = [
        f"{count(runs, 'run')} of {count(len(tasks), 'task')} were trained; {diverged} diverged. "
        "What follows holds for these models, widths, data and numbers of steps, and not beyond them."
    ]
    words = {
        "drifts": "drifts in {}",
        "none": f"does not drift beyond ±{DRIFT_MARGIN} in {{}}",
        "small": f"moves, but by less than ±{DRIFT_MARGIN}, in {{}}",
        "undecided": "is undecided in {}",
        "not_estimable": "has no estimable drift in {}",
    }
    for family, prefix in (("SP", "sp_"), ("µP", "mup_")):
        kinds = [drift_class(r) for f in tasks for r in f.records("transfer") if r["method"].startswith(prefix)]
        found = [text.format(kinds.count(kind)) for kind, text in words.items() if kind in kinds]
        if kinds:
            pairs = count(len(kinds), "pair")
            out.append(f"Under {family}, of {pairs} of task and method, the best learning rate {listing(found)}.")
    if any(f.seeds == [1] for f in tasks):
        out.append("Where there is one seed there is no interval: such numbers say nothing about chance.")
    return out

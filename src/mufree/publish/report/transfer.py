"""Does the best learning rate transfer? Drift, regret, transfer error, wider is better, and the ratio of rates."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mufree.analysis.tables.transfer import EQUIVALENCE_MARGIN
from mufree.publish.report.blocks import Block, points, table
from mufree.publish.report.facts import Facts, Record
from mufree.publish.report.words import (
    MISSING,
    count,
    flag_words,
    grouped,
    interval,
    known,
    number,
    percent,
    plain,
    plus_minus,
    verdict,
    with_interval,
)

FIGURES = ("loss_vs_lr", "optimum_vs_width", "regret_vs_width")
FLAGS = {
    "argmin_only": "no parabola fits; the best rate of the grid stands in",
    "edge_low": "best at the lowest rate of the grid; the optimum may be lower",
    "edge_high": "best at the highest rate of the grid; the optimum may be higher",
    "all_diverged": "every run diverged",
}
"""What the flags of an optimum mean."""


def blocks(facts: Facts) -> list[Block]:
    """The answers and the tables of one task."""
    return [
        points("Does the best rate drift with width?", drift_sentences(facts)),
        points(
            f"What does it cost to use the rate of width {facts.base} at width {facts.widest}?", regret_sentences(facts)
        ),
        _primary_table(facts),
        _optima_table(facts),
        *_transfer_errors(facts),
        *_wider(facts),
        *_ratios(facts),
    ]


def limits(facts: Facts) -> list[str]:
    """What the answer does not cover."""
    said = [
        f"The drift is a straight line through {count(len(facts.widths), 'width')}, which says nothing of wider networks."
    ]
    censored = sum(int(row["n_censored"]) for row in facts.records("transfer"))
    if censored:
        said.append(
            f"Left out of it, as an optimum at an edge of the grid is: {count(censored, 'cell')} of method and width."
        )
    return said


def drift_class(row: Record) -> str:
    """What the drift of a row of the transfer table shows: see `drift_shown`."""
    estimate = row["drift"] if row["status"] == "ok" else None
    return drift_shown(estimate, row["drift_low"], row["drift_high"], bool(verdict(row["equivalent"])))


def drift_shown(estimate: Any, low: Any, high: Any, equivalent: bool) -> str:
    """`none`, `drifts`, `small` (not 0, but inside the margin), `undecided` or `not_estimable`, by the 95 % interval.

    `equivalent` says whether the 90 % interval is inside the margin: `tables.transfer.is_equivalent`.
    """
    if not known(estimate):
        return "not_estimable"
    if not (known(low) and known(high)):
        return "undecided"
    excludes_zero = low > 0 or high < 0
    if equivalent:
        return "small" if excludes_zero else "none"
    return "drifts" if excludes_zero else "undecided"


def drift_sentences(facts: Facts) -> list[str]:
    """For each method: drift, interval, and what they decide."""
    return grouped([(facts.named(row["method"]), _drift(row, facts)) for row in facts.records("transfer")])


def _drift(row: Record, facts: Facts) -> str:
    reason = flag_words(row["reason"]) or "no reason is on record"
    kind = drift_class(row)
    if kind == "not_estimable":
        return f"not estimable: {reason}."
    text = f"b = {number(row['drift'], 2, sign=True)} doublings per doubling of width"
    if not known(row["drift_low"]):
        return f"{text}, without an interval ({'one seed' if facts.seeds == [1] else reason}), so nothing is decided."
    text += f", 95 % interval {interval(row['drift_low'], row['drift_high'], 2, sign=True)}"
    margin = f"±{EQUIVALENCE_MARGIN}"
    meaning = {
        "none": f"no drift beyond {margin} (the 90 % interval is inside)",
        "small": f"not zero, yet inside {margin} (the 90 % interval is)",
        "drifts": f"it drifts (the interval excludes 0; the 90 % interval is not inside {margin})",
        "undecided": f"undecided (the interval includes 0, and the 90 % interval is not inside {margin})",
    }[kind]
    censored = f"; {count(row['n_censored'], 'width')} left out, censored" if row["n_censored"] else ""
    return f"{text}: {meaning}{censored}."


def regret_sentences(facts: Facts) -> list[str]:
    """For each method: the regret at the largest width, in nats."""
    if facts.widest == facts.base:
        return [f"Not estimable: {facts.base} is the only width, or the largest."]
    rows = facts.records("regret", width=facts.widest)
    said = grouped([(facts.named(row["method"]), _regret(row)) for row in rows])
    return said or ["Not estimable: no method ran there."]


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


def _primary_table(facts: Facts) -> Block:
    rows = []
    for drift in facts.records("transfer"):
        method = drift["method"]
        regret, stability, best = (_cell(facts, t, method) for t in ("regret", "stability", "optima"))
        mine = facts.tables["optima"][facts.tables["optima"]["method"].eq(method)]
        rows.append(
            [
                facts.named(method),
                with_interval(drift["drift"], drift["drift_low"], drift["drift_high"], 2, sign=True),
                with_interval(regret.get("regret_cf"), regret.get("regret_cf_low"), regret.get("regret_cf_high")),
                with_interval(
                    stability.get("lr_sensitivity"),
                    stability.get("lr_sensitivity_low"),
                    stability.get("lr_sensitivity_high"),
                ),
                f"{mine['n_diverged'].sum()}/{mine['n_runs'].sum()}",
                plus_minus(best.get("best_loss"), best.get("best_loss_se")),
                _flags(mine, regret),
            ]
        )
    last = facts.widest
    return table(
        f"Drift of the best rate; regret and sensitivity at width {last}; best validation loss at width {last}. "
        f"{facts.where}",
        ["Method", "Drift", "Regret (nats)", "LR sensitivity (nats)", "Diverged", "Best loss ± SE", "Flags"],
        rows,
        missing="cannot be computed (one seed has no interval, standard error or cross-fitted regret, two have no interval of "
        "the regret; too few optima inside the grid have no drift; a method that wasn't run at this width has nothing there)",
        fill=[0, 6],
    )


def _cell(facts: Facts, name: str, method: str) -> Record:
    """The row of a method at the largest width; empty if it did not run there."""
    return next(iter(facts.records(name, method=method, width=facts.widest)), {})


def _flags(optima: pd.DataFrame, regret: Record) -> str:
    marked = [
        f"{row.width}: {flag_words(row.flag)}" for row in optima.sort_values("width").itertuples() if row.flag != "ok"
    ]
    flag = regret.get("flag", "not_run")
    if flag != "ok":
        marked.append(f"regret: {flag_words(flag)}")
    return "; ".join(marked) or "none"


def _optima_table(facts: Facts) -> Block:
    records = facts.records("optima")
    rows = [
        [
            facts.named(row["method"]),
            str(row["width"]),
            number(row["log2_lr_opt"], 2),
            interval(row["log2_lr_opt_low"], row["log2_lr_opt_high"], 2),
            number(row["log2_lr_argmin"], 0),
            plus_minus(row["best_loss"], row["best_loss_se"]),
            f"{row['n_diverged']}/{row['n_runs']}",
            flag_words(row["flag"]),
        ]
        for row in sorted(records, key=lambda r: (facts.methods.index(r["method"]), r["width"]))
    ]
    notes = [
        f"{flag_words(flag)}: {meaning}." for flag, meaning in FLAGS.items() if any(r["flag"] == flag for r in records)
    ]
    return table(
        f"Best learning rates, as log2. {facts.where}",
        ["Method", "Width", "Best rate", "95 % interval", "Best of grid", "Loss ± SE (nats)", "Diverged", "Flag"],
        rows,
        missing="one seed, no parabola, or every run diverged",
        notes=notes,
        fill=[0],
    )


def _transfer_errors(facts: Facts) -> list[Block]:
    rows = [
        [
            facts.named(row["method"]),
            with_interval(row["mean"], row["mean_low"], row["mean_high"]),
            with_interval(row["max"], row["max_low"], row["max_high"]),
            str(row["n_pairs"]),
            plain(row["reason"]) or "none",
        ]
        for row in facts.records("transfer_error")
    ]
    if not rows:
        return []
    caption = (
        "Transfer error: what the best rate of one width costs at another, cross-fitted, over all ordered pairs of widths. "
        f"{facts.where}"
    )
    columns = ["Method", "Mean (nats)", "Largest (nats)", "Pairs", "Remark"]
    return [table(caption, columns, rows, missing="not estimable, or without an interval; see the remark", fill=[0, 4])]


def _wider(facts: Facts) -> list[Block]:
    rows = [
        [
            facts.named(row["method"]),
            number(row["log2_lr"], 0),
            percent(row["share_worse"]),
            with_interval(row["tau"], row["tau_low"], row["tau_high"], 2, sign=True),
            str(row["n_widths"]),
            plain(row["reason"]) or "none",
        ]
        for row in facts.records("wider_is_better")
    ]
    if not rows:
        return []
    caption = (
        "Is wider better, with all settings fixed at the base width's best rate? Share of points after warm-up at which the "
        "wider of two neighbouring widths has the higher training loss by two standard errors (good: 0), and Kendall's τ "
        f"between width and final training loss (good: −1). {facts.where}"
    )
    columns = ["Method", "log2 rate", "Share worse", "τ", "Widths", "Remark"]
    return [table(caption, columns, rows, missing="not estimable, or without an interval; see the remark", fill=[0, 5])]


def _ratios(facts: Facts) -> list[Block]:
    rows = [
        [
            facts.named(row["numerator"]),
            facts.named(row["denominator"]),
            str(row["width"]),
            with_interval(row["log2_ratio"], row["low"], row["high"], 2, sign=True),
            f"{number(2.0 ** row['log2_ratio'], 1)} ×" if known(row["log2_ratio"]) else MISSING,
            plain(row["reason"]) or "none",
        ]
        for row in facts.records("rate_ratio")
    ]
    if not rows:
        return []
    caption = (
        "From a scheduled optimizer to a schedule-free one: the ratio of their best rates at the same width, as log2 and as a "
        f"factor. {facts.where}"
    )
    columns = ["Schedule-free", "Scheduled", "Width", "log2 of the ratio", "Factor", "Remark"]
    return [
        table(caption, columns, rows, missing="not estimable, or without an interval; see the remark", fill=[0, 1, 5])
    ]

"""What does tuning cost? Best of k, and what searching on the narrow network saves, beside its regret."""

from __future__ import annotations

from mufree.publish.report.blocks import Block, table
from mufree.publish.report.facts import Facts
from mufree.publish.report.words import number, percent, with_interval

FIGURES = ("best_of_k",)


def blocks(facts: Facts) -> list[Block]:
    """The tables of one task."""
    rows = [
        [
            facts.named(row["method"]),
            str(row["width"]),
            with_interval(row["best_of_3_excess"], row["best_of_3_low"], row["best_of_3_high"]),
            number(row["k_eps"], 0),
            percent(row["flops_saved"], 0),
            number(row["regret_cf"]),
        ]
        for row in facts.records("cost")
        if row["width"] in (facts.base, facts.widest)
    ]
    if not rows:
        return []
    eps = facts.records("cost")[0]["eps"]
    caption = (
        "Cost of the search, at the base and the largest width. Best of 3: expected excess of the best of three rates of the "
        f"grid, drawn at random, over the best of all. k: rates to try until that excess is below {number(eps, 2)} nats. "
        "Saved: share of the search's training compute that is saved by searching at base width and training once at this one; "
        f"beside it the regret that this costs. {facts.where}"
    )
    columns = ["Method", "Width", "Best of 3 (nats)", "k", "Saved", "Regret (nats)"]
    missing = "at base width nothing is saved; else not estimable, or without an interval"
    return [table(caption, columns, rows, missing=missing, fill=[0])]


def limits(facts: Facts) -> list[str]:
    """What the answer does not cover."""
    del facts
    return [
        "Costs are of this grid: another range or spacing of rates changes them, and the saving follows from the widths that "
        "were chosen. Tuning ScheduleFree's β1 is not in them."
    ]

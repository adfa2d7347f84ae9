"""Weight decay: the best decay of each method at each width, with the rate that goes with it."""

from __future__ import annotations

from mufree.publish.report.blocks import Block, table
from mufree.publish.report.facts import Facts
from mufree.publish.report.words import MISSING, flag_words, known, number, percent, power_of_two

FIGURES = ("weight_decay",)
FLAGS = {
    "edge_high": "the largest decay tried is the best; the optimum may be higher",
    "edge_lr": "the best rate is at an edge of the grid",
    "all_diverged": "every run diverged",
}


def blocks(facts: Facts) -> list[Block]:
    """The tables of one task."""
    records = facts.records("weight_decay_optimum")
    rows = [
        [
            facts.named(row["method"]),
            str(row["width"]),
            str(row["weight_decay_scaling"]),
            decay(row["weight_decay"]),
            number(row["log2_lr"], 0),
            power_of_two(row["log2_lr_weight_decay"]),
            number(row["best_loss"]),
            percent(row["agreement"], 0),
            flag_words(row["flag"]) or "ok",
        ]
        for row in records
    ]
    if not rows:
        return []
    caption = (
        "The best weight decay λ* and the rate that goes with it. Scaling: coupled keeps lr·λ the same at all widths under µP, "
        "independent keeps λ. Agreement: share of leave-one-seed-out replicates that choose the same λ. "
        f"{facts.where_without_intervals}"
    )
    columns = ["Method", "Width", "Scaling", "λ*", "log2 rate", "lr·λ*", "Loss (nats)", "Agreement", "Flag"]
    notes = [f"{flag_words(k)}: {v}." for k, v in FLAGS.items() if any(r["flag"] == k for r in records)]
    missing = "no weight decay is best, so there is no product; or every run diverged; or one seed"
    return [table(caption, columns, rows, missing=missing, notes=notes, fill=[0])]


def decay(amount: object) -> str:
    """A coefficient as it was written: 0.05, 0."""
    return f"{amount:g}" if known(amount) else MISSING


def limits(facts: Facts) -> list[str]:
    """What the answer does not cover."""
    n = facts.tables["weight_decay"]["weight_decay"].nunique() if facts.has("weight_decay") else 0
    tried = f"{n} values of λ were tried, and the best is one of them" if n else "Few values of λ were tried"
    return [f"{tried}; in runs this short weight decay has little time to act."]

"""Which method ends best? Validation loss at the largest width, and the test split once."""

from __future__ import annotations

from mufree.publish.report.blocks import Block, points, table, text
from mufree.publish.report.facts import Facts, Record
from mufree.publish.report.words import known, number, percent

FIGURES: tuple[str, ...] = ()


def blocks(facts: Facts) -> list[Block]:
    """The answer and the table of one task."""
    return [points(f"Which method is best at width {facts.widest}?", [best_sentence(facts)]), _test(facts)]


def limits(facts: Facts) -> list[str]:
    """What the answer does not cover."""
    return [
        f"Which method ends best is asked of runs of {facts.task['training']['steps']} steps with each method's own best rate "
        "of this grid; other settings were not tuned for each method."
    ]


def best_sentence(facts: Facts) -> str:
    """The method of the lowest best validation loss at the largest width, and how far the next is."""
    rows = [r for r in facts.records("optima", width=facts.widest) if known(r["best_loss"])]
    if not rows:
        return f"No method has a loss to compare: every run at width {facts.widest} diverged."
    first, *others = sorted(rows, key=lambda r: float(r["best_loss"]))
    text = f"{facts.named(first['method'])}, with a validation loss of {_loss(first)}"
    if not others:
        return f"{text}; no other method has one."
    gap = others[0]["best_loss"] - first["best_loss"]
    text += f"; next is {facts.named(others[0]['method'])} with {_loss(others[0])}, {number(gap)} nats more"
    errors = [first["best_loss_se"], others[0]["best_loss_se"]]
    if not all(known(e) for e in errors):
        return f"{text}. One seed has no standard error, so the order may be chance."
    if gap < 2 * sum(e**2 for e in errors) ** 0.5:
        return f"{text}, which is less than two standard errors of the difference (seeds taken as independent)."
    return f"{text}, which is more than two standard errors of the difference (seeds taken as independent)."


def _loss(row: Record) -> str:
    error = f" ± {number(row['best_loss_se'])} (standard error)" if known(row["best_loss_se"]) else ""
    return f"{number(row['best_loss'])}{error} nats"


def _test(facts: Facts) -> Block:
    records = facts.records("optima", width=facts.widest)
    if not any(known(row["test_loss"]) for row in records):
        ended = any(known(row["best_loss"]) for row in records)
        why = "this task's data has no test split" if ended else f"every run at width {facts.widest} diverged"
        return text(f"{facts.description}: no test result, since {why}.")
    rows = [
        [
            facts.named(row["method"]),
            number(row["log2_lr_argmin"], 0),
            number(row["test_loss"]),
            percent(row["test_accuracy"]),
            percent(row["val_accuracy"]),
        ]
        for row in records
    ]
    return table(
        f"Test split, once: at width {facts.widest} and the rate that validation chose, mean over seeds. "
        f"{facts.where_without_intervals}",
        ["Method", "log2 rate", "Test loss (nats)", "Test accuracy", "Validation accuracy"],
        rows,
        missing="every run diverged, or one of the seeds at this rate did",
        fill=[0],
    )

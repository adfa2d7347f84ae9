"""What somebody who trains with µP and ScheduleFree should do, in sentences made from a frozen study's tables."""

from __future__ import annotations

from mufree.publish.frozen import Frozen
from mufree.publish.report.terms import bounds, statistic
from mufree.publish.report.weight_decay import decay
from mufree.publish.report.words import between, known, listing, number, plus_minus

METHOD, RIVAL = "mup_schedulefree", "mup_adamw"


def recipe(frozen: Frozen, task: str) -> str:
    """Where to tune and what it costs, the rate beside AdamW's, β₁ and the weight decay; what wasn't measured is left out."""
    parts = [part(frozen, task) for part in (_transfer, _rate, _momentum, _decay)]
    return f"{task}: {' '.join(part for part in parts if part) or 'µP with ScheduleFree was not run.'}"


def _transfer(frozen: Frozen, task: str) -> str:
    widest = frozen.widths(task)[-1]
    for row in frozen.records("regret", task=task, method=METHOD, width=widest):
        if known(row["regret_cf"]):
            shown = bounds(row["regret_cf_low"], row["regret_cf_high"], statistic("regret_cf"))
            return (
                f"The rate that was best at width {frozen.base_width(task)}, log2 {number(row['log2_lr_transferred'], 0)}, "
                f"costs {number(row['regret_cf'])} {shown} nats at width {widest}."
            )
    return ""


def _rate(frozen: Frozen, task: str) -> str:
    found = times(frozen, task)
    return f"ScheduleFree's best rate is {found} times AdamW's." if found else ""


def times(frozen: Frozen, *tasks: str) -> str:
    """ScheduleFree's best rate under µP as a multiple of AdamW's, from the least to the largest of all widths; or nothing."""
    return between([number(ratio, 1) for ratio in sorted(rate_ratios(frozen, *tasks))])


def rate_ratios(frozen: Frozen, *tasks: str) -> list[float]:
    """These multiples at each width of each task, where both rates are known."""
    return [
        2 ** row["log2_ratio"]
        for task in tasks
        for row in frozen.records("rate_ratio", task=task, numerator=METHOD, denominator=RIVAL)
        if known(row["log2_ratio"])
    ]


def _momentum(frozen: Frozen, task: str) -> str:
    base = frozen.base_width(task)
    rows = [
        row
        for row in frozen.records("arms", task=task, method=METHOD, width=base, horizon=1)
        if row["weight_decay"] == 0 and known(row["best_loss"])
    ]
    if len({row["beta1"] for row in rows}) < 2:
        return ""
    rows.sort(key=lambda row: float(row["best_loss"]))
    losses = listing([f"{row['beta1']:g} {plus_minus(row['best_loss'], row['best_loss_se'])}" for row in rows])
    return f"Of β₁ at width {base}, each with a rate of its own, the lowest first, loss ± standard error: {losses}."


def _decay(frozen: Frozen, task: str) -> str:
    said = []
    for method in (METHOD, RIVAL):
        rows = frozen.records("weight_decay_optimum", task=task, method=method, weight_decay_scaling="coupled")
        found = []
        for row in rows:
            if known(row["weight_decay"]):
                edge = " (the largest tried)" if row["flag"] == "edge_high" else ""
                found.append(f"{decay(row['weight_decay'])}{edge} at width {row['width']}")
        if found:
            said.append(f"{listing(found)} for {frozen.named(method)}")
    return f"The best weight decay tried, coupled, is {'; '.join(said)}." if said else ""

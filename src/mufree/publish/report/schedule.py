"""Does it need a schedule? The anytime gap, drift and regret over horizons, and the premium of a schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mufree.publish.report.blocks import Block, points, table
from mufree.publish.report.facts import Facts, Record
from mufree.publish.report.words import interval, known, number, plain, with_interval

FIGURES = ("anytime", "averages", "validation_curves")
MARGIN = 0.01
"""Nats; a gap below it counts as none (METRICS, section 7, H2)."""


def blocks(facts: Facts) -> list[Block]:
    """The answers and the tables of one task."""
    return [*_anytime_words(facts), *_horizon_words(facts), *_anytime(facts), *_horizon(facts), *_premium(facts)]


def limits(facts: Facts) -> list[str]:
    """What the answer does not cover."""
    said = []
    if facts.has("anytime") or facts.has("horizon"):
        shares = sorted(set(facts.tables["anytime"]["horizon"])) if facts.has("anytime") else []
        which = f"the horizons {', '.join(share_of_horizon(s) for s in shares)}" if shares else "the horizons tried"
        said.append(f"Nothing is said beyond {which}, T being {facts.task['training']['steps']} steps.")
    else:
        said.append("No run of another length was made, so only curves within one horizon are compared.")
    return said


def share_of_horizon(share: Any) -> str:
    """T, T/2, T/4."""
    return "T" if share == 1 else f"T/{1 / share:.0f}"


def _anytime_words(facts: Facts) -> list[Block]:
    """For each pair at the largest width, the largest gap over the horizons and where it is."""
    widest = _widest(facts, "anytime")
    items = [f"{text}." for text in largest_gaps(facts.records("anytime", width=widest), facts.named)]
    lead = f"Is one schedule-free run as good at any time as a run tuned for that time, at width {widest}?"
    return [points(lead, items)] if items else []


def largest_gaps(records: Sequence[Record], named: Callable[[str], str]) -> list[str]:
    """What rows of `anytime` of one task and width say of each pair, without a full stop."""
    said = []
    for pair in dict.fromkeys((row["method"], row["rival"]) for row in records):
        mine = [row for row in records if (row["method"], row["rival"]) == pair and known(row["gap"])]
        worst = max(mine, key=lambda row: float(row["gap"]), default=None)
        what = _gap(worst, len(mine)) if worst else "not estimable"
        said.append(f"{named(pair[0])} against {named(pair[1])}: {what}")
    return said


def _gap(row: Record, n: int) -> str:
    text = f"the largest gap of {n} horizons is {number(row['gap'], 3, sign=True)} nats, at {share_of_horizon(row['horizon'])}"
    if not known(row["gap_low90"]):
        return f"{text}, without an interval, so nothing is decided"
    text += f", 95 % interval {interval(row['gap_low'], row['gap_high'], 3, sign=True)}"
    if row["gap_high90"] < MARGIN:
        return f"{text}: no worse than by {MARGIN} nats there (the 90 % interval's upper end is below)"
    if row["gap_low"] > MARGIN:
        return f"{text}: worse (the interval is above {MARGIN} nats)"
    return f"{text}: undecided at a margin of {MARGIN} nats"


def _horizon_words(facts: Facts) -> list[Block]:
    records = facts.records("horizon", width=_widest(facts, "horizon"))
    items = []
    for row in records:
        name = facts.named(row["method"])
        if not known(row["drift"]):
            items.append(f"{name}: not estimable: {plain(row['reason']) or 'no reason is on record'}.")
        elif not known(row["drift_low"]):
            items.append(
                f"{name}: h = {number(row['drift'], 2, sign=True)}, without an interval, so nothing is decided."
            )
        else:
            says = "excludes 0" if row["drift_low"] > 0 or row["drift_high"] < 0 else "includes 0"
            items.append(
                f"{name}: h = {number(row['drift'], 2, sign=True)} doublings per doubling of the horizon, 95 % interval "
                f"{interval(row['drift_low'], row['drift_high'], 2, sign=True)}, which {says}."
            )
    lead = f"Does the best rate move with the horizon, at width {_widest(facts, 'horizon')}?"
    return [points(lead, items)] if items else []


def _widest(facts: Facts, name: str) -> int | None:
    return int(facts.tables[name]["width"].max()) if facts.has(name) else None


def _anytime(facts: Facts) -> list[Block]:
    rows = [
        [
            facts.named(row["method"]),
            facts.named(row["rival"]),
            str(row["width"]),
            share_of_horizon(row["horizon"]),
            number(row["loss"]),
            number(row["rival_loss"]),
            with_interval(row["gap"], row["gap_low"], row["gap_high"], 3, sign=True),
        ]
        for row in facts.records("anytime")
    ]
    if not rows:
        return []
    caption = (
        "Anytime gap: the loss of one schedule-free run, tuned once at T, less that of a rival's own runs of that horizon, "
        f"tuned there. Above 0 the rival is better. Nats; the gap is cross-fitted, the losses are not. {facts.where}"
    )
    columns = ["Schedule-free", "Rival", "Width", "Horizon", "Loss", "Rival's loss", "Gap"]
    return [table(caption, columns, rows, missing="not estimable, or without an interval", fill=[0, 1])]


def _horizon(facts: Facts) -> list[Block]:
    rows = [
        [
            facts.named(row["method"]),
            str(row["width"]),
            with_interval(row["drift"], row["drift_low"], row["drift_high"], 2, sign=True),
            with_interval(row["regret"], row["regret_low"], row["regret_high"]),
            str(row["n_horizons"]),
            plain(row["reason"]) or "none",
        ]
        for row in facts.records("horizon")
    ]
    if not rows:
        return []
    caption = (
        "Over horizons: drift of the best rate in doublings per doubling of the horizon, and the regret at T of the rate tuned "
        f"at the shortest horizon. {facts.where}"
    )
    columns = ["Method", "Width", "Drift", "Regret (nats)", "Horizons", "Remark"]
    return [table(caption, columns, rows, missing="not estimable, or without an interval; see the remark", fill=[0, 5])]


def _premium(facts: Facts) -> list[Block]:
    rows = [
        [
            facts.named(row["constant"]),
            facts.named(row["scheduled"]),
            str(row["width"]),
            with_interval(row["premium"], row["premium_low"], row["premium_high"], 3, sign=True),
            plain(row["reason"]) or "none",
        ]
        for row in facts.records("premium")
    ]
    if not rows:
        return []
    caption = (
        "Premium of the schedule: the best loss at a constant rate less the best loss with the schedule, cross-fitted. Above 0 "
        f"the schedule is better. {facts.where}"
    )
    columns = ["Constant", "Scheduled", "Width", "Premium (nats)", "Remark"]
    return [
        table(caption, columns, rows, missing="not estimable, or without an interval; see the remark", fill=[0, 1, 4])
    ]

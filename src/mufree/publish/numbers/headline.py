"""The answer in three sentences: the verdict on transfer, what moves and costs how much, and how the pair compares."""

from __future__ import annotations

from collections.abc import Sequence

from mufree.analysis.tables.transfer import EQUIVALENCE_MARGIN
from mufree.publish.frozen import Frozen
from mufree.publish.numbers.answers import holds_alone
from mufree.publish.numbers.values import over_tasks
from mufree.publish.recipe import times
from mufree.publish.report.terms import statistic, value
from mufree.publish.report.verdicts import p_value
from mufree.publish.report.words import between, interval, known, listing, number, sentence


def headline(frozen: Frozen, again: str = "") -> str:
    """The verdict on transfer, one clause a verdict, then how it came out on other seeds."""
    meaning = {
        "supported": "under µP with ScheduleFree the best learning rate moves by less than "
        f"±{EQUIVALENCE_MARGIN} doublings per doubling of width, and under SP it drifts",
        "refuted": "it is not true that the best learning rate drifts under SP with ScheduleFree and not under µP",
        "inconclusive": "whether µP keeps ScheduleFree's best learning rate from drifting with width stays open",
        "not_estimable": "whether µP keeps ScheduleFree's best learning rate from drifting with width can't be estimated",
    }
    clauses = []
    for verdict, text in meaning.items():
        tasks = [row["task"] for row in frozen.judged("H1a", "task") if row["verdict"] == verdict]
        if tasks:
            clauses.append(f"on {listing(tasks)}, {text}{_lost_by_correction(frozen, tasks)}")
    return sentence("; ".join([*clauses, *filter(None, [again])]))


def _lost_by_correction(frozen: Frozen, tasks: Sequence[str]) -> str:
    """What to add where a verdict on transfer is open for no other reason than Holm's correction."""
    lost = [row for row in frozen.judged("H1a", "task") if row["task"] in tasks and holds_alone(frozen, row)]
    if not lost:
        return ""
    where = f" on {listing([row['task'] for row in lost])}" if len(tasks) > 1 else ""
    p = listing([p_value(row["p_holm"]) for row in lost])
    return f"; both parts hold{where} when tested alone, and not after Holm's correction, p {p}"


def in_short(frozen: Frozen) -> list[str]:
    """What comes after the headline: drifts and what keeping a rate costs, then how the pair compares with its rivals."""
    return [sentence(text) for text in (_moves(frozen), _compares(frozen)) if text]


def _moves(frozen: Frozen) -> str:
    drifts, costs = (_under_both(frozen, statistic) for statistic in ("drift", "regret_cf"))
    parts = []
    if all(drifts):
        parts.append(
            f"ScheduleFree's best rate drifts by {drifts[0]} doublings per doubling of width under µP and by {drifts[1]} "
            "under SP"
        )
    if all(costs):
        parts.append(
            f"keeping the base width's rate costs it {costs[0]} nats at the largest width under µP and {costs[1]} under SP"
        )
    opening = "from task to task, " if parts and len(frozen.tasks) > 1 else ""
    return opening + ", and ".join(parts)


def _compares(frozen: Frozen) -> str:
    parts = []
    if ratio := times(frozen, *frozen.tasks):
        parts.append(f"its best rate is {ratio} times AdamW's")
    if loss := _range(frozen, "loss_vs_best", "mup_schedulefree - best other"):
        parts.append(f"its loss at the largest width differs from the best of the other three methods' by {loss} nats")
    if gaps := _gaps_to_other_schedules(frozen):
        parts.append(
            f"it differs from the best schedule other than cosine, tuned at the same horizon, by {' and '.join(gaps)}"
        )
    return f"under µP, {'; '.join(parts)}" if parts else ""


def _gaps_to_other_schedules(frozen: Frozen) -> list[str]:
    """How far the pair ends above the best rival with another schedule than cosine, in each task that has one."""
    gaps = []
    for task in frozen.tasks:
        rows = [
            row
            for row in frozen.records("anytime", task=task, method="mup_schedulefree", horizon=1)
            if row["rival"] != "mup_adamw" and known(row["gap"])
        ]
        if rows:
            worst = max(rows, key=lambda row: float(row["gap"]))
            shown = f"{number(worst['gap'], sign=True)} {interval(worst['gap_low'], worst['gap_high'], sign=True)}"
            gaps.append(f"{shown} nats on {task} ({frozen.named(worst['rival'])}, width {int(worst['width'])})")
    return gaps


def _under_both(frozen: Frozen, name: str) -> tuple[str, str]:
    return _range(frozen, name, "mup_schedulefree"), _range(frozen, name, "sp_schedulefree")


def _range(frozen: Frozen, name: str, subject: str) -> str:
    """The least and the greatest estimate over tasks, of all widths or at each task's largest; nothing if there is none."""
    return between([value(estimate, statistic(name)) for estimate in sorted(over_tasks(frozen, name, subject))])

"""What was found in each task beside the verdicts: drifts, regrets, best losses, anytime gaps, diverged runs."""

from __future__ import annotations

from mufree.publish.frozen import Frozen
from mufree.publish.numbers.words import Row, drift_words, with_interval
from mufree.publish.report.schedule import largest_gaps
from mufree.publish.report.words import known, plus_minus


def drift(frozen: Frozen, task: str) -> str:
    """b of every method that was trained at several widths, and what its interval says."""
    rows = {row["subject"]: row for row in frozen.records("estimates", task=task, statistic="drift")}
    parts = []
    for method in frozen.methods(task):
        if method in rows and frozen.n_widths(task, method) > 1:
            shown = f"{with_interval(rows[method])}, " if known(rows[method]["estimate"]) else ""
            parts.append(f"{frozen.named(method)}: {shown}{drift_words(rows[method])}")
    return f"{task}: {'; '.join(parts)}."


def regret(frozen: Frozen, task: str) -> str:
    """What keeping the base width's best rate costs each method at the largest width."""
    widest, base = frozen.widths(task)[-1], frozen.base_width(task)
    parts = [
        f"{frozen.named(row['subject'])} {with_interval(row)}"
        for row in frozen.records("estimates", task=task, statistic="regret_cf", width=widest)
    ]
    return f"{task}, from width {base} to {widest}, in nats: {'; '.join(parts) or 'not estimable'}."


def best(frozen: Frozen, task: str) -> str:
    """The method with the lowest loss at the largest width, and the next; and who ends lower without having been run there."""
    widest = frozen.widths(task)[-1]
    rows = frozen.records("estimates", task=task, statistic="best_loss", width=widest)
    found = sorted((row for row in rows if known(row["estimate"])), key=lambda row: float(row["estimate"]))
    if not found:
        return f"{task}: every run at width {widest} diverged."
    first, *others = found
    text = f"{task}, width {widest}: lowest is {frozen.named(first['subject'])} with {with_interval(first)} nats"
    if others:
        text += f"; next is {frozen.named(others[0]['subject'])}, {with_interval(others[0])}"
    if lower := _lower_elsewhere(frozen, task, float(first["estimate"])):
        text += f". Lower still, and not run at that width: {'; '.join(lower)}"
    return text + "."


def _lower_elsewhere(frozen: Frozen, task: str, loss: float) -> list[str]:
    """Methods that end below `loss` without having been run at the largest width, each at its best one, the lowest first."""
    optima = sorted(
        (row for row in frozen.records("optima", task=task) if known(row["best_loss"])),
        key=lambda row: float(row["best_loss"]),
    )
    at_widest = {row["method"] for row in optima if row["width"] == frozen.widths(task)[-1]}
    lowest: dict[str, Row] = {}
    for row in optima:
        if row["best_loss"] < loss and row["method"] not in at_widest:
            lowest.setdefault(row["method"], row)
    return [
        f"{frozen.named(method)} {plus_minus(row['best_loss'], row['best_loss_se'])} (standard error) "
        f"at width {int(row['width'])}"
        for method, row in lowest.items()
    ]


def anytime(frozen: Frozen) -> list[str]:
    """The largest anytime gap of each pair, for every task and width that was trained for several horizons."""
    out = []
    for task in frozen.tasks:
        rows = frozen.records("anytime", task=task)
        for width in dict.fromkeys(row["width"] for row in rows):
            gaps = largest_gaps([row for row in rows if row["width"] == width], frozen.named)
            out.append(f"{task}, width {int(width)}. {'. '.join(gaps)}.")
    return out or ["No task was trained for several horizons."]


def diverged(frozen: Frozen, task: str) -> str:
    """How many runs of each method diverged, and how many more learnt nothing."""
    runs = frozen.primary(task)
    parts = []
    for method in frozen.methods(task):
        mine = runs[runs["method"].eq(method)]
        stuck = sum(int(row["n_learnt_nothing"]) for row in frozen.records("stability", task=task, method=method))
        besides = f", and {stuck} learnt nothing" if stuck else ""
        parts.append(f"{frozen.named(method)} {int(mine['status'].eq('diverged').sum())} of {len(mine)}{besides}")
    return f"{task}: {'; '.join(parts)}."


def embedding_own_rate(frozen: Frozen) -> list[str]:
    """Post hoc: SP with the embedding's rate times width, its drift counted in the embedding's own rate; and best losses."""
    runs = frozen.runs
    arms = runs[runs["embedding_lr"].eq("times_width") & runs["optimizer"].eq("adamw")]
    pairs = arms[["task", "method"]].drop_duplicates().itertuples(index=False)
    return [text for task, arm in pairs if (text := _in_own_rate(frozen, task, arm))] or ["It was not run."]


def _in_own_rate(frozen: Frozen, task: str, arm: str) -> str:
    """An arm's drift beside those of SP and µP, and their best losses at its largest width; nothing if a drift is unknown.

    log2 of the own rate is that of the shared one plus log2 of width, so that its slope on the latter is larger by exactly 1.
    """
    rows = {name: frozen.records("estimates", task=task, subject=name) for name in (arm, "sp_adamw", "mup_adamw")}
    drifts = {
        name: row for name in rows for row in rows[name] if row["statistic"] == "drift" and known(row["estimate"])
    }
    if len(drifts) < len(rows):
        return ""
    own = {**drifts[arm], **{end: drifts[arm][end] + 1 for end in ("estimate", "low", "high", "low90", "high90")}}
    beside = [f"{frozen.named(name)} {with_interval(drifts[name])}" for name in ("sp_adamw", "mup_adamw")]
    widest = frozen.runs.query("task == @task and method == @arm")["width"].max()
    losses = [
        f"{frozen.named(name)} {with_interval(row)}"
        for name in rows
        for row in rows[name]
        if row["statistic"] == "best_loss" and row["width"] == widest and known(row["estimate"])
    ]
    text = (
        f"{task}: {frozen.named(arm)}, counted in the embedding's own rate, {with_interval(own)}, {drift_words(own)}; "
        f"{'; '.join(beside)}."
    )
    return f"{text} Best loss at width {widest}, in nats: {'; '.join(losses)}." if losses else text

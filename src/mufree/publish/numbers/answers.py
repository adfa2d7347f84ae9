"""What the verdicts on hypotheses come to, in words: over all tasks, and in each task by what decides there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from mufree.analysis.verdicts import NOT_MEASURED
from mufree.publish.frozen import Frozen
from mufree.publish.numbers.words import Row, about
from mufree.publish.report.terms import bounds, statistic, value
from mufree.publish.report.verdicts import WORDS, p_value
from mufree.publish.report.words import known, listing, sentence


def tally(frozen: Frozen) -> str:
    """How many hypotheses came out how, each judged over all tasks."""
    rows = [row for h in frozen.of_kind("primary") for row in frozen.judged(h, "overall")]
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in WORDS}
    found = listing([f"{n} {WORDS[verdict]}" for verdict, n in counts.items() if n])
    return f"Of the {len(rows)} hypotheses, judged over all tasks, we find {found}."


def answer(frozen: Frozen, hypothesis: str) -> list[str]:
    """The overall verdict in a sentence, then what decides in each task where it can be estimated."""
    out = [_overall(frozen, hypothesis)]
    for whole in frozen.judged(hypothesis, "task"):
        if whole["verdict"] != "not_estimable":
            parts = [row for row in frozen.judged(hypothesis, "condition") if row["task"] == whole["task"]]
            said = "; ".join(_conditions(frozen, list(alike)) for _, alike in groupby(parts, key=_asked_of))
            of_verdict = whole["p_refuted_holm" if whole["verdict"] == "refuted" else "p_holm"]
            alone = "; every part holds when tested alone" if holds_alone(frozen, whole) else ""
            p = f" (Holm p {p_value(of_verdict)}{alone})" if known(of_verdict) else ""
            out.append(f"{whole['task']}: {WORDS[whole['verdict']]}{p}. {sentence(said)}")
    return out


def holds_alone(frozen: Frozen, whole: Row) -> bool:
    """Whether a hypothesis is open in a task although each of its conditions is supported: the correction alone decides."""
    parts = [part["verdict"] for part in frozen.judged(whole["id"], "condition") if part["task"] == whole["task"]]
    return whole["verdict"] == "inconclusive" and set(parts) == {"supported"}


def short_answer(frozen: Frozen, hypothesis: str) -> list[str]:
    """The claim, and its verdict in each task with the numbers that decide."""
    claim = next(h.claim for h in frozen.hypotheses.hypotheses if h.id == hypothesis)
    return [f"{hypothesis}. {sentence(claim)} {_overall(frozen, hypothesis)}"]


def _overall(frozen: Frozen, hypothesis: str) -> str:
    """The verdict over all tasks, and in which it is which."""
    (row,) = frozen.judged(hypothesis, "overall")
    by_verdict: dict[str, list[str]] = {}
    for whole in frozen.judged(hypothesis, "task"):
        by_verdict.setdefault(whole["verdict"], []).append(whole["task"])
    word = WORDS[row["verdict"]].capitalize()
    if row["verdict"] == "not_estimable":
        reasons = {part["reason"] for part in frozen.judged(hypothesis, "condition")}
        return f"{word} in any task" + (": it was not measured." if reasons == {NOT_MEASURED} else ".")
    each = [f"{WORDS[v]} in {listing(by_verdict[v])}" for v in WORDS if v in by_verdict]
    mixed = len(set(by_verdict) - {"not_estimable"}) > 1
    return f"{word} overall: {'; '.join(each)}." if mixed else f"{sentence('; '.join(each))}"


def _asked_of(row: Row) -> tuple[str, str]:
    return row["statistic"], row["subject"]


def _conditions(frozen: Frozen, rows: Sequence[Row]) -> str:
    """What one statistic of one subject comes to; where it is asked at several widths, what is common is said once."""
    if len(rows) == 1:
        return _condition(frozen, rows[0])
    what = statistic(rows[0]["statistic"])
    unit = f", in {what.shown_unit}" if what.shown_unit else ""
    head = f"{what.words}{about(frozen, {**rows[0], 'width': None})}{unit}"
    verdicts = {row["verdict"] for row in rows}
    parts = [
        f"at width {int(row['width'])} {_found(frozen, row)}"
        + (f", {WORDS[row['verdict']]}" if len(verdicts) > 1 else "")
        for row in rows
    ]
    return f"{head}: {'; '.join(parts)}" + (f"; all {WORDS[verdicts.pop()]}" if len(verdicts) == 1 else "")


def _condition(frozen: Frozen, row: Row) -> str:
    what = statistic(row["statistic"])
    head = f"{what.words}{about(frozen, row)}"
    if not known(row["estimate"]):
        return f"{head}: {_found(frozen, row)}"
    unit = f" {what.shown_unit}" if what.shown_unit else ""
    return f"{head} {_found(frozen, row)}{unit}: {WORDS[row['verdict']]}"


def _found(frozen: Frozen, row: Row) -> str:
    """Estimate and interval, or why there is none."""
    what = statistic(row["statistic"])
    if not known(row["estimate"]):
        return f"not estimable, {frozen.named(row['reason'])}"
    if not known(row["low"]):
        return value(row["estimate"], what)
    exact = " (no seed changes it)" if row["low"] == row["high"] else ""
    return f"{value(row['estimate'], what)} {bounds(row['low'], row['high'], what)}{exact}"


def surprises(frozen: Frozen) -> list[str]:
    """Verdicts that go against what was known before, and checks that failed."""
    out = []
    for h in frozen.hypotheses.hypotheses:
        against = {"supported": "refuted", "refuted": "supported"}.get(h.expects)
        tasks = [row["task"] for row in frozen.judged(h.id, "task") if row["verdict"] == against]
        if tasks:
            verb = "refuted" if against == "refuted" else "supported"
            out.append(f"{h.id} was expected to be {h.expects} and is {verb} in {listing(tasks)}. {sentence(h.claim)}")
    for task in frozen.tasks:
        rows = frozen.records("control", task=task)
        if any(row["n_equal"] != row["n_pairs"] for row in rows):
            out.append(f"On {task}, SP and µP differ at base width.")
    return out or ["Nothing: no verdict goes against what was expected before the runs."]

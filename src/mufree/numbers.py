"""Every number and every conclusion of the paper, from frozen tables and verdicts: what `numbers.json` holds.

A number has its text as it is printed, its value, and the table and row it comes from. A sentence that says how something came
out is chosen by a verdict or a table, never typed, so that it is true for whatever study is frozen. The paper shows both by
their keys; the tests in tests/claims check each choice against the tables once more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from mufree.coordcheck import MAX_SLOPE
from mufree.frozen import Frozen
from mufree.recipe import recipe, times
from mufree.report.captions import FIGURE_CAPTIONS
from mufree.report.schedule import largest_gaps
from mufree.report.setting import caveat_of
from mufree.report.terms import bounds, statistic, subject_words, value, with_unit
from mufree.report.transfer import drift_shown
from mufree.report.verdicts import WORDS, p_value
from mufree.report.words import between, count, gates, interval, known, listing, number, percent, plain, sentence, span
from mufree.tables.transfer import EQUIVALENCE_MARGIN, is_equivalent
from mufree.verdicts import NOT_MEASURED

Row = Mapping[str, Any]

SHOWN_WITH_ROWS = ("anytime", "best_of_k", "interaction", "weight_decay")
"""Figures of factors that not every task has; each shows the table of its name."""

NO_BARS = {
    "coordcheck": "no error bars on curves, slopes of the means over seeds; 95 % intervals on worst slopes, where shown",
    "dynamics": "no error bars, every seed is shown",
    "validation_curves": "no error bars, every seed is shown",
    "averages": "no error bars, every seed is shown",
    "best_of_k": "no error bars, the expectation over subsets of the grid",
    "weight_decay": "no error bars, means over seeds",
}
"""Figures without intervals, and what they show instead."""

POWER = 0.8
"""Probability with which a detectable effect is found."""


def collect(frozen: Frozen, figures: Sequence[str]) -> dict[str, Any]:
    """The whole of `numbers.json`; `figures` are those that the paper may show, by name."""
    return {
        "complete": bool(frozen.manifest["complete"]),
        "part": bool(frozen.manifest["part"]),
        "missing": frozen.manifest["missing"],
        "study": frozen.manifest["study"],
        "run_set": frozen.manifest["run_set"],
        "tasks": [{"name": task, "description": _description(frozen, task)} for task in frozen.tasks],
        "numbers": _counts(frozen) | _estimates(frozen),
        "sentences": sentences(frozen),
        "captions": {task: _captions(frozen, task, figures) for task in frozen.tasks},
        "notes": {"error_bars": _error_bars(frozen, frozen.tasks), "data": _data_words(frozen, frozen.tasks)},
        "hypotheses": [_hypothesis(frozen, h.id) for h in frozen.hypotheses.hypotheses],
        "deviations": [d.model_dump(mode="json") for d in frozen.hypotheses.deviations],
    }


# --- numbers ---------------------------------------------------------------------------------------------------------


def _number(text: str, value: Any, source: str, interval: str = "") -> dict[str, Any]:
    plain = None if value is None or not math.isfinite(value) else float(value)
    return {"text": text, "value": plain, "interval": interval, "source": source}


def _counts(frozen: Frozen) -> dict[str, dict[str, Any]]:
    runs = frozen.runs
    diverged = int(runs["status"].eq("diverged").sum())
    plain = {
        "runs": (len(runs), "rows.parquet"),
        "diverged": (diverged, "rows.parquet: status"),
        "tasks": (len(frozen.tasks), "rows.parquet: task"),
        "methods": (runs["method"].nunique(), "rows.parquet: method"),
        "hypotheses": (len(_of_kind(frozen, "primary")), "hypotheses.yaml"),
        "replications": (len(_of_kind(frozen, "replication")), "hypotheses.yaml"),
        "controls": (len(_of_kind(frozen, "control")), "hypotheses.yaml"),
        "deviations": (len(frozen.hypotheses.deviations), "hypotheses.yaml: deviations"),
    }
    out = {name: _number(f"{n:,}".replace(",", " "), n, source) for name, (n, source) in plain.items()}
    for verdict in WORDS:
        n = sum(row["verdict"] == verdict for h in _of_kind(frozen, "primary") for row in frozen.judged(h, "overall"))
        out[f"primary_{verdict}"] = _number(str(n), n, f"verdicts.csv: scope=overall, verdict={verdict}")
    hours = float(frozen.manifest["core_hours"])
    out["core_hours"] = _number(number(hours, 1), hours, "MANIFEST.json: core_hours")
    out["diverged_share"] = _number(percent(diverged / len(runs)), diverged / len(runs), "rows.parquet: status")
    least = frozen.least_seeds
    out["least_seeds"] = _number(str(least), least, "tables/optima.csv: n_seeds")
    out["wilson_none"] = _number(percent(_none_of(least), 0), _none_of(least), f"Wilson's interval of 0 of {least}")
    power = detectable_interaction(least)
    out["power"] = _number(percent(POWER, 0), POWER, "numbers.POWER")
    out["drift_margin"] = _number(f"{EQUIVALENCE_MARGIN}", EQUIVALENCE_MARGIN, "tables.transfer.EQUIVALENCE_MARGIN")
    out["coordcheck_margin"] = _number(f"{MAX_SLOPE}", MAX_SLOPE, "coordcheck.MAX_SLOPE")
    out["detectable"] = _number(number(power, 1), power, f"t with {least - 1} degrees of freedom, power {POWER}")
    return out


def _estimates(frozen: Frozen) -> dict[str, dict[str, Any]]:
    """Every estimate of the study, keyed `task/subject/statistic`, and `/w<width>` where it has a width."""
    out = {}
    for row in frozen.records("estimates"):
        what = statistic(row["statistic"])
        width = f"/w{int(row['width'])}" if known(row["width"]) else ""
        source = f"tables/estimates.csv: task={row['task']}, subject={row['subject']}, statistic={row['statistic']}"
        out[f"{row['task']}/{row['subject']}/{row['statistic']}{width}"] = _number(
            with_unit(row["estimate"], what),
            row["estimate"],
            source + (f", width={int(row['width'])}" if width else ""),
            bounds(row["low"], row["high"], what),
        )
    return out


def _none_of(n: int) -> float:
    from mufree.metrics.statistics import wilson

    return wilson(0, n)[1]


def detectable_interaction(n_seeds: int) -> float:
    """The difference in differences that is found with probability `POWER`, in standard deviations over seeds.

    Of four means over seeds. Two-sided test at 0.05; the four errors are taken as independent. NaN below two seeds.
    """
    from scipy.stats import t  # slow to import

    if n_seeds < 2:
        return math.nan
    freedom = n_seeds - 1
    return float((t.ppf(0.975, freedom) + t.ppf(POWER, freedom)) * 2 / math.sqrt(n_seeds))


# --- sentences -------------------------------------------------------------------------------------------------------

QUESTIONS = {
    "transfer": "H1a",
    "synergy": "H1b",
    "schedule": "H2",
    "stability": "H3",
    "search": "H4",
    "decay": "H5",
    "rate": "H6",
    "loss": "H7",
    "embedding": "H8",
}
"""Which hypothesis answers which part of the results."""


def sentences(frozen: Frozen) -> dict[str, list[str]]:
    """All computed sentences, by the id of the claim that they make."""
    return {
        "size": [_size(frozen)],
        "headline": [_headline(frozen)],
        "in-short": _in_short(frozen),
        "tally": [_tally(frozen)],
        "drift": [_drift(frozen, task) for task in frozen.tasks],
        "regret": [_regret(frozen, task) for task in frozen.tasks],
        "best": [_best(frozen, task) for task in frozen.tasks],
        "diverged": [_diverged(frozen, task) for task in frozen.tasks],
        "anytime": _anytime(frozen),
        **{name: _answer(frozen, hypothesis) for name, hypothesis in QUESTIONS.items()},
        "embedding-own-rate": _embedding_own_rate(frozen),
        "replications": [line for h in _of_kind(frozen, "replication") for line in _short_answer(frozen, h)],
        "positive-controls": [line for h in _of_kind(frozen, "control") for line in _short_answer(frozen, h)],
        "negative-control": _negative_control(frozen),
        "coordinate-check": _coordinate_check(frozen),
        "surprises": _surprises(frozen),
        "recipe": [recipe(frozen, task) for task in frozen.tasks],
        "calibration": _calibration(frozen),
        "scope": [_scope(frozen, task) for task in frozen.tasks],
        "seeds": [_seeds(frozen)],
    }


def _of_kind(frozen: Frozen, kind: str) -> list[str]:
    return [h.id for h in frozen.hypotheses.hypotheses if h.kind == kind]


def _description(frozen: Frozen, task: str) -> str:
    return str(frozen.study["tasks"][task]["description"])


def _size(frozen: Frozen) -> str:
    runs = len(frozen.runs)
    diverged = int(frozen.runs["status"].eq("diverged").sum())
    methods = count(frozen.runs["method"].nunique(), "method")
    hours = number(frozen.manifest["core_hours"], 1)
    return (
        f"We report {count(runs, 'run')} of {methods} on {count(len(frozen.tasks), 'task')}; {diverged} of the runs diverged. "
        f"They took {hours} core-hours."
    )


def _headline(frozen: Frozen) -> str:
    """The verdict on transfer, one clause a verdict."""
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
    return sentence("; ".join(clauses))


def _lost_by_correction(frozen: Frozen, tasks: Sequence[str]) -> str:
    """What to add where a verdict on transfer is open for no other reason than Holm's correction."""
    lost = [row for row in frozen.judged("H1a", "task") if row["task"] in tasks and _holds_alone(frozen, row)]
    if not lost:
        return ""
    where = f" on {listing([row['task'] for row in lost])}" if len(tasks) > 1 else ""
    p = listing([p_value(row["p_holm"]) for row in lost])
    return f"; both parts hold{where} when tested alone, and not after Holm's correction, p {p}"


def _holds_alone(frozen: Frozen, whole: Row) -> bool:
    """Whether a hypothesis is open in a task although each of its conditions is supported: the correction alone decides."""
    parts = [part["verdict"] for part in frozen.judged(whole["id"], "condition") if part["task"] == whole["task"]]
    return whole["verdict"] == "inconclusive" and set(parts) == {"supported"}


def _in_short(frozen: Frozen) -> list[str]:
    """What comes after the headline: drifts, what keeping a rate costs, and how the pair compares with its rivals."""
    drifts, costs = (_under_both(frozen, statistic) for statistic in ("drift", "regret_cf"))
    moved, compared = [], []
    if all(drifts):
        moved.append(
            f"ScheduleFree's best rate drifts by {drifts[0]} doublings per doubling of width under µP and by {drifts[1]} "
            "under SP"
        )
    if all(costs):
        moved.append(
            f"keeping the base width's rate costs it {costs[0]} nats at the largest width under µP and {costs[1]} under SP"
        )
    if ratio := times(frozen, *frozen.tasks):
        compared.append(f"its best rate is {ratio} times AdamW's")
    if loss := _range(frozen, "loss_vs_best", "mup_schedulefree - best other"):
        compared.append(
            f"its loss at the largest width differs from the best of the other three methods' by {loss} nats"
        )
    said = [
        ", and ".join(moved),
        f"under µP, {', and '.join(compared)}" if compared else "",
        _beside_other_schedules(frozen),
    ]
    if said[0] and len(frozen.tasks) > 1:
        said[0] = f"from task to task, {said[0]}"
    return [sentence(text) for text in said if text]


def _beside_other_schedules(frozen: Frozen) -> str:
    """How far the pair ends above the best rival with another schedule than cosine, in each task that has one; or nothing."""
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
    if not gaps:
        return ""
    return f"from the best schedule other than cosine, tuned at the same horizon, its loss differs by {'; '.join(gaps)}"


def _under_both(frozen: Frozen, name: str) -> tuple[str, str]:
    return _range(frozen, name, "mup_schedulefree"), _range(frozen, name, "sp_schedulefree")


def _range(frozen: Frozen, name: str, subject: str) -> str:
    """The least and the greatest estimate over tasks, of all widths or at each task's largest; nothing if there is none."""
    estimates = [
        float(row["estimate"])
        for task in frozen.tasks
        for row in frozen.records("estimates", task=task, statistic=name, subject=subject)
        if known(row["estimate"]) and (not known(row["width"]) or row["width"] == frozen.widths(task)[-1])
    ]
    return between([value(estimate, statistic(name)) for estimate in sorted(estimates)])


def with_interval(row: Row) -> str:
    """Estimate, unit-less, with its 95 % interval."""
    what = statistic(row["statistic"])
    if not known(row["estimate"]):
        return "not estimable"
    interval = bounds(row["low"], row["high"], what)
    return (
        f"{value(row['estimate'], what)} {interval}"
        if known(row["low"])
        else f"{value(row['estimate'], what)}, no interval"
    )


def _tally(frozen: Frozen) -> str:
    rows = [row for h in _of_kind(frozen, "primary") for row in frozen.judged(h, "overall")]
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in WORDS}
    found = listing([f"{n} {WORDS[verdict]}" for verdict, n in counts.items() if n])
    return f"Of the {len(rows)} hypotheses, judged over all tasks, we find {found}."


def _drift(frozen: Frozen, task: str) -> str:
    """b of every method that was trained at several widths, and what its interval says."""
    rows = {row["subject"]: row for row in frozen.records("estimates", task=task, statistic="drift")}
    parts = []
    for method in frozen.methods(task):
        if method in rows and frozen.n_widths(task, method) > 1:
            shown = f"{with_interval(rows[method])}, " if known(rows[method]["estimate"]) else ""
            parts.append(f"{frozen.named(method)}: {shown}{drift_words(rows[method])}")
    return f"{task}: {'; '.join(parts)}."


def drift_words(row: Row) -> str:
    """What an estimate of drift shows: `no drift`, `small`, `drifts`, `undecided` or `not estimable`."""
    estimate = row["estimate"] if row["status"] == "ok" else None
    kind = drift_shown(estimate, row["low"], row["high"], is_equivalent(row["low90"], row["high90"]))
    return {"none": "no drift", "not_estimable": "not estimable"}.get(kind, kind)


def _regret(frozen: Frozen, task: str) -> str:
    widest, base = frozen.widths(task)[-1], frozen.base_width(task)
    parts = [
        f"{frozen.named(row['subject'])} {with_interval(row)}"
        for row in frozen.records("estimates", task=task, statistic="regret_cf", width=widest)
    ]
    return f"{task}, from width {base} to {widest}, in nats: {'; '.join(parts) or 'not estimable'}."


def _best(frozen: Frozen, task: str) -> str:
    widest = frozen.widths(task)[-1]
    rows = frozen.records("estimates", task=task, statistic="best_loss", width=widest)
    found = sorted((row for row in rows if known(row["estimate"])), key=lambda row: float(row["estimate"]))
    if not found:
        return f"{task}: every run at width {widest} diverged."
    first, *others = found
    text = f"{task}, width {widest}: lowest is {frozen.named(first['subject'])} with {with_interval(first)} nats"
    if not others:
        return text + "."
    return f"{text}; next is {frozen.named(others[0]['subject'])}, {with_interval(others[0])}."


def _anytime(frozen: Frozen) -> list[str]:
    """The largest anytime gap of each pair, for every task and width that was trained for several horizons."""
    out = []
    for task in frozen.tasks:
        rows = frozen.records("anytime", task=task)
        for width in dict.fromkeys(row["width"] for row in rows):
            gaps = largest_gaps([row for row in rows if row["width"] == width], frozen.named)
            out.append(f"{task}, width {int(width)}. {'. '.join(gaps)}.")
    return out or ["No task was trained for several horizons."]


def _diverged(frozen: Frozen, task: str) -> str:
    runs = frozen.primary(task)
    parts = []
    for method in frozen.methods(task):
        mine = runs[runs["method"].eq(method)]
        stuck = sum(int(row["n_learnt_nothing"]) for row in frozen.records("stability", task=task, method=method))
        besides = f", and {stuck} learnt nothing" if stuck else ""
        parts.append(f"{frozen.named(method)} {int(mine['status'].eq('diverged').sum())} of {len(mine)}{besides}")
    return f"{task}: {'; '.join(parts)}."


def _answer(frozen: Frozen, hypothesis: str) -> list[str]:
    """The overall verdict in a sentence, then what decides in each task where it can be estimated."""
    out = [_overall(frozen, hypothesis)]
    for whole in frozen.judged(hypothesis, "task"):
        if whole["verdict"] != "not_estimable":
            parts = [row for row in frozen.judged(hypothesis, "condition") if row["task"] == whole["task"]]
            said = "; ".join(_conditions(frozen, list(alike)) for _, alike in groupby(parts, key=_asked_of))
            of_verdict = whole["p_refuted_holm" if whole["verdict"] == "refuted" else "p_holm"]
            alone = "; every part holds when tested alone" if _holds_alone(frozen, whole) else ""
            p = f" (Holm p {p_value(of_verdict)}{alone})" if known(of_verdict) else ""
            out.append(f"{whole['task']}: {WORDS[whole['verdict']]}{p}. {sentence(said)}")
    return out


def _embedding_own_rate(frozen: Frozen) -> list[str]:
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


def _short_answer(frozen: Frozen, hypothesis: str) -> list[str]:
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


def about(frozen: Frozen, row: Row) -> str:
    """Of whom, and at which width."""
    width = f" at width {int(row['width'])}" if known(row["width"]) else ""
    # What it is compared with, or that it is of all four, stands in the statistic's own words.
    subject = re.sub(r"^interaction$| - best (single factor|other)$", "", row["subject"])
    return (f" of {subject_words(subject, frozen.named)}" if subject else "") + width


def _negative_control(frozen: Frozen) -> list[str]:
    out = []
    for task in frozen.tasks:
        rows = frozen.records("control", task=task)
        pairs, equal = sum(int(row["n_pairs"]) for row in rows), sum(int(row["n_equal"]) for row in rows)
        if not pairs:
            out.append(f"{task}: not checked.")
        elif equal == pairs:
            out.append(f"{task}: the same losses, bit for bit, in all {pairs} pairs of runs.")
        else:
            out.append(
                f"{task}: the same losses in only {equal} of {pairs} pairs of runs; the implementation is in doubt."
            )
    return out


def _coordinate_check(frozen: Frozen) -> list[str]:
    """How many checks, at y and at x, pass by parametrization, and whether that is as it has to be."""
    parametrization = frozen.runs.drop_duplicates("method").set_index("method")["parametrization"]
    out = []
    for task in frozen.tasks:
        rows = frozen.records("coordcheck_verdict", task=task)
        mup, sp = (
            [str(row["passed"]) == "True" for row in rows if parametrization[row["method"]] == kind]
            for kind in ("mup", "sp")
        )
        text = f"{task}: µP passes {sum(mup)} of {len(mup)} checks, SP passes {sum(sp)} of {len(sp)}"
        of_mup = gates([row for row in rows if parametrization[row["method"]] == "mup"])
        failed, undecided = (
            listing([frozen.named(m) for m in of_mup if of_mup[m] == outcome]) for outcome in ("failed", "undecided")
        )
        doubts = [
            *([f"what is said of {failed} here is in doubt"] if failed else []),
            *([f"for {undecided} its seeds are too few to decide, no slope fails surely"] if undecided else []),
            *(["the check does not tell µP from SP"] if any(sp) else []),
        ]
        out.append(f"{text}; {' and '.join(doubts) or 'as it has to be'}.")
    return out


def _surprises(frozen: Frozen) -> list[str]:
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


CALIBRATED = {
    "drift": "drift",
    "did_drift": "interaction of the drifts",
    "regret_held": "regret, as reported",
    "regret_cf": "regret with both rates chosen anew, not reported",
    "regret_cf_expected": "the same, as what tuning with one seed fewer costs on average, not reported",
}
"""What the calibration's statistics are called, those that the study reports first."""


def _calibration(frozen: Frozen) -> list[str]:
    """For each statistic, how often its nominal 95 % interval covers the truth with as many seeds as the study has."""
    if frozen.calibration is None:
        return ["No simulation of the intervals is part of this frozen study."]
    least = frozen.least_seeds
    table = frozen.calibration[frozen.calibration["n_seeds"].eq(least)]
    if table.empty:
        return [f"The intervals were not simulated for {count(least, 'seed')}."]
    out = []
    for name in [each for each in CALIBRATED if each in set(table["statistic"])]:
        rows = table[table["statistic"].eq(name)]
        low, high = (number(100 * bound, 1) for bound in (rows["coverage"].min(), rows["coverage"].max()))
        fine = int(rows["within_bounds"].astype(str).eq("True").sum())
        out.append(
            f"{CALIBRATED[name]}, {count(least, 'seed')}: coverage {low} to {high} % over "
            f"{count(len(rows), 'scenario')}, of which {fine} {'is' if fine == 1 else 'are'} as wanted."
        )
    return out


def _scope(frozen: Frozen, task: str) -> str:
    return f"{task}: {design(frozen, task)} {plain(frozen.study['tasks'][task].get('note'))}".rstrip()


def design(frozen: Frozen, task: str) -> str:
    """What a task is, and how far it was tried."""
    runs = frozen.primary(task)
    first = runs.iloc[0]
    rates = span([int(x) for x in runs["log2_lr"]])
    return (
        f"{_description(frozen, task)}; widths {span(frozen.widths(task))}, log2 rates {rates}, "
        f"{count(int(first['steps']), 'step')} of {int(first['batch_size'])}, {_seeds_words(frozen, task)}."
    )


def _seeds(frozen: Frozen) -> str:
    least = frozen.least_seeds
    wanted = 5
    if least < wanted:
        return f"With {count(least, 'seed')} the study is exploratory by its own rules, which ask for {wanted}."
    return f"Every primary cell of the four methods has at least {least} seeds, as the study's rules ask."


def _seeds_words(frozen: Frozen, task: str) -> str:
    seeds = frozen.seeds(task)
    return count(seeds[0], "seed") if len(seeds) == 1 else f"{span(seeds)} seeds"


# --- captions --------------------------------------------------------------------------------------------------------


def _captions(frozen: Frozen, task: str, figures: Iterable[str]) -> dict[str, str]:
    """Captions of the figures that have something to show for this task."""
    out = {}
    for name in figures:
        needed = frozen.tables.get(name) if name in SHOWN_WITH_ROWS else None
        averages = frozen.runs["task"].eq(task) & frozen.runs["average"].ne("none")
        if name == "averages" and not averages.any():
            continue
        if needed is None or needed["task"].eq(task).any():
            what = f"{_description(frozen, task)} ({task}). {FIGURE_CAPTIONS.get(name, '')}"
            if name == "coordcheck":
                n = f"n = {count(frozen.checked_seeds.get(task, 0), 'seed')} a method and width"
                out[name] = f"{what} {tail(frozen, [task], NO_BARS[name], n)}"
            else:
                out[name] = f"{what} {tail(frozen, [task], NO_BARS.get(name, ''))}"
    return out


def tail(frozen: Frozen, tasks: Sequence[str], error_bars: str = "", n: str = "") -> str:
    """The end of every caption: n, error bars, data, and which set of runs."""
    runs = int(frozen.runs["task"].isin(tasks).sum())
    return (
        f"{n or 'n = ' + count(runs, 'run')}; {error_bars or _error_bars(frozen, tasks)}; "
        f"data: {_data_words(frozen, tasks)}; run set {frozen.manifest['run_set']}."
    )


def _error_bars(frozen: Frozen, tasks: Sequence[str]) -> str:
    seeds = sorted({n for task in tasks for n in frozen.seeds(task)})
    if seeds == [1]:
        return "one seed, no error bars"
    noun = count(seeds[0], "seed") if len(seeds) == 1 else f"{span(seeds)} seeds"
    return f"intervals are 95 %, delete-one-seed jackknife with t quantile, {noun}"


def _data_words(frozen: Frozen, tasks: Sequence[str]) -> str:
    """Data sets of some tasks, with a caveat where splits, or a copy, are not as published."""
    out = []
    for task in tasks:
        settings = frozen.study["tasks"][task]
        dataset = settings["dataset"]
        manifest = next((m for m in frozen.provenance["data"] if m["settings"]["name"] == dataset["name"]), None)
        # What a note opens with, up to its colon, is what has to be known beside every number.
        opening = plain(settings.get("note")).partition(":")[0]
        caveat = (caveat_of(manifest) if manifest else "") or opening
        name = str(dataset["name"]).replace("_", " ")
        out.append(f"{name} ({caveat[0].lower()}{caveat[1:].rstrip('.')})" if caveat else name)
    return ", ".join(dict.fromkeys(out))


def _hypothesis(frozen: Frozen, name: str) -> dict[str, Any]:
    """One hypothesis as the appendix shows it."""
    h = next(h for h in frozen.hypotheses.hypotheses if h.id == name)
    return {
        "id": h.id,
        "kind": h.kind,
        "claim": h.claim,
        "decided_by": h.decided_by,
        "known": h.known,
        "sources": h.sources,
        "written": str(h.written),
        "post_hoc": h.post_hoc,
        "verdict": WORDS[frozen.judged(name, "overall")[0]["verdict"]],
        "tasks": {row["task"]: WORDS[row["verdict"]] for row in frozen.judged(name, "task")},
    }

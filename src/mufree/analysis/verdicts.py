"""From estimates and hypotheses to verdicts. Frames in, a frame out, no file touched.

Every verdict is computed: by Student's t on the standard error over seeds, with the claim's own margin and level. A claim is
supported by a one-sided test (two of them for a claim of equivalence, Schuirmann 1987). It is refuted where the two-sided
interval excludes it or, where the condition says what contradicts it, by the same tests of that. Primary hypotheses of a task
are one family: both kinds of p are adjusted by Holm's method (1979) over it. A hypothesis with several conditions is supported
only if each of them is, so that its p is the largest (an intersection–union test, which needs no correction of its own); it is
refuted if one of them is, so that the least p counts, times their number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd

from mufree.analysis.metrics.statistics import Interval, holm, one_sided_p, two_sided_p
from mufree.analysis.tables.cases import plain_records
from mufree.analysis.tables.estimates import COLUMNS as ESTIMATE_COLUMNS
from mufree.analysis.tables.pooled import as_estimates
from mufree.analysis.tables.pooled import pooled as pooled_table
from mufree.study.hypotheses import Condition, Hypotheses, Hypothesis, Verdict
from mufree.study.limits import MIN_SEEDS, PRIMARY_SEEDS
from mufree.study.reading import RecordError

COLUMNS = [
    *("id", "task", "scope", "condition", "kind", "claim", "statistic", "subject", "width", "rule", "margin"),
    *("estimate", "low", "high", "low90", "high90", "unit", "n_seeds", "p", "p_holm", "p_refuted", "p_refuted_holm"),
    *("verdict", "expects", "reason", "evidence", "post_hoc"),
]
"""The columns of the frame of verdicts. `scope` is `condition` (one statistic at one width), `task` or `overall`; the adjusted
p-values in rows of a condition are those of the hypothesis in the task. `margin` is text."""

OVERALL = "all"
"""What stands for the task in rows of scope `overall`."""

NOT_MEASURED = "it was not measured in this task"

POINT = "no seed changes it, so that the interval is a point and the grid's step is the error"


@dataclass(frozen=True)
class Judged:
    """A verdict with its two p-values (of the claim, and of its refutation), why, and the columns that it fills."""

    verdict: Verdict
    p: float
    p_refuted: float
    reason: str
    columns: dict[str, Any] = field(default_factory=dict)


def judge(estimates: pd.DataFrame, hypotheses: Hypotheses) -> pd.DataFrame:
    """Verdicts of all hypotheses: a row each condition and task, each task, and one overall, in the file's order.

    Raises `RecordError` for missing columns and for an estimate that is there twice.
    """
    missing = [name for name in ESTIMATE_COLUMNS if name not in estimates]
    if missing:
        raise RecordError(f"estimates have no column {', '.join(missing)}; make them again with `mufree metrics`")
    keys = ["task", "subject", "width", "statistic"]
    twice = estimates[estimates.duplicated(keys)]
    if len(twice):
        raise RecordError(
            f"estimate {tuple(twice[keys].iloc[0])} is there twice; make them again with `mufree metrics`"
        )
    tasks = sorted(map(str, estimates["task"].unique()))
    by_task = {task: _judge_task(estimates[estimates["task"] == task], hypotheses.hypotheses) for task in tasks}
    pooled = _judge_pooled(estimates, [h for h in hypotheses.hypotheses if h.scope == "pooled"])
    records: list[dict[str, Any]] = []
    for hypothesis in hypotheses.hypotheses:
        for task in tasks:
            parts, whole = by_task[task][hypothesis.id]
            records += [_record(hypothesis, task, "condition", part) for part in parts]
            records.append(_record(hypothesis, task, "task", whole))
        if hypothesis.scope == "pooled":
            parts, overall = pooled[hypothesis.id]
            records += [_record(hypothesis, OVERALL, "condition", part) for part in parts]
        else:
            overall = _overall({task: by_task[task][hypothesis.id][1] for task in tasks})
        records.append(_record(hypothesis, OVERALL, "overall", overall))
    frame = pd.DataFrame(records, columns=COLUMNS)
    return frame.astype({"width": "Int64", "n_seeds": "Int64", "condition": "Int64"})


def _record(hypothesis: Hypothesis, task: str, scope: str, judged: Judged) -> dict[str, Any]:
    return {
        "id": hypothesis.id,
        "task": task,
        "scope": scope,
        "kind": hypothesis.kind,
        "claim": hypothesis.claim,
        "p": judged.p,
        "p_refuted": judged.p_refuted,
        "verdict": judged.verdict,
        "expects": hypothesis.expects,
        "reason": judged.reason,
        "evidence": " ".join([hypothesis.known, *(f"@{source}" for source in hypothesis.sources)]),
        "post_hoc": hypothesis.post_hoc,
        **judged.columns,
    }


# --- a task ----------------------------------------------------------------------------------------------------------


def _judge_task(estimates: pd.DataFrame, hypotheses: Sequence[Hypothesis]) -> dict[str, tuple[list[Judged], Judged]]:
    """Conditions and the whole of each hypothesis in one task; primary ones with Holm's correction."""
    parts = {h.id: _conditions(h, estimates) for h in hypotheses}
    whole = {h.id: _combine(parts[h.id]) for h in hypotheses}
    family = [h for h in hypotheses if h.kind == "primary" and whole[h.id].verdict != "not_estimable"]
    supports = holm([whole[h.id].p for h in family]).tolist()
    refutations = holm([whole[h.id].p_refuted for h in family]).tolist()
    for h, p_holm, p_refuted_holm in zip(family, supports, refutations, strict=True):
        whole[h.id] = _corrected(whole[h.id], h.level, p_holm, p_refuted_holm, len(family))
    adjusted = {h.id: {k: v for k, v in whole[h.id].columns.items() if k.endswith("_holm")} for h in hypotheses}
    return {
        h.id: ([replace(part, columns=part.columns | adjusted[h.id]) for part in parts[h.id]], whole[h.id])
        for h in hypotheses
    }


def _judge_pooled(estimates: pd.DataFrame, hypotheses: Sequence[Hypothesis]) -> dict[str, tuple[list[Judged], Judged]]:
    """As in a task, by the means over tasks, which have no width: those of a width are of each task's largest.

    Each alone: few tasks leave so few degrees of freedom that no number of seeds would survive a correction. The family is
    corrected in each task.
    """
    if not hypotheses:
        return {}
    means = as_estimates(pooled_table(estimates), OVERALL)
    parts = {}
    for h in hypotheses:
        widthless = [c.model_copy(update={"width": None}) for c in h.conditions]
        parts[h.id] = _conditions(h.model_copy(update={"conditions": widthless}), means)
    return {name: (found, _combine(found)) for name, found in parts.items()}


def _corrected(judged: Judged, level: float, p_holm: float, p_refuted_holm: float, family: int) -> Judged:
    """The verdict that is left after correction for a family of so many hypotheses."""
    p_left = {"supported": p_holm, "refuted": p_refuted_holm}.get(judged.verdict, 0.0)
    columns = judged.columns | {"p_holm": p_holm, "p_refuted_holm": p_refuted_holm}
    if p_left < level:
        return replace(judged, columns=columns)
    reason = f"{judged.verdict} alone, not after Holm's correction over {family} hypotheses (p {p_left:.2g}): {judged.reason}"
    return replace(judged, verdict="inconclusive", reason=reason, columns=columns)


def _combine(parts: Sequence[Judged]) -> Judged:
    """All have to be supported; one that is refuted refutes; of the rest, what can't be estimated comes before doubt."""
    found = [part.verdict for part in parts]
    estimable = [part for part in parts if part.verdict != "not_estimable"]
    p = max(part.p for part in parts) if len(estimable) == len(parts) else math.nan
    p_refuted = min((min(1.0, part.p_refuted * len(estimable)) for part in estimable), default=math.nan)
    order: tuple[Verdict, ...] = ("refuted", "not_estimable", "inconclusive", "supported")
    verdict = next(v for v in order if v in found)
    deciding = [part for part in parts if part.verdict == verdict]
    reason = "; ".join(dict.fromkeys(f"{_what(part.columns)}: {part.reason}" for part in deciding))
    columns = parts[0].columns if len(parts) == 1 else {}
    return Judged(verdict, p, p_refuted, reason, {k: v for k, v in columns.items() if k != "condition"})


def _what(columns: dict[str, Any]) -> str:
    width = "" if columns["width"] is None else f" at width {columns['width']}"
    return f"{columns['statistic']} of {columns['subject']}{width}"


def _overall(wholes: dict[str, Judged]) -> Judged:
    """Over the tasks in which the hypothesis can be estimated: what is true of all of them, else inconclusive."""
    by_verdict: dict[Verdict, list[str]] = {}
    for task, judged in wholes.items():
        by_verdict.setdefault(judged.verdict, []).append(task)
    skipped = by_verdict.pop("not_estimable", [])
    aside = f"; not estimable in {', '.join(skipped)}" if skipped else ""
    if not by_verdict:
        return Judged("not_estimable", math.nan, math.nan, "not estimable in any task")
    if len(by_verdict) == 1:
        ((verdict, tasks),) = by_verdict.items()
        return Judged(verdict, math.nan, math.nan, f"{verdict} in {', '.join(tasks)}{aside}")
    mixed = ", ".join(f"{verdict} in {', '.join(tasks)}" for verdict, tasks in sorted(by_verdict.items()))
    return Judged("inconclusive", math.nan, math.nan, f"mixed: {mixed}{aside}")


# --- a condition -----------------------------------------------------------------------------------------------------


def _conditions(hypothesis: Hypothesis, estimates: pd.DataFrame) -> list[Judged]:
    """Each condition of a hypothesis at each of its widths."""
    out = []
    for number, condition in enumerate(hypothesis.conditions, start=1):
        for row in estimates_of(condition, estimates):
            judged = _judge(condition, row, hypothesis.level, estimates)
            out.append(replace(judged, columns=judged.columns | {"condition": number}))
    return out


def estimates_of(condition: Condition, estimates: pd.DataFrame) -> list[dict[str, Any]]:
    """The estimates that a condition is about; one that says so if there is none.

    Raises ValueError if a condition that names no width meets several.
    """
    subjects = [s for s in estimates["subject"].unique() if fnmatchcase(str(s), condition.subject)]
    here = estimates[estimates["statistic"].eq(condition.statistic) & estimates["subject"].isin(subjects)]
    width: float | None = None
    if condition.width == "largest":
        width = float(estimates["width"].max())
        here = here[here["width"].eq(width)]
    elif condition.width is None and here["width"].notna().any():
        raise ValueError(
            f"{condition.statistic} of {condition.subject} has one estimate a width; say width: largest or width: every in the "
            "hypothesis"
        )
    if len(here):
        return [_plain(row) for row in plain_records(here.sort_values(["subject", "width"]))]
    blank: dict[str, Any] = dict.fromkeys(ESTIMATE_COLUMNS, math.nan)
    of = {"subject": condition.subject, "width": _whole(width), "n_seeds": None, "unit": "", "reason": NOT_MEASURED}
    return [blank | of | {"status": "not_estimable"}]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    unit = row["unit"] if isinstance(row["unit"], str) else ""  # a file gives NaN for an empty text
    return row | {"width": _whole(row["width"]), "n_seeds": _whole(row["n_seeds"]), "unit": unit}


def _whole(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)


def _judge(condition: Condition, row: dict[str, Any], level: float, estimates: pd.DataFrame) -> Judged:
    """A verdict on one estimate."""
    low, high = _bounds(condition, row, estimates)
    shown = ("subject", "width", "estimate", "low", "high", "low90", "high90", "unit", "n_seeds")
    columns = {name: row[name] for name in shown}
    columns |= {"statistic": condition.statistic, "rule": condition.rule, "margin": _margin(condition)}
    reason = _why_not(condition, row, (low, high))
    if reason:
        return Judged("not_estimable", math.nan, math.nan, reason, columns)
    if condition.exact or (condition.rule == "within" and row["se"] == 0):
        holds = low <= row["estimate"] <= high
        said = f"{row['estimate']:.3g} is {'' if holds else 'not '}{_range(condition, low, high)}"
        said += "" if condition.exact else f"; {POINT}"
        return Judged("supported" if holds else "refuted", float(not holds), float(holds), said, columns)
    p, p_refuted = _p_values(condition, row, low, high)
    # A drift that is surely there and surely small is no drift: equivalence comes first.
    verdict: Verdict = "refuted" if p_refuted < level else "supported" if p < level else "inconclusive"
    return Judged(verdict, p, p_refuted, _why(condition, verdict, row, (low, high), level), columns)


def _bounds(condition: Condition, row: dict[str, Any], estimates: pd.DataFrame) -> tuple[float, float]:
    """The range in which the claim puts the statistic (for `excludes_zero`: that of no effect). NaN if a margin is unknown."""
    margins = [] if condition.margin is None else [condition.margin]
    if condition.margin_sigmas is not None:
        margins.append(condition.margin_sigmas * _sigma_seed(row, estimates))
    margin = float(np.max(margins)) if margins else math.nan
    if condition.rule == "within":
        return open_ends(condition.low, condition.high)
    return {
        "inside": (-margin, margin),
        "excludes_zero": (-margin, margin),
        "below": (-math.inf, margin),
        "above": (margin, math.inf),
    }[condition.rule]


def ranges(
    condition: Condition, row: dict[str, Any], estimates: pd.DataFrame
) -> tuple[tuple[float, float], tuple[float, float]]:
    """What supports a condition, and what contradicts it: of several such ranges those on the side of the estimate."""
    low, high = _bounds(condition, row, estimates)
    if condition.rule == "excludes_zero":
        return ((0.0, math.inf) if row["estimate"] > 0 else (-math.inf, 0.0)), (low, high)
    if condition.contradicted_inside:
        return (low, high), open_ends(condition.against_low, condition.against_high)
    return (low, high), ((high, math.inf) if row["estimate"] > high else (-math.inf, low))


def _sigma_seed(row: dict[str, Any], estimates: pd.DataFrame) -> float:
    """Standard deviation over seeds of the best loss of the same subject and width; NaN if it is not known."""
    same = estimates["subject"].eq(row["subject"]) & estimates["width"].eq(row["width"])
    best = estimates[same & estimates["statistic"].eq("best_loss")]
    return float(best["se"].iloc[0] * math.sqrt(best["n_seeds"].iloc[0])) if len(best) else math.nan


def _why_not(condition: Condition, row: dict[str, Any], bounds: tuple[float, float]) -> str:
    """Why nothing can be said, or nothing."""
    if row["status"] != "ok" or not math.isfinite(row["estimate"]):
        given = row["reason"]
        return given if isinstance(given, str) and given else "the estimate is missing"
    if any(math.isnan(bound) for bound in bounds):
        return "the standard deviation over seeds, which its margin takes, is not known"
    if condition.exact:
        return ""
    if row["n_seeds"] is None or row["n_seeds"] < MIN_SEEDS:
        return f"{row['n_seeds'] or 0} seed(s), {MIN_SEEDS} are the least for a verdict"
    return "" if math.isfinite(row["se"]) else "it has no standard error"


# --- p-values --------------------------------------------------------------------------------------------------------


def _p_values(condition: Condition, row: dict[str, Any], low: float, high: float) -> tuple[float, float]:
    """p of the claim, and p of its refutation."""
    found = _interval(row)
    inside = _p_inside(found, low, high)
    if condition.rule == "excludes_zero":
        return float(two_sided_p(found)), inside
    if condition.contradicted_inside:
        return inside, _p_inside(found, *open_ends(condition.against_low, condition.against_high))
    outside = min(float(one_sided_p(found, low, "less")), float(one_sided_p(found, high, "greater")))
    return inside, min(1.0, 2 * outside)


def _p_inside(found: Interval, low: float, high: float) -> float:
    """p of two one-sided tests that the truth lies between two ends, either of which may be infinite."""
    return max(float(one_sided_p(found, low, "greater")), float(one_sided_p(found, high, "less")))


def open_ends(low: float | None, high: float | None) -> tuple[float, float]:
    """A range, with infinity for an end that is open."""
    return -math.inf if low is None else low, math.inf if high is None else high


def _interval(row: dict[str, Any]) -> Interval:
    estimate, low, high, se = (np.asarray(row[name], np.float64) for name in ("estimate", "low", "high", "se"))
    return Interval(estimate, low, high, se, int(row["n_seeds"]))


# --- words -----------------------------------------------------------------------------------------------------------


def _margin(condition: Condition) -> str:
    """The margin as it is read: a number, an interval with open ends, or so many standard deviations; then what contradicts."""
    if condition.rule == "within":
        low = "−∞" if condition.low is None else f"{condition.low:g}"
        high = "∞" if condition.high is None else f"{condition.high:g}"
        return f"[{low}, {high}]".replace("-", "−")
    plain = "" if condition.margin is None else f"{condition.margin:g}".replace("-", "−")
    sigmas = "" if condition.margin_sigmas is None else f"{condition.margin_sigmas:g} σ"
    against = _range(condition, *open_ends(condition.against_low, condition.against_high))
    contradicted = f"; refuted: {against}".replace("-", "−") if condition.contradicted_inside else ""
    return " or ".join(part for part in (plain, sigmas) if part) + contradicted


def _range(condition: Condition, low: float, high: float) -> str:
    if condition.rule in ("inside", "excludes_zero"):
        return f"inside ±{high:.3g}"
    if math.isinf(low):
        return f"at most {high:.3g}" if condition.rule == "within" else f"below {high:.3g}"
    if math.isinf(high):
        return f"at least {low:.3g}" if condition.rule == "within" else f"above {low:.3g}"
    return f"within [{low:.3g}, {high:.3g}]"


def _why(condition: Condition, verdict: Verdict, row: dict[str, Any], bounds: tuple[float, float], level: float) -> str:
    """What the interval does that decides."""
    narrow, wide = f"{100 * (1 - 2 * level):.0f} %", f"{100 * (1 - level):.0f} %"
    target = _range(condition, *bounds)
    if condition.rule == "excludes_zero":
        text = {
            "supported": f"the {wide} interval excludes 0",
            "refuted": f"the {narrow} interval is {target}",
            "inconclusive": f"the {wide} interval includes 0, and the {narrow} interval is not {target}",
        }[verdict]
    elif condition.contradicted_inside:
        against = _range(condition, *open_ends(condition.against_low, condition.against_high))
        text = {
            "supported": f"the {narrow} interval is {target}",
            "refuted": f"the {narrow} interval is {against}",
            "inconclusive": f"the {narrow} interval is neither {target} nor {against}",
        }[verdict]
    else:
        text = {
            "supported": f"the {narrow} interval is {target}",
            "refuted": f"no part of the {wide} interval is {target}",
            "inconclusive": f"the {narrow} interval is not wholly {target}, yet part of the {wide} interval is",
        }[verdict]
    if row["se"] == 0:
        text += f"; {POINT}"
    if row["n_seeds"] < PRIMARY_SEEDS and row["task"] != OVERALL:
        text += f"; exploratory: {row['n_seeds']} seeds, {PRIMARY_SEEDS} are wanted"
    return text

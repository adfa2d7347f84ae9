"""Single numbers, each with its text as it is printed, its value, and the table and row it comes from."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

from mufree.analysis.coordcheck import MAX_SLOPE
from mufree.analysis.tables.transfer import EQUIVALENCE_MARGIN
from mufree.publish.frozen import Frozen
from mufree.publish.recipe import rate_ratios
from mufree.publish.report.terms import bounds, statistic, value, with_unit
from mufree.publish.report.verdicts import WORDS
from mufree.publish.report.words import known, number, percent

POWER = 0.8
"""Probability with which a detectable effect is found."""


def _number(text: str, value: Any, source: str, interval: str = "", digits: str = "") -> dict[str, Any]:
    """A number as it is printed, with its unit; its `digits` are the same without."""
    plain = None if value is None or not math.isfinite(value) else float(value)
    return {"text": text, "digits": digits or text, "value": plain, "interval": interval, "source": source}


def counts(frozen: Frozen) -> dict[str, dict[str, Any]]:
    """How many runs, tasks and verdicts there are, and the limits that the rules judge by."""
    runs = frozen.runs
    diverged = int(runs["status"].eq("diverged").sum())
    plain = {
        "runs": (len(runs), "rows.parquet"),
        "diverged": (diverged, "rows.parquet: status"),
        "tasks": (len(frozen.tasks), "rows.parquet: task"),
        "methods": (runs["method"].nunique(), "rows.parquet: method"),
        "hypotheses": (len(frozen.of_kind("primary")), "hypotheses.yaml"),
        "replications": (len(frozen.of_kind("replication")), "hypotheses.yaml"),
        "controls": (len(frozen.of_kind("control")), "hypotheses.yaml"),
        "deviations": (len(frozen.hypotheses.deviations), "hypotheses.yaml: deviations"),
    }
    out = {name: _number(f"{n:,}".replace(",", " "), n, source) for name, (n, source) in plain.items()}
    for verdict in WORDS:
        n = sum(row["verdict"] == verdict for h in frozen.of_kind("primary") for row in frozen.judged(h, "overall"))
        out[f"primary_{verdict}"] = _number(str(n), n, f"verdicts.csv: scope=overall, verdict={verdict}")
    hours = float(frozen.manifest["core_hours"])
    out["core_hours"] = _number(number(hours, 1), hours, "MANIFEST.json: core_hours")
    out["diverged_share"] = _number(percent(diverged / len(runs)), diverged / len(runs), "rows.parquet: status")
    least = frozen.least_seeds
    out["least_seeds"] = _number(str(least), least, "tables/optima.csv: n_seeds")
    out["wilson_none"] = _number(percent(_none_of(least), 0), _none_of(least), f"Wilson's interval of 0 of {least}")
    power = detectable_interaction(least)
    out["power"] = _number(percent(POWER, 0), POWER, "numbers.values.POWER")
    out["drift_margin"] = _number(f"{EQUIVALENCE_MARGIN}", EQUIVALENCE_MARGIN, "tables.transfer.EQUIVALENCE_MARGIN")
    out["coordcheck_margin"] = _number(f"{MAX_SLOPE}", MAX_SLOPE, "coordcheck.MAX_SLOPE")
    out["detectable"] = _number(number(power, 1), power, f"t with {least - 1} degrees of freedom, power {POWER}")
    return out


def estimates(frozen: Frozen) -> dict[str, dict[str, Any]]:
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
            value(row["estimate"], what),
        )
    return out


def over_tasks(frozen: Frozen, name: str, subject: str) -> list[float]:
    """The estimates of a statistic in all tasks where it is known, of all widths or at each task's largest."""
    return [
        float(row["estimate"])
        for task in frozen.tasks
        for row in frozen.records("estimates", task=task, statistic=name, subject=subject)
        if known(row["estimate"]) and (not known(row["width"]) or row["width"] == frozen.widths(task)[-1])
    ]


def ranges(frozen: Frozen) -> dict[str, dict[str, Any]]:
    """The least and the greatest over tasks, keyed `statistic/subject/least` and `…/most`.

    `rate_ratio` is ScheduleFree's best rate over AdamW's, at every width under µP.
    """
    out = {}
    subjects = ("sp_adamw", "mup_adamw", "sp_schedulefree", "mup_schedulefree")
    for name, subject in product(("drift", "regret_cf"), subjects):
        source = f"tables/estimates.csv: statistic={name}, subject={subject}, largest width of each task"
        for end, found in _ends(over_tasks(frozen, name, subject)):
            out[f"{name}/{subject}/{end}"] = _number(value(found, statistic(name)), found, source)
    for end, found in _ends(rate_ratios(frozen, *frozen.tasks)):
        out[f"rate_ratio/{end}"] = _number(number(found, 1), found, "tables/rate_ratio.csv: under µP")
    return out


def _ends(found: list[float]) -> list[tuple[str, float]]:
    return [("least", min(found)), ("most", max(found))] if found else []


def _none_of(n: int) -> float:
    from mufree.analysis.metrics.statistics import wilson

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

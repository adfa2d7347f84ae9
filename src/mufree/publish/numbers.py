"""Every number that a text may name: how it is printed, its value, its interval, and the rows it comes from.

A source is `FILE: COLUMN, KEY=VALUE, …; NOTE`, of which `publish.trace` reads the file, the column and which rows are meant;
a difference has two, with `; less ` between them, a mean `; and `. Of the least or the most of some rows, it is that row's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any, get_args

import numpy as np
import pandas as pd

from mufree.analysis.metrics.stability import best_loss
from mufree.analysis.metrics.statistics import t_interval, wilson
from mufree.analysis.tables.cases import joint, make_cases, part, primary
from mufree.analysis.tables.cases import plain_records as records
from mufree.publish.results import Results
from mufree.publish.words import bounds, known, number, p_value, percent, statistic, thousands, value, with_unit
from mufree.study.config import METHODS
from mufree.study.hypotheses import Verdict
from mufree.study.limits import EQUIVALENCE_MARGIN, MAX_SLOPE, POWER
from mufree.study.reading import UserError

LIMITS = "src/mufree/study/limits.py"

Numbers = dict[str, dict[str, Any]]


def collect(studies: Sequence[Results]) -> Numbers:
    """The numbers of a paper's studies by key: of the first, of others that are judged, and of those that follow them up.

    Those of a study as a whole have its name and a slash before them, but for the first's. Raises `UserError` where two
    studies have a task of the same name: its estimates would have one key.
    """
    tasks = [task for study in studies for task in study.tasks]
    if len(set(tasks)) < len(tasks):
        raise UserError(
            f"studies {', '.join(study.name for study in studies)} share the task {max(tasks, key=tasks.count)}; rename one"
        )
    found = across(studies) | together([study for study in studies if len(study.verdicts)])
    for study in studies:
        first = study is studies[0]
        whole = as_a_whole(study) if first or len(study.verdicts) else size(study)
        found |= {key if first else f"{study.name}/{key}": entry for key, entry in whole.items()}
        found |= design(study) | estimates(study)
    return found


def as_a_whole(study: Results) -> Numbers:
    """What is said of a study that is judged, and not of one of its tasks alone."""
    return {
        key: entry
        for some in (counts, judged, checks, ranges, over_all, coverage, sampling)
        for key, entry in some(study).items()
    }


def _number(text: str, value: Any, source: str, interval: str = "", digits: str = "") -> dict[str, Any]:
    """A number as it is printed, with its unit; its `digits` are the same without."""
    plain = None if value is None or not math.isfinite(value) else float(value)
    return {"text": text, "digits": digits or text, "value": plain, "interval": interval, "source": source}


def _estimate(name: str, found: Any, low: Any, high: Any, source: str) -> dict[str, Any]:
    """An estimate of the statistic `name` with its interval."""
    what = statistic(name)
    return _number(with_unit(found, what), found, source, bounds(low, high, what), value(found, what))


def _count(n: int, source: str) -> dict[str, Any]:
    return _number(thousands(n), n, source)


def _named(row: Mapping[str, Any], *keys: str) -> str:
    """The words of a source that name this row by what it has of some columns."""
    cells = {key: row[key] for key in keys if isinstance(row[key], str) or known(row[key])}
    return ", ".join(f"{key}={cell if isinstance(cell, str) else f'{cell:g}'}" for key, cell in cells.items())


def size(study: Results) -> Numbers:
    """How many runs a study has, how many diverged, and what they took."""
    runs, diverged = len(study.rows), int(study.rows["status"].eq("diverged").sum())
    return {
        "runs": _count(runs, "rows.parquet"),
        "diverged": _count(diverged, "rows.parquet: status=diverged"),
        "diverged_share": _number(percent(diverged / runs), diverged / runs, "rows.parquet: status=diverged; of all"),
        "tasks": _count(len(study.tasks), "rows.parquet: task"),
        "methods": _count(study.rows["method"].nunique(), "rows.parquet: method"),
        "core_hours": _number(number(study.core_hours, 1), study.core_hours, "provenance.json: core_hours"),
    }


def counts(study: Results) -> Numbers:
    """Its size, the limits that it is judged by, and what so many seeds can see."""
    seeds = study.least_seeds
    widest = max(width for task in study.tasks for width in study.widths(task))
    longest = int(study.rows["steps"].max())
    none, detectable = wilson(0, seeds)[1], detectable_interaction(seeds)
    of_seeds = f"tables/optima.csv: n_seeds={seeds}"
    return size(study) | {
        "least_seeds": _count(seeds, f"{of_seeds}; the least"),
        "widest": _count(widest, f"rows.parquet: width={widest}; the largest"),
        "longest": _count(longest, f"rows.parquet: steps={longest}; the most"),
        "wilson_none": _number(percent(none, 0), none, f"{of_seeds}; Wilson's interval of 0 of them"),
        "power": _number(percent(POWER, 0), POWER, f"{LIMITS}: POWER"),
        "drift_margin": _number(f"{EQUIVALENCE_MARGIN}", EQUIVALENCE_MARGIN, f"{LIMITS}: EQUIVALENCE_MARGIN"),
        "coordcheck_margin": _number(f"{MAX_SLOPE}", MAX_SLOPE, f"{LIMITS}: MAX_SLOPE"),
        "detectable": _number(
            number(detectable, 1), detectable, f"{of_seeds}; t with {seeds - 1} degrees of freedom, power {POWER}"
        ),
    }


def design(study: Results) -> Numbers:
    """What was planned for each task: widths, steps, batch, warm-up, ε, runs by method, and Adam's β where they are its own."""
    out = {}
    for task in study.tasks:
        runs = study.primary(task)
        first = runs.iloc[0]
        where = f"task={task}, variant="
        out[f"widths/{task}"] = _number(study.widths_words(task), None, f"rows.parquet: width, {where}")
        out[f"steps/{task}"] = _count(int(first["steps"]), f"rows.parquet: steps, {where}")
        out[f"batch/{task}"] = _count(int(first["batch_size"]), f"rows.parquet: batch_size, {where}")
        warmup = float(first["warmup_steps"] / first["steps"])
        source = f"rows.parquet: warmup_steps, {where}; as a share of steps"
        out[f"warmup/{task}"] = _number(percent(warmup, 0), warmup, source)
        out[f"eps/{task}"] = _number(f"{first['eps']:g}", float(first["eps"]), f"rows.parquet: eps, {where}")
        for method, n in runs.groupby("method").size().items():
            out[f"runs/{task}/{method}"] = _count(int(n), f"rows.parquet: task={task}, method={method}, variant=")
        for optimizer, settings in study.study["tasks"][task]["optimizers"].items():
            for beta in ("beta1", "beta2"):
                if known(settings.get(beta)) and runs["optimizer"].eq(optimizer).any():
                    source = f"rows.parquet: {beta}, optimizer={optimizer}, {where}"
                    out[f"{beta}/{task}/{optimizer}"] = _number(f"{settings[beta]:g}", settings[beta], source)
    return out


def judged(study: Results) -> Numbers:
    """How many hypotheses of each kind there are and what became of the primary ones; verdicts and p by hypothesis and task."""
    if study.hypotheses is None or study.verdicts.empty:
        return {}
    kinds = {"primary": "hypotheses", "replication": "replications", "control": "controls"}
    out = {
        shown: _count(sum(h.kind == kind for h in study.hypotheses.hypotheses), "hypotheses.yaml")
        for kind, shown in kinds.items()
    }
    for h in study.hypotheses.hypotheses:
        margin = h.conditions[0].margin
        if margin is not None:
            out[f"margin/{h.id}"] = _number(f"{margin:g}".replace("-", "−"), margin, f"hypotheses.yaml: {h.id}")
    out["deviations"] = _count(len(study.hypotheses.deviations), "hypotheses.yaml: deviations")
    overall = study.verdicts[study.verdicts["scope"].eq("overall") & study.verdicts["kind"].eq("primary")]
    for verdict in get_args(Verdict):
        n = int(overall["verdict"].eq(verdict).sum())
        out[f"primary_{verdict}"] = _count(n, f"verdicts.csv: verdict, scope=overall, kind=primary; {verdict}")
    for row in records(study.verdicts[study.verdicts["scope"].ne("condition")]):
        at, where = f"{row['id']}/{row['task']}", _named(row, "id", "task", "scope")
        out[f"verdict/{at}"] = _number(str(row["verdict"]).replace("_", " "), None, f"verdicts.csv: verdict, {where}")
        for name in ("p", "p_holm"):
            if known(row[name]):
                digits = p_value(row[name])
                text = f"p {digits}" if digits.startswith("<") else f"p = {digits}"
                out[f"{name}/{at}"] = _number(text, row[name], f"verdicts.csv: {name}, {where}", digits=digits)
    return out


def checks(study: Results) -> Numbers:
    """The negative control, how many coordinate checks passed by parametrization, and how many runs diverged."""
    control, verdict = (study.tables.get(name, pd.DataFrame()) for name in ("control", "coordcheck_verdict"))
    out = {}
    if len(control):
        out = {
            f"control/{name}": _count(int(control[f"n_{name}"].sum()), f"tables/control.csv: n_{name}; summed")
            for name in ("pairs", "equal")
        }
    if len(verdict):
        kind = verdict["method"].map(study.rows.drop_duplicates("method").set_index("method")["parametrization"])
        for name in ("sp", "mup"):
            mine = verdict[kind.eq(name)]
            passed = mine["passed"].astype(bool)
            found = {"checks": len(mine), "passed": passed.sum(), "failed": (~passed & mine["n_sure"].gt(0)).sum()}
            source = f"tables/coordcheck_verdict.csv: passed; of methods under {name}"
            out |= {f"coordcheck/{name}/{what}": _count(int(n), source) for what, n in found.items()}
    for (task, method), rows in study.tables["stability"].groupby(["task", "method"]):
        source = f"tables/stability.csv: n_diverged, task={task}, method={method}; summed over widths"
        out[f"diverged/{task}/{method}"] = _count(int(rows["n_diverged"].sum()), source)
    return out


OF_ESTIMATE = ("task", "subject", "statistic", "width")


def estimates(study: Results) -> Numbers:
    """Every estimate of a study, keyed `task/subject/statistic`, and `/w<width>` where it has a width."""
    out = {}
    for row in records(study.tables["estimates"]):
        source = f"tables/estimates.csv: estimate, {_named(row, *OF_ESTIMATE)}"
        found = _estimate(row["statistic"], row["estimate"], row["low"], row["high"], source)
        out[f"{row['task']}/{_key(row)}"] = found
    return out


def _key(row: Mapping[str, Any]) -> str:
    """What of a key says which estimate of a task it is."""
    return f"{row['subject']}/{row['statistic']}" + (f"/w{int(row['width'])}" if known(row["width"]) else "")


def ranges(study: Results) -> Numbers:
    """The least and the most over tasks, keyed `statistic/subject/least` and `…/most`, and how far their intervals reach.

    `moved/subject` is by what factor a network four times as wide wants another rate, by the drift.
    `rate_ratio` is ScheduleFree's best rate over AdamW's, at every width under µP.
    """
    out = {}
    for name, subject in product(("drift", "regret_cf", "lr_sensitivity"), METHODS):
        rows = over_tasks(study, name, subject)
        for end, row, words in _ends(rows, "estimate", *OF_ESTIMATE):
            found, source = row["estimate"], f"tables/estimates.csv: {words}"
            out[f"{name}/{subject}/{end}"] = _number(value(found, statistic(name)), found, source)
            if name == "drift":
                out[f"moved/{subject}/{end}"] = _number(number(4**found, 1), 4**found, f"{source}; 4 to its power")
        for end, row, words in _ends(rows, "high", *OF_ESTIMATE):
            if end == "most":
                text = value(row["high"], statistic(name))
                out[f"{name}/{subject}/highest_end"] = _number(text, row["high"], f"tables/estimates.csv: {words}")
    for end, row, words in _ends(rate_ratios(study), "log2_ratio", "task", "numerator", "denominator", "width"):
        found = 2 ** row["log2_ratio"]
        out[f"rate_ratio/{end}"] = _number(number(found, 1), found, f"tables/rate_ratio.csv: {words}; 2 to its power")
    return out


def over_all(study: Results) -> Numbers:
    """Means over tasks, keyed `all/subject/statistic`; inside what margin each drift is shown to lie, `drift_bound/…`."""
    out = {}
    for row in records(study.tables.get("pooled", pd.DataFrame())):
        key, where = f"{row['subject']}/{row['statistic']}", _named(row, "subject", "statistic")
        source = f"tables/pooled.csv: estimate, {where}"
        out[f"all/{key}"] = _estimate(row["statistic"], row["estimate"], row["low"], row["high"], source)
        out[f"tau/{key}"] = _number(number(row["tau"]), row["tau"], f"tables/pooled.csv: tau, {where}")
    for row in records(study.tables["transfer"]):
        if known(row["drift_bound"]):
            source = f"tables/transfer.csv: drift_bound, {_named(row, 'task', 'method')}"
            key = f"drift_bound/{row['task']}/{row['method']}"
            out[key] = _number(number(row["drift_bound"], 2), row["drift_bound"], source)
    return out


ACROSS = (
    (("gpt-same-beta2", "mup_schedulefree"), ("wikitext2-gpt", "mup_schedulefree"), 64),
    (("gpt-same-beta2", "mup_schedulefree"), ("wikitext2-gpt", "mup_adamw_constant_ema"), 64),
    (("wikitext2-gpt", "mup_schedulefree"), ("wikitext2-gpt", "mup_adamw_constant_ema"), 64),
    (("gpt-twice-as-long", "mup_schedulefree"), ("gpt-twice-as-long", "mup_adamw"), 64),
    (("gpt-twice-as-long", "mup_schedulefree"), ("gpt-twice-as-long", "mup_adamw_constant_ema"), 64),
)
"""Pairs of a task and a method, and the width, whose best losses a text compares. Their seeds draw the same data alike."""


def across(studies: Sequence[Results]) -> Numbers:
    """Differences of best losses that no table has, of two tasks or of methods at one horizon, with their intervals."""
    out = {}
    rows = pd.concat([study.rows for study in studies], ignore_index=True)
    for one, other, width in ACROSS:
        both = [part(rows, task=task, method=method, width=width) for task, method in (one, other)]
        if any(runs.empty for runs in both):
            continue
        cases = [make_cases(primary(runs))[0] for runs in both]
        found = joint(cases, lambda surfaces: float(best_loss(surfaces[0])[0] - best_loss(surfaces[1])[0]))
        key = f"{'/'.join(one)} - {'/'.join(other)}/best_loss/w{width}"
        estimate, low, high = float(found.estimate), float(found.low), float(found.high)
        seeds = ", ".join(map(str, sorted(set(cases[0].seeds) & set(cases[1].seeds))))
        parts = [
            f"rows.parquet: val_loss, task={task}, method={method}, width={width}, variant="
            for task, method in (one, other)
        ]
        source = f"{'; less '.join(parts)}; the best rate of each, seeds {seeds}"
        out[key] = _estimate("loss_vs_best", estimate, low, high, source)
    return out


def together(studies: Sequence[Results]) -> Numbers:
    """The mean of two judged studies' estimates, each weighed by its variance, keyed `task + task/subject/statistic`.

    Of tasks with the same data, network and settings, whose studies differ in seeds, precision and held-out examples alone.
    Their seeds are others, so that errors add up as those of independent estimates, with the degrees of freedom of both.
    """
    out = {}
    for (first, second), (one, other) in (
        (pair, tasks)
        for pair in combinations(studies, 2)
        for tasks in product(pair[0].tasks, pair[1].tasks)
        if _alike(pair[0].study["tasks"][tasks[0]], pair[1].study["tasks"][tasks[1]])
    ):
        keys = ["subject", "statistic", "width"]
        both = first.of("estimates", one).merge(second.of("estimates", other), on=keys, suffixes=("", "_other"))
        for row in records(both[both["se"].gt(0) & both["se_other"].gt(0)]):
            weights = np.array([row["se"], row["se_other"]]) ** -2.0
            mean = float(np.average([row["estimate"], row["estimate_other"]], weights=weights))
            degrees = int(row["n_seeds"] + row["n_seeds_other"] - 2)
            ends = t_interval(mean, weights.sum() ** -0.5, degrees + 1)
            words = [
                f"tables/estimates.csv: estimate, {_named(row | {'task': task}, *OF_ESTIMATE)}; weighed by its variance"
                for task in (one, other)
            ]
            found = _estimate(row["statistic"], mean, float(ends.low), float(ends.high), "; and ".join(words))
            out[f"{one} + {other}/{_key(row)}"] = found
    return out


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two tasks are the same but for how exactly they are trained and evaluated, and which optimizers they have."""
    steps = ("steps", "batch_size", "warmup_fraction")
    shared = one["optimizers"].keys() & other["optimizers"].keys()
    return (
        all(one[name] == other[name] for name in ("dataset", "model", "base_width"))
        and all(one["training"][name] == other["training"][name] for name in steps)
        and all(one["optimizers"][name] == other["optimizers"][name] for name in shared)
    )


def over_tasks(study: Results, name: str, subject: str) -> list[dict[str, Any]]:
    """The rows of a statistic in all tasks, of all widths or at each task's largest."""
    return [
        row
        for row in records(part(study.tables["estimates"], statistic=name, subject=subject))
        if not known(row["width"]) or row["width"] == study.widths(row["task"])[-1]
    ]


def rate_ratios(study: Results) -> list[dict[str, Any]]:
    """The rows that have ScheduleFree's best rate under µP over AdamW's, one for each width of each task."""
    pair = ("mup_schedulefree", "mup_adamw")
    return [
        row
        for row in records(study.tables.get("rate_ratio", pd.DataFrame()))
        if (row["numerator"], row["denominator"]) == pair
    ]


def coverage(study: Results) -> Numbers:
    """How often nominal 95 % intervals cover a known truth with as many seeds as the study has, over all scenarios."""
    if study.calibration is None:
        return {}
    mine = study.calibration[study.calibration["n_seeds"].eq(study.least_seeds)]
    return {
        f"coverage/{name}/{end}": _number(percent(row["coverage"], 1), row["coverage"], f"calibration.csv: {words}")
        for name, rows in mine.groupby("statistic")
        for end, row, words in _ends(records(rows), "coverage", "scenario", "statistic", "n_seeds")
    }


def sampling(study: Results) -> Numbers:
    """What the choice of held-out examples adds to the error of a difference of losses, by task, in nats; and the range."""
    if study.validation_noise is None:
        return {}
    rows, source = records(study.validation_noise), "validation_noise.csv: "
    out = {
        f"sampling/{row['task']}": _number(number(row["se"]), row["se"], f"{source}se, {_named(row, 'task')}")
        for row in rows
    }
    ends = _ends(rows, "se", "task")
    return out | {
        f"sampling/{end}": _number(number(row["se"]), row["se"], f"{source}{words}") for end, row, words in ends
    }


def _ends(rows: Iterable[Mapping[str, Any]], column: str, *keys: str) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """The rows with the least and the most of a column where it is known, each with the words that name it."""
    found = [row for row in rows if known(row[column])]
    for end, choose in (("least", min), ("most", max)) if found else ():
        row = choose(found, key=lambda row: float(row[column]))
        yield end, row, f"{column}, {_named(row, *keys)}; the {end} of {len(found)}"


def detectable_interaction(n_seeds: int) -> float:
    """The difference in differences that is found with probability `POWER`, in standard deviations over seeds.

    Of four means over seeds. Two-sided test at 0.05; the four errors are taken as independent. NaN below two seeds.
    """
    from scipy.stats import t  # slow to import

    freedom = n_seeds - 1
    return float((t.ppf(0.975, freedom) + t.ppf(POWER, freedom)) * 2 / math.sqrt(n_seeds))

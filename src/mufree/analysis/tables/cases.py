"""From rows to surfaces: which runs belong together, and which seeds they are judged by."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mufree.analysis.metrics.statistics import Floats, Interval, jackknife
from mufree.analysis.metrics.surface import Optimum, Surface, at_common_widths, common_widths, optima
from mufree.analysis.metrics.transfer import regret_held, transferred_rate
from mufree.study.config import METHODS
from mufree.study.reading import RecordError

log = logging.getLogger(__name__)

Records = Iterable[dict[str, Any]]
"""Rows of a table, each from column to value."""

RUN_KEY = ["task", "method", "variant", "width", "log2_lr", "seed"]

ONE_SEED = "one seed, and cross-fitting takes two"
"""Why a statistic that chooses on some seeds and judges on others is not estimable."""

PRIMARY = ""
"""The variant of runs whose settings are all the task's own."""

COLUMNS_NEEDED = {
    *(*RUN_KEY, "run_id", "base_width", "warmup_steps", "steps", "horizon", "flops", "status", "divergence"),
    *("parametrization", "optimizer", "schedule", "average", "embedding_lr"),
    *("beta1", "eps", "weight_decay", "weight_decay_scaling"),
    *("initial_loss", "train_loss", "val_loss", "val_loss_y", "val_accuracy", "test_loss", "test_accuracy"),
}


class Role(NamedTuple):
    """What a method is made of, in the words of the columns of a run, whatever it is called."""

    parametrization: str
    optimizer: str
    schedule: str
    average: str = "none"
    embedding_lr: str = "shared"

    @property
    def schedule_free(self) -> bool:
        """Whether the optimizer averages by itself."""
        return self.optimizer.endswith("schedulefree")

    @property
    def family(self) -> str:
        """The optimizer without its way of averaging: adamw, radam, sgd."""
        return self.optimizer.removesuffix("_schedulefree")


@dataclass(frozen=True)
class Judged:
    """Losses that are judged together, with the seeds that they are of, in order."""

    surface: Surface
    seeds: list[int]

    def over_seeds(self, statistic: Callable[[Surface], ArrayLike]) -> Interval:
        """A statistic of the surface with its jackknife interval."""
        return joint([self], lambda surfaces: statistic(surfaces[0]))


@dataclass(frozen=True)
class Case(Judged):
    """One method on one task, in one variant.

    `runs` are all its runs; `judged` those of the seeds that were run at all its widths and rates, of which `surface` is
    made, with the seeds in the order of `seeds`.
    """

    task: str
    method: str
    variant: str
    role: Role
    runs: pd.DataFrame
    judged: pd.DataFrame

    @cached_property
    def optima(self) -> list[Optimum]:
        """The optimum of each width, ascending."""
        return optima(self.surface)

    @property
    def names(self) -> dict[str, Any]:
        """The first two columns of every table."""
        return {"task": self.task, "method": self.method}

    @property
    def widths(self) -> list[int]:
        """Widths, ascending."""
        return [int(width) for width in self.surface.widths]

    @property
    def cells(self) -> list[Cell]:
        """What there is of each width, ascending."""
        return [Cell(self, k, width, self.optima[k]) for k, width in enumerate(self.widths)]

    @property
    def base_optimum(self) -> Optimum | None:
        """The optimum at base width, or None if it wasn't run."""
        return None if self.surface.base is None else self.optima[self.surface.base]

    @property
    def base_rate(self) -> float:
        """log2 of the grid's best rate at base width, or NaN if there is none."""
        return self.base_optimum.log2_lr_argmin if self.base_optimum else math.nan

    @property
    def at_base_rate(self) -> pd.DataFrame:
        """The judged runs with that rate, of every width."""
        return self.judged[self.judged["log2_lr"] == self.base_rate]

    @property
    def transferred(self) -> int:
        """Position of the rate that base width hands on, chosen on all seeds and held in a jackknife; −1 if there is none."""
        return transferred_rate(self.surface)

    def regret(self) -> Interval:
        """Regret of the transferred rate at every width, its rival cross-fitted, [K]."""
        rate = self.transferred
        return self.over_seeds(lambda kept: regret_held(kept, rate))


@dataclass(frozen=True)
class Cell:
    """One width of a case, in position `k`, and its optimum."""

    case: Case
    k: int
    width: int
    optimum: Optimum

    @property
    def names(self) -> dict[str, Any]:
        """The first three columns of a table by width."""
        return {**self.case.names, "width": self.width}

    @property
    def runs(self) -> pd.DataFrame:
        """All runs at this width."""
        return self.case.runs[self.case.runs["width"] == self.width]

    @property
    def counts(self) -> dict[str, int]:
        """How many seeds are judged, and how many runs were made and diverged."""
        runs = self.runs
        n_diverged = int((runs["status"] == "diverged").sum())
        return {"n_seeds": self.case.surface.n_seeds, "n_runs": len(runs), "n_diverged": n_diverged}

    def judged(self, times: float = 1) -> pd.DataFrame:
        """The judged runs at the grid's best rate, or at a multiple of it, by seed."""
        log2_lr, judged = self.optimum.log2_lr_argmin + math.log2(times), self.case.judged
        return judged[(judged["width"] == self.width) & (judged["log2_lr"] == log2_lr)]


def pairs(cases: Sequence[Case], other: Callable[[Role], Role | None]) -> Iterator[tuple[Case, Case]]:
    """Each case with those of its task that have the role which `other` makes of its own; with none where that is None."""
    for case in cases:
        wanted = (case.task, other(case.role))
        yield from ((case, found) for found in cases if (found.task, found.role) == wanted)


def joint(parts: Sequence[Judged], statistic: Callable[[list[Surface]], ArrayLike]) -> Interval:
    """A statistic of several surfaces, on the seeds that they share, each dropped from all of them at once.

    Without a seed in common the statistic gets surfaces of no seed.
    """
    common = sorted(set.intersection(*(set(part.seeds) for part in parts)))
    surfaces = [part.surface.keep(np.searchsorted(part.seeds, common)) for part in parts]
    return jackknife(lambda kept: statistic([surface.keep(kept) for surface in surfaces]), len(common))


def over_shared_widths(
    both: Sequence[Case],
    column: str,
    statistic: Callable[[Surface, Surface], Floats],
    why_not: str,
    ends: str | None = None,
) -> Iterator[dict[str, Any]]:
    """A statistic of two cases at each width that they share, of one parametrization."""
    value = joint(both, lambda surfaces: statistic(*at_common_widths(surfaces)))
    for k, width in enumerate(common_widths(case.surface for case in both)):
        names = {"task": both[0].task, "parametrization": both[0].role.parametrization, "width": int(width)}
        yield names | estimated(column, value[k], why_not, ends)


def widest_shared(cases: Sequence[Case]) -> int:
    """The widest width that all cases have."""
    return int(common_widths(case.surface for case in cases).max())


def at_widest(
    cases: Sequence[Case], values: Callable[[Surface, int], Floats]
) -> Callable[[list[Surface]], list[float]]:
    """For `joint`: `values` of each surface, [K], at the widest width that all have; it also gets the position of the case."""
    widest = widest_shared(cases)
    places = [case.widths.index(widest) for case in cases]
    return lambda surfaces: [float(values(s, i)[k]) for i, (s, k) in enumerate(zip(surfaces, places, strict=True))]


def interval_columns(name: str, interval: Interval, ends: str | None = None) -> dict[str, float]:
    """The columns `name`, `name_low` and `name_high` of one number's interval; with `ends`, that stands before low and high."""
    before = f"{name}_" if ends is None else ends
    return {
        name: float(interval.estimate),
        f"{before}low": float(interval.low),
        f"{before}high": float(interval.high),
    }


def estimated(
    name: str,
    interval: Interval,
    why_not: str,
    ends: str | None = None,
    why_no_interval: str = "too few seeds for an interval",
) -> dict[str, Any]:
    """`interval_columns`, with the number of seeds, and whether there is an estimate.

    The status is `ok`, or `not_estimable` with the reason; an estimate without an interval is ok and says why it has none:
    `why_no_interval`, where there are two seeds or more.
    """
    status, reason = "ok", ""
    if np.isnan(interval.estimate):
        status, reason = "not_estimable", why_not if interval.n else "no seed in common"
    elif np.isnan(interval.se):
        reason = "one seed, so no interval" if interval.n < 2 else why_no_interval
    return {**interval_columns(name, interval, ends), "n_seeds": interval.n, "status": status, "reason": reason}


def part(frame: Any, **equal: Any) -> Any:
    """The rows whose columns equal these values."""
    for column, value in equal.items():
        frame = frame[frame[column].eq(value)]
    return frame


def primary(rows: pd.DataFrame) -> pd.DataFrame:
    """The runs whose settings are all the task's own, also where a file gave NaN for an empty text."""
    return rows[rows["variant"].isna() | rows["variant"].eq(PRIMARY)]


def plain_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain dicts, whose keys are text."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def make_cases(rows: pd.DataFrame) -> list[Case]:
    """All cases, by task, method (the study's four first) and variant (the primary one first).

    Raises `RecordError` for missing columns, a run given twice, an ok run without a loss, two base widths in a task, or a case
    with no seed in common.
    """
    _check(rows)
    rows = rows.sort_values(RUN_KEY, ignore_index=True)
    return [
        _case(str(task), method, str(variant), runs)
        for task, of_task in rows.groupby("task", sort=True)
        for method in ordered(of_task["method"])
        for variant, runs in of_task[of_task["method"] == method].groupby("variant", sort=True)
    ]


def surface_of(runs: pd.DataFrame, seeds: list[int], axis: str = "width") -> Surface:
    """The surface of some runs with these seeds; over `axis`, whose least value or the base width is its base."""
    widths, k = np.unique(runs[axis].to_numpy(np.float64 if axis == "weight_decay" else np.int64), return_inverse=True)
    log2_lrs, j = np.unique(runs["log2_lr"].to_numpy(np.float64), return_inverse=True)
    s = np.searchsorted(seeds, runs["seed"].to_numpy())
    shape = (len(widths), len(log2_lrs), len(seeds))
    loss, initial_loss, diverged = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, bool)
    loss[k, j, s] = runs["val_loss"]
    initial_loss[k, j, s] = runs["initial_loss"]
    diverged[k, j, s] = runs["status"] == "diverged"
    base = int(runs["base_width"].iloc[0]) if axis == "width" else int(widths[0])
    return Surface(base, widths, log2_lrs, loss, initial_loss, diverged)


def common_seeds(runs: pd.DataFrame, points: Iterable[str] = ("width", "log2_lr")) -> list[int]:
    """The seeds that were run at every point, ascending."""
    n = runs.groupby(list(points)).ngroups
    times = runs["seed"].value_counts()
    return sorted(int(seed) for seed in times[times == n].index)


def ordered(methods: Iterable[str]) -> list[str]:
    """Methods, each once: the study's four first, in their order, the others by name."""
    found = set(methods)
    return [m for m in METHODS if m in found] + sorted(found - set(METHODS))


def mean_interval(values: Floats) -> Interval:
    """Mean over seeds with its t interval; NaN if any value is, or there is none."""
    return jackknife(lambda kept: values[kept].mean() if len(kept) else np.nan, len(values))


def _case(task: str, method: str, variant: str, runs: pd.DataFrame) -> Case:
    seeds = common_seeds(runs)
    where = f"{task}/{method}" + (f" ({variant})" if variant else "")
    if not seeds:
        raise RecordError(f"{where}: no seed was run at every width and learning rate; give its grids a seed in common")
    judged = runs[runs["seed"].isin(seeds)]
    if len(judged) < len(runs):
        log.warning(
            "%s: only seeds %s were run at every width and learning rate; %d runs of other seeds are counted and "
            "plotted but not judged",
            *(where, seeds, len(runs) - len(judged)),
        )
    first = runs.iloc[0]
    role = Role(*(str(first[name]) for name in Role._fields))
    return Case(surface_of(judged, seeds), seeds, task, method, variant, role, runs, judged)


def _check(rows: pd.DataFrame) -> None:
    missing = sorted(COLUMNS_NEEDED - set(rows.columns))
    if missing:
        raise RecordError(f"rows have no column {', '.join(missing)}; collect the study again")
    twice = rows[rows.duplicated(RUN_KEY)]
    if len(twice):
        raise RecordError(f"run {twice['run_id'].iloc[0]} is there twice; collect the study again")
    lossless = rows[~np.isfinite(rows["initial_loss"]) | ((rows["status"] == "ok") & ~np.isfinite(rows["val_loss"]))]
    if len(lossless):
        raise RecordError(
            f"run {lossless['run_id'].iloc[0]} has a loss that is not finite; its status has to be 'diverged', and its "
            "initial_loss finite"
        )
    bases = rows.groupby("task")["base_width"].nunique()
    if (bases > 1).any():
        raise RecordError(f"task '{bases.idxmax()}' has more than one base_width; a study has one for each task")

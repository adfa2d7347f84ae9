"""Tables on how transfer changes with width, in the measures of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from mufree.analysis.metrics import scaling
from mufree.analysis.metrics.statistics import Floats, Interval
from mufree.analysis.metrics.surface import Surface, common_widths, grid_argmin
from mufree.analysis.tables.cases import ONE_SEED, Case, Records, Role, estimated, interval_columns, joint, pairs
from mufree.study.limits import LAW_POINTS, MIN_POINTS
from mufree.study.statistics import STATISTICS

NEEDS_ALL = "not estimable without one of the seeds"


def fast_transfer(cases: Sequence[Case]) -> Records:
    """What a rate tuned at one width costs at a wider one: from base width to each, and from each to the widest."""
    for case in cases:
        rates, last = grid_argmin(case.surface), len(case.widths) - 1
        for source in range(last):
            found = case.over_seeds(partial(scaling.handed_on, source=source, rate=int(rates[source])))
            targets = range(source + 1, last + 1) if source == case.surface.base else (last,)
            yield from (_row_of_transfer(case, source, target, found) for target in targets)


def _row_of_transfer(case: Case, source: int, target: int, found: Interval) -> dict[str, Any]:
    lost, gain, share = (found[i][target] for i in range(3))
    return {
        **case.names,
        "base_width": case.surface.base_width,
        "source": case.widths[source],
        "width": case.widths[target],
        **interval_columns("lost", lost),
        **interval_columns("gain", gain),
        **estimated("rho", share, _why_no_share(case, source, target, float(gain.estimate)), why_no_interval=NEEDS_ALL),
    }


def _why_no_share(case: Case, source: int, target: int, gain: float) -> str:
    if gain <= 0:
        return f"width {case.widths[target]} is no better than width {case.widths[source]}"
    if case.surface.n_seeds < 2:
        return ONE_SEED
    return "a width has no rate free of divergence, or the source's best rate was not run at the other"


def laws(cases: Sequence[Case]) -> Records:
    """The slopes of ρ, E, κ, the power law of the best loss, and its limit beside that of µP, in long form."""
    for case in cases:
        yield from _laws_of(case)
    for plain, mup in pairs(cases, _under_mup):
        widths = common_widths([plain.surface, mup.surface])
        value = joint([plain, mup], lambda surfaces: scaling.limit_penalty(*surfaces))
        yield _row(plain, "limit_penalty", value, len(widths), _why_no_law(len(widths)), mup.method)


def _laws_of(case: Case) -> Records:
    surface, rates, n = case.surface, grid_argmin(case.surface), len(case.widths)
    inside = sum(not optimum.censored for optimum in case.optima)
    fitted = sum(optimum.flag == "ok" for optimum in case.optima)
    no_slope = _why_no_slope(scaling.shares_at_the_widest(surface, rates), surface.n_seeds)
    few_inside = f"{inside} of {n} widths have an optimum inside the grid, {MIN_POINTS} are needed"
    few_fitted = f"{fitted} of {n} widths have a parabola, {MIN_POINTS} are needed"
    no_law = _why_no_law(n)
    of: dict[str, tuple[Callable[[Surface], float], int, str]] = {
        "rho_trend": (lambda s: scaling.share_trend(s, rates), n - 1, no_slope),
        "rho_exponent": (lambda s: scaling.share_exponent(s, rates), n - 1, no_slope or "a share is not above 0"),
        "rate_fit_error": (scaling.rate_fit_error, inside, few_inside),
        "curvature_slope": (scaling.curvature_slope, fitted, few_fitted),
        "loss_exponent": (lambda s: scaling.loss_law(s).exponent, n, no_law),
        "loss_limit": (lambda s: scaling.loss_law(s).limit, n, no_law),
        "robustness_exponent": (scaling.robustness_exponent, n, few_fitted if fitted < MIN_POINTS else no_law),
    }
    for name, (statistic, n_widths, why) in of.items():
        yield _row(case, name, case.over_seeds(statistic), n_widths, why)


def _why_no_slope(shares: Floats, n_seeds: int) -> str:
    if n_seeds < 2:
        return ONE_SEED
    if len(shares) < MIN_POINTS:
        return f"{len(shares)} widths are narrower than the widest, {MIN_POINTS} are needed"
    unknown = "a width has no share: widening it bought nothing, or a best rate is not known"
    return unknown if np.isnan(shares).any() else ""


def _why_no_law(n_widths: int) -> str:
    if n_widths < LAW_POINTS:
        return f"{n_widths} widths, and a power law with a limit takes {LAW_POINTS}"
    return "the best losses don't tell a limit: they follow no power law that falls to one above 0"


def _under_mup(role: Role) -> Role | None:
    """Of a method that isn't under µP, the one that differs in being it."""
    return None if role.parametrization == "mup" else role._replace(parametrization="mup", embedding_lr="shared")


def _row(case: Case, name: str, value: Interval, n_widths: int, why: str, rival: str = "") -> dict[str, Any]:
    of = {"task": case.task, "statistic": name, "method": case.method, "rival": rival}
    return {
        **of,
        **estimated("estimate", value, why, ends="", why_no_interval=NEEDS_ALL),
        "n_widths": n_widths,
        "unit": STATISTICS[name].table_unit,
    }

"""What trials say: the best rate at base width, what keeping it costs at the check widths, and whether it can be trusted wide.

Rows are those of trials of one method, in the columns of a study's rows. All statistics are the study's own
(`docs/metrics.md`); `docs/tuning.md` tells how the verdict follows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from mufree.analysis.coordcheck import Outcome
from mufree.analysis.metrics.search import Trial, fit_of, found_optimum, optimum_interval
from mufree.analysis.metrics.statistics import Interval, Ints, at_level, jackknife, t_interval
from mufree.analysis.metrics.surface import Optimum, Surface
from mufree.analysis.metrics.transfer import regret_held
from mufree.analysis.tables.cases import surface_of
from mufree.study.limits import MIN_SEEDS, NEGLIGIBLE_LOSS
from mufree.study.trials import Settings

Verdict = Literal["transfers", "does not transfer", "can't tell"]
Word = Literal["keeps", "costs", "unsure"]

SURE = 0.90
"""Level of the two-sided interval whose one end decides: 5 % of error on that side."""
NEGLIGIBLE_SHARE = 0.003
"""Of what training gains, for a loss that isn't cross-entropy: what `NEGLIGIBLE_LOSS` is of a language model's few nats."""
MOST_SEEDS = 100
"""More are no advice."""
FURTHEST = 16
"""Times the widest check width, beyond which nothing is foretold. Our choice."""

Found = dict[Trial, float]


@dataclass(frozen=True)
class Cost:
    """What keeping a rate costs, in the loss's unit, against the best one of its width."""

    of: Interval
    """Where `curvature` is known, doublings from the kept rate to the best one, else the cost itself."""
    curvature: float | None = None
    """Of the valley, per doubling²: the cost is this times the doublings squared."""

    @property
    def estimate(self) -> float:
        """The cost."""
        value = float(self.of.estimate)
        return value if self.curvature is None else self.curvature * value**2

    def ends(self, seeds: int | None = None) -> tuple[float, float]:
        """Its 90 % interval; with `seeds`, that which so many would have if the estimate and the scatter stayed."""
        n = self.of.n
        se = self.of.se if seeds is None else self.of.se * math.sqrt(n / seeds)
        interval = t_interval(self.of.estimate, se, seeds or n, SURE)
        low, high = float(interval.low), float(interval.high)
        if self.curvature is None:
            return low, high
        squares = low**2, high**2
        return self.curvature * (0.0 if low <= 0 <= high else min(squares)), self.curvature * max(squares)


class At(NamedTuple):
    """What a check width shows."""

    width: int
    moved: Interval
    """Doublings from the rate that is kept to the best one here; no interval where that isn't inside the rates tried."""
    flag: str
    cost: Cost
    margin: float
    """A cost below this is none."""
    diverged: int
    """Seeds that diverged at the rate that is kept."""
    word: Word


class Reason(NamedTuple):
    """Why a verdict is what it is; `publish.report.tuned.SAID` has the words."""

    kind: Literal[
        "kept",
        "costs",
        "unsure",
        "beyond",
        "unchecked",
        "check_failed",
        "warned",
        "argmin_only",
        "edge_low",
        "edge_high",
        "all_diverged",
    ]
    """Of the rate at check widths, of the coordinate check, or the flag of an optimum that isn't found at base width."""
    check: At | None = None
    failure: str = ""
    """What the coordinate check found first, or `parametrize` warns of."""


@dataclass(frozen=True)
class Judgement:
    """What is known of one method's rate."""

    log2_lr: float
    """log2 of the rate to keep."""
    interval: Interval
    optimum: Optimum
    """At base width."""
    seeds: list[int]
    checks: list[At]
    slope: Interval
    """Doublings by which the best rate moves for each doubling of width."""
    trusted_width: float
    """The widest network for which, by this slope, keeping the rate surely costs less than the margin; NaN if there is none."""
    verdict: Verdict
    reasons: list[Reason]


@dataclass(frozen=True)
class Tuned:
    """What is known of one method."""

    method: str
    judgement: Judgement
    beta2: float
    check: Outcome | None
    """The coordinate check; None where there was none."""


@dataclass(frozen=True)
class Result:
    """All that was found. The first method is the one that is meant, others are compared with it."""

    name: str
    settings: Settings
    tuned: list[Tuned]
    rows: pd.DataFrame
    """One row a trial, in the columns of a study's rows."""
    seconds: float
    stopped: str = ""
    """What stopped it before its end, if anything did."""

    @property
    def verdict(self) -> Verdict:
        """Whether the first method's rate can be kept."""
        return self.tuned[0].judgement.verdict if self.tuned else "can't tell"

    @property
    def lr(self) -> float:
        """The first method's learning rate, that of base width; NaN if there is none."""
        return 2.0 ** self.tuned[0].judgement.log2_lr if self.tuned else math.nan

    @property
    def exit_code(self) -> int:
        """0: it transfers, 1: it doesn't, 2: it can't be told."""
        return {"transfers": 0, "does not transfer": 1, "can't tell": 2}[self.verdict]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in tune.json."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "stopped": self.stopped or None,
            "settings": {
                name: list(value) if isinstance(value, tuple) else value for name, value in vars(self.settings).items()
            },
            "methods": {
                each.method: {
                    **as_dict(each.judgement),
                    "beta2": each.beta2,
                    "coordinate_check": each.check.word if each.check else None,
                }
                for each in self.tuned
            },
            "trials": len(self.rows),
            "seconds": round(self.seconds, 1),
        }


def found_in(rows: pd.DataFrame, width: int) -> Found:
    """The final loss of each trial at a width, infinite where it diverged."""
    here = rows[rows["width"] == width]
    losses = here["val_loss"].where(here["status"].eq("ok"), math.inf)
    return {(float(x), int(s)): float(loss) for x, s, loss in zip(here["log2_lr"], here["seed"], losses, strict=True)}


def margin_of(rows: pd.DataFrame, base_width: int, *, cross_entropy: bool) -> float:
    """The cost that counts as none, in the loss's unit, before noise is looked at."""
    if cross_entropy:
        return NEGLIGIBLE_LOSS
    base = rows[(rows["width"] == base_width) & rows["status"].eq("ok")]
    return NEGLIGIBLE_SHARE * float(base["initial_loss"].mean() - base["val_loss"].min())


def judge(
    rows: pd.DataFrame,
    *,
    base_width: int,
    log2_lr: float,
    margin: float,
    target_width: int | None = None,
    warned: Sequence[str] = (),
) -> Judgement:
    """Judge a method's trials at base width and at wider ones, where the rate 2^`log2_lr` was tried and rates around it.

    `warned` is what may not be in µP, by `parametrize`; then nothing is trusted, since a fault may show at wider networks.

    Check widths are those of the rows beyond base width; with none, nothing can be told.
    """
    seeds = sorted({int(seed) for seed in rows["seed"]})
    widths = [int(w) for w in np.unique(rows["width"]) if w != base_width]
    found = {width: found_in(rows, width) for width in (base_width, *widths)}
    optima = {width: found_optimum(of, seeds) for width, of in found.items()}
    checks = [_check(rows, width, seeds, log2_lr, margin) for width in widths]
    slope = _slope(found, optima, seeds)
    trusted = _trusted_width(base_width, checks, slope, [optimum.curvature for optimum in optima.values()])
    optimum, interval = optima[base_width], optimum_interval(found[base_width], seeds)
    verdict, reasons = _verdict(optimum, checks, trusted, target_width)
    if warned and verdict != "does not transfer":
        more = f" ({len(warned) - 1} more modules alike.)" if len(warned) > 1 else ""
        verdict, reasons = "can't tell", [Reason("warned", failure=warned[0] + more)]
    return Judgement(log2_lr, interval, optimum, seeds, checks, slope, trusted, verdict, reasons)


def judge_unchecked(failure: str) -> Judgement:
    """What is to be said where the coordinate check fails, and so nothing was trained; `failure` is what it found first."""
    nothing = t_interval(math.nan, math.nan, 0)
    reason = Reason("check_failed", failure=failure)
    return Judgement(
        math.nan, nothing, Optimum("all_diverged"), [], [], nothing, math.nan, "does not transfer", [reason]
    )


def _check(rows: pd.DataFrame, width: int, seeds: list[int], log2_lr: float, margin: float) -> At:
    found = found_in(rows, width)
    optimum, position = found_optimum(found, seeds), optimum_interval(found, seeds)
    surface = _complete(rows, width, seeds)
    kept = int(np.flatnonzero(np.isclose(surface.log2_lrs, log2_lr))[0])
    diverged = int(surface.diverged[0, kept].sum())
    inside = optimum.flag == "ok"
    moved = t_interval(position.estimate - log2_lr, position.se if inside else math.nan, position.n)
    cost = _cost(surface, kept, optimum, moved)
    return At(width, moved, optimum.flag, cost, margin, diverged, _word(cost, margin, diverged, len(seeds)))


def _cost(surface: Surface, kept: int, optimum: Optimum, moved: Interval) -> Cost:
    """What the rate in position `kept` costs.

    By the fitted parabola where no rate tried is better, or only its neighbour: differences of losses on a grid would see
    nothing below its step, and their interval is short where the cost is least. Else by these differences, cross-fitted.
    """
    away = abs(optimum.log2_lr_argmin - surface.log2_lrs[kept])
    if optimum.flag == "ok" and away <= 1.0 and not surface.diverged[0, kept].any():
        return Cost(moved, optimum.curvature)
    if surface.n_seeds > 1:
        return Cost(jackknife(lambda seeds: regret_held(surface.keep(seeds), kept)[0], surface.n_seeds))
    cost = surface.cost[0, :, 0]  # of one seed: no interval, and the rival is flattered
    return Cost(t_interval(cost[kept] - np.nanmin(cost), math.nan, 1))


def _word(cost: Cost, margin: float, diverged: int, seeds: int) -> Word:
    low, high = cost.ends()
    if diverged == seeds or (seeds >= MIN_SEEDS and low > margin):
        return "costs"
    return "keeps" if seeds >= MIN_SEEDS and not diverged and high < margin else "unsure"


def _complete(rows: pd.DataFrame, width: int, seeds: list[int]) -> Surface:
    """The surface of one width over the rates that all seeds were trained at."""
    here = rows[rows["width"] == width]
    counts = here.groupby("log2_lr")["seed"].nunique()
    return surface_of(here[here["log2_lr"].isin(counts.index[counts == len(seeds)])], seeds)


def _slope(found: dict[int, Found], optima: dict[int, Optimum], seeds: list[int]) -> Interval:
    """Least-squares slope of the best log2 rate on log2 width, over those widths at which it is inside the rates tried."""
    inside = [width for width, optimum in optima.items() if optimum.flag == "ok"]
    if len(inside) < 2:
        return t_interval(math.nan, math.nan, len(seeds))
    fits = [fit_of(found[width], seeds) for width in inside]
    x = np.log2(inside)
    x -= x.mean()

    def slope(kept: Ints) -> float:
        return float(x @ np.array([fit(kept) for fit in fits]) / (x @ x))

    return jackknife(slope, len(seeds))


def _trusted_width(base_width: int, checks: Sequence[At], slope: Interval, curvatures: list[float]) -> float:
    """Where curvature × (slope × doublings of width)² reaches the margin, by the far end of the slope's interval."""
    if not checks or any(check.word != "keeps" for check in checks):
        return math.nan
    widest = checks[-1].width
    ends = at_level(slope, SURE)
    steepest = max(abs(float(ends.low)), abs(float(ends.high)))
    if not math.isfinite(steepest) or np.isnan(curvatures).all():
        return float(widest)
    doublings = math.sqrt(checks[-1].margin / np.nanmax(curvatures)) / max(steepest, 1e-9)
    foretold = base_width * 2.0 ** min(doublings, 60.0)
    return float(min(max(foretold, widest), FURTHEST * widest))


def _verdict(
    optimum: Optimum, checks: Sequence[At], trusted: float, target: int | None
) -> tuple[Verdict, list[Reason]]:
    if optimum.flag != "ok":
        return "can't tell", [Reason(optimum.flag)]
    if costly := [check for check in checks if check.word == "costs"]:
        return "does not transfer", [Reason("costs", check) for check in costly]
    if unsure := [check for check in checks if check.word == "unsure"]:
        return "can't tell", [Reason("unsure", check) for check in unsure]
    if not checks:
        return "can't tell", [Reason("unchecked")]
    if target is not None and target > trusted:
        return "can't tell", [Reason("beyond")]
    return "transfers", [Reason("kept")]


def seeds_needed(check: At) -> int | None:
    """Seeds with which the interval would leave the margin, if estimate and scatter stay; None if more than `MOST_SEEDS`."""
    if check.cost.of.n < MIN_SEEDS:
        return MIN_SEEDS

    def settles(seeds: int) -> bool:
        low, high = check.cost.ends(seeds)
        return high < check.margin or low > check.margin

    return next((n for n in range(check.cost.of.n + 1, MOST_SEEDS + 1) if settles(n)), None)


def as_dict(judgement: Judgement) -> dict[str, Any]:
    """A judgement as plain values, for JSON; what isn't known is None."""

    def plain(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    def ends(interval: Interval) -> dict[str, float | None]:
        return {name: plain(float(getattr(interval, name))) for name in ("estimate", "low", "high")}

    return {
        "verdict": judgement.verdict,
        "reasons": [reason.kind for reason in judgement.reasons],
        "lr": 2.0**judgement.log2_lr if math.isfinite(judgement.log2_lr) else None,
        "log2_lr": {**ends(judgement.interval), "estimate": plain(judgement.log2_lr)},
        "loss_at_base_width": plain(judgement.optimum.loss),
        "seeds": judgement.seeds,
        "slope": ends(judgement.slope),
        "trusted_width": plain(judgement.trusted_width),
        "checks": [
            {
                "width": check.width,
                "moved": ends(check.moved),
                "inside": check.flag == "ok",
                "cost": {"estimate": plain(check.cost.estimate)}
                | dict(zip(("low", "high"), map(plain, check.cost.ends()), strict=True)),
                "margin": check.margin,
                "diverged": check.diverged,
                "word": check.word,
            }
            for check in judgement.checks
        ],
    }

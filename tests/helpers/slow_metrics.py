"""The metrics once more, in plain loops written from their definitions; nothing here comes from the package.

A grid maps (row, rate, seed) to (loss, diverged, loss at initialisation), and has no entry for what was not run. Rows are
widths or horizons, rates are positions on an axis of log2 rates that the caller knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from typing import Any

Grid = dict[tuple[int, int, int], tuple[float, bool, float]]


def to_grid(surface: Any) -> Grid:
    """Element by element, from anything with loss, diverged and initial_loss indexed [row][rate][seed]."""
    grid = {}
    for k, row in enumerate(surface.initial_loss.tolist()):
        for j, column in enumerate(row):
            for s, start in enumerate(column):
                if start == start:
                    grid[k, j, s] = (float(surface.loss[k, j, s]), bool(surface.diverged[k, j, s]), start)
    return grid


def seeds_of(grid: Grid) -> list[int]:
    return sorted({s for _, _, s in grid})


def rates_of(grid: Grid, k: int) -> list[int]:
    return sorted({j for kk, j, _ in grid if kk == k})


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    centre = mean(values)
    return math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1))


def cost(grid: Grid, k: int, j: int, s: int) -> float:
    if (k, j, s) not in grid:
        return math.nan
    loss, died, start = grid[k, j, s]
    return start if died else loss


def argmin(grid: Grid, k: int, seeds: Sequence[int]) -> int | None:
    """The rate with the lowest mean loss of those where no seed diverged; the lowest of equals."""
    best, lowest = None, math.inf
    for j in rates_of(grid, k):
        cells = [grid[k, j, s] for s in seeds]
        if not any(died for _, died, _ in cells) and mean([loss for loss, _, _ in cells]) < lowest:
            best, lowest = j, mean([loss for loss, _, _ in cells])
    return best


def transfer_error(grid: Grid, i: int, k: int) -> float:
    """What width i's rate costs at width k, both rates chosen without the seed that judges."""
    terms = []
    for s in seeds_of(grid):
        others = [other for other in seeds_of(grid) if other != s]
        handed, own = (argmin(grid, width, others) if others else None for width in (i, k))
        if handed is None or own is None:
            return math.nan
        terms.append(cost(grid, k, handed, s) - cost(grid, k, own, s))
    return mean(terms)


def regret_held(grid: Grid, k: int, base: int, transferred: int) -> float:
    terms = []
    for s in seeds_of(grid):
        others = [other for other in seeds_of(grid) if other != s]
        own = argmin(grid, k, others) if others else None
        if own is None or transferred < 0:
            return math.nan
        terms.append(cost(grid, k, transferred, s) - cost(grid, k, own, s))
    return 0.0 if k == base and not math.isnan(mean(terms)) else mean(terms)


def anytime_gap(free: Grid, rival: Grid, h: int, last: int) -> float:
    seeds = seeds_of(free)
    terms = []
    for s in seeds:
        choosers = [other for other in seeds if other != s]
        one = argmin(free, last, choosers) if choosers else None
        own = argmin(rival, h, choosers) if choosers else None
        if one is None or own is None:
            return math.nan
        terms.append(cost(free, h, one, s) - cost(rival, h, own, s))
    return mean(terms)


def premium(constant: Grid, scheduled: Grid, k: int) -> float:
    seeds = seeds_of(constant)
    terms = []
    for s in seeds:
        choosers = [other for other in seeds if other != s]
        rates = [argmin(grid, k, choosers) if choosers else None for grid in (constant, scheduled)]
        if rates[0] is None or rates[1] is None:
            return math.nan
        terms.append(cost(constant, k, rates[0], s) - cost(scheduled, k, rates[1], s))
    return mean(terms)


def basin(grid: Grid, k: int, log2_lrs: Sequence[float], tolerance: float) -> tuple[float, float, str]:
    """Walk from the argmin to either side until the loss has risen by more than the tolerance."""
    seeds = seeds_of(grid)
    best = argmin(grid, k, seeds)
    if best is None:
        return math.nan, math.nan, ""
    level = {j: mean([cost(grid, k, j, s) for s in seeds]) for j in rates_of(grid, k)}
    limit = level[best] + tolerance
    ends, open_sides = [], []
    for side, path in (("low", sorted(level, reverse=True)), ("high", sorted(level))):
        at = path.index(best)
        while at + 1 < len(path) and level[path[at + 1]] <= limit:
            at += 1
        x = log2_lrs[path[at]]
        if at + 1 == len(path):
            open_sides.append(side)
        else:
            rise = level[path[at + 1]] - level[path[at]]
            x += (limit - level[path[at]]) / rise * (log2_lrs[path[at + 1]] - log2_lrs[path[at]])
        ends.append(x)
    return ends[0], ends[1], "both" if len(open_sides) == 2 else "".join(open_sides)


def count_spikes(series: Sequence[float], window: int, threshold: float) -> tuple[int, int]:
    values = [v for v in series if math.isfinite(v)]
    spikes = points = 0
    for i in range(window, len(values)):
        before = values[i - window : i]
        points += 1
        rise = values[i] - mean(before)
        if rise > 0 and rise >= threshold * deviation(before):
            spikes += 1
    return spikes, points


def count_worse(curves: Sequence[Sequence[Sequence[float]]]) -> tuple[int, int]:
    worse = points = 0
    for narrow, wide in pairwise(curves):
        for a, b in zip(narrow, wide, strict=True):
            if len(a) < 2 or not all(math.isfinite(v) for v in [*a, *b]):
                continue
            rises = [y - x for x, y in zip(a, b, strict=True)]
            points += 1
            if mean(rises) > 2 * deviation(rises) / math.sqrt(len(rises)):
                worse += 1
    return worse, points


def kendall_tau(x: Sequence[float], y: Sequence[float]) -> float:
    """Concordant less discordant pairs; τ-b, so ties in y shorten the denominator."""
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if not math.isnan(b)]
    score = tied = 0
    both = list(combinations(pairs, 2))
    for (a, b), (c, d) in both:
        tied += b == d
        score += 0 if b == d else 1 if (c - a) * (d - b) > 0 else -1
    return score / math.sqrt(len(both) * (len(both) - tied)) if len(both) > tied else math.nan


def expected_best_of_k(losses: Sequence[float], k: int) -> float:
    """By trying all subsets."""
    return mean([min(subset) for subset in combinations(losses, k)])


def holm(p_values: Sequence[float]) -> list[float]:
    """Step down: the i-th smallest of m times m − i, never below the one before, at most 1."""
    family = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for i, (p, place) in enumerate(family):
        highest = max(highest, min(1.0, p * (len(family) - i)))
        adjusted[place] = highest
    return adjusted


def jackknife_se(statistic: Callable[[list[int]], float], n: int) -> float:
    replicates = [statistic([i for i in range(n) if i != left_out]) for left_out in range(n)]
    centre = mean(replicates)
    return math.sqrt((n - 1) / n * sum((r - centre) ** 2 for r in replicates))

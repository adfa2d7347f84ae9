"""How sure is the search of `mufree.analysis.metrics.search`? `python benchmarks/search.py`, half a minute of one core.

Searches on the study's own losses, as if each run were trained when it is asked for: every task, method and width, every choice
of 3 seeds of those that there are, and of 5; started from every rate of the grid. Its rival is the fit of the whole grid, on
the same seeds. Both are judged by the fit of the whole grid on the seeds that were not chosen, and on all.

Writes `docs/measured/search.csv`, and the tables of it into `docs/tuning.md`, between their marks. With `--table` it only
prints the tables, from that file.

Left out are cells with fewer than 9 rates or with an optimum at an edge of the grid, and such as are the same network as one
before: at base width SP is µP.
"""

from __future__ import annotations

import argparse
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mufree.analysis.metrics.search import Trial, found_optimum, next_points, optimum_interval
from mufree.analysis.metrics.statistics import Floats, Interval
from mufree.analysis.metrics.surface import Optimum, Surface, optima
from mufree.analysis.tables.cases import make_cases, primary, surface_of
from mufree.study.limits import BASIN_TOLERANCE, FIT_WINDOW

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "paper/data/rows.parquet"
MEASURED = ROOT / "docs/measured/search.csv"
DOCUMENT = ROOT / "docs/tuning.md"

SEEDS = (3, 5)
FEWEST_RATES = 9
"""Of a grid that a search is held against: with fewer a rival would be cheap because somebody knew where to look."""

CLOSE = 0.5
"""Doublings between a rate and the truth that count as found: half a step of the grid."""

RISE = 0.01
"""Nats per doubling by which a loss beyond the grid is worse than the one at its end. Our choice; it leads a search back."""

DEFAULT_START = -9.0


@dataclass(frozen=True)
class Cell:
    """One task, method and width with its losses, a surface of one width whose rates were all run."""

    task: str
    at_base: bool
    surface: Surface

    def loss(self, trial: Trial, seeds: Sequence[int]) -> float:
        """Of a trial whose seed is a position in `seeds`; beyond the grid, where nothing was run, that of its end and more."""
        rates = self.surface.log2_lrs
        j, s = int(np.abs(rates - trial[0]).argmin()), seeds[trial[1]]
        beyond = abs(float(rates[j]) - trial[0])
        return math.inf if self.surface.diverged[0, j, s] else float(self.surface.loss[0, j, s]) + RISE * beyond

    def has(self, rate: float) -> bool:
        """Whether a rate was run."""
        return bool((self.surface.log2_lrs == rate).any())


@dataclass(frozen=True)
class Judge:
    """The losses of some seeds, [J], and the optimum that they have."""

    surface: Surface
    optimum: Optimum

    def excess(self, rate: float) -> float:
        """Nats that a rate costs beyond the lowest: by the parabola where it was fitted, else interpolated between rates."""
        rates, mean = self.surface.log2_lrs, self.surface.mean_loss[0]
        fitted = rates[~np.isnan(mean) & (np.abs(rates - self.optimum.log2_lr_argmin) <= FIT_WINDOW)]
        if self.optimum.flag == "ok" and fitted.min() <= rate <= fitted.max():
            return self.optimum.curvature * (rate - self.optimum.log2_lr) ** 2
        return float(np.interp(rate, rates, self.surface.cost[0].mean(axis=1))) - self.optimum.loss


@dataclass(frozen=True)
class Outcome:
    """What a way of tuning found."""

    rate: float
    interval: Interval

    def judged(self, name: str, by: str, judge: Judge | None) -> dict[str, float]:
        """How far from the truth it is, what that costs, and whether its interval covers it; NaN without a judge."""
        columns = [f"{name}_{what}_{by}" for what in ("error", "excess", "covers")]
        if judge is None:
            return dict.fromkeys(columns, math.nan)
        truth, interval = judge.optimum.log2_lr, self.interval
        covers = math.nan if np.isnan(interval.se) else float(interval.low <= truth <= interval.high)
        return dict(zip(columns, (abs(self.rate - truth), judge.excess(self.rate), covers), strict=True))


def read_cells(rows: pd.DataFrame) -> tuple[list[Cell], Counter[str]]:
    """The cells to search in, and how many were left out, by reason."""
    cells: list[Cell] = []
    left_out: Counter[str] = Counter()
    seen: set[bytes] = set()
    for case in make_cases(primary(rows)):
        for each in case.cells:
            surface = surface_of(case.judged[case.judged["width"] == each.width], case.seeds)
            losses = surface.loss.tobytes()
            if losses in seen:
                left_out["the same network as another"] += 1
            elif len(surface.log2_lrs) < FEWEST_RATES:
                left_out[f"fewer than {FEWEST_RATES} rates"] += 1
            elif each.optimum.censored:
                left_out["no optimum inside the grid"] += 1
            else:
                cells.append(Cell(case.task, each.width == surface.base_width, surface))
            seen.add(losses)
    return cells, left_out


def search(cell: Cell, seeds: Sequence[int], start: float) -> dict[Trial, float]:
    """All trials of a search, with seeds as positions in `seeds`."""
    found: dict[Trial, float] = {}
    order = range(len(seeds))
    while trials := next_points(found, order, start):
        found |= {trial: cell.loss(trial, seeds) for trial in trials}
    return found


def of_grid(cell: Cell, seeds: Sequence[int]) -> Outcome:
    """What the whole grid tells with these seeds: as the search's own estimate, from all trials."""
    order = range(len(seeds))
    found = {(float(x), s): cell.loss((float(x), s), seeds) for x in cell.surface.log2_lrs for s in order}
    return Outcome(found_optimum(found, order).log2_lr, optimum_interval(found, order))


def judge_of(cell: Cell, seeds: Sequence[int]) -> Judge | None:
    """The truth by the whole grid with these seeds; None where it is not inside the grid, or there are none."""
    if not seeds:
        return None
    surface = cell.surface.keep(np.array(seeds))
    optimum = optima(surface)[0]
    return None if optimum.censored else Judge(surface, optimum)


def searches(cells: Sequence[Cell], n_seeds: int) -> Iterator[dict[str, Any]]:
    """A row for each search with that many seeds."""
    for number, cell in enumerate(cells):
        everyone = range(cell.surface.n_seeds)
        by_all = judge_of(cell, everyone)
        for seeds in combinations(everyone, n_seeds):
            held_out = judge_of(cell, [s for s in everyone if s not in seeds])
            grid = of_grid(cell, seeds)
            rival = grid.judged("grid", "held_out", held_out) | grid.judged("grid", "all", by_all)
            for start in cell.surface.log2_lrs:
                found = search(cell, seeds, float(start))
                order = range(n_seeds)
                own = Outcome(found_optimum(found, order).log2_lr, optimum_interval(found, order))
                yield {
                    "task": cell.task,
                    "cell": number,
                    "at_base": cell.at_base,
                    "start": float(start),
                    "off": float(start) - by_all.optimum.log2_lr if by_all else math.nan,
                    "runs": len(found),
                    "grid_runs": len(cell.surface.log2_lrs) * n_seeds,
                    "beyond": sum(not cell.has(rate) for rate, _ in found),
                    "width": float(own.interval.high - own.interval.low),
                    "grid_width": float(grid.interval.high - grid.interval.low),
                    **own.judged("search", "held_out", held_out),
                    **own.judged("search", "all", by_all),
                    **rival,
                }


def groups(found: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """What is counted apart, with its name."""
    yield from ((str(task), of_task) for task, of_task in found.groupby("task"))
    yield "all", found
    yield "all, at base width", found[found["at_base"]]
    yield f"all, from 2^{DEFAULT_START:.0f}", found[found["start"] == DEFAULT_START]
    yield "all, start more than 2 doublings too low", found[found["off"] < -2]
    yield "all, start within 2 doublings", found[found["off"].abs() <= 2]
    yield "all, start 2 to 4 doublings too high", found[(found["off"] > 2) & (found["off"] <= 4)]
    yield "all, start more than 4 doublings too high", found[found["off"] > 4]


def summary(found: pd.DataFrame) -> dict[str, float]:
    """One row of the table: shares are of the searches that have a judge; far off are those that lose `BASIN_TOLERANCE`."""

    def share(column: str, test: Any) -> float:
        known = found[column].dropna()
        return float(test(known).mean()) if len(known) else math.nan

    row: dict[str, float] = {
        "cells": found["cell"].nunique(),
        "searches": len(found),
        "runs_mean": found["runs"].mean(),
        "runs_max": found["runs"].max(),
        "grid_runs_mean": found["grid_runs"].mean(),
        "share_of_grid": found["runs"].sum() / found["grid_runs"].sum(),
        "half_or_less": (2 * found["runs"] <= found["grid_runs"]).mean(),
        "beyond_grid": found["beyond"].sum() / found["runs"].sum(),
        "no_interval": found["width"].isna().mean(),
        "interval_width": found["width"].median(),
        "grid_interval_width": found["grid_width"].median(),
    }
    for by in ("held_out", "all"):
        for name in ("search", "grid"):
            excess: Floats = found[f"{name}_excess_{by}"].dropna().to_numpy()
            row |= {
                f"{name}_far_off_{by}": int((excess > BASIN_TOLERANCE).sum()),
                f"{name}_close_{by}": share(f"{name}_error_{by}", lambda error: error <= CLOSE),
                f"{name}_covers_{by}": share(f"{name}_covers_{by}", lambda covers: covers == 1),
                **{
                    f"{name}_excess_{what}_{by}": float(np.quantile(excess, q)) if len(excess) else math.nan
                    for what, q in (("median", 0.5), ("p95", 0.95), ("max", 1.0))
                },
            }
    return row


def measure(cells: Sequence[Cell], n_seeds: int) -> pd.DataFrame:
    """The table's rows with that many seeds."""
    able = [cell for cell in cells if cell.surface.n_seeds >= n_seeds]
    found = pd.DataFrame(searches(able, n_seeds))
    rows = [{"seeds": n_seeds, "of": name, **summary(group)} for name, group in groups(found)]
    return pd.DataFrame(rows).round(5)


def counted(cells: Sequence[Cell], left_out: Counter[str]) -> str:
    """How many cells there are, and how many were left out and why."""
    why = ", ".join(f"{n} ({reason})" for reason, n in sorted(left_out.items()))
    return f"{len(cells)} cells. Left out: {why}."


def tables(measured: pd.DataFrame) -> str:
    """As Markdown: what the search costs and finds, and then what a miss costs and how the interval covers.

    By task, all together, and at base width, whatever the start; the file has the starts apart.
    """
    measured = measured[~measured["of"].str.contains("start|from")]
    pairs = [(name, by) for by in ("held_out", "all") for name in ("search", "grid")]
    judged = ["{}, held out", "grid", "{}, all", "grid"]
    first = ["seeds", "searches in", "cells", "searches", "runs", "most", "of the grid's", *judged]
    second = ["seeds", "searches in", *judged, *judged]
    runs = _head([name.format("within ½") for name in first])
    misses = _head([name.format("nats lost" if k < 6 else "covered") for k, name in enumerate(second)])
    for _, row in measured.iterrows():
        names = [row["seeds"], row["of"]]
        counts = [
            row["cells"],
            row["searches"],
            f"{row['runs_mean']:.1f}",
            row["runs_max"],
            _percent(row["share_of_grid"]),
        ]
        runs.append(_line([*names, *counts, *(_percent(row[f"{name}_close_{by}"]) for name, by in pairs)]))
        covered = [_percent(row[f"{name}_covers_{by}"]) for name, by in pairs]
        misses.append(_line([*names, *(_excess(row, name, by) for name, by in pairs), *covered]))
    return "\n".join([*runs, "", *misses])


def _head(names: list[str]) -> list[str]:
    return [_line(names), "| --- " * len(names) + "|"]


def _line(cells: Sequence[Any]) -> str:
    return "".join(f"| {cell} " for cell in cells) + "|"


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f} %"


def _excess(row: pd.Series[Any], name: str, by: str) -> str:
    values = [row[f"{name}_excess_{what}_{by}"] for what in ("median", "p95", "max")]
    return "–" if math.isnan(values[0]) else " / ".join(f"{value:.4f}" for value in values)


def block() -> str:
    """What stands in the document."""
    return "\n\n".join([counted(*read_cells(pd.read_parquet(ROWS))), tables(pd.read_csv(MEASURED))])


def main() -> None:
    """Measure, and write the file and the document; or print what stands there."""
    logging.disable(logging.WARNING)  # of the runs that no cell has
    parser = argparse.ArgumentParser()
    parser.add_argument("--table", action="store_true", help="only print what stands in the document")
    if parser.parse_args().table:
        print(block())
        return
    cells, _ = read_cells(pd.read_parquet(ROWS))
    pd.concat([measure(cells, n) for n in SEEDS], ignore_index=True).to_csv(MEASURED, index=False)
    text = DOCUMENT.read_text(encoding="utf-8")
    new, found = re.subn(
        r"(<!-- search -->\n).*?(<!-- /search -->)", lambda m: f"{m[1]}{block()}\n{m[2]}", text, flags=re.S
    )
    if found != 1:
        raise SystemExit(f"{DOCUMENT} has no lines <!-- search --> and <!-- /search -->")
    DOCUMENT.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Captions of the paper's figures, and what every one of them ends in: n, error bars, data, run set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mufree.publish.frozen import Frozen
from mufree.publish.report.captions import FIGURE_CAPTIONS
from mufree.publish.report.setting import caveat_of
from mufree.publish.report.words import count, plain, span

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


def captions(frozen: Frozen, task: str, figures: Iterable[str]) -> dict[str, str]:
    """Captions of the figures that have something to show for this task."""
    out = {}
    for name in figures:
        needed = frozen.tables.get(name) if name in SHOWN_WITH_ROWS else None
        averages = frozen.runs["task"].eq(task) & frozen.runs["average"].ne("none")
        if name == "averages" and not averages.any():
            continue
        if needed is None or needed["task"].eq(task).any():
            what = f"{frozen.description(task)} ({task}). {FIGURE_CAPTIONS.get(name, '')}"
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
        f"{n or 'n = ' + count(runs, 'run')}; {error_bars or error_bar_words(frozen, tasks)}; "
        f"data: {data_words(frozen, tasks)}; run set {frozen.manifest['run_set']}."
    )


def error_bar_words(frozen: Frozen, tasks: Sequence[str]) -> str:
    """What error bars are, and of how many seeds."""
    seeds = sorted({n for task in tasks for n in frozen.seeds(task)})
    if seeds == [1]:
        return "one seed, no error bars"
    noun = count(seeds[0], "seed") if len(seeds) == 1 else f"{span(seeds)} seeds"
    return f"intervals are 95 %, delete-one-seed jackknife with t quantile, {noun}"


def data_words(frozen: Frozen, tasks: Sequence[str]) -> str:
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

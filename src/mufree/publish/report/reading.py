"""How to read the report, and where its numbers come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mufree.analysis.tables.transfer import EQUIVALENCE_MARGIN
from mufree.publish.report.blocks import Block, points, table
from mufree.publish.report.words import MISSING

HOW_TO_READ = [
    "Learning rates are powers of two, and a “doubling” is a factor of two. Under µP a rate is the one at base width.",
    "Best rate: the vertex of a parabola through the mean losses within two doublings of the best rate of the grid. Drift: "
    "the slope of the best log2 rate on log2 width; 0 is perfect transfer, and Adam under SP is expected near −1. A drift "
    f"counts as none only if its 90 % interval is inside ±{EQUIVALENCE_MARGIN}: an interval that includes 0 is no proof.",
    "Regret: what using the base width's best rate costs, against the best rate of the grid at that width. Cross-fitted: both "
    "rates are chosen on the other seeds, so that no seed judges itself. It may be slightly negative. Read drift and regret "
    "together: in a flat valley the optimum wanders and costs nothing.",
    "LR sensitivity: the mean excess loss over a window of rates of equal width around each method's own optimum; a diverged "
    "run counts as the loss at initialisation.",
    "Intervals: 95 %, delete-one-seed jackknife with a t quantile; wide with few seeds, and rightly so.",
    "Verdicts are computed, by rules written before the runs. Supported: a one-sided test at the claim's level, after Holm's "
    "correction over the primary hypotheses of a task. Refuted: the two-sided interval excludes the claim. Inconclusive: "
    "neither; it is no evidence against the claim. Not estimable: the study lacks what the rule takes.",
    "Schedule-free methods have three iterates: gradients are taken at y, the average x is what is evaluated and reported.",
    "A run that diverges is a result: it is counted, never trained again with another seed, and left out of fits.",
]


def how_to_read() -> list[Block]:
    """What terms and numbers mean."""
    return [points("", HOW_TO_READ)]


def provenance(content: Mapping[str, Any]) -> list[Block]:
    """provenance.json in lines."""
    rows = [[key.replace("_", " "), value] for key, value in _flat(content)]
    caption = "Where the numbers come from. provenance.json has more: checksums of the source files, and all digits."
    return [table(caption, ["What", "Value"], rows, missing="not recorded or none", fill=[1])]


LEFT_OUT = ("files", "inputs", "class_names", "mean", "std")
"""Parts of a data set's manifest that are too long for a report."""


def _flat(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    """Nested JSON as lines: a path and what stands there. Plain values that stand together make one line."""
    if isinstance(value, Mapping):
        kept = {key: inner for key, inner in value.items() if key not in LEFT_OUT}
        if path and not any(isinstance(inner, Mapping | list) for inner in kept.values()):
            yield path, ", ".join(f"{key} {_plain(inner)}" for key, inner in kept.items()) or MISSING
            return
        for key, inner in kept.items():
            yield from _flat(inner, f"{path} · {key}" if path else key)
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for i, inner in enumerate(value, start=1):
            yield from _flat(inner, f"{path} · {inner['settings']['name']}" if "settings" in inner else f"{path} {i}")
    elif isinstance(value, list):
        yield path, ", ".join(_plain(inner) for inner in value) or MISSING
    else:
        yield path, _plain(value)


def _plain(value: Any) -> str:
    """A leaf of JSON; fractions to four digits."""
    return MISSING if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

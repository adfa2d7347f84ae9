"""The coordinate check of one's own model: measure with `coord_check`, judge with `verdict`.

    frame = coord_check(make_model, make_optimizer, widths=[64, 128, 256], batch=make_batch)
    result = verdict(slopes(frame), first_step=first_judged_step(frame))
    assert outcome(result) == "passed", result

`until_sure` does both with as many seeds as it takes. `docs/how-to.md` tells how, and the command `mufree coordcheck` does it
for a file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import pandas as pd

from mufree.analysis.coordcheck import Outcome, first_judged_step, outcome, slopes, verdict
from mufree.lab.coordcheck import CheckError, UserFunctionError, coord_check, default_loss

__all__ = [
    "CheckError",
    "Outcome",
    "UserFunctionError",
    "coord_check",
    "default_loss",
    "first_judged_step",
    "outcome",
    "slopes",
    "until_sure",
    "verdict",
]

log = logging.getLogger(__name__)


def until_sure(measure: Callable[..., pd.DataFrame], seeds: int, max_seeds: int) -> Outcome:
    """Judge what `measure(seeds=…)` finds: with so many seeds, then twice as many and so on, until it passes or surely fails.

    Raises `CheckError` where nothing moved, or no step is left to judge.
    """
    frames = []
    ends = [seeds]
    while ends[-1] < max_seeds:
        ends.append(min(2 * ends[-1], max_seeds))
    for start, end in zip([0, *ends], ends, strict=False):
        frames.append(measure(seeds=range(start, end)))
        frame = pd.concat(frames, ignore_index=True)
        table = slopes(frame)
        try:
            first_step = first_judged_step(frame)
            verdicts = verdict(table, first_step=first_step, looks=len(ends))
        except ValueError as error:  # too few steps
            raise CheckError(str(error)) from None
        found = Outcome(table, verdicts, outcome(verdicts), first_step, end, list(frame["module"].unique()))
        if found.word != "unsure":
            break
        if end < max_seeds:
            log.info("unsure with %d seeds, so more are added", end)
    return found

"""Learning-rate schedules for ordinary optimizers."""

from __future__ import annotations

import math
from typing import Literal

DECAY_SHARE = 0.2
"""The share of the steps in which "wsd" decays; Hägele et al. 2024 find that it does as well as cosine from there on."""


def warmup_factor(schedule: Literal["cosine", "wsd", "constant"], step: int, warmup_steps: int, steps: int) -> float:
    """The factor on the learning rate at `step` (0, 1, …, steps − 1): a linear warm-up, then the schedule.

    The warm-up is (step + 1) / warmup_steps, as ScheduleFree has it. "cosine" falls to zero at `steps`; so does "wsd"
    (warm-up, stable, decay), which is 1 until the last fifth of the steps and there 1 − √(share of the fifth that is past)
    (Hägele et al. 2024). A warm-up that reaches into that fifth shortens it.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    if schedule == "wsd":
        start = max(warmup_steps, steps - max(1, round(DECAY_SHARE * steps)))
        return 1.0 if step < start else 1.0 - math.sqrt((step - start) / (steps - start))
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps)))

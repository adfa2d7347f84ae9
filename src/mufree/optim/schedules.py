"""Learning-rate schedules for ordinary optimizers."""

from __future__ import annotations

import math
from typing import Literal


def warmup_factor(schedule: Literal["cosine", "constant"], step: int, warmup_steps: int, steps: int) -> float:
    """The factor on the learning rate at `step` (0, 1, …, steps − 1): a linear warm-up, then the schedule.

    The warm-up is (step + 1) / warmup_steps, as ScheduleFree has it. "cosine" falls to zero at `steps`.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps)))

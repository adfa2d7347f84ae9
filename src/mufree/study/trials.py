"""What a tuning is asked for, and its trials: runs on a model of one's own. Each has an identity, as a study's runs have.

A study's run names its model and data set; a trial has the digest of the functions that make them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from mufree.study.config import METHODS, Method, OptimizerSettings
from mufree.study.fields import Closed, Float, Int, NonNegative, Positive
from mufree.study.plan import NUMERICS, canonical_json, identified, warmup_steps

TUNABLE: dict[str, Method] = METHODS | {
    "mup_adamw_wsd": Method(parametrization="mup", optimizer="adamw", schedule="wsd"),
    "mup_adamw_constant_ema": Method(parametrization="mup", optimizer="adamw", schedule="constant", average="ema"),
    "sp_adamw_wsd": Method(parametrization="sp", optimizer="adamw", schedule="wsd"),
    "sp_adamw_constant_ema": Method(parametrization="sp", optimizer="adamw", schedule="constant", average="ema"),
}
"""The methods that a model can be tuned with."""

EVALUATIONS = 4
"""The most that a trial has, beside the one before its first step."""

START = -9.0
"""log2 of the rate at which a search starts, and at which the coordinate check looks; Adam's is near it, as a rule."""


@dataclass(frozen=True)
class Settings:
    """What is asked for."""

    base_width: int
    check_widths: tuple[int, ...]
    steps: int
    methods: tuple[str, ...] = ("mup_schedulefree",)
    seeds: int = 3
    beta1: float = 0.9
    beta2s: tuple[float, ...] = (0.99,)
    """Of more than one, the best at base width is kept."""
    weight_decay: float = 0.0
    warmup_fraction: float = 0.1
    start: float = START
    margin: float | None = None
    """A loss that counts as none; 0.01 for cross-entropy, and for others 0.3 % of what training gains, if None."""
    target_width: int | None = None
    check: bool = True
    """Whether the coordinate check is made, for methods under µP."""

    def __post_init__(self) -> None:
        for name, values in (("method", self.methods), ("check width", self.check_widths), ("beta2", self.beta2s)):
            if len(set(values)) < len(values):
                raise ValueError(f"a {name} is given twice: {', '.join(map(str, values))}")
        if unknown := [name for name in self.methods if name not in TUNABLE]:
            raise ValueError(f"Unknown method '{unknown[0]}'. Known: {', '.join(TUNABLE)}")
        for name, least, value in (
            ("base width", 1, self.base_width),
            ("steps", 1, self.steps),
            ("seeds", 1, self.seeds),
            *(("check width", self.base_width + 1, width) for width in self.check_widths),
            ("weight decay", 0, self.weight_decay),
            ("target width", self.base_width, self.target_width),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} {value}: must be {least} or more")
        if not (self.methods and self.check_widths and self.beta2s):
            raise ValueError("give a method, a check width and a beta2 at least")
        for name, beta in (("beta1", self.beta1), *(("beta2", each) for each in self.beta2s)):
            if not 0 <= beta < 1:
                raise ValueError(f"{name} {beta}: must be 0 or more, and below 1")
        if self.margin is not None and not self.margin > 0:
            raise ValueError(f"margin {self.margin}: must be above 0")


class Trial(Closed):
    """One training of a model of one's own, with all that can change its numbers."""

    name: str
    """What the model is called in tables and names of files."""
    functions: str
    """Digest of the functions that make model and batches, and of what they made."""
    method_name: str
    method: Method
    optimizer: OptimizerSettings
    steps: Positive
    warmup_fraction: Float = 0.1
    width: Positive
    base_width: Positive
    log2_lr: Float
    seed: NonNegative
    numerics: Int = NUMERICS

    @property
    def lr(self) -> float:
        """The learning rate, at base width."""
        return float(2.0**self.log2_lr)

    @property
    def warmup_steps(self) -> int:
        """Steps of the linear warm-up."""
        return warmup_steps(self.method, self.steps, self.warmup_fraction)

    @property
    def evaluations(self) -> int:
        """How many there are, evenly spread: as many as divide the steps, at most `EVALUATIONS`."""
        return next(count for count in range(EVALUATIONS, 0, -1) if self.steps % count == 0)

    @property
    def id(self) -> str:
        """A readable slug and 8 hex digits of the SHA-256 of the canonical JSON."""
        return identified(self, f"{self.name}.{self.method_name}.w{self.width}.lr{self.log2_lr:.4g}.s{self.seed}")

    @property
    def planned(self) -> dict[str, Any]:
        """The part of its row that is known beforehand, in the columns of a study's rows."""
        return {
            "run_id": self.id,
            "task": self.name,
            "method": self.method_name,
            "variant": "",
            **{
                part: getattr(self.method, part)
                for part in ("parametrization", "optimizer", "schedule", "average", "embedding_lr")
            },
            **{part: getattr(self, part) for part in ("width", "base_width", "log2_lr", "seed", "steps")},
            "horizon": 1.0,
            "flops": math.nan,
            "warmup_steps": self.warmup_steps,
            **json.loads(canonical_json(self.optimizer)),
            "numerics": self.numerics,
            "data_digest": self.functions,
        }

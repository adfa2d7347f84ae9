"""What is watched while a model trains: curves, norms by layer, divergence, seconds; and the `Trace` that it leaves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from mufree.lab.train.evaluate import UNKNOWN, Score

REBOUND_FLOOR = 0.5  # nats; docs/metrics.md, "What diverges"
REBOUND_SHARE = 0.1  # of the way from the start to the minimum
BLOWN_UP_STEPS = 50  # steps at more than twice the initial loss before a run is stopped


class Series(NamedTuple):
    """One curve: `values[i]` (float64) at `steps[i]` (int32); `layer` is a layer type, or empty."""

    name: str
    layer: str
    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Trace:
    """What one run left behind. Losses in nats; NaN where a run was stopped before it could be measured."""

    status: str
    divergence: str | None
    steps_done: int
    initial_loss: float
    train_loss: float
    train_loss_min: float
    val_loss: float
    val_loss_y: float
    val_accuracy: float
    test_loss: float
    test_accuracy: float
    curves: list[Series]
    seconds: Mapping[str, float]
    """Wall seconds in `setup`, `train` and `evaluate`."""

    def row(self) -> dict[str, str | int | float | None]:
        """The part of a row that training decides, as `record.ROW_SCHEMA` names it."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("curves", "seconds")}


@dataclass
class TrainLoss:
    """The bias-corrected exponential mean of the train loss, and what it takes to call a run diverged (docs/metrics.md).

    The time constant is a twentieth of the run, at least ten steps.
    """

    initial: float
    steps: int
    mean: float = math.nan
    minimum: float = math.inf
    blown_up: int = 0
    _sum: float = 0.0
    _weight: float = 0.0

    def update(self, loss: float) -> None:
        """Take in the loss of one step."""
        decay = 1.0 - 1.0 / max(10.0, self.steps / 20)
        self._sum = decay * self._sum + (1 - decay) * loss
        self._weight = decay * self._weight + (1 - decay)
        self.mean = self._sum / self._weight
        self.minimum = min(self.minimum, self.mean)
        # Twice the start, where that is a cross-entropy; a loss may also be negative, or start near zero.
        beyond = self.initial + max(abs(self.initial), REBOUND_FLOOR)
        self.blown_up = self.blown_up + 1 if self.mean > beyond else 0

    def take(self, loss: float, grad_norm: float) -> str | None:
        """Take in what a step gave; return the kind of divergence for which a run has to stop after it, or None."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return "nonfinite"
        self.update(loss)
        return "above_start" if self.blown_up >= BLOWN_UP_STEPS else None  # not worth going on

    def follow(self, losses: Iterable[float], grad_norms: Iterable[float]) -> tuple[str | None, int]:
        """Take in step after step until the run has to stop; return the kind of divergence, or None, and the steps it took."""
        step = 0
        for step, values in enumerate(zip(losses, grad_norms, strict=True), start=1):
            if (stopped := self.take(*values)) is not None:
                return stopped, step
        return None, step

    def divergence(self) -> str | None:
        """The kind of divergence at the end of the run, by (b) and (c) of docs/metrics.md, "What diverges", or None."""
        if self.mean >= self.initial:
            return "above_start"
        if self.mean > self.minimum + max(REBOUND_FLOOR, REBOUND_SHARE * (self.initial - self.minimum)):
            return "rebound"
        return None


def conclude(
    losses: TrainLoss,
    steps_done: int,
    stopped: str | None,
    *,
    finite: bool,
    at_x: Score,
    at_y: Score,
    test: Callable[[], Score],
    curves: list[Series],
    seconds: Mapping[str, float],
) -> Trace:
    """The trace of a run that is at its end, or was `stopped` as diverged.

    `finite` says whether its weights are, `at_x` and `at_y` are its last evaluation; `test()` is only called if it is of use.
    """
    if stopped is not None:
        at_x = at_y = UNKNOWN
    elif not (math.isfinite(at_x.loss) and finite):
        stopped = "nonfinite"
    divergence = stopped or losses.divergence()
    tested = test() if stopped is None else UNKNOWN
    return Trace(
        status="ok" if divergence is None else "diverged",
        divergence=divergence,
        steps_done=steps_done,
        initial_loss=losses.initial,
        train_loss=losses.mean,
        train_loss_min=losses.minimum,
        val_loss=at_x.loss,
        val_loss_y=at_y.loss,
        val_accuracy=at_x.accuracy,
        test_loss=tested.loss,
        test_accuracy=tested.accuracy,
        curves=curves,
        seconds=seconds,
    )


def series(name: str, layer: str, steps: Any, values: Any) -> Series:
    """A curve of any sequences of numbers."""
    return Series(name, layer, np.asarray(steps, dtype=np.int32), np.asarray(values, dtype=np.float64))


def sqrt_v(squares: Sequence[Tensor], beta2: float, steps: int) -> list[float]:
    """What Adam divides by, and ε has to be small beside: the median of √v over some weights' `exp_avg_sq` after so many steps.

    v is bias-corrected. Weights that never got a gradient (tokens that did not occur, units that never fired) are left out:
    they don't move, whatever ε is. Empty where there are no others.
    """
    if not squares:
        return []
    roots = torch.cat([(square / (1 - beta2**steps)).sqrt().flatten() for square in squares]).cpu().numpy()
    moved = roots[roots > 0]
    return [float(np.median(moved))] if moved.size else []


class Seconds(dict[str, float]):
    """Wall seconds by phase."""

    def __init__(self) -> None:
        super().__init__(setup=0.0, train=0.0, evaluate=0.0)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the wall seconds of the block to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self[phase] += time.perf_counter() - start


class Curves:
    """Curves that grow point by point, and norms of the tensors of one model by layer type."""

    def __init__(self, layers: Mapping[str, Sequence[Tensor]]) -> None:
        self.layers = layers
        self.points: dict[tuple[str, str], tuple[list[int], list[float]]] = {}

    def add(self, name: str, step: int, value: float, layer: str = "") -> None:
        """Add a point to a curve."""
        steps, values = self.points.setdefault((name, layer), ([], []))
        steps.append(step)
        values.append(value)

    @torch.no_grad()
    def add_gradients(self, step: int) -> dict[str, list[Tensor]]:
        """Add the RMS of gradients and weights by layer type; return copies of the weights."""
        for layer, weights in self.layers.items():
            self.add("grad_rms", step, _rms([p.grad for p in weights if p.grad is not None]), layer)
            self.add("weight_rms", step, _rms(weights), layer)
        return {layer: [p.clone() for p in weights] for layer, weights in self.layers.items()}

    @torch.no_grad()
    def add_updates(self, step: int, before: Mapping[str, list[Tensor]]) -> None:
        """Add the RMS by layer type of what a step has moved the weights by."""
        for layer, weights in self.layers.items():
            self.add("update_rms", step, _rms(torch._foreach_sub(list(weights), before[layer])), layer)

    @torch.no_grad()
    def add_sqrt_v(self, step: int, optimizer: Optimizer) -> None:
        """Add `sqrt_v` by layer type, of an optimizer that keeps v."""
        if "betas" not in optimizer.defaults:
            return
        for layer, weights in self.layers.items():
            states = [optimizer.state.get(p, {}) for p in weights]
            squares = [state["exp_avg_sq"] for state in states if "exp_avg_sq" in state]
            for median in sqrt_v(squares, optimizer.defaults["betas"][1], step):
                self.add("sqrt_v", step, median, layer)

    def series(self) -> list[Series]:
        """All of them, in the order of their first points."""
        return [series(name, layer, *points) for (name, layer), points in self.points.items()]

    def state_dict(self) -> list[tuple[str, str, Tensor, Tensor]]:
        """The points, in strings and tensors."""
        return [
            (*key, torch.tensor(steps, dtype=torch.int64), torch.tensor(values, dtype=torch.float64))
            for key, (steps, values) in self.points.items()
        ]

    def load_state_dict(self, state: Iterable[tuple[str, str, Tensor, Tensor]]) -> None:
        """Go on from what `state_dict` gave."""
        self.points = {(name, layer): (steps.tolist(), values.tolist()) for name, layer, steps, values in state}


def _rms(tensors: Sequence[Tensor]) -> float:
    """Root mean square over all elements of some tensors."""
    count = sum(tensor.numel() for tensor in tensors)
    return float(torch.nn.utils.get_total_norm(tensors)) / math.sqrt(count) if count else math.nan

"""Optimizer steps of many networks at once: each weight is [N, ...], and every setting may differ from network to network.

The same arithmetic as in torch's AdamW and SGD and in schedulefree's AdamW and SGD, one element at a time; what a step needs
beside the weights is worked out for the whole run beforehand, so that none of it waits for the host. The tests hold each of
them against the optimizer that it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mufree.optim import warmup_factor
from mufree.study.plan import Run

if TYPE_CHECKING:
    from mufree.study.trials import Trial

Weights = dict[str, Tensor]
Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Columns:
    """What one step takes of every network, each a [N] that broadcasts against a weight [N, ...] once it is `like` it."""

    rate: Tensor
    """Learning rate of this weight at this step."""
    decay: Tensor | None
    """Weight decay; None where no network has any."""
    beta1: Tensor
    beta2: Tensor
    eps: Tensor
    scalars: Sequence[Tensor]
    """What `Update.scalars` gave for this step."""


@dataclass(frozen=True)
class Update:
    """How one kind of optimizer steps."""

    state: tuple[str, ...]
    """What it keeps of each weight: `z` starts as the weight, all else as zeros."""
    scalars: Callable[[Run | Trial, NDArray[np.int64]], Rows]
    """What it needs of a run at steps k = 0, 1, … [T] besides its settings: [T, K]; the first is the factor on the rate."""
    step: Callable[[Tensor, Tensor, Mapping[str, Tensor], Columns], None]
    """One step of a weight and its state, in place, given the gradient, which it may overwrite."""


def _warmed_up(run: Run | Trial, steps: NDArray[np.int64]) -> Rows:
    schedule, warmup, total = run.method.schedule, run.warmup_steps, run.steps
    return np.array([warmup_factor(schedule, int(k), warmup, total) for k in steps])


def _adamw_scalars(run: Run | Trial, steps: NDArray[np.int64]) -> Rows:
    settings = run.optimizer
    corrections = [1 - beta ** (steps + 1) for beta in (settings.beta1, settings.beta2)]
    return np.stack([_warmed_up(run, steps), corrections[0], np.sqrt(corrections[1])], axis=-1)


def _adamw(weight: Tensor, gradient: Tensor, state: Mapping[str, Tensor], c: Columns) -> None:
    """torch.optim.AdamW (Loshchilov & Hutter 2019)."""
    correction1, root2 = c.scalars
    m, v = state["exp_avg"], state["exp_avg_sq"]
    if c.decay is not None:
        weight.mul_(1 - c.rate * c.decay)
    m.lerp_(gradient, 1 - c.beta1)
    v.lerp_(gradient.square_(), 1 - c.beta2)
    weight.addcmul_(m / v.sqrt().div_(root2).add_(c.eps), -c.rate / correction1)


def _sgd(weight: Tensor, gradient: Tensor, state: Mapping[str, Tensor], c: Columns) -> None:
    """torch.optim.SGD with momentum."""
    momentum = state["momentum_buffer"]
    momentum.mul_(c.beta1).add_(_decayed(gradient, weight, c))
    weight.addcmul_(momentum, -c.rate)


def _decayed(direction: Tensor, weight: Tensor, c: Columns) -> Tensor:
    return direction if c.decay is None else direction.addcmul_(weight, c.decay)


def _shares(run: Run | Trial, steps: NDArray[np.int64]) -> Rows:
    """How much the newest z counts in x. A constant factor on the rate cancels out of it, µP's multipliers too."""
    rates = _warmed_up(run, np.arange(steps[-1] + 1))
    weights = np.maximum.accumulate(rates) ** 2
    share: Rows = (weights / np.cumsum(weights))[steps]
    return share


def _sgd_schedulefree_scalars(run: Run | Trial, steps: NDArray[np.int64]) -> Rows:
    return np.stack([_warmed_up(run, steps), _shares(run, steps)], axis=-1)


def _adamw_schedulefree_scalars(run: Run | Trial, steps: NDArray[np.int64]) -> Rows:
    return np.stack([_warmed_up(run, steps), _shares(run, steps), 1 - run.optimizer.beta2 ** (steps + 1)], axis=-1)


def _schedulefree(y: Tensor, direction: Tensor, z: Tensor, share: Tensor, c: Columns) -> None:
    """What every schedule-free optimizer does with its direction (Defazio et al. 2024); x isn't needed for it."""
    direction = _decayed(direction, y, c)
    y.lerp_(z, share).addcmul_(direction, c.rate * (c.beta1 * (1 - share) - 1))
    z.addcmul_(direction, -c.rate)


def _adamw_schedulefree(y: Tensor, gradient: Tensor, state: Mapping[str, Tensor], c: Columns) -> None:
    """schedulefree.AdamWScheduleFree."""
    share, correction = c.scalars
    v = state["exp_avg_sq"]
    v.lerp_(gradient.square(), 1 - c.beta2)
    _schedulefree(y, gradient.div_((v / correction).sqrt_().add_(c.eps)), state["z"], share, c)


def _sgd_schedulefree(y: Tensor, gradient: Tensor, state: Mapping[str, Tensor], c: Columns) -> None:
    """schedulefree.SGDScheduleFree."""
    (share,) = c.scalars
    _schedulefree(y, gradient, state["z"], share, c)


UPDATES: dict[str, Update] = {
    "adamw": Update(("exp_avg", "exp_avg_sq"), _adamw_scalars, _adamw),
    "sgd": Update(("momentum_buffer",), lambda run, steps: _warmed_up(run, steps)[:, None], _sgd),
    "adamw_schedulefree": Update(("z", "exp_avg_sq"), _adamw_schedulefree_scalars, _adamw_schedulefree),
    "sgd_schedulefree": Update(("z",), _sgd_schedulefree_scalars, _sgd_schedulefree),
}
"""By the name that a study file uses. Schedule-free RAdam isn't here: its runs are trained one by one."""


def like(column: Tensor, weight: Tensor) -> Tensor:
    """[N] as [N, 1, …], to broadcast against a weight [N, ...]."""
    return column.view(-1, *(1,) * (weight.dim() - 1))


def at_x(y: Tensor, z: Tensor, beta1: Tensor) -> Tensor:
    """The average x that a schedule-free optimizer is evaluated at, from y = (1 − β₁) z + β₁ x."""
    return torch.lerp(y, z, like(1 - 1 / beta1, y))

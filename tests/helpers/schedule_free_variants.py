"""A small µP network and every schedule-free optimizer on it, for the tests of evaluation and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import mup
import schedulefree
import torch
from torch import Tensor, nn

from mufree.optim import MuAdamW_ScheduleFree, MuRAdam_ScheduleFree, MuScheduleFreeWrapper, MuSGD_ScheduleFree

WIDTH, BASE = 16, 8

Optimizer = Any  # the wrapper is no torch optimizer

MODAL: dict[str, Callable[[Any], Optimizer]] = {
    "AdamW": partial(MuAdamW_ScheduleFree, lr=0.05, warmup_steps=4, weight_decay=0.1),
    "AdamWPaper": partial(MuAdamW_ScheduleFree, impl=schedulefree.AdamWScheduleFreePaper, lr=0.05),
    "AdamWReference": partial(MuAdamW_ScheduleFree, impl=schedulefree.AdamWScheduleFreeReference, lr=0.05),
    "SGD": partial(MuSGD_ScheduleFree, lr=0.1, warmup_steps=4, weight_decay=0.1),
    "SGDReference": partial(MuSGD_ScheduleFree, impl=schedulefree.SGDScheduleFreeReference, lr=0.1),
    "RAdam": partial(MuRAdam_ScheduleFree, lr=0.05),
    "Wrapper(SGD)": partial(MuScheduleFreeWrapper, base=torch.optim.SGD, lr=0.1),
    "Wrapper(AdamW)": partial(MuScheduleFreeWrapper, base=torch.optim.AdamW, lr=0.05),
    "WrapperReference": partial(
        MuScheduleFreeWrapper, base=torch.optim.SGD, impl=schedulefree.ScheduleFreeWrapperReference, lr=0.1
    ),
}
"""With train() and eval()."""

CLOSURE: dict[str, Callable[[Any], Optimizer]] = {
    "AdamWClosure": partial(MuAdamW_ScheduleFree, impl=schedulefree.AdamWScheduleFreeClosure, lr=0.05),
    "SGDClosure": partial(MuSGD_ScheduleFree, impl=schedulefree.SGDScheduleFreeClosure, lr=0.1),
    "RAdamClosure": partial(MuRAdam_ScheduleFree, impl=schedulefree.RAdamScheduleFreeClosure, lr=0.05),
}
"""Whose weights are at x outside step()."""

VARIANTS = MODAL | CLOSURE


class Net(nn.Module):
    """BatchNorm, dropout, a parameter that never gets a gradient, and one that is frozen."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.2)
        self.hidden = nn.Linear(width, width)
        self.readout = mup.MuReadout(width, 2)
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.readout(torch.tanh(self.hidden(self.drop(torch.relu(self.norm(self.first(inputs)))))))


def net(width: int = WIDTH, seed: int = 0) -> Net:
    torch.manual_seed(seed)
    model = Net(width)
    mup.set_base_shapes(model, Net(BASE), delta=Net(2 * BASE))
    return model


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    return torch.randn(8, 3, generator=generator), torch.randn(8, 2, generator=generator)


def train(
    model: nn.Module, optimizer: Optimizer, steps: Sequence[int], after: Callable[[], object] | None = None
) -> None:
    """Take the numbered steps; `after` is called after each. Puts the optimizer in train mode first, as one should."""
    model.train()
    if hasattr(optimizer, "train"):
        optimizer.train()
    for step in steps:
        inputs, targets = batch(step)

        def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
            optimizer.zero_grad()
            loss = (model(inputs) - targets).square().mean()
            loss.backward()
            return loss

        if hasattr(optimizer, "train"):
            closure()
            optimizer.step()
        else:
            optimizer.step(closure)
        if after is not None:
            after()


def bits(model: nn.Module, optimizer: Optimizer) -> list[Any]:
    """All that training goes on from, as copies: weights, buffers, flags, state and groups.

    Without empty entries of the state, which the packages' train() and eval() make for parameters without gradients.
    """
    state = optimizer.state_dict()
    return [
        {name: value.clone() for name, value in model.state_dict().items()},
        {name: module.training for name, module in model.named_modules()},
        {key: {k: _copied(v) for k, v in values.items()} for key, values in state["state"].items() if values},
        [dict(group) for group in state["param_groups"]],
        getattr(optimizer, "train_mode", None),
    ]


def same(first: Any, second: Any) -> bool:
    """Equality to the bit, of containers of tensors too."""
    if isinstance(first, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value

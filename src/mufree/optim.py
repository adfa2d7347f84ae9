"""Schedule-free optimizers under µP: parameter groups, constructors, evaluation at x.

Needs torch, mup and schedulefree alone. The order is always: base shapes, initialisation, optimizer.

    model = mup.set_base_shapes(MyModel(width=1024), MyModel(width=64), delta=MyModel(width=128))
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=2**-8, warmup_steps=100)
    optimizer.train()
    ...
    with evaluating(optimizer, model):  # weights at x, the average
        loss = ...

How an optimizer is scaled (Yang et al. 2022, tables 3 and 8), with m the width multiplier `infshape.width_mult()`:

    kind                             family "adam"      family "sgd"
    matrix-like, two infinite dims   lr / m             lr / (fan-in m / fan-out m)
    vector-like, one infinite dim    lr                 lr · m
    no infinite dim                  lr                 lr
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

Family = Literal["adam", "sgd"]
Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class BaseShapesError(ValueError):
    """A parameter has no µP base shape, or one that no rule covers."""


def lr_multiplier(parameter: Tensor, family: Family = "adam") -> float:
    """The factor by which µP multiplies a parameter's learning rate; 1.0 at base width.

    `parameter` carries `infshape`, as `mup.set_base_shapes` leaves it. Raises `BaseShapesError` where it doesn't, or where
    more than two of its dimensions grow with width. Source: Yang et al. 2022, table 8.
    """
    infshape = getattr(parameter, "infshape", None)
    if infshape is None:
        raise BaseShapesError(
            f"A parameter of shape {tuple(parameter.shape)} has no `infshape`. Call mup.set_base_shapes(model, base, "
            "delta=...) first, then initialise, then make the optimizer; copy.deepcopy of a model loses it."
        )
    infinite = infshape.ninf()
    if infinite > 2:
        raise BaseShapesError(
            f"A parameter of shape {tuple(parameter.shape)} has {infinite} dimensions that grow with width; µP has rules "
            "for at most 2. Reshape it, or keep the others fixed."
        )
    if infinite == 0:
        return 1.0
    if family == "adam":
        return 1.0 / float(infshape.width_mult()) if infinite == 2 else 1.0
    if infinite == 1:
        return float(infshape.width_mult())
    return 1.0 / float(infshape.fanin_fanout_mult_ratio())


def mup_param_groups(
    params: Params,
    *,
    lr: float,
    weight_decay: float = 0.0,
    family: Family = "adam",
    decay: Literal["coupled", "unscaled"] = "coupled",
) -> list[dict[str, Any]]:
    """New parameter groups with µP's learning rates; the input is never changed.

    `params` is what a torch optimizer takes: parameters, (name, parameter) pairs, or group dicts with a learning rate, a
    weight decay or other keys of their own, which are kept. Each input group becomes one group for each multiplier among
    its parameters, in order of first appearance; none is empty. Frozen parameters (`requires_grad=False`) are kept, as
    torch keeps them, and a parameter that occurs twice in a group (tied weights) is kept once.

    `decay` says what becomes of the weight decay where the learning rate is multiplied by c. Both AdamW and schedule-free
    AdamW shrink weights by lr · weight_decay a step, so
      - "coupled" divides weight_decay by c: the shrinking per step does not depend on width;
      - "unscaled" leaves weight_decay alone: the shrinking falls as c does (`decoupled_wd=True` in mup's repository).

    Raises `BaseShapesError` for parameters without usable base shapes and `ValueError` for an empty list.
    """
    new_groups: list[dict[str, Any]] = []
    for group in _as_groups(params):
        base_lr, base_decay = float(group.get("lr", lr)), float(group.get("weight_decay", weight_decay))
        by_multiplier: dict[float, dict[str, Any]] = {}
        seen: set[int] = set()
        for entry in group["params"]:
            parameter = entry[1] if isinstance(entry, tuple) else entry
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            factor = lr_multiplier(parameter, family)
            if factor not in by_multiplier:
                scaled_decay = base_decay / factor if decay == "coupled" else base_decay
                scaled = {"params": [], "lr": base_lr * factor, "weight_decay": scaled_decay}
                by_multiplier[factor] = {**group, **scaled}
            by_multiplier[factor]["params"].append(entry)
        new_groups.extend(by_multiplier.values())
    return new_groups


def _as_groups(params: Params) -> list[dict[str, Any]]:
    entries: list[Any] = list(params)
    if not entries:
        raise ValueError("The optimizer got an empty parameter list; was a generator used up before?")
    groups = entries if isinstance(entries[0], dict) else [{"params": entries}]
    # A single tensor is a legitimate value of "params"; a generator must be read once and not exhausted for others.
    return [
        {**group, "params": [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])}
        for group in groups
    ]


def MuAdamW(  # noqa: N802 (the name that mup gives it)
    params: Params, impl: type[Optimizer] = AdamW, decoupled_wd: bool = False, *, lr: float = 1e-3, **kwargs: Any
) -> Optimizer:
    """AdamW, or another Adam-like `impl` that decays by lr · weight_decay, with µP's groups.

    `decoupled_wd=False` keeps lr · weight_decay the same at all widths; True leaves weight_decay as it is given.
    """
    decay: Literal["coupled", "unscaled"] = "unscaled" if decoupled_wd else "coupled"
    # Weight decay is read here and not by `impl`, whose default may differ from zero (torch's AdamW has 0.01).
    weight_decay = kwargs.pop("weight_decay", 0.0)
    groups = mup_param_groups(params, lr=lr, weight_decay=weight_decay, decay=decay)
    return impl(groups, lr=lr, **kwargs)  # type: ignore[call-arg]


def MuAdamW_ScheduleFree(  # noqa: N802 (the name that the community gave it)
    params: Params,
    impl: type[Optimizer] = AdamWScheduleFree,
    decoupled_wd: bool = False,
    *,
    lr: float = 0.0025,
    **kwargs: Any,
) -> Optimizer:
    """Schedule-free AdamW (Defazio et al. 2024) with µP's groups.

    Multiplying a group's learning rate by a constant leaves ScheduleFree's averaging weights as they are, since they are
    ratios of learning rates of the same group: x stays the same average at every width.
    """
    return MuAdamW(params, impl=impl, decoupled_wd=decoupled_wd, lr=lr, **kwargs)


def warmup_factor(schedule: Literal["cosine", "constant"], step: int, warmup_steps: int, steps: int) -> float:
    """The factor on the learning rate at `step` (0, 1, …, steps − 1): a linear warm-up, then the schedule.

    The warm-up is (step + 1) / warmup_steps, as ScheduleFree has it. "cosine" falls to zero at `steps`.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps)))


def is_schedule_free(optimizer: Optimizer) -> bool:
    """Whether the optimizer keeps two sets of weights, y to train at and x to evaluate at."""
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


@contextmanager
def evaluating(optimizer: Optimizer, model: nn.Module, batches: Iterable[Tensor] | None = None) -> Iterator[None]:
    """Put the model in eval mode and, for a schedule-free optimizer, its weights at x; restore exactly what was there.

    `batches` are model inputs, by which BatchNorm's statistics are computed anew at x: those collected in training belong
    to y. For other optimizers this is `model.eval()` and `batches` is not read. Afterwards, also after an exception, weights
    and buffers have the bits they had: the package's own `eval()` and `train()` interpolate there and back, which changes
    bits, so that how often one looks would change what is trained.
    """
    training = model.training
    if not is_schedule_free(optimizer) or not _at_y(optimizer):
        model.eval()
        try:
            yield
        finally:
            model.train(training)
        return
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    saved_weights = [p.detach().clone() for p in weights]
    saved_buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        if batches is not None:
            recompute_batchnorm(model, batches)
        model.eval()
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        with torch.no_grad():
            for parameter, value in zip(weights, saved_weights, strict=True):
                parameter.copy_(value)
            for name, buffer in model.named_buffers():
                buffer.copy_(saved_buffers[name])
        model.train(training)


def _at_y(optimizer: Optimizer) -> bool:
    return any(group.get("train_mode", False) for group in optimizer.param_groups)


@torch.no_grad()
def recompute_batchnorm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set every BatchNorm's running statistics to the mean over `batches` (model inputs) at the weights as they are.

    Does nothing for a model without BatchNorm. Leaves the model in train mode.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative mean
    model.train()
    for inputs in batches:
        model(inputs)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum

"""Checkpoints that other programs write: weights at x, and in the optimizer's state dict what training goes on from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from mufree.optim.base_shapes import plain_buffers
from mufree.optim.batches import Forward
from mufree.optim.evaluation import (
    Optimizers,
    Snapshot,
    evaluating,
    is_schedule_free,
    listed,
    set_train_mode,
    training_snapshot,
    weights_of,
)

KEY = "training"
"""Of an optimizer's first group: the mode, the weights and the buffers with which training goes on."""


@contextmanager
def saving(
    optimizer: Optimizers, model: nn.Module, batches: Iterable[Any] | None = None, forward: Forward | None = None
) -> Iterator[None]:
    """`evaluating`, for what saves a model's and an optimizer's state dicts by itself: `resume` goes on from them to the bit.

    Within, the optimizers' state dicts also hold what training goes on from (y can't be had from x and z to the bit). Such a
    state dict has weights in it that are made for one model: it is as large as a model more.

    Takes and raises what `evaluating` does.
    """
    optimizers = listed(optimizer)
    with evaluating(optimizers, model, batches, forward):
        marked = []
        for each in optimizers:
            snapshot = training_snapshot(each)
            if snapshot is not None and not _is_marked(each, snapshot):
                each.param_groups[0][KEY] = _what_training_needs(snapshot, model)
                marked.append(each)
        try:
            yield
        finally:
            for each in marked:
                each.param_groups[0].pop(KEY, None)  # gone if a state was loaded meanwhile


def resume(optimizer: Optimizers, model: nn.Module) -> None:
    """Put schedule-free optimizers into train mode; those whose state was loaded from a save inside `saving`, to the bit.

    The model gets the weights and buffers that training had. Call it when optimizer and model are loaded. For other
    optimizers nothing happens. Raises ValueError for a state that doesn't fit.
    """
    for each in listed(optimizer):
        kept = each.param_groups[0].pop(KEY, None)
        if kept is not None:
            go_on_from(kept, each, model)
        if is_schedule_free(each):
            each.train()  # type: ignore[attr-defined]


def rest(
    optimizer: Optimizers, model: nn.Module, batches: Iterable[Any] | None = None, forward: Forward | None = None
) -> None:
    """Put the weights at x, and BatchNorm's statistics if there are `batches`, for good; `resume` goes on to the bit.

    What training goes on from is kept in memory of the CPU, with the optimizer.
    """
    optimizers = listed(optimizer)
    with saving(optimizers, model, batches, forward):
        at_x = {name: value.detach().clone() for name, value in model.state_dict().items()}
        kept = [(each, each.param_groups[0][KEY]) for each in optimizers if KEY in each.param_groups[0]]
    for each, training in kept:
        set_train_mode(each, False if is_schedule_free(each) else None)
        each.param_groups[0][KEY] = tree_map_only(Tensor, Tensor.cpu, training)
    model.load_state_dict(at_x)


def forget(optimizer: Optimizers) -> None:
    """Let `resume` go on from the model's weights, not from those that `rest` has kept."""
    for each in listed(optimizer):
        each.param_groups[0].pop(KEY, None)


def _is_marked(optimizer: Optimizer, snapshot: Snapshot) -> bool:
    """Whether it is there already, by an outer `saving` or since the optimizer is at rest."""
    kept = optimizer.param_groups[0].get(KEY)
    return kept is not None and (kept["weights"] is snapshot.weights or not snapshot.train_mode)


def _what_training_needs(snapshot: Snapshot, model: nn.Module) -> dict[str, Any]:
    saved = {id(buffer): value for _, _, buffer, value in snapshot.buffers}
    buffers = plain_buffers(model)
    return {
        "train_mode": snapshot.train_mode,
        "weights": snapshot.weights,
        "buffers": {name: saved[id(buffer)] for name, buffer in buffers.items() if id(buffer) in saved},
    }


@torch.no_grad()
def go_on_from(kept: Mapping[str, Any], optimizer: Optimizer, model: nn.Module) -> None:
    """Put back the mode, weights and buffers with which training goes on. Raises ValueError where the weights don't fit."""
    weights = weights_of(optimizer)
    if [each.shape for each in weights] != [each.shape for each in kept["weights"]]:  # copy_ would broadcast
        raise ValueError(
            f"The state of the {type(optimizer).__name__} was saved with other parameters, or with its parameters in another "
            "order"
        )
    for weight, value in zip(weights, kept["weights"], strict=True):
        weight.copy_(value)
    buffers = plain_buffers(model)
    for name, value in kept["buffers"].items():
        if name in buffers and buffers[name].shape == value.shape:
            buffers[name].copy_(value)
    set_train_mode(optimizer, kept["train_mode"])

"""Running a model on what a data loader gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils.rnn import PackedSequence

Forward = Callable[[nn.Module, Any], object]
"""Runs a model on a batch."""


def run_on(model: nn.Module, batch: Any, forward: Forward | None = None) -> Any:
    """What a model returns for a batch, which is one of these, or anything that `forward(model, batch)` knows how to run on:

      - a tensor, the model's input;
      - a tuple or list whose first element is the input, a tensor or a dict, such as (inputs, targets);
      - a dict of the model's inputs by name. Those that its `forward` doesn't take, such as labels, are left out.

    Batches aren't moved to the model's device. Raises `TypeError` for any other batch, naming what came.
    """
    if forward is not None:
        return forward(model, batch)
    # A packed sequence is a tuple, of tensors that are no input by themselves.
    pair = isinstance(batch, tuple | list) and not isinstance(batch, PackedSequence) and len(batch) > 0
    inputs = batch[0] if pair else batch
    if isinstance(inputs, Tensor | PackedSequence):
        return model(inputs)
    if isinstance(inputs, Mapping):
        return model(**_taken(model, inputs))
    came = f"{torch.typename(batch)} that begins with {torch.typename(inputs)}" if pair else torch.typename(batch)
    raise TypeError(
        "A batch has to be a tensor, a tuple or list that begins with the inputs, or a dict of inputs by name, got "
        f"{came}. Give forward=lambda model, batch: model(...), which runs the model on it."
    )


def _taken(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that the model's `forward` has a parameter for."""
    parameters = inspect.signature(_bare(model).forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(inputs)
    taken = {name: value for name, value in inputs.items() if name in parameters}
    if not taken:
        raise TypeError(
            f"The model's forward takes {', '.join(parameters)}, and the batch is a dict of {', '.join(map(str, inputs))}. "
            "Give forward=lambda model, batch: model(...), which runs the model on it."
        )
    return taken


def _bare(model: nn.Module) -> nn.Module:
    """Without torch.compile and DDP, whose `forward` takes anything."""
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        else:
            return model

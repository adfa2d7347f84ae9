"""Trials side by side: those that differ in rate, seed and settings of the optimizer alone, on the user's unedited model.

Not every model can be: `torch.vmap` has no rule for what depends on the values of tensors, and what draws random numbers would
draw others than by itself. `check` finds out, by a step.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.utils import _pytree as trees

from mufree.lab.train.many import Many
from mufree.lab.train.side_by_side import taken
from mufree.lab.train.updates import UPDATES, Weights
from mufree.lab.tune.functions import Functions
from mufree.lab.tune.randomness import random_state, seed_all, set_random_state
from mufree.study.config import OptimizerSettings
from mufree.study.trials import Trial

BATCHNORM_BATCHES = 8
"""Training batches by which BatchNorm's statistics are computed anew before an evaluation."""
LOSS_APART, GRADIENT_APART, BUFFER_APART = 1e-3, 2e-2, 1e-2
"""Relative differences that rounding may make in one step; a model that goes on otherwise side by side differs by more."""


class CannotStackError(Exception):
    """Trials that can't be trained side by side; the message says why."""


def groups(trials: Sequence[Trial]) -> list[list[Trial]]:
    """The trials that could be trained side by side, in order of first appearance."""
    found: dict[Hashable, list[Trial]] = {}
    for trial in trials:
        found.setdefault(shape(trial) if trial.method.optimizer in UPDATES else trial, []).append(trial)
    return list(found.values())


def shape(trial: Trial) -> Trial:
    """A trial without what may differ between those side by side."""
    return trial.model_copy(update={"log2_lr": 0.0, "seed": 0, "optimizer": OptimizerSettings()})


def model_of(trial: Trial, functions: Functions) -> nn.Module:
    """A trial's model as it starts, on the CPU."""
    return functions.model(trial.width, trial.base_width, trial.seed, trial.method.parametrization)


class Trials(Many):
    """The live parts of N trials that differ as `groups` has it."""

    at_y = False  # nobody asks

    def __init__(self, trials: Sequence[Trial], functions: Functions, device: torch.device) -> None:
        self.functions, self.data_digest = functions, trials[0].functions
        super().__init__(trials, device, partial(model_of, functions=functions), functions.objective)
        self.name = f"a stack of {len(trials)} trials at width {trials[0].width}"

    def _read_data(self) -> None:
        first = BATCHNORM_BATCHES if self.networks.batchnorms else 0
        self.streams = [Stream(self.functions, seed, self.device, first) for seed in self.seeds]
        self.valid = self.streams[0].valid
        self.batchnorm_batches = [_together(part) for part in zip(*(s.first for s in self.streams), strict=True)]

    def _skip_to(self, step: int) -> None:
        for stream in self.streams:
            stream.skip_to(step)

    def batch(self, at: Tensor) -> Any:
        """The next batch of each seed, [S, …]."""
        return _together([next(stream) for stream in self.streams])


class Stream:
    """What trials of a seed learn from, drawn with the random numbers that it has when one is trained by itself.

    A data loader without a generator of its own shuffles by those.
    """

    def __init__(self, functions: Functions, seed: int, device: torch.device, first: int) -> None:
        self.functions, self.seed, self.device = functions, seed, device
        seed_all(seed)
        self.valid = functions.valid(device)
        self.first = list(islice(functions.batches(seed, device), first))
        self.start = random_state(device)
        self.skip_to(0)

    def skip_to(self, step: int) -> None:
        """Go on with the batches that come after so many steps."""
        self.state, self.batches = self.start, self.functions.batches(self.seed, self.device, step)

    def __next__(self) -> Any:
        set_random_state(self.state)
        batch = next(self.batches)
        self.state = random_state(self.device)
        return batch


def _together(batches: Sequence[Any]) -> Any:
    """Batches of the same shapes as one, [S, …]. Raises one of several errors for others."""
    return trees.tree_map(lambda *parts: torch.stack(parts), *batches)


# --- which models can be trained so ----------------------------------------------------------------------------------


def check(trials: Sequence[Trial], functions: Functions, device: torch.device) -> None:
    """Raises `CannotStackError` unless two of the trials begin side by side as they do one by one."""
    pair = trials[0], next((trial for trial in trials if trial.seed != trials[0].seed), trials[1])
    try:
        stack = Trials(pair, functions, device)
        networks, valid = stack.networks, stack.valid[:1]
        with torch.no_grad():
            valid_losses, _ = networks.score(networks.weights, networks.buffers, valid)
        networks.network.train()
        batches = taken(stack.batch(stack.cursor), stack.seed_of)
        losses = networks.losses(batches)
        gradients = networks.gradients(losses)
    except Exception as error:
        raise CannotStackError(first_line(error)) from error
    for place, trial in enumerate(pair):
        model = model_of(trial, functions).to(device)
        before = random_state(device)
        with torch.no_grad():
            valid_loss = functions.checked_loss(model.eval(), valid[0])
        loss = functions.checked_loss(model.train(), trees.tree_map(lambda part, place=place: part[place], batches))
        loss.backward()  # type: ignore[no-untyped-call]
        if not _same(before, random_state(device)):
            raise CannotStackError("the model or the loss draws random numbers")
        _check_close("validation loss", float(valid_loss), float(valid_losses[place]))
        _check_close("loss", float(loss.detach()), float(losses[place].detach()))
        _check_tensors(
            model,
            {name: gradient[place] for name, gradient in gradients.items()},
            {name: buffer[place] for name, buffer in networks.buffers.items()},
        )


def _same(one: Any, other: Any) -> bool:
    """Whether two of what `random_state` gives are the same."""
    if isinstance(one, tuple):
        return all(map(_same, one, other))
    return bool(np.array_equal(one, other))


def _check_close(what: str, alone: float, beside: float) -> None:
    if not abs(alone - beside) <= LOSS_APART * abs(alone):
        raise CannotStackError(f"the {what} is {alone:.6g} by itself and {beside:.6g} side by side")


def _check_tensors(model: nn.Module, gradients: Weights, buffers: Weights) -> None:
    """Raises `CannotStackError` where gradients or buffers differ from those that a model has by itself."""
    own = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    apart = [own[name] - gradients[name] for name in own if name in gradients]
    if own.keys() != gradients.keys() or not get_total_norm(apart) <= GRADIENT_APART * get_total_norm(own.values()):
        raise CannotStackError("gradients side by side are others")
    for name, buffer in model.named_buffers():
        if not torch.allclose(buffer.double(), buffers[name].double(), rtol=BUFFER_APART, atol=1e-5):
            raise CannotStackError(f"the buffer {name} is another side by side")


def first_line(error: BaseException) -> str:
    """What an error, or the one that a user's function raised, says first."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {next(iter(str(cause).splitlines()), '')}"

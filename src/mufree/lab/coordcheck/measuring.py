"""Train a model at several widths, and record what its modules put out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mufree.lab.coordcheck.calls import (
    CheckError,
    UserFunctionError,
    call_model,
    default_loss,
    made,
    raised_by,
    seeded,
)
from mufree.lab.coordcheck.layers import module_layers
from mufree.lab.coordcheck.recording import Recorder, Seen
from mufree.optim import evaluating, is_schedule_free

At = Literal["y", "x"]
Batch = tuple[Any, Any]
"""Inputs and targets; inputs are a tensor, or a tuple, list or dict of them."""


def coord_check(
    make_model: Callable[[int, int], nn.Module] | Callable[[int], nn.Module],
    make_optimizer: Callable[[nn.Module], Optimizer],
    widths: Sequence[int],
    batch: Batch | Callable[[int], Batch],
    *,
    loss: Callable[[Any, Any], Tensor] = default_loss,
    model_loss: Callable[[nn.Module, Any], Tensor] | None = None,
    steps: int = 10,
    seeds: int | Sequence[int] = 5,
    at: Iterable[At] = ("y", "x"),
    skip: Sequence[str] = (),
) -> pd.DataFrame:
    """Train on one fixed batch at each width and seed; record the output of every module that owns parameters itself.

    `make_model(width, seed)` returns an initialised model; torch is seeded before `make_model(width)`. `make_optimizer(model)`
    returns its optimizer. `batch` is (inputs, targets) or a function of the seed that returns them; inputs that are a dict,
    tuple or list are given as arguments (`calls.call_model`). `loss(outputs, targets)` takes what the model returns
    (`calls.default_loss`). `model_loss(model, batch)`, if given, takes the place of both: it runs the model on a batch of any
    kind and gives the loss. `seeds` is a number or a list. `skip` are patterns as in a shell of names of modules to
    leave out.

    One row for each (width, seed, step = 0…steps, module, at): `layer`, the layer type (`layers.layer_type`); `mean_abs`, the
    mean of |h| over the batch and all coordinates; `mean_abs_change`, that of |h_t − h_0|; `relative`, the relative
    representation change. h is the first floating-point tensor of what the module returns; a module without one has no row,
    nor has one that is not called, nor the model as a whole. One that is called n > 1 times has rows `name`, …, `name#n−1`.
    For an optimizer that is not schedule-free x and y are the same weights, and their rows are equal.

    The change of a readout is what it has learnt, |(W_t − W_0)·x_t|, with its bias, and times what the module or a hook on it
    multiplies its input or output by. That is |h_t − h_0| where it starts at zero. Where it starts at random, or is tied to an
    embedding, W_0·x falls as width^-½ under µP and would hide what is learnt; there the mean weighs each coordinate by
    |∂loss/∂h| at y. With many classes most of a plain mean is what each example adds to the others' classes by chance, and that
    too falls as width^-½, until networks are far wider than there are examples.

    The relative representation change is ‖ΔW·X‖ / ‖W·X‖ (Everett et al. 2024) for Linear, Conv2d and Embedding, without their
    bias: X, W and ΔW = W_t − W_0 are those of step t, and the norms are over the batch and all coordinates. It is NaN for other
    modules and where W·X is zero; a layer that starts at zero has 1 from its first update on.

    The model stays in train mode, at x too: BatchNorm then normalises by the statistics of the batch at the very weights
    that are measured, whereas its running statistics are those of earlier ones. Measuring does not change what is trained.
    Models with dropout have to be made without it, since its noise is no change of a weight.

    Raises `CheckError`, a ValueError, for what can't be checked, such as fewer than two widths (which dimensions grow is read
    from the first two) or a loss that starts as NaN; `UserFunctionError` for what a given function, or the model, raises.
    """
    widths, at = list(widths), tuple(at)
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    _check_numbers(widths, seeds, steps)
    make = seeded(make_model)
    objective = Objective.of_outputs(loss) if model_loss is None else Objective(model_loss, model_loss)
    layers = module_layers(*(made(make, width, seeds[0]) for width in widths[:2]))
    layers = _without(layers, skip)
    rows: list[dict[str, Any]] = []
    for width in widths:
        for seed in seeds:
            model = made(make, width, seed)
            try:
                training = _training(model, make_optimizer, batch, seed, objective, layers)
                rows.extend({"width": width, "seed": seed, **row} for row in training.rows(steps, at, layers))
            except (CheckError, UserFunctionError) as error:
                raise type(error)(f"at width {width}, seed {seed}: {error}") from error.__cause__
    if not rows:
        raise CheckError(f"the model calls none of its modules that own parameters: {', '.join(layers)}")
    return pd.DataFrame(rows)


def _check_numbers(widths: list[int], seeds: list[int], steps: int) -> None:
    if len(set(widths)) < 2 or len(set(widths)) < len(widths):
        raise CheckError(f"widths must be two or more different ones, got {widths}")
    if min(widths) < 1:
        raise CheckError(f"widths must be above 0, got {widths}")
    if not seeds:
        raise CheckError("seeds must be one or more")
    if steps < 0:
        raise CheckError(f"steps must not be below 0, got {steps}")


def _without(layers: dict[str, str], skip: Sequence[str]) -> dict[str, str]:
    """The modules that no pattern names. Raises `CheckError` for a pattern that names none, and if nothing is left."""
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise CheckError(
                f"skip '{pattern}' is the name of no module; those that own parameters: {', '.join(layers)}"
            )
    kept = {name: layer for name, layer in layers.items() if not any(fnmatchcase(name, each) for each in skip)}
    if not kept:
        raise CheckError(f"skip {', '.join(skip)} leaves no module to check")
    return kept


def _training(
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], Optimizer],
    batch: Batch | Callable[[int], Batch],
    seed: int,
    objective: Objective,
    layers: dict[str, str],
) -> _Training:
    found: Any = batch
    if callable(batch):
        with raised_by("make_batch"):
            found = batch(seed)
    if objective.takes_pairs and not (isinstance(found, tuple | list) and len(found) == 2):
        raise CheckError(f"a batch must be (inputs, targets), and is {type(found).__name__}")
    with raised_by("the function that makes the optimizer"):
        optimizer = make_optimizer(model)
    missing = layers.keys() - {name for name, _ in model.named_modules()}
    if missing:
        raise CheckError(f"models of all widths must have the same modules; one has no {min(missing)}")
    return _Training(model, optimizer, found, objective, Recorder(model, layers))


@dataclass(frozen=True)
class Objective:
    """What is done with a model and a batch."""

    forward: Callable[[nn.Module, Any], object]
    """Runs the model, and no more than that where it can be had."""
    loss: Callable[[nn.Module, Any], Tensor]
    takes_pairs: bool = False

    @classmethod
    def of_outputs(cls, loss: Callable[[Any, Any], Tensor]) -> Objective:
        """For batches (inputs, targets), and a loss of outputs and targets."""

        def forward(model: nn.Module, batch: Any) -> Any:
            with raised_by("the model's forward"):
                return call_model(model, batch[0])

        return cls(forward, lambda model, batch: loss(forward(model, batch), batch[1]), takes_pairs=True)


@dataclass
class _Training:
    """A model and its optimizer on one fixed batch, with what was last measured at each place."""

    model: nn.Module
    optimizer: Optimizer
    batch: Any
    objective: Objective
    recorder: Recorder
    measured: dict[str, dict[str, Seen]] = field(default_factory=dict)

    def rows(self, steps: int, at: Sequence[At], layers: dict[str, str]) -> Iterator[dict[str, Any]]:
        """Train `steps` steps and yield the rows of every step, 0…steps."""
        self.model.train()
        at_y_within_step = _needs_closure(self.optimizer)
        schedule_free = is_schedule_free(self.optimizer)
        if schedule_free:
            self.optimizer.train()  # type: ignore[attr-defined]
        start: dict[str, dict[str, Seen]] = {}
        for step in range(steps + 1):
            if at_y_within_step:
                self._measure_x()
                self._step(self._forward_and_backward)  # one too many, since y can't be had without
            else:
                self._forward_and_backward()  # before the weights go to x, where y's graph is void
                if not schedule_free:
                    self.measured["x"] = self.measured["y"]
                elif "x" in at:
                    self._measure_x()
            for place in at:
                seen = self.measured[place]
                for name, row in _rows(step, seen, start.setdefault(place, seen), self.recorder.pull).items():
                    yield {"step": step, "module": name, "layer": layers[name.partition("#")[0]], "at": place, **row}
            if step < steps and not at_y_within_step:
                self._step()

    def _forward_and_backward(self) -> Tensor:
        first = "y" not in self.measured
        # The forward pass of training is the measurement at y.
        with self.recorder.recorded() as seen, raised_by("the loss"):
            found = self.objective.loss(self.model, self.batch)
        self.measured["y"] = seen
        if not isinstance(found, Tensor) or found.numel() != 1:
            raise CheckError("the loss must return a tensor of one number")
        if first and not found.isfinite().all():
            raise CheckError(f"the loss is {found.item()} before the first step; look at model, batch and loss")
        with raised_by("the loss's backward pass"):
            self.optimizer.zero_grad()
            found.backward()  # type: ignore[no-untyped-call]
        return found

    def _measure_x(self) -> None:
        # `evaluating` gives weights and buffers back to the bit; the random state is ours to keep.
        with evaluating(self.optimizer, self.model), self.recorder.quietly(), torch.no_grad():
            self.model.train()
            with self.recorder.recorded() as seen, raised_by("the model's forward"):
                self.objective.forward(self.model, self.batch)
        self.measured["x"] = seen

    def _step(self, *closure: Callable[[], Tensor]) -> None:
        with raised_by("the optimizer's step"):
            self.optimizer.step(*closure)  # type: ignore[arg-type]


def _rows(
    step: int, seen: dict[str, Seen], start: dict[str, Seen], pull: dict[str, Tensor]
) -> dict[str, dict[str, float]]:
    """What is measured of each call of a module; `start` is what was seen at step 0."""
    rows = {}
    for name, (h, relative, learnt) in seen.items():
        if name not in start or start[name].output.shape != h.shape:
            raise CheckError(f"{name} puts out something of another shape at step {step} than at step 0; skip it")
        change = (
            (h - start[name].output).abs().mean() if learnt is None else _weighted_mean(learnt.abs(), pull.get(name))
        )
        rows[name] = {"mean_abs": h.abs().mean().item(), "mean_abs_change": change.item(), "relative": relative}
    return rows


def _weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Plain where there are no weights, or all are zero: no gradient reaches a router behind a readout of zeros."""
    if weights is None or not weights.any():
        return values.mean()
    return (values * weights).sum() / weights.sum()


def _needs_closure(optimizer: Optimizer) -> bool:
    """Whether `step` can't be called without a closure; schedulefree's closure variants are at y within it alone."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty

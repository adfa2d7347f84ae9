"""The coordinate check: sizes and changes of activations against width, for any model and any optimizer.

Under µP the entries of every activation, and how far a few steps move them, don't depend on width (Yang et al. 2022, appendix
D.1). For a schedule-free optimizer that must hold twice: at y, where gradients are taken, and at x, the average that is
evaluated. How much of a layer's output comes from what its weights have learnt is measured too, and not judged.

What is measured here, `analysis.coordcheck` judges.
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import mup
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from mufree import optim
from mufree.lab.data import Prepared
from mufree.lab.data.batches import Batch, train_batches
from mufree.lab.parametrization import classify
from mufree.lab.train.evaluate import cross_entropy
from mufree.lab.train.network import configure_torch, make_model, make_optimizer
from mufree.optim import evaluating, is_schedule_free
from mufree.study.config import CoordinateCheck, Method, Study
from mufree.study.plan import Run, checked, primary_run

log = logging.getLogger(__name__)

At = Literal["y", "x"]


def coord_check(
    make_model: Callable[[int, int], nn.Module],
    make_optimizer: Callable[[nn.Module], Optimizer],
    widths: Sequence[int],
    batch: Batch | Callable[[int], Batch],
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    steps: int = 10,
    seeds: int | Sequence[int] = 5,
    at: Iterable[At] = ("y", "x"),
) -> pd.DataFrame:
    """Train on one fixed batch at each width and seed; record the output of every module that owns parameters itself.

    `make_model(width, seed)` returns an initialised model, `make_optimizer(model)` its optimizer, `batch` is
    (inputs, targets) or a function of the seed that returns them, `seeds` a number or a list.

    One row for each (width, seed, step = 0…steps, module, at): `layer`, the layer type of the module's weight
    (`parametrization.layer_types`); `mean_abs`, the mean of |h| over the batch and all coordinates; `mean_abs_change`, that
    of |h_t − h_0|; `relative`, the relative representation change. A module called n > 1 times in a forward pass has rows
    `name`, `name#1`, …, `name#n−1`; one that the forward pass does not call has none, nor has the model as a whole. For an
    optimizer that is not schedule-free x and y are the same weights, and their rows are equal.

    The relative representation change is ‖ΔW·X‖ / ‖W·X‖ (Everett et al. 2024) for Linear, Conv2d and Embedding, without their
    bias: X, W and ΔW = W_t − W_0 are those of step t, and the norms are over the batch and all coordinates. It is NaN for other
    modules and where W·X is zero; a layer that starts at zero has 1 from its first update on.

    The model stays in train mode, at x too: BatchNorm then normalises by the statistics of the batch at the very weights
    that are measured, whereas its running statistics are those of earlier ones. Measuring does not change what is trained.
    Models with dropout have to be made without it, since its noise is no change of a weight.

    Raises ValueError for fewer than two widths: which dimensions grow is read from the first two.
    """
    widths, at = list(widths), tuple(at)
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if len(set(widths)) < 2 or len(set(widths)) < len(widths):
        raise ValueError(f"widths must be two or more different ones, got {widths}")
    layers = _module_layers(make_model(widths[0], seeds[0]), make_model(widths[1], seeds[0]))
    rows: list[dict[str, Any]] = []
    for width in widths:
        for seed in seeds:
            model = make_model(width, seed)
            inputs, targets = batch(seed) if callable(batch) else batch
            for row in _measured_training(model, make_optimizer(model), inputs, targets, loss, steps, at, layers):
                rows.append({"width": width, "seed": seed, **row})
    return pd.DataFrame(rows)


# --- of a model of one's own -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KnownOptimizer:
    """A constructor of `mufree.optim`, the learning rate it is checked at, and further settings.

    Adam's ε is 1e-12, so that it is the multipliers that are checked: 1e-8 can bite as gradients shrink with width.
    """

    constructor: str
    lr: float
    settings: dict[str, Any]


_ADAM = {"betas": (0.9, 0.99), "eps": 1e-12}
OPTIMIZERS = {
    "adamw": KnownOptimizer("MuAdamW", 2**-9, _ADAM),
    "adamw_schedulefree": KnownOptimizer("MuAdamW_ScheduleFree", 2**-9, _ADAM),
    "radam_schedulefree": KnownOptimizer("MuRAdam_ScheduleFree", 2**-9, _ADAM),
    "sgd_schedulefree": KnownOptimizer("MuSGD_ScheduleFree", 2**-3, {}),
}


class ModelFileError(ValueError):
    """A file of one's own that lacks what a check needs; the message says what."""


def check_file(
    target: str, optimizer: str, lr: float | None, loss: str | None, **settings: Any
) -> tuple[pd.DataFrame, str]:
    """`coord_check` of the model that a Python file makes, and words for its optimizer; `settings` are `coord_check`'s.

    `target` is FILE or FILE:FUNCTION, the function being `make_model` or one like it; the file defines `make_batch` too, and
    `optimizer` and `loss`, cross-entropy if None, may name others of its functions. Raises `ModelFileError` for what the file
    lacks and for an unknown optimizer, and `BaseShapesError`.
    """
    file, _, name = target.partition(":")
    module = _load(Path(file))
    model = _function(module, name or "make_model", "(width, seed), which returns a model with base shapes")
    batch = _function(module, "make_batch", "(seed), which returns (inputs, targets)")
    objective = _function(module, loss, "(outputs, targets), the loss") if loss else cross_entropy
    make, described = _optimizer(module, optimizer, lr)
    return coord_check(model, make, batch=batch, loss=objective, **settings), described


def _optimizer(module: ModuleType, name: str, lr: float | None) -> tuple[Callable[..., Any], str]:
    """The function that makes the optimizer, and words for it."""
    if name in OPTIMIZERS:
        known = OPTIMIZERS[name]
        constructor = getattr(optim, known.constructor)
        rate = known.lr if lr is None else lr
        return lambda model: constructor(model.parameters(), lr=rate, **known.settings), f"{name} at lr {rate:g}"
    names = ", ".join(OPTIMIZERS)
    if not callable(getattr(module, name, None)):
        raise ModelFileError(f"Unknown optimizer '{name}'. Known: {names}, or a function of {module.__file__}")
    if lr is not None:
        raise ModelFileError(f"--lr is for {names}; {name} of {module.__file__} sets its own")
    return getattr(module, name), name


def _load(path: Path) -> ModuleType:
    """The user's file as a module, which may import its neighbours."""
    if not path.is_file():
        raise ModelFileError(f"no file {path}")
    name = f"checked_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelFileError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent.resolve()))
    spec.loader.exec_module(module)
    return module


def _function(module: ModuleType, name: str, contract: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if not callable(found):
        raise ModelFileError(f"{module.__file__} has no function {name}{contract}")
    function: Callable[..., Any] = found
    return function


# --- of a study's task -----------------------------------------------------------------------------------------------

RADAM_STANDS_STILL = 4
"""Steps in which RAdam's rectification is zero: its ρ_t is at most t, and has to be above 4 (Liu et al. 2020)."""


def check_task(study: Study, task_name: str, prepared: Prepared) -> pd.DataFrame:
    """`coord_check` of every method of a study's task; columns `task` and `method` besides."""
    task = study.tasks[task_name]
    widths, methods = checked(study, task_name)
    frames = []
    found: dict[Method, pd.DataFrame] = {}
    for name, method in methods.items():
        if method not in found:
            found[method] = _check_run(
                primary_run(task_name, task, name, method), widths, task.coordinate_check, prepared
            )
        frames.append(found[method].assign(task=task_name, method=name))
        log.info("%s %s: widths %s", task_name, name, ", ".join(map(str, widths)))
    return pd.concat(frames)


def _check_run(run: Run, widths: list[int], settings: CoordinateCheck, prepared: Prepared) -> pd.DataFrame:
    """`coord_check` of a run's network and method at the widths given, and at the rate and seeds of the settings.

    Steps are counted from the last one before which no weight can have moved: schedule-free RAdam stands still at first.
    """
    configure_torch()
    # No warm-up and no schedule: ten steps at the full rate. In float32, since a slope is the network's and no rounding's.
    plain = run.training.model_copy(update={"warmup_fraction": 0.0, "precision": "float32"})
    still = RADAM_STANDS_STILL if run.method.optimizer == "radam_schedulefree" else 0
    run_of: dict[nn.Module, Run] = {}

    def model_of(width: int, seed: int) -> nn.Module:
        its_run = run.model_copy(update={"training": plain, "log2_lr": settings.log2_lr, "width": width, "seed": seed})
        model = make_model(its_run, prepared.classes)
        run_of.clear()  # one model is alive at a time
        run_of[model] = its_run
        return model

    def batch(seed: int) -> Any:
        size, context = settings.batch_size, run.model.context
        return next(train_batches(prepared, batch_size=size, context_length=context, seed=seed))

    frame = coord_check(
        model_of,
        lambda model: make_optimizer(run_of[model], model),
        widths,
        batch,
        steps=settings.steps + still,
        seeds=settings.seeds,
    )
    return frame[frame["step"] >= still].assign(step=lambda kept: kept["step"] - still)


# --- inside ----------------------------------------------------------------------------------------------------------


def _module_layers(narrow: nn.Module, wide: nn.Module) -> dict[str, str]:
    """Layer type of every module that owns parameters itself, by name; dimensions of width are those that differ."""
    infshapes = mup.zip_infshapes(narrow, wide)
    of_parameter = {id(p): infshapes[name] for name, p in narrow.named_parameters()}
    # `mup` knows a tied weight under its first name only, and the second is often the readout.
    every_name = {name: of_parameter[id(p)] for name, p in narrow.named_parameters(remove_duplicate=False)}
    layers: dict[str, str] = {}
    for name, layer in classify(narrow, every_name).items():
        module_name = name.rpartition(".")[0]
        # A model that holds a class token or the like puts out what its readout does.
        if module_name or not any(narrow.children()):
            layers.setdefault(module_name, layer)  # a module's first parameter is its weight
    return layers


def _measured_training(
    model: nn.Module,
    optimizer: Optimizer,
    inputs: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    at: Sequence[At],
    layers: dict[str, str],
) -> Iterator[dict[str, Any]]:
    """Train `steps` steps and yield the rows of every step, 0…steps."""
    measured: dict[str, dict[str, _Seen]] = {}
    initial = {name: w.detach().clone() for name in layers if (w := _weight(model.get_submodule(name))) is not None}

    def forward_and_backward() -> Tensor:
        with _recorded(model, layers, initial) as measured["y"]:  # the forward pass of training is the measurement at y
            objective = loss(model(inputs), targets)
        optimizer.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]
        return objective

    def measure_x() -> None:
        # `evaluating` gives weights and buffers back to the bit; the random state is ours to keep.
        devices = [inputs.device] if inputs.is_cuda else []
        with evaluating(optimizer, model), torch.random.fork_rng(devices), torch.no_grad():
            model.train()
            with _recorded(model, layers, initial) as measured["x"]:
                model(inputs)

    model.train()
    at_y_within_step = _needs_closure(optimizer)
    schedule_free = is_schedule_free(optimizer)
    if schedule_free:
        optimizer.train()  # type: ignore[attr-defined]
    start: dict[str, dict[str, _Seen]] = {}
    for step in range(steps + 1):
        if at_y_within_step:
            measure_x()
            optimizer.step(forward_and_backward)  # type: ignore[arg-type]  # one too many, since y can't be had without
        else:
            forward_and_backward()  # before the weights go to x, where y's graph is void
            if not schedule_free:
                measured["x"] = measured["y"]
            elif "x" in at:
                measure_x()
        for place in at:
            first = start.setdefault(place, measured[place])
            for name, (h, relative) in measured[place].items():
                yield {
                    "step": step,
                    "module": name,
                    "layer": layers[name.partition("#")[0]],
                    "at": place,
                    "mean_abs": h.abs().mean().item(),
                    "mean_abs_change": (h - first[name].output).abs().mean().item(),
                    "relative": relative,
                }
        if step < steps and not at_y_within_step:
            optimizer.step()


def _needs_closure(optimizer: Optimizer) -> bool:
    """Whether `step` can't be called without a closure; schedulefree's closure variants are at y within it alone."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


class _Seen(NamedTuple):
    """What one call of a module shows: its output, and its relative representation change or NaN."""

    output: Tensor
    relative: float


@contextmanager
def _recorded(model: nn.Module, names: Iterable[str], initial: dict[str, Tensor]) -> Iterator[dict[str, _Seen]]:
    """What the named modules show in the forward passes within, by name; in later calls under `name#1`, `name#2`, …

    `initial` are the initial weights of those that have a relative representation change.
    """
    seen: dict[str, _Seen] = {}

    def watch(name: str) -> Any:
        calls = 0

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal calls
            # A copy: a ReLU in place may follow. Recurrent layers return a tuple, the output first.
            h = output[0] if isinstance(output, tuple) else output
            relative = _relative_change(module, inputs[0], initial[name]) if inputs and name in initial else math.nan
            seen[f"{name}#{calls}" if calls else name] = _Seen(h.detach().float().clone(), relative)
            calls += 1

        return hook

    handles = [model.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _weight(module: nn.Module) -> Tensor | None:
    """The weight of a module that is linear in its input but for a bias; None for others."""
    return module.weight if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding) else None


def _relative_change(module: nn.Module, inputs: Tensor, initial: Tensor) -> float:
    """‖ΔW·X‖ / ‖W·X‖ of a module with inputs X, whose weight W was `initial`; NaN where both are zero."""
    weight = _weight(module)
    assert weight is not None

    def product(kernel: Tensor) -> Tensor:
        if isinstance(module, nn.Conv2d):
            convolved: Tensor = module._conv_forward(inputs, kernel, None)
            return convolved
        return F.embedding(inputs, kernel) if isinstance(module, nn.Embedding) else F.linear(inputs, kernel)

    with torch.no_grad():
        # Numbers that the inputs are multiplied by before, as µP's readout does, cancel.
        return float(product(weight - initial).norm() / product(weight).norm())

"""What a run trains: torch set up for it, its model with initial weights, and its optimizer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from mufree.lab import models
from mufree.lab.parametrization import layer_types, parametrize
from mufree.lab.train.startup import leave_dynamo_out
from mufree.optim import MuAdamW, MuAdamW_ScheduleFree, MuRAdam_ScheduleFree, MuSGD, MuSGD_ScheduleFree
from mufree.optim.groups import Params
from mufree.study import machine
from mufree.study.plan import Run

if TYPE_CHECKING:
    from mufree.study.trials import Trial

T = TypeVar("T")


def configure_torch(*, strict: bool = True) -> None:
    """One thread, deterministic kernels, no denormals: what every run has, and its bits depend on. Memory is kept, too.

    Unless `strict`, operations that have no deterministic kernel are no error: a model of one's own may need them.
    """
    torch.set_num_threads(1)
    machine.keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
    # What torch.use_deterministic_algorithms(True) does for eager code; that also imports inductor, for seconds.
    torch.set_deterministic_debug_mode("error" if strict else "default")
    # Else every new tensor is first filled with NaN.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    leave_dynamo_out()
    torch.set_flush_denormal(True)  # the squared gradients of unused embeddings decay into them, and they are slow


def make_model(run: Run, classes: int) -> nn.Module:
    """The run's model, parametrized and initialised from its seed. Its weights are float32 whatever the precision."""
    model = parametrize(
        partial(models.build, run.model, classes=classes),
        width=run.width,
        base_width=run.base_width,
        parametrization=run.method.parametrization,
        seed=run.seed,
    )
    vars(model)["compute_dtype"] = getattr(torch, run.training.precision)
    return model


def make_optimizer(run: Run | Trial, model: nn.Module) -> Optimizer:
    """The run's optimizer. Under SP every multiplier is 1, so both parametrizations take the same way."""
    settings = run.optimizer
    shared: dict[str, Any] = {
        "params": _parameters_with_rates(run, model),
        "lr": run.lr,
        "weight_decay": settings.weight_decay,
        "decoupled_wd": settings.weight_decay_scaling == "independent",
    }
    adam: dict[str, Any] = {"betas": (settings.beta1, settings.beta2), "eps": settings.eps}
    match run.method.optimizer:
        case "adamw_schedulefree":
            return MuAdamW_ScheduleFree(warmup_steps=run.warmup_steps, **adam, **shared)
        case "radam_schedulefree":
            return MuRAdam_ScheduleFree(**adam, **shared)
        case "sgd_schedulefree":
            return MuSGD_ScheduleFree(momentum=settings.beta1, warmup_steps=run.warmup_steps, **shared)
        case "adamw":
            return MuAdamW(fused=True, **adam, **shared)
        case "sgd":
            return MuSGD(fused=True, momentum=settings.beta1, **shared)


def by_layer(types: Mapping[str, str], values: Mapping[str, T]) -> dict[str, list[T]]:
    """Values that parameters have by name, by layer type, in the order of the parameters."""
    layers: dict[str, list[T]] = {}
    for name, value in values.items():
        layers.setdefault(types[name], []).append(value)
    return layers


def _parameters_with_rates(run: Run | Trial, model: nn.Module) -> Params:
    """The model's parameters; with embedding_lr "times_width", embedding layers as a group with a learning rate of its own."""
    if run.method.embedding_lr == "shared":
        return model.parameters()
    layers = by_layer(layer_types(model), dict(model.named_parameters()))
    embeddings = layers.pop("embedding", [])
    others = [parameter for parameters in layers.values() for parameter in parameters]
    groups: list[dict[str, Any]] = [
        {"params": embeddings, "lr": run.lr * run.width / run.base_width},
        {"params": others},
    ]
    return groups

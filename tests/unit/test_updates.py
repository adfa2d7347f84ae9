"""Steps of many networks at once against the optimizers that they stand for, step by step, at y and at x."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import schedulefree
import torch
from test_train import make_run
from torch import Tensor

from mufree.lab.train.updates import UPDATES, Columns, at_x, like
from mufree.study.plan import Run

STEPS = 60
RATES = (-3, -6, -9)


def real(name: str, weight: Tensor, run: Run) -> torch.optim.Optimizer:
    """The package's own optimizer, at the run's settings."""
    settings = run.optimizer
    decay, adam = settings.weight_decay, {"betas": (settings.beta1, settings.beta2), "eps": settings.eps}
    return {
        "adamw": lambda: torch.optim.AdamW([weight], lr=run.lr, weight_decay=decay, **adam),
        "sgd": lambda: torch.optim.SGD([weight], lr=run.lr, momentum=settings.beta1, weight_decay=decay),
        "adamw_schedulefree": lambda: schedulefree.AdamWScheduleFree(
            [weight], lr=run.lr, weight_decay=decay, warmup_steps=run.warmup_steps, **adam
        ),
        "sgd_schedulefree": lambda: schedulefree.SGDScheduleFree(
            [weight], lr=run.lr, momentum=settings.beta1, weight_decay=decay, warmup_steps=run.warmup_steps
        ),
    }[name]()


def runs_of(name: str, **settings: Any) -> list[Run]:
    method = {"adamw": "mup_adamw_ema", "sgd": "mup_sgd"}.get(name, f"mup_{name.removeprefix('adamw_')}")
    training = {"steps": STEPS, "evaluations": 2}
    return [
        make_run(method=method, log2_lr=rate, optimizer=settings, training=training, factors={"schedule": "constant"})
        for rate in RATES
    ]


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.3}, {"beta1": 0.6, "beta2": 0.95}])
def test_each_step_is_the_packages_own(name: str, settings: dict[str, float]) -> None:
    update, runs = UPDATES[name], runs_of(name, **settings)
    generator = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(5, 4, generator=generator), torch.randn(STEPS, 3, 5, 4, generator=generator)
    weights = [start.clone().requires_grad_() for _ in runs]
    optimizers = [real(name, weight, run) for weight, run in zip(weights, runs, strict=True)]
    stacked = start.expand(3, 5, 4).clone()
    state = {kind: stacked.clone() if kind == "z" else torch.zeros_like(stacked) for kind in update.state}
    scalars = torch.from_numpy(np.stack([update.scalars(run, np.arange(STEPS)) for run in runs], axis=-1)).float()
    column = {
        key: like(torch.tensor([getattr(run.optimizer, key) for run in runs]), stacked)
        for key in ("weight_decay", "beta1", "beta2", "eps")
    }
    rates = like(torch.tensor([run.lr for run in runs]), stacked)
    for step in range(STEPS):
        factor, *others = (like(row, stacked) for row in scalars[step])
        columns = Columns(
            rates * factor, column["weight_decay"], column["beta1"], column["beta2"], column["eps"], others
        )
        update.step(stacked, gradients[step].clone(), state, columns)
        for place, (weight, optimizer) in enumerate(zip(weights, optimizers, strict=True)):
            if hasattr(optimizer, "train"):
                optimizer.train()
            else:
                optimizer.param_groups[0]["lr"] = runs[place].lr * min(1.0, (step + 1) / runs[place].warmup_steps)
            weight.grad = gradients[step, place].clone()
            optimizer.step()
            torch.testing.assert_close(stacked[place], weight.detach(), rtol=1e-6, atol=1e-6)
    if "z" in update.state:
        x = at_x(stacked, state["z"], torch.tensor([run.optimizer.beta1 for run in runs]))
        for place, (weight, optimizer) in enumerate(zip(weights, optimizers, strict=True)):
            optimizer.eval()  # type: ignore[attr-defined]
            torch.testing.assert_close(x[place], weight.detach(), rtol=1e-6, atol=2e-6)
            assert not torch.allclose(x[place], stacked[place], atol=1e-3)  # x is not y

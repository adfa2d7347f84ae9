"""Made-up surfaces with a known optimum, and the rows and curves of a study that has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mufree.analysis.metrics.surface import Surface

START = 4.0
"""Loss at initialisation, nats."""


def parabolas(
    optima: Sequence[float],
    *,
    log2_lrs: Sequence[float] = tuple(range(-14, -3)),
    widths: Sequence[int] = (32, 64, 128, 256),
    floors: Sequence[float] | None = None,
    curvature: float = 0.05,
    seeds: int = 3,
    noise: NDArray[np.float64] | float = 0.0,
    cliff: float = np.inf,
) -> Surface:
    """loss[k, j, s] = floors[k] + curvature·(x_j − optima[k])² + noise; diverged more than `cliff` above the optimum."""
    widths = widths[: len(optima)]
    x = np.asarray(log2_lrs, float)
    gap = x - np.asarray(optima, float)[:, None]
    floor = np.ones(len(optima)) if floors is None else np.asarray(floors, float)
    shape = (len(widths), len(x), seeds)
    loss = np.broadcast_to((floor[:, None] + curvature * gap**2)[:, :, None], shape) + noise
    diverged = np.broadcast_to((gap > cliff)[:, :, None], shape)
    return make_surface(loss, widths=widths, log2_lrs=x, diverged=diverged)


def make_surface(
    loss: object,
    *,
    widths: Sequence[int] = (32, 64, 128, 256),
    log2_lrs: Sequence[float] | None = None,
    diverged: object = False,
    ran: object = True,
    base_width: int = 32,
) -> Surface:
    """A surface from nested lists [width][rate][seed]; rates are −10, −9, … unless given.

    A diverged run gets a loss that would win if it were read (a rebound leaves a finite one), or NaN, by turns of the seed.
    """
    values = np.array(loss, float)
    k, j, s = values.shape
    died = np.broadcast_to(np.array(diverged, bool), values.shape).copy()
    made = np.broadcast_to(np.array(ran, bool), (k, j))[:, :, None]
    unread = np.where(np.arange(s) % 2, -100.0, np.nan)
    return Surface(
        base_width=base_width,
        widths=np.array(widths[:k]),
        log2_lrs=np.arange(-10.0, -10 + j) if log2_lrs is None else np.asarray(log2_lrs, float),
        loss=np.where(made, np.where(died, unread, values), np.nan),
        initial_loss=np.where(made, np.full(values.shape, START), np.nan),
        diverged=died & made,
    )


def random_surface(rng: np.random.Generator, *, seeds: int = 4, holes: bool = False) -> Surface:
    """A noisy surface with a cliff that seeds fall off one by one; with `holes`, some rates were not run at some widths."""
    k, j = 4, 8
    x = np.arange(j) - 12.0
    optima = -9 + rng.normal(0, 0.7, k)
    loss = 1 + 0.1 * (x - optima[:, None])[:, :, None] ** 2 + rng.normal(0, 0.1, (k, j, seeds))
    died = x[None, :, None] + rng.normal(0, 1, (k, j, seeds)) > -6.0
    ran = rng.random((k, j)) < 0.85 if holes else np.ones((k, j), bool)
    return make_surface(loss, log2_lrs=x, diverged=died, ran=ran)


def make_rows(surface: Surface, *, task: str = "task", method: str = "sp_adamw") -> pd.DataFrame:
    """One row for each run of the surface; an accuracy is 1/(1 + loss)."""
    parametrization, _, optimizer = method.partition("_")
    optimizer = {"schedulefree": "adamw_schedulefree"}.get(optimizer, optimizer)
    rows = [
        {
            "run_id": f"{task}.{method}.w{width}.lr{int(lr)}.s{s}",
            "task": task,
            "dataset": "photo_patches",
            "model": "mlp",
            "method": method,
            "parametrization": parametrization,
            "optimizer": optimizer,
            "schedule": "constant" if optimizer.endswith("schedulefree") else "cosine",
            "average": "none",
            "embedding_lr": "shared",
            "variant": "",
            "horizon": 1.0,
            "steps": 100,
            "beta1": 0.9,
            "eps": 1e-12,
            "weight_decay": 0.0,
            "weight_decay_scaling": "coupled",
            "flops": 1e6 * float(width) ** 2,
            "width": int(width),
            "base_width": surface.base_width,
            "log2_lr": int(lr),
            "seed": s,
            "warmup_steps": 10,
            "status": "diverged" if surface.diverged[k, j, s] else "ok",
            "divergence": "rebound" if surface.diverged[k, j, s] else None,
            "initial_loss": surface.initial_loss[k, j, s],
            "train_loss": surface.loss[k, j, s] - 0.1,
            "val_loss": surface.loss[k, j, s],
            "val_loss_y": surface.loss[k, j, s],
            "val_accuracy": 1 / (1 + surface.loss[k, j, s]),
            "test_loss": surface.loss[k, j, s] + 0.5,
            "test_accuracy": np.nan,
        }
        for k, width in enumerate(surface.widths)
        for j, lr in enumerate(surface.log2_lrs)
        for s in range(surface.n_seeds)
        if surface.ran[k, j]
    ]
    return pd.DataFrame(rows)


def make_curve(
    run_id: str, series: str, steps: Sequence[int], values: Sequence[float], layer: str = ""
) -> pd.DataFrame:
    """One curve of one run."""
    return pd.DataFrame(
        {"run_id": run_id, "series": series, "layer": layer, "step": np.asarray(steps, np.int32), "value": values}
    )


NO_CURVES = make_curve("none", "train_loss", [1], [1.0])
"""Curves in which nothing is measured."""

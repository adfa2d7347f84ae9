"""The coordinate check of a study's task."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd
from torch import nn

from mufree.lab.coordcheck.measuring import coord_check
from mufree.lab.data import Prepared
from mufree.lab.data.batches import train_batches
from mufree.lab.train.network import configure_torch, make_model, make_optimizer
from mufree.study.config import CoordinateCheck, Method, Study
from mufree.study.plan import Run, checked, primary_run

log = logging.getLogger(__name__)

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

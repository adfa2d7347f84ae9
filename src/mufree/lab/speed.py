"""How long runs take on this machine: measured before there are any, learnt from those that are finished.

A run of a task costs so much a step and so much a FLOP; two numbers say it for all its widths.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mufree.study.plan import Run, evaluation_flops, training_flops

Seconds = Callable[[Run], float]
MEASURED_SECONDS = 0.1
"""How long one network is measured, once it has taken a step."""


@dataclass(frozen=True)
class Law:
    """Seconds of a run by its steps and its FLOPs, those of evaluations included."""

    per_step: float
    per_flop: float

    def __call__(self, run: Run) -> float:
        """Seconds that a run may take."""
        return self.per_step * _steps(run) + self.per_flop * _flops(run)


def fit(samples: Iterable[tuple[float, float, float]]) -> Law:
    """The law of some runs, each its (steps, FLOPs, seconds): least squares of relative errors, neither number negative."""
    from scipy.optimize import nnls  # slow to import

    steps, flops, seconds = np.array(list(samples)).T
    unit = flops.max()
    found, _ = nnls(np.stack([steps / seconds, flops / unit / seconds], axis=1), np.ones_like(seconds))
    return Law(float(found[0]), float(found[1]) / unit)


def learn(finished: Sequence[tuple[Run, float]], otherwise: Seconds) -> Seconds:
    """Seconds of a run by those that finished runs took: of its task and optimizer, else of its task, else `otherwise`.

    Networks of a task at one width differ least, so they come first.
    """
    of: dict[Hashable, list[tuple[float, float, float]]] = {}
    for run, seconds in finished:
        for key in _keys(run):
            of.setdefault(key, []).append((_steps(run), _flops(run), max(seconds, 1e-6)))
    laws = {key: fit(samples) for key, samples in of.items()}

    def seconds_of(run: Run) -> float:
        law = next((laws[key] for key in _keys(run) if key in laws), otherwise)
        return law(run)

    return seconds_of


def _keys(run: Run) -> list[Hashable]:
    """Groups of runs that one law holds for, the narrowest first."""
    return [(run.task, run.method.optimizer, run.width), (run.task, run.method.optimizer), run.task]


def measure(runs: Sequence[Run], precision: str | None = None) -> Seconds:
    """The law of each task and optimizer among the runs, measured on one core here: some steps at the least and largest width.

    `precision` takes the place of the runs' own. Evaluations are taken to run at the same rate.
    """
    of: dict[Hashable, list[Run]] = {}
    for run in runs:
        of.setdefault((run.task, run.method.optimizer), []).append(_in_precision(run, precision))
    laws = {}
    for key, group in of.items():
        ends = {run.width: run for run in sorted(group, key=lambda run: run.width)[:: max(1, len(group) - 1)]}
        laws[key] = fit([(1.0, training_flops(run) / run.training.steps, step_seconds(run)) for run in ends.values()])
    return lambda run: laws[run.task, run.method.optimizer](run)


def step_seconds(run: Run) -> float:
    """Seconds of a training step of a run on one core here, on made-up data."""
    import torch

    from mufree.lab.train.run import configure_torch, cross_entropy, make_model, make_optimizer

    configure_torch()
    model = make_model(run, classes := run.dataset.vocabulary or 10)
    optimizer = make_optimizer(run, model)
    if hasattr(optimizer, "train"):
        optimizer.train()
    batch = run.training.batch_size
    if (context := run.model.context) is None:
        inputs, targets = torch.rand(batch, 3, 32, 32), torch.randint(classes, (batch,))
    else:
        inputs, targets = (torch.randint(classes, (batch, context)) for _ in range(2))

    def step() -> None:
        cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
        optimizer.step()
        optimizer.zero_grad()

    step()  # the first makes the optimizer's state
    # The median of CPU times, since what else this machine does for a moment says nothing about the hours to come.
    taken: list[float] = []
    while sum(taken) < MEASURED_SECONDS:
        began = time.process_time()
        step()
        taken.append(time.process_time() - began)
    return float(np.median(taken))


def _in_precision(run: Run, precision: str | None) -> Run:
    if precision is None:
        return run
    return run.model_copy(update={"training": run.training.model_copy(update={"precision": precision})})


def _steps(run: Run) -> int:
    """Steps, and what an evaluation costs beside its products: its calls, and the norms that are watched before it."""
    return run.training.steps + 2 * run.training.evaluations


def _flops(run: Run) -> float:
    return training_flops(run) + evaluation_flops(run)

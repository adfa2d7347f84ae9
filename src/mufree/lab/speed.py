"""How long runs take on this machine: measured before there are any, learnt from those that are finished.

A run of a task costs so much a step and so much a FLOP; two numbers say it for all its widths.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np

from mufree.study import jobs
from mufree.study.plan import Run, evaluation_flops, training_flops
from mufree.study.reading import read_parquet
from mufree.study.record import TIMING_SCHEMA

Seconds = Callable[[Run], float]
MEASURED_SECONDS = 0.1
"""How long one network is measured, once it has taken a step."""
LONGEST_STEP = 5.0
"""Seconds that a step may be assumed to take if it is to be measured."""
MAX_LEARNT_FROM = 400
"""Finished runs whose times are read for an estimate; reading one takes about half a millisecond."""
SLOWER = 1.2
"""How many times as long bfloat16 has to take as float32 to be called slow."""


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


def measure(runs: Sequence[Run]) -> Seconds:
    """The law of each task and optimizer among the runs, measured on one core here: some steps at the least and largest width.

    Evaluations are taken to run at the same rate. What is too large to be tried here takes as long as `jobs.seconds` assumes.
    """
    of: dict[Hashable, list[Run]] = {}
    for run in runs:
        of.setdefault((run.task, run.method.optimizer), []).append(run)
    laws: dict[Hashable, Seconds] = {}
    for key, group in of.items():
        ends = {run.width: run for run in sorted(group, key=lambda run: run.width)[:: max(1, len(group) - 1)]}
        if not all(map(_can_be_tried, ends.values())):
            laws[key] = partial(jobs.seconds, device="cpu")
            continue
        laws[key] = fit([(1.0, training_flops(run) / run.training.steps, step_seconds(run)) for run in ends.values()])
    return lambda run: laws[run.task, run.method.optimizer](run)


def _can_be_tried(run: Run) -> bool:
    """Whether a step of the run fits into this machine's memory and is assumed to take seconds."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    step = training_flops(run) / run.training.steps / jobs.RATES["cpu"].flops
    return jobs.memory_mb([run], "cpu") < jobs.SHARE_OF_MEMORY * memory and step <= LONGEST_STEP


def step_seconds(run: Run) -> float:
    """Seconds of a training step of a run on one core here, on made-up data."""
    import torch

    from mufree.lab.train.evaluate import OF_STUDIES
    from mufree.lab.train.network import configure_torch, make_model, make_optimizer
    from mufree.lab.train.run import Course, begin, take_step

    configure_torch()
    model = make_model(run, classes := run.dataset.vocabulary or 10)
    batch = run.training.batch_size
    if (context := run.model.context) is None:
        inputs, targets = torch.rand(batch, 3, 32, 32), torch.randint(classes, (batch,))
    else:
        inputs, targets = (torch.randint(classes, (batch, context)) for _ in range(2))
    course = Course(
        run.id, steps=1, evaluations=1, batches=lambda _: repeat((inputs, targets)), valid=[], objective=OF_STUDIES
    )
    session = begin(model, make_optimizer(run, model), course)
    take_step(session, watched=False)  # the first makes the optimizer's state
    # The median of CPU times, since what else this machine does for a moment says nothing about the hours to come.
    taken: list[float] = []
    while sum(taken) < MEASURED_SECONDS:
        began = time.process_time()
        take_step(session, watched=False)
        taken.append(time.process_time() - began)
    return float(np.median(taken))


def _steps(run: Run) -> int:
    """Steps, and what an evaluation costs beside its products: its calls, and the norms that are watched before it."""
    return run.training.steps + 2 * run.training.evaluations


def _flops(run: Run) -> float:
    return training_flops(run) + evaluation_flops(run)


# --- in words --------------------------------------------------------------------------------------------------------


def how_far(
    runs: Sequence[Run], store: Path | None, *, cores: int, device: jobs.Device, start_seconds: float = 0.0
) -> str:
    """How many of the runs the store has, and how long the others may take on so many cores or GPUs.

    `start_seconds` are those that the start of a sweep has cost; each that is left will cost them again.
    """
    from mufree.study.run_store import store_path

    done = [run for run in runs if store is not None and store_path(store, run).exists()]
    finished = {run.id for run in done}
    missing = [run for run in runs if run.id not in finished]
    if not missing:
        return f"{len(done)} done, nothing to train"
    learnt = _times(store, done) if store is not None else []
    known = {run.task for run, _ in learnt}
    unknown = [run for run in missing if run.task not in known]
    cuda = device == "cuda"
    seconds_of = learn(learnt, partial(jobs.seconds, device="cuda") if cuda else measure(unknown))
    starts = start_seconds * len({(run.task, run.method_name) for run in missing})
    left = duration((sum(map(seconds_of, missing)) + starts) / cores)
    where = f"{cores} {'GPU' if cuda else 'core'}{'s' if cores > 1 else ''}"
    told = f"{len(done)} done, {len(missing)} to train, about {left} on {where}"
    if not unknown:
        return told
    if cuda:
        return f"{told}, assuming {jobs.RATES['cuda']}"
    large = {run.task for run in unknown if not _can_be_tried(run)}
    assumed = f", but for {', '.join(sorted(large))} assuming {jobs.RATES['cpu']}" if large else ""
    return f"{told}, by some steps of each network on this machine{assumed}{_slow_precision(unknown, seconds_of)}"


def _slow_precision(runs: Sequence[Run], seconds_of: Seconds) -> str:
    """What bfloat16 costs beside float32 here, where it costs more, and the way out; nothing else."""
    narrow = [run for run in runs if run.training.precision == "bfloat16"]
    if not narrow:
        return ""
    in_float32 = [
        run.model_copy(update={"training": run.training.model_copy(update={"precision": "float32"})}) for run in narrow
    ]
    ratio = sum(map(seconds_of, narrow)) / sum(map(measure(in_float32), narrow))
    if ratio < SLOWER:
        return ""
    return (
        f". This processor is slow in bfloat16: the same in float32 would take {1 / ratio:.0%} of that, by "
        "--config precision=float32 (a study of its own, whose numbers agree within what docs/performance.md shows)"
    )


def _times(store: Path, done: Sequence[Run]) -> list[tuple[Run, float]]:
    """Finished runs with the seconds that they took, evaluations included."""
    from mufree.study.record import RecordError
    from mufree.study.run_store import load_timing

    found = []
    for run in done[:: max(1, len(done) // MAX_LEARNT_FROM)]:
        try:
            timing = load_timing(store, run)
        except RecordError:
            continue  # its sweep will find it damaged, say so and train it again
        found.append((run, timing["train_seconds"] + timing["evaluate_seconds"]))
    return found


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in the unit that reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def usage(timings: Path, store: Path, since: float, cores: int) -> str:
    """Which share of the cores' time went into runs that the store has got since that moment, in seconds since 1970."""
    runs = read_parquet(timings, TIMING_SCHEMA.names).to_pylist()
    new = {path.stem for path in store.glob("*.parquet") if path.stat().st_mtime > since}
    trained = [run for run in runs if run["run_id"] in new]
    useful = sum(run["train_seconds"] + run["evaluate_seconds"] for run in trained)
    wall = time.time() - since
    return (
        f"{len(trained)} of {len(runs)} runs trained; {duration(wall)} on {cores} core(s), "
        f"{useful / (wall * cores):.0%} of the cores' time in training and evaluation."
    )

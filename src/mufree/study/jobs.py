"""From runs to jobs: how runs are dealt out, and the time, the memory and the GPU that a job should ask for.

Arithmetic on the plan, at rates that are assumed and stated; nothing here looks at the machine. Imports no torch, as `plan`.
An estimate is for a scheduler that ends whoever takes more: it errs upwards, and a retry asks for more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mufree.study.config import METHODS, STACKABLE, Method, Study
from mufree.study.machine import Device as Device
from mufree.study.machine import StudyEngine as StudyEngine
from mufree.study.plan import (
    EVAL_BATCH,
    Run,
    Sweep,
    checked,
    evaluation_flops,
    group_sweeps,
    pack_sweeps,
    primary_run,
    training_flops,
)


@dataclass(frozen=True)
class Rate:
    """What a device is assumed to do."""

    flops: float
    """FLOP/s in products of matrices."""
    step_seconds: float
    """What a step costs besides, however small the network."""

    def __str__(self) -> str:
        return f"{self.flops / 1e9:,.0f} GFLOP/s and {self.step_seconds * 1000:.0f} ms a step besides"


RATES: dict[Device, Rate] = {
    # A slow core: by its timings, the study's networks took 0.4 to 1.3 times as long on a Zen 4.
    "cpu": Rate(flops=3e10, step_seconds=0.004),
    # A quarter of the 19.5 TFLOP/s of float32 that an A100 has by its data sheet. Not measured: no GPU was at hand.
    "cuda": Rate(flops=5e12, step_seconds=0.02),
}

START_SECONDS = 60
"""Two starts of Snakemake in a job and one of torch, from a shared file system."""
MARGIN = 2
"""A job asks for this many times the estimate."""
LEAST_MINUTES = 10

HOST_MB: dict[Device, int] = {"cpu": 1200, "cuda": 6000}
"""What a process takes in main memory before any network is there: torch and its libraries, pyarrow, mapped data."""
CONTEXT_MB = 1000
"""What CUDA takes on a GPU before any network is there."""
WEIGHT_COPIES = 8
"""The weights, their gradients, two of the optimizer's, two in a watched step, one of an evaluation, one of an average."""
MOST_MEMORY_RETRIES = 3


def seconds(run: Run, device: Device) -> float:
    """How long a run is assumed to take, evaluations included."""
    rate = RATES[device]
    return (training_flops(run) + evaluation_flops(run)) / rate.flops + run.training.steps * rate.step_seconds


def job_seconds(runs: Iterable[Run], device: Device) -> float:
    """How long a job is assumed to take for such runs, with the start of its process."""
    return START_SECONDS + sum(seconds(run, device) for run in runs)


def deal(study: Study, runs: Sequence[Run], device: Device) -> list[Sweep]:
    """The sweeps of a study: what one job trains. Changes no run and no identity."""
    if study.minutes_per_job is None:
        return group_sweeps(runs, study.seeds_per_sweep, study.widths_per_sweep)
    return pack_sweeps(runs, lambda run: seconds(run, device), 60.0 * study.minutes_per_job)


def shard(sweeps: Sequence[Sweep], device: Device, number: int, count: int) -> list[Sweep]:
    """Part `number` of `count` (from 1), about as long as the others: the longest sweeps first, each to the part with least."""
    loads = [0.0] * count
    mine = []
    for sweep in sorted(sweeps, key=lambda sweep: (-job_seconds(sweep.runs, device), sweep.id)):
        least = loads.index(min(loads))
        loads[least] += job_seconds(sweep.runs, device)
        if least == number - 1:
            mine.append(sweep)
    return mine


def most_valuable_first(study: Study, sweeps: Sequence[Sweep]) -> list[Sweep]:
    """The sweeps in the order in which they answer most, for where there isn't time for all.

    The four methods before those that are held against them, and a task's base and largest widths before those between.
    """
    largest = {task: max(s.widths[-1] for s in sweeps if s.task == task) for task in {s.task for s in sweeps}}

    def last(sweep: Sweep) -> tuple[bool, bool]:
        ends = {study.tasks[sweep.task].base_width, largest[sweep.task]}
        return sweep.method not in METHODS, ends.isdisjoint(sweep.widths)

    return sorted(sweeps, key=last)


FIRST_TASK = 2000
"""What the first task's jobs are ahead of the others' in priority: somebody waits for its figure."""


def priorities(study: Study, sweeps: Sequence[Sweep], *, by_value: bool) -> dict[str, int]:
    """The priority of each sweep by its id: `most_valuable_first`, where there isn't time for all.

    Else the first task's come first, and longer ones before shorter, so that none is left alone at the end.
    """
    if by_value:
        return {sweep.id: place for place, sweep in enumerate(reversed(most_valuable_first(study, sweeps)), start=1)}
    largest = max(sweep.flops for sweep in sweeps)
    first = next(iter(study.tasks))
    return {s.id: (FIRST_TASK if s.task == first else 1) + int(1000 * (s.flops / largest)) for s in sweeps}


# --- runs side by side ------------------------------------------------------------------------------------------------

LARGEST_STACK: dict[Device, int] = {"cpu": 64, "cuda": 1024}
SHARE_OF_MEMORY = 0.8
NARROW = 100_000
"""Weights up to which, on a CPU, runs are faster side by side than one by one (docs/performance.md)."""


@dataclass(frozen=True)
class Stack:
    """Runs that are trained together."""

    engine: Literal["serial", "stack", "compiled"]
    runs: tuple[Run, ...]


def stacks(runs: Sequence[Run], engine: StudyEngine, device: Device, free_bytes: float) -> list[Stack]:
    """The runs as they are trained, in order of first appearance: each alone, or those that differ in numbers alone together.

    As many together as fit into memory. Runs of an optimizer that has no step for many networks are trained alone, whatever
    is asked for.
    """
    groups: dict[Hashable, list[Run]] = {}
    for run in runs:
        groups.setdefault(_shape(run) if side_by_side(run, engine, device) else run.id, []).append(run)
    together: Literal["stack", "compiled"] = "compiled" if engine == "compiled" else "stack"
    dealt = []
    for key, group in groups.items():
        fitting = int(SHARE_OF_MEMORY * free_bytes / (2**20 * max(map(_network_mb, group))))
        size = max(1, min(fitting, LARGEST_STACK[device]))
        chosen = tuple(group)
        dealt += [
            Stack("serial" if isinstance(key, str) else together, chosen[first : first + size])
            for first in range(0, len(chosen), size)
        ]
    return dealt


def side_by_side(run: Run, engine: StudyEngine, device: Device) -> bool:
    """Whether an engine trains a run beside others."""
    if run.method.optimizer not in STACKABLE:
        return False
    if engine == "auto":
        return device == "cuda" or (parameters(run) <= NARROW and not run.model.batchnorm)
    return engine != "serial"


def _shape(run: Run) -> Hashable:
    """What runs of one stack have in common."""
    method = run.method
    return run.dataset, run.model, run.training, run.width, run.base_width, method.optimizer, method.average


# --- what a job asks for ---------------------------------------------------------------------------------------------


def minutes_to_ask(runs: Iterable[Run], device: Device, attempt: int = 1, limit: int | None = None) -> int:
    """Run time to ask for: the estimate with a margin, more for each attempt, no more than `limit`.

    A sweep that the limit ends goes on from the store when it is tried again.
    """
    minutes = max(LEAST_MINUTES, math.ceil(MARGIN * job_seconds(runs, device) / 60)) * attempt
    return minutes if limit is None else min(minutes, limit)


def memory_to_ask(runs: Sequence[Run], device: Device, attempt: int = 1) -> int:
    """Main memory to ask for in MB, in hundreds; more for each of the first attempts, since most fail for other reasons."""
    return 100 * math.ceil(memory_mb(runs, device) * min(attempt, MOST_MEMORY_RETRIES) / 100)


def memory_mb(runs: Sequence[Run], device: Device) -> float:
    """Main memory that a process takes to train such runs one after the other."""
    if device == "cuda":
        # Weights pass through main memory on their way to the GPU and to a file.
        return HOST_MB[device] + max(3 * 4 * parameters(run) for run in runs) / 2**20
    return HOST_MB[device] + max(map(_network_mb, runs))


def gpu_memory_mb(runs: Sequence[Run]) -> float:
    """Memory of a GPU that the same takes; nothing asks for it, since SLURM hands out whole GPUs."""
    return CONTEXT_MB + max(map(_network_mb, runs))


def _network_mb(run: Run) -> float:
    """Weights, all that is as large as they are, and the activations of a training or an evaluation batch; float32."""
    width, vocabulary = run.width, run.dataset.vocabulary
    trained = 1.5 * run.model.kept(width, vocabulary) * run.training.batch_size  # half of them again for gradients
    evaluated = run.model.held(width, vocabulary) * min(EVAL_BATCH, run.training.eval_examples)
    return 4 * (WEIGHT_COPIES * parameters(run) + max(trained, evaluated)) / 2**20


def parameters(run: Run) -> int:
    """Weights of a run's model, as `parts.Network.parameters` counts them."""
    return run.model.parameters(run.width, run.dataset.vocabulary)


def describe(sweeps: Sequence[Sweep], device: Device, limit: int | None = None) -> str:
    """What all these sweeps ask for at their first attempt, each as a job of its own, and how long they are assumed to take."""
    if not sweeps:
        return "No sweep is left."
    memory = [memory_to_ask(sweep.runs, device) / 1000 for sweep in sweeps]
    minutes = [minutes_to_ask(sweep.runs, device, limit=limit) for sweep in sweeps]
    hours = [job_seconds(sweep.runs, device) / 3600 for sweep in sweeps]
    unit, gpus = "core", "no GPU"
    if device == "cuda":
        unit = "GPU"
        gpus = f"{len(sweeps)} GPUs, of which up to {max(gpu_memory_mb(sweep.runs) for sweep in sweeps) / 1000:.1f} GB are used"
    return (
        f"{len(sweeps)} jobs ask for {gpus}; {sum(memory):,.1f} GB of memory in total, {max(memory):.1f} GB at "
        f"most; {sum(minutes) / 60:,.1f} h in total, {max(minutes) / 60:,.1f} h at most. Expected: {sum(hours):,.1f} "
        f"{unit}-hours, the longest {max(hours):,.1f} h, assuming {RATES[device]}."
    )


def cost_table(sweeps: Sequence[Sweep], device: Device) -> str:
    """What each task is assumed to cost, as a table in Markdown, and what all jobs ask for."""
    unit = "GPU-hours" if device == "cuda" else "core-hours"
    lines = [f"| task | jobs | runs | {unit} | longest job | largest memory |", "| --- | --- | --- | --- | --- | --- |"]
    for task in [*dict.fromkeys(sweep.task for sweep in sweeps), "all"]:
        chosen = [sweep for sweep in sweeps if task in (sweep.task, "all")]
        hours = [job_seconds(sweep.runs, device) / 3600 for sweep in chosen]
        memory = max(memory_to_ask(sweep.runs, device) for sweep in chosen) / 1000
        runs = sum(len(sweep.runs) for sweep in chosen)
        lines.append(f"| {task} | {len(chosen)} | {runs} | {sum(hours):,.1f} | {max(hours):,.1f} h | {memory:.1f} GB |")
    return "\n".join([*lines, "", describe(sweeps, device), ""])


def one_by_one(runs: Sequence[Run], engine: StudyEngine, device: Device) -> str:
    """How many runs the engine trains side by side, and which it doesn't."""
    alone = Counter(
        f"{run.task} {run.method_name} at width {run.width}" for run in runs if not side_by_side(run, engine, device)
    )
    told = f"{len(runs) - alone.total()} of {len(runs)} runs are trained side by side"
    if not alone:
        return f"{told}."
    return f"{told}. One by one:\n" + "\n".join(f"  {what}: {count}" for what, count in alone.items())


# --- the coordinate check ---------------------------------------------------------------------------------------------


def coordinate_check_runs(study: Study, task_name: str) -> list[Run]:
    """The runs that a task's coordinate check amounts to: each distinct method at each width and seed, a few steps long.

    Methods that differ in schedule or average share a check.
    """
    task = study.tasks[task_name]
    check = task.coordinate_check
    widths, methods = checked(study, task_name)
    distinct: dict[Method, str] = {}
    for name, method in methods.items():
        distinct.setdefault(method, name)
    training = task.training.model_copy(
        # Each forward pass once more, to look at it; nothing is evaluated besides.
        update={"steps": 2 * check.steps, "batch_size": check.batch_size, "evaluations": 0, "eval_examples": 0}
    )
    return [
        primary_run(task_name, task, name, method).model_copy(
            update={"width": width, "log2_lr": check.log2_lr, "seed": seed, "training": training}
        )
        for method, name in distinct.items()
        for width in widths
        for seed in check.seeds
    ]

"""From a study to its runs and sweeps, and from a run to its identity.

Light on purpose: Snakemake executes the Snakefile, and so this module, again in every job. It knows no path.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import product

from pydantic import TypeAdapter

from mufree.study.config import Method, OptimizerSettings, Study, Task, Training
from mufree.study.fields import Closed, Log2LR
from mufree.study.parts import Dataset, Model
from mufree.study.reading import UserError

NUMERICS = 3
"""Version of the numbers. Raise it with every change that is meant to change results, and no other: a run in the store is
served only for the version that trained it. `tests/unit/test_train.py` fails when numbers change and this doesn't."""

EVAL_BATCH = 256
"""Examples of a batch in evaluations."""


class Run(Closed):
    """One training run, with every setting that can change a number resolved.

    What cannot change a number (threads, device index, folders) is not here. The digest of the prepared data is not known
    when planning; the run store keeps it beside each run.
    """

    task: str
    dataset: Dataset
    model: Model
    method_name: str
    method: Method
    optimizer: OptimizerSettings
    training: Training
    width: int
    base_width: int
    log2_lr: Log2LR
    seed: int
    numerics: int = NUMERICS

    @property
    def lr(self) -> float:
        """The learning rate, at base width."""
        return 2.0**self.log2_lr

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.training.steps

    @property
    def evaluations(self) -> int:
        """How many there are, evenly spread, beside the one before the first step."""
        return self.training.evaluations

    @property
    def warmup_steps(self) -> int:
        """Steps of the linear warm-up."""
        return warmup_steps(self.method, self.steps, self.training.warmup_fraction)

    @property
    def id(self) -> str:
        """A readable slug and 8 hex digits of the SHA-256 of the canonical JSON."""
        return identified(self, f"{self.task}.{self.method_name}.w{self.width}.lr{self.log2_lr}.s{self.seed}")


def warmup_steps(method: Method, steps: int, fraction: float) -> int:
    """Steps of the linear warm-up, at least 1; none for schedule-free RAdam, which starts gently by itself."""
    return 0 if method.optimizer == "radam_schedulefree" else max(1, round(steps * fraction))


@dataclass(frozen=True)
class Sweep:
    """The unit of work: one task and method with all variants and learning rates at some widths and seeds, in one process."""

    task: str
    method: str
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...] = field(repr=False)

    @property
    def labels(self) -> dict[str, str]:
        """What names of its files have of it: its widths are `32`, or `32_64`, and its seeds likewise."""
        widths, seeds = ("_".join(map(str, numbers)) for numbers in (self.widths, self.seeds))
        return {"task": self.task, "method": self.method, "widths": widths, "seeds": seeds}

    @property
    def id(self) -> str:
        """A readable name, unique within a study."""
        return "{task}.{method}.w{widths}.s{seeds}".format(**self.labels)

    @property
    def digest(self) -> str:
        """12 hex digits of the SHA-256 of all its runs: what tells a job that it is still the one that was planned."""
        return hashlib.sha256(canonical_json(self.runs).encode()).hexdigest()[:12]

    @property
    def flops(self) -> float:
        """Training FLOPs of all its runs, for ordering jobs and estimating time."""
        return sum(training_flops(run) for run in self.runs)


def training_flops(run: Run) -> float:
    """FLOPs of a run's training steps: 6 for each weight and position it is applied at, and attention's products.

    Source: Kaplan et al. 2020, section 2.1. Evaluations are not counted.
    """
    return 6.0 * run.training.steps * run.training.batch_size * run.model.products(run.width)


def evaluation_flops(run: Run) -> float:
    """FLOPs of a run's evaluations: a third of a training step's for each example, 2 of the 6.

    Schedule-free and averaged runs are evaluated at x and at y, and recompute BatchNorm's statistics at x.
    """
    training = run.training
    examples = training.eval_examples * (2 if run.method.averages else 1)
    if run.method.averages and run.model.batchnorm:
        examples += training.batchnorm_batches * training.batch_size
    return training_flops(run) / 3 * training.evaluations * examples / (training.steps * training.batch_size)


def canonical_json(value: Closed | Iterable[Closed]) -> str:
    """JSON with sorted keys, no spaces and every default written out: equal settings give equal strings."""
    plain = value.model_dump(mode="json") if isinstance(value, Closed) else [v.model_dump(mode="json") for v in value]
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def expand(study: Study) -> list[Run]:
    """All runs of a study, each once, in the order of the file."""
    runs: dict[str, Run] = {}
    for grid in study.grids:
        for task_name, method_name in product(grid.tasks, grid.methods):
            task, method = study.tasks[task_name], study.all_methods[method_name]
            primary, own = primary_run(task_name, task, method_name, method), task.settings_of(method.optimizer)
            for width, seed, horizon, beta1, weight_decay, scaling, log2_lr in product(
                grid.widths,
                grid.seeds,
                grid.horizons,
                grid.beta1s or [own.beta1],
                grid.weight_decays or [own.weight_decay],
                grid.weight_decay_scalings or [own.weight_decay_scaling],
                grid.log2_lrs,
            ):
                asked = {"beta1": beta1, "weight_decay": weight_decay, "weight_decay_scaling": scaling}
                # Evaluations are as far apart as in a full run.
                shorter = {"steps": task.training.steps // horizon, "evaluations": task.training.evaluations // horizon}
                changes = {
                    "width": width,
                    "seed": seed,
                    "log2_lr": log2_lr,
                    "optimizer": _settled(own.model_copy(update=asked), method),
                    "training": task.training.model_copy(update=shorter),
                }
                run = primary.model_copy(update=changes)
                runs[run.id] = run
    return list(runs.values())


def primary_run(task_name: str, task: Task, method_name: str, method: Method) -> Run:
    """The run of a task with a method that all others are copies of: base width, a learning rate of 1, seed 0, no variant."""
    return Run(
        task=task_name,
        dataset=task.dataset,
        model=task.model,
        method_name=method_name,
        method=method,
        optimizer=_settled(task.settings_of(method.optimizer), method),
        training=task.training,
        width=task.base_width,
        base_width=task.base_width,
        log2_lr=0,
        seed=0,
    )


def _settled(settings: OptimizerSettings, method: Method) -> OptimizerSettings:
    """The settings, with weight_decay_scaling "coupled" where there is no weight decay and under SP, whatever is asked for.

    It can't change a number there, and a run must not be trained twice under two ids. At base width it can't either; there the
    two are kept apart, so that each scaling has all its widths.
    """
    makes_no_difference = settings.weight_decay == 0 or method.parametrization == "sp"
    return settings.model_copy(update={"weight_decay_scaling": "coupled"}) if makes_no_difference else settings


def only_part(study: Study, number: int) -> Study:
    """The study with the grids of one part alone; its tasks and methods stay. Raises `UserError` where no grid is of that part.

    It may lack a task's base width, which another part has.
    """
    grids = [grid for grid in study.grids if grid.part == number]
    if not grids:
        known = sorted({grid.part for grid in study.grids if grid.part is not None})
        raise UserError(f"{study.name} has no part {number}. Known: {', '.join(map(str, known)) or 'none'}", 2)
    return study.model_copy(update={"grids": grids})


def finished_part(study: Study, finished: Collection[str], name: str) -> Study:
    """What is whole of a study that is still being trained, as a study `name` of its own.

    It has, of each grid, the widths at which all runs are among `finished` (ids), and the tasks and methods that remain. Raises
    pydantic's ValidationError where these are no study, as when a task's base width is not finished.
    """
    grids = []
    for grid in study.grids:
        cells = [grid.model_copy(update={"widths": [width]}) for width in grid.widths]
        whole = [
            width
            for width, cell in zip(grid.widths, cells, strict=True)
            if {run.id for run in expand(study.model_copy(update={"grids": [cell]}))} <= set(finished)
        ]
        if whole:
            grids.append(grid.model_copy(update={"widths": whole}))
    tasks = {task for grid in grids for task in grid.tasks}
    methods = {method for grid in grids for method in grid.methods}
    part = study.model_copy(
        update={
            "name": name,
            "tasks": {key: task for key, task in study.tasks.items() if key in tasks},
            "methods": {key: method for key, method in study.methods.items() if key in methods},
            "grids": grids,
        }
    )
    return Study.model_validate(part.model_dump(mode="json"))


def checked(study: Study, task_name: str) -> tuple[list[int], dict[str, Method]]:
    """Widths of a task's coordinate check, and by name its methods as they are checked.

    A few steps at the full rate: what schedule and average do later makes no difference, so methods that differ in these
    alone are equal here.
    """
    grids = [grid for grid in study.grids if task_name in grid.tasks]
    widths = study.tasks[task_name].coordinate_check.widths or sorted(
        {width for grid in grids for width in grid.widths}
    )
    names = dict.fromkeys(name for grid in grids for name in grid.methods)
    plain = {"schedule": "constant", "average": "none"}
    return list(widths), {name: study.all_methods[name].model_copy(update=plain) for name in names}


def variant(run: Run, task: Task) -> str:
    """What sets a run apart from the primary one of its task, method, width, rate and seed; empty for the primary one.

    A label such as "T/4", "beta1=0.95" or "weight_decay=0.05, independent", its parts in this order.
    """
    own = task.settings_of(run.method.optimizer)
    parts = []
    if run.training.steps != task.training.steps:
        parts.append(f"T/{task.training.steps // run.training.steps}")
    for name in ("beta1", "weight_decay"):
        value = getattr(run.optimizer, name)
        if value != getattr(own, name):
            parts.append(f"{name}={value:g}")
    scaling = run.optimizer.weight_decay_scaling
    as_own = run.optimizer.model_copy(update={"weight_decay_scaling": own.weight_decay_scaling})
    if scaling != _settled(as_own, run.method).weight_decay_scaling:
        parts.append(scaling)
    return ", ".join(parts)


def _order_in_sweep(run: Run) -> tuple[float | str, ...]:
    """By width and seed, longest first, then by each setting that makes a variant, then by learning rate."""
    settings = run.optimizer
    variant = (-run.training.steps, settings.beta1, settings.weight_decay, settings.weight_decay_scaling)
    return run.width, run.seed, *variant, run.log2_lr


def group_sweeps(runs: Iterable[Run], seeds_per_sweep: int = 1, widths_per_sweep: int = 1) -> list[Sweep]:
    """The runs by sweep, in order of first appearance; within a sweep by width, seed, variant and ascending learning rate.

    The widths of a method on a task are cut into groups of `widths_per_sweep`, and the seeds of a group into sweeps of
    `seeds_per_sweep`; the last ones may be smaller.
    """
    return [
        sweep
        for of_method in _by_method(runs)
        for widths in _chunks({run.width for run in of_method}, widths_per_sweep)
        for sweep in _by_seeds([run for run in of_method if run.width in widths], seeds_per_sweep)
    ]


def pack_sweeps(runs: Iterable[Run], seconds_of: Callable[[Run], float], target: float) -> list[Sweep]:
    """The runs by sweep, each of `target` seconds or less where a width at a seed takes no more; ordered as by `group_sweeps`.

    Neighbouring widths of a method on a task share a sweep as long as all their runs take no more than `target`. A width that
    takes more is cut by seeds, as evenly as can be. One width at one seed is never cut.
    """
    sweeps: list[Sweep] = []
    for of_method in _by_method(runs):
        for widths in _filled(_seconds_by(lambda run: run.width, of_method, seconds_of), target):
            chosen = [run for run in of_method if run.width in widths]
            by_seed = _seconds_by(lambda run: run.seed, chosen, seconds_of)
            fitting = len(by_seed)
            if sum(by_seed.values()) > target:
                fitting = max(1, int(target / max(by_seed.values())))
            sweeps += _by_seeds(chosen, math.ceil(len(by_seed) / math.ceil(len(by_seed) / fitting)))
    return sweeps


def _seconds_by(
    key_of: Callable[[Run], int], runs: Iterable[Run], seconds_of: Callable[[Run], float]
) -> dict[int, float]:
    totals: dict[int, float] = {}
    for run in runs:
        totals[key_of(run)] = totals.get(key_of(run), 0.0) + seconds_of(run)
    return totals


def _filled(needed: dict[int, float], target: float) -> list[list[int]]:
    """Neighbouring widths in groups that need no more than `target`, or are one width."""
    groups: list[list[int]] = []
    filled = math.inf
    for width in sorted(needed):
        filled += needed[width]
        if filled > target:
            groups.append([])
            filled = needed[width]
        groups[-1].append(width)
    return groups


def _by_method(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs of each task and method, in order of first appearance."""
    by_method: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        by_method.setdefault((run.task, run.method_name), []).append(run)
    return list(by_method.values())


def _by_seeds(runs: list[Run], seeds_per_sweep: int) -> list[Sweep]:
    """The runs of one task, method and group of widths as sweeps of so many seeds."""
    widths = tuple(sorted({run.width for run in runs}))
    return [
        Sweep(runs[0].task, runs[0].method_name, widths, seeds, tuple(sorted(chosen, key=_order_in_sweep)))
        for seeds in _chunks({run.seed for run in runs}, seeds_per_sweep)
        for chosen in [[run for run in runs if run.seed in seeds]]
    ]


def _chunks(values: Iterable[int], size: int) -> list[tuple[int, ...]]:
    ordered = sorted(values)
    return [tuple(ordered[first : first + size]) for first in range(0, len(ordered), size)]


def identified(value: Closed, slug: str) -> str:
    """The slug and 8 hex digits of the SHA-256 of the canonical JSON."""
    return f"{slug}.{hashlib.sha256(canonical_json(value).encode()).hexdigest()[:8]}"


def runs_from_json(text: str) -> list[Run]:
    """The runs in a `canonical_json`."""
    return TypeAdapter(list[Run]).validate_json(text)


def study_datasets(study: Study) -> dict[str, str]:
    """Each prepared data set that the study needs: its id (name and 8 hex digits of its settings) → canonical JSON."""
    return {dataset_id(task.dataset): canonical_json(task.dataset) for task in study.tasks.values()}


def dataset_id(dataset: Dataset) -> str:
    """Name of a prepared data set: two tasks with the same settings share it."""
    return identified(dataset, dataset.name)

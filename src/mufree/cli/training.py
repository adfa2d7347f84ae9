"""`mufree data`, `mufree sweep`: prepare a data set, train the runs that the store lacks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mufree.cli.commands import Kind, Part, Store, command
from mufree.cli.inputs import UserError, load_study, mendable, task_of, valid
from mufree.study.machine import Device, StudyEngine

if TYPE_CHECKING:
    from mufree.study.plan import Run

EXIT_STOPPED = 75
"""Exit code of a sweep that was asked to stop: sysexits' EX_TEMPFAIL, "try again later"."""


@command("--study experiments/quickstart.yaml --task photo-mlp --out data/photo")
def data(
    *,
    dataset: str | None = None,
    study: Path | None = None,
    task: str | None = None,
    data_dir: Path = Path("data"),
    out: Path,
) -> None:
    """Prepare a data set into plain arrays with a manifest.

    Args:
        dataset: its settings as JSON
        study: a study file, in place of --dataset; needs --task
        task: the task of --study whose data set is meant
        data_dir: where raw data is staged or downloaded to
        out: folder to write
    """
    from pydantic import TypeAdapter

    from mufree.lab import data as datasets
    from mufree.study import parts

    settings: parts.Dataset
    if study is not None and dataset is None:
        settings = task_of(load_study(study), task).dataset
    else:
        text = _one_of("--dataset", dataset, "--study", study)
        with valid("--dataset"):
            settings = TypeAdapter(parts.Dataset).validate_json(text)
    datasets.prepare(settings, out, data_dir)


@command(
    "--study experiments/quickstart.yaml --sweep photo-mlp.mup_schedulefree.w64.s0 --data data/photo "
    "--store runs --out sweep"
)
def sweep(
    *,
    runs: str | None = None,
    study: Path | None = None,
    sweep: str | None = None,
    part: Part = None,
    task: str | None = None,
    data: Path,
    store: Store,
    out: Path,
    digest: str | None = None,
    progress: bool = False,
    cores: Annotated[int, Parameter(env_var="MUFREE_CORES", show_default=False)] = 1,
    device: Kind = "cpu",
    ddp: bool = False,
    engine: StudyEngine = "serial",
    minutes: float | None = None,
    until: Annotated[float | None, Parameter(env_var="MUFREE_UNTIL")] = None,
    runs_per_gpu: int = 1,
    checkpoint_minutes: float = 10.0,
) -> None:
    """Train the runs of one sweep that the store lacks.

    On SIGTERM, which SLURM sends before it kills, and on SIGUSR1 it finishes its step, saves the run that it is in, and exits
    with 75. The same command goes on from there.

    Args:
        runs: the runs as JSON
        study: a study file, in place of --runs; needs --sweep or --task
        sweep: id of the sweep in --study, as `mufree plan --sweeps` lists them
        task: in place of --sweep: all sweeps of this task, the most valuable first
        data: folder of the prepared data set
        out: folder for rows.parquet, curves.parquet, timings.parquet
        digest: digest of the sweep that is meant; an error if the study file says another one
        progress: say at the end how far --study is
        cores: cores to divide the time left by (default $MUFREE_CORES, else 1)
        ddp: train each run by the processes that torchrun starts, each on its part of every batch (docs/parallel.md)
        engine: serial: runs one by one; stack: those that differ in numbers alone side by side; compiled: so, by kernels that
            torch.compile writes; auto: one by one or side by side, what is faster
        minutes: stop after so many minutes, as if by a signal
        until: stop at this time, in seconds since 1970 (default $MUFREE_UNTIL, which `--config minutes=` sets)
        runs_per_gpu: processes that may share a GPU, with --device cuda
        checkpoint_minutes: minutes between checkpoints of a run, from which it goes on if the process is killed
    """
    from mufree.lab import speed
    from mufree.lab.train import ranks, sweeping
    from mufree.study import collect

    wrong_here = mendable(ranks.RanksError, exit_code=2)
    for name, given in (("minutes", minutes), ("until", until), ("checkpoint-minutes", checkpoint_minutes)):
        if given is not None and not 0 <= given < math.inf:
            raise UserError(f"--{name} {given:g} is no time: give 0 or more", 2)
    asked = sweeping.asked_to_stop(minutes, until)
    with asked as stop_requested, wrong_here, ranks.together(ddp, device) as together:
        if task is None:
            chosen, planned = _chosen(runs, study, sweep, part, digest, device, progress)
        else:
            chosen, planned = _of_task(runs or sweep, study, task, part, device)
        how = sweeping.How(device, engine, runs_per_gpu, 60 * checkpoint_minutes, stop_requested, together)
        with mendable(sweeping.Stopped, exit_code=EXIT_STOPPED):
            done = sweeping.train(chosen, data, store, how)
        if not together.first:
            return
        collect.write_sweep(out, done.records)
        told = str(done)
        if progress:
            far = speed.how_far(planned, store, cores=cores, device=device, start_seconds=done.start_seconds())
            told += f"; study: {far}"
        print(told, flush=True)


def _one_of(option: str, value: str | None, other: str, instead: object) -> str:
    """The value of an option that is given, the other one not."""
    if value is None or instead is not None:
        raise UserError(f"give either {option} or {other}", 2)
    return value


def _chosen(
    text: str | None,
    study: Path | None,
    name: str | None,
    part: int | None,
    digest: str | None,
    device: Device,
    progress: bool,
) -> tuple[list[Run], list[Run]]:
    """The runs that are asked for, as JSON or as a sweep of a study, and all of the study."""
    from mufree.study import jobs
    from mufree.study.plan import expand, runs_from_json

    if study is None or text is not None:
        text = _one_of("--runs", text, "--study", study)
        if progress:
            raise UserError("--progress is of a study; give --study and --sweep instead of --runs", 2)
        with valid("--runs"):
            given = runs_from_json(text)
        if not given:
            raise UserError("--runs names no run", 2)
        return given, []
    planned = load_study(study, part)
    runs = expand(planned)
    sweeps = {sweep.id: sweep for sweep in jobs.deal(planned, runs, device)}
    if name is None:
        raise UserError("give the --sweep of --study that is meant, or its --task", 2)
    if name not in sweeps:
        raise UserError(f"Unknown sweep '{name}'. `mufree plan {study} --sweeps` lists them.", 2)
    found = sweeps[name]
    if digest not in (None, found.digest):
        raise UserError(
            f"sweep {found.id} of {study} is {found.digest}, and {digest} was planned: the study file has changed since. "
            "Run the workflow again."
        )
    return list(found.runs), runs


def _of_task(
    instead: str | None, study: Path | None, name: str, part: int | None, device: Device
) -> tuple[list[Run], list[Run]]:
    """The runs of a task of a study in the order of what they are worth, and all of the study."""
    from mufree.study import jobs
    from mufree.study.plan import expand

    if study is None or instead is not None:
        raise UserError("--task is of a study; give --study, and neither --runs nor --sweep", 2)
    planned = load_study(study, part)
    task_of(planned, name)
    runs = expand(planned)
    ordered = jobs.most_valuable_first(planned, jobs.deal(planned, runs, device))
    chosen = [run for sweep in ordered for run in sweep.runs if run.task == name]
    if not chosen:
        raise UserError(f"task '{name}' has no run in part {part} of {study}", 2)
    return chosen, runs

"""`mufree data`, `mufree sweep`: prepare a data set, train the runs that the store lacks."""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import TypeAdapter, ValidationError

from mufree.cli.inputs import Command, UserError, load_study, task_of
from mufree.cli.planning import duration, how_far
from mufree.lab.train import ranks, sweeping
from mufree.lab.train.ranks import Ranks
from mufree.lab.train.sweeping import Finished, How
from mufree.study import config, jobs
from mufree.study.plan import Run, expand, runs_from_json

if TYPE_CHECKING:
    from mufree.study.record import Record

T = TypeVar("T")

EXIT_STOPPED = 75
"""Exit code of a sweep that was asked to stop: sysexits' EX_TEMPFAIL, "try again later"."""


def add_commands(command: Command) -> None:
    """Add all of them; `command(name, handler, summary, example)` makes one."""
    sub = command(
        "data",
        data,
        "Prepare a data set into plain arrays with a manifest.",
        "--study experiments/quickstart.yaml --task photo-mlp --out data/photo",
    )
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--dataset", help="its settings as JSON")
    which.add_argument("--study", type=Path, help="a study file; needs --task")
    sub.add_argument("--task", help="the task of --study whose data set is meant")
    sub.add_argument("--data-dir", type=Path, default=Path("data"), help="where raw data is staged or downloaded to")
    sub.add_argument("--out", type=Path, required=True, help="folder to write")

    sub = command(
        "sweep",
        sweep,
        "Train the runs of one sweep that the store lacks.",
        "--study experiments/quickstart.yaml --sweep photo-mlp.mup_schedulefree.w64.s0 --data data/photo "
        "--store runs --out sweep",
    )
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--runs", help="the runs as JSON")
    which.add_argument("--study", type=Path, help="a study file; needs --sweep")
    sub.add_argument("--sweep", help="id of the sweep in --study, as `mufree plan --sweeps` lists them")
    sub.add_argument("--data", type=Path, required=True, help="folder of the prepared data set")
    sub.add_argument("--store", type=Path, required=True, help="folder of the run store")
    sub.add_argument("--out", type=Path, required=True, help="folder for rows.parquet, curves.parquet, timings.parquet")
    sub.add_argument("--digest", help="digest of the sweep that is meant; an error if the study file says another one")
    sub.add_argument("--progress", action="store_true", help="say at the end how far --study is")
    sub.add_argument(
        "--cores",
        type=int,
        default=int(os.environ.get("MUFREE_CORES", 1)),
        help="cores to divide the time left by (default $MUFREE_CORES, else 1)",
    )
    sub.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="kind of device (default cpu)")
    sub.add_argument(
        "--ddp",
        action="store_true",
        help="train each run by the processes that torchrun starts, each on its part of every batch (docs/parallel.md)",
    )
    sub.add_argument(
        "--engine",
        default="serial",
        choices=jobs.ENGINES,
        help="serial: runs one by one; stack: those that differ in numbers alone side by side; auto: what is faster",
    )
    sub.add_argument("--minutes", type=float, help="stop after so many minutes, as if by a signal")
    sub.add_argument(
        "--until",
        type=float,
        default=os.environ.get("MUFREE_UNTIL"),
        help="stop at this time, in seconds since 1970 (default $MUFREE_UNTIL, which `--config minutes=` sets)",
    )
    sub.add_argument(
        "--runs-per-gpu", type=int, default=1, help="processes that may share a GPU, with --device cuda (default 1)"
    )
    sub.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=10.0,
        help="minutes between checkpoints of a run, from which it goes on if the process is killed; on SIGTERM or SIGUSR1 "
        "it is saved at once and the exit code is 75 (default 10)",
    )


def data(arguments: argparse.Namespace) -> None:
    """`mufree data`."""
    from mufree.lab import data as datasets

    if arguments.study is not None:
        dataset = task_of(load_study(arguments.study), arguments.task).dataset
    else:
        dataset = _from_json("--dataset", lambda: TypeAdapter(config.Dataset).validate_json(arguments.dataset))
    try:
        datasets.prepare(dataset, arguments.out, arguments.data_dir)
    except datasets.DataError as error:
        raise UserError(str(error)) from error


def sweep(arguments: argparse.Namespace) -> None:
    """`mufree sweep`.

    On SIGTERM, which SLURM sends before it kills, and on SIGUSR1 it finishes its step, saves the run that it is in, and exits
    with `EXIT_STOPPED`. The same command goes on from there.
    """
    with stop_signals() as stop_requested, _ranks(arguments) as together:
        _sweep(arguments, stop_requested, together)


def _from_json(option: str, read: Callable[[], T]) -> T:
    """What `read()` makes of an option's JSON. Raises `UserError` that says what is wrong, where."""
    try:
        return read()
    except ValidationError as error:
        raise UserError(f"{option} has {error.error_count()} mistake(s):\n{config.explain(error)}", 2) from error


@contextmanager
def _ranks(arguments: argparse.Namespace) -> Iterator[Ranks]:
    """The processes that train together: with --ddp those of torchrun, of which only the first says what it does."""
    if not arguments.ddp:
        if ranks.started_by_torchrun():
            raise UserError("torchrun started several processes that would all train the same runs; give --ddp", 2)
        yield ranks.ALONE
        return
    try:
        with ranks.joined(arguments.device) as together:
            if not together.first:
                logging.getLogger().setLevel(logging.WARNING)
            yield together
    except ranks.RanksError as error:
        raise UserError(str(error), 2) from error


@contextmanager
def stop_signals() -> Iterator[Callable[[], str | None]]:
    """Within it, SIGTERM and SIGUSR1 do no more than be remembered; gives a function that names the one that came, if any."""
    came: list[str] = []
    numbers = [signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM)]
    before = {number: signal.signal(number, lambda n, _: came.append(signal.Signals(n).name)) for number in numbers}
    try:
        yield lambda: came[0] if came else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sweep(arguments: argparse.Namespace, stop_requested: Callable[[], str | None], together: Ranks) -> None:
    runs, of_study = _sweep_runs(arguments)
    how = How(
        device=arguments.device,
        engine=arguments.engine,
        runs_per_gpu=arguments.runs_per_gpu,
        checkpoint_seconds=60 * arguments.checkpoint_minutes,
        stop_requested=_or_by_then(stop_requested, _end(arguments)),
        together=together,
    )
    started = time.monotonic()
    finished = train(runs, arguments.data, arguments.store, how)
    if not together.first:
        return
    write_sweep(arguments.out, [finished[run.id].record for run in runs])
    new = [found for found in finished.values() if found.trained]
    diverged = sum(found.record.row["status"] == "diverged" for found in finished.values())
    spent = sum(found.record.timing[f"{phase}_seconds"] for found in new for phase in ("train", "evaluate"))
    start_seconds = max(0.0, time.process_time() - spent) if new else 0.0
    progress = f"; study: {how_far(of_study, arguments, start_seconds)}" if arguments.progress else ""
    print(
        f"{runs[0].task} {runs[0].method_name} {_widths(runs)}: {len(new)} of {len(runs)} runs trained in "
        f"{duration(time.monotonic() - started)}, {diverged} diverged{progress}",
        flush=True,
    )


def _end(arguments: argparse.Namespace) -> float:
    """When to stop, in seconds since 1970."""
    by_minutes = math.inf if arguments.minutes is None else time.time() + 60 * arguments.minutes
    return min(by_minutes, math.inf if arguments.until is None else arguments.until)


def _or_by_then(stop_requested: Callable[[], str | None], end: float) -> Callable[[], str | None]:
    """The same, and a reason to stop once it is that late."""
    return lambda: stop_requested() or ("its limit of time" if time.time() >= end else None)


def train(runs: Sequence[Run], data: Path, store: Path, how: How) -> dict[str, Finished]:
    """All the runs, by id, served or trained; what goes wrong becomes a `UserError`."""
    from mufree.lab.data.prepared import DataError

    try:
        return {found.run.id: found for found in sweeping.sweep(runs, data, store, how)}
    except sweeping.Stopped as stop:
        raise UserError(str(stop), EXIT_STOPPED) from None
    except (sweeping.SweepError, DataError) as error:
        raise UserError(str(error)) from error


def write_sweep(out: Path, records: Sequence[Record]) -> None:
    """Rows, timings and curves of a sweep's runs, in their order."""
    from mufree.study import record

    record.write_table(out / "rows.parquet", record.rows_table(r.row for r in records))
    record.write_table(out / "timings.parquet", record.timings_table(r.timing for r in records))
    record.write_table(out / "curves.parquet", record.concat_curves(r.curves for r in records))


def _widths(runs: Sequence[Run]) -> str:
    widths = sorted({run.width for run in runs})
    return f"width{'s' if len(widths) > 1 else ''} {', '.join(map(str, widths))}"


def _sweep_runs(arguments: argparse.Namespace) -> tuple[list[Run], list[Run]]:
    """The runs of the sweep that is asked for, and all of its study."""
    if arguments.runs is not None:
        if arguments.progress:
            raise UserError("--progress is of a study; give --study and --sweep instead of --runs", 2)
        return _from_json("--runs", lambda: runs_from_json(arguments.runs)), []
    study = load_study(arguments.study)
    of_study = expand(study)
    sweeps = {s.id: s for s in jobs.deal(study, of_study, arguments.device)}
    if arguments.sweep not in sweeps:
        raise UserError(f"Unknown sweep '{arguments.sweep}'. `mufree plan {arguments.study} --sweeps` lists them.", 2)
    found = sweeps[arguments.sweep]
    if arguments.digest not in (None, found.digest):
        raise UserError(
            f"sweep {found.id} of {arguments.study} is {found.digest}, and {arguments.digest} was planned: the study file has "
            "changed since. Run the workflow again."
        )
    return list(found.runs), of_study

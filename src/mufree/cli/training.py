"""`mufree data`, `mufree sweep`: prepare a data set, train the runs that the store lacks."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import TypeAdapter, ValidationError

from mufree import config, jobs, ranks
from mufree.cli.inputs import Command, UserError, load_data, load_study, task_of
from mufree.cli.planning import duration, how_far
from mufree.plan import Run, expand, runs_from_json, training_flops
from mufree.ranks import Ranks

if TYPE_CHECKING:
    import torch

    from mufree.data import Prepared
    from mufree.record import Record
    from mufree.train import Trace

T = TypeVar("T")
log = logging.getLogger(__name__)

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
    from mufree import data as datasets

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
    from mufree import record

    runs, of_study = _sweep_runs(arguments)
    digest = _data_digest(arguments.data)
    records: dict[str, Record] = {}
    for run in runs if together.first else []:
        if (kept := record.load_run(arguments.store, run, digest)) is not None:
            records[run.id] = kept
            record.discard_checkpoint(arguments.store, run)
    kept_already = together.as_first([run.id in records for run in runs])
    missing = [run for run, kept in zip(runs, kept_already, strict=True) if not kept]
    started = time.monotonic()
    if missing:
        # Only now: a sweep that the store has whole doesn't pay for importing torch.
        for run, finished in _train_all(missing, arguments, stop_requested, together):
            if together.first:
                record.save_run(arguments.store, run, finished)
                record.discard_checkpoint(arguments.store, run)
            records[run.id] = finished
    if not together.first:
        return
    found = [records[run.id] for run in runs]
    record.write_table(arguments.out / "rows.parquet", record.rows_table(r.row for r in found))
    record.write_table(arguments.out / "timings.parquet", record.timings_table(r.timing for r in found))
    record.write_table(arguments.out / "curves.parquet", record.concat_curves(r.curves for r in found))
    diverged = sum(r.row["status"] == "diverged" for r in found)
    spent = sum(r.timing["train_seconds"] + r.timing["evaluate_seconds"] for r in (records[run.id] for run in missing))
    start_seconds = max(0.0, time.process_time() - spent) if missing else 0.0
    progress = f"; study: {how_far(of_study, arguments, start_seconds)}" if arguments.progress else ""
    print(
        f"{runs[0].task} {runs[0].method_name} {_widths(runs)}: {len(missing)} of {len(runs)} runs trained in "
        f"{duration(time.monotonic() - started)}, {diverged} diverged{progress}",
        flush=True,
    )


def _widths(runs: Sequence[Run]) -> str:
    widths = sorted({run.width for run in runs})
    return f"width{'s' if len(widths) > 1 else ''} {', '.join(map(str, widths))}"


def _data_digest(folder: Path) -> str:
    """The digest in a prepared data set's manifest, without opening its arrays."""
    try:
        return str(json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder / 'manifest.json'} can't be read ({error}); make it with `mufree data`") from error


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


def _train_all(
    runs: Sequence[Run], arguments: argparse.Namespace, stop_requested: Callable[[], str | None], together: Ranks
) -> Iterator[tuple[Run, Record]]:
    """Train runs one by one; yield each with its record as it is finished."""
    from tqdm import tqdm

    from mufree import machine, record, sources
    from mufree.checkpoints import Interrupted

    if arguments.device == "cpu":
        machine.warn_of_cost(runs[0].training.precision, machine.this_processor())
    prepared = load_data(arguments.data)
    code_digest = sources.digest("train")  # of what this process has loaded, whatever is edited while it trains
    total = sum(run.training.steps for run in runs)
    quiet = None if together.first else True  # None: a bar on a terminal, nothing in a file
    with _device(arguments) as device, tqdm(total=total, unit="step", disable=quiet, dynamic_ncols=True) as bar:
        for number, run in enumerate(runs, start=1):
            if together.any(stop_requested() is not None):
                raise _stopped(stop_requested(), f"before {run.id}", number - 1, len(runs))
            bar.set_description(f"run {number}/{len(runs)} width {run.width} lr 2^{run.log2_lr} seed {run.seed}")
            try:
                trace = _train(run, prepared, device, together, arguments, stop_requested, bar.update)
            except Interrupted as stop:
                raise _stopped(stop_requested(), str(stop), number - 1, len(runs)) from None
            row = {
                **record.describe_run(run),
                "data_digest": prepared.digest,
                "code_digest": code_digest,
                "device": arguments.device,
                **trace.row(),
            }
            timing = {
                "run_id": run.id,
                **{f"{phase}_seconds": seconds for phase, seconds in trace.seconds.items()},
                "flops": training_flops(run) * trace.steps_done / run.training.steps,
                "cpu": machine.cpu_name(),
            }
            curves = record.curves_table(run.id, ((s.name, s.layer, s.steps, s.values) for s in trace.curves))
            log.info(
                "%s %s val_loss %.4f in %.1f s (run %d of %d)",
                run.id,
                trace.divergence or trace.status,
                trace.val_loss,
                sum(trace.seconds.values()),
                number,
                len(runs),
            )
            yield run, record.Record(row=row, timing=timing, curves=curves)


@contextmanager
def _device(arguments: argparse.Namespace) -> Iterator[torch.device]:
    """The device to train on: with --device cuda, a GPU that no other process has claimed."""
    import torch

    if arguments.device == "cpu":
        yield torch.device("cpu")
        return
    from mufree import gpus

    if not torch.cuda.is_available():
        raise UserError("device cuda is asked for and PyTorch finds none; use --device cpu (--config device=cpu)")
    names = gpus.visible(os.environ, torch.cuda.device_count())
    try:
        with gpus.claimed(names, arguments.runs_per_gpu, gpus.claims_folder(os.environ)) as index:
            log.info("on GPU %s, which PyTorch calls cuda:%d", names[index], index)
            torch.cuda.set_device(index)
            yield torch.device("cuda", index)
    except gpus.NoGpuFree as error:
        raise UserError(str(error)) from error


def _train(
    run: Run,
    prepared: Prepared,
    device: torch.device,
    together: Ranks,
    arguments: argparse.Namespace,
    stop_requested: Callable[[], object],
    progress: Callable[[int], object],
) -> Trace:
    """Train a run from its checkpoint, or anew; `progress` is told of steps taken."""
    from mufree import checkpoints, record
    from mufree.train import finish

    path = record.checkpoint_path(arguments.store, run)
    session = checkpoints.resumed(path, run, prepared, device, together)
    progress(session.step)
    keep = checkpoints.keeper(path, session, 60 * arguments.checkpoint_minutes, stop_requested)

    def after_step() -> None:
        progress(1)
        keep()

    return finish(session, after_step)


def _stopped(signal_name: str | None, where: str, trained: int, missing: int) -> UserError:
    return UserError(
        f"stopped by {signal_name or 'the signal that another process got'} {where}; {trained} of {missing} missing runs "
        "trained. The same command goes on from there.",
        EXIT_STOPPED,
    )

"""Train the runs that a store lacks and keep each as it is finished, one by one or side by side; nobody above knows which."""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mufree.lab.train.ranks import ALONE, Ranks
from mufree.study import jobs, record, run_store
from mufree.study.plan import Run, training_flops
from mufree.study.reading import RecordError, UserError, read_json

if TYPE_CHECKING:
    import torch

    from mufree.lab.data import Prepared
    from mufree.lab.train.many import Many
    from mufree.lab.train.watch import Trace
    from mufree.study.record import Record

log = logging.getLogger(__name__)

Progress = Callable[[int], object]


class SweepError(UserError):
    """What is asked for can't be trained here; the message says what to do."""


class Stopped(Exception):  # noqa: N818 (nothing is wrong)
    """Asked to stop: what was in hand is in its checkpoint, the message says where, and the same call goes on from there."""


@dataclass(frozen=True)
class How:
    """How runs are trained: nothing in it changes their numbers but `engine` and `device`, which a row has."""

    device: jobs.Device = "cpu"
    engine: jobs.StudyEngine = "serial"
    """`serial`: one by one. `stack`: side by side, those that differ in numbers alone. `compiled`: so, too, by kernels that
    torch.compile writes. `auto`: one by one or side by side, what is faster here.
    """
    runs_per_gpu: int = 1
    """Processes that may share a GPU."""
    checkpoint_seconds: float = 600.0
    stop_requested: Callable[[], str | None] = lambda: None
    """Names what asks to stop, if anything does."""
    together: Ranks = ALONE


@dataclass(frozen=True)
class Finished:
    """A run that the store has now."""

    run: Run
    record: Record
    trained: bool
    """Whether it was trained in this call, and not served."""


@dataclass(frozen=True)
class Done:
    """All the runs that were asked for, in their order, and the seconds that it took to serve or train them."""

    finished: list[Finished]
    seconds: float

    @property
    def records(self) -> list[Record]:
        """What the store has of them now."""
        return [each.record for each in self.finished]

    def start_seconds(self) -> float:
        """CPU time of this process that went into no run: that of its start. Zero where no run was trained."""
        new = [each.record.timing for each in self.finished if each.trained]
        spent = sum(timing[f"{phase}_seconds"] for timing in new for phase in ("train", "evaluate"))
        return max(0.0, time.process_time() - spent) if new else 0.0

    def __str__(self) -> str:
        from mufree.lab.speed import duration

        first = self.finished[0].run
        widths = sorted({each.run.width for each in self.finished})
        trained = sum(each.trained for each in self.finished)
        diverged = sum(record.row["status"] == "diverged" for record in self.records)
        return (
            f"{first.task} {first.method_name} width{'s' if len(widths) > 1 else ''} {', '.join(map(str, widths))}: "
            f"{trained} of {len(self.finished)} runs trained in {duration(self.seconds)}, {diverged} diverged"
        )


def train(runs: Sequence[Run], data: Path, store: Path, how: How) -> Done:
    """`sweep` to its end; of several processes, the first one's answer is whole."""
    started = time.monotonic()
    found = {finished.run.id: finished for finished in sweep(runs, data, store, how)}
    return Done([found[run.id] for run in runs if run.id in found], time.monotonic() - started)


@contextmanager
def asked_to_stop(minutes: float | None, until: float | None) -> Iterator[Callable[[], str | None]]:
    """Within it, SIGTERM and SIGUSR1 do no more than be remembered; gives a function that names what asks to stop, if anything
    does: the signal that came first, or the time, so many `minutes` from now or `until`, in seconds since 1970.
    """
    ends = [math.inf if minutes is None else time.time() + 60 * minutes, math.inf if until is None else until]
    came: list[str] = []
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, lambda n, _: came.append(signal.Signals(n).name)) for number in numbers}
    try:
        yield lambda: came[0] if came else "its limit of time" if time.time() >= min(ends) else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def sweep(runs: Sequence[Run], data: Path, store: Path, how: How) -> Iterator[Finished]:
    """Each run, as it is served by the store or trained and put there; of several processes the first one's store counts.

    `data` is the folder of the prepared data set. Imports torch only if there is something to train. Raises `Stopped` when
    asked to stop, `SweepError` and `data.DataError` for a device or data that aren't there.
    """
    digest = _data_digest(data, runs)
    kept: set[str] = set()
    for run in runs if how.together.first else []:
        if (found := run_store.load_run(store, run, digest)) is not None:
            run_store.discard_checkpoint(store, run)
            kept.add(run.id)
            yield Finished(run, found, trained=False)
    there = how.together.as_first([run.id in kept for run in runs])
    missing = [run for run, is_there in zip(runs, there, strict=True) if not is_there]
    if not missing:
        return
    if how.together.any(how.stop_requested() is not None):
        raise _stopped(how, "before it began", 0, len(missing))
    for run, made in _train_all(missing, data, store, how):
        if how.together.first:
            run_store.save_run(store, run, made)
            run_store.discard_checkpoint(store, run)
        yield Finished(run, made, trained=True)


def _data_digest(folder: Path, runs: Sequence[Run]) -> str:
    """The digest in a prepared data set's manifest, without opening its arrays; the data set has to be that of the runs."""
    from mufree.lab.data.prepared import DataError, check_asked_for

    cure = "make it with `mufree data`"
    try:
        manifest = read_json(folder / "manifest.json", {"digest": str, "settings": dict}, cure)
        for run in runs:
            check_asked_for(folder, manifest["settings"], run.task, run.dataset)
    except RecordError as error:
        raise SweepError(f"{folder} is no prepared data set, {cure}: {error}") from error
    except DataError as error:
        raise SweepError(str(error)) from error
    return str(manifest["digest"])


def _train_all(runs: Sequence[Run], data: Path, store: Path, how: How) -> Iterator[tuple[Run, Record]]:
    """Train runs; yield each with its record as it is finished."""
    from tqdm import tqdm

    from mufree.lab import data as datasets
    from mufree.lab.train.checkpoints import Interrupted
    from mufree.study import machine, sources

    if how.device == "cpu":
        machine.warn_of_cost(runs[0].training.precision, machine.this_processor())
    prepared = datasets.load(data)
    code_digest = sources.digest("train")  # of what this process has loaded, whatever is edited while it trains
    total = sum(run.training.steps for run in runs)
    quiet = None if how.together.first else True  # None: a bar on a terminal, nothing in a file
    trained = 0
    with _device(how) as device, tqdm(total=total, unit="step", disable=quiet, dynamic_ncols=True) as bar:
        for stack in jobs.stacks(runs, how.engine, how.device, _free_memory(device)):
            if how.together.any(how.stop_requested() is not None):
                raise _stopped(how, f"before {stack.runs[0].id}", trained, len(runs))
            bar.set_description(f"{trained}/{len(runs)} runs, width {stack.runs[0].width}")
            train = _train_one if stack.engine == "serial" else _train_stack
            try:
                for run, trace in train(stack.runs, prepared, store, device, how, bar.update):
                    trained += 1
                    yield run, _recorded(run, trace, prepared, device, stack.engine, code_digest)
                    _log(run, trace, trained, len(runs))
            except Interrupted as stop:
                raise _stopped(how, str(stop), trained, len(runs)) from None


def _train_one(
    runs: Sequence[Run], prepared: Prepared, store: Path, device: torch.device, how: How, progress: Progress
) -> Iterator[tuple[Run, Trace]]:
    """Train a run from its checkpoint, or anew; `progress` is told of steps taken."""
    from mufree.lab.train import checkpoints
    from mufree.lab.train.run import finish

    (run,) = runs
    path = run_store.checkpoint_path(store, run)
    session = checkpoints.resumed(path, run, prepared, device, how.together)
    yield run, finish(session, checkpoints.keeper(path, session, how.checkpoint_seconds, how.stop_requested, progress))


def _train_stack(
    runs: Sequence[Run], prepared: Prepared, store: Path, device: torch.device, how: How, progress: Progress
) -> Iterator[tuple[Run, Trace]]:
    """Train runs side by side, from their checkpoint or anew; those for which memory is short, in two halves."""
    from mufree.lab.train import checkpoints

    def start(path: Path | None, part: Sequence[Run]) -> Many:
        return checkpoints.resumed_stack(path, part, prepared, device, how.engine == "compiled")

    def of_all(part: Sequence[Run], steps: int) -> None:
        progress(steps * len(part))

    return checkpoints.train_many(runs, store, start, how.checkpoint_seconds, how.stop_requested, of_all)


def _free_memory(device: torch.device) -> float:
    """Bytes that are free on the device; on a CPU, a core's share of them."""
    import torch

    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / (os.cpu_count() or 1)


def _recorded(
    run: Run, trace: Trace, prepared: Prepared, device: torch.device, engine: str, code_digest: str
) -> Record:
    import torch

    from mufree.study import machine

    row = {
        **record.describe_run(run),
        "data_digest": prepared.digest,
        "code_digest": code_digest,
        "device": device.type,
        "engine": engine,
        **trace.row(),
    }
    timing = {
        "run_id": run.id,
        **{f"{phase}_seconds": seconds for phase, seconds in trace.seconds.items()},
        "flops": training_flops(run) * trace.steps_done / run.training.steps,
        "cpu": torch.cuda.get_device_name(device) if device.type == "cuda" else machine.cpu_name(),
    }
    return record.Record(row=row, timing=timing, curves=record.curves_table(run.id, trace.curves))


def _log(run: Run, trace: Trace, number: int, count: int) -> None:
    log.info(
        "%s %s val_loss %.4f in %.1f s (run %d of %d)",
        run.id,
        trace.divergence or trace.status,
        trace.val_loss,
        sum(trace.seconds.values()),
        number,
        count,
    )


@contextmanager
def _device(how: How) -> Iterator[torch.device]:
    """The device to train on: of GPUs, one that no other process has claimed."""
    import torch

    if how.device == "cpu":
        yield torch.device("cpu")
        return
    from mufree.lab.train import gpus

    if not torch.cuda.is_available():
        raise SweepError("device cuda is asked for and PyTorch finds none; use --device cpu (--config device=cpu)")
    names = gpus.visible(os.environ, torch.cuda.device_count())
    try:
        with gpus.claimed(names, how.runs_per_gpu, gpus.claims_folder(os.environ)) as index:
            log.info("on GPU %s, which PyTorch calls cuda:%d", names[index], index)
            torch.cuda.set_device(index)
            yield torch.device("cuda", index)
    except gpus.NoGpuFree as error:
        raise SweepError(str(error)) from error


def _stopped(how: How, where: str, trained: int, missing: int) -> Stopped:
    return Stopped(
        f"stopped by {how.stop_requested() or 'the signal that another process got'} {where}; {trained} of {missing} missing "
        "runs trained. The same command goes on from there."
    )

"""Trials, trained side by side or one after the other, and kept in a run store as they are finished."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from mufree.lab.coordcheck.calls import CheckError
from mufree.lab.train import checkpoints
from mufree.lab.train.many import Many
from mufree.lab.train.network import make_optimizer
from mufree.lab.train.run import Course, Session, average_of, begin, finish, rate_factor_of
from mufree.lab.train.watch import Seconds, Trace
from mufree.lab.tune import stacked
from mufree.lab.tune.functions import Functions
from mufree.lab.tune.randomness import seed_all
from mufree.optim.evaluation import batchnorm_layers
from mufree.study import machine, record, run_store
from mufree.study.machine import Engine
from mufree.study.record import Record
from mufree.study.trials import Trial

CHECKPOINT_SECONDS = 300.0
ONE_BY_ONE = "trials at width %d are trained one by one: %s"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A trial with what is kept of it."""

    trial: Trial
    record: Record
    served: bool = False
    """Whether it was there already."""

    @property
    def row(self) -> dict[str, Any]:
        """Its row, in the columns of a study's rows."""
        return self.record.row

    @property
    def seconds(self) -> float:
        """What it took, on the machine that trained it."""
        return float(sum(self.record.timing[f"{phase}_seconds"] for phase in ("setup", "train", "evaluate")))


@dataclass(frozen=True)
class Here:
    """Trains in this process: side by side what can be and is worth it, else one after the other."""

    functions: Functions
    store: Path | None = None
    device: str = "cpu"
    stop_requested: Callable[[], object] = lambda: None
    """Gives what asks to stop, if anything does."""
    engine: Engine = "auto"
    side_by_side: ClassVar[int] = 1
    """How many processes train."""
    refused: dict[tuple[Trial, bool], str] = field(default_factory=dict, compare=False)
    """Why trials of a shape, of one seed or several, aren't trained side by side; empty where they are."""

    def train(self, trials: Sequence[Trial], progress: Callable[[Trial, int], object]) -> Iterator[Trained]:
        """Each trial as it is finished, in any order; `progress` is told of steps taken.

        Raises `Interrupted` when asked to stop.
        """
        for group in stacked.groups(trials):
            alone = list(group)
            if len(group) >= least(self.engine, self.device):
                for trained in self._side_by_side(group, progress):
                    alone.remove(trained.trial)
                    yield trained
            for trial in alone:
                yield Trained(trial, train(trial, self, lambda steps, of=trial: progress(of, steps)))  # type: ignore[misc]

    def _why_not(self, trials: Sequence[Trial]) -> str:
        """Why trials aren't trained side by side."""
        try:
            stacked.check(trials, self.functions, torch.device(self.device))
        except stacked.CannotStackError as error:
            log.warning(ONE_BY_ONE, trials[0].width, error)
            return str(error)
        return ""

    def _side_by_side(self, trials: Sequence[Trial], progress: Callable[[Trial, int], object]) -> Iterator[Trained]:
        """Trials of one shape as they are finished; none, or fewer, where they don't go side by side."""
        shape = stacked.shape(trials[0]), len({trial.seed for trial in trials}) > 1
        if shape not in self.refused:
            self.refused[shape] = self._why_not(trials)
        if self.refused[shape]:
            return
        log.info("%d trials at width %d are trained side by side", len(trials), trials[0].width)
        device = torch.device(self.device)

        def start(path: Path | None, part: Sequence[Trial]) -> Many:
            return checkpoints.gone_on(path, lambda: stacked.Trials(part, self.functions, device))

        def of_all(part: Sequence[Trial], steps: int) -> None:
            for trial in part:
                progress(trial, steps)

        try:
            for trial, trace in checkpoints.train_many(
                trials, self.store, start, CHECKPOINT_SECONDS, self.stop_requested, of_all
            ):
                yield Trained(trial, kept(trial, trace, self, "stack"))
        except checkpoints.Interrupted:
            raise
        except Exception as error:  # of any kind, later than in the first step; a fault of the user's shows up again
            self.refused[shape] = stacked.first_line(error)
            log.warning(ONE_BY_ONE, trials[0].width, self.refused[shape])


def least(engine: Engine, device: str) -> float:
    """How many trials of one shape have to come together to be trained side by side.

    On a CPU `auto` has none: a trial's bits would depend on how many are left to train, and stacks are hardly faster there
    (docs/tuning.md).
    """
    return 2 if engine == "stack" or (engine == "auto" and device == "cuda") else math.inf


def served(trials: Iterable[Trial], store: Path | None) -> dict[Trial, Trained]:
    """Those that the store has."""
    found: dict[Trial, Trained] = {}
    if store is None:
        return found
    for trial in trials:
        if (kept := run_store.load_run(store, trial, trial.functions)) is not None:
            run_store.discard_checkpoint(store, trial)
            found[trial] = Trained(trial, kept, served=True)
    return found


def train(trial: Trial, where: Here, progress: Callable[[int], object]) -> Record:
    """Train a trial to its end, from its checkpoint if there is one, and keep it. Raises `Interrupted` when asked to stop."""
    path = None if where.store is None else run_store.checkpoint_path(where.store, trial)
    session = checkpoints.gone_on(path, lambda: start(trial, where.functions, torch.device(where.device)))
    keep = checkpoints.keeper(path, session, CHECKPOINT_SECONDS, where.stop_requested, progress)
    return kept(trial, finish(session, keep), where, "serial")


def kept(trial: Trial, trace: Trace, where: Here, engine: Literal["serial", "stack"]) -> Record:
    """What a trial left, as it is kept in the store, if there is one."""
    made = _recorded(trial, trace, where.device, engine)
    if where.store is not None:
        run_store.save_run(where.store, trial, made)
        run_store.discard_checkpoint(where.store, trial)
    return made


def start(trial: Trial, functions: Functions, device: torch.device) -> Session:
    """A trial before its first step. Torch's, NumPy's and Python's random numbers are those of its seed from here on."""
    seconds = Seconds()
    with seconds.timed("setup"):
        model = stacked.model_of(trial, functions).to(device)
        optimizer = make_optimizer(trial, model)
        seed_all(trial.seed)
        course = _course(trial, functions, model, optimizer, device)
        session = begin(model, optimizer, course, average=average_of(trial, optimizer))
    session.seconds = seconds
    return session


def _course(
    trial: Trial, functions: Functions, model: torch.nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> Course:
    return Course(
        name=trial.id,
        steps=trial.steps,
        evaluations=trial.evaluations,
        batches=lambda skip: functions.batches(trial.seed, device, skip),
        valid=functions.valid(device),
        objective=functions.objective,
        batchnorm_batches=list(
            islice(functions.batches(trial.seed, device), stacked.BATCHNORM_BATCHES if batchnorm_layers(model) else 0)
        ),
        at_y=False,  # nobody asks
        rate_factor=rate_factor_of(trial, optimizer),
        identity={"run": trial.id, "numerics": trial.numerics, "data": trial.functions, "device": device.type},
    )


def _recorded(trial: Trial, trace: Trace, device: str, engine: str) -> Record:
    if not math.isfinite(trace.initial_loss):
        raise CheckError(
            f"the validation loss is {trace.initial_loss} before the first step, at width {trial.width} and seed {trial.seed}; "
            "look at model, batches and loss"
        )
    row = {**trial.planned, "device": device, "engine": engine, **trace.row()}
    if trace.divergence == "above_start" and math.isfinite(trace.val_loss):
        # It ran to its end, and is judged by its loss: a rate too small to learn by is no rate that is too large.
        row |= {"status": "ok", "divergence": None}
    timing = {
        "run_id": trial.id,
        **{f"{phase}_seconds": seconds for phase, seconds in trace.seconds.items()},
        "flops": math.nan,
        "cpu": torch.cuda.get_device_name() if device == "cuda" else machine.cpu_name(),
    }
    return Record(row=row, timing=timing, curves=record.curves_table(trial.id, trace.curves))

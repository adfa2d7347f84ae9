"""Train one model: a model, an optimizer and batches in (`begin`), or a `Run` and its data (`start`); a `Trace` comes out.

Writes no file, reads no argument. Deterministic on a CPU: the same run gives the same bits, whatever was trained before it in
the process and however often it is evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from mufree.lab.data import Prepared
from mufree.lab.data.batches import Batch, train_batches
from mufree.lab.train.evaluate import OF_STUDIES, UNKNOWN, Objective, Score, held_out
from mufree.lab.train.network import by_layer, configure_torch, make_model, make_optimizer
from mufree.lab.train.ranks import ALONE, Ranks
from mufree.lab.train.watch import Curves, Seconds, Trace, TrainLoss, conclude
from mufree.optim import WeightAverage, evaluating, is_schedule_free, warmup_factor
from mufree.optim.averaging import time_constant
from mufree.optim.evaluation import batchnorm_layers
from mufree.study.plan import Run

if TYPE_CHECKING:
    from mufree.study.trials import Trial


@dataclass(frozen=True)
class Course:
    """What a model is trained and evaluated on, and how long; all tensors on the model's device."""

    name: str
    steps: int
    evaluations: int
    """How many there are, evenly spread, beside the one before the first step. Divides `steps`."""
    batches: Callable[[int], Iterator[Any]]
    """Training batches without end, from the one after so many steps on: (inputs, targets), or what the objective takes."""
    valid: Sequence[Any]
    objective: Objective
    test: Callable[[], Sequence[Any]] | None = None
    """The batches of the test split, which are read once, after the last step."""
    # The same batches at every evaluation, so that BatchNorm's statistics at x add no noise of their own.
    batchnorm_batches: Sequence[Any] = ()
    at_y: bool = True
    """Whether evaluations are also made at y."""
    rate_factor: Callable[[int], float] | None = None
    """What every group's learning rate is multiplied by at step k = 0, 1, …; None where the optimizer does so by itself."""
    identity: Mapping[str, str | int] = field(default_factory=dict)
    """What a checkpoint has to agree in to be gone on with."""

    @property
    def interval(self) -> int:
        """Steps from one evaluation to the next."""
        return self.steps // self.evaluations


@dataclass
class Session:
    """The live parts of one training."""

    course: Course
    ranks: Ranks
    model: nn.Module
    network: nn.Module
    """The model as a training step calls it, `ranks.replicate` of it."""
    optimizer: Optimizer
    average: WeightAverage | None
    peak_rates: list[float]
    """The groups' learning rates at a factor of 1."""
    stream: Iterator[Any]
    losses: TrainLoss
    curves: Curves
    step: int = 0
    """Optimizer steps taken."""
    stopped: str | None = None
    """The kind of divergence for which the run was given up."""
    score_x: Score = UNKNOWN
    score_y: Score = UNKNOWN
    """The latest evaluation, at x and at y."""
    seconds: Seconds = field(default_factory=Seconds)

    @property
    def name(self) -> str:
        """Whose training it is."""
        return self.course.name

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.course.steps

    def at_x(self) -> AbstractContextManager[None]:
        """Within it, the model has the weights that are evaluated: the average where there is one."""
        batches, forward = self.course.batchnorm_batches, self.course.objective.loss
        if self.average is not None:
            return self.average.evaluating(self.model, batches, forward)
        return evaluating(self.optimizer, self.model, batches, forward)

    @torch.no_grad()
    def score(self, batches: Sequence[Any]) -> Score:
        """What the model is worth as it is: mean loss and accuracy over all processes' batches."""
        objective, loss, right, total = self.course.objective, 0.0, 0.0, 0
        for batch in batches:
            (mean, hits_here), part = objective.judged(self.model, batch), objective.count(batch)
            loss, right, total = loss + float(mean) * part, right + float(hits_here), total + part
        losses, hits, targets_seen = self.ranks.sums(loss, right, total)
        return Score(losses / targets_seen, hits / targets_seen)

    def state_dict(self) -> dict[str, Any]:
        """All that a run carries from step to step beside its model and optimizer, in plain numbers, strings and tensors.

        The data's order isn't in it: it follows from the seed and the step.
        """
        return {
            "step": self.step,
            "stopped": self.stopped,
            "score_x": asdict(self.score_x),
            "score_y": asdict(self.score_y),
            "losses": asdict(self.losses),
            "average": None if self.average is None else self.average.state_dict(),
            "curves": self.curves.state_dict(),
            "seconds": dict(self.seconds),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, to the bit, once the model and the optimizer are what they were then."""
        self.step = state["step"]
        self.stopped = state["stopped"]
        self.score_x, self.score_y = Score(**state["score_x"]), Score(**state["score_y"])
        self.losses = TrainLoss(**state["losses"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.curves.load_state_dict(state["curves"])
        self.seconds.update(state["seconds"])
        self.stream = self.course.batches(self.step)


def train(run: Run, data: Prepared, *, device: str = "cpu") -> Trace:
    """Train `run` on `data` from its seed to its last step, or until it diverges beyond hope.

    Divergence is a status of the trace and never an exception. Raises `RuntimeError` where `device` isn't there: a run never
    moves to another kind of device by itself.
    """
    configure_torch()
    return finish(start(run, data, torch.device(device)))


def finish(session: Session, on_step: Callable[[], object] | None = None) -> Trace:
    """Train a session from where it is to its end; `train` tells the rest.

    `on_step()` is called after each step. The session is whole then: it can be saved there, and left by an exception.
    """
    if session.step == 0:
        evaluate(session)
        session.losses.initial = session.score_x.loss
    while session.step < session.steps and session.stopped is None:
        watched = (session.step + 1) % session.course.interval == 0
        with session.seconds.timed("train"):
            take_step(session, watched=watched)
        if watched and session.stopped is None:
            evaluate(session)
        if on_step is not None:
            on_step()
    if session.step == session.steps:
        session.curves.add_sqrt_v(session.step, session.optimizer)
    return conclude(
        session.losses,
        session.step,
        session.stopped,
        finite=all(bool(p.isfinite().all()) for p in session.model.parameters()),
        at_x=session.score_x,
        at_y=session.score_y,
        test=lambda: evaluate_test(session),
        curves=session.curves.series(),
        seconds=session.seconds,
    )


def start(run: Run, data: Prepared, device: torch.device, ranks: Ranks = ALONE) -> Session:
    """Model, optimizer and batches of a run, in that order: µP needs base shapes, then initialisation, then the optimizer.

    With several processes, each has all weights and its part of every batch. Raises `RanksError` where that isn't the same run.
    """
    seconds = Seconds()
    with seconds.timed("setup"):
        # Drawn on the CPU, so that every device starts from the same weights.
        model = make_model(run, data.classes).to(device)
        ranks.check(run.training.batch_size, model)
        optimizer = make_optimizer(run, model)
        course = _course(run, data, model, optimizer, device, ranks)
        session = begin(model, optimizer, course, average=average_of(run, optimizer), ranks=ranks)
    session.seconds = seconds
    return session


def average_of(run: Run | Trial, optimizer: Optimizer) -> WeightAverage | None:
    """The average of the weights that a run is evaluated at beside its optimizer, if there is one."""
    return WeightAverage(optimizer, time_constant(run.steps)) if run.method.average == "ema" else None


def rate_factor_of(run: Run | Trial, optimizer: Optimizer) -> Callable[[int], float] | None:
    """What the learning rates are multiplied by at step k = 0, 1, …; None where the optimizer does so by itself."""
    schedule, warmup, steps = run.method.schedule, run.warmup_steps, run.steps
    return None if is_schedule_free(optimizer) else lambda step: warmup_factor(schedule, step, warmup, steps)


def begin(
    model: nn.Module,
    optimizer: Optimizer,
    course: Course,
    *,
    average: WeightAverage | None = None,
    ranks: Ranks = ALONE,
) -> Session:
    """A session before its first step, for any model that the course has an objective for."""
    if is_schedule_free(optimizer):
        optimizer.train()  # type: ignore[attr-defined]
    return Session(
        course=course,
        ranks=ranks,
        model=model,
        network=ranks.replicate(model),
        optimizer=optimizer,
        average=average,
        peak_rates=[group["lr"] for group in optimizer.param_groups],
        stream=course.batches(0),
        losses=TrainLoss(initial=math.nan, steps=course.steps),
        curves=Curves(by_layer(course.objective.layers(model), dict(model.named_parameters()))),
    )


def take_step(session: Session, *, watched: bool) -> None:
    """One optimizer step. Sets `session.stopped` if the run has to stop."""
    model, optimizer, curves = session.model, session.optimizer, session.curves
    model.train()
    session.step += 1
    if session.course.rate_factor is not None:
        factor = session.course.rate_factor(session.step - 1)
        for group, peak in zip(optimizer.param_groups, session.peak_rates, strict=True):
            group["lr"] = peak * factor
    loss = session.course.objective.loss(session.network, next(session.stream))
    loss.backward()  # type: ignore[no-untyped-call]
    # Norms come before the step, since schedulefree overwrites gradients in place.
    grad_norm = float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
    before = curves.add_gradients(session.step) if watched else None
    optimizer.step()
    if session.average is not None:
        session.average.update()
    if before is not None:
        curves.add_updates(session.step, before)
    optimizer.zero_grad()
    train_loss = session.ranks.mean(float(loss.detach()))
    curves.add("train_loss", session.step, train_loss)
    curves.add("grad_norm", session.step, grad_norm)
    session.stopped = session.losses.take(train_loss, grad_norm)


def evaluate(session: Session) -> None:
    """Validation at x and at y, kept and recorded; for an optimizer with one set of weights and no average both are the same.

    At x are the weights that are reported, the average where there is one; at y those at which gradients are taken. At y,
    and where nothing is averaged, BatchNorm uses the statistics collected in training; at x they are computed anew.
    """
    with session.seconds.timed("evaluate"):
        with session.at_x():
            at_x = session.score(session.course.valid)
        at_y = at_x
        if session.course.at_y and (session.average is not None or is_schedule_free(session.optimizer)):
            session.model.eval()
            at_y = session.score(session.course.valid)
    session.score_x, session.score_y = at_x, at_y
    session.curves.add("val_loss", session.step, at_x.loss)
    session.curves.add("val_loss_y", session.step, at_y.loss)


def evaluate_test(session: Session) -> Score:
    """The test split at x, once, after the last step; unknown where the data set has none."""
    if session.course.test is None:
        return UNKNOWN
    with session.seconds.timed("evaluate"), session.at_x():
        return session.score(session.course.test())


def _course(
    run: Run, data: Prepared, model: nn.Module, optimizer: Optimizer, device: torch.device, ranks: Ranks
) -> Course:
    training, context = run.training, run.model.context

    def batches(skip: int) -> Iterator[Batch]:
        size = training.batch_size
        drawn = train_batches(data, batch_size=size, context_length=context, seed=run.seed, skip=skip)
        return ((ranks.part(inputs).to(device), ranks.part(targets).to(device)) for inputs, targets in drawn)

    return Course(
        name=run.id,
        steps=training.steps,
        evaluations=training.evaluations,
        batches=batches,
        valid=ranks.share(held_out(run, data, "valid", device)),
        objective=OF_STUDIES,
        test=None if data.test is None else lambda: ranks.share(held_out(run, data, "test", device)),
        batchnorm_batches=list(islice(batches(0), training.batchnorm_batches if batchnorm_layers(model) else 0)),
        rate_factor=rate_factor_of(run, optimizer),
        identity={"run": run.id, "numerics": run.numerics, "data": data.digest, "device": device.type},
    )

"""Train one model and watch it: a model, an optimizer and batches in (`begin`), or a `Run` and its data (`start`).

A `Trace` comes out. Writes no file, reads no argument.

Deterministic on a CPU: the same run gives the same bits, whatever was trained before it in the process and however often it
is evaluated.
"""

from __future__ import annotations

import inspect
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from mufree.lab import models
from mufree.lab.data import Prepared
from mufree.lab.data.batches import eval_batches, train_batches
from mufree.lab.parametrization import layer_types, parametrize
from mufree.lab.train.ranks import ALONE, Ranks
from mufree.optim import (
    MuAdamW,
    MuAdamW_ScheduleFree,
    MuRAdam_ScheduleFree,
    MuSGD,
    MuSGD_ScheduleFree,
    WeightAverage,
    evaluating,
    is_schedule_free,
    warmup_factor,
)
from mufree.optim.averaging import EMA_SHARE
from mufree.optim.groups import Params
from mufree.study import machine
from mufree.study.plan import Run

EVAL_BATCH = 256
REBOUND_FLOOR = 0.5  # nats; METRICS, "Diverged" (c)
REBOUND_SHARE = 0.1  # of the way from the start to the minimum
BLOWN_UP_STEPS = 50  # steps at more than twice the initial loss before a run is stopped

Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Score:
    """Mean loss (nats) and share of right classes or next tokens over the examples of an evaluation."""

    loss: float
    accuracy: float


UNKNOWN = Score(math.nan, math.nan)


@dataclass(frozen=True)
class Series:
    """One curve: `values[i]` (float64) at `steps[i]` (int32); `layer` is a layer type, or empty."""

    name: str
    layer: str
    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Trace:
    """What one run left behind. Losses in nats; NaN where a run was stopped before it could be measured."""

    status: str
    divergence: str | None
    steps_done: int
    initial_loss: float
    train_loss: float
    train_loss_min: float
    val_loss: float
    val_loss_y: float
    val_accuracy: float
    test_loss: float
    test_accuracy: float
    curves: list[Series]
    seconds: dict[str, float]
    """Wall seconds in `setup`, `train` and `evaluate`."""

    def row(self) -> dict[str, str | int | float | None]:
        """The part of a row that training decides, as `record.ROW_SCHEMA` names it."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("curves", "seconds")}


@dataclass
class TrainLoss:
    """The bias-corrected exponential mean of the train loss, and what METRICS needs of it to call a run diverged.

    The time constant is a twentieth of the run, at least ten steps.
    """

    initial: float
    steps: int
    mean: float = math.nan
    minimum: float = math.inf
    blown_up: int = 0
    _sum: float = 0.0
    _weight: float = 0.0

    def update(self, loss: float) -> None:
        """Take in the loss of one step."""
        decay = 1.0 - 1.0 / max(10.0, self.steps / 20)
        self._sum = decay * self._sum + (1 - decay) * loss
        self._weight = decay * self._weight + (1 - decay)
        self.mean = self._sum / self._weight
        self.minimum = min(self.minimum, self.mean)
        self.blown_up = self.blown_up + 1 if self.mean > 2 * self.initial else 0

    def take(self, loss: float, grad_norm: float) -> str | None:
        """Take in what a step gave; return the kind of divergence for which a run has to stop after it, or None."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return "nonfinite"
        self.update(loss)
        return "above_start" if self.hopeless else None

    def follow(self, losses: Iterable[float], grad_norms: Iterable[float]) -> tuple[str | None, int]:
        """Take in step after step until the run has to stop; return the kind of divergence, or None, and the steps it took."""
        step = 0
        for step, values in enumerate(zip(losses, grad_norms, strict=True), start=1):
            if (stopped := self.take(*values)) is not None:
                return stopped, step
        return None, step

    @property
    def hopeless(self) -> bool:
        """More than twice the initial loss for 50 steps: not worth going on."""
        return self.blown_up >= BLOWN_UP_STEPS

    def divergence(self) -> str | None:
        """The kind of divergence at the end of the run, by METRICS §2 (b) and (c), or None."""
        if self.mean >= self.initial:
            return "above_start"
        if self.mean > self.minimum + max(REBOUND_FLOOR, REBOUND_SHARE * (self.initial - self.minimum)):
            return "rebound"
        return None


@dataclass(frozen=True)
class Course:
    """What a model is trained and evaluated on, and how long; all tensors on the model's device."""

    name: str
    steps: int
    evaluations: int
    """How many there are, evenly spread, beside the one before the first step. Divides `steps`."""
    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]]
    """Training batches (inputs, targets) without end, from the one after so many steps on."""
    valid: Batches
    test: Callable[[], Batches] | None = None
    """The batches of the test split, which are read once, after the last step."""
    # The same batches at every evaluation, so that BatchNorm's statistics at x add no noise of their own.
    batchnorm_inputs: Sequence[Tensor] = ()
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
    layers: dict[str, list[Tensor]]
    peak_rates: list[float]
    """The groups' learning rates at a factor of 1."""
    stream: Iterator[tuple[Tensor, Tensor]]
    losses: TrainLoss
    step: int = 0
    """Optimizer steps taken."""
    stopped: str | None = None
    """The kind of divergence for which the run was given up."""
    score_x: Score = UNKNOWN
    score_y: Score = UNKNOWN
    """The latest evaluation, at x and at y."""
    points: dict[tuple[str, str], list[tuple[int, float]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"setup": 0.0, "train": 0.0, "evaluate": 0.0})

    def at_x(self) -> AbstractContextManager[None]:
        """Within it, the model has the weights that are evaluated: the average where there is one."""
        if self.average is not None:
            return self.average.evaluating(self.model, self.course.batchnorm_inputs)
        return evaluating(self.optimizer, self.model, self.course.batchnorm_inputs)

    def record(self, series: str, value: float, layer: str = "") -> None:
        """Add a point to a curve, at the step that the run is in."""
        self.points.setdefault((series, layer), []).append((self.step, value))

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
            "curves": [(*key, *_columns(points)) for key, points in self.points.items()],
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
        self.points = {
            (name, layer): list(zip(steps.tolist(), values.tolist(), strict=True))
            for name, layer, steps, values in state["curves"]
        }
        self.seconds = dict(state["seconds"])
        self.stream = self.course.batches(self.step)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the wall seconds of the block to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start


def train(run: Run, data: Prepared, *, device: str = "cpu", on_step: Callable[[], object] | None = None) -> Trace:
    """Train `run` on `data` from its seed to its last step, or until it diverges beyond hope.

    `on_step()` is called after each step. Divergence is a status of the trace and never an exception. Raises `RuntimeError`
    where `device` isn't there: a run never moves to another kind of device by itself.
    """
    configure_torch()
    return finish(start(run, data, torch.device(device)), on_step)


def finish(session: Session, on_step: Callable[[], object] | None = None) -> Trace:
    """Train a session from where it is to its end; `train` tells the rest.

    At each call of `on_step` the session is whole: it can be saved there, and left by an exception.
    """
    course, losses = session.course, session.losses
    if session.step == 0:
        evaluate(session)
        losses.initial = session.score_x.loss
    while session.step < course.steps and session.stopped is None:
        watched = (session.step + 1) % course.interval == 0
        with session.timed("train"):
            take_step(session, watched=watched)
        if watched and session.stopped is None:
            evaluate(session)
        if on_step is not None:
            on_step()
    stopped, at_x, at_y = session.stopped, session.score_x, session.score_y
    if stopped is not None:
        at_x = at_y = UNKNOWN
    elif not (math.isfinite(at_x.loss) and all(bool(p.isfinite().all()) for p in session.model.parameters())):
        stopped = "nonfinite"
    divergence = stopped or losses.divergence()
    if session.step == course.steps:
        _record_sqrt_v(session)
    test = evaluate_test(session) if stopped is None else UNKNOWN
    return Trace(
        status="ok" if divergence is None else "diverged",
        divergence=divergence,
        steps_done=session.step,
        initial_loss=losses.initial,
        train_loss=losses.mean,
        train_loss_min=losses.minimum,
        val_loss=at_x.loss,
        val_loss_y=at_y.loss,
        val_accuracy=at_x.accuracy,
        test_loss=test.loss,
        test_accuracy=test.accuracy,
        curves=[_series(name, layer, points) for (name, layer), points in session.points.items()],
        seconds=session.seconds,
    )


def configure_torch() -> None:
    """One thread, deterministic kernels, no denormals: what every run has, and its bits depend on. Memory is kept, too."""
    torch.set_num_threads(1)
    machine.keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
    # What torch.use_deterministic_algorithms(True) does for eager code; that also imports inductor, for seconds.
    torch.set_deterministic_debug_mode("error")
    # Else every new tensor is first filled with NaN.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    _leave_dynamo_out()
    torch.set_flush_denormal(True)  # the squared gradients of unused embeddings decay into them, and they are slow


def _leave_dynamo_out() -> None:
    """Keep torch.optim from importing torch.compile's machinery, which nothing here uses and which takes as long as torch.

    torch wraps a few methods of `Optimizer` so that their first call imports `torch._dynamo`, to tell it to leave them alone.
    The wrapper looks for this attribute first; where a later torch doesn't, the import happens as before.
    """
    for method in (Optimizer.add_param_group, Optimizer.zero_grad, Optimizer.state_dict, Optimizer.load_state_dict):
        plain = getattr(method, "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            setattr(plain, "__dynamo_disable", plain)
    for kind in (torch.optim.Adam, torch.optim.SGD):
        _step_without_dynamo(kind)


def _step_without_dynamo(kind: type[Optimizer]) -> None:
    """Replace a step whose wrapper marks a boundary for torch.compile, for which it imports all of it, by the same without."""
    plain = inspect.unwrap(kind.step)
    if "torch._dynamo" in sys.modules or getattr(kind.step, "plain", None) is plain:
        return

    def step(self: Optimizer, closure: Callable[[], float] | None = None) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return plain(self, closure)

    step.plain = plain  # type: ignore[attr-defined]
    kind.step = step  # type: ignore[method-assign]


def start(run: Run, data: Prepared, device: torch.device, ranks: Ranks = ALONE) -> Session:
    """Model, optimizer and batches of a run, in that order: µP needs base shapes, then initialisation, then the optimizer.

    With several processes, each has all weights and its part of every batch. Raises `RanksError` where that isn't the same run.
    """
    began = time.perf_counter()
    # Drawn on the CPU, so that every device starts from the same weights.
    model = make_model(run, data.classes).to(device)
    ranks.check(run.training.batch_size, model)
    optimizer = make_optimizer(run, model)
    time_constant = max(1.0, EMA_SHARE * run.training.steps)
    average = WeightAverage(optimizer, time_constant) if run.method.average == "ema" else None
    course = _course(run, data, model, optimizer, device, ranks)
    session = begin(model, optimizer, course, average=average, layers=layer_types(model), ranks=ranks)
    session.seconds["setup"] = time.perf_counter() - began
    return session


def begin(
    model: nn.Module,
    optimizer: Optimizer,
    course: Course,
    *,
    average: WeightAverage | None = None,
    layers: Mapping[str, str] | None = None,
    ranks: Ranks = ALONE,
) -> Session:
    """A session before its first step, for any model that gives logits [..., classes] for inputs.

    `layers` names the layer type of each parameter, by which norms are recorded; without it they are those of all `weights`.
    """
    if is_schedule_free(optimizer):
        optimizer.train()  # type: ignore[attr-defined]
    return Session(
        course=course,
        ranks=ranks,
        model=model,
        network=ranks.replicate(model),
        optimizer=optimizer,
        average=average,
        layers=_parameters_by_layer(model, layers or dict.fromkeys(dict(model.named_parameters()), "weights")),
        peak_rates=[group["lr"] for group in optimizer.param_groups],
        stream=course.batches(0),
        losses=TrainLoss(initial=math.nan, steps=course.steps),
    )


def _course(
    run: Run, data: Prepared, model: nn.Module, optimizer: Optimizer, device: torch.device, ranks: Ranks
) -> Course:
    schedule, warmup, steps = run.method.schedule, run.warmup_steps, run.training.steps
    return Course(
        name=run.id,
        steps=steps,
        evaluations=run.training.evaluations,
        batches=lambda skip: _stream(run, data, device, ranks, skip),
        valid=ranks.share(_held_out(run, data, "valid", device)),
        test=None if data.test is None else lambda: ranks.share(_held_out(run, data, "test", device)),
        batchnorm_inputs=_batchnorm_inputs(run, data, model, device),
        rate_factor=None if is_schedule_free(optimizer) else lambda step: warmup_factor(schedule, step, warmup, steps),
        identity={"run": run.id, "numerics": run.numerics, "data": data.digest, "device": device.type},
    )


def make_model(run: Run, classes: int) -> nn.Module:
    """The run's model, parametrized and initialised from its seed. Its weights are float32 whatever the precision."""
    model = parametrize(
        partial(models.build, run.model, classes=classes),
        width=run.width,
        base_width=run.base_width,
        parametrization=run.method.parametrization,
        seed=run.seed,
    )
    vars(model)["compute_dtype"] = getattr(torch, run.training.precision)
    return model


def make_optimizer(run: Run, model: nn.Module) -> Optimizer:
    """The run's optimizer. Under SP every multiplier is 1, so both parametrizations take the same way."""
    settings = run.optimizer
    shared: dict[str, Any] = {
        "params": _parameters_with_rates(run, model),
        "lr": run.lr,
        "weight_decay": settings.weight_decay,
        "decoupled_wd": settings.weight_decay_scaling == "independent",
    }
    adam: dict[str, Any] = {"betas": (settings.beta1, settings.beta2), "eps": settings.eps}
    match run.method.optimizer:
        case "adamw_schedulefree":
            return MuAdamW_ScheduleFree(warmup_steps=run.warmup_steps, **adam, **shared)
        case "radam_schedulefree":
            return MuRAdam_ScheduleFree(**adam, **shared)
        case "sgd_schedulefree":
            return MuSGD_ScheduleFree(momentum=settings.beta1, warmup_steps=run.warmup_steps, **shared)
        case "adamw":
            return MuAdamW(fused=True, **adam, **shared)
        case "sgd":
            return MuSGD(fused=True, momentum=settings.beta1, **shared)


def _parameters_with_rates(run: Run, model: nn.Module) -> Params:
    """The model's parameters; with embedding_lr "times_width", embedding layers as a group with a learning rate of its own."""
    if run.method.embedding_lr == "shared":
        return model.parameters()
    layers = _parameters_by_layer(model, layer_types(model))
    embeddings = layers.pop("embedding", [])
    others = [parameter for parameters in layers.values() for parameter in parameters]
    groups: list[dict[str, Any]] = [
        {"params": embeddings, "lr": run.lr * run.width / run.base_width},
        {"params": others},
    ]
    return groups


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats, in float32 whatever the logits are. logits [..., classes], targets [...]."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten())


def take_step(session: Session, *, watched: bool) -> None:
    """One optimizer step. Sets `session.stopped` if the run has to stop."""
    model, optimizer = session.model, session.optimizer
    model.train()
    session.step += 1
    _set_learning_rate(session)
    inputs, targets = next(session.stream)
    loss = cross_entropy(session.network(inputs), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    # Norms come before the step, since schedulefree overwrites gradients in place.
    grad_norm = float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
    before = _record_gradients(session) if watched else None
    optimizer.step()
    if session.average is not None:
        session.average.update()
    if before is not None:
        _record_updates(session, before)
    optimizer.zero_grad()
    train_loss = session.ranks.mean(float(loss.detach()))
    session.record("train_loss", train_loss)
    session.record("grad_norm", grad_norm)
    session.stopped = session.losses.take(train_loss, grad_norm)


def evaluate(session: Session) -> None:
    """Validation at x and at y, kept and recorded; for an optimizer with one set of weights and no average both are the same.

    At x are the weights that are reported, the average where there is one; at y those at which gradients are taken. At y,
    and where nothing is averaged, BatchNorm uses the statistics collected in training; at x they are computed anew.
    """
    with session.timed("evaluate"):
        with session.at_x():
            at_x = score(session.model, session.course.valid, session.ranks)
        at_y = at_x
        if session.average is not None or is_schedule_free(session.optimizer):
            session.model.eval()
            at_y = score(session.model, session.course.valid, session.ranks)
    session.score_x, session.score_y = at_x, at_y
    session.record("val_loss", at_x.loss)
    session.record("val_loss_y", at_y.loss)


def evaluate_test(session: Session) -> Score:
    """The test split at x, once, after the last step; unknown where the data set has none."""
    if session.course.test is None:
        return UNKNOWN
    with session.timed("evaluate"), session.at_x():
        return score(session.model, session.course.test(), session.ranks)


@torch.no_grad()
def score(model: nn.Module, batches: Batches, ranks: Ranks = ALONE) -> Score:
    """Mean loss and accuracy over all processes' batches (inputs, targets), weighted by their number of targets."""
    loss, right, count = 0.0, 0, 0
    for inputs, targets in batches:
        logits = model(inputs)
        loss += float(cross_entropy(logits, targets)) * targets.numel()
        right += int((logits.argmax(-1) == targets).sum())
        count += targets.numel()
    losses, hits, targets_seen = ranks.sums(loss, right, count)
    return Score(losses / targets_seen, hits / targets_seen)


def _set_learning_rate(session: Session) -> None:
    if session.course.rate_factor is None:
        return
    factor = session.course.rate_factor(session.step - 1)
    for group, peak in zip(session.optimizer.param_groups, session.peak_rates, strict=True):
        group["lr"] = peak * factor


def _stream(run: Run, data: Prepared, device: torch.device, ranks: Ranks, skip: int) -> Iterator[tuple[Tensor, Tensor]]:
    batches = train_batches(
        data, batch_size=run.training.batch_size, context_length=run.model.context, seed=run.seed, skip=skip
    )
    return ((ranks.part(inputs).to(device), ranks.part(targets).to(device)) for inputs, targets in batches)


def _held_out(run: Run, data: Prepared, split: Literal["valid", "test"], device: torch.device) -> Batches:
    batches = eval_batches(
        data,
        split,
        examples=run.training.eval_examples,
        batch_size=EVAL_BATCH,
        context_length=run.model.context,
    )
    return [(inputs.to(device), targets.to(device)) for inputs, targets in batches]


def _batchnorm_inputs(run: Run, data: Prepared, model: nn.Module, device: torch.device) -> list[Tensor]:
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return []
    batches = train_batches(data, batch_size=run.training.batch_size, context_length=None, seed=run.seed)
    return [inputs.to(device) for inputs, _ in islice(batches, run.training.batchnorm_batches)]


def _parameters_by_layer(model: nn.Module, types: Mapping[str, str]) -> dict[str, list[Tensor]]:
    layers: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        layers.setdefault(types[name], []).append(parameter)
    return layers


@torch.no_grad()
def _record_gradients(session: Session) -> dict[str, list[Tensor]]:
    """Record the RMS of gradients and weights by layer type; return the weights before the step."""
    for layer, parameters in session.layers.items():
        session.record("grad_rms", _rms([p.grad for p in parameters if p.grad is not None]), layer)
        session.record("weight_rms", _rms(parameters), layer)
    return {layer: [p.clone() for p in parameters] for layer, parameters in session.layers.items()}


@torch.no_grad()
def _record_updates(session: Session, before: dict[str, list[Tensor]]) -> None:
    for layer, parameters in session.layers.items():
        session.record("update_rms", _rms(torch._foreach_sub(parameters, before[layer])), layer)


@torch.no_grad()
def _record_sqrt_v(session: Session) -> None:
    """Record what Adam divides by, and ε has to be small beside: the median of √v by layer type.

    v is the bias-corrected running mean of squared gradients. Weights that never got a gradient (tokens that did not occur,
    units that never fired) are left out: they don't move, whatever ε is. Optimizers that keep no v have no such curve.
    """
    if "betas" not in session.optimizer.defaults:
        return
    correction = 1 - session.optimizer.defaults["betas"][1] ** session.step
    for layer, parameters in session.layers.items():
        states = [session.optimizer.state.get(p, {}) for p in parameters]
        roots = [(state["exp_avg_sq"] / correction).sqrt().flatten() for state in states if "exp_avg_sq" in state]
        moved = torch.cat(roots).cpu().numpy() if roots else np.empty(0)
        moved = moved[moved > 0]
        if moved.size:
            session.record("sqrt_v", float(np.median(moved)), layer)


def _rms(tensors: Sequence[Tensor]) -> float:
    """Root mean square over all elements of some tensors."""
    count = sum(tensor.numel() for tensor in tensors)
    return float(torch.nn.utils.get_total_norm(tensors)) / math.sqrt(count) if count else math.nan


def _columns(points: list[tuple[int, float]]) -> tuple[Tensor, Tensor]:
    steps, values = zip(*points, strict=True)
    return torch.tensor(steps, dtype=torch.int64), torch.tensor(values, dtype=torch.float64)


def _series(name: str, layer: str, points: list[tuple[int, float]]) -> Series:
    steps, values = zip(*points, strict=True)
    return Series(name, layer, np.asarray(steps, dtype=np.int32), np.asarray(values, dtype=np.float64))

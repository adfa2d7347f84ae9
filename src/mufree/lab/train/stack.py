"""Many runs at once: those that differ in numbers alone are trained side by side, a step of all of them at a time.

Weights are [N, ...] and the model is the ordinary one, called for all N by `torch.vmap`. Between two evaluations nothing waits
for the host: batches are gathered on the device, what the optimizers need is worked out beforehand, losses and norms are kept
on the device. A run that diverges does no harm to the others, so it goes on to the end, and what came after is left out.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from mup import MuReadout
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from mufree.lab.data import Prepared
from mufree.lab.data.batches import Batch, Resident, chunks, eval_order, train_order
from mufree.lab.models import kernels
from mufree.lab.parametrization import layer_types
from mufree.lab.train.run import (
    EVAL_BATCH,
    Series,
    Trace,
    TrainLoss,
    configure_torch,
    cross_entropy,
    make_model,
    make_optimizer,
)
from mufree.lab.train.updates import UPDATES, Columns, Weights, at_x, like
from mufree.optim.averaging import EMA_SHARE
from mufree.study.plan import Run

Log = NDArray[np.float64]
WATCHED = ("grad_rms", "weight_rms", "update_rms")
LAUNCHED = 3
"""Steps that a GPU takes kernel by kernel before one is captured: libraries set themselves up in the first."""

log = logging.getLogger(__name__)


def train_stack(
    runs: Sequence[Run],
    data: Prepared,
    *,
    device: str = "cpu",
    on_step: Callable[[], object] | None = None,
) -> list[Trace]:
    """Train runs of one stack (`plan.stacks`) to their last step; return what `train` would have for each, in their order.

    `on_step()` is called after each step of all of them. Raises `torch.OutOfMemoryError` where the device is too small.
    """
    configure_torch()
    return finish(Stack(runs, data, torch.device(device)), on_step)


def finish(stack: Stack, on_step: Callable[[], object] | None = None) -> list[Trace]:
    """Train a stack from where it is to its end. At each call of `on_step` it is whole: it can be saved there, and left."""
    if not stack.evaluations:
        stack.evaluate()
    while stack.step < stack.steps:
        stack.take_step()
        if on_step is not None:
            on_step()
    return stack.traces()


@dataclass(frozen=True)
class Evaluation:
    """Losses and accuracies of all runs, [N] each, after so many steps."""

    step: int
    loss_x: Log
    accuracy_x: Log
    loss_y: Log


class Stack:
    """The live parts of N runs."""

    def __init__(self, runs: Sequence[Run], data: Prepared, device: torch.device) -> None:
        began = time.perf_counter()
        first = runs[0]
        # A product of one matrix is summed in another order than each of several, and a run's numbers mustn't depend on how
        # many others it is trained with: one alone is trained beside itself.
        self.asked_for = len(runs)
        self.runs, self.data, self.device = [*runs, *(runs if len(runs) == 1 else ())], data, device
        self.steps, self.interval = first.training.steps, first.training.steps // first.training.evaluations
        self.update = UPDATES[first.method.optimizer]
        self.step = 0
        self.launched = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.captures = device.type == "cuda"
        self.evaluations: list[Evaluation] = []
        self.watches: list[tuple[int, Log]] = []
        self.logs: list[Log] = []
        """Losses and gradient norms, [2, steps, N] a piece."""
        self.seconds = {"setup": 0.0, "train": 0.0, "evaluate": 0.0}
        self._make_networks()
        self._make_optimizers()
        self._read_data()
        self.seconds["setup"] = time.perf_counter() - began

    # --- what there is at the start -----------------------------------------------------------------------------------

    def _make_networks(self) -> None:
        """Weights and buffers of all runs on the device, drawn on the CPU; runs that start alike are drawn once."""
        self.weights: Weights = {}
        self.buffers: Weights = {}
        self.rates: Weights = {}
        self.decays: Weights = {}
        drawn: dict[tuple[int, str], list[int]] = {}
        for place, run in enumerate(self.runs):
            drawn.setdefault((run.seed, run.method.parametrization), []).append(place)
        for places in drawn.values():
            model = make_model(self.runs[places[0]], self.data.classes)
            if not self.weights:
                self._allocate(model)
            self._check_alike(model)
            at = torch.tensor(places, device=self.device)
            for kind, tensors in ((self.weights, model.named_parameters()), (self.buffers, model.named_buffers())):
                for name, tensor in tensors:
                    kind[name].data[at] = tensor.detach().to(self.device)
            for name, module in _readouts(model).items():
                self.readout_scales[name][at] = float(module.output_mult) / float(module.width_mult())
            for place in places:
                self._read_rates(place, model)

    def _allocate(self, model: nn.Module) -> None:
        count = len(self.runs)

        def stacked(tensor: Tensor) -> Tensor:
            return torch.empty(count, *tensor.shape, dtype=tensor.dtype, device=self.device)

        self.weights = {name: stacked(p.detach()).requires_grad_() for name, p in model.named_parameters()}
        self.buffers = {name: stacked(b) for name, b in model.named_buffers()}
        column = torch.ones(count, device=self.device)
        self.rates = {name: column.clone() for name in self.weights}
        self.decays = {name: column.clone() for name in self.weights}
        self.layers: dict[str, list[str]] = {}
        for name, kind in layer_types(model).items():
            self.layers.setdefault(kind, []).append(name)
        # A weight that vmap puts in a readout's place has no base shape. Its multiplier differs from run to run, and is applied
        # to the weight, so that the network itself has none.
        self.readout_scales = {name: column.clone() for name in _readouts(model)}
        self.network = copy.deepcopy(model).to(self.device)
        for module in _readouts(self.network).values():
            module.output_mult = 1.0
            vars(module)["width_mult"] = lambda: 1.0
        self.batchnorms = [module for module in self.network.modules() if isinstance(module, _BatchNorm)]

    def _check_alike(self, model: nn.Module) -> None:
        for (name, mine), other in zip(self.network.named_modules(), model.modules(), strict=True):
            if getattr(mine, "scale", None) != getattr(other, "scale", None):
                raise ValueError(f"attention's scale in {name} differs between runs, which can't share a stack then")

    def _read_rates(self, place: int, model: nn.Module) -> None:
        """Learning rates and weight decays by tensor, as the run's own optimizer has them."""
        names = {id(p): name for name, p in model.named_parameters()}
        for group in make_optimizer(self.runs[place], model).param_groups:
            for p in group["params"]:
                self.rates[names[id(p)]][place] = group["lr"]
                self.decays[names[id(p)]][place] = group["weight_decay"]

    def _make_optimizers(self) -> None:
        settings = [run.optimizer for run in self.runs]
        self.beta1, self.beta2, self.eps = (
            torch.tensor([getattr(s, name) for s in settings], device=self.device) for name in ("beta1", "beta2", "eps")
        )
        self.state = {
            kind: {
                name: w.detach().clone() if kind in self.update.starts_at_weights else torch.zeros_like(w)
                for name, w in self.weights.items()
            }
            for kind in self.update.state
        }
        self.decaying = any(bool(decay.any()) for decay in self.decays.values())
        averaged = self.runs[0].method.average == "ema"
        self.average = {name: w.detach().clone() for name, w in self.weights.items()} if averaged else None

    def _read_data(self) -> None:
        first, context = self.runs[0], self.runs[0].model.context
        self.seeds = sorted({run.seed for run in self.runs})
        self.seed_of = torch.tensor([self.seeds.index(run.seed) for run in self.runs], device=self.device)
        self.train = Resident(self.data, self.data.train, context, self.device)
        self.order = torch.empty(
            self.interval, len(self.seeds), first.training.batch_size, dtype=torch.int64, device=self.device
        )
        scalars = self.update.scalars(first, np.arange(1)).shape[-1]
        self.scalars = torch.empty(self.interval, scalars, len(self.runs), device=self.device)
        self.ema_shares = torch.ones(self.interval, device=self.device)
        self.cursor = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.log = torch.empty(2, self.interval, len(self.runs), device=self.device)
        self.watch = torch.empty(len(WATCHED), len(self.layers), len(self.runs), device=self.device)
        self.valid = self._held_out("valid")
        self.batchnorm_inputs = self._batchnorm_inputs() if self.batchnorms else []
        self._begin_at(0)

    def _begin_at(self, step: int) -> None:
        """Go on with the batches that come after so many steps."""
        first = self.runs[0]
        self.step = step
        self.orders = [
            train_order(
                self.data,
                batch_size=first.training.batch_size,
                context_length=first.model.context,
                seed=seed,
                skip=step,
            )
            for seed in self.seeds
        ]
        self._prepare_interval()

    def _held_out(self, split: Literal["valid", "test"]) -> list[Batch]:
        training, context = self.runs[0].training, self.runs[0].model.context
        chosen, rows = eval_order(self.data, split, examples=training.eval_examples, context_length=context)
        resident = Resident(self.data, chosen, context, self.device)
        return [resident.batch(torch.from_numpy(part).to(self.device)) for part in chunks(rows, EVAL_BATCH)]

    def _batchnorm_inputs(self) -> list[Tensor]:
        """The first training batches of each run, [S, B, ...] each."""
        training = self.runs[0].training
        orders = [
            train_order(self.data, batch_size=training.batch_size, context_length=None, seed=seed)
            for seed in self.seeds
        ]
        rows = [np.stack([next(order) for order in orders]) for _ in range(training.batchnorm_batches)]
        return [self.train.batch(torch.from_numpy(part).to(self.device))[0] for part in rows]

    # --- training -----------------------------------------------------------------------------------------------------

    def _prepare_interval(self) -> None:
        """Put on the device what the steps until the next evaluation need: the order of examples, the optimizers' scalars."""
        first = self.step % self.interval
        count = self.interval - first
        if self.step >= self.steps:
            return
        steps = np.arange(self.step, self.step + count)
        rows = np.stack([np.stack([next(order) for order in self.orders]) for _ in range(count)])
        self.order[first:] = torch.from_numpy(rows).to(self.device)
        by_settings: dict[str, NDArray[np.float64]] = {}
        for place, run in enumerate(self.runs):
            key = f"{run.method.schedule} {run.optimizer.beta1} {run.optimizer.beta2}"
            if key not in by_settings:
                by_settings[key] = self.update.scalars(run, steps)
            self.scalars[first:, :, place] = torch.from_numpy(by_settings[key]).to(self.scalars)
        time_constant = max(1.0, EMA_SHARE * self.steps)
        self.ema_shares[first:] = torch.from_numpy(np.maximum(1 / (steps + 1), 1 / time_constant)).to(self.ema_shares)
        self.cursor.fill_(first)

    def take_step(self) -> None:
        """One step of every run; at the end of an interval they are evaluated, too."""
        watched = (self.step + 1) % self.interval == 0
        with self._timed("train"):
            self.network.train()
            graph = None if watched else self._captured()
            if graph is None:
                self._advance(watched)
            else:
                graph.replay()
            self.step += 1
            if watched:
                self._collect()  # waits for the device, so that what it still had to do counts as training
        if watched:
            self.evaluate()
            self._prepare_interval()

    def _captured(self) -> torch.cuda.CUDAGraph | None:
        """A step as a graph, if there is one: on a GPU, launching its kernels one by one takes longer than they do."""
        if self.captures and self.graph is None:
            self.launched += 1
            if self.launched > LAUNCHED:
                self._capture()
        return self.graph

    def _capture(self) -> None:
        """Record a step without taking it. All that changes from step to step is read from tensors that stay in place."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._advance(watched=False)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.captures = False
            log.warning("a step can't be captured as a CUDA graph (%s); its kernels are launched one by one", error)
        else:
            self.graph = graph

    def _advance(self, watched: bool) -> None:
        at = self.cursor
        losses = self._losses(*self.train.batch(self.order.index_select(0, at)[0]))
        gradients = dict(zip(self.weights, torch.autograd.grad(losses.sum(), list(self.weights.values())), strict=True))
        with torch.no_grad():
            norms = torch.linalg.vector_norm(torch.stack([_norms(g) for g in gradients.values()]), dim=0)
            self.log.index_copy_(1, at, torch.stack([losses, norms])[:, None])
            before = {name: w.clone() for name, w in self.weights.items()} if watched else {}
            if watched:  # the step overwrites gradients
                self.watch[0].copy_(self._rms(gradients))
                self.watch[1].copy_(self._rms(before))
            self._update(gradients, self.scalars.index_select(0, at)[0])
            if self.average is not None:
                share = self.ema_shares.index_select(0, at)
                for name, average in self.average.items():
                    average.lerp_(self.weights[name], share)
            if watched:
                self.watch[2].copy_(self._rms({name: w - before[name] for name, w in self.weights.items()}))
            at.add_(1)

    def _update(self, gradients: Weights, scalars: Tensor) -> None:
        for name, weight in self.weights.items():
            factor, *others = (like(column, weight) for column in scalars)
            columns = Columns(
                rate=like(self.rates[name], weight) * factor,
                decay=like(self.decays[name], weight) if self.decaying else None,
                beta1=like(self.beta1, weight),
                beta2=like(self.beta2, weight),
                eps=like(self.eps, weight),
                scalars=others,
            )
            self.update.step(weight, gradients[name], {kind: s[name] for kind, s in self.state.items()}, columns)

    def _rms(self, tensors: Weights) -> Tensor:
        """Root mean square by layer type and run, [L, N]."""
        return torch.stack(
            [
                torch.linalg.vector_norm(torch.stack([_norms(tensors[name]) for name in names]), dim=0)
                / math.sqrt(sum(tensors[name][0].numel() for name in names))
                for names in self.layers.values()
            ]
        )

    def _each(self, function: Callable[..., Any], weights: Weights, buffers: Weights, *batch: Tensor, own: bool) -> Any:
        """`function(network, *batch)` for every run's network: all of them the same batch, or each its `own` of [N, ...]."""

        def of_one(mine: Weights, kept: Weights, scales: Weights, *inputs: Tensor) -> Any:
            scaled = mine | {name: mine[name] * scale for name, scale in scales.items()}
            return function(lambda h: functional_call(self.network, (scaled, kept), (h,)), *inputs)

        in_dims = (0, 0, 0, *(0 if own else None for _ in batch))
        with kernels.side_by_side():
            return torch.vmap(of_one, in_dims=in_dims)(weights, buffers, self.readout_scales, *batch)

    def _losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Training loss of every run, [N], on batches [S, ...], one a seed."""

        def loss(network: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(network(x), y)

        batch = (part.index_select(0, self.seed_of) for part in (inputs, targets))
        losses: Tensor = self._each(loss, self.weights, self.buffers, *batch, own=True)
        return losses

    def _collect(self) -> None:
        """Take what the device has noted since the last time."""
        noted = sum(piece.shape[1] for piece in self.logs)
        if noted == self.step and self.logs:
            return
        first = noted % self.interval
        self.logs.append(self.log[:, first : first + self.step - noted].cpu().numpy().astype(np.float64))
        if self.step % self.interval == 0 and self.step:
            self.watches.append((self.step, self.watch.cpu().numpy().astype(np.float64)))

    # --- what is carried from step to step ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that the runs carry from step to step, in plain numbers and tensors. The data's order follows from the step."""
        self._collect()
        return {
            "step": self.step,
            "weights": {name: w.detach() for name, w in self.weights.items()},
            "buffers": self.buffers,
            "state": self.state,
            "average": self.average,
            "log": torch.from_numpy(np.concatenate(self.logs, axis=1)),
            "watches": [(step, torch.from_numpy(values)) for step, values in self.watches],
            "evaluations": [
                (e.step, *map(torch.from_numpy, (e.loss_x, e.accuracy_x, e.loss_y))) for e in self.evaluations
            ],
            "seconds": dict(self.seconds),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, to the bit."""
        for mine, theirs in (
            (self.weights, state["weights"]),
            (self.buffers, state["buffers"]),
            *((self.state[kind], tensors) for kind, tensors in state["state"].items()),
            *([(self.average, state["average"])] if self.average is not None else []),
        ):
            for name, tensor in mine.items():
                tensor.copy_(theirs[name])
        self.logs = [state["log"].numpy()]
        self.watches = [(step, values.numpy()) for step, values in state["watches"]]
        self.evaluations = [Evaluation(step, *(v.numpy() for v in values)) for step, *values in state["evaluations"]]
        self.seconds = dict(state["seconds"])
        self._begin_at(state["step"])

    # --- evaluation ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self) -> None:
        """Validation at x and at y, as `train.evaluate` has it."""
        with self._timed("evaluate"):
            weights, buffers = self._at_x()
            loss_x, accuracy_x = self._score(weights, buffers, self.valid)
            loss_y = self._score(self.weights, self.buffers, self.valid)[0] if self._two_points else loss_x
        self.evaluations.append(Evaluation(self.step, loss_x, accuracy_x, loss_y))

    @property
    def _two_points(self) -> bool:
        return self.update.averages or self.average is not None

    def _at_x(self) -> tuple[Weights, Weights]:
        """Weights and buffers that are evaluated; BatchNorm's statistics are computed anew where there is an average."""
        if not self._two_points:
            return self.weights, self.buffers
        weights = self.average or {name: at_x(y, self.state["z"][name], self.beta1) for name, y in self.weights.items()}
        return weights, self._statistics_at(weights)

    def _statistics_at(self, weights: Weights) -> Weights:
        """BatchNorm's statistics at some weights: the mean over the batches that are kept for it."""
        if not self.batchnorms:
            return self.buffers
        totals = {name: torch.zeros_like(b) for name, b in self.buffers.items()}
        momenta = [module.momentum for module in self.batchnorms]
        self.network.eval()
        for module in self.batchnorms:
            module.train()
            module.momentum = 1.0  # a batch's own statistics
        for inputs in self.batchnorm_inputs:
            of_batch = {name: torch.zeros_like(b) for name, b in self.buffers.items()}
            self._each(lambda network, x: network(x), weights, of_batch, inputs.index_select(0, self.seed_of), own=True)
            for name, total in totals.items():
                total.add_(of_batch[name])
        for module, momentum in zip(self.batchnorms, momenta, strict=True):
            module.momentum = momentum
        count = len(self.batchnorm_inputs)
        return {name: t / count if t.is_floating_point() else t for name, t in totals.items()}

    def _score(self, weights: Weights, buffers: Weights, batches: Sequence[Batch]) -> tuple[Log, Log]:
        """Mean loss and accuracy of every run, [N] each."""

        def score(network: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            logits = network(inputs)
            return cross_entropy(logits, targets), (logits.argmax(-1) == targets).sum()

        self.network.eval()
        totals = torch.zeros(2, len(self.runs), dtype=torch.float64, device=self.device)
        for inputs, targets in batches:
            losses, right = self._each(score, weights, buffers, inputs, targets, own=False)
            totals += torch.stack([losses.double() * targets.numel(), right.double()])
        loss, accuracy = (totals / sum(targets.numel() for _, targets in batches)).cpu().numpy()
        return loss, accuracy

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start

    # --- what is left -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def traces(self) -> list[Trace]:
        """What each run left behind, once all steps are taken."""
        tests: tuple[Log, Log] | None = None
        if self.data.test is not None:
            with self._timed("evaluate"):
                tests = self._score(*self._at_x(), self._held_out("test"))
        finite = torch.stack([w.isfinite().flatten(1).all(1) for w in self.weights.values()]).all(0).cpu().numpy()
        logs = np.concatenate(self.logs, axis=1)
        return [self._trace(place, logs[:, :, place], bool(finite[place]), tests) for place in range(self.asked_for)]

    def _trace(self, place: int, log: Log, finite: bool, tests: tuple[Log, Log] | None) -> Trace:
        losses = TrainLoss(initial=float(self.evaluations[0].loss_x[place]), steps=self.steps)
        stopped, done = losses.follow(*log)
        seen = [e for e in self.evaluations if e.step < done or (e.step == done and stopped is None)]
        last = seen[-1]
        at_x, accuracy, at_y = last.loss_x[place], last.accuracy_x[place], last.loss_y[place]
        test_loss, test_accuracy = (t[place] for t in tests) if tests else (math.nan, math.nan)
        if stopped is not None:
            at_x = accuracy = at_y = math.nan
        elif not (math.isfinite(at_x) and finite):
            stopped = "nonfinite"
        if stopped is not None:
            test_loss = test_accuracy = math.nan
        divergence = stopped or losses.divergence()
        return Trace(
            status="ok" if divergence is None else "diverged",
            divergence=divergence,
            steps_done=done,
            initial_loss=losses.initial,
            train_loss=losses.mean,
            train_loss_min=losses.minimum,
            val_loss=float(at_x),
            val_loss_y=float(at_y),
            val_accuracy=float(accuracy),
            test_loss=float(test_loss),
            test_accuracy=float(test_accuracy),
            curves=self._curves(place, log, done, seen),
            seconds={phase: seconds / self.asked_for for phase, seconds in self.seconds.items()},
        )

    def _curves(self, place: int, log: Log, done: int, seen: Sequence[Evaluation]) -> list[Series]:
        evaluated, steps = [e.step for e in seen], np.arange(1, done + 1)
        found = [
            _series("val_loss", "", evaluated, [e.loss_x[place] for e in seen]),
            _series("val_loss_y", "", evaluated, [e.loss_y[place] for e in seen]),
            _series("train_loss", "", steps, log[0, :done]),
            _series("grad_norm", "", steps, log[1, :done]),
        ]
        watches = [(step, values[:, :, place]) for step, values in self.watches if step <= done]
        for kind, name in enumerate(WATCHED):
            for number, layer in enumerate(self.layers):
                if watches:
                    at = [step for step, _ in watches]
                    found.append(_series(name, layer, at, [values[kind, number] for _, values in watches]))
        if done == self.steps:
            found += self._sqrt_v(place)
        return found

    def _sqrt_v(self, place: int) -> list[Series]:
        """As `train` records it: the median of √v by layer type, of the weights that ever got a gradient."""
        squares = self.state.get("exp_avg_sq")
        if squares is None:
            return []
        correction = 1 - self.runs[place].optimizer.beta2 ** self.steps
        found = []
        for layer, names in self.layers.items():
            roots = torch.cat([(squares[name][place] / correction).sqrt().flatten() for name in names]).cpu().numpy()
            if (moved := roots[roots > 0]).size:
                found.append(_series("sqrt_v", layer, [self.steps], [float(np.median(moved))]))
        return found


def _norms(tensor: Tensor) -> Tensor:
    """Euclidean norm of every run's part, [N, ...] → [N]."""
    norms: Tensor = torch.linalg.vector_norm(tensor.flatten(1), dim=1)
    return norms


def _readouts(model: nn.Module) -> dict[str, MuReadout]:
    """Readouts by the name of their weight."""
    return {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, MuReadout)}


def _series(name: str, layer: str, steps: Any, values: Any) -> Series:
    return Series(name, layer, np.asarray(steps, dtype=np.int32), np.asarray(values, dtype=np.float64))

"""Many runs at once: those that differ in numbers alone are trained side by side, a step of all of them at a time.

Between two evaluations nothing waits for the host: batches are gathered on the device, what the optimizers need is worked out
beforehand, losses and norms are kept on the device. A run that diverges does no harm to the others, so it goes on to the end,
and what came after is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mufree.lab.data import Prepared
from mufree.lab.data.batches import Batch, Examples, train_order
from mufree.lab.data.prepared import Array
from mufree.lab.train.evaluate import UNKNOWN, Score, held_out
from mufree.lab.train.network import configure_torch
from mufree.lab.train.ranks import ALONE
from mufree.lab.train.side_by_side import Log, Networks, total_norm
from mufree.lab.train.updates import UPDATES, Columns, Weights, at_x, like
from mufree.lab.train.watch import Seconds, Series, Trace, TrainLoss, conclude, series, sqrt_v
from mufree.optim.averaging import EMA_SHARE
from mufree.study.plan import Run

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
    """Train runs of one stack (`jobs.stacks`) to their last step; return what `train` would have for each, in their order.

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

    ranks = ALONE

    def __init__(self, runs: Sequence[Run], data: Prepared, device: torch.device) -> None:
        self.seconds = Seconds()
        with self.seconds.timed("setup"):
            # A product of one matrix is summed in another order than each of several, and a run's numbers mustn't depend on how
            # many others it is trained with: one alone is trained beside itself.
            self.asked_for = len(runs)
            self.name = f"a stack of {len(runs)} runs"
            self.runs, self.data, self.device = [*runs, *(runs if len(runs) == 1 else ())], data, device
            self.training, self.context = runs[0].training, runs[0].model.context
            self.steps, self.interval = self.training.steps, self.training.steps // self.training.evaluations
            self.update = UPDATES[runs[0].method.optimizer]
            self.launched = 0
            self.graph: torch.cuda.CUDAGraph | None = None
            self.captures = device.type == "cuda"
            self.evaluations: list[Evaluation] = []
            self.watches: list[tuple[int, Log]] = []
            self.logs: list[Log] = []
            """Losses and gradient norms, [2, steps, N] a piece."""
            self.networks = Networks(self.runs, data.classes, device)
            self._make_optimizers()
            self._read_data()

    # --- what there is at the start -----------------------------------------------------------------------------------

    def _make_optimizers(self) -> None:
        settings, weights = [run.optimizer for run in self.runs], self.networks.weights
        self.beta1, self.beta2, self.eps = (
            torch.tensor([getattr(s, name) for s in settings], device=self.device) for name in ("beta1", "beta2", "eps")
        )
        self.state = {
            kind: {
                name: w.detach().clone() if kind in self.update.starts_at_weights else torch.zeros_like(w)
                for name, w in weights.items()
            }
            for kind in self.update.state
        }
        self.decaying = any(bool(decay.any()) for decay in self.networks.decays.values())
        averaged = self.runs[0].method.average == "ema"
        self.average = {name: w.detach().clone() for name, w in weights.items()} if averaged else None

    def _read_data(self) -> None:
        count, device = len(self.runs), self.device
        self.seeds = sorted({run.seed for run in self.runs})
        self.seed_of = torch.tensor([self.seeds.index(run.seed) for run in self.runs], device=device)
        self.train = Examples(self.data, self.data.train, self.context, device)
        self.order = torch.empty(
            self.interval, len(self.seeds), self.training.batch_size, dtype=torch.int64, device=device
        )
        scalars = self.update.scalars(self.runs[0], np.arange(1)).shape[-1]
        self.scalars = torch.empty(self.interval, scalars, count, device=device)
        self.ema_shares = torch.ones(self.interval, device=device)
        self.cursor = torch.zeros(1, dtype=torch.int64, device=device)
        self.log = torch.empty(2, self.interval, count, device=device)
        self.watch = torch.empty(len(WATCHED), len(self.networks.layers), count, device=device)
        self.valid = self._held_out("valid")
        batches = self.training.batchnorm_batches if self.networks.batchnorms else 0
        rows = self._next_rows(self._orders(0), batches)
        self.batchnorm_inputs = [self.train.batch(part)[0] for part in rows]
        self._begin_at(0)

    def _orders(self, skip: int) -> list[Iterator[Array]]:
        """For each seed the examples of its batches, from the one after so many steps on."""
        size, context = self.training.batch_size, self.context
        return [
            train_order(self.data, batch_size=size, context_length=context, seed=seed, skip=skip) for seed in self.seeds
        ]

    def _next_rows(self, orders: Sequence[Iterator[Array]], count: int) -> Tensor:
        """The next batches, [count, S, B]."""
        rows = [np.stack([next(order) for order in orders]) for _ in range(count)]
        return torch.from_numpy(np.array(rows, dtype=np.int64)).to(self.device)

    def _held_out(self, split: Literal["valid", "test"]) -> list[Batch]:
        """Images have their channels last in memory, as convolutions like it: vmap could not bring it about."""
        last, batches = torch.channels_last, held_out(self.runs[0], self.data, split, self.device)
        return [(x.contiguous(memory_format=last) if x.dim() == 4 else x, targets) for x, targets in batches]

    def _begin_at(self, step: int) -> None:
        """Go on with the batches that come after so many steps."""
        self.step = step
        self.orders = self._orders(step)
        self._prepare_interval()

    # --- training -----------------------------------------------------------------------------------------------------

    def _prepare_interval(self) -> None:
        """Put on the device what the steps until the next evaluation need: the order of examples, the optimizers' scalars."""
        first = self.step % self.interval
        count = self.interval - first
        if self.step >= self.steps:
            return
        steps = np.arange(self.step, self.step + count)
        self.order[first:] = self._next_rows(self.orders, count)
        by_settings: dict[str, Log] = {}
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
        with self.seconds.timed("train"):
            self.networks.network.train()
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
        at, weights = self.cursor, self.networks.weights
        batch = self.train.batch(self.order.index_select(0, at)[0])
        losses = self.networks.losses(*(part.index_select(0, self.seed_of) for part in batch))
        gradients = dict(zip(weights, torch.autograd.grad(losses.sum(), list(weights.values())), strict=True))
        with torch.no_grad():
            self.log.index_copy_(1, at, torch.stack([losses, total_norm(gradients.values())])[:, None])
            before = {name: w.clone() for name, w in weights.items()} if watched else {}
            if watched:  # the step overwrites gradients
                self.watch[0].copy_(self.networks.rms(gradients))
                self.watch[1].copy_(self.networks.rms(before))
            self._update(gradients, self.scalars.index_select(0, at)[0])
            if self.average is not None:
                share = self.ema_shares.index_select(0, at)
                for name, average in self.average.items():
                    average.lerp_(weights[name], share)
            if watched:
                self.watch[2].copy_(self.networks.rms({name: w - before[name] for name, w in weights.items()}))
            at.add_(1)

    def _update(self, gradients: Weights, scalars: Tensor) -> None:
        for name, weight in self.networks.weights.items():
            factor, *others = (like(column, weight) for column in scalars)
            columns = Columns(
                rate=like(self.networks.rates[name], weight) * factor,
                decay=like(self.networks.decays[name], weight) if self.decaying else None,
                beta1=like(self.beta1, weight),
                beta2=like(self.beta2, weight),
                eps=like(self.eps, weight),
                scalars=others,
            )
            self.update.step(weight, gradients[name], {kind: s[name] for kind, s in self.state.items()}, columns)

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
            "weights": {name: w.detach() for name, w in self.networks.weights.items()},
            "buffers": self.networks.buffers,
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
            (self.networks.weights, state["weights"]),
            (self.networks.buffers, state["buffers"]),
            *((self.state[kind], tensors) for kind, tensors in state["state"].items()),
            *([(self.average, state["average"])] if self.average is not None else []),
        ):
            for name, tensor in mine.items():
                tensor.copy_(theirs[name])
        self.logs = [state["log"].numpy()]
        self.watches = [(step, values.numpy()) for step, values in state["watches"]]
        self.evaluations = [Evaluation(step, *(v.numpy() for v in values)) for step, *values in state["evaluations"]]
        self.seconds.update(state["seconds"])
        self._begin_at(state["step"])

    # --- evaluation ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self) -> None:
        """Validation at x and at y, as `run.evaluate` has it."""
        networks = self.networks
        with self.seconds.timed("evaluate"):
            loss_x, accuracy_x = networks.score(*self._at_x(), self.valid)
            loss_y = loss_x
            if self.runs[0].method.averages:
                loss_y, _ = networks.score(networks.weights, networks.buffers, self.valid)
        self.evaluations.append(Evaluation(self.step, loss_x, accuracy_x, loss_y))

    def _at_x(self) -> tuple[Weights, Weights]:
        """Weights and buffers that are evaluated; BatchNorm's statistics are computed anew where there is an average."""
        y = self.networks.weights
        if not self.runs[0].method.averages:
            return y, self.networks.buffers
        weights = self.average or {name: at_x(w, self.state["z"][name], self.beta1) for name, w in y.items()}
        return weights, self.networks.statistics_at(weights, self.batchnorm_inputs, self.seed_of)

    # --- what is left -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def traces(self) -> list[Trace]:
        """What each run left behind, once all steps are taken."""
        tested: list[Score] = [UNKNOWN] * self.asked_for
        if self.data.test is not None:
            with self.seconds.timed("evaluate"):
                scores = self.networks.score(*self._at_x(), self._held_out("test"))
            tested = [Score(float(loss), float(accuracy)) for loss, accuracy in zip(*scores, strict=True)]
        weights = self.networks.weights.values()
        finite = torch.stack([w.isfinite().flatten(1).all(1) for w in weights]).all(0).tolist()
        logs = np.concatenate(self.logs, axis=1)
        return [self._trace(place, logs[:, :, place], finite[place], tested[place]) for place in range(self.asked_for)]

    def _trace(self, place: int, log: Log, finite: bool, tested: Score) -> Trace:
        losses = TrainLoss(initial=float(self.evaluations[0].loss_x[place]), steps=self.steps)
        stopped, done = losses.follow(*log)
        seen = [e for e in self.evaluations if e.step < done or (e.step == done and stopped is None)]
        last = seen[-1]
        return conclude(
            losses,
            done,
            stopped,
            finite=finite,
            at_x=Score(float(last.loss_x[place]), float(last.accuracy_x[place])),
            at_y=Score(float(last.loss_y[place]), np.nan),
            test=lambda: tested,
            curves=self._curves(place, log, done, seen),
            seconds={phase: seconds / self.asked_for for phase, seconds in self.seconds.items()},
        )

    def _curves(self, place: int, log: Log, done: int, seen: Sequence[Evaluation]) -> list[Series]:
        evaluated, steps = [e.step for e in seen], np.arange(1, done + 1)
        found = [
            series("val_loss", "", evaluated, [e.loss_x[place] for e in seen]),
            series("val_loss_y", "", evaluated, [e.loss_y[place] for e in seen]),
            series("train_loss", "", steps, log[0, :done]),
            series("grad_norm", "", steps, log[1, :done]),
        ]
        watches = [(step, values[:, :, place]) for step, values in self.watches if step <= done]
        layers = self.networks.layers
        for kind, name in enumerate(WATCHED if watches else ()):
            for number, layer in enumerate(layers):
                values = [values[kind, number] for _, values in watches]
                found.append(series(name, layer, [step for step, _ in watches], values))
        squares = self.state.get("exp_avg_sq", {}) if done == self.steps else {}
        for layer, names in layers.items():
            kept = [squares[name][place] for name in names if name in squares]
            medians = sqrt_v(kept, self.runs[place].optimizer.beta2, self.steps)
            found += [series("sqrt_v", layer, [self.steps], [median]) for median in medians]
        return found

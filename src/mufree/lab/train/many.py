"""Many runs at once, whatever it is that they learn: a step of all of them at a time.

A run that diverges does no harm to the others, so it goes on to the end, and what came after is left out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mufree.lab.train.evaluate import UNKNOWN, Objective, Score
from mufree.lab.train.ranks import ALONE
from mufree.lab.train.side_by_side import Log, Networks, taken, total_norm
from mufree.lab.train.updates import UPDATES, Columns, Weights, at_x, like
from mufree.lab.train.watch import Seconds, Series, Trace, TrainLoss, conclude, series, sqrt_v
from mufree.optim.averaging import time_constant
from mufree.study.plan import Run

if TYPE_CHECKING:
    from mufree.study.trials import Trial

WATCHED = ("grad_rms", "weight_rms", "update_rms")


def finish(stack: Many, on_step: Callable[[], object] | None = None) -> list[Trace]:
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


class Many(ABC):
    """The live parts of N runs whose networks have the same shapes. What they learn from is a subclass's."""

    ranks = ALONE
    at_y = True
    """Whether evaluations are also made at y."""
    data_digest: str
    """Digest of the data that they learn from."""
    valid: Sequence[Any]
    batchnorm_batches: Sequence[Any]
    """Batches [S, …] by which BatchNorm's statistics are computed anew."""

    def __init__(
        self,
        runs: Sequence[Run] | Sequence[Trial],
        device: torch.device,
        make: Callable[[Any], nn.Module],
        objective: Objective,
    ) -> None:
        self.seconds = Seconds()
        with self.seconds.timed("setup"):
            # A product of one matrix is summed in another order than each of several, and a run's numbers mustn't depend on how
            # many others it is trained with: one alone is trained beside itself.
            self.asked_for = len(runs)
            self.name = f"a stack of {len(runs)} runs"
            self.runs: list[Any] = [*runs, *(runs if len(runs) == 1 else ())]
            self.device = device
            first = self.runs[0]
            self.steps, self.interval = first.steps, first.steps // first.evaluations
            self.update = UPDATES[first.method.optimizer]
            self.evaluations: list[Evaluation] = []
            self.watches: list[tuple[int, Log]] = []
            self.logs: list[Log] = []
            """Losses and gradient norms, [2, steps, N] a piece."""
            self.seeds = sorted({run.seed for run in self.runs})
            # Which of the batches [S, …] of the seeds is each run's, [N].
            self.seed_of = torch.tensor([self.seeds.index(run.seed) for run in self.runs], device=device)
            self.networks = Networks(self.runs, make, device, objective)
            self._make_optimizers()
            self._make_notes()
            self._read_data()
            self._begin_at(0)

    # --- what they learn from -----------------------------------------------------------------------------------------

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint has to agree in to be gone on with."""
        return {
            "runs": [run.id for run in self.runs],
            "numerics": self.runs[0].numerics,
            "data": self.data_digest,
            "device": self.device.type,
        }

    @abstractmethod
    def _read_data(self) -> None:
        """Set `valid` and `batchnorm_batches`."""

    @abstractmethod
    def _skip_to(self, step: int) -> None:
        """Go on with the batches that come after so many steps."""

    def _prepare_batches(self, first: int, count: int) -> None:  # noqa: B027 (not all can)
        """Get ready the next batches, for so many steps from the interval's `first` on."""

    @abstractmethod
    def batch(self, at: Tensor) -> Any:
        """The batches [S, …] of the interval's step `at`, [1] on the device; called once a step."""

    def _test(self) -> Sequence[Any] | None:
        """The batches of the test split, read once, after the last step."""
        return None

    # --- what there is at the start -----------------------------------------------------------------------------------

    def _make_optimizers(self) -> None:
        settings, weights = [run.optimizer for run in self.runs], self.networks.weights
        self.beta1, self.beta2, self.eps = (
            torch.tensor([getattr(s, name) for s in settings], device=self.device) for name in ("beta1", "beta2", "eps")
        )
        self.state = {
            kind: {name: w.detach().clone() if kind == "z" else torch.zeros_like(w) for name, w in weights.items()}
            for kind in self.update.state
        }
        self.decaying = any(bool(decay.any()) for decay in self.networks.decays.values())
        averaged = self.runs[0].method.average == "ema"
        self.average = {name: w.detach().clone() for name, w in weights.items()} if averaged else None

    def _make_notes(self) -> None:
        count, device = len(self.runs), self.device
        scalars = self.update.scalars(self.runs[0], np.arange(1)).shape[-1]
        self.scalars = torch.empty(self.interval, scalars, count, device=device)
        self.ema_shares = torch.ones(self.interval, device=device)
        self.cursor = torch.zeros(1, dtype=torch.int64, device=device)
        self.log = torch.empty(2, self.interval, count, device=device)
        self.watch = torch.empty(len(WATCHED), len(self.networks.layers), count, device=device)

    def _begin_at(self, step: int) -> None:
        self.step = step
        self._skip_to(step)
        self._prepare_interval()

    # --- training -----------------------------------------------------------------------------------------------------

    def _prepare_interval(self) -> None:
        """Put on the device what the steps until the next evaluation need: their batches, the optimizers' scalars."""
        first = self.step % self.interval
        count = self.interval - first
        if self.step >= self.steps:
            return
        steps = np.arange(self.step, self.step + count)
        self._prepare_batches(first, count)
        by_settings: dict[str, Log] = {}
        for place, run in enumerate(self.runs):
            key = f"{run.method.schedule} {run.optimizer.beta1} {run.optimizer.beta2}"
            if key not in by_settings:
                by_settings[key] = self.update.scalars(run, steps)
            self.scalars[first:, :, place] = torch.from_numpy(by_settings[key]).to(self.scalars)
        shares = np.maximum(1 / (steps + 1), 1 / time_constant(self.steps))
        self.ema_shares[first:] = torch.from_numpy(shares).to(self.ema_shares)
        self.cursor.fill_(first)

    def take_step(self) -> None:
        """One step of every run; at the end of an interval they are evaluated, too."""
        watched = (self.step + 1) % self.interval == 0
        with self.seconds.timed("train"):
            self.networks.network.train()
            self._advance(watched)
            self.step += 1
            if watched:
                self._collect()  # waits for the device, so that what it still had to do counts as training
        if watched:
            self.evaluate()
            self._prepare_interval()

    def _advance(self, watched: bool) -> None:
        at, weights = self.cursor, self.networks.weights
        losses = self.networks.losses(taken(self.batch(at), self.seed_of))
        gradients = self.networks.gradients(losses)
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
        for name, gradient in gradients.items():
            weight = self.networks.weights[name]
            factor, *others = (like(column, weight) for column in scalars)
            columns = Columns(
                rate=like(self.networks.rates[name], weight) * factor,
                decay=like(self.networks.decays[name], weight) if self.decaying else None,
                beta1=like(self.beta1, weight),
                beta2=like(self.beta2, weight),
                eps=like(self.eps, weight),
                scalars=others,
            )
            self.update.step(weight, gradient, {kind: s[name] for kind, s in self.state.items()}, columns)

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
            if self.at_y and self.runs[0].method.averages:
                loss_y, _ = networks.score(networks.weights, networks.buffers, self.valid)
        self.evaluations.append(Evaluation(self.step, loss_x, accuracy_x, loss_y))

    def _at_x(self) -> tuple[Weights, Weights]:
        """Weights and buffers that are evaluated; BatchNorm's statistics are computed anew where there is an average."""
        y = self.networks.weights
        if not self.runs[0].method.averages:
            return y, self.networks.buffers
        weights = self.average or {name: at_x(w, self.state["z"][name], self.beta1) for name, w in y.items()}
        return weights, self.networks.statistics_at(weights, self.batchnorm_batches, self.seed_of)

    # --- what is left -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def traces(self) -> list[Trace]:
        """What each run left behind, once all steps are taken."""
        tested: list[Score] = [UNKNOWN] * self.asked_for
        if (test := self._test()) is not None:
            with self.seconds.timed("evaluate"):
                scores = self.networks.score(*self._at_x(), test)
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

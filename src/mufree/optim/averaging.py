"""An average of the weights beside an ordinary optimizer, for evaluation: what a schedule-free one has inside.

torch.optim.swa_utils.AveragedModel is a second model. Here the one model is put at its average and taken back, so that
`evaluating`, its guards and checkpoints are the same for both kinds of average.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mufree.optim.batches import Forward
from mufree.optim.evaluation import at_average, averages, check_covered, training_snapshot, weights_of

EMA_SHARE = 0.1
"""The time constant of the study's average, as a share of the run's steps."""


def time_constant(steps: int) -> float:
    """That of the study's average for a run of so many steps, in steps, at least 1."""
    return max(1.0, EMA_SHARE * steps)


class WeightAverage:
    """A running average of an optimizer's weights: their plain mean at first, exponential once it is `time_constant` steps old.

    After n updates the newest weights count max(1/n, 1/time_constant), so that the average is never drawn towards where the
    run started, as one with a fixed decay of 1 − 1/time_constant is. Before the first update it is the weights as they are.
    Updating and reading it changes no weight. Costs one copy of the weights, in float32 or finer. Raises ValueError for a
    time constant below 1, and for an optimizer that averages by itself.
    """

    def __init__(self, optimizer: Optimizer, time_constant: float) -> None:
        if not time_constant >= 1:
            raise ValueError(f"time_constant is a number of steps, at least 1, got {time_constant}")
        if averages(optimizer):
            raise ValueError(f"{type(optimizer).__name__} averages its weights itself; evaluate it in `evaluating`")
        self.optimizer = optimizer
        self.time_constant = time_constant
        self.updates = 0
        # With 8 bits a weight, shares of a thousandth would be rounded away.
        self.average = [
            weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)
            for weight in weights_of(optimizer)
        ]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are; call it after each step. Raises RuntimeError inside `evaluating`."""
        if training_snapshot(self.optimizer) is not None:
            raise RuntimeError("update() inside `with evaluating(...)`. Leave the context first.")
        self.updates += 1
        share = max(1 / self.updates, 1 / self.time_constant)
        weights = [weight.to(mean.dtype) for weight, mean in zip(self._weights(), self.average, strict=True)]
        torch._foreach_lerp_(self.average, weights, share)

    def _weights(self) -> list[Tensor]:
        """The weights that the average is of. Raises ValueError where the optimizer has got others since."""
        weights = weights_of(self.optimizer)
        if len(weights) != len(self.average):
            raise ValueError(
                f"The average is of {len(self.average)} weights, and the optimizer has {len(weights)} by now. Make a new one."
            )
        return weights

    def state_dict(self) -> dict[str, Any]:
        """The average and how many updates are in it; the tensors are its own, and no copies."""
        return {"updates": self.updates, "average": self.average}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, to the bit. Raises ValueError if it is of other weights."""
        if [a.shape for a in state["average"]] != [a.shape for a in self.average]:
            raise ValueError("The average is one of other weights, or of weights in another order.")
        self.updates = state["updates"]
        torch._foreach_copy_(self.average, state["average"])

    @contextmanager
    def evaluating(
        self, model: nn.Module, batches: Iterable[Any] | None = None, forward: Forward | None = None
    ) -> Iterator[None]:
        """Put the average into the model, and the model into eval mode; afterwards everything has the bits it had.

        `batches` are model inputs, by which BatchNorm's statistics are computed anew at the average, and `forward` runs the
        model on one that it doesn't take as it is (`evaluation.recompute_batchnorm`): those that training collected belong to
        the raw weights. Without them, a BatchNorm layer that is evaluated warns, once. Stepping is refused inside.

        Raises ValueError when the optimizer has no parameter of the model.
        """
        check_covered([self.optimizer], model)
        self._weights()
        said = (
            "A model with BatchNorm is evaluated at the average of the weights with statistics that were collected at the "
            "weights themselves. Give evaluating(model, batches) some training inputs, to compute them anew."
        )
        with at_average(self, [self.optimizer], model, batches, forward, said, self.average):
            yield

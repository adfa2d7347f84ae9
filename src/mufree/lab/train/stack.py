"""Many runs of a study at once: those that differ in numbers alone are trained side by side.

Between two evaluations nothing waits for the host: batches are gathered on the device, what the optimizers need is worked out
beforehand, losses and norms are kept on the device.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mufree.lab.data import Prepared
from mufree.lab.data.batches import Batch, Examples, train_order
from mufree.lab.data.prepared import Array
from mufree.lab.train.compiled import compiled
from mufree.lab.train.evaluate import OF_STUDIES, held_out
from mufree.lab.train.many import Many, finish
from mufree.lab.train.network import configure_torch, make_model
from mufree.lab.train.watch import Trace
from mufree.study.plan import Run

LAUNCHED = 3
"""Steps that a GPU takes kernel by kernel before one is captured: libraries set themselves up in the first."""

log = logging.getLogger(__name__)


def train_stack(runs: Sequence[Run], data: Prepared, *, device: str = "cpu", compiles: bool = False) -> list[Trace]:
    """Train runs of one stack (`jobs.stacks`) to their last step; return what `train` would have for each, in their order.

    `compiles`: by kernels that torch.compile writes for them, where it can. Raises `torch.OutOfMemoryError` where the device
    is too small.
    """
    configure_torch()
    return finish(Stack(runs, data, torch.device(device), compiles))


class Stack(Many):
    """The live parts of N runs of a study."""

    def __init__(self, runs: Sequence[Run], data: Prepared, device: torch.device, compiles: bool = False) -> None:
        self.data, self.training, self.context = data, runs[0].training, runs[0].model.context
        self.data_digest = data.digest
        self.launched = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.captures = device.type == "cuda"
        self.compiles = compiles
        super().__init__(runs, device, partial(make_model, classes=data.classes), OF_STUDIES)
        if compiles:
            torch.compiler.reset()  # what earlier stacks of this process have compiled counts against a limit
            self.networks.compile()
            self._update = compiled(self._update, "a stack's update")  # type: ignore[method-assign]

    @property
    def identity(self) -> dict[str, Any]:
        """See `Many`."""
        return super().identity | {"compiles": self.compiles or None}  # one of before there was this has none

    # --- what they learn from -----------------------------------------------------------------------------------------

    def _read_data(self) -> None:
        self.train = Examples(self.data, self.data.train, self.context, self.device)
        self.order = torch.empty(
            self.interval, len(self.seeds), self.training.batch_size, dtype=torch.int64, device=self.device
        )
        self.valid = self._held_out("valid")
        batches = self.training.batchnorm_batches if self.networks.batchnorms else 0
        self.batchnorm_batches = [self.train.batch(part) for part in self._next_rows(self._orders(0), batches)]

    def _test(self) -> Sequence[Batch] | None:
        return None if self.data.test is None else self._held_out("test")

    def _skip_to(self, step: int) -> None:
        self.orders = self._orders(step)

    def _prepare_batches(self, first: int, count: int) -> None:
        self.order[first:] = self._next_rows(self.orders, count)

    def batch(self, at: Tensor) -> Batch:
        """See `Many`."""
        return self.train.batch(self.order.index_select(0, at)[0])

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

    # --- steps as graphs ----------------------------------------------------------------------------------------------

    def _advance(self, watched: bool) -> None:
        graph = None if watched else self._captured()
        if graph is None:
            super()._advance(watched)
        else:
            graph.replay()

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
                super()._advance(watched=False)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.captures = False
            log.warning("a step can't be captured as a CUDA graph (%s); its kernels are launched one by one", error)
        else:
            self.graph = graph

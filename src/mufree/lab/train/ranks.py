"""The processes that train one run together, each on its part of every batch; mostly it is one.

The batch is split, not multiplied: gradients are the mean over the parts, so that batch size, learning rate and everything
that follows from them are those of one process. torch is imported where it is needed: a sweep that the store has whole needs
none.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")


class RanksError(ValueError):
    """What can't be trained by several processes, or by these."""


@dataclass(frozen=True)
class Ranks:
    """This process (`rank`) among `size`. All of them call the same methods in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that reads the store and writes."""
        return self.rank == 0

    def check(self, batch_size: int, model: nn.Module) -> None:
        """Raise `RanksError` where the parts of a batch would not make up the whole."""
        if self.size == 1:
            return
        from torch.nn.modules.batchnorm import _BatchNorm

        if batch_size % self.size:
            raise RanksError(
                f"batch_size {batch_size} can't be split over {self.size} processes; take a number of them that divides it"
            )
        if any(isinstance(module, _BatchNorm) for module in model.modules()):
            raise RanksError(
                f"{type(model).__name__} has BatchNorm, whose statistics would be those of a part of the batch and not of the "
                "whole: another model. Train it without --ddp."
            )

    def part(self, batch: Tensor) -> Tensor:
        """This process's part of a batch [B, ...]: B / size examples."""
        each = len(batch) // self.size
        return batch[self.rank * each : (self.rank + 1) * each]

    def share(self, batches: list[T]) -> list[T]:
        """This process's batches of an evaluation."""
        return batches[self.rank :: self.size]

    def replicate(self, model: nn.Module) -> nn.Module:
        """The model as a training step calls it: its backward pass leaves the mean of all processes' gradients.

        The parameters are those of `model`, with their `infshape`; all else uses `model` itself.
        """
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model)

    def sums(self, *values: float) -> Sequence[float]:
        """The sum of each value over the processes, the same bits in all of them."""
        if self.size == 1:
            return values
        import torch
        from torch import distributed

        total = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(total)
        summed: list[float] = total.tolist()
        return summed

    def mean(self, value: float) -> float:
        """The mean over the processes."""
        return self.sums(value)[0] / self.size

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        return self.sums(float(flag))[0] > 0

    def as_first(self, flags: Sequence[bool]) -> Sequence[bool]:
        """The flags that the first process has."""
        return [total > 0 for total in self.sums(*(float(flag and self.first) for flag in flags))]


ALONE = Ranks()


@contextmanager
def together(ddp: bool, device: str) -> Iterator[Ranks]:
    """With `ddp` the processes that torchrun started, of which only the first says what it does; else this one alone.

    Raises `RanksError` where torchrun started none, or several without `ddp`.
    """
    if ddp:
        with joined(device) as ranks:
            if not ranks.first:
                logging.getLogger().setLevel(logging.WARNING)
            yield ranks
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RanksError("torchrun started several processes that would all train the same runs; give --ddp")
    else:
        yield ALONE


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started, for as long as the context lasts. Raises `RanksError` where it started none."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise RanksError(
            "--ddp is for processes that torchrun starts: torchrun --nproc-per-node 2 --no-python mufree sweep …"
        )
    from torch import distributed

    # Numbers and flags go by gloo, gradients by what fits where they are.
    distributed.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()

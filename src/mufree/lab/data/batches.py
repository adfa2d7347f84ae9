"""Tensors for training and evaluation, from a prepared data set."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mufree.lab.data.prepared import Array, DataError, Prepared, Split, balanced_order

Batch = tuple[Tensor, Tensor]


def train_order(
    data: Prepared, *, batch_size: int, context_length: int | None, seed: int, skip: int = 0
) -> Iterator[Array]:
    """Which examples each training batch has, int64 [B], without end: rows of images, or where windows of text begin.

    It depends on `seed` alone, not on any global state. `skip` leaves out the first so many batches: a run that goes on draws
    what it would have drawn. Images are shuffled anew every epoch, in which each comes once, but for the tail that doesn't
    fill a batch; windows are at random, uniformly. Raises DataError at once if there are too few examples.
    """
    generator = torch.Generator().manual_seed(seed)
    if data.kind == "image":
        if batch_size > len(data.train.y):
            raise DataError(f"batch_size {batch_size} is more than the {len(data.train.y)} training images")
        return _shuffled(len(data.train.y), batch_size, generator, skip)
    context = _context(data.train, context_length, "training")
    return _random_starts(len(data.train.y) - context + 1, batch_size, generator, skip)


def train_batches(
    data: Prepared, *, batch_size: int, context_length: int | None, seed: int, skip: int = 0
) -> Iterator[Batch]:
    """Training batches without end, in the order of `train_order`, which says what the arguments are.

    Images: float32 [B, 3, 32, 32], normalised by the training split's mean and standard deviation, and int64 [B]. Text: int64
    [B, T] twice, the second shifted by one.
    """
    order = train_order(data, batch_size=batch_size, context_length=context_length, seed=seed, skip=skip)
    return map(Examples(data, data.train, context_length).batch, order)


def eval_batches(
    data: Prepared, split: Literal["valid", "test"], *, examples: int, batch_size: int, context_length: int | None
) -> list[Batch]:
    """Batches of the same `examples` examples of a split every time, in the same order; the last batch may be smaller.

    Images: balanced over the classes, since a split may be ordered by class. Text: windows that don't overlap, spread evenly.
    Raises DataError if the split is absent or has too few examples.
    """
    chosen = data.valid if split == "valid" else data.test
    if chosen is None:
        raise DataError(f"This data set has no {split} split: {data.manifest['settings']}")
    if data.kind == "image":
        _require(examples, len(chosen.y), f"images in the {split} split")
        order = balanced_order(np.asarray(chosen.y), seed=0)[:examples]
    else:
        context = _context(chosen, context_length, split)
        windows = len(chosen.y) // context
        _require(examples, windows, f"windows of {context} tokens in the {split} split")
        order = np.arange(examples) * windows // examples * context
    read = Examples(data, chosen, context_length).batch
    return [read(order[start : start + batch_size]) for start in range(0, examples, batch_size)]


class Examples:
    """The examples of a split as tensors; values as in `train_batches`.

    Rows are gathered from the mmap, so that only what a batch needs is read, and processes share the page cache; or, with a
    `device`, from its memory, which then holds the whole split, without the host.
    """

    def __init__(
        self, data: Prepared, split: Split, context_length: int | None, device: torch.device | None = None
    ) -> None:
        self.text = data.kind == "text"
        self.x: Array | Tensor = np.asarray(split.x)
        self.y: Array | Tensor = np.asarray(split.y)
        self.window: Array | Tensor = np.arange(context_length or 0)
        self.scale, self.shift = (torch.ones(()), torch.zeros(())) if self.text else _normalisation(data)
        if device is not None:
            self.x, self.y = (
                torch.from_numpy(np.array(array, dtype=np.int32 if self.text else None)).to(device)
                for array in (split.x, split.y)
            )
            self.window = torch.arange(context_length or 0, device=device)
            self.scale, self.shift = self.scale.to(device), self.shift.to(device)

    def batch(self, rows: Any) -> Batch:
        """Inputs and targets of examples [...], with these dimensions before an example's own; rows lie where the split is."""
        if self.text:
            rows = rows[..., None] + self.window
            return _gathered(self.x, rows).long(), _gathered(self.y, rows).long()
        pixels = _gathered(self.x, rows).movedim(-1, -3)
        images = torch.empty(pixels.shape, device=pixels.device).copy_(pixels)
        return images.mul_(self.scale).add_(self.shift), _gathered(self.y, rows)


def _gathered(values: Array | Tensor, rows: Any) -> Tensor:
    return values[rows] if isinstance(values, Tensor) else torch.from_numpy(values[rows])


def _normalisation(data: Prepared) -> tuple[Tensor, Tensor]:
    """Scale and shift, [3, 1, 1] each, that take a level of 256 to mean 0 and variance 1 on the training split."""
    mean, std = (torch.tensor(data.manifest[name], dtype=torch.float64).view(3, 1, 1) for name in ("mean", "std"))
    return (1 / (255 * std)).float(), (-mean / std).float()


def _shuffled(examples: int, batch_size: int, generator: torch.Generator, skip: int) -> Iterator[Array]:
    epochs, first = divmod(skip, examples // batch_size)
    for _ in range(epochs):
        torch.randperm(examples, generator=generator)
    while True:
        order = torch.randperm(examples, generator=generator).numpy()
        for start in range(first * batch_size, examples - batch_size + 1, batch_size):
            yield order[start : start + batch_size]
        first = 0


def _random_starts(starts: int, batch_size: int, generator: torch.Generator, skip: int) -> Iterator[Array]:
    for number in count():
        drawn = torch.randint(starts, (batch_size,), generator=generator)
        if number >= skip:
            yield drawn.numpy()


def _context(split: Split, context_length: int | None, name: str) -> int:
    if context_length is None:
        raise DataError("text needs a context_length")
    _require(context_length, len(split.y), f"tokens in the {name} split")
    return context_length


def _require(wanted: int, available: int, what: str) -> None:
    if wanted > available:
        raise DataError(f"{wanted} asked for, but there are {available} {what}")

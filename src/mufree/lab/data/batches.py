"""Tensors for training and evaluation, from a prepared data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Literal

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
    return map(_reader(data, data.train, context_length), order)


def eval_order(
    data: Prepared, split: Literal["valid", "test"], *, examples: int, context_length: int | None
) -> tuple[Split, Array]:
    """A split and the same `examples` examples of it every time, as `train_order` gives them, in the same order.

    Images: balanced over the classes, since a split may be ordered by class. Text: windows that don't overlap, spread evenly.
    Raises DataError if the split is absent or has too few examples.
    """
    chosen = data.valid if split == "valid" else data.test
    if chosen is None:
        raise DataError(f"This data set has no {split} split: {data.manifest['settings']}")
    if data.kind == "image":
        _require(examples, len(chosen.y), f"images in the {split} split")
        return chosen, balanced_order(np.asarray(chosen.y), seed=0)[:examples]
    context = _context(chosen, context_length, split)
    windows = len(chosen.y) // context
    _require(examples, windows, f"windows of {context} tokens in the {split} split")
    return chosen, np.arange(examples) * windows // examples * context


def eval_batches(
    data: Prepared, split: Literal["valid", "test"], *, examples: int, batch_size: int, context_length: int | None
) -> list[Batch]:
    """Batches of the examples that `eval_order` gives; the last batch may be smaller."""
    chosen, order = eval_order(data, split, examples=examples, context_length=context_length)
    return list(map(_reader(data, chosen, context_length), chunks(order, batch_size)))


class Resident:
    """A split whole in the memory of a device, where batches are gathered without the host; values as in `train_batches`."""

    def __init__(self, data: Prepared, split: Split, context_length: int | None, device: torch.device) -> None:
        text = data.kind == "text"
        self.x, self.y = (
            torch.from_numpy(np.array(array, dtype=np.int32 if text else None)).to(device)
            for array in (split.x, split.y)
        )
        self.window = torch.arange(context_length or 0, device=device)
        scale, shift = (torch.ones(()), torch.zeros(())) if text else _normalisation(data)
        self.scale, self.shift = scale.to(device), shift.to(device)
        self.text = text

    def batch(self, rows: Tensor) -> Batch:
        """Inputs and targets of examples [...], with these dimensions before an example's own."""
        if self.text:
            index = rows[..., None] + self.window
            return self.x[index].long(), self.y[index].long()
        return self.x[rows].movedim(-1, -3).float().mul_(self.scale).add_(self.shift), self.y[rows]


def chunks(rows: Array, size: int) -> list[Array]:
    """The rows in pieces of `size`; the last may be smaller."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


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


def _reader(data: Prepared, split: Split, context_length: int | None) -> Callable[[Array], Batch]:
    """A function that reads the examples of a batch."""
    if data.kind == "text":
        return partial(_windows, split, context=_context(split, context_length, "chosen"))
    scale, shift = _normalisation(data)
    return partial(_images, split, scale=scale, shift=shift)


def _normalisation(data: Prepared) -> tuple[Tensor, Tensor]:
    """Scale and shift, [3, 1, 1] each, that take a level of 256 to mean 0 and variance 1 on the training split."""
    mean, std = (torch.tensor(data.manifest[name], dtype=torch.float64).view(3, 1, 1) for name in ("mean", "std"))
    return (1 / (255 * std)).float(), (-mean / std).float()


def _images(split: Split, rows: Array, scale: Tensor, shift: Tensor) -> Batch:
    # Rows are gathered from the mmap: only what a batch needs is read, and processes share the page cache.
    pixels = torch.from_numpy(np.asarray(split.x)[rows]).permute(0, 3, 1, 2)
    x = torch.empty(pixels.shape).copy_(pixels)
    return x.mul_(scale).add_(shift), torch.from_numpy(np.asarray(split.y)[rows])


def _windows(split: Split, starts: Array, context: int) -> Batch:
    index = starts[:, None] + np.arange(context)
    x, y = (torch.from_numpy(np.asarray(tokens)[index].astype(np.int64)) for tokens in (split.x, split.y))
    return x, y


def _context(split: Split, context_length: int | None, name: str) -> int:
    if context_length is None:
        raise DataError("text needs a context_length")
    _require(context_length, len(split.y), f"tokens in the {name} split")
    return context_length


def _require(wanted: int, available: int, what: str) -> None:
    if wanted > available:
        raise DataError(f"{wanted} asked for, but there are {available} {what}")

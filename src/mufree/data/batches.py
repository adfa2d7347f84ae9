"""Tensors for training and evaluation, from a prepared data set."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mufree.data.prepared import Array, DataError, Prepared, Split, balanced_order

Batch = tuple[Tensor, Tensor]


def train_batches(
    data: Prepared, *, batch_size: int, context_length: int | None, seed: int, skip: int = 0
) -> Iterator[Batch]:
    """Training batches without end; their order depends on `seed` alone, not on any global state.

    `skip` leaves out the first so many, without reading them: a run that goes on draws what it would have drawn.

    Images: float32 [B, 3, 32, 32], normalised by the training split's mean and standard deviation, and int64 [B]; shuffled anew
    every epoch, in which each image comes once, but for the tail that doesn't fill a batch. Text: int64 [B, T] twice, the
    second shifted by one; windows at random, uniformly. Raises DataError at once if there are too few examples.
    """
    generator = torch.Generator().manual_seed(seed)
    if data.kind == "image":
        if batch_size > len(data.train.y):
            raise DataError(f"batch_size {batch_size} is more than the {len(data.train.y)} training images")
        return _shuffled_images(data, batch_size, generator, skip)
    context = _context(data.train, context_length, "training")
    return _random_windows(data.train, batch_size, context, generator, skip)


def eval_batches(
    data: Prepared, split: Literal["valid", "test"], *, examples: int, batch_size: int, context_length: int | None
) -> list[Batch]:
    """Batches of the same `examples` examples every time, in the same order; the last batch may be smaller.

    Images: balanced over the classes, since a split may be ordered by class. Text: windows that don't overlap, spread evenly.
    Raises DataError if the split is absent or has too few examples.
    """
    chosen = data.valid if split == "valid" else data.test
    if chosen is None:
        raise DataError(f"This data set has no {split} split: {data.manifest['settings']}")
    if data.kind == "image":
        _require(examples, len(chosen.y), f"images in the {split} split")
        picked = balanced_order(np.asarray(chosen.y), seed=0)[:examples]
        scale, shift = _normalisation(data)
        return [_images(chosen, rows, scale, shift) for rows in _chunks(picked, batch_size)]
    context = _context(chosen, context_length, split)
    windows = len(chosen.y) // context
    _require(examples, windows, f"windows of {context} tokens in the {split} split")
    starts = np.arange(examples) * windows // examples * context
    return [_windows(chosen, rows, context) for rows in _chunks(starts, batch_size)]


def _shuffled_images(data: Prepared, batch_size: int, generator: torch.Generator, skip: int) -> Iterator[Batch]:
    examples = len(data.train.y)
    scale, shift = _normalisation(data)
    epochs, first = divmod(skip, examples // batch_size)
    for _ in range(epochs):
        torch.randperm(examples, generator=generator)
    while True:
        order = torch.randperm(examples, generator=generator).numpy()
        for start in range(first * batch_size, examples - batch_size + 1, batch_size):
            yield _images(data.train, order[start : start + batch_size], scale, shift)
        first = 0


def _random_windows(
    split: Split, batch_size: int, context: int, generator: torch.Generator, skip: int
) -> Iterator[Batch]:
    for number in count():
        starts = torch.randint(len(split.y) - context + 1, (batch_size,), generator=generator)
        if number >= skip:
            yield _windows(split, starts.numpy(), context)


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


def _chunks(rows: Array, size: int) -> list[Array]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _context(split: Split, context_length: int | None, name: str) -> int:
    if context_length is None:
        raise DataError("text needs a context_length")
    _require(context_length, len(split.y), f"tokens in the {name} split")
    return context_length


def _require(wanted: int, available: int, what: str) -> None:
    if wanted > available:
        raise DataError(f"{wanted} asked for, but there are {available} {what}")

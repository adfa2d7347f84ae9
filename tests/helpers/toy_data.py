"""Prepared data sets that are small, made in memory, and learnable."""

from __future__ import annotations

import numpy as np

from mufree.lab.data import Prepared, Split


def images(classes: int = 4, examples: int = 256) -> Prepared:
    """Images whose class is their brightest quarter."""
    rng = np.random.default_rng(0)
    splits = []
    for _ in range(3):
        y = rng.integers(classes, size=examples)
        x = rng.integers(0, 128, size=(examples, 32, 32, 3))
        for label in range(classes):
            x[y == label, 8 * label : 8 * label + 8] += 100
        splits.append(Split(x.astype(np.uint8), y.astype(np.int64)))
    manifest = {"mean": [0.25] * 3, "std": [0.25] * 3, "settings": {"name": "toy"}}
    return Prepared("image", classes, *splits, manifest=manifest, digest="image-digest")


def text(vocabulary: int = 32, tokens: int = 4096) -> Prepared:
    """A stream in which each token mostly follows from the one before."""
    rng = np.random.default_rng(0)
    stream = np.zeros(3 * tokens, dtype=np.int64)
    for i in range(1, len(stream)):
        stream[i] = (3 * stream[i - 1] + 1 + (rng.random() < 0.3) * rng.integers(vocabulary)) % vocabulary
    parts = np.split(stream.astype(np.uint16), 3)
    return Prepared(
        "text",
        vocabulary,
        *(Split(part[:-1], part[1:]) for part in parts),
        manifest={"settings": {"name": "toy"}},
        digest="text-digest",
    )

"""Stripes that lie or stand, in noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mufree.lab.data.prepared import Built, Split
from mufree.study.parts import Stripes


def build(settings: Stripes, data_dir: Path) -> Built:
    """Draw them; which way they go is the class. `data_dir` is not used."""
    rng = np.random.default_rng(0)
    splits = {}
    for name in ("train", "valid", "test"):
        y = rng.integers(2, size=settings.examples)
        x = rng.integers(0, 128, size=(settings.examples, 32, 32, 3), dtype=np.uint8)
        x[y == 0, ::2] += 100
        x[y == 1, :, ::2] += 100
        splits[name] = Split(x, y)
    return Built("image", 2, splits, {"source": "drawn", "version": "1", "licence": "CC0"})

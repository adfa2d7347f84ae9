"""Random numbers that a user's functions may draw: torch's, NumPy's and Python's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Begin all of them from a seed."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


def random_state(device: torch.device) -> tuple[Any, ...]:
    """That of torch, NumPy and Python, and of a GPU."""
    on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), np.random.get_state(), random.getstate(), on_gpu  # noqa: NPY002


def set_random_state(state: tuple[Any, ...]) -> None:
    """Go on from what `random_state` gave."""
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    random.setstate(state[2])
    if state[3] is not None:
        torch.cuda.set_rng_state(state[3])


@contextmanager
def seeded_apart(seed: int) -> Iterator[None]:
    """Within it, random numbers on the CPU are those of a seed; afterwards they go on as if nothing had been drawn."""
    before = random_state(torch.device("cpu"))
    seed_all(seed)
    try:
        yield
    finally:
        set_random_state(before)

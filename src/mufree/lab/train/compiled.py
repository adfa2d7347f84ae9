"""Kernels that torch writes for a function, where it can."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger(__name__)


def compiled(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    """`function` by torch.compile, for shapes that stay as they are; where that fails, which is said, as it is.

    It needs a C++ compiler on a CPU and Triton on a GPU. What it writes is kept on disk (`TORCHINDUCTOR_CACHE_DIR`).
    """
    from torch._dynamo.exc import TorchDynamoException

    fast: Callable[..., Any] | None = None
    plain = False

    def call(*args: Any) -> Any:
        nonlocal fast, plain
        if not plain:
            try:
                with warnings.catch_warnings(action="ignore", category=UserWarning):  # what it warns of is its own ways
                    fast = fast or torch.compile(function, dynamic=False)
                    return fast(*args)
            except (TorchDynamoException, OSError) as error:  # no compiler, or nowhere to keep what it makes
                plain = True
                reason = next((line for line in str(error).splitlines() if line), type(error).__name__)
                log.warning("%s can't be compiled (%s); torch's own kernels are taken", what, reason)
        return function(*args)

    return call

"""The model of a Python file of one's own, with what its check needs besides."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from mufree import optim
from mufree.lab.coordcheck.calls import CheckError, default_loss
from mufree.lab.coordcheck.measuring import coord_check


@dataclass(frozen=True)
class KnownOptimizer:
    """A constructor of `mufree.optim`, the learning rate it is checked at, and further settings.

    Adam's ε is 1e-12, so that it is the multipliers that are checked: 1e-8 can bite as gradients shrink with width.
    """

    constructor: str
    lr: float
    settings: dict[str, Any]


_ADAM = {"betas": (0.9, 0.99), "eps": 1e-12}
OPTIMIZERS = {
    "adamw": KnownOptimizer("MuAdamW", 2**-9, _ADAM),
    "adamw_schedulefree": KnownOptimizer("MuAdamW_ScheduleFree", 2**-9, _ADAM),
    "radam_schedulefree": KnownOptimizer("MuRAdam_ScheduleFree", 2**-9, _ADAM),
    "sgd_schedulefree": KnownOptimizer("MuSGD_ScheduleFree", 2**-3, {}),
}


def own_model(
    target: str, optimizer: str, lr: float | None, loss: str | None
) -> tuple[Callable[..., pd.DataFrame], str]:
    """`coord_check` of the model that a Python file makes, to be called with widths and the like, and words for the optimizer.

    `target` is FILE or FILE:FUNCTION, the function being `make_model` or one like it; the file defines `make_batch` too, and
    `optimizer` and `loss`, cross-entropy if None, may name others of its functions. Raises `CheckError` for what the file
    lacks, for a file that can't be imported, and for an unknown optimizer.
    """
    file, _, name = target.partition(":")
    module = load_file(Path(file))
    model = function_of(module, name or "make_model", "(width, seed), which returns a model with base shapes")
    batch = function_of(module, "make_batch", "(seed), which returns (inputs, targets)")
    objective = function_of(module, loss, "(outputs, targets), the loss") if loss else default_loss
    make, described = _optimizer(module, optimizer, lr)
    return partial(coord_check, model, make, batch=batch, loss=objective), described


def _optimizer(module: ModuleType, name: str, lr: float | None) -> tuple[Callable[..., Any], str]:
    """The function that makes the optimizer, and words for it."""
    if name in OPTIMIZERS:
        known = OPTIMIZERS[name]
        constructor = getattr(optim, known.constructor)
        rate = known.lr if lr is None else lr
        return lambda model: constructor(model.parameters(), lr=rate, **known.settings), f"{name} at lr {rate:g}"
    names = ", ".join(OPTIMIZERS)
    if not callable(getattr(module, name, None)):
        raise CheckError(f"Unknown optimizer '{name}'. Known: {names}, or a function of {module.__file__}")
    if lr is not None:
        raise CheckError(f"--lr is for {names}; {name} of {module.__file__} sets its own")
    return getattr(module, name), name


def load_file(path: Path) -> ModuleType:
    """The user's file as a module, which may import its neighbours."""
    if not path.is_file():
        raise CheckError(f"no file {path}")
    name = f"checked_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CheckError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise CheckError(f"{path} can't be imported: {type(error).__name__}: {error}") from error
    return module


def function_of(module: ModuleType, name: str, contract: str) -> Callable[..., Any]:
    """A function of the user's file. Raises `CheckError`, with its contract, where there is none."""
    found = getattr(module, name, None)
    if not callable(found):
        raise CheckError(f"{module.__file__} has no function {name}{contract}")
    function: Callable[..., Any] = found
    return function

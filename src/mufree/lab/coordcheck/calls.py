"""How a user's functions and models are called, and what is read from what they return."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mufree.lab.train.evaluate import cross_entropy
from mufree.optim import BaseShapesError


class CheckError(ValueError):
    """What was given can't be checked; the message says why, and what to do."""


class UserFunctionError(RuntimeError):
    """One of the user's own functions raised: the message says which, `__cause__` is what it raised."""


@contextmanager
def raised_by(function: str) -> Iterator[None]:
    """Within it, what is raised is that function's: `UserFunctionError`. Errors that already say what to do pass unchanged.

    `SystemExit` too, since a `sys.exit(0)` in a user's file would otherwise look like a check that passes.
    """
    try:
        yield
    except (CheckError, BaseShapesError, UserFunctionError):
        raise
    except (Exception, SystemExit) as error:
        raise UserFunctionError(f"{function} raised {type(error).__name__}: {error}") from error


def seeded(make_model: Callable[..., Any], stream: int = 0) -> Callable[[int, int], Any]:
    """`make_model` as a function of width and seed.

    One that takes a width alone is called after `torch.manual_seed(seed ^ stream)`; so is one whose further parameters have
    defaults, unless one of them is called `seed`. Raises `CheckError` for a function that takes neither (width, seed) nor
    (width).
    """
    signature = inspect.signature(make_model)
    parameters = signature.parameters
    if "seed" in parameters and _takes(signature, 0, seed=0):
        return lambda width, seed: make_model(width, seed=seed)
    starred = any(p.kind is p.VAR_POSITIONAL for p in parameters.values())
    if _takes(signature, 0, 0) and (starred or not _takes(signature, 0)):
        return make_model
    if not _takes(signature, 0):
        raise CheckError(f"make_model must take (width, seed) or (width), not {signature}")

    def after_seeding(width: int, seed: int) -> Any:
        torch.manual_seed(seed ^ stream)
        return make_model(width)

    return after_seeding


def made(make_model: Callable[[int, int], Any], width: int, seed: int) -> nn.Module:
    """The model of a width and a seed. Raises `CheckError` for anything else, `UserFunctionError` for what is raised."""
    call = f"make_model at width {width}, seed {seed}"
    with raised_by(call):
        model = make_model(width, seed)
    if not isinstance(model, nn.Module):
        raise CheckError(f"{call} returned {type(model).__name__}, and must return an nn.Module")
    return model


def call_model(model: nn.Module, inputs: Any) -> Any:
    """`model(inputs)`; of a dict `model(**inputs)` and of a tuple or list `model(*inputs)`, where `forward` takes them so."""
    signature = inspect.signature(model.forward)
    if isinstance(inputs, Mapping) and _takes(signature, **inputs):
        return model(**inputs)
    if isinstance(inputs, tuple | list) and _takes(signature, *inputs):
        return model(*inputs)
    return model(inputs)


def _takes(signature: inspect.Signature, *positional: Any, **named: Any) -> bool:
    try:
        signature.bind(*positional, **named)
    except TypeError:
        return False
    return True


def first_tensor(output: Any) -> Tensor | None:
    """The first floating-point tensor in what a module returns, looking into tuples, lists, dicts and dataclasses."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    found = (first_tensor(part) for part in _parts(output))
    return next((tensor for tensor in found if tensor is not None), None)


def _parts(output: Any) -> Iterable[Any]:
    if isinstance(output, Mapping):
        return output.values()
    if isinstance(output, tuple | list):
        return output
    if dataclasses.is_dataclass(output):
        return vars(output).values()
    return ()


def default_loss(output: Any, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of a model's logits [..., classes] against class indices [...].

    `output` is the logits, or an object or dict that has `logits`, or a tuple or list that begins with them. Raises
    `CheckError` for an output without logits, and for targets that are no class indices of them.
    """
    logits = _logits(output)
    if logits is None:
        raise CheckError(f"the model returned {type(output).__name__}, which has no logits; give a loss of your own")
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.shape != logits.shape[:-1]:
        described = f"{targets.dtype} {list(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise CheckError(
            f"cross-entropy needs logits [..., classes] and class indices [...], not {list(logits.shape)} and {described};"
            " give a loss of your own"
        )
    return cross_entropy(logits if logits.ndim > 1 else logits[None], targets.long())


def _logits(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if found is None and isinstance(output, tuple | list) and output:
        found = output[0]
    return found if isinstance(found, Tensor) else None

"""Checkpoints of schedule-free training: always x for inference, and all that resuming bit for bit needs."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from mufree.optim.base_shapes import attach_base_shapes, base_shapes_of, plain_buffers, plain_name, written
from mufree.optim.evaluation import (
    Optimizers,
    check_covered,
    listed,
    snapshots_at_x,
    training_snapshot,
    weights_at_x,
)
from mufree.optim.resuming import go_on_from

FORMAT = "mufree checkpoint 1"


class CheckpointError(ValueError):
    """A file is no checkpoint of ours, or one of another model or optimizer."""


def save_checkpoint(path: str | os.PathLike[str], model: nn.Module, optimizer: Optimizers, **extra: Any) -> None:
    """Write model, optimizer and `extra` to a file that `load_checkpoint` resumes from, to the bit.

    Several optimizers that share the model's parameters among them are given as a list. One that was left out and is at y is
    warned of, once, if it was made here.

    Works in either mode and inside `evaluating`, and changes neither the model nor the optimizer. The file replaces one of
    the same name only when it is complete. It is a dict that `torch.load(path, weights_only=True)` reads:

      - "model": the model's state dict at x, for inference. Its buffers are those of the moment: BatchNorm's statistics are
        those that training collected at y, or, if one saves inside `evaluating(optimizer, model, batches)`, those at x;
      - "optimizer": the optimizer's state dict, in eval mode as fits x, which the plain schedulefree optimizer can load too;
        of several optimizers, a list of theirs;
      - "training": what the two above lack: the mode, the weights and the buffers with which training goes on. y can't be
        had from x and z to the bit;
      - "base_shapes": as `base_shapes_of` gives them, or empty for a model without;
      - "extra": tensors, numbers, strings, and lists, tuples and dicts of them: the step, state dicts of a learning-rate
        schedule or a gradient scaler, random states (`torch.get_rng_state()`; a model with dropout needs them to resume).

    Names are those of the bare model, without what torch.compile or DDP put before them. Under DDP let one process
    save. Raises CheckpointError for an `extra` that only pickle could load, and for sharded weights (FSDP2), and ValueError for
    an optimizer that has no parameter of the model.
    """
    if any(hasattr(p, "device_mesh") for p in model.parameters()):
        raise CheckpointError(
            "The model's weights are sharded over processes, and this would save one's share. Use torch.distributed.checkpoint."
        )
    optimizers = listed(optimizer)
    check_covered(optimizers, model)
    with ExitStack() as at_x:
        continued = [at_x.enter_context(weights_at_x(each, model)) for each in optimizers]
        temporary = at_x.enter_context(written(path))
        state = {plain_name(model, name): value for name, value in model.state_dict().items()}
        kept = {id(buffer): value for taken in reversed(snapshots_at_x()) for _, _, buffer, value in taken.buffers}
        buffers = {name: kept.get(id(buffer), buffer) for name, buffer in plain_buffers(model).items()}
        content = {
            "format": FORMAT,
            "model": state,
            "optimizer_type": _one_or_all([_type_name(each) for each in optimizers]),
            "optimizer": _one_or_all([each.state_dict() for each in optimizers]),
            "training": {
                "train_mode": _one_or_all([taken.train_mode for taken in continued]),
                "weights": _one_or_all([taken.weights for taken in continued]),
                "buffers": {name: value for name, value in buffers.items() if name in state},
            },
            "base_shapes": base_shapes_of(model) if any(hasattr(p, "infshape") for p in model.parameters()) else {},
            "extra": extra,
        }
        try:
            save_content(content, temporary)
            torch.load(temporary, map_location="cpu", weights_only=True, mmap=True)
        except (pickle.PickleError, AttributeError, TypeError) as error:
            found = re.search(r"GLOBAL (\S+)", str(error))
            raise CheckpointError(
                f"Not saved: {found[1] if found else error} could only be loaded by unpickling code. Keep to tensors, numbers, "
                f"strings, and lists, tuples and dicts of them, in the optimizer's groups and in {sorted(extra)}."
            ) from error


def load_checkpoint(
    path: str | os.PathLike[str], model: nn.Module, optimizer: Optimizers | None = None
) -> dict[str, Any]:
    """Load a checkpoint and return its `extra`.

    Without an optimizer the model gets x. With one, or a list of those that were saved, in their order, all continue as they
    were: in the same mode, so that `optimizer.train()` before the next step does no harm and is needed if the checkpoint was
    made in eval mode. The model's own train or eval flags are left alone. A model without base shapes gets those of the
    checkpoint.

    Raises FileNotFoundError; CheckpointError for a file that is damaged or not ours, or whose model, optimizer or base shapes
    are others, after which part of it may be loaded; RuntimeError inside `evaluating`, which would put the weights back.
    """
    optimizers = [] if optimizer is None else listed(optimizer)
    if any(training_snapshot(each) is not None for each in optimizers):
        raise RuntimeError(
            "load_checkpoint inside `with evaluating(...)`, which would undo it. Leave the context first."
        )
    content = read_checkpoint(Path(path))
    saved = _saved_optimizers(content)
    types, here = [each.type_name for each in saved], [_type_name(each) for each in optimizers]
    if optimizers and types != here:
        raise CheckpointError(f"{path} is of a {' and a '.join(types)}, but the optimizer is a {' and a '.join(here)}")
    _check_base_shapes(model, content["base_shapes"], path)
    names = {plain_name(model, name): name for name in model.state_dict()}
    try:
        model.load_state_dict({names.get(name, name): value for name, value in content["model"].items()})
        if optimizers:
            for each, its in zip(optimizers, saved, strict=True):
                each.load_state_dict(its.state)
                go_on_from(its.training, each, model)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} does not fit this model and optimizer: {error}") from error
    if content["base_shapes"]:
        attach_base_shapes(model, content["base_shapes"])
    extra: dict[str, Any] = content["extra"]
    return extra


class _Saved(NamedTuple):
    """One optimizer in a checkpoint."""

    type_name: str
    state: dict[str, Any]
    training: dict[str, Any]


def _saved_optimizers(content: Mapping[str, Any]) -> list[_Saved]:
    training = content["training"]
    parts = content["optimizer_type"], content["optimizer"], training["train_mode"], training["weights"]
    found = zip(*parts, strict=True) if isinstance(parts[0], list) else [parts]
    return [
        _Saved(name, state, {"train_mode": mode, "weights": weights, "buffers": training["buffers"]})
        for name, state, mode, weights in found
    ]


def _one_or_all(values: list[Any]) -> Any:
    """A list for several optimizers; the value for one, as in files from when there was only one."""
    return values[0] if len(values) == 1 else values


def _type_name(optimizer: Optimizer) -> str:
    base = getattr(optimizer, "base", None)  # ScheduleFreeWrapper's
    return type(optimizer).__name__ + (f"({type(base).__name__})" if base is not None else "")


def save_content(content: Mapping[str, Any], path: Path) -> None:
    """`torch.save`, in which a write that fails is the system's error, such as that of a full disk, and none of torch's own."""
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def read_checkpoint(path: Path, form: str = FORMAT) -> dict[str, Any]:
    """What a checkpoint of a format holds; nothing in it is executed. Raises CheckpointError, and FileNotFoundError."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}")
    damaged = CheckpointError(f"{path} is damaged or no checkpoint")
    if not _intact(path):
        raise damaged
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.PickleError, RuntimeError, EOFError) as error:
        raise damaged from error
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(found, str) and found.startswith("mufree ") and found != form:
        raise CheckpointError(f"{path} is a '{found}', and this reads a '{form}'. Use the mufree that wrote it")
    if not isinstance(content, dict) or found != form:
        raise CheckpointError(f"{path} was not written by save_checkpoint (no format '{form}' in it)")
    return content


def _intact(path: Path) -> bool:
    """Whether it is a zip file whose parts have the CRC-32 that torch wrote with them, which torch does not look at."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except Exception:  # many kinds, by which byte is wrong
        return False


def _check_base_shapes(model: nn.Module, shapes: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Raise if the model has base shapes, but others: it would run, with other multipliers."""
    if not any(hasattr(p, "infshape") for p in model.parameters()):
        return
    for name, here in base_shapes_of(model).items():
        if name in shapes and here["base_shape"] != shapes[name]["base_shape"]:
            raise CheckpointError(
                f"{name} has the base shape {here['base_shape']} but {shapes[name]['base_shape']} in {path}. Make the model "
                "with the base width with which it was trained."
            )

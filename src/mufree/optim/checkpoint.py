"""Checkpoints of schedule-free training: always x for inference, and all that resuming bit for bit needs."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from mufree.optim.base_shapes import attach_base_shapes, base_shapes_of, plain_name, written
from mufree.optim.evaluation import set_train_mode, training_snapshot, weights_at_x, weights_of

FORMAT = "mufree checkpoint 1"


class CheckpointError(ValueError):
    """A file is no checkpoint of ours, or one of another model or optimizer."""


def save_checkpoint(path: str | os.PathLike[str], model: nn.Module, optimizer: Optimizer, **extra: Any) -> None:
    """Write model, optimizer and `extra` to a file that `load_checkpoint` resumes from, to the bit.

    Works in either mode and inside `evaluating`, and changes neither the model nor the optimizer. The file replaces one of
    the same name only when it is complete. It is a dict that `torch.load(path, weights_only=True)` reads:

      - "model": the model's state dict at x, for inference. Its buffers are those of the moment: BatchNorm's statistics are
        those that training collected at y, or, if one saves inside `evaluating(optimizer, model, batches)`, those at x;
      - "optimizer": the optimizer's state dict, in eval mode as fits x, which the plain schedulefree optimizer can load too;
      - "training": what the two above lack: the mode, the weights and the buffers with which training goes on. y can't be
        had from x and z to the bit;
      - "base_shapes": as `base_shapes_of` gives them, or empty for a model without;
      - "extra": tensors, numbers, strings, and lists, tuples and dicts of them: the step, state dicts of a learning-rate
        schedule or a gradient scaler, random states (`torch.get_rng_state()`; a model with dropout needs them to resume).

    Names are those of the bare model, without what torch.compile or DDP put before them. Under DDP let one process
    save. Raises CheckpointError for an `extra` that only pickle could load, and for sharded weights (FSDP2).
    """
    if any(hasattr(p, "device_mesh") for p in model.parameters()):
        raise CheckpointError(
            "The model's weights are sharded over processes, and this would save one's share. Use torch.distributed.checkpoint."
        )
    with weights_at_x(optimizer, model), written(path) as temporary:
        state = {plain_name(model, name): value for name, value in model.state_dict().items()}
        continued = training_snapshot(optimizer)  # inside `evaluating`, that of its beginning
        assert continued is not None
        kept = {id(buffer): value for _, _, buffer, value in continued.buffers}
        buffers = {plain_name(model, name): kept.get(id(buffer), buffer) for name, buffer in model.named_buffers()}
        content = {
            "format": FORMAT,
            "model": state,
            "optimizer_type": _type_name(optimizer),
            "optimizer": optimizer.state_dict(),
            "training": {
                "train_mode": continued.train_mode,
                "weights": continued.weights,
                "buffers": {name: value for name, value in buffers.items() if name in state},
            },
            "base_shapes": base_shapes_of(model) if any(hasattr(p, "infshape") for p in model.parameters()) else {},
            "extra": extra,
        }
        try:
            torch.save(content, temporary)
            torch.load(temporary, map_location="cpu", weights_only=True, mmap=True)
        except (pickle.PickleError, AttributeError, TypeError) as error:
            found = re.search(r"GLOBAL (\S+)", str(error))
            raise CheckpointError(
                f"Not saved: {found[1] if found else error} could only be loaded by unpickling code. Keep to tensors, numbers, "
                f"strings, and lists, tuples and dicts of them, in the optimizer's groups and in {sorted(extra)}."
            ) from error


def load_checkpoint(
    path: str | os.PathLike[str], model: nn.Module, optimizer: Optimizer | None = None
) -> dict[str, Any]:
    """Load a checkpoint and return its `extra`.

    Without an optimizer the model gets x. With one, both continue as those that were saved: in the same mode, so that
    `optimizer.train()` before the next step does no harm and is needed if the checkpoint was made in eval mode. The model's
    own train or eval flags are left alone. A model without base shapes gets those of the checkpoint.

    Raises FileNotFoundError; CheckpointError for a file that is damaged or not ours, or whose model, optimizer or base shapes
    are others, after which part of it may be loaded; RuntimeError inside `evaluating`, which would put the weights back.
    """
    if optimizer is not None and training_snapshot(optimizer) is not None:
        raise RuntimeError(
            "load_checkpoint inside `with evaluating(...)`, which would undo it. Leave the context first."
        )
    content = read_checkpoint(Path(path))
    if optimizer is not None and _type_name(optimizer) != content["optimizer_type"]:
        raise CheckpointError(
            f"{path} is of a {content['optimizer_type']}, but the optimizer is a {_type_name(optimizer)}"
        )
    _check_base_shapes(model, content["base_shapes"], path)
    names = {plain_name(model, name): name for name in model.state_dict()}
    try:
        model.load_state_dict({names.get(name, name): value for name, value in content["model"].items()})
        if optimizer is not None:
            optimizer.load_state_dict(content["optimizer"])
            _resume(model, optimizer, content["training"])
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} does not fit this model and optimizer: {error}") from error
    if content["base_shapes"]:
        attach_base_shapes(model, content["base_shapes"])
    extra: dict[str, Any] = content["extra"]
    return extra


def _type_name(optimizer: Optimizer) -> str:
    base = getattr(optimizer, "base", None)  # ScheduleFreeWrapper's
    return type(optimizer).__name__ + (f"({type(base).__name__})" if base is not None else "")


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
    if not isinstance(content, dict) or content.get("format") != form:
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


@torch.no_grad()
def _resume(model: nn.Module, optimizer: Optimizer, training: Mapping[str, Any]) -> None:
    set_train_mode(optimizer, training["train_mode"])
    for parameter, value in zip(weights_of(optimizer), training["weights"], strict=True):
        if parameter.shape != value.shape:  # copy_ would broadcast
            raise ValueError("the optimizer has its parameters in another order")
        parameter.copy_(value)
    buffers = {plain_name(model, name): buffer for name, buffer in model.named_buffers()}
    for name, value in training["buffers"].items():
        buffers[name].copy_(value)

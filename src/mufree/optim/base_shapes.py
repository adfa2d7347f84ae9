"""µP's base shapes by parameter name: saved as JSON, and attached again where `mup` loses them.

`mup` keeps them in an attribute `infshape` of each parameter tensor, and `parametrize` what it understood in another. They are
lost where tensors are made anew: by a fresh model into which a checkpoint is loaded, or by FSDP. Names outlive all of that.
(`copy.deepcopy` loses them as well when `mup` is used alone; here it keeps them, see `_copied`.)

    shapes = base_shapes_of(model)  # before wrapping
    fully_shard(model)
    attach_base_shapes(model, shapes)
    optimizer = MuAdamW_ScheduleFree(model.parameters(), ...)
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import mup
from mup.infshape import InfDim, InfShape
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mufree.optim.groups import BaseShapesError, Growth, growth_of
from mufree.optim.uses import module_uses

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Attributes in which torch's wrappers (torch.compile, FSDP, activation checkpointing) keep the module."""


class BaseShape(TypedDict):
    """One parameter's shape, and the base dimension of each of its dimensions; None where it does not grow with width."""

    shape: list[int]
    base_shape: list[int | None]
    growth: NotRequired[dict[str, Any]]
    """What `parametrize` understood: the fields of `groups.Growth`."""
    divided: NotRequired[list[str]]
    """Modules whose input is divided by its growth: outputs whose weight is an embedding's."""


def base_shapes_of(model: nn.Module) -> dict[str, BaseShape]:
    """Shape and base shape of every parameter by its plain name (`plain_name`), ready for JSON.

    Raises `BaseShapesError` naming parameters without `infshape`.
    """
    missing = [name for name, p in model.named_parameters() if not hasattr(p, "infshape")]
    if missing:
        raise BaseShapesError(
            f"No base shapes to save for {_listed(missing)}. Call mup.set_base_shapes(model, base, delta=...) first, and "
            "save them before the model is copied or sharded."
        )
    shapes: dict[str, BaseShape] = {}
    for name, parameter in model.named_parameters():
        infshape = parameter.infshape  # type: ignore[attr-defined]
        entry = BaseShape(shape=infshape.shape(), base_shape=infshape.base_shape())
        shapes[plain_name(model, name)] = entry
        growth: Growth | None = getattr(parameter, "mup_growth", None)
        if growth is not None:
            entry["growth"] = asdict(growth)
        if growth is not None and growth.kind == "tied":
            weights = (plain_name(model, f"{module}.weight") for module in outputs_of(model, parameter))
            entry["divided"] = [weight.removesuffix(".weight") for weight in weights]
    return shapes


def attach_base_shapes(model: nn.Module, shapes: Mapping[str, BaseShape]) -> None:
    """Give every parameter its `infshape` again, found by name; weights are not touched.

    `model` may be wrapped (torch.compile, DDP, FSDP) whether or not that was so when `shapes` was made, and may have another
    width. `mup.set_base_shapes` would instead multiply biases and readouts by √m again, unless told not to.

    Raises `BaseShapesError` naming parameters that only one of the two has, or whose number of dimensions or whose
    dimensions that do not grow with width differ.
    """
    parameters = {plain_name(model, name): p for name, p in model.named_parameters()}
    by_name = _without_wrappers(shapes, parameters)
    missing, extra = sorted(parameters.keys() - by_name.keys()), sorted(by_name.keys() - parameters.keys())
    if missing or extra:
        raise BaseShapesError(
            f"The base shapes are those of another model: they lack {_listed(missing)}, and the model lacks {_listed(extra)}."
        )
    for name, parameter in parameters.items():
        saved, shape = by_name[name], tuple(parameter.shape)
        if len(saved["shape"]) != len(shape) or any(
            base is None and was != now
            for base, was, now in zip(saved["base_shape"], saved["shape"], shape, strict=True)
        ):
            raise BaseShapesError(
                f"{name} has the shape {shape}, but {tuple(saved['shape'])} where its base shape was saved; only dimensions "
                f"with a base dimension may differ, in {tuple(saved['base_shape'])}."
            )
    for name, parameter in parameters.items():
        attach(parameter, by_name[name]["base_shape"], _growth(by_name[name].get("growth")))
    modules = {plain_name(model, f"{name}.weight"): module for name, module in model.named_modules()}
    for name, entry in by_name.items():
        for output in entry.get("divided", ()):
            divide_input(modules[f"{output}.weight"], growth_of(parameters[name])[1])
    for module in model.modules():
        # In a forward pass under FSDP the weight is yet another tensor, gathered from the shards.
        if isinstance(module, mup.MuReadout) and hasattr(module.weight, "device_mesh"):
            for key, hook in list(module._forward_pre_hooks.items()):
                if isinstance(hook, _ReadoutShape):
                    del module._forward_pre_hooks[key]
            module.register_forward_pre_hook(_ReadoutShape(module.weight.infshape.base_shape()))


def save_base_shapes(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the model's base shapes to a JSON file. Raises `BaseShapesError` as `base_shapes_of` does."""
    text = json.dumps(base_shapes_of(model), indent=1) + "\n"
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def load_base_shapes(path: str | os.PathLike[str]) -> dict[str, BaseShape]:
    """Read what `save_base_shapes` wrote, for `attach_base_shapes`. Raises `BaseShapesError` for any other file."""
    try:
        shapes: dict[str, BaseShape] = json.loads(Path(path).read_text(encoding="utf-8"))
        if all(len(entry["shape"]) == len(entry["base_shape"]) for entry in shapes.values()):
            return shapes
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise BaseShapesError(f"{path} is not a file of base shapes that save_base_shapes wrote")


def plain_name(model: nn.Module, name: str) -> str:
    """The name that a parameter or buffer `name` of `model` has without wrappers.

    "module." goes where it is DataParallel's or DistributedDataParallel's; a submodule that is called so stays.
    """
    *path, last = name.split(".")
    module: object = model
    kept = []
    for part in path:
        if not (part in WRAPPERS or (part == "module" and isinstance(module, (DataParallel, DistributedDataParallel)))):
            kept.append(part)
        module = getattr(module, part, None)  # a state dict's hooks may have made up names
    return ".".join([*kept, last])


def plain_buffers(model: nn.Module) -> dict[str, Tensor]:
    """A model's buffers by their names without wrappers."""
    return {plain_name(model, name): buffer for name, buffer in model.named_buffers()}


def _without_wrappers(shapes: Mapping[str, BaseShape], parameters: Mapping[str, Tensor]) -> dict[str, BaseShape]:
    """Shapes by plain name, also where they were collected by the names of a wrapped model."""
    plain = {".".join(part for part in name.split(".") if part not in WRAPPERS): s for name, s in shapes.items()}
    if parameters.keys() != plain.keys() and all(name.startswith("module.") for name in plain):
        return {name.removeprefix("module."): s for name, s in plain.items()}
    return plain


def attach(parameter: Tensor, base_shape: Iterable[int | None], growth: Growth | None = None) -> None:
    """Give a tensor the base dimension of each of its dimensions, and what is understood of its growth."""
    dims = [InfDim(base, size) for base, size in zip(base_shape, parameter.shape, strict=True)]
    parameter.infshape = InfShape(dims)  # type: ignore[attr-defined]
    if growth is not None:
        parameter.mup_growth = growth  # type: ignore[attr-defined]


def _growth(record: Mapping[str, Any] | None) -> Growth | None:
    if record is None:
        return None
    return Growth(**{**record, **{side: tuple(record[side]) for side in ("inputs", "outputs")}})  # JSON has lists


class _ReadoutShape:
    """Forward pre-hook of a readout: attach the base shape to the tensor that is the weight just now."""

    def __init__(self, base_shape: list[int | None]) -> None:
        self.base_shape = base_shape

    def __call__(self, module: nn.Module, _inputs: Any) -> None:
        weight = module.weight
        if isinstance(weight, Tensor) and not hasattr(weight, "infshape"):
            attach(weight, self.base_shape)


class DividedInput:
    """Forward pre-hook of an output layer whose weight is an embedding's: its input divided by the growth of its fan-in."""

    def __init__(self, growth: float) -> None:
        self.growth = growth

    def __call__(self, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs that the module gets."""
        return inputs[0] / self.growth, *inputs[1:]


def divided_input(module: nn.Module) -> DividedInput | None:
    """The hook that divides a module's input, if it has one."""
    return next((hook for hook in module._forward_pre_hooks.values() if isinstance(hook, DividedInput)), None)


def divide_input(module: nn.Module, growth: float) -> None:
    """Divide a module's input by `growth`, in the place of what it was divided by before."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, DividedInput):
            del module._forward_pre_hooks[key]
    if growth != 1.0:
        module.register_forward_pre_hook(DividedInput(growth))


def outputs_of(model: nn.Module, weight: Tensor) -> list[str]:
    """Names of the modules in which a tied weight is an output's; mup's readouts, which divide by themselves, aside."""
    return [
        name
        for name, module in model.named_modules()
        if getattr(module, "weight", None) is weight
        and not isinstance(module, mup.MuReadout)
        and any(use.is_sum for use in module_uses(module, "weight"))
    ]


_copy_parameter = nn.Parameter.__deepcopy__


def _copied(self: nn.Parameter, memo: dict[int, Any]) -> Any:
    """`copy.deepcopy` of a parameter with its base shape; torch's own copies a buffer's attributes and forgets a parameter's.

    An average of weights, a teacher, a model for each fold: all are deep copies, and an optimizer of theirs must know the
    width.
    """
    copied = _copy_parameter(self, memo)  # type: ignore[no-untyped-call]
    for name in ("infshape", "mup_growth"):
        if hasattr(self, name) and not hasattr(copied, name):
            setattr(copied, name, getattr(self, name))
    return copied


nn.Parameter.__deepcopy__ = _copied  # type: ignore[method-assign, assignment]


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:5]) or "nothing"
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


@contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary sibling of `path` that takes its name at the end, or is removed after an exception."""
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut may leave the name without the data
        temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None and error.errno is not None:
            error.filename = str(path)  # a write and fsync name no file
        raise

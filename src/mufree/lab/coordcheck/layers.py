"""What kind of layer a module is: how it uses its weight, and which dimensions of that grow with width."""

from __future__ import annotations

import mup
from torch import nn

from mufree.lab.coordcheck.calls import CheckError
from mufree.lab.parametrization import NORMS
from mufree.optim.uses import module_uses


def module_layers(narrow: nn.Module, wide: nn.Module) -> dict[str, str]:
    """Layer type of every module that owns parameters itself, by name; dimensions of width are those that differ.

    Raises `CheckError` where the models have different parameters, or none of them grows.
    """
    grows = _growing(narrow, wide)
    layers: dict[str, str] = {}
    for name, module in narrow.named_modules():
        # A model that holds a class token or the like puts out what its readout does.
        if not name and any(narrow.children()):
            continue
        own = {key: p for key, p in module.named_parameters(recurse=False) if p is not None}
        if own:
            # The first matrix is the weight; a module that has none is a normalisation, a gain or a bias.
            key = next((key for key, p in own.items() if p.ndim > 1), next(iter(own)))
            layers[name] = layer_type(module, key, grows[f"{name}.{key}".lstrip(".")])
    return layers


def layer_type(module: nn.Module, key: str, grows: tuple[bool, ...]) -> str:
    """Layer type of a module by its weight `key`: see `parametrization.layer_types`, whose words these are.

    `grows` says of each dimension whether it grows with width. A readout is summed over a growing dimension and puts out fixed
    ones, whatever its class: an output layer, but also a router, or key heads whose number is fixed. A module whose use of its
    weight isn't known counts as hidden where two dimensions grow, and else as an embedding.
    """
    if isinstance(module, NORMS):
        return "norm"
    if isinstance(module, mup.MuReadout):
        return "readout"
    sums = [use for use in module_uses(module, key) if use.is_sum]
    if not sums and sum(size > 1 for size in module.get_parameter(key).shape) < 2:
        return "bias"  # also a gain of shape [C, 1, 1]
    if not sums:
        return "hidden" if sum(grows) > 1 else "embedding"
    fan_in, fan_out = (any(grows[i] for i in dims) for dims in (sums[0].inputs, sums[0].outputs))
    return "embedding" if not fan_in else "hidden" if fan_out else "readout"


def _growing(narrow: nn.Module, wide: nn.Module) -> dict[str, tuple[bool, ...]]:
    """Which dimensions of every parameter differ, by name; of a tied one under each of its names."""
    first, second = (
        {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)} for model in (narrow, wide)
    )
    different = sorted(
        name for name in {*first, *second} if len(first.get(name, ())) != len(second.get(name, ())) or name not in first
    )
    if different:
        raise CheckError(
            f"models of two widths must have the same parameters but for their sizes; {different[0]} is not in both"
        )
    grows = {name: tuple(a != b for a, b in zip(first[name], second[name], strict=True)) for name in first}
    if not any(any(each) for each in grows.values()):
        raise CheckError("models of two widths have the same shapes: make_model does not use its width")
    return grows

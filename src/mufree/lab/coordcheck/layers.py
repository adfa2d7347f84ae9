"""What kind of layer a module is: read from the module and from which dimensions of its weight grow with width."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from mufree.lab.coordcheck.calls import CheckError
from mufree.lab.parametrization import NORMS


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
            layers[name] = layer_type(module, tuple(own[key].shape), grows[f"{name}.{key}".lstrip(".")])
    return layers


def layer_type(module: nn.Module, shape: tuple[int, ...], grows: tuple[bool, ...]) -> str:
    """Layer type of a module whose weight has this shape: see `parametrization.layer_types`, whose words these are.

    `grows` says of each dimension whether it grows with width. Of linear maps a readout is one with a growing fan-in and a
    fixed fan-out, whatever its class: an output layer, but also a router, or key heads whose number is fixed. Of other modules
    one dimension that grows doesn't tell whether it is fan-in or fan-out; they count as embeddings.
    """
    if isinstance(module, NORMS):
        return "norm"
    if len(shape) == 1:
        return "bias"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    if isinstance(module, nn.Linear | nn.Bilinear | _ConvNd):
        fan_out, *fan_in = grows if not isinstance(module, _ConvTransposeNd) else (grows[1], grows[0])
    elif type(module).__name__ == "Conv1D":  # of transformers, whose weight is [in, out]
        fan_out, fan_in = grows[1], [grows[0]]
    else:
        if sum(size > 1 for size in shape) < 2:
            return "bias"  # a gain of shape [C, 1, 1], say
        return "hidden" if sum(grows) > 1 else "embedding"
    if any(fan_in):
        return "hidden" if fan_out else "readout"
    return "embedding"


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

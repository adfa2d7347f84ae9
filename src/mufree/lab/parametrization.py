"""Standard parametrization (SP) or Maximal Update Parametrization (µP) for any model whose output layer is `mup.MuReadout`.

The order is base shapes, then initialisation, then the optimizer: `parametrize` does the first two in one call, so that they
can't be swapped. One code path serves both parametrizations. In SP every dimension is finite (the model is its own base), so
that each of `mup`'s multipliers is 1; at the base width µP's multipliers are 1 too, and the two are the same to the bit.

The initial weights are the same in both at *every* width: a kaiming variance of gain²/fan_in is what µP asks of matrix-like
weights, input weights have a fixed fan-in, and readouts and queries are zero (Yang et al. 2022, appendix D.2). What differs is
the readout's multiplier, the attention's scale where the head dimension grows, and the optimizer's learning rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import mup
import torch
from torch import nn

from mufree.lab.models.transformer import Attention

Parametrization = Literal["sp", "mup"]
LayerType = Literal["embedding", "hidden", "readout", "norm", "bias"]

EMBEDDING_STD = 0.1
"""Standard deviation of look-up tables (tokens, positions). Free of width in SP and µP: a look-up has a fan-in of one."""

SEED_STREAM = 0x6D7566726565
"""Is xor-ed with the seed: data that someone draws with a torch generator of the very same seed would otherwise be the same
numbers as the first weights, and activations would be far too large."""

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


def parametrize(
    make_model: Callable[[int], nn.Module], width: int, base_width: int, parametrization: Parametrization, seed: int
) -> nn.Module:
    """The model at `width` with base shapes and initial weights, on the CPU, ready for a µP optimizer.

    `make_model(width)` builds an uninitialised model. A class attribute `nonlinearity` of it (a name that
    `torch.nn.init.calculate_gain` knows; `linear` where there is none) sets the gain of its weights. The weights depend on
    `seed` and the shapes alone; torch's global random state is left as it was.

    Raises ValueError for an unknown parametrization.
    """
    if parametrization not in ("sp", "mup"):
        raise ValueError(f"Unknown parametrization '{parametrization}'. Known: sp, mup")
    with torch.device("meta"):  # shapes only: no memory, no time, no random numbers
        base, delta = make_model(base_width), make_model(2 * base_width)
    with torch.random.fork_rng(devices=[]):
        model = make_model(width)
        # A dimension is one of width where base and delta differ, whatever the target's is: at width == base_width it stays
        # infinite, with multiplier 1. rescale_params=False, since every parameter is drawn anew below.
        if parametrization == "mup":
            mup.set_base_shapes(model, base, delta=delta, rescale_params=False)
        else:
            mup.set_base_shapes(model, None, rescale_params=False)
        types = classify(base, mup.zip_infshapes(base, delta))
        # After the constructors, so that what they draw does not matter. Not torch.manual_seed: it seeds accelerators too.
        torch.default_generator.manual_seed(seed ^ SEED_STREAM)
        _initialise(model, types)
    _set_attention_scale(model, base if parametrization == "mup" else model)
    vars(model)["layer_types"] = types
    return model


def layer_types(model: nn.Module) -> dict[str, LayerType]:
    """Layer type of every parameter of a model that `parametrize` made, by name; the same under SP and µP.

    `embedding`: fan-in finite and fan-out growing (look-ups, patch embedding, first layer); `hidden`: both grow; `readout`:
    the output layer's weight; `norm`: weight and bias of a normalisation; `bias`: any other bias.

    Raises ValueError if `parametrize` has not been called.
    """
    types: dict[str, LayerType] | None = vars(model).get("layer_types")
    if types is None:
        raise ValueError(
            f"{type(model).__name__} has no layer types; make it with mufree.lab.parametrization.parametrize"
        )
    return types


def classify(model: nn.Module, infshapes: Mapping[str, mup.InfShape]) -> dict[str, LayerType]:
    """Layer type of every parameter (see `layer_types`), from the modules that own them and from µP's `infshapes`.

    A weight without any dimension of width counts as `embedding`: its fan-in is finite.
    """
    types: dict[str, LayerType] = {}
    for module_name, module in model.named_modules():
        for name, _ in module.named_parameters(module_name, recurse=False):
            # A tied parameter has an infshape under its first name only.
            if name in infshapes:
                types[name] = _layer_type(module, infshapes[name])
    return types


def _layer_type(module: nn.Module, infshape: mup.InfShape) -> LayerType:
    if isinstance(module, NORMS):
        return "norm"
    if len(infshape) == 1:
        return "bias"
    # By module: the infshape of a readout, (finite, infinite), is also that of a look-up table.
    if isinstance(module, mup.MuReadout):
        return "readout"
    return "hidden" if infshape.ninf() == 2 else "embedding"


def _initialise(model: nn.Module, types: Mapping[str, LayerType]) -> None:
    """Draw every parameter, in the order of `named_parameters`."""
    nonlinearity = getattr(model, "nonlinearity", "linear")
    kernels = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))}
    for name, p in model.named_parameters():
        match types[name]:
            case "norm" if name.endswith("weight"):
                nn.init.ones_(p)  # mup.init.ones_ refuses SP, where no dimension is infinite
            case "norm" | "bias" | "readout":
                nn.init.zeros_(p)
            # The last dimension of a look-up table is its fan-out, which kaiming would take for the fan-in.
            case "embedding" if id(p) not in kernels:
                mup.init.normal_(p, std=EMBEDDING_STD)
            case "embedding" | "hidden":
                mup.init.kaiming_normal_(p, nonlinearity=nonlinearity)
    for module in model.modules():
        if isinstance(module, Attention):
            width = module.qkv.weight.shape[1]
            nn.init.zeros_(module.qkv.weight[:width])


def _set_attention_scale(model: nn.Module, base: nn.Module) -> None:
    """Scores times √d_base/d: µP's 1/d (Yang et al. 2022, definition 4.1), equal to SP's 1/√d at the base head dimension.

    Where the head dimension d is fixed while the number of heads grows, that is 1/√d at every width.
    """
    for module, base_module in zip(model.modules(), base.modules(), strict=True):
        if isinstance(module, Attention) and isinstance(base_module, Attention):
            module.scale = math.sqrt(base_module.head_dim) / module.head_dim

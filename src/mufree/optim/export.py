"""Leaving µP behind: a trained model as its plain class would have it."""

from __future__ import annotations

import copy
from typing import Any

import mup
import torch
from torch import Tensor, nn

from mufree.optim.attention import attention_factor, plain_scale
from mufree.optim.base_shapes import divide_input, divided_input


@torch.no_grad()
def export(model: nn.Module) -> nn.Module:
    """A copy of a model made by `parametrize` whose weights alone give its outputs: no multiplier, hook or class of mup's is
    left.

    What its `state_dict()` holds loads into the plain class. The model itself is not changed. To be called at x, inside
    `evaluating`.

      - `mup.MuReadout` becomes `nn.Linear`, with its multiplier in the weight;
      - an output whose weight is an embedding's gets a weight of its own, divided by the growth. Its class has to be built
        untied then: a transformers model's `config.tie_word_embeddings` is set to False;
      - where attention has another scale than its class gives it, the factor goes into the weights of the queries.

    Everything else is plain already. Raises ValueError, naming the module, where an attention's queries aren't found.
    """
    plain = copy.deepcopy(model)
    for module in list(plain.modules()):
        if isinstance(module, mup.MuReadout):
            _to_linear(module)
        elif (hook := divided_input(module)) is not None:
            assert isinstance(module.weight, Tensor)
            module.weight = nn.Parameter(module.weight / hook.growth)
            divide_input(module, 1.0)
            _untie(plain)
    for name, module in plain.named_modules():
        if (factor := attention_factor(module)) != 1.0:
            _scale_queries(name, module, factor)
            plain_scale(module)
    for parameter in plain.parameters():
        for attribute in ("infshape", "mup_growth"):
            if hasattr(parameter, attribute):
                delattr(parameter, attribute)
    return plain


def _to_linear(readout: mup.MuReadout) -> None:
    readout.weight = nn.Parameter(readout.weight * (readout.output_mult / readout.width_mult()))
    readout.__class__ = nn.Linear
    for attribute in ("output_mult", "readout_zero_init", "_has_rescaled_params"):
        vars(readout).pop(attribute, None)


def _untie(model: nn.Module) -> None:
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "tie_word_embeddings", False):
            config.tie_word_embeddings = False


def _scale_queries(name: str, module: nn.Module, factor: float) -> None:
    """Multiply the queries of an attention by `factor`, where they are made last: in their norm, else in their projection."""
    for attribute in ("q_norm", "query_norm"):
        if getattr(getattr(module, attribute, None), "weight", None) is not None:
            getattr(module, attribute).weight.mul_(factor)
            if (bias := getattr(getattr(module, attribute), "bias", None)) is not None:
                bias.mul_(factor)
            return
    for attribute in ("q_proj", "query", "to_q", "q_lin", "q", "wq"):
        if isinstance(getattr(module, attribute, None), nn.Module):
            _scale_all(getattr(module, attribute), factor)
            return
    if isinstance(module, nn.MultiheadAttention):
        if not module._qkv_same_embed_dim:
            module.q_proj_weight.mul_(factor)
        else:
            _scale_first_third(module.in_proj_weight, 0, factor)
        if module.in_proj_bias is not None:
            _scale_first_third(module.in_proj_bias, 0, factor)
        return
    for attribute in ("qkv", "c_attn", "in_proj"):
        if isinstance(packed := getattr(module, attribute, None), nn.Module):
            out = 0 if isinstance(packed, nn.Linear) else -1  # transformers' Conv1D is [in, out]
            for parameter in packed.parameters():
                _scale_first_third(parameter, out if parameter.dim() > 1 else 0, factor)
            return
    raise ValueError(
        f"{name} ({type(module).__name__}) scales its scores by µP's rule, and where its queries are made isn't known, so that "
        "the factor can't be put into its weights. Keep the parametrized model, or give the head dimension a fixed size."
    )


def _scale_all(module: nn.Module, factor: float) -> None:
    for parameter in module.parameters():
        parameter.mul_(factor)


def _scale_first_third(packed: Tensor, dimension: int, factor: float) -> None:
    packed.tensor_split(3, dimension)[0].mul_(factor)

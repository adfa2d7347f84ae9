"""Leaving µP behind: a trained model as its plain class would have it."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import mup
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from mufree.optim.attention import attention_factor, plain_scale
from mufree.optim.base_shapes import divide_input, divided_input
from mufree.optim.batches import run_on
from mufree.optim.evaluation import flags_kept


@torch.no_grad()
def export(model: nn.Module, example: Any = None) -> nn.Module:
    """A copy of a model made by `parametrize` whose weights alone give its outputs: no multiplier, hook or mup class is left.

    What its `state_dict()` holds loads into the plain class. The model itself is not changed. To be called at x, inside
    `evaluating`. `example` is a batch of inputs (`batches.run_on`) on which the outputs of both are compared.

      - `mup.MuReadout` becomes `nn.Linear`, with its multiplier in the weight;
      - an output whose weight is an embedding's gets a weight of its own, divided by the growth. Its class has to be built
        untied then: a transformers model's `config.tie_word_embeddings` is set to False, and for others there is a warning;
      - where attention has another scale than its class gives it, the factor goes into the weights of the queries.

    Everything else is plain already. Raises ValueError, naming the module, where it isn't certain which weights make an
    attention's queries, and where outputs of the example differ.
    """
    plain = copy.deepcopy(model)
    for name, module in list(plain.named_modules()):
        if isinstance(module, mup.MuReadout):
            _to_linear(module)
        elif (hook := divided_input(module)) is not None:
            assert isinstance(module.weight, Tensor)
            module.weight = nn.Parameter(module.weight / hook.growth)
            divide_input(module, 1.0)
            _untie(plain, name)
    for name, module in plain.named_modules():
        if (factor := attention_factor(name, module)) != 1.0:
            _scale_queries(name, module, factor)
        plain_scale(module)
    for parameter in plain.parameters():
        for attribute in ("infshape", "mup_growth"):
            if hasattr(parameter, attribute):
                delattr(parameter, attribute)
    if example is not None:
        _compare(model, plain, example)
    return plain


def _compare(model: nn.Module, plain: nn.Module, example: Any) -> None:
    found, expected = (_outputs(each, example) for each in (plain, model))
    difference = max(((a - b).abs().max().item() for a, b in zip(found, expected, strict=True)), default=math.nan)
    size = max((b.abs().max().item() for b in expected), default=math.nan)
    if not difference <= 1e-4 * size:
        raise ValueError(
            f"The export's outputs differ from the model's by {difference:.2g}, where the largest is {size:.2g}: something in "
            "its forward pass depends on a multiplier in a way that isn't known here. Keep the parametrized model."
        )


def _outputs(model: nn.Module, example: Any) -> list[Tensor]:
    with flags_kept(model):
        leaves, _ = tree_flatten(run_on(model.eval(), example))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _to_linear(readout: mup.MuReadout) -> None:
    readout.weight = nn.Parameter(readout.weight * (readout.output_mult / readout.width_mult()))
    readout.__class__ = nn.Linear
    for attribute in ("output_mult", "readout_zero_init", "_has_rescaled_params"):
        vars(readout).pop(attribute, None)


def _untie(model: nn.Module, name: str) -> None:
    configs = [getattr(module, "config", None) for module in model.modules()]
    tied = [config for config in configs if getattr(config, "tie_word_embeddings", False)]
    for config in tied:
        config.tie_word_embeddings = False  # type: ignore[union-attr]
    if not tied:
        warnings.warn(
            f"{name} has a weight of its own in the export: build the plain class without tying it to the embedding, or the "
            "embedding's weight takes its place when the state dict is loaded.",
            stacklevel=4,
        )


SEPARATE = ("q_proj", "query", "to_q", "q_lin", "q", "wq")
PACKED = ("qkv", "c_attn", "in_proj", "in_proj_weight")
KNOWN = ("timm.", "torchvision.", "transformers.")
"""What attention calls the projection that makes its queries, alone or with keys and values; and packages in whose classes such
a projection has the queries in its first third."""


def _scale_queries(name: str, module: nn.Module, factor: float) -> None:
    """Multiply the queries of an attention by `factor`, where they are made last: in their norm, else in their projection."""
    norms = [
        key for key, child in module.named_children() if "Norm" in type(child).__name__ and list(child.parameters())
    ]
    separate = [getattr(module, key) for key in SEPARATE if isinstance(getattr(module, key, None), nn.Linear)]
    packed = [getattr(module, key) for key in PACKED if isinstance(getattr(module, key, None), nn.Module)]
    if isinstance(module, nn.MultiheadAttention):
        _scale_multi_head(module, factor)
    elif "q_norm" in norms:
        _scale_all(module.get_submodule("q_norm"), factor)
    elif separate and not norms and type(separate[0]) is nn.Linear:
        _scale_all(separate[0], factor)
    elif type(module).__module__.startswith(KNOWN) and packed:
        out = 0 if isinstance(packed[0], nn.Linear) else -1  # transformers' Conv1D is [in, out]
        for parameter in packed[0].parameters():
            _scale_first_third(parameter, out if parameter.dim() > 1 else 0, factor)
    else:
        raise ValueError(
            f"{name} ({type(module).__name__}) scales its scores by µP's rule, and it isn't certain which weights make its "
            "queries alone, so that the factor can't be put into them. Keep the parametrized model, give the head dimension a "
            "fixed size, or make queries by an nn.Linear called q_proj; merge adapters first."
        )


def _scale_multi_head(module: nn.MultiheadAttention, factor: float) -> None:
    if not module._qkv_same_embed_dim:
        module.q_proj_weight.mul_(factor)
    else:
        _scale_first_third(module.in_proj_weight, 0, factor)
    if module.in_proj_bias is not None:
        _scale_first_third(module.in_proj_bias, 0, factor)


def _scale_all(module: nn.Module, factor: float) -> None:
    for parameter in module.parameters():
        parameter.mul_(factor)


def _scale_first_third(packed: Tensor, dimension: int, factor: float) -> None:
    packed.tensor_split(3, dimension)[0].mul_(factor)

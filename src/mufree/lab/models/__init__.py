"""Plain `nn.Module`s with a width. They know no optimizer; base shapes and initialisation are `parametrization`'s.

Every output layer is a `mup.MuReadout`, so that one model serves SP and µP; a model can't be called before
`parametrization.parametrize` (or `mup.set_base_shapes`) has been.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from mufree.lab.models.relu import MLP, ResNet
from mufree.lab.models.transformer import GPT, ViT

if TYPE_CHECKING:
    from mufree.study.parts import Model

__all__ = ["GPT", "MLP", "MODELS", "ResNet", "ViT", "build"]

MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "resnet": ResNet, "vit": ViT, "gpt": GPT}
"""Constructors by the name that a study file uses. All take `width` and `classes`, then their own keywords."""


def build(model: Model, width: int, classes: int) -> nn.Module:
    """The model of a study's configuration at a width.

    The fields of `model` other than `name` are the constructor's keywords. `classes` is the vocabulary size for `gpt`.
    """
    return MODELS[model.name](width, classes, **model.model_dump(exclude={"name"}))

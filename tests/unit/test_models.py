"""Shapes, causality and configuration of the models."""

from __future__ import annotations

from typing import Any, Literal, get_args

import pytest
import torch
from mup import MuReadout
from torch import nn

from mufree.lab import models
from mufree.lab.data import BUILDERS
from mufree.lab.parametrization import parametrize
from mufree.study import parts

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(0))

CONFIGS = {
    "mlp": parts.MLP(name="mlp", depth=3),
    "resnet": parts.ResNet(name="resnet", blocks_per_stage=2),
    "vit": parts.ViT(name="vit", depth=1, head_dim=8, ffn_ratio=3, patch_size=8),
    "gpt": parts.GPT(name="gpt", depth=1, head_dim=8, ffn_ratio=3, context_length=12),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_build_gives_logits_and_one_zero_readout(name: str) -> None:
    classes = 50 if name == "gpt" else 7
    model = parametrize(lambda width: models.build(CONFIGS[name], width, classes), 16, 16, "sp", seed=0)
    logits = model(TOKENS if name == "gpt" else IMAGES)
    assert logits.shape == ((3, 12, 50) if name == "gpt" else (3, 7))
    assert logits.dtype == torch.float32
    assert not logits.any()
    assert [isinstance(m, MuReadout) for m in model.modules()].count(True) == 1


def test_build_hands_every_field_on() -> None:
    mlp, resnet, vit, gpt = (models.build(CONFIGS[name], 16, 7) for name in ("mlp", "resnet", "vit", "gpt"))
    assert isinstance(mlp, models.MLP)
    assert len(mlp.hidden) == 3
    assert isinstance(resnet, models.ResNet)
    assert len(resnet.blocks) == 3 * 2
    assert isinstance(vit, models.ViT)
    assert vit.patches.weight.shape == (16, 3 * 8 * 8)
    assert vit.positions.weight.shape == ((32 // 8) ** 2, 16)
    assert isinstance(gpt, models.GPT)
    assert gpt.positions.weight.shape == (12, 16)
    assert gpt.readout.weight is not gpt.tokens.weight
    for model in (vit, gpt):
        assert len(model.blocks) == 1
        assert model.blocks[0].ffn_in.weight.shape == (3 * 16, 16)
        assert model.blocks[0].attention.head_dim == 8


def members(union: Any) -> list[type[parts.Closed]]:
    return list(get_args(get_args(union)[0]))


def name_of(settings: type[parts.Closed]) -> str:
    return str(get_args(settings.model_fields["name"].annotation)[0])


def test_every_model_answers_what_plans_ask_and_has_a_class() -> None:
    kinds: dict[str, str] = {}
    for settings in members(parts.Model):
        assert issubclass(settings, parts.Network)
        name = name_of(settings)
        made = settings.model_validate({"name": name})  # a TypeError for what is abstract
        kinds[name] = made.kind
        assert (made.context is not None) == (made.kind == "text")
        layers = models.build(made, 16, 300).modules()
        assert made.batchnorm == any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in layers)
        assert made.kept(16, 300) >= made.held(16, 300) // 4 > 0
    assert list(kinds) == list(models.MODELS) == list(CONFIGS)
    assert set(kinds.values()) == set(get_args(parts.Kind))


def test_a_model_that_leaves_a_question_open_cannot_be_made() -> None:
    class Half(parts.Network):
        name: Literal["half"]

    with pytest.raises(TypeError, match="abstract methods held, kept, kind, parameters, products"):
        Half.model_validate({"name": "half"})


def test_every_data_set_says_what_it_is_made_of_and_can_be_built() -> None:
    assert {name_of(settings) for settings in members(parts.Dataset)} == set(BUILDERS)
    for settings in members(parts.Dataset):
        made = settings.model_validate({"name": name_of(settings)})
        assert (made.kind, made.vocabulary > 0) in (("image", False), ("text", True))


PIXELS = 3 * 32 * 32
BLOCKS = 2 * (4 + 2 * 4) * 16**2  # weights of two transformer blocks of width 16


@pytest.mark.parametrize(
    ("settings", "products", "parameters", "kept", "held"),
    [
        (parts.MLP(name="mlp", depth=3), *[PIXELS * 16 + 2 * 16**2] * 2, PIXELS + 3 * 3 * 16, PIXELS + 2 * 16),
        (
            parts.ResNet(name="resnet", blocks_per_stage=2),
            1024 * (27 * 16 + 3 * 4 * 9 * 16**2),  # a stage has a quarter of the positions and four times the weights
            27 * 16 + (1 + 4 + 16) * 4 * 9 * 16**2,
            1024 * 16 * 2 * (1 + 6 * (1 + 0.5 + 0.25)),
            4 * 1024 * 16,
        ),
        (
            parts.ViT(name="vit", depth=2, head_dim=8),
            64 * (BLOCKS + 2 * 2 * 64 * 16),
            (64 + 48) * 16 + BLOCKS,
            64 * 2 * (18 * 16 + 2 * 64 * 2),  # 2 heads
            64 * (11 * 16 + 2 * 64 * 2),
        ),
        (
            parts.ViT(name="vit", depth=2, head_dim=8, patch_size=8),
            16 * (BLOCKS + 2 * 2 * 16 * 16),
            (16 + 3 * 8 * 8) * 16 + BLOCKS,
            16 * 2 * (18 * 16 + 2 * 16 * 2),
            16 * (11 * 16 + 2 * 16 * 2),
        ),
        (
            parts.GPT(name="gpt", depth=2, head_dim=8, context_length=16),
            16 * (BLOCKS + 2 * 2 * 16 * 16),
            (16 + 2 * 300) * 16 + BLOCKS,
            16 * (2 * (18 * 16 + 2 * 16 * 2) + 4 * 300),
            16 * 3 * 300,  # the logits are more than a block
        ),
    ],
    ids=["mlp", "resnet", "vit", "vit of larger patches", "gpt"],
)
def test_what_an_example_costs_by_hand(
    settings: parts.Network, products: int, parameters: int, kept: int, held: int
) -> None:
    """At width 16, with a vocabulary of 300 where there is one."""
    vocabulary = 300 if settings.kind == "text" else 0
    found = [function(16, vocabulary) for function in (settings.parameters, settings.kept, settings.held)]
    assert [settings.products(16), *found] == [products, parameters, kept, held]


def test_resnet_halves_resolution_and_doubles_channels_between_stages() -> None:
    model = models.ResNet(8, 10, blocks_per_stage=1)
    h = model.stem(IMAGES)
    shapes = [h.shape[1:]]
    for block in model.blocks:
        h = block(h)
        shapes.append(h.shape[1:])
    assert shapes == [(8, 32, 32), (8, 32, 32), (16, 16, 16), (32, 8, 8)]


@pytest.mark.parametrize("name", ["vit", "gpt"])
def test_width_that_heads_do_not_divide_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="width 20 is not a multiple of head_dim 8"):
        models.build(CONFIGS[name], 20, 7)


def test_patch_size_that_does_not_divide_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="patch_size 5"):
        models.ViT(16, 10, depth=1, head_dim=8, ffn_ratio=4, patch_size=5)


def _awake(model: nn.Module) -> nn.Module:
    """All weights random: zero readouts and queries would hide what attention does."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.3, generator=generator)
    return model


def test_gpt_does_not_see_the_future() -> None:
    model = _awake(parametrize(lambda width: models.build(CONFIGS["gpt"], width, 50), 16, 16, "sp", seed=0))
    changed = TOKENS.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 50
    before, after = model(TOKENS), model(changed)
    torch.testing.assert_close(after[:, :7], before[:, :7])
    # The control: the changed token itself and all later positions do see it.
    assert ((after - before).abs().amax((0, 2))[7:] > 1e-3).all()


def test_vit_sees_every_patch_and_its_place() -> None:
    model = _awake(parametrize(lambda width: models.build(CONFIGS["vit"], width, 7), 16, 16, "sp", seed=0))
    logits = model(IMAGES)
    for row in range(0, 32, 8):
        for column in range(0, 32, 8):
            changed = IMAGES.clone()
            changed[:, :, row : row + 8, column : column + 8] += 1
            assert (model(changed) - logits).abs().max() > 1e-4
    assert (model(IMAGES.flip(2)) - logits).abs().max() > 1e-4


def test_vit_patches_are_the_convolution_of_dosovitskiy() -> None:
    model = models.ViT(16, 10, depth=1, head_dim=8, ffn_ratio=4, patch_size=8)
    seen = []
    model.patches.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with pytest.raises(AssertionError, match="set_base_shapes"):  # mup's readout refuses to run without base shapes
        model(IMAGES)
    convolved = nn.functional.conv2d(IMAGES, model.patches.weight.view(16, 3, 8, 8), stride=8)
    torch.testing.assert_close(seen[0], convolved.flatten(2).transpose(1, 2))


def test_attention_is_softmax_of_scaled_scores() -> None:
    attention = _awake(models.transformer.Attention(width=12, head_dim=4, causal=True))
    attention.scale = 0.7
    h = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(2))
    q, k, v = (part.view(2, 5, 3, 4).transpose(1, 2) for part in (h @ attention.qkv.weight.T).split(12, dim=-1))
    scores = 0.7 * q @ k.transpose(-1, -2)
    scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    expected = (scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 5, 12) @ attention.out.weight.T
    torch.testing.assert_close(attention(h), expected)

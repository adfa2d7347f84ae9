"""Base shapes, initial weights and layer types, exactly and by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import mup
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mufree.lab.models import GPT, MLP, ResNet, ViT
from mufree.lab.models.transformer import Attention
from mufree.lab.parametrization import EMBEDDING_STD, SEED_STREAM, layer_types, parametrize
from mufree.optim import MuAdamW

MODELS: dict[str, Callable[[int], nn.Module]] = {
    "mlp": lambda width: MLP(width, 10, depth=2),
    "resnet": lambda width: ResNet(width, 10, blocks_per_stage=1),
    "vit": lambda width: ViT(width, 10, depth=1, head_dim=8, ffn_ratio=4, patch_size=8),
    "gpt": lambda width: GPT(width, 20, depth=1, head_dim=8, ffn_ratio=4, context_length=6),
}

# name: (layer type, infinite dimensions, standard deviation of the initial weights at width 64; None: all ones)
HIDDEN_64 = 1 / math.sqrt(64)
NORM = {"weight": ("norm", 1, None), "bias": ("norm", 1, 0.0)}
BLOCK = {
    **{f"blocks.0.attention_norm.{k}": v for k, v in NORM.items()},
    "blocks.0.attention.qkv.weight": ("hidden", 2, HIDDEN_64),
    "blocks.0.attention.out.weight": ("hidden", 2, HIDDEN_64),
    **{f"blocks.0.ffn_norm.{k}": v for k, v in NORM.items()},
    "blocks.0.ffn_in.weight": ("hidden", 2, HIDDEN_64),
    "blocks.0.ffn_out.weight": ("hidden", 2, 1 / math.sqrt(4 * 64)),
    **{f"norm.{k}": v for k, v in NORM.items()},
}


def _conv_norm(name: str, layer: str, fan_in: int) -> dict[str, tuple[str, int, float | None]]:
    ninf = 2 if layer == "hidden" else 1
    return {f"{name}.0.weight": (layer, ninf, math.sqrt(2 / fan_in)), **{f"{name}.1.{k}": v for k, v in NORM.items()}}


TABLE = {
    "mlp": {
        "hidden.0.weight": ("embedding", 1, math.sqrt(2 / 3072)),
        "hidden.0.bias": ("bias", 1, 0.0),
        "hidden.1.weight": ("hidden", 2, math.sqrt(2 / 64)),
        "hidden.1.bias": ("bias", 1, 0.0),
        "readout.weight": ("readout", 1, 0.0),
        "readout.bias": ("bias", 0, 0.0),
    },
    "resnet": {
        **_conv_norm("stem", "embedding", 3 * 9),
        **_conv_norm("blocks.0.first", "hidden", 64 * 9),
        **_conv_norm("blocks.0.second", "hidden", 64 * 9),
        **_conv_norm("blocks.1.first", "hidden", 64 * 9),
        **_conv_norm("blocks.1.second", "hidden", 128 * 9),
        **_conv_norm("blocks.1.shortcut", "hidden", 64),
        **_conv_norm("blocks.2.first", "hidden", 128 * 9),
        **_conv_norm("blocks.2.second", "hidden", 256 * 9),
        **_conv_norm("blocks.2.shortcut", "hidden", 128),
        "readout.weight": ("readout", 1, 0.0),
        "readout.bias": ("bias", 0, 0.0),
    },
    "vit": {
        "patches.weight": ("embedding", 1, 1 / math.sqrt(3 * 8 * 8)),
        "positions.weight": ("embedding", 1, EMBEDDING_STD),
        **BLOCK,
        "readout.weight": ("readout", 1, 0.0),
        "readout.bias": ("bias", 0, 0.0),
    },
    "gpt": {
        "tokens.weight": ("embedding", 1, EMBEDDING_STD),
        "positions.weight": ("embedding", 1, EMBEDDING_STD),
        **BLOCK,
        "readout.weight": ("readout", 1, 0.0),
    },
}


def _batch(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    if name == "gpt":
        tokens = torch.randint(0, 20, (4, 7), generator=generator)
        return tokens[:, :-1], tokens[:, 1:]
    return torch.randn(4, 3, 32, 32, generator=generator), torch.randint(0, 10, (4,), generator=generator)


def _same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(na == nb and torch.equal(va, vb) for (na, va), (nb, vb) in pairs)


@pytest.mark.parametrize("base_width", [16, 64])
@pytest.mark.parametrize("name", MODELS)
def test_layer_types_and_infinite_dimensions_by_hand(name: str, base_width: int) -> None:
    """Also at width == base_width, where a comparison with the target's shape would find no infinite dimension."""
    model = parametrize(MODELS[name], 64, base_width, "mup", seed=0)
    found = {n: (layer_types(model)[n], p.infshape.ninf()) for n, p in model.named_parameters()}
    assert found == {n: (layer, ninf) for n, (layer, ninf, _) in TABLE[name].items()}
    for p in model.parameters():
        assert p.infshape.width_mult() == (64 / base_width if p.infshape.ninf() else 1)


@pytest.mark.parametrize("name", MODELS)
def test_sp_has_no_infinite_dimension_and_the_same_layer_types(name: str) -> None:
    model = parametrize(MODELS[name], 64, 16, "sp", seed=0)
    assert {p.infshape.ninf() for p in model.parameters()} == {0}
    assert layer_types(model) == {n: layer for n, (layer, _, _) in TABLE[name].items()}


@pytest.mark.parametrize("parametrization", ["sp", "mup"])
@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_are_these_normal_numbers(name: str, parametrization: str) -> None:
    """Exact at four times the base width: the standard deviation of each tensor, by hand, times the generator's numbers."""
    model = parametrize(MODELS[name], 64, 16, parametrization, seed=5)
    torch.default_generator.manual_seed(5 ^ SEED_STREAM)
    for n, p in model.named_parameters():
        std = TABLE[name][n][2]
        expected = torch.ones_like(p) if std is None else torch.zeros_like(p)
        if std:
            expected.normal_(0, std)
        if n.endswith("qkv.weight"):
            expected[:64] = 0  # the query
        torch.testing.assert_close(p.detach(), expected, rtol=1e-6, atol=0, msg=n)


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_of_sp_and_mup_are_equal_at_every_width(name: str) -> None:
    assert _same(*(parametrize(MODELS[name], 64, 16, p, seed=1) for p in ("sp", "mup")))


@pytest.mark.parametrize("name", MODELS)
def test_at_base_width_sp_and_mup_train_to_the_same_bits(name: str) -> None:
    inputs, targets = _batch(name)
    trained, outputs = [], []
    # Of the last two, which are the control that must differ, µP has four times its base width.
    for parametrization, base_width in (("sp", 32), ("mup", 32), ("mup", 8)):
        model = parametrize(MODELS[name], 32, base_width, parametrization, seed=2)
        optimizer = MuAdamW(model.parameters(), lr=2**-7, betas=(0.9, 0.99), eps=1e-12)
        for _ in range(4):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten()).backward()
            optimizer.step()
        trained.append(model)
        outputs.append(model(inputs))
    assert outputs[0].any()
    assert _same(trained[0], trained[1])
    assert torch.equal(outputs[0], outputs[1])
    assert not _same(trained[0], trained[2])


@pytest.mark.parametrize("name", MODELS)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    first = parametrize(MODELS[name], 32, 16, "mup", seed=0)
    torch.rand(3)
    assert _same(first, parametrize(MODELS[name], 32, 16, "mup", seed=0))
    assert not _same(first, parametrize(MODELS[name], 32, 16, "mup", seed=1))


def test_global_random_state_is_untouched() -> None:
    before = torch.get_rng_state()
    parametrize(MODELS["gpt"], 32, 16, "mup", seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_data_of_the_same_seed_is_not_the_weights() -> None:
    model = parametrize(MODELS["mlp"], 32, 16, "mup", seed=7)
    data = torch.randn(32, 3072, generator=torch.Generator().manual_seed(7))
    weights = model.get_parameter("hidden.0.weight").detach()
    assert abs(torch.corrcoef(torch.stack([weights.flatten(), data.flatten()]))[0, 1]) < 0.02


def test_readout_divides_by_the_width_multiplier() -> None:
    h = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    logits = {}
    for parametrization in ("sp", "mup"):
        readout = parametrize(MODELS["mlp"], 64, 16, parametrization, seed=0).get_submodule("readout")
        assert isinstance(readout, mup.MuReadout)
        nn.init.ones_(readout.weight)
        logits[parametrization] = readout(h)
    torch.testing.assert_close(logits["mup"], logits["sp"] / 4)


def _scale(make_model: Callable[[int], nn.Module], parametrization: str) -> float:
    model = parametrize(make_model, 64, 16, parametrization, seed=0)
    (scale,) = {module.scale for module in model.modules() if isinstance(module, Attention)}
    return scale


@pytest.mark.parametrize("parametrization", ["sp", "mup"])
@pytest.mark.parametrize("name", ["vit", "gpt"])
def test_attention_scale_with_a_fixed_head_dimension(name: str, parametrization: str) -> None:
    assert _scale(MODELS[name], parametrization) == pytest.approx(1 / math.sqrt(8), rel=1e-15)


@pytest.mark.parametrize(("parametrization", "scale"), [("sp", 1 / math.sqrt(64)), ("mup", math.sqrt(16) / 64)])
def test_attention_scale_with_a_growing_head_dimension(parametrization: str, scale: float) -> None:
    """One head: d = width, so µP's 1/d at base 16 and width 64 is √16/64."""
    assert _scale(lambda width: GPT(width, 20, 1, width, 4, 6), parametrization) == pytest.approx(scale, rel=1e-15)


def test_layer_types_survive_a_deep_copy() -> None:
    model = parametrize(MODELS["gpt"], 32, 16, "mup", seed=0)
    assert layer_types(copy.deepcopy(model)) == layer_types(model)


def test_layer_types_of_a_bare_model_are_refused() -> None:
    with pytest.raises(ValueError, match="MLP has no layer types; make it with mufree"):
        layer_types(MLP(16, 10))


def test_unknown_parametrization_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Unknown parametrization 'ntk'\. Known: sp, mup"):
        parametrize(MODELS["mlp"], 32, 16, "ntk", seed=0)  # type: ignore[arg-type]


def test_a_plain_linear_output_layer_is_refused() -> None:
    with pytest.raises(AssertionError, match="MuReadout"):
        parametrize(lambda width: nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2)), 32, 16, "mup", seed=0)

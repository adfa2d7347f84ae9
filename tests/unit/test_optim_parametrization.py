"""`parametrize`: every tensor understood, scaled and left alone as it must be; models that aren't edited."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import mup
import pytest
import torch
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn
from torch.nn import functional as F

import mufree
from mufree.optim import (
    BaseShapesError,
    MuAdamW_ScheduleFree,
    attach_base_shapes,
    base_shapes_of,
    describe,
    export,
    growth_of,
    load_base_shapes,
    lr_multiplier,
    parametrize,
    save_base_shapes,
)

BASE, M = 16, 4
WIDTH = M * BASE
CLASSES = 5


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:]) * self.weight


class Experts(nn.Module):
    """Stacked matrices in both orders, a router, and a token that is prepended."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.router = nn.Parameter(torch.randn(width, 3))
        self.up = nn.Parameter(torch.randn(3, width, inner))
        self.down = nn.Parameter(torch.randn(3, width, inner))
        self.einsum = nn.Parameter(torch.randn(3, width, inner))
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.bias = nn.ParameterList([nn.Parameter(torch.zeros(3, 1, inner))])

    def forward(self, x: Tensor) -> Tensor:
        gates = (x @ self.router).softmax(-1)
        stacked = torch.cat([x, self.token.expand(len(x), 1, -1)], 1).flatten(0, 1).expand(3, -1, -1)
        inner = torch.bmm(stacked, self.up) + self.bias[0] + torch.einsum("ebi,eio->ebo", stacked, self.einsum)
        weight = self.down[:]
        return gates.mean() * F.linear(inner[0], weight[0])


class Everything(nn.Module):
    """A tensor of every kind, in modules of every class, none of which knows µP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(CLASSES, width)
        self.first = nn.Linear(7, width)
        self.image = nn.Conv2d(3, width, 3)
        self.depthwise = nn.Conv2d(width, width, 3, groups=width)
        self.hidden = nn.Linear(width, 2 * width, bias=False)
        self.norm = RMSNorm(2 * width)
        self.back = nn.Linear(2 * width, width)
        self.recurrent = nn.LSTM(width, width)
        self.attention = nn.MultiheadAttention(width, width // 8)
        self.experts = Experts(width, width * width)
        self.pool = nn.Conv2d(width, 2, 1)
        self.upsampled = nn.ConvTranspose2d(width, 2, 2)
        self.widened = nn.ConvTranspose2d(2, width, 2)
        self.readout = mup.MuReadout(width, CLASSES)
        self.head = nn.Linear(width, CLASSES)


def everything(width: int = WIDTH, **kwargs: Any) -> nn.Module:
    return parametrize(Everything, width, BASE, seed=0, **kwargs)


# Kind, growth of fan-in and of fan-out, power of the fan-in's growth by which torch itself shrinks the initial weights, and how
# they have to go.
EXPECTED = {
    "tokens.weight": ("embedding", 1, M, 0, 1),
    "first.weight": ("embedding", 1, M, 0, 1),
    "first.bias": ("vector", 1, M, 0, 1),
    "image.weight": ("embedding", 1, M, 0, 1),
    "depthwise.weight": ("embedding", 1, M, 0, 1),
    "hidden.weight": ("hidden", M, M, 0.5, M**-0.5),
    "norm.weight": ("vector", 1, M, 0, 1),
    "back.weight": ("hidden", M, M, 0.5, M**-0.5),
    "back.bias": ("vector", 1, M, 0, 1),
    "recurrent.weight_ih_l0": ("hidden", M, M, 0.5, M**-0.5),
    "recurrent.weight_hh_l0": ("hidden", M, M, 0.5, M**-0.5),
    "recurrent.bias_ih_l0": ("vector", 1, M, 0, 1),
    "attention.in_proj_weight": ("hidden", M, M, 0.5, M**-0.5),
    "attention.out_proj.weight": ("hidden", M, M, 0.5, M**-0.5),
    "experts.router": ("output", M, 1, 0, 1 / M),
    "experts.up": ("hidden", M, M * M, 0, M**-0.5),
    "experts.down": ("hidden", M * M, M, 0, 1 / M),
    "experts.einsum": ("hidden", M, M * M, 0, M**-0.5),
    "experts.token": ("embedding", 1, M, 0, 1),
    "experts.bias.0": ("embedding", 1, M * M, 0, 1),
    "pool.weight": ("output", M, 1, 0.5, 1 / M),
    "pool.bias": ("fixed", 1, 1, 0, 1),
    "upsampled.weight": ("output", M, 1, 0.5, 1 / M),
    "widened.weight": ("embedding", 1, M, 0, 1),
    "readout.weight": ("embedding", 1, M, 0, 1),
    "head.weight": ("output", M, 1, 0.5, 1 / M),
    "head.bias": ("fixed", 1, 1, 0, 1),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_tensor_is_understood_and_scaled_by_its_use(name: str) -> None:
    kind, fan_in, fan_out, *_ = EXPECTED[name]
    parameter = everything().get_parameter(name)
    assert parameter.mup_growth.kind == kind
    assert growth_of(parameter) == (fan_in, fan_out)
    assert lr_multiplier(parameter, "adam") == 1 / fan_in
    assert lr_multiplier(parameter, "sgd") == fan_out / fan_in


@pytest.mark.parametrize("name", EXPECTED)
def test_initial_weights_go_with_width_as_their_kind_asks(name: str) -> None:
    """Of the same draws, µP's differ from the plain model's by what the plain model lacks."""
    torch.manual_seed(0)
    own = Everything(WIDTH).get_parameter(name)
    scaled = everything().get_parameter(name)
    torch.manual_seed(0)
    at_base = Everything(BASE).get_parameter(name)
    if own.numel() < 1000 or not own.any():  # too few to measure, or nothing to
        assert torch.equal(scaled / scaled.abs().max().clamp(min=1e-9), own / own.abs().max().clamp(min=1e-9))
        return
    *_, wanted = EXPECTED[name]
    growth = (scaled.square().mean() / at_base.square().mean()).sqrt()
    assert growth.item() == pytest.approx(wanted, rel=0.15)  # the base model's few weights are its noise
    factor = (scaled / own).flatten()
    assert torch.all((factor - factor[0]).abs() < 1e-6)


def test_the_factor_is_a_power_of_the_growth_and_no_measurement() -> None:
    torch.manual_seed(0)
    own = Everything(WIDTH)
    scaled = everything()
    for name, wanted in {
        "hidden.weight": 1.0,
        "experts.up": M**-0.5,
        "experts.router": 1 / M,
        "head.weight": M**-0.5,
        "back.bias": M**0.5,
    }.items():
        torch.testing.assert_close(scaled.get_parameter(name), own.get_parameter(name) * wanted, rtol=1e-6, atol=0)


def test_a_size_that_is_no_power_of_the_growth_is_measured() -> None:
    """Xavier's rule for a first layer: √(2 / (fixed + width))."""

    def make(width: int) -> nn.Module:
        model = nn.Sequential(nn.Linear(BASE, width, bias=False), nn.Linear(width, 2))
        nn.init.xavier_normal_(model[0].weight)
        return model

    std = parametrize(make, 64 * BASE, BASE, seed=0)[0].weight.std().item()
    assert std == pytest.approx((1 / BASE) ** 0.5, rel=0.15)


@pytest.mark.parametrize("make", [Everything, lambda w: nn.Sequential(nn.Linear(3, w), nn.ReLU(), nn.Linear(w, 2))])
def test_at_base_width_it_is_the_unedited_model(make: Callable[[int], nn.Module]) -> None:
    torch.manual_seed(3)
    plain = make(BASE)
    after = torch.rand(1)
    torch.manual_seed(3)
    model = parametrize(make, BASE, BASE)
    assert torch.equal(torch.rand(1), after)  # and no random number more was drawn
    assert type(model) is type(plain)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), plain.parameters(), strict=True))
    assert {lr_multiplier(p, family) for p in model.parameters() for family in ("adam", "sgd")} == {1.0}


def test_at_base_width_training_is_that_of_the_unedited_model() -> None:
    models = [Tied(BASE), parametrize(Tied, BASE, BASE)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [
        AdamWScheduleFree(models[0].parameters(), lr=0.01),
        MuAdamW_ScheduleFree(models[1].parameters(), lr=0.01),
    ]
    tokens = torch.arange(CLASSES)
    for model, optimizer in zip(models, optimizers, strict=True):
        optimizer.train()
        for _ in range(5):
            F.cross_entropy(model(tokens), tokens.flip(0)).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert torch.equal(models[0](tokens), models[1](tokens))


def test_a_seed_gives_the_same_weights_and_leaves_the_random_state() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, second = everything(), everything()
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


def quantized(weight: Tensor) -> Tensor:
    return weight.round(decimals=3)


class Scaled(nn.Module):
    """A weight of which the forward pass makes another before it uses it."""

    def __init__(self, width: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, width))

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Gained(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * 0.1)


class Quantized(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, quantized(self.weight))


class Named(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        weight = -self.weight / 2
        return x @ weight.T


class Keyword(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, weight=self.weight.to(x.dtype), bias=None)


class Dot(nn.Module):
    """A vector whose products with the activations are summed up, and a gain whose aren't."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.gain = (nn.Parameter(torch.randn(width)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).sum(-1) + torch.sum(x * self.weight, dim=-1) + (x * self.gain).tanh().sum(-1)


def test_a_vector_that_is_summed_over_is_an_output() -> None:
    model = parametrize(Dot, WIDTH, BASE, seed=0)
    assert (model.weight.mup_growth.kind, growth_of(model.weight)) == ("output", (M, 1))
    assert (model.gain.mup_growth.kind, growth_of(model.gain)) == ("vector", (1, M))


class Both(Scaled):
    """Encodes and decodes by one matrix."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) @ self.weight


class Masked(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight) @ x


@pytest.mark.parametrize("cls", [Gained, Quantized, Named, Keyword])
def test_what_becomes_of_a_weight_before_it_is_used_does_not_hide_its_use(cls: type[Scaled]) -> None:
    hidden = parametrize(lambda w: cls(w, 2 * w), WIDTH, BASE, seed=0).weight
    assert (hidden.mup_growth.kind, growth_of(hidden)) == ("hidden", (M, M))
    output = parametrize(lambda w: cls(w, 3), WIDTH, BASE, seed=0).weight
    assert (output.mup_growth.kind, growth_of(output)) == ("output", (M, 1))


def test_two_uses_are_one_where_they_scale_alike_and_else_said() -> None:
    assert growth_of(parametrize(lambda w: Both(w, w), WIDTH, BASE, seed=0).weight) == (M, M)
    with pytest.raises(BaseShapesError, match=r"weight, \(3, 16\).* used in two ways, `F\.linear.* and `F\.linear"):
        parametrize(lambda w: Both(w, 3), WIDTH, BASE)
    with pytest.raises(
        BaseShapesError, match=r"two of its dimensions grow, and all that is known .* `x \* self\.weight`"
    ):
        parametrize(lambda w: Masked(w, w), WIDTH, BASE)


# --- tied weights and multipliers ------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(CLASSES, width)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, CLASSES)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(self.tokens(tokens))))


def test_a_tied_weight_is_an_embedding_and_the_output_divides_its_input() -> None:
    model = parametrize(Tied, WIDTH, BASE, seed=0)
    torch.manual_seed(0)
    plain = Tied(WIDTH)
    assert model.tokens.weight.mup_growth.kind == "tied"
    assert lr_multiplier(model.tokens.weight) == 1.0
    assert torch.equal(model.tokens.weight, plain.tokens.weight)
    assert type(model.head) is nn.Linear
    h = torch.randn(3, WIDTH)
    torch.testing.assert_close(model.head(h), F.linear(h / M, plain.tokens.weight, model.head.bias))
    torch.testing.assert_close(model.head.bias, plain.head.bias * M**0.5)


def test_a_weight_that_is_tied_in_a_forward_pass_alone_has_no_place_for_a_multiplier() -> None:
    class ByHand(Tied):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            del self.head

        def forward(self, tokens: Tensor) -> Tensor:
            return F.linear(self.hidden(self.tokens(tokens)), self.tokens.weight)

    with pytest.raises(
        BaseShapesError, match=r"tokens\.weight is an embedding and the output's weight.*self\.head = nn\.Linear"
    ):
        parametrize(ByHand, WIDTH, BASE)


@pytest.mark.parametrize("wrap", [copy.deepcopy, lambda m: torch.load(_saved(m), weights_only=False)])
def test_copies_and_files_of_the_whole_model_are_the_same_model(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = parametrize(Tied, WIDTH, BASE, seed=0)
    copied = wrap(model)
    tokens = torch.arange(CLASSES)
    assert torch.equal(copied(tokens), model(tokens))
    assert copied.head.weight is copied.tokens.weight
    assert describe(MuAdamW_ScheduleFree(copied.parameters())) == describe(MuAdamW_ScheduleFree(model.parameters()))


def _saved(model: nn.Module) -> Any:
    import io

    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return file


def test_base_shapes_in_a_file_bring_back_kinds_and_the_multiplier(tmp_path: Any) -> None:
    model = parametrize(Tied, WIDTH, BASE, seed=0)
    save_base_shapes(model, tmp_path / "shapes.json")
    fresh = Tied(WIDTH)
    fresh.load_state_dict(model.state_dict())
    tokens = torch.arange(CLASSES)
    assert not torch.allclose(fresh(tokens), model(tokens))
    for _ in range(2):  # twice is as good as once
        attach_base_shapes(fresh, load_base_shapes(tmp_path / "shapes.json"))
        assert torch.equal(fresh(tokens), model(tokens))
    assert describe(fresh) == describe(model)
    everything_ = everything()
    bare = Everything(WIDTH)
    attach_base_shapes(bare, base_shapes_of(everything_))
    assert describe(bare) == describe(everything_)


# --- attention whose head dimension grows ----------------------------------------------------------------------------


class Heads(nn.Module):
    """Four heads at every width, with the default scale of `scaled_dot_product_attention`, or one of its own."""

    def __init__(self, width: int, own: bool) -> None:
        super().__init__()
        self.num_heads = 4
        self.qkv = nn.Linear(width, 3 * width)
        self.scale = (width / 4) ** -0.5 if own else None

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v, scale=self.scale).transpose(1, 2).flatten(2)


def attended(x: Tensor, weight: Tensor, bias: Tensor, scale: float) -> Tensor:
    q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in F.linear(x, weight, bias).chunk(3, -1))
    return ((q @ k.mT * scale).softmax(-1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("width", [BASE, WIDTH])
def test_where_head_dimensions_grow_scores_go_as_one_over_them(own: bool, width: int) -> None:
    model = parametrize(lambda w: Heads(w, own), width, BASE, seed=0)
    x = torch.randn(2, 3, width)
    d_base, d = BASE / 4, width / 4
    torch.testing.assert_close(model(x), attended(x, model.qkv.weight, model.qkv.bias, d_base**0.5 / d))
    assert torch.equal(copy.deepcopy(model)(x), model(x))


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_torchs_multi_head_attention_too(need_weights: bool, training: bool) -> None:
    model = parametrize(lambda w: nn.MultiheadAttention(w, 4, batch_first=True), WIDTH, BASE, seed=0).train(training)
    nn.init.normal_(model.in_proj_bias)
    x = torch.randn(2, 3, WIDTH)
    with torch.no_grad():
        found = model(x, x, x, need_weights=need_weights)[0]
        expected = model.out_proj(
            attended(x, model.in_proj_weight, model.in_proj_bias, (BASE / 4) ** 0.5 / (WIDTH / 4))
        )
    torch.testing.assert_close(found, expected)


def test_a_fixed_head_dimension_needs_nothing() -> None:
    model = parametrize(lambda w: nn.MultiheadAttention(w, w // 8), WIDTH, BASE, seed=0)
    assert not model._forward_pre_hooks


def test_attention_whose_scale_is_not_found_is_named() -> None:
    class ByHand(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.n_head = 2
            self.q, self.k = nn.Linear(width, width), nn.Linear(width, width)

        def forward(self, x: Tensor) -> Tensor:
            return (self.q(x) @ self.k(x).transpose(-2, -1)).softmax(-1) @ x

    class OneHead(ByHand):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            del self.n_head

        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(self.q(x), self.k(x), x)

    with pytest.warns(
        UserWarning, match=r"0 \(ByHand\) has heads whose dimension grows by 4, and the scale .* isn't found"
    ):
        parametrize(lambda w: nn.Sequential(ByHand(w)), WIDTH, BASE)
    with pytest.warns(UserWarning, match=r"0 \(OneHead\) has attention in its code, but no attribute `head_dim`"):
        parametrize(lambda w: nn.Sequential(OneHead(w)), WIDTH, BASE)


def test_a_default_scale_that_is_not_asked_for_is_said_and_not_exported() -> None:
    class Flash(Projected):
        """As nanoGPT has it: by hand where there is no kernel."""

        def __init__(self, width: int) -> None:
            super().__init__(width, own=False)
            self.flash = False

        def forward(self, x: Tensor) -> Tensor:
            if self.flash:
                return super().forward(x)
            q, k, v = (
                part(x).unflatten(-1, (4, -1)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
            )
            use = F.scaled_dot_product_attention if self.flash else attended_by_hand
            return use(q, k, v).transpose(1, 2).flatten(2)

    model = parametrize(lambda w: nn.Sequential(Flash(w)), WIDTH, BASE, seed=0)
    x = torch.randn(1, 3, WIDTH)
    with pytest.warns(
        UserWarning, match=r"0 \(Flash\) did not call scaled_dot_product_attention with its default scale"
    ):
        expected = model(x)
    assert torch.equal(export(model)(x), expected)
    quiet = parametrize(lambda w: nn.Sequential(Flash(w)), WIDTH, BASE, seed=0, own_scale=["0"])
    assert torch.equal(quiet(x), expected)  # and no warning, which would be an error here


def attended_by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / k.shape[-1] ** 0.5).softmax(-1) @ v


def test_recomputing_the_scores_alone_is_refused_and_the_module_is_not() -> None:
    from torch.utils.checkpoint import checkpoint

    class Alone(Projected):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (
                part(x).unflatten(-1, (4, -1)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
            )
            return checkpoint(F.scaled_dot_product_attention, q, k, v, use_reentrant=False).transpose(1, 2).flatten(2)

    x = torch.randn(1, 3, WIDTH, requires_grad=True)
    with pytest.raises(RuntimeError, match="Activation checkpointing of scaled_dot_product_attention alone"):
        parametrize(lambda w: Alone(w, own=False), WIDTH, BASE, seed=0)(x)
    model = parametrize(lambda w: Projected(w, own=False), WIDTH, BASE, seed=0)
    (expected,) = torch.autograd.grad(model(x).square().sum(), x)
    (found,) = torch.autograd.grad(checkpoint(model, x, use_reentrant=False).square().sum(), x)
    assert torch.equal(found, expected)


def test_numbers_of_the_width_in_a_forward_pass_are_named() -> None:
    class Embedded(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.width, self.tokens = width, nn.Embedding(CLASSES, width)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.tokens(tokens) * math.sqrt(self.width)

    class Attribute(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.normalizer, self.tokens = width**0.5, nn.Embedding(CLASSES, width)

    with pytest.warns(
        UserWarning, match=r"0 \(Embedded\) computes with √self\.width, which is 16 at base width and 64 here"
    ):
        parametrize(lambda w: nn.Sequential(Embedded(w)), WIDTH, BASE)
    with pytest.warns(
        UserWarning, match=r"0 \(Attribute\) computes with self\.normalizer, which is 4 at base width and 8 here"
    ):
        parametrize(lambda w: nn.Sequential(Attribute(w)), WIDTH, BASE)
    parametrize(lambda w: nn.Sequential(Embedded(w)), WIDTH, BASE, own_scale=["0"])
    parametrize(lambda w: nn.Sequential(Embedded(w)), BASE, BASE)


# --- leaving µP ------------------------------------------------------------------------------------------------------


class Projected(nn.Module):
    """Four heads at every width, whose queries, keys and values are made apart; its scale is an attribute or a default."""

    def __init__(self, width: int, own: bool) -> None:
        super().__init__()
        self.num_heads = 4
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.scale = (width / 4) ** -0.5 if own else None

    def forward(self, x: Tensor) -> Tensor:
        parts = (projection(x) for projection in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in parts)
        return F.scaled_dot_product_attention(q, k, v, scale=self.scale).transpose(1, 2).flatten(2)


class Leaving(nn.Module):
    """What has a multiplier or a hook: a tied output, mup's readout, attention; and a convolution as output, which has none."""

    def __init__(self, width: int, plain: bool = False) -> None:
        super().__init__()
        self.tied = Tied(width)
        if plain:
            self.tied.head = nn.Linear(width, CLASSES)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.own, self.default = Projected(width, own=True), Projected(width, own=False)
        self.readout = (nn.Linear if plain else mup.MuReadout)(width, CLASSES)
        self.rgb = nn.Conv1d(width, 3, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.tied.tokens(tokens)
        h = h + self.attention(h, h, h)[0]
        h = h + self.own(h) + self.default(h)
        return torch.cat([self.tied(tokens), self.readout(h), self.rgb(h.mT).mT], -1)


def test_an_export_gives_the_same_outputs_from_the_plain_class() -> None:
    model = parametrize(Leaving, 3 * BASE, BASE, seed=0)
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=0.01)
    optimizer.train()
    tokens = torch.arange(CLASSES).expand(2, -1)
    for _ in range(3):
        model(tokens).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with mufree.optim.evaluating(optimizer, model), torch.no_grad():
        logits = model(tokens)
        with pytest.warns(
            UserWarning, match=r"tied\.head has a weight of its own in the export: build the plain class without"
        ):
            exported = export(model, tokens)
    plain = Leaving(3 * BASE, plain=True)
    plain.load_state_dict(exported.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(tokens), logits, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(exported.eval()(tokens), logits, rtol=1e-6, atol=1e-6)
        assert not torch.allclose(Leaving.forward(_loaded(model), tokens), logits)  # the control: weights alone don't
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert not any(hasattr(p, "infshape") for p in exported.parameters())
    assert not any(isinstance(m, mup.MuReadout) or m._forward_pre_hooks or m._forward_hooks for m in exported.modules())


def _loaded(model: nn.Module) -> nn.Module:
    plain = Leaving(3 * BASE, plain=True)
    plain.load_state_dict(model.state_dict())
    return plain


def test_an_export_says_whose_queries_it_does_not_know_for_certain() -> None:
    class Normed(Projected):
        def __init__(self, width: int) -> None:
            super().__init__(width, own=True)
            self.queries = nn.LayerNorm(width)

    class Adapted(Projected):
        def __init__(self, width: int) -> None:
            super().__init__(width, own=True)
            self.q_proj = type("Adapter", (nn.Linear,), {})(width, width)

    # Packed as [heads, 3, d] or [3, heads, d]: a stranger can't tell.
    for make in (lambda w: Heads(w, own=True), Normed, Adapted):
        with pytest.raises(ValueError, match=r"scales its scores by µP's rule, and it isn't certain which weights"):
            export(parametrize(lambda w, make=make: nn.Sequential(make(w)), WIDTH, BASE))
    not_run = parametrize(lambda w: nn.Sequential(Projected(w, own=False)), WIDTH, BASE)
    with pytest.raises(ValueError, match=r"0 has not run yet.* Run the model once"):
        export(not_run)


def test_an_example_shows_what_an_export_could_not_see() -> None:
    class Reads(nn.Module):
        """Its forward pass looks at what µP left on the tensor."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.head = nn.Linear(width, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x) * getattr(self.head.weight, "infshape", [mup.InfDim(1, 1)])[-1].width_mult()

    model = parametrize(Reads, WIDTH, BASE)
    export(model)
    with pytest.raises(ValueError, match="The export's outputs differ from the model's by"):
        export(model, torch.ones(1, WIDTH))


# --- what isn't clear is said ----------------------------------------------------------------------------------------


class Unknown(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(width, 4))
        self.head = nn.Linear(width, 2)


def test_a_tensor_whose_use_is_not_clear_is_named_with_its_shapes_and_the_cure() -> None:
    with pytest.raises(
        BaseShapesError, match=r'table, \(16, 4\) at width 16 and \(64, 4\) here: .*rules=\{"table": "hidden"\}'
    ):
        parametrize(Unknown, WIDTH, BASE)
    for kind, fans in {
        "output": (M, 1),
        "embedding": (1, M),
        "vector": (1, M),
        "hidden": (M, 1),
        "fixed": (1, 1),
    }.items():
        model = parametrize(Unknown, WIDTH, BASE, rules={"tab*": kind})
        assert growth_of(model.table) == fans
        assert model.table.mup_growth.kind == kind
    with pytest.raises(ValueError, match=r"Unknown rule for 'table': 'matrix'. Known: embedding, vector, hidden"):
        parametrize(Unknown, WIDTH, BASE, rules={"table": "matrix"})
    square = parametrize(lambda w: nn.Linear(w, w), WIDTH, BASE, rules={"weight": "output"}).weight
    assert growth_of(square) == (M, 1)
    with pytest.raises(BaseShapesError, match=r"No parameter fits the rule 'tabel'"):
        parametrize(Unknown, WIDTH, BASE, rules={"tabel": "output"})


def test_a_hidden_weight_by_rule_shrinks_as_its_fan_in_grows() -> None:
    """LoRA's A: its inputs are the model's, its outputs few, and what it puts out has to stay of size one."""
    lora = lambda w: nn.Sequential(nn.Linear(w, 4, bias=False), nn.Linear(4, w))  # noqa: E731
    torch.manual_seed(0)
    own = lora(WIDTH)
    model = parametrize(lora, WIDTH, BASE, seed=0, rules={"0.weight": "hidden"})
    assert torch.equal(model[0].weight, own[0].weight)
    assert lr_multiplier(model[0].weight) == 1 / M


def test_models_that_do_not_grow_or_grow_oddly() -> None:
    with pytest.warns(UserWarning, match=r"No parameter of make_model\(width\) grows between widths 16 and 32"):
        parametrize(lambda _: nn.Linear(3, 2), WIDTH, BASE)
    with pytest.raises(BaseShapesError, match=r"other parameters at width 16: 1\.bias, 1\.weight are there or not"):
        parametrize(lambda w: nn.Sequential(*(nn.Linear(2, 2) for _ in range(w // 16))), 32, 16)
    with pytest.raises(
        BaseShapesError, match=r"weight is \(7, 2\) at width 16, \(7, 2\) at 32 and \(9, 2\) in the model"
    ):
        parametrize(lambda w: nn.Linear(2, 7 if w < 64 else 9), WIDTH, BASE)
    with pytest.raises(TypeError, match="make_model must be a function of the width that builds the model, got a Tied"):
        parametrize(Tied(WIDTH), WIDTH, BASE)  # type: ignore[arg-type]
    with pytest.raises(BaseShapesError, match="weight has no shape yet: run lazy modules once"):
        parametrize(nn.LazyLinear, WIDTH, BASE)
    for width in (0, -3, 2.5, True):
        with pytest.raises(ValueError, match="width must be a whole number of at least 1"):
            parametrize(Tied, width, BASE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Unknown parametrization 'ntk'. Known: mup, sp"):
        parametrize(Tied, WIDTH, BASE, "ntk")  # type: ignore[arg-type]


def test_sp_scales_nothing() -> None:
    torch.manual_seed(0)
    plain = Tied(WIDTH)
    model = parametrize(Tied, WIDTH, BASE, "sp", seed=0)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), plain.parameters(), strict=True))
    assert {lr_multiplier(p) for p in model.parameters()} == {1.0}
    assert torch.equal(model(torch.arange(3)), plain(torch.arange(3)))


def test_kept_weights_stay() -> None:
    trained = Everything(WIDTH)
    model = parametrize(lambda w: trained if w == WIDTH else Everything(w), WIDTH, BASE, initial="kept")
    assert model is trained
    torch.manual_seed(0)
    untouched = Everything(WIDTH)
    torch.manual_seed(0)
    kept = parametrize(Everything, WIDTH, BASE, initial="kept")
    assert all(torch.equal(p, q) for p, q in zip(kept.parameters(), untouched.parameters(), strict=True))
    assert lr_multiplier(kept.head.weight) == 1 / M


def test_a_constructor_that_reads_numbers_from_tensors() -> None:
    """It can't be built without memory, on the meta device."""

    def make(width: int) -> nn.Module:
        rates = [x.item() for x in torch.linspace(0, 0.1, 2)]
        return nn.Sequential(nn.Linear(3, width), nn.Dropout(rates[1]), nn.Linear(width, 2))

    assert parametrize(make, WIDTH, BASE, seed=0)[2].weight.mup_growth.kind == "output"


def test_describe_says_how_each_tensor_was_understood() -> None:
    lines = describe(parametrize(Tied, WIDTH, BASE, seed=0)).splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["tensor", "at", "base", "here", "is", "fan-in", "fan-out", "Adam", "SGD", "why"],
        [
            "tokens.weight",
            "5×16",
            "5×64",
            "tied",
            "1",
            "4",
            "1",
            "4",
            "looked",
            "up",
            "by",
            "Embedding",
            "and",
            "Linear",
            "[out,",
            "in]",
        ],
        ["hidden.weight", "16×16", "64×64", "hidden", "4", "4", "0.25", "1", "Linear", "[out,", "in]"],
    ]


def test_no_warning_where_nothing_is_unclear() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        everything()


def test_it_is_the_packages_own_name() -> None:
    assert mufree.parametrize is parametrize
    with pytest.raises(AttributeError, match="no attribute 'parametrise'"):
        mufree.parametrise  # noqa: B018

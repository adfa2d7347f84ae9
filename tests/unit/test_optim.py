"""Groups, multipliers and evaluation of the µP schedule-free optimizers."""

from __future__ import annotations

import copy
from typing import Any

import mup
import pytest
import torch
from schedulefree import AdamWScheduleFree
from torch import nn

from mufree.optim import (
    BaseShapesError,
    MuAdamW,
    MuAdamW_ScheduleFree,
    evaluating,
    lr_multiplier,
    mup_param_groups,
    warmup_factor,
)

BASE, WIDTH = 16, 64
M = WIDTH / BASE


class Kinds(nn.Module):
    """One tensor of every kind that µP tells apart."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(11, width)
        self.hidden = nn.Linear(width, width)
        self.wide = nn.Linear(width, 4 * width, bias=False)
        self.conv = nn.Conv2d(width, 2 * width, 3, bias=False)
        self.norm = nn.LayerNorm(width)
        self.temperature = nn.Parameter(torch.ones(1))
        self.readout = mup.MuReadout(width, 5)


def kinds(width: int = WIDTH) -> Kinds:
    torch.manual_seed(0)
    model = Kinds(width)
    mup.set_base_shapes(model, Kinds(BASE), delta=Kinds(2 * BASE))
    return model


def small_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)

    def make(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), mup.MuReadout(width, 2))

    model = make(WIDTH)
    mup.set_base_shapes(model, make(BASE), delta=make(2 * BASE))
    return model


def by_name(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group for group in groups for p in group["params"]}


@pytest.mark.parametrize(
    ("name", "adam", "sgd"),
    [
        ("table.weight", 1, M),
        ("hidden.weight", 1 / M, 1),
        ("hidden.bias", 1, M),
        ("wide.weight", 1 / M, 1),
        ("conv.weight", 1 / M, 1),
        ("norm.weight", 1, M),
        ("norm.bias", 1, M),
        ("temperature", 1, 1),
        ("readout.weight", 1, M),
        ("readout.bias", 1, 1),
    ],
)
def test_learning_rate_and_decay_of_every_kind(name: str, adam: float, sgd: float) -> None:
    model = kinds()
    for family, factor in (("adam", adam), ("sgd", sgd)):
        coupled = by_name(model, mup_param_groups(model.parameters(), lr=0.5, weight_decay=0.25, family=family))[name]
        assert coupled["lr"] == 0.5 * factor
        assert coupled["weight_decay"] == 0.25 / factor
        assert coupled["lr"] * coupled["weight_decay"] == 0.5 * 0.25
        unscaled = by_name(
            model, mup_param_groups(model.parameters(), lr=0.5, weight_decay=0.25, family=family, decay="unscaled")
        )[name]
        assert (unscaled["lr"], unscaled["weight_decay"]) == (0.5 * factor, 0.25)


def test_at_base_width_every_multiplier_is_one() -> None:
    model = kinds(BASE)
    assert {lr_multiplier(p, family) for p in model.parameters() for family in ("adam", "sgd")} == {1.0}
    assert len(mup_param_groups(model.parameters(), lr=0.1)) == 1


def test_groups_agree_with_mup_where_mup_is_right() -> None:
    model = kinds()
    ours = by_name(model, mup_param_groups(model.parameters(), lr=0.5, weight_decay=0.25))
    theirs = by_name(model, mup.MuAdam(model.parameters(), lr=0.5, weight_decay=0.25).param_groups)
    for name in ours:
        assert (ours[name]["lr"], ours[name]["weight_decay"]) == (theirs[name]["lr"], theirs[name]["weight_decay"])


def test_user_groups_are_kept_and_never_changed() -> None:
    model = kinds()
    given = [
        {"params": [model.hidden.weight, model.hidden.bias], "lr": 0.5, "note": "a"},
        {"params": model.norm.parameters(), "weight_decay": 0.0},
        {"params": model.readout.weight},
    ]
    keys = [sorted(group) for group in given]
    groups = mup_param_groups(given, lr=0.25, weight_decay=0.125)
    found = by_name(model, groups)
    assert [sorted(group) for group in given] == keys
    assert given[0]["lr"] == 0.5
    assert (found["hidden.weight"]["lr"], found["hidden.weight"]["note"]) == (0.5 / M, "a")
    assert (found["norm.weight"]["lr"], found["norm.weight"]["weight_decay"]) == (0.25, 0.0)
    assert found["readout.weight"]["weight_decay"] == 0.125
    assert all(group["params"] for group in groups)


def test_every_parameter_is_in_exactly_one_group_even_if_tied() -> None:
    model = kinds()
    parameters = [*model.parameters(), model.hidden.weight]
    grouped = [p for group in mup_param_groups(parameters, lr=0.1) for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))


def test_missing_base_shapes_and_empty_lists_are_said() -> None:
    with pytest.raises(BaseShapesError, match=r"\(2, 3\) has no `infshape`"):
        MuAdamW_ScheduleFree(nn.Linear(3, 2).parameters())
    with pytest.raises(BaseShapesError, match="deepcopy"):
        MuAdamW(copy.deepcopy(kinds()).parameters())
    with pytest.raises(ValueError, match="empty parameter list"):
        MuAdamW([])


def test_three_growing_dimensions_are_refused() -> None:
    model = kinds()
    p = model.conv.weight
    p.infshape = mup.InfShape([mup.InfDim(8, 16)] * 3 + [mup.InfDim(None, 3)])
    with pytest.raises(BaseShapesError, match="3 dimensions"):
        lr_multiplier(p)


def reference_step(state: dict[str, torch.Tensor], grad: torch.Tensor, k: int, s: dict[str, float]) -> None:
    """Schedule-free AdamW on (x, z) by its definition (Defazio et al. 2024, section 4), decay at y, warm-up inside."""
    y = (1 - s["beta1"]) * state["z"] + s["beta1"] * state["x"]
    lr = s["lr"] * min(1.0, (k + 1) / s["warmup"])
    state["v"] = s["beta2"] * state["v"] + (1 - s["beta2"]) * grad**2
    direction = grad / ((state["v"] / (1 - s["beta2"] ** (k + 1))).sqrt() + s["eps"]) + s["decay"] * y
    state["z"] = state["z"] - lr * direction
    s["lr_max"] = max(s["lr_max"], lr)
    s["weight_sum"] += s["lr_max"] ** 2
    c = s["lr_max"] ** 2 / s["weight_sum"]
    state["x"] = (1 - c) * state["x"] + c * state["z"]


def test_schedule_free_steps_equal_the_definition_with_multipliers_by_hand() -> None:
    model = kinds().double()
    mup.set_base_shapes(model, Kinds(BASE), delta=Kinds(2 * BASE), rescale_params=False)
    settings = {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-12, "warmup": 5.0}
    optimizer = MuAdamW_ScheduleFree(
        model.parameters(), lr=0.01, betas=(0.9, 0.99), eps=1e-12, weight_decay=0.1, warmup_steps=5
    )
    multiplier = {"hidden.weight": 1 / M, "wide.weight": 1 / M, "conv.weight": 1 / M}
    states, hand = {}, {}
    for name, p in model.named_parameters():
        states[name] = {"x": p.detach().clone(), "z": p.detach().clone(), "v": torch.zeros_like(p)}
        c = multiplier.get(name, 1.0)
        hand[name] = settings | {"lr": 0.01 * c, "decay": 0.1 / c, "lr_max": 0.0, "weight_sum": 0.0}
    optimizer.train()
    generator = torch.Generator().manual_seed(1)
    for k in range(50):
        for name, p in model.named_parameters():
            y = 0.1 * states[name]["z"] + 0.9 * states[name]["x"]
            torch.testing.assert_close(p.detach(), y, rtol=1e-10, atol=1e-12)
            grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.grad = grad.clone()
            reference_step(states[name], grad, k, hand[name])
        optimizer.step()
    optimizer.eval()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), states[name]["x"], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(optimizer.state[p]["z"], states[name]["z"], rtol=1e-10, atol=1e-12)


def test_averaging_weights_do_not_see_the_multiplier() -> None:
    model = kinds()
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=0.01, warmup_steps=3)
    optimizer.train()
    weights: dict[float, list[float]] = {}
    for _ in range(10):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        before = [group["weight_sum"] for group in optimizer.param_groups]
        optimizer.step()
        for group, earlier in zip(optimizer.param_groups, before, strict=True):
            weights.setdefault(group["lr"], []).append(1 - earlier / group["weight_sum"])
    first, second = weights.values()
    assert first == pytest.approx(second, rel=1e-12)


def test_at_base_width_it_is_the_plain_optimizer_to_the_bit() -> None:
    ours, theirs = kinds(BASE), kinds(BASE)
    settings = {"lr": 0.01, "weight_decay": 0.1, "warmup_steps": 3}
    pair = [
        (ours, MuAdamW_ScheduleFree(ours.parameters(), **settings)),
        (theirs, AdamWScheduleFree(theirs.parameters(), **settings)),
    ]
    for model, optimizer in pair:
        optimizer.train()
        generator = torch.Generator().manual_seed(1)
        for _ in range(10):
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def trained(schedule_free: bool = True) -> tuple[nn.Module, torch.optim.Optimizer, torch.Tensor]:
    model = small_net()
    make = MuAdamW_ScheduleFree if schedule_free else MuAdamW
    optimizer = make(model.parameters(), lr=0.1)
    inputs = torch.randn(32, 3, generator=torch.Generator().manual_seed(2))
    if schedule_free:
        optimizer.train()
    for _ in range(5):
        model(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer, inputs


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_evaluating_shows_x_and_gives_back_the_bits_of_y() -> None:
    model, optimizer, inputs = trained()
    before = snapshot(model)
    with evaluating(optimizer, model, [inputs]):
        assert not model.training
        inside = snapshot(model)
    assert not same(before, inside)
    assert same(before, snapshot(model))
    assert model.training
    assert optimizer.param_groups[0]["train_mode"]
    optimizer.eval()
    at_x = snapshot(model)
    assert all(torch.equal(at_x[name], inside[name]) for name, _ in model.named_parameters())


def test_the_package_alone_would_change_bits() -> None:
    model, optimizer, _ = trained()
    before = snapshot(model)
    optimizer.eval()
    optimizer.train()
    assert not same(before, snapshot(model))


def test_evaluating_restores_after_an_exception() -> None:
    model, optimizer, inputs = trained()
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="boom"), evaluating(optimizer, model, [inputs]):
        raise RuntimeError("boom")
    assert same(before, snapshot(model))
    assert optimizer.param_groups[0]["train_mode"]


def test_evaluating_nests() -> None:
    model, optimizer, inputs = trained()
    with evaluating(optimizer, model, [inputs]):
        outer = snapshot(model)
        with evaluating(optimizer, model, [inputs]):
            assert same(outer, snapshot(model))
        assert same(outer, snapshot(model))
        assert not model.training


def test_batchnorm_is_recomputed_at_x_over_all_batches() -> None:
    model, optimizer, inputs = trained()
    with evaluating(optimizer, model, [inputs[:16], inputs[16:]]):
        hidden = model[0](inputs)
        torch.testing.assert_close(model[1].running_mean, (hidden[:16].mean(0) + hidden[16:].mean(0)) / 2)
        torch.testing.assert_close(model[1].running_var, (hidden[:16].var(0) + hidden[16:].var(0)) / 2)
        assert model[1].momentum == 0.1


def test_evaluating_an_ordinary_optimizer_only_sets_the_mode() -> None:
    model, optimizer, inputs = trained(schedule_free=False)
    before = snapshot(model)
    with evaluating(optimizer, model, [inputs]):
        assert not model.training
        assert same(before, snapshot(model))
    assert model.training


def test_warm_up_is_that_of_schedule_free_and_cosine_ends_at_zero() -> None:
    assert [warmup_factor("cosine", k, 4, 12) for k in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert warmup_factor("cosine", 8, 4, 12) == pytest.approx(0.5)
    assert warmup_factor("cosine", 12, 4, 12) == 0.0
    assert {warmup_factor("constant", k, 4, 12) for k in range(4, 12)} == {1.0}
    falling = [warmup_factor("cosine", k, 4, 12) for k in range(4, 13)]
    assert falling == sorted(falling, reverse=True)

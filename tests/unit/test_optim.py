"""Evaluation at x, and the schedules."""

from __future__ import annotations

import mup
import pytest
import torch
from torch import nn

from mufree.optim import MuAdamW, MuAdamW_ScheduleFree, evaluating, warmup_factor

BASE, WIDTH = 16, 64


def small_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)

    def make(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), mup.MuReadout(width, 2))

    model = make(WIDTH)
    mup.set_base_shapes(model, make(BASE), delta=make(2 * BASE))
    return model


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
    assert {warmup_factor("wsd", k, 4, 20) for k in range(4, 17)} == {1.0}  # 16, the first step of the last fifth, too
    assert [warmup_factor("wsd", k, 4, 20) for k in (17, 18, 20)] == pytest.approx([0.5, 1 - 0.5**0.5, 0.0])
    falling = [warmup_factor("cosine", k, 4, 12) for k in range(4, 13)]
    assert falling == sorted(falling, reverse=True)


def test_a_warm_up_into_the_decay_shortens_it_and_is_not_cut() -> None:
    assert [warmup_factor("wsd", k, 9, 10) for k in range(10)] == pytest.approx([*((k + 1) / 9 for k in range(9)), 1.0])
    assert [warmup_factor("wsd", k, 1, 2) for k in range(2)] == [1.0, 1.0]  # too short for a decay below 1

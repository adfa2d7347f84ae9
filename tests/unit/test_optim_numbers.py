"""Mixed precision, warm-ups from zero, accumulation, clipping and gradient scaling with schedule-free optimizers."""

from __future__ import annotations

from typing import Any

import mup
import pytest
import schedulefree
import torch
from schedule_free_variants import BASE, CLOSURE, MODAL, VARIANTS, WIDTH, bits, same
from torch import Tensor, nn

from mufree.optim import MuAdamW_ScheduleFree, MuSGD_ScheduleFree, evaluating

TORCH_MODES = [name for name in MODAL if not name.startswith("Wrapper")]


def net(seed: int = 0) -> nn.Module:
    """Without BatchNorm and dropout, so that a batch's gradient is the mean of its parts'."""

    def make(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), mup.MuReadout(width, 2)
        )

    torch.manual_seed(seed)
    return mup.set_base_shapes(make(WIDTH), make(BASE), delta=make(2 * BASE))


def data(step: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(32, 3, generator=generator, dtype=dtype)
    return inputs, inputs[:, :2].sin()


def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return (model(inputs) - targets).square().mean()


@pytest.mark.parametrize("name", MODAL)
def test_bfloat16_autocast_keeps_weights_and_averages_in_float32(name: str) -> None:
    losses = {}
    for enabled in (True, False):
        model = net()
        optimizer = MODAL[name](model.parameters())
        optimizer.train()
        for step in range(30):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                outputs = model(data(step)[0])
            assert outputs.dtype == (torch.bfloat16 if enabled else torch.float32)
            (outputs.float() - data(step)[1]).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        tensors = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor) and v.dim() > 0]
        assert {t.dtype for t in [*tensors, *model.parameters()]} == {torch.float32}
        with evaluating(optimizer, model), torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses[enabled] = float(loss_of(model, *data(99)).detach())
    start = float(loss_of(net(), *data(99)).detach())
    # bfloat16 has 8 bits: its rounding is to change little of what training gained.
    assert abs(losses[True] - losses[False]) < 0.05 * (start - losses[False])


def test_bfloat16_weights_would_lose_the_average() -> None:
    """The control: x moves by 1/k of a distance, which falls below bfloat16's resolution of 2^-8."""
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        weight = nn.Parameter(torch.ones(1000, dtype=dtype))
        optimizer = schedulefree.SGDScheduleFree([weight], lr=1e-3)
        optimizer.train()
        for _ in range(20):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        optimizer.eval()
        moved[dtype] = float((1 - weight.detach()).mean())
    assert moved[torch.float32] == pytest.approx(1e-3 * 21 / 2, rel=1e-3)  # the mean of z, which fell by lr a step
    assert moved[torch.bfloat16] < 0.5 * moved[torch.float32]


@pytest.mark.parametrize("name", TORCH_MODES)
def test_a_warm_up_that_starts_at_zero_moves_nothing_at_first_and_trains_then(name: str) -> None:
    """An own schedule with lr 0 at step 0: the averaging weight is 0/0."""
    model = net()
    optimizer = MODAL[name](model.parameters())
    peaks = [group["lr"] for group in optimizer.param_groups]
    start = [p.detach().clone() for p in model.parameters()]
    optimizer.train()
    for step in range(12):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * step / 10
        loss_of(model, *data(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 0:
            with evaluating(optimizer, model):
                assert all(torch.equal(p, was) for p, was in zip(model.parameters(), start, strict=True))
            # y = β x + (1 − β) z, which the reference forms round
            torch.testing.assert_close(list(model.parameters()), start)
    with evaluating(optimizer, model):
        assert all(bool(p.isfinite().all()) for p in model.parameters())
        assert not torch.equal(model[2].weight, start[2])


@pytest.mark.parametrize("name", ["Wrapper(SGD)", "WrapperReference"])
def test_the_wrapper_alone_cannot_start_at_zero(name: str) -> None:
    model = net()
    optimizer = MODAL[name](model.parameters())
    optimizer.train()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    loss_of(model, *data(0)).backward()
    with pytest.raises(ZeroDivisionError):
        optimizer.step()


@pytest.mark.parametrize("name", MODAL)
def test_accumulated_gradients_are_those_of_the_large_batch(name: str) -> None:
    """In float64, to 1e-9: only the order of sums differs."""
    trained = {}
    for parts in (1, 4):
        model = net().double()
        optimizer = MODAL[name](model.parameters())
        optimizer.train()
        for step in range(10):
            for inputs, targets in zip(*(tensor.chunk(parts) for tensor in data(step, torch.float64)), strict=True):
                (loss_of(model, inputs, targets) / parts).backward()
            optimizer.step()
            optimizer.zero_grad()
        with evaluating(optimizer, model):
            trained[parts] = [p.detach().clone() for p in model.parameters()]
    for whole, summed in zip(trained[1], trained[4], strict=True):
        torch.testing.assert_close(summed, whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", MODAL)
def test_norms_are_read_and_gradients_clipped_before_the_step(name: str) -> None:
    model = net()
    optimizer = MODAL[name](model.parameters())
    optimizer.train()
    (100 * loss_of(model, *data(0))).backward()
    expected = torch.stack([p.grad.square().sum() for p in model.parameters()]).sum().sqrt()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    torch.testing.assert_close(norm, expected)
    assert norm > 1
    gradients = [p.grad.clone() for p in model.parameters()]
    torch.testing.assert_close(nn.utils.get_total_norm(gradients), torch.tensor(1.0))
    optimizer.step()
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "normalised"), [("AdamW", True), ("AdamWPaper", True), ("SGD", False), ("RAdam", True)]
)
def test_after_the_step_a_gradient_is_no_gradient_any_more(name: str, normalised: bool) -> None:
    model = net()
    optimizer = MODAL[name](model.parameters(), weight_decay=0.5)
    optimizer.train()
    for step in range(8):  # RAdam normalises from the sixth step on
        optimizer.zero_grad()
        loss_of(model, *data(step)).backward()
        before = model[2].weight.grad.clone()
        optimizer.step()
    after = model[2].weight.grad
    assert not torch.equal(after, before)
    if normalised:  # entries of the size of one, whatever that of the gradient
        assert after.abs().mean() > 10 * before.abs().mean()


def scaled_training(optimizer: Any, model: nn.Module, scaler: Any, overflow_at: int | None = None) -> list[bool]:
    """Train and return, for each step, whether it changed a weight."""
    moved = []
    optimizer.train()
    for step in range(8):
        optimizer.zero_grad()
        loss = loss_of(model, *data(step))
        before = [p.detach().clone() for p in model.parameters()]
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss * (float("inf") if step == overflow_at else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
        moved.append(not same([p.detach() for p in model.parameters()], before))
    return moved


@pytest.mark.parametrize("name", MODAL)
def test_a_gradient_scaler_changes_nothing_but_range(name: str) -> None:
    """The scale is a power of two and is divided out before the step: the same bits."""
    model, scaled = net(), net()
    optimizers = MODAL[name](model.parameters()), MODAL[name](scaled.parameters())
    scaled_training(optimizers[0], model, None)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaled_training(optimizers[1], scaled, scaler)
    assert scaler.get_scale() == 2.0**10
    assert same(bits(scaled, optimizers[1]), bits(model, optimizers[0]))


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Wrapper(SGD)"])
def test_a_gradient_scaler_skips_an_overflow_without_a_trace(name: str) -> None:
    model = net()
    optimizer = MODAL[name](model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    assert scaled_training(optimizer, model, scaler, overflow_at=3) == [step != 3 for step in range(8)]
    assert scaler.get_scale() == 2.0**9
    assert {group["k"] for group in optimizer.param_groups} == {7}
    with evaluating(optimizer, model):
        assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_a_gradient_scaler_in_evaluation_is_refused_like_a_step() -> None:
    model = net()
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    optimizer.train()
    with evaluating(optimizer, model):
        scaler.scale(loss_of(model, *data(0))).backward()
        with pytest.raises(RuntimeError, match="inside `with evaluating"):
            scaler.step(optimizer)


@pytest.mark.parametrize("name", CLOSURE)
def test_a_gradient_scaler_cannot_drive_the_closure_variants(name: str) -> None:
    """Their gradients exist inside step() alone, where no scaler looks for overflows or divides."""
    model = net()
    optimizer = VARIANTS[name](model.parameters())
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss_of(model, *data(0))).backward()
    with pytest.raises(TypeError, match="closure"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="Closure use is not currently supported"):
        scaler.step(optimizer, closure=lambda: 0.0)


def test_adam_divides_a_forgotten_scale_out_and_sgd_does_not() -> None:
    """Why scaled gradients that nobody unscales pass unnoticed with Adam: ε aside, its step doesn't see the scale."""
    moved = {}
    for make in (MuAdamW_ScheduleFree, MuSGD_ScheduleFree):
        for scale in (1.0, 1024.0):
            model = net()
            start = model[2].weight.detach().clone()
            optimizer = make(model.parameters(), lr=1e-3)
            optimizer.train()
            loss = loss_of(model, *data(0))
            (scale * loss).backward()
            optimizer.step()
            moved[make, scale] = float((model[2].weight.detach() - start).norm())
    assert moved[MuAdamW_ScheduleFree, 1024.0] == pytest.approx(moved[MuAdamW_ScheduleFree, 1.0], rel=1e-3)
    assert moved[MuSGD_ScheduleFree, 1024.0] == pytest.approx(1024 * moved[MuSGD_ScheduleFree, 1.0], rel=1e-3)

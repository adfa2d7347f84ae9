"""Our products against torch's own, and the number formats that go in and come out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mufree.lab.models import kernels
from mufree.study import machine

# Relative rounding of one number; sums of a few hundred terms of either sign err by a small multiple.
EPSILON = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8}


def close(ours: Tensor, exact: Tensor, dtype: torch.dtype, factor: float = 8) -> bool:
    return bool((ours.double() - exact).norm() <= factor * EPSILON[dtype] * exact.norm())


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize(("fan_in", "fan_out"), [(16, 48), (48, 16), (24, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_and_its_gradients(
    monkeypatch: pytest.MonkeyPatch, onednn: bool, dtype: torch.dtype, fan_in: int, fan_out: int, bias: bool
) -> None:
    monkeypatch.setattr(kernels, "_onednn_is_faster", lambda: onednn)
    h, weight = draw(2, 5, fan_in, dtype=dtype), draw(fan_out, fan_in, seed=1)
    b = draw(fan_out, seed=2) if bias else None
    out = kernels.linear(h, weight, b)
    inputs = [t for t in (h, weight, b) if t is not None]
    g = draw(*out.shape, dtype=dtype, seed=3).detach()
    gradients = torch.autograd.grad(out, inputs, g)
    wide = [t.detach().double().requires_grad_() for t in inputs]
    exact = F.linear(*wide)
    assert out.dtype == dtype
    assert close(out, exact, dtype)
    for ours, theirs, given in zip(gradients, torch.autograd.grad(exact, wide, g.double()), inputs, strict=True):
        assert ours.dtype == given.dtype  # a float32 weight has a float32 gradient
        assert ours.shape == given.shape
        assert close(ours, theirs, dtype)


def test_linear_spares_gradients_that_nobody_wants() -> None:
    h, weight = draw(4, 8).detach(), draw(3, 8)
    kernels.linear(h, weight).sum().backward()
    assert weight.grad is not None
    assert h.grad is None


@pytest.mark.parametrize("avx512", [True, False])
@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
@pytest.mark.parametrize("size", [8, 9])
def test_convolution_and_its_gradients(
    monkeypatch: pytest.MonkeyPatch, avx512: bool, dtype: torch.dtype, kernel: int, stride: int, size: int
) -> None:
    # 8 channels, with which oneDNN's strided 1×1 convolution stays within its buffers.
    monkeypatch.setattr(machine, "this_processor", lambda: machine.Processor(avx512=avx512))
    h = draw(2, 8, size, size, dtype=dtype).detach().to(memory_format=torch.channels_last).requires_grad_()
    weight = draw(16, 8, kernel, kernel, seed=1)
    out = kernels.convolution(h, weight, stride, kernel // 2)
    g = draw(*out.shape, dtype=dtype, seed=2).detach()
    wide = [t.detach().double().requires_grad_() for t in (h, weight)]
    exact = F.conv2d(*wide, stride=stride, padding=kernel // 2)
    assert out.dtype == dtype
    assert close(out, exact, dtype)
    for ours, theirs, given in zip(
        torch.autograd.grad(out, (h, weight), g), torch.autograd.grad(exact, wide, g.double()), (h, weight), strict=True
    ):
        assert (ours.dtype, ours.shape) == (given.dtype, given.shape)
        assert close(ours, theirs, dtype)


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("causal", [True, False])
def test_attention_and_its_gradient(dtype: torch.dtype, causal: bool) -> None:
    b, t, heads, d, scale = 2, 6, 3, 4, 0.3
    qkv = draw(b, t, 3 * heads * d, dtype=dtype)
    g = draw(b, t, heads * d, dtype=dtype, seed=1).detach()
    out = kernels.attention(qkv, d, causal, scale)
    (ours,) = torch.autograd.grad(out, qkv, g)
    wide = qkv.detach().double().requires_grad_()
    q, k, v = wide.view(b, t, 3, heads, d).unbind(2)
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * scale
    if causal:
        scores = scores.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), -math.inf)
    exact = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(2)
    (theirs,) = torch.autograd.grad(exact, wide, g.double())
    assert out.dtype == ours.dtype == dtype
    assert close(out, exact, dtype)
    assert close(ours, theirs, dtype)


def test_a_causal_position_sees_nothing_later() -> None:
    qkv = draw(1, 5, 24, dtype=torch.bfloat16).detach()
    changed = qkv.clone()
    changed[:, 3:] += 1
    first, second = (kernels.attention(x, 8, True, 0.5) for x in (qkv, changed))
    assert torch.equal(first[:, :3], second[:, :3])
    assert not torch.equal(first[:, 3:], second[:, 3:])

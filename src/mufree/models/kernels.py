"""The products that training spends its time in, for float32 and bfloat16 on a CPU and for whatever else torch runs on.

The number format follows the activations: a weight is float32 and is cast to the format of what it is applied to, so that one
model serves every precision. docs/performance.md has the measurements behind each choice.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mufree import machine


def linear(h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """h @ weightᵀ + bias in the format of `h`; [..., fan_in], [fan_out, fan_in], [fan_out] → [..., fan_out].

    Gradients of weight and bias have the weight's format.
    """
    if h.dtype != weight.dtype:
        return F.linear(h, weight.to(h.dtype), None if bias is None else bias.to(h.dtype))
    if h.dtype == torch.float32 and h.device.type == "cpu" and _onednn_is_faster():
        flat: Tensor = _Product.apply(h.flatten(0, -2), weight, bias)
        return flat.view(*h.shape[:-1], -1)
    return F.linear(h, weight, bias)


def convolution(h: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """2-d convolution in the format of `h`; [B, fan_in, H, W], [fan_out, fan_in, k, k] → [B, fan_out, H', W'].

    The gradient of the weight has the weight's format.
    """
    if weight.shape[-1] == 1 and h.device.type == "cpu" and not machine.this_processor().avx512:
        # oneDNN 3.12's backward pass of a strided 1×1 convolution in channels_last writes outside its buffer under AVX2 if the
        # channels are no multiple of 8. The positions that a stride skips have no part in it, so they can go before.
        h, stride = h[:, :, ::stride, ::stride], 1
    return F.conv2d(h, weight.to(h.dtype), stride=stride, padding=padding)


def attention(qkv: Tensor, head_dim: int, causal: bool, scale: float) -> Tensor:
    """Multi-head attention of packed queries, keys and values, [B, T, 3·width] → [B, T, width]; `scale` multiplies the scores.

    In bfloat16 on a CPU, scores and softmax are float32, and the other products have factors in bfloat16 and sums in float32.
    """
    if qkv.dtype == torch.bfloat16 and qkv.device.type == "cpu":
        mixed: Tensor = _Attention.apply(qkv, head_dim, causal, scale)
        return mixed
    b, t, _ = qkv.shape
    q, k, v = qkv.view(b, t, 3, -1, head_dim).permute(2, 0, 3, 1, 4)  # [B, H, T, head_dim] each
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale).transpose(1, 2).flatten(2)


@cache
def _onednn_is_faster() -> bool:
    """Whether float32 products are better left to oneDNN than to MKL, which torch takes.

    MKL uses half the width of the vector units of processors that aren't Intel's. torch has no switch for it; the operator is
    the one that torch.compile calls.
    """
    processor = machine.this_processor()
    return (
        processor.avx512
        and not processor.intel
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _onednn(h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(h, weight, bias, "none", [], "")
    return product


class _Product(torch.autograd.Function):
    """`F.linear` for float32 [n, fan_in] by oneDNN."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(h, weight)
        return _onednn(h, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        h, weight = ctx.saved_tensors
        for_h, for_weight, for_bias = ctx.needs_input_grad
        # The longer side comes last, where oneDNN's blocks are widest.
        fan_out, fan_in = weight.shape
        transposed = for_weight and fan_out > fan_in
        return (
            _onednn(gradient, weight.t()) if for_h else None,
            (_onednn(h.t(), gradient.t()).t() if transposed else _onednn(gradient.t(), h.t())) if for_weight else None,
            gradient.sum(0) if for_bias else None,
        )


class _Attention(torch.autograd.Function):
    """Attention in bfloat16, whose own kernel in torch has a slow backward pass on a CPU."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, head_dim: int, causal: bool, scale: float) -> Tensor:
        b, t, _ = qkv.shape
        # [3, B·H, T, head_dim], one copy
        q, k, v = qkv.view(b, t, 3, -1, head_dim).permute(2, 0, 3, 1, 4).reshape(3, -1, t, head_dim)
        scores = torch.baddbmm(_mask(t, causal), q.float(), k.float().transpose(1, 2), alpha=scale)
        weights = scores.softmax(-1).to(qkv.dtype)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale = scale
        return torch.bmm(weights, v).view(b, -1, t, head_dim).transpose(1, 2).flatten(2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        b, t, _ = gradient.shape
        head_dim = q.shape[-1]
        g = gradient.reshape(b, t, -1, head_dim).transpose(1, 2).reshape(-1, t, head_dim)
        of_weights = torch.bmm(g, v.transpose(1, 2))
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        result = gradient.new_empty(3, *q.shape)
        torch.bmm(of_scores, k, out=result[0])
        torch.bmm(of_scores.transpose(1, 2), q, out=result[1])
        result[:2] *= ctx.scale
        torch.bmm(weights.transpose(1, 2), g, out=result[2])
        packed = result.view(3, b, -1, t, head_dim).permute(1, 3, 0, 2, 4).flatten(2)
        return packed, None, None, None


@cache
def _mask(t: int, causal: bool) -> Tensor:
    """What is added to scores, [T, T]: −∞ for later positions if `causal`."""
    mask = torch.zeros(t, t)
    return mask.masked_fill_(torch.ones(t, t, dtype=torch.bool).triu_(1), -torch.inf) if causal else mask

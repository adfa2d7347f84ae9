"""The products that training spends its time in, for float32 and bfloat16 on a CPU and for whatever else torch runs on.

The number format follows the activations: a weight is float32 and is cast to the format of what it is applied to, so that one
model serves every precision. docs/performance.md has the measurements behind each choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from mufree.study import machine

_side_by_side = False


@contextmanager
def side_by_side() -> Iterator[None]:
    """Within it, products are made by operators that `torch.vmap` has rules for, for networks side by side.

    So is torch's own attention, of models that aren't this package's.
    """
    global _side_by_side
    before, _side_by_side = _side_by_side, True
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):  # vmap would go through the fused ones network by network, and warn of it
            yield
    finally:
        _side_by_side = before
        torch.backends.mha.set_fastpath_enabled(fast)


def linear(h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """h @ weightᵀ + bias in the format of `h`; [..., fan_in], [fan_out, fan_in], [fan_out] → [..., fan_out].

    Gradients of weight and bias have the weight's format.
    """
    if h.dtype != weight.dtype:
        return F.linear(h, weight.to(h.dtype), None if bias is None else bias.to(h.dtype))
    if h.dtype == torch.float32 and h.device.type == "cpu" and not _side_by_side and _onednn_is_faster():
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


def normalised(norm: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    """`norm(h)` in the format of `h`, by a norm whose weights are float32.

    A CPU takes both formats at once. A GPU and vmap don't: there it is all float32 but what goes in and comes out.
    """
    if h.dtype == torch.float32 or (h.device.type == "cpu" and not _side_by_side):
        return norm(h)
    return norm(h.float()).to(h.dtype)


def channels_last(images: Tensor) -> Tensor:
    """The same [B, C, H, W] with the channels last in memory: twice as fast on a CPU, in all that follows."""
    return images if _side_by_side else images.contiguous(memory_format=torch.channels_last)  # vmap knows no formats


def attention(qkv: Tensor, head_dim: int, causal: bool, scale: float) -> Tensor:
    """Multi-head attention of packed queries, keys and values, [B, T, 3·width] → [B, T, width]; `scale` multiplies the scores.

    In bfloat16 on a CPU, scores and softmax are float32, and the other products have factors in bfloat16 and sums in float32.
    """
    if _side_by_side:
        fused: Tensor = _fused_attention(qkv, head_dim, causal, scale)[0]
        return fused
    if qkv.dtype == torch.bfloat16 and qkv.device.type == "cpu":
        mixed: Tensor = _Attention.apply(qkv, head_dim, causal, scale)
        return mixed
    q, k, v = _split(qkv, head_dim)
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


# vmap has no rule for the backward pass of torch's fused attention. It has no weights, so networks side by side are a larger
# batch; only an operator of its own can say so.


def _attend(qkv: Tensor, head_dim: int, causal: bool, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Attention [B, T, width] of [B, T, 3·width]; then what the backward pass needs: log-sum-exp, seed and offset."""
    q, k, v = _split(qkv, head_dim)
    if qkv.device.type == "cpu":
        out, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
        seed = offset = qkv.new_empty((), dtype=torch.int64)
    else:
        out, logsumexp, seed, offset = torch.ops.aten._scaled_dot_product_efficient_attention(
            q, k, v, None, True, 0.0, causal, scale=scale
        )
    return out.transpose(1, 2).flatten(2).contiguous(), logsumexp.contiguous(), seed.clone(), offset.clone()


def _attend_backward(
    gradient: Tensor,
    qkv: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    seed: Tensor,
    offset: Tensor,
    head_dim: int,
    causal: bool,
    scale: float,
) -> Tensor:
    """The gradient of `qkv`."""
    q, k, v = _split(qkv, head_dim)
    b, t, _ = qkv.shape
    out, gradient = (x.view(b, t, -1, head_dim).transpose(1, 2) for x in (out, gradient))
    if qkv.device.type == "cpu":
        parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, q, k, v, out, logsumexp, 0.0, causal, scale=scale
        )
    else:
        *parts, _ = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
            gradient, q, k, v, None, out, logsumexp, seed, offset, 0.0, (True, True, True, False), causal, scale=scale
        )
    return torch.stack(parts).permute(1, 3, 0, 2, 4).flatten(2).contiguous()


def _split(qkv: Tensor, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, [B, H, T, head_dim] each."""
    b, t, _ = qkv.shape
    q, k, v = qkv.view(b, t, 3, -1, head_dim).permute(2, 0, 3, 1, 4)
    return q, k, v


_fused_attention = torch.library.custom_op("mufree::attention", _attend, mutates_args=())
_fused_attention_backward = torch.library.custom_op("mufree::attention_backward", _attend_backward, mutates_args=())
_fused_attention.register_fake(_attend)  # torch's operators know the shapes of what they give
_fused_attention_backward.register_fake(_attend_backward)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[0], *output)
    ctx.settings = inputs[1:]


def _fused_gradient(ctx: Any, gradient: Tensor, *_unused: Tensor) -> tuple[Tensor | None, ...]:
    return _fused_attention_backward(gradient.contiguous(), *ctx.saved_tensors, *ctx.settings), None, None, None


_fused_attention.register_autograd(_fused_gradient, setup_context=_keep)


@_fused_attention.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], qkv: Tensor, *settings: Any) -> tuple[Any, Any]:
    found = _fused_attention(qkv.movedim(in_dims[0] or 0, 0).flatten(0, 1), *settings)
    apart = [tensor.unflatten(0, (info.batch_size, -1)) for tensor in found[:2]]
    return (*apart, *found[2:]), (0, 0, None, None)


@cache
def _mask(t: int, causal: bool) -> Tensor:
    """What is added to scores, [T, T]: −∞ for later positions if `causal`."""
    mask = torch.zeros(t, t)
    return mask.masked_fill_(torch.ones(t, t, dtype=torch.bool).triu_(1), -torch.inf) if causal else mask

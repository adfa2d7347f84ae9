"""The pre-norm transformer block that the GPT and the ViT share.

Linear layers have no bias: LayerNorm's biases stand in for them, and fewer tensors make a step of the optimizer cheaper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mufree.lab.models import kernels
from mufree.lab.models.layers import LayerNorm, Linear


def table(entries: int, width: int) -> nn.Embedding:
    """A trainable look-up table, not initialised.

    Given a weight, nn.Embedding draws none: its normal_ makes torch import its reference implementations on the meta
    device, which takes three seconds.
    """
    return nn.Embedding(entries, width, _weight=torch.empty(entries, width))


class Attention(nn.Module):
    """Multi-head self-attention, [B, T, width] → [B, T, width].

    `scale` multiplies the scores: head_dim^-½ here, 1/d under µP once `parametrize` has set it. The rows of `qkv.weight`
    are those of the query, the key and the value, `width` each.

    Raises ValueError if `width` is not a multiple of `head_dim`.
    """

    def __init__(self, width: int, head_dim: int, causal: bool) -> None:
        super().__init__()
        if width % head_dim:
            raise ValueError(f"width {width} is not a multiple of head_dim {head_dim}; choose a width that is")
        self.head_dim = head_dim
        self.scale = head_dim**-0.5
        self.causal = causal
        self.qkv = Linear(width, 3 * width, bias=False)
        self.out = Linear(width, width, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        """Attention over the T positions; only over earlier ones and itself if `causal`."""
        result: Tensor = self.out(kernels.attention(self.qkv(h), self.head_dim, self.causal, self.scale))
        return result


class Block(nn.Module):
    """Pre-norm block: h + attention(norm(h)), then h + feed-forward(norm(h)); [B, T, width] → the same."""

    def __init__(self, width: int, head_dim: int, ffn_ratio: int, causal: bool) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(width)
        self.attention = Attention(width, head_dim, causal)
        self.ffn_norm = LayerNorm(width)
        self.ffn_in = Linear(width, ffn_ratio * width, bias=False)
        self.ffn_out = Linear(ffn_ratio * width, width, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        """One block."""
        h = h + self.attention(self.attention_norm(h))
        result: Tensor = h + self.ffn_out(F.gelu(self.ffn_in(self.ffn_norm(h))))
        return result

"""A decoder-only language model and a vision transformer, of the same pre-norm blocks.

Linear layers have no bias: LayerNorm's biases stand in for them, and fewer tensors make a step of the optimizer cheaper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mufree.lab.models import kernels
from mufree.lab.models.layers import LayerNorm, Linear, Network, Readout


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


class GPT(Network):
    """Pre-norm decoder with learned positions and an untied readout: int64 [B, T] → logits [B, T, classes].

    `classes` is the vocabulary size and T at most `context_length`. No dropout.
    """

    def __init__(
        self, width: int, classes: int, depth: int, head_dim: int, ffn_ratio: int, context_length: int
    ) -> None:
        super().__init__()
        self.tokens = table(classes, width)
        self.positions = table(context_length, width)
        self.blocks = nn.Sequential(*(Block(width, head_dim, ffn_ratio, causal=True) for _ in range(depth)))
        self.norm = LayerNorm(width)
        self.readout = Readout(width, classes, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token at every position, [B, T, classes]."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        embedded = self.tokens(tokens) + self.positions(positions)
        h = self.blocks(embedded.to(self.compute_dtype))
        logits: Tensor = self.readout(self.norm(h))
        return logits


class ViT(Network):
    """Pre-norm ViT for 32×32 RGB images with learned positions: float32 [B, 3, 32, 32] → logits [B, classes].

    The mean over patches goes to the readout and there is no class token (Beyer et al. 2022). No dropout.

    Raises ValueError if 32 is not a multiple of `patch_size`.
    """

    def __init__(self, width: int, classes: int, depth: int, head_dim: int, ffn_ratio: int, patch_size: int) -> None:
        super().__init__()
        if 32 % patch_size:
            raise ValueError(f"patch_size {patch_size} does not divide 32; choose 2, 4 or 8")
        self.patch_size = patch_size
        self.patches = Linear(3 * patch_size**2, width, bias=False)
        self.positions = table((32 // patch_size) ** 2, width)
        self.blocks = nn.Sequential(*(Block(width, head_dim, ffn_ratio, causal=False) for _ in range(depth)))
        self.norm = LayerNorm(width)
        self.readout = Readout(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes]."""
        p = self.patch_size
        patches = images.reshape(len(images), 3, 32 // p, p, 32 // p, p)
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [B, rows·columns, 3·p·p]
        positions = torch.arange(patches.shape[1], device=images.device)
        h = self.patches(patches.to(self.compute_dtype))
        h = self.blocks(h + self.positions(positions).to(h.dtype))
        logits: Tensor = self.readout(self.norm(h).mean(1))
        return logits

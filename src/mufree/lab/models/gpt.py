"""A decoder-only language model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mufree.lab.models.layers import LayerNorm, Readout
from mufree.lab.models.transformer import Block, table


class GPT(nn.Module):
    """Pre-norm decoder with learned positions and an untied readout: int64 [B, T] → logits [B, T, classes].

    `classes` is the vocabulary size and T at most `context_length`. No dropout.
    """

    nonlinearity = "linear"
    compute_dtype = torch.float32
    """Number format of activations and logits; weights stay float32."""

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

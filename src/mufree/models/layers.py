"""Layers whose weights are float32 and whose products are in the number format of what they are applied to."""

from __future__ import annotations

from mup import MuReadout
from torch import Tensor, nn

from mufree.models import kernels


class Linear(nn.Linear):
    """`nn.Linear`, in the format of its input."""

    def forward(self, h: Tensor) -> Tensor:
        """[..., in_features] → [..., out_features]."""
        return kernels.linear(h, self.weight, self.bias)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`, in the format of its input."""

    def forward(self, h: Tensor) -> Tensor:
        """[B, in_channels, H, W] → [B, out_channels, H', W']."""
        convolved: Tensor = self._conv_forward(h, self.weight.to(h.dtype), self.bias)
        return convolved


class Readout(MuReadout):  # type: ignore[misc]
    """`mup.MuReadout`, in the format of its input, and without multiplying by 1."""

    def forward(self, h: Tensor) -> Tensor:
        """[..., in_features] → logits [..., out_features]."""
        multiplier = self.width_mult()
        if self.output_mult != 1.0 or multiplier != 1.0:
            h = self.output_mult * h / multiplier
        return kernels.linear(h, self.weight, self.bias)

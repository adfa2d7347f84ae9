"""What networks are made of: weights are float32, and products in the number format of what they are applied to."""

from __future__ import annotations

import torch
from mup import MuReadout
from torch import Tensor, nn

from mufree.lab.models import kernels


class Network(nn.Module):
    """A network with a width, which ends in a `Readout`."""

    nonlinearity = "linear"
    """What its weights are initialised for, as `torch.nn.init.calculate_gain` names it."""
    compute_dtype = torch.float32
    """Number format of activations and logits; weights stay float32."""


class Linear(nn.Linear):
    """`nn.Linear`, in the format of its input."""

    def forward(self, h: Tensor) -> Tensor:
        """[..., in_features] → [..., out_features]."""
        return kernels.linear(h, self.weight, self.bias)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` with a square kernel and without a bias, in the format of its input; zeros beyond the border."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        """[B, in_channels, H, W] → [B, out_channels, H', W']."""
        return kernels.convolution(h, self.weight, self.stride[0], self.kernel_size[0] // 2)


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm`, in the format of its input."""

    def forward(self, h: Tensor) -> Tensor:
        """[..., width] → the same."""
        return kernels.normalised(super().forward, h)


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d`, in the format of its input."""

    def forward(self, h: Tensor) -> Tensor:
        """[B, channels, H, W] → the same."""
        return kernels.normalised(super().forward, h)


class Readout(MuReadout):  # type: ignore[misc]
    """`mup.MuReadout`, in the format of its input, and without multiplying by 1."""

    def forward(self, h: Tensor) -> Tensor:
        """[..., in_features] → logits [..., out_features]."""
        multiplier = self.width_mult()
        if self.output_mult != 1.0 or multiplier != 1.0:
            h = self.output_mult * h / multiplier
        return kernels.linear(h, self.weight, self.bias)

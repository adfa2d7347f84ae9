"""A multi-layer perceptron."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mufree.lab.models.layers import Linear, Readout


class MLP(nn.Module):
    """ReLU perceptron on flattened 32×32 RGB images: float32 [B, 3, 32, 32] → logits [B, classes]; `depth` hidden layers."""

    nonlinearity = "relu"
    compute_dtype = torch.float32
    """Number format of activations and logits; weights stay float32."""

    def __init__(self, width: int, classes: int, depth: int = 2) -> None:
        super().__init__()
        fan_ins = [3 * 32 * 32] + [width] * (depth - 1)
        self.hidden = nn.ModuleList(Linear(fan_in, width) for fan_in in fan_ins)
        self.readout = Readout(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes]."""
        h = images.flatten(1).to(self.compute_dtype)
        for layer in self.hidden:
            h = layer(h).relu()
        logits: Tensor = self.readout(h)
        return logits

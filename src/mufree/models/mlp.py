"""A multi-layer perceptron."""

from __future__ import annotations

from mup import MuReadout
from torch import Tensor, nn


class MLP(nn.Module):
    """ReLU perceptron on flattened 32×32 RGB images: float32 [B, 3, 32, 32] → logits [B, classes]; `depth` hidden layers."""

    nonlinearity = "relu"

    def __init__(self, width: int, classes: int, depth: int = 2) -> None:
        super().__init__()
        fan_ins = [3 * 32 * 32] + [width] * (depth - 1)
        self.hidden = nn.ModuleList(nn.Linear(fan_in, width) for fan_in in fan_ins)
        self.readout = MuReadout(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes]."""
        h = images.flatten(1)
        for layer in self.hidden:
            h = layer(h).relu()
        logits: Tensor = self.readout(h)
        return logits

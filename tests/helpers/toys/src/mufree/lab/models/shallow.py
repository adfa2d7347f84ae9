"""A network of one layer."""

from __future__ import annotations

from torch import Tensor

from mufree.lab.models.layers import Linear, Network, Readout


class Shallow(Network):
    """A layer and a readout on flattened 32×32 RGB images: float32 [B, 3, 32, 32] → logits [B, classes]."""

    nonlinearity = "relu"

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.hidden = Linear(3 * 32 * 32, width)
        self.readout = Readout(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes]."""
        logits: Tensor = self.readout(self.hidden(images.flatten(1).to(self.compute_dtype)).relu())
        return logits

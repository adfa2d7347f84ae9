"""A multi-layer perceptron, and a small ResNet with BatchNorm."""

from __future__ import annotations

from torch import Tensor, nn

from mufree.lab.models import kernels
from mufree.lab.models.layers import BatchNorm2d, Conv2d, Linear, Network, Readout


class MLP(Network):
    """ReLU perceptron on flattened 32×32 RGB images: float32 [B, 3, 32, 32] → logits [B, classes]; `depth` hidden layers."""

    nonlinearity = "relu"

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


def _conv_norm(fan_in: int, fan_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(Conv2d(fan_in, fan_out, kernel, stride), BatchNorm2d(fan_out))


class Block(nn.Module):
    """Basic residual block (He et al. 2016): two 3×3 convolutions; a 1×1 shortcut where the shape changes."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.first = _conv_norm(fan_in, fan_out, 3, stride)
        self.second = _conv_norm(fan_out, fan_out, 3)
        self.shortcut = nn.Identity() if stride == 1 else _conv_norm(fan_in, fan_out, 1, stride)

    def forward(self, h: Tensor) -> Tensor:
        """[B, fan_in, H, W] → [B, fan_out, H/stride, W/stride]."""
        residual: Tensor = self.second(self.first(h).relu_())
        residual += self.shortcut(h)
        return residual.relu_()


class ResNet(Network):
    """CIFAR ResNet: float32 [B, 3, 32, 32] → logits [B, classes].

    Three stages of `blocks_per_stage` blocks with `width`, 2·`width` and 4·`width` channels, the resolution halved
    between them, then global average pooling.
    """

    nonlinearity = "relu"

    def __init__(self, width: int, classes: int, blocks_per_stage: int = 1) -> None:
        super().__init__()
        self.stem = _conv_norm(3, width, 3)
        blocks = []
        fan_in = width
        for stage in range(3):
            for block in range(blocks_per_stage):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(Block(fan_in, width * 2**stage, stride))
                fan_in = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.readout = Readout(fan_in, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes]."""
        h = kernels.channels_last(images.to(self.compute_dtype))
        h = self.blocks(self.stem(h).relu_())
        logits: Tensor = self.readout(h.mean((2, 3)))
        return logits

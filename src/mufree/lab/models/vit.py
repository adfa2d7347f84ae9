"""A vision transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mufree.lab.models.layers import LayerNorm, Linear, Readout
from mufree.lab.models.transformer import Block, table


class ViT(nn.Module):
    """Pre-norm ViT for 32×32 RGB images with learned positions: float32 [B, 3, 32, 32] → logits [B, classes].

    The mean over patches goes to the readout and there is no class token (Beyer et al. 2022). No dropout.

    Raises ValueError if 32 is not a multiple of `patch_size`.
    """

    nonlinearity = "linear"
    compute_dtype = torch.float32
    """Number format of activations and logits; weights stay float32."""

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

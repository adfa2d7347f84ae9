"""A model with one tensor of every kind that µP tells apart."""

from __future__ import annotations

import mup
import torch
from torch import nn

BASE, WIDTH = 4, 16
M = WIDTH / BASE


class Kinds(nn.Module):
    """Not for running: the readouts share their inputs' width, and `shared` is tied to `table`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(11, width)
        self.hidden = nn.Linear(width, width)
        self.wide = nn.Linear(width, 4 * width, bias=False)
        self.conv = nn.Conv2d(width, 2 * width, 3, bias=False)
        self.norm = nn.LayerNorm(width)
        self.temperature = nn.Parameter(torch.ones(1))
        self.readout = mup.MuReadout(width, 5)
        self.shared = mup.MuSharedReadout(self.table.weight, bias=False)


# The multipliers on the learning rate by hand, (family "adam", family "sgd"), after Yang et al. 2022, table 8.
MULTIPLIERS = {
    "table.weight": (1.0, M),
    "hidden.weight": (1 / M, 1.0),
    "hidden.bias": (1.0, M),
    "wide.weight": (1 / M, 1.0),
    "conv.weight": (1 / M, 1.0),
    "norm.weight": (1.0, M),
    "norm.bias": (1.0, M),
    "temperature": (1.0, 1.0),
    "readout.weight": (1.0, M),
    "readout.bias": (1.0, 1.0),
    "shared.weight": (1.0, M),
}


def kinds(width: int = WIDTH, dtype: torch.dtype = torch.float32) -> Kinds:
    torch.manual_seed(0)
    model = Kinds(width).to(dtype)
    mup.set_base_shapes(model, Kinds(BASE), delta=Kinds(2 * BASE))
    return model


def named(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by all of their names, a tied one under each."""
    return dict(model.named_parameters(remove_duplicate=False))

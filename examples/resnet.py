"""One's own ResNet under µP with schedule-free AdamW, on made-up images: `python examples/resnet.py`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mufree.optim import MuAdamW_ScheduleFree, evaluating, load_checkpoint, parametrize, save_checkpoint

CLASSES, BASE_WIDTH = 4, 16


class Block(nn.Module):  # noqa: D101
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        return h + self.norms[1](self.second(self.norms[0](self.first(h)).relu())).relu()


def resnet(width: int) -> nn.Sequential:
    """Images [B, 3, H, W] → logits [B, CLASSES]."""
    stem, pool = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(stem, Block(width), Block(width), pool, nn.Flatten(), nn.Linear(width, CLASSES, bias=False))


def make_model(width: int, seed: int) -> nn.Module:
    """Under µP; at `BASE_WIDTH` it is the plain model."""
    return parametrize(resnet, width, BASE_WIDTH, seed=seed)


def make_batch(seed: int) -> tuple[Tensor, Tensor]:
    """A wave in noise; the class is the wave's direction."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, CLASSES, (8,), generator=generator)
    angle, (y, x) = targets[:, None, None] * torch.pi / CLASSES, torch.meshgrid(*2 * [torch.arange(8.0)], indexing="ij")
    wave = torch.sin(1.5 * (x * angle.cos() + y * angle.sin()) + 6.3 * torch.rand(8, 1, 1, generator=generator))
    return wave[:, None] + 0.3 * torch.randn(8, 3, 8, 8, generator=generator), targets


def main(checkpoint: str, width: int = 32, steps: int = 100) -> float:
    """Train, write a checkpoint, load it into a new model for inference; return its loss on new images."""
    model = make_model(width, seed=0)
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=2**-6, warmup_steps=10, weight_decay=0.01, eps=1e-12)
    optimizer.train()
    for step in range(steps):
        inputs, targets = make_batch(step)
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    inputs, targets = make_batch(steps)
    training_images = [make_batch(step)[0] for step in range(20)]
    # At x, the averaged weights, with BatchNorm's statistics at x; inside, the checkpoint has these statistics too.
    with evaluating(optimizer, model, training_images), torch.no_grad():
        print(f"loss at x {F.cross_entropy(model(inputs), targets):.3f} nats, at chance 1.386")
        save_checkpoint(checkpoint, model, optimizer, step=steps)
    loaded = make_model(width, seed=1)
    load_checkpoint(checkpoint, loaded)
    return F.cross_entropy(loaded.eval()(inputs), targets).item()


if __name__ == "__main__":
    main("resnet.pt")

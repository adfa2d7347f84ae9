"""One's own Transformer under µP with schedule-free AdamW, on made-up text: `python examples/transformer.py`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mufree.optim import MuAdamW_ScheduleFree, evaluating, load_checkpoint, parametrize, save_checkpoint

VOCABULARY, CONTEXT, HEAD_DIM, BASE_WIDTH = 32, 8, 16, 32


class Block(nn.Module):  # noqa: D101
    head_dim = (
        HEAD_DIM  # fixed: wider models have more heads, and the scale 1/√d of their scores is right at all widths
    )

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        q, k, v = self.qkv(self.norms[0](h)).unflatten(-1, (3, -1, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        h = h + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return h + self.down(F.gelu(self.up(self.norms[1](h))))


def transformer(width: int) -> nn.Sequential:
    """Tokens [B, CONTEXT] → logits [B, CONTEXT, VOCABULARY]."""
    ends = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)
    return nn.Sequential(nn.Embedding(VOCABULARY, width), Block(width), Block(width), *ends)


def make_model(width: int, seed: int) -> nn.Module:
    """Under µP; at `BASE_WIDTH` it is the plain model."""
    return parametrize(transformer, width, BASE_WIDTH, seed=seed)


def make_batch(seed: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a walk in steps of 1 or 2, so that a token tells the next one to one bit."""
    steps = torch.randint(1, 3, (4, CONTEXT + 1), generator=torch.Generator().manual_seed(seed))
    tokens = steps.cumsum(1) % VOCABULARY
    return tokens[:, :-1], tokens[:, 1:]


def loss_on(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy in nats."""
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def main(checkpoint: str, width: int = 64, steps: int = 100) -> float:
    """Train, write a checkpoint, load it into a new model for inference; return its loss on new text."""
    model = make_model(width, seed=0)
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=2**-6, warmup_steps=10, weight_decay=0.01, eps=1e-12)
    optimizer.train()
    for step in range(steps):
        loss_on(model, make_batch(step)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    with evaluating(optimizer, model), torch.no_grad():  # at x, the averaged weights
        print(f"loss at x {loss_on(model, make_batch(steps)):.3f} nats, at chance 3.466, at best 0.693")
    save_checkpoint(checkpoint, model, optimizer, step=steps)
    loaded = make_model(width, seed=1)
    load_checkpoint(checkpoint, loaded)
    return loss_on(loaded.eval(), make_batch(steps)).item()


if __name__ == "__main__":
    main("transformer.pt")

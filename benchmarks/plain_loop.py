"""What a researcher would write instead of `mufree sweep`: one process trains one run, in eager float32 PyTorch.

    python benchmarks/plain_loop.py MODEL WIDTH LOG2_LR SEED DATA_FOLDER [STEPS]

Nothing of mufree is used but its prepared arrays. Idiomatic, and spared what costs time for no reason: batches are indexed from
a tensor, attention is torch's fused one, the optimizer is `torch.optim.AdamW` with its default kernel, evaluation is as seldom
as in the study that it is compared with, and `mup` is not imported. Models, batches, steps and schedule are those of
`speed.yaml`; initial weights are of the same sizes. Prints the final validation loss and the seconds of the loop.
"""

import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

EVALUATIONS, WARMUP, BETAS, EPS = 20, 0.1, (0.9, 0.99), 1e-12
BATCH = {"gpt": 16, "vit": 32, "mlp": 64, "resnet": 32}
EVAL_EXAMPLES = {"gpt": 64, "vit": 256, "mlp": 256, "resnet": 256}
CONTEXT, DEPTH, HEAD_DIM, PATCH = 64, 3, 16, 4


class Block(nn.Module):
    """Pre-norm block."""

    def __init__(self, width, causal):
        super().__init__()
        self.causal = causal
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        """[B, T, width] → the same."""
        b, t, c = x.shape
        q, k, v = (u.view(b, t, c // HEAD_DIM, HEAD_DIM).transpose(1, 2) for u in self.qkv(self.ln1(x)).split(c, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.proj(y.transpose(1, 2).contiguous().view(b, t, c))
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class GPT(nn.Module):
    """Decoder."""

    def __init__(self, width, classes):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(classes, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, causal=True) for _ in range(DEPTH))
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes, bias=False)

    def forward(self, tokens):
        """Logits."""
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln(x))


class ViT(nn.Module):
    """Vision transformer, mean over patches."""

    def __init__(self, width, classes):
        super().__init__()
        self.patch = nn.Conv2d(3, width, PATCH, PATCH, bias=False)
        self.pos = nn.Parameter(torch.randn((32 // PATCH) ** 2, width) * 0.1)
        self.blocks = nn.ModuleList(Block(width, causal=False) for _ in range(DEPTH))
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        """Logits."""
        x = self.patch(x).flatten(2).transpose(1, 2) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln(x).mean(1))


class MLP(nn.Module):
    """Two hidden layers."""

    def __init__(self, width, classes):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3072, width), nn.Linear(width, width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        """Logits."""
        return self.head(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x):
        """[B, c_in, H, W] → [B, c_out, H/stride, W/stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """Three stages of one block."""

    def __init__(self, width, classes):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(
            BasicBlock(width, width, 1), BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 4 * width, 2)
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x):
        """Logits."""
        return self.head(self.blocks(F.relu(self.bn(self.conv(x)))).mean((2, 3)))


def make_model(name, width, classes):
    """A model whose weights start at the sizes that mufree gives them."""
    model = {"gpt": GPT, "vit": ViT, "mlp": MLP, "resnet": ResNet}[name](width, classes)
    gain = math.sqrt(2) if name in ("mlp", "resnet") else 1.0
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(module.weight, std=gain / math.sqrt(module.weight[0].numel()))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)
        elif isinstance(module, Block):
            nn.init.zeros_(module.qkv.weight[: module.qkv.weight.shape[1]])
    nn.init.zeros_(model.head.weight)
    return model


def load(folder, split, name, normalisation=None):
    """Arrays of a split: tokens as they are, images as normalised float32 [n, 3, 32, 32]."""
    x, y = (np.load(folder / f"{split}_{part}.npy", mmap_mode="r") for part in "xy")
    if name == "gpt":
        return torch.from_numpy(x.astype(np.int64)), torch.from_numpy(y.astype(np.int64))
    images = torch.from_numpy(np.array(x)).permute(0, 3, 1, 2).float() / 255
    mean, std = normalisation or (images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True))
    return (images - mean) / std, torch.from_numpy(np.array(y)), (mean, std)


def batcher(name, folder, seed):
    """A function that draws training batches, and the validation batches."""
    generator = torch.Generator().manual_seed(seed)
    size, examples = BATCH[name], EVAL_EXAMPLES[name]
    if name == "gpt":
        x, y = load(folder, "train", name)
        vx, vy = load(folder, "valid", name)

        def draw():
            rows = torch.randint(len(x) - CONTEXT, (size,), generator=generator).tolist()
            return torch.stack([x[i : i + CONTEXT] for i in rows]), torch.stack([y[i : i + CONTEXT] for i in rows])

        starts = torch.linspace(0, len(vx) - CONTEXT, examples).long().tolist()
        valid = torch.stack([vx[i : i + CONTEXT] for i in starts]), torch.stack([vy[i : i + CONTEXT] for i in starts])
        return draw, valid
    x, y, normalisation = load(folder, "train", name)
    vx, vy, _ = load(folder, "valid", name, normalisation)

    def draw():
        rows = torch.randint(len(x), (size,), generator=generator)
        return x[rows], y[rows]

    rows = torch.randperm(len(vx), generator=torch.Generator().manual_seed(0))[:examples]
    return draw, (vx[rows], vy[rows])


def main(name, width, log2_lr, seed, folder, steps=300):
    """Train one run."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    classes = 512 if name == "gpt" else 10
    model = make_model(name, width, classes)
    draw, (vx, vy) = batcher(name, folder, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2.0**log2_lr, betas=BETAS, eps=EPS, weight_decay=0.0)
    warmup = max(1, round(steps * WARMUP))

    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    start = time.perf_counter()
    for step in range(steps):
        model.train()
        inputs, targets = draw()
        loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
        loss.item()  # for the log
        if (step + 1) % (steps // EVALUATIONS) == 0:
            model.eval()
            with torch.no_grad():
                val_loss = F.cross_entropy(model(vx).flatten(0, -2), vy.flatten()).item()
    print(f"{val_loss:.6f} {time.perf_counter() - start:.3f}")


if __name__ == "__main__":
    model_name, width_, log2_lr_, seed_, folder_, *more = sys.argv[1:]
    main(model_name, int(width_), int(log2_lr_), int(seed_), Path(folder_), *map(int, more))

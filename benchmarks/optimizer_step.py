"""What µP's parameter groups cost: `python benchmarks/optimizer_step.py`.

Prints the time of a step and the memory of the optimizer with our groups over those of the plain AdamWScheduleFree with one
group, on a Transformer of 30 tensors, and the time to build groups for 10,000 tensors. Steps are timed in pairs that alternate,
so that a busy machine slows both; ratios are medians over pairs.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mup
import torch
from schedulefree import AdamWScheduleFree
from torch import nn
from torch.optim import Optimizer

from mufree.optim import MuAdamW_ScheduleFree, mup_param_groups

WIDTH, BASE_WIDTH, PAIRS, STEPS = 512, 64, 40, 4
MAKERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "plain": lambda model: AdamWScheduleFree(model.parameters(), lr=1e-4, weight_decay=0.01),
    "grouped": lambda model: MuAdamW_ScheduleFree(model.parameters(), lr=1e-4, weight_decay=0.01),
}


class Block(nn.Module):
    """The tensors of a Transformer block: six weights and a bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.LayerNorm(width, bias=False),
                nn.Linear(width, 3 * width, bias=False),
                nn.Linear(width, width, bias=False),
                nn.LayerNorm(width, bias=False),
                nn.Linear(width, 2 * width),
                nn.Linear(2 * width, width, bias=False),
            ]
        )


def transformer(width: int) -> nn.Module:
    """30 tensors: a table, four blocks of seven, a readout."""
    blocks = [Block(width) for _ in range(4)]
    return nn.Sequential(nn.Embedding(256, width), *blocks, mup.MuReadout(width, 256, bias=False))


def with_gradients(width: int) -> nn.Module:
    """The Transformer with base shapes and random gradients."""
    torch.manual_seed(0)
    model = transformer(width)
    mup.set_base_shapes(model, transformer(BASE_WIDTH), delta=transformer(2 * BASE_WIDTH))
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    return model


def step_ratios(width: int) -> list[float]:
    """Time of our steps over that of the plain ones, pair by pair, whose order alternates."""
    optimizers = {name: make(with_gradients(width)) for name, make in MAKERS.items()}
    for optimizer in optimizers.values():
        optimizer.train()  # type: ignore[attr-defined]
        optimizer.step()  # makes the state
    ratios = []
    for pair in range(PAIRS):
        seconds = {}
        for name in sorted(optimizers, reverse=bool(pair % 2)):
            start = time.perf_counter()
            for _ in range(STEPS):
                optimizers[name].step()
            seconds[name] = time.perf_counter() - start
        ratios.append(seconds["grouped"] / seconds["plain"])
    return ratios


def peak_memory(name: str) -> int:
    """KiB that the optimizer `name` and three steps add to model and gradients at their peak, in a process of their own."""
    command = [sys.executable, __file__, "--memory-of", name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak_memory(name: str) -> None:
    """What `peak_memory` runs."""
    model = with_gradients(WIDTH)
    before = _resident("VmRSS")
    optimizer = MAKERS[name](model)
    optimizer.train()  # type: ignore[attr-defined]
    for _ in range(3):
        optimizer.step()
    print(_resident("VmHWM") - before)


def _resident(field: str) -> int:
    # Linux. Not getrusage: its peak is inherited from the parent process.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def construction_seconds(tensors: int) -> float:
    """Median time to build µP's groups."""
    shapes = [(8, 8), (8,), (8, 3), (5, 8)]
    model = nn.ParameterList([torch.empty(shapes[i % len(shapes)]) for i in range(tensors)])
    for p in model:
        p.infshape = mup.infshape.InfShape([mup.infshape.InfDim(4 if n == 8 else None, n) for n in p.shape])
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        mup_param_groups(model.parameters(), lr=0.1, weight_decay=0.1)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    """Print all of it."""
    torch.set_num_threads(1)
    tensors = len(list(transformer(8).parameters()))
    for width in (64, WIDTH):
        ratios = step_ratios(width)
        low, median, high = statistics.quantiles(ratios, n=4)
        print(f"step, {tensors} tensors, width {width}: grouped/plain {median:.3f} (quartiles {low:.3f}–{high:.3f})")
    memory = {name: peak_memory(name) for name in MAKERS}
    ratio = memory["grouped"] / memory["plain"]
    print(f"peak memory above model and gradients, width {WIDTH}: grouped/plain {ratio:.3f} (KiB: {memory})")
    print(f"groups of 10,000 tensors: {construction_seconds(10_000):.3f} s")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory-of"]:
        print_peak_memory(sys.argv[2])
    else:
        main()

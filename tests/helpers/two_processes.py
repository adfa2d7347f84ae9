"""One of two processes that train under DDP and FSDP2 with gloo on CPUs: `python two_processes.py RANK FOLDER`.

Writes `ddp.pt`, `fsdp.pt` and `unedited.pt` (rank 0), dicts of what happened.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mup
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mufree.optim import (
    BaseShapesError,
    CheckpointError,
    MuAdamW_ScheduleFree,
    attach_base_shapes,
    base_shapes_of,
    evaluating,
    parametrize,
    save_checkpoint,
)

STEPS = 5


def make(width: int) -> nn.Module:
    hidden = nn.Sequential(nn.Linear(width, width), nn.Tanh())
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), hidden, mup.MuReadout(width, 2))


def network(width: int = 16) -> nn.Module:
    """In float64, so that the order of sums, all that should differ, is far below any tolerance."""
    torch.manual_seed(0)
    return mup.set_base_shapes(make(width), make(4), delta=make(8)).double()


def optimizer_for(model: nn.Module) -> Any:
    return MuAdamW_ScheduleFree(model.parameters(), lr=0.02, weight_decay=0.1, warmup_steps=3)


def data(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return tuple(torch.randn(8, n, generator=generator, dtype=torch.float64) for n in (3, 2))


def trained(model: nn.Module, optimizer: Any, part: slice) -> None:
    """Mean losses of equal parts: the mean of the gradients is the gradient of the whole batch. Looks at x each step."""
    model.train()
    optimizer.train()
    for step in range(STEPS):
        inputs, targets = (tensor[part] for tensor in data(step))
        (model(inputs) - targets).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        with evaluating(optimizer, model):
            model(inputs)


def groups(model: nn.Module, optimizer: Any) -> dict[str, tuple[float, float]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


def weights(model: nn.Module, whole: Callable[[Tensor], Tensor] = Tensor.detach) -> dict[str, Tensor]:
    return {name: whole(p).detach().clone() for name, p in model.named_parameters()}


def ddp(rank: int, folder: Path) -> dict[str, Any]:
    bare = network()
    model = nn.parallel.DistributedDataParallel(bare)
    optimizer = optimizer_for(model)
    result: dict[str, Any] = {"groups": groups(model, optimizer), "saved": base_shapes_of(model)}
    trained(model, optimizer, slice(4 * rank, 4 * rank + 4))
    result["y"] = weights(bare)
    with evaluating(optimizer, model):
        result["x"] = weights(bare)
    if rank == 0:
        save_checkpoint(folder / "checkpoint.pt", model, optimizer)
    fresh = nn.parallel.DistributedDataParallel(make(16))
    attach_base_shapes(fresh, base_shapes_of(network()))
    result["attached"] = groups(fresh, optimizer_for(fresh))
    return result


def fsdp(rank: int, folder: Path) -> dict[str, Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def whole(parameter: Any) -> Tensor:
        tensor: Tensor = parameter.full_tensor()
        return tensor

    model = network()
    shapes = base_shapes_of(model)
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model[2], mesh=mesh)
    fully_shard(model, mesh=mesh)
    result: dict[str, Any] = {}
    try:
        optimizer_for(model)
    except BaseShapesError as error:
        result["without"] = str(error)
    attach_base_shapes(model, shapes)
    attach_base_shapes(model, shapes)  # once more does no harm
    result["local_shapes"] = {name: tuple(p.to_local().shape) for name, p in model.named_parameters()}
    optimizer = optimizer_for(model)
    result["groups"] = groups(model, optimizer)
    trained(model, optimizer, slice(4 * rank, 4 * rank + 4))
    before = [p.to_local().clone() for p in model.parameters()]
    with evaluating(optimizer, model):
        result["x"] = weights(model, whole)
        # What the forward pass gathers is x too, though the last one before was at y.
        result["output"] = model(data(0)[0]).detach()
    result["y"] = weights(model, whole)
    result["output_y"] = model(data(0)[0]).detach()
    model.reshard()
    result["restored"] = all(torch.equal(p.to_local(), was) for p, was in zip(model.parameters(), before, strict=True))
    try:
        save_checkpoint(folder / "sharded.pt", model, optimizer)
    except CheckpointError as error:
        result["save"] = str(error)
    return result


class Unedited(nn.Module):
    """A tied weight, with its multiplier in a hook, and attention whose head dimension grows, with its scale in another."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(8, width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.head = nn.Linear(width, 8)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.tokens(tokens)
        logits: Tensor = self.head(h + self.attention(h, h, h, need_weights=False)[0])
        return logits


def unedited() -> dict[str, Tensor]:
    """Outputs at x of the same training alone, under DDP and under FSDP2; each process has the whole batch."""
    from torch.distributed.fsdp import fully_shard

    def sharded(model: nn.Module) -> nn.Module:
        shapes = base_shapes_of(model)
        fully_shard(model)
        attach_base_shapes(model, shapes)
        return model

    tokens = torch.arange(8).view(2, 4)
    outputs = {}
    for name, wrapped in (("alone", nn.Sequential), ("ddp", nn.parallel.DistributedDataParallel), ("fsdp", sharded)):
        model = wrapped(parametrize(Unedited, 32, 8, seed=0).double())
        optimizer = optimizer_for(model)
        optimizer.train()
        for _ in range(STEPS):
            model(tokens).flip(0).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        with evaluating(optimizer, model), torch.no_grad():
            outputs[name] = model(tokens)
    return outputs


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for name, run in (("ddp", lambda: ddp(rank, folder)), ("fsdp", lambda: fsdp(rank, folder)), ("unedited", unedited)):
        try:
            result = run()
        except Exception:
            result = {"error": traceback.format_exc()}
        if rank == 0:
            torch.save(result, folder / f"{name}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

"""Networks of the same shapes side by side: weights are [N, ...]; `torch.vmap` calls the ordinary model for all N."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mup import MuReadout
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from mufree.lab.data.batches import Batch
from mufree.lab.models import kernels
from mufree.lab.parametrization import layer_types
from mufree.lab.train.evaluate import cross_entropy
from mufree.lab.train.network import by_layer, make_model, make_optimizer
from mufree.lab.train.updates import Weights
from mufree.study.plan import Run

Log = NDArray[np.float64]


class Networks:
    """The networks of N runs as they start, with the learning rate and the weight decay, [N], of each weight.

    Drawn on the CPU; runs that start alike are drawn once.
    """

    def __init__(self, runs: Sequence[Run], classes: int, device: torch.device) -> None:
        self.count, self.device = len(runs), device
        drawn: dict[tuple[int, str], list[int]] = {}
        for place, run in enumerate(runs):
            drawn.setdefault((run.seed, run.method.parametrization), []).append(place)
        for places in drawn.values():
            model = make_model(runs[places[0]], classes)
            if 0 in places:
                self._allocate(model)
            self._check_alike(model)
            at = torch.tensor(places, device=device)
            for kind, tensors in ((self.weights, model.named_parameters()), (self.buffers, model.named_buffers())):
                for name, tensor in tensors:
                    kind[name].data[at] = tensor.detach().to(device)
            for name, module in _readouts(model).items():
                self.readout_scales[name][at] = float(module.output_mult) / float(module.width_mult())
            names = {id(p): name for name, p in model.named_parameters()}
            for place in places:
                for group in make_optimizer(runs[place], model).param_groups:
                    for name in (names[id(p)] for p in group["params"]):
                        self.rates[name][place], self.decays[name][place] = group["lr"], group["weight_decay"]

    def _allocate(self, model: nn.Module) -> None:
        def stacked(tensor: Tensor) -> Tensor:
            return torch.empty(self.count, *tensor.shape, dtype=tensor.dtype, device=self.device)

        def columns(names: Mapping[str, Any]) -> Weights:
            return {name: torch.ones(self.count, device=self.device) for name in names}

        self.weights = {name: stacked(p.detach()).requires_grad_() for name, p in model.named_parameters()}
        self.buffers = {name: stacked(b) for name, b in model.named_buffers()}
        self.rates, self.decays = columns(self.weights), columns(self.weights)
        types = layer_types(model)
        self.layers = by_layer(types, {name: name for name in types})
        # A weight that vmap puts in a readout's place has no base shape. Its multiplier differs from run to run, and is applied
        # to the weight, so that the network itself has none.
        self.readout_scales = columns(_readouts(model))
        self.network = copy.deepcopy(model).to(self.device)
        for module in _readouts(self.network).values():
            module.output_mult = 1.0
            vars(module)["width_mult"] = lambda: 1.0
        self.batchnorms = [module for module in self.network.modules() if isinstance(module, _BatchNorm)]

    def _check_alike(self, model: nn.Module) -> None:
        for (name, mine), other in zip(self.network.named_modules(), model.modules(), strict=True):
            if getattr(mine, "scale", None) != getattr(other, "scale", None):
                raise ValueError(f"attention's scale in {name} differs between runs, which can't share a stack then")

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Training loss of every network, [N], on batches of its own, [N, ...]."""

        def loss(network: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(network(x), y)

        losses: Tensor = self._each(loss, self.weights, self.buffers, inputs, targets, own=True)
        return losses

    def score(self, weights: Weights, buffers: Weights, batches: Sequence[Batch]) -> tuple[Log, Log]:
        """Mean loss and accuracy of every network on the same batches, [N] each."""

        def score(network: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            logits = network(inputs)
            return cross_entropy(logits, targets), (logits.argmax(-1) == targets).sum()

        self.network.eval()
        totals = torch.zeros(2, self.count, dtype=torch.float64, device=self.device)
        for inputs, targets in batches:
            losses, right = self._each(score, weights, buffers, inputs, targets, own=False)
            totals += torch.stack([losses.double() * targets.numel(), right.double()])
        loss, accuracy = (totals / sum(targets.numel() for _, targets in batches)).cpu().numpy()
        return loss, accuracy

    def statistics_at(self, weights: Weights, batches: Sequence[Tensor], of: Tensor) -> Weights:
        """The buffers, with BatchNorm's statistics at some weights: the mean over batches of inputs.

        A batch is [S, B, ...], of which network n takes number `of[n]`.
        """
        if not self.batchnorms:
            return self.buffers
        totals = {name: torch.zeros_like(b) for name, b in self.buffers.items()}
        momenta = [module.momentum for module in self.batchnorms]
        self.network.eval()
        for module in self.batchnorms:
            module.train()
            module.momentum = 1.0  # a batch's own statistics
        for inputs in batches:
            of_batch = {name: torch.zeros_like(b) for name, b in self.buffers.items()}
            self._each(lambda network, x: network(x), weights, of_batch, inputs.index_select(0, of), own=True)
            for name, total in totals.items():
                total.add_(of_batch[name])
        for module, momentum in zip(self.batchnorms, momenta, strict=True):
            module.momentum = momentum
        return {name: t / len(batches) if t.is_floating_point() else t for name, t in totals.items()}

    def rms(self, tensors: Weights) -> Tensor:
        """Root mean square of tensors that weights have by name, by layer type and network, [L, N]."""
        return torch.stack(
            [
                total_norm(tensors[name] for name in names) / math.sqrt(sum(tensors[name][0].numel() for name in names))
                for names in self.layers.values()
            ]
        )

    def _each(self, function: Callable[..., Any], weights: Weights, buffers: Weights, *batch: Tensor, own: bool) -> Any:
        """`function(network, *batch)` for every network: all of them the same batch, or each its `own` of [N, ...]."""

        def of_one(mine: Weights, kept: Weights, scales: Weights, *inputs: Tensor) -> Any:
            scaled = mine | {name: mine[name] * scale for name, scale in scales.items()}
            return function(lambda h: functional_call(self.network, (scaled, kept), (h,)), *inputs)

        in_dims = (0, 0, 0, *(0 if own else None for _ in batch))
        with kernels.side_by_side():
            return torch.vmap(of_one, in_dims=in_dims)(weights, buffers, self.readout_scales, *batch)


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of every network's part of some tensors together, [N, ...] each → [N]."""
    norms: Tensor = torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(tensor.flatten(1), dim=1) for tensor in tensors]), dim=0
    )
    return norms


def _readouts(model: nn.Module) -> dict[str, MuReadout]:
    """Readouts by the name of their weight."""
    return {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, MuReadout)}

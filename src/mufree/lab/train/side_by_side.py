"""Networks of the same shapes side by side: weights are [N, ...]; `torch.vmap` calls the ordinary model for all N.

A batch is a tensor, or tensors in tuples, lists and dicts.
"""

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
from torch.utils import _pytree as trees

from mufree.lab.models import kernels
from mufree.lab.train.compiled import compiled
from mufree.lab.train.evaluate import Objective
from mufree.lab.train.network import by_layer, make_optimizer
from mufree.lab.train.updates import Weights

Log = NDArray[np.float64]


class Networks:
    """The networks of N runs as they start, with the learning rate and the weight decay, [N], of each weight.

    `make` draws a run's model on the CPU; runs that start alike are drawn once.
    """

    def __init__(
        self,
        runs: Sequence[Any],
        make: Callable[[Any], nn.Module],
        device: torch.device,
        objective: Objective,
    ) -> None:
        self.count, self.device, self.objective = len(runs), device, objective
        drawn: dict[tuple[int, str], list[int]] = {}
        for place, run in enumerate(runs):
            drawn.setdefault((run.seed, run.method.parametrization), []).append(place)
        for places in drawn.values():
            model = make(runs[places[0]])
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

        self.weights = {
            name: stacked(p.detach()).requires_grad_(p.requires_grad) for name, p in model.named_parameters()
        }
        self.buffers = {name: stacked(b) for name, b in model.named_buffers()}
        self.rates, self.decays = columns(self.weights), columns(self.weights)
        types = self.objective.layers(model)
        self.layers = by_layer(types, {name: name for name in types})
        # A weight that vmap puts in a readout's place has no base shape. Its multiplier differs from run to run, and is applied
        # to the weight, so that the network itself has none.
        self.readout_scales = columns(_readouts(model))
        self.network = copy.deepcopy(model).to(self.device)
        for module in _readouts(self.network).values():
            module.output_mult = 1.0
            vars(module)["width_mult"] = lambda: 1.0
        self.called = _Called(self.network)
        batchnorms = {
            name: module
            for name, module in self.network.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        }
        self.batchnorms = list(batchnorms.values())
        self.statistics = {
            f"{name}.{own}".lstrip(".") for name, module in batchnorms.items() for own, _ in module.named_buffers()
        }

    def _check_alike(self, model: nn.Module) -> None:
        for (name, mine), other in zip(self.network.named_modules(), model.modules(), strict=True):
            scales = [getattr(module, "scale", None) for module in (mine, other)]
            if not any(isinstance(scale, Tensor) for scale in scales) and scales[0] != scales[1]:
                raise ValueError(f"attention's scale in {name} differs between runs, which can't share a stack then")

    def losses(self, batches: Any) -> Tensor:
        """Training loss of every network, [N], on batches of its own, [N, ...]."""
        with kernels.side_by_side():
            return self._losses(self.weights, self.buffers, batches)

    def _losses(self, weights: Weights, buffers: Weights, batches: Any) -> Tensor:
        losses: Tensor = self._mapped(self.objective.loss, weights, buffers, batches, own=True)
        return losses

    def compile(self) -> None:
        """From now on compute training losses and their gradients by kernels that torch writes for them."""
        self._losses = compiled(self._losses, "a stack's losses")  # type: ignore[method-assign]

    def gradients(self, losses: Tensor) -> Weights:
        """Those of every network's weights, but for weights that the losses don't depend on."""
        trained = {name: weight for name, weight in self.weights.items() if weight.requires_grad}
        found = torch.autograd.grad(losses.sum(), list(trained.values()), allow_unused=True)
        seen: set[int] = set()
        gradients = {}
        for name, gradient in zip(trained, found, strict=True):
            if gradient is not None:  # biases that are added up have one gradient, and steps overwrite it
                gradients[name] = gradient.clone() if gradient.data_ptr() in seen else gradient
                seen.add(gradient.data_ptr())
        return gradients

    def score(self, weights: Weights, buffers: Weights, batches: Sequence[Any]) -> tuple[Log, Log]:
        """Mean loss and accuracy of every network on the same batches, [N] each."""
        self.network.eval()
        totals, count = torch.zeros(2, self.count, dtype=torch.float64, device=self.device), 0
        for batch in batches:
            losses, right = self._each(self.objective.judged, weights, buffers, batch, own=False)
            part = self.objective.count(batch)
            totals, count = totals + torch.stack([losses.double() * part, right.double()]), count + part
        loss, accuracy = (totals / count).cpu().numpy()
        return loss, accuracy

    def statistics_at(self, weights: Weights, batches: Sequence[Any], of: Tensor) -> Weights:
        """The buffers, with BatchNorm's statistics at some weights: the mean over batches.

        A batch is [S, B, ...], of which network n takes number `of[n]`.
        """
        if not self.batchnorms:
            return self.buffers
        totals = {name: torch.zeros_like(b) for name, b in self.buffers.items() if name in self.statistics}
        momenta = [module.momentum for module in self.batchnorms]
        self.network.eval()
        for module in self.batchnorms:
            module.train()
            module.momentum = 1.0  # a batch's own statistics
        for batch in batches:
            of_batch = self.buffers | {name: torch.zeros_like(total) for name, total in totals.items()}
            self._each(self.objective.loss, weights, of_batch, taken(batch, of), own=True)
            for name, total in totals.items():
                total.add_(of_batch[name])
        for module, momentum in zip(self.batchnorms, momenta, strict=True):
            module.momentum = momentum
        return self.buffers | {name: t / len(batches) if t.is_floating_point() else t for name, t in totals.items()}

    def rms(self, tensors: Weights) -> Tensor:
        """Root mean square of tensors that weights have by name, by layer type and network, [L, N]."""
        return torch.stack(
            [
                total_norm(parts) / math.sqrt(sum(part[0].numel() for part in parts))
                for names in self.layers.values()
                if (parts := [tensors[name] for name in names if name in tensors])
            ]
        )

    def _each(self, function: Callable[..., Any], weights: Weights, buffers: Weights, batch: Any, *, own: bool) -> Any:
        """`function(network, batch)` for every network: all of them the same batch, or each its `own` of [N, ...]."""
        with kernels.side_by_side():
            return self._mapped(function, weights, buffers, batch, own=own)

    def _mapped(
        self, function: Callable[..., Any], weights: Weights, buffers: Weights, batch: Any, *, own: bool
    ) -> Any:
        def of_one(mine: Weights, kept: Weights, scales: Weights, part: Any) -> Any:
            scaled = mine | {name: mine[name] * scale for name, scale in scales.items()}
            tensors = {f"network.{name}": tensor for name, tensor in (scaled | kept).items()}
            return functional_call(self.called, tensors, (function, part))

        return torch.vmap(of_one, in_dims=(0, 0, 0, 0 if own else None))(weights, buffers, self.readout_scales, batch)


class _Called(nn.Module):
    """Lets a function call a network that has other weights meanwhile, in any way that the network allows."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, function: Callable[[nn.Module, Any], Any], batch: Any) -> Any:
        return function(self.network, batch)


def taken(batches: Any, places: Tensor) -> Any:
    """Of batches [S, ...] those at some places, [N, ...]."""
    return trees.tree_map(lambda part: part.index_select(0, places), batches)


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of every network's part of some tensors together, [N, ...] each → [N]."""
    norms: Tensor = torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(tensor.flatten(1), dim=1) for tensor in tensors]), dim=0
    )
    return norms


def _readouts(model: nn.Module) -> dict[str, MuReadout]:
    """Readouts by the name of their weight."""
    return {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, MuReadout)}

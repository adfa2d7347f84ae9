"""What the modules of a model show in a forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mufree.lab.coordcheck.calls import first_tensor


class Seen(NamedTuple):
    """What one call of a module shows: output, relative representation change or NaN, and for a readout that does not start at
    zero what it has learnt, of the output's shape."""

    output: Tensor
    relative: float
    learnt: Tensor | None


class Recorder:
    """Watches the modules in `layers`, layer types by name, of a model that has its initial weights.

    `pull` has |∂loss/∂h| of the last backward pass, for the outputs h of readouts that don't start at zero.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, str]) -> None:
        self._modules = {name: model.get_submodule(name) for name in layers}
        self._weights = {name: w.detach().clone() for name, m in self._modules.items() if (w := _weight(m)) is not None}
        self._initial = {
            name: _copies(module)
            for name, module in self._modules.items()
            if layers[name] == "readout" and any(p.any() for p in module.parameters())
        }
        self._devices = sorted({p.get_device() for p in model.parameters() if p.is_cuda})
        self._looking_back = False
        self.pull: dict[str, Tensor] = {}

    def quietly(self) -> Any:
        """A context that gives the random state back as it was."""
        return torch.random.fork_rng(self._devices)

    @contextmanager
    def recorded(self) -> Iterator[dict[str, Seen]]:
        """What modules show in the forward passes within, by name; in later calls under `name#1`, `name#2`, …

        A call whose output has no floating-point tensor is left out.
        """
        seen: dict[str, Seen] = {}
        handles = [handle for name in self._modules for handle in self._watch(name, seen)]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def _watch(self, name: str, seen: dict[str, Seen]) -> Iterator[Any]:
        """Put hooks on a module that write into `seen`; yield their handles."""
        module, calls = self._modules[name], 0
        called: list[Any] = []

        def before(_: nn.Module, args: Any, kwargs: Any) -> None:
            if not self._looking_back:
                called[:] = args, kwargs, self._random_state()

        def after(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            nonlocal calls
            if self._looking_back:
                return
            h = first_tensor(output)
            if h is not None:
                call = f"{name}#{calls}" if calls else name
                relative = _relative_change(module, (*args, *kwargs.values()), self._weights.get(name))
                learnt = self._learnt(name, h, *called) if name in self._initial else None
                # A copy: a ReLU in place may follow.
                seen[call] = Seen(h.detach().float().clone(), relative, learnt)
                if learnt is not None and h.requires_grad:
                    h.register_hook(partial(self._keep_pull, call))  # type: ignore[no-untyped-call]
            calls += 1

        if name in self._initial:
            # The first of all hooks, so that it has the inputs as they were before any other hook.
            yield module.register_forward_pre_hook(before, prepend=True, with_kwargs=True)
        yield module.register_forward_hook(after, with_kwargs=True)

    def _keep_pull(self, call: str, gradient: Tensor) -> None:
        self.pull[call] = gradient.float().abs()

    @torch.no_grad()
    def _learnt(self, name: str, output: Tensor, args: Any, kwargs: Any, random: list[Tensor]) -> Tensor:
        """(W_t − W_0)·x_t: the output less that of the initial parameters for the same inputs and random numbers.

        The module is called again, with all of its hooks: so what it, or a hook, multiplies its input or output by is in both.
        """
        self._looking_back = True
        try:
            with self.quietly():
                torch.set_rng_state(random[0])
                for device, state in zip(self._devices, random[1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
                before = first_tensor(functional_call(self._modules[name], self._initial[name], args, kwargs))
        finally:
            self._looking_back = False
        assert before is not None
        return output.detach().float() - before.float()

    def _random_state(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._devices)]


def _copies(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a module's parameters, with the attributes that they carry: `mup.MuReadout` asks its weight's `infshape`."""
    copies = {}
    for name, p in module.named_parameters():
        copies[name] = p.detach().clone()
        vars(copies[name]).update(vars(p))
    return copies


def _weight(module: nn.Module) -> Tensor | None:
    """The weight of a module that is linear in its input but for a bias; None for others."""
    return module.weight if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding) else None


def _relative_change(module: nn.Module, arguments: tuple[Any, ...], initial: Tensor | None) -> float:
    """‖ΔW·X‖ / ‖W·X‖ of a module whose first argument is X and whose weight W was `initial`; NaN where both are zero."""
    inputs = next((each for each in arguments if isinstance(each, Tensor)), None)
    weight = _weight(module)
    # A look-up's inputs are indices, a product's are not: a class of one's own may take something else first.
    if inputs is None or weight is None or initial is None:
        return math.nan
    if inputs.is_floating_point() == isinstance(module, nn.Embedding):
        return math.nan

    def product(kernel: Tensor) -> Tensor:
        if isinstance(module, nn.Conv2d):
            convolved: Tensor = module._conv_forward(inputs, kernel, None)
            return convolved
        return F.embedding(inputs, kernel) if isinstance(module, nn.Embedding) else F.linear(inputs, kernel)

    with torch.no_grad():
        # Numbers that the inputs are multiplied by before, as µP's readout does, cancel.
        return float(product(weight - initial).norm() / product(weight).norm())

"""Optimizers that stay scaled: groups that are added later, rates that are written, state dicts, copies and pickles."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch.optim import Optimizer

from mufree.optim.evaluation import is_schedule_free, remember, snapshots_at_x
from mufree.optim.groups import Params
from mufree.optim.rates import Group, Rates


def keep_scaled(optimizer: Any, scaling: Callable[[Params], list[dict[str, Any]]] | None) -> None:
    """Make an optimizer with µP's groups watch their ratios, and scale the groups that `add_param_group` gets.

    `scaling` makes groups of those; without one, `add_param_group` takes only what `mup_param_groups` made. It is pickled with
    the optimizer. An optimizer that is kept already stays as it is.
    """
    if isinstance(optimizer, Scaled) or not isinstance(optimizer, Optimizer):  # a function may have made a wrapper
        return
    optimizer.__class__ = _scaled_class(type(optimizer))
    assert isinstance(optimizer, Scaled)
    optimizer._scaling = scaling
    optimizer._keep()


class Scaled(Optimizer):
    """What `keep_scaled` puts before an optimizer's own class.

    It is a class, and no hooks, since torch drops an optimizer's hooks when it is copied or pickled.
    """

    _scaling: Callable[[Params], list[dict[str, Any]]] | None
    _rates: Rates
    wrapped = False
    """Whether it is the base of a schedule-free wrapper."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, which become one group for each multiplier, as in the constructor and with its settings.

        `lr`, `weight_decay` and others in `param_group` stand for the constructor's. Groups from `mup_param_groups` are added
        as they are. A schedule-free optimizer's new groups are in its mode, with a warm-up and an average of their own.
        All or nothing is added. Raises as `mup_param_groups` and torch do, and RuntimeError inside `evaluating`.
        """
        if any(self in (taken.optimizer, getattr(taken.optimizer, "base", None)) for taken in snapshots_at_x()):
            raise RuntimeError("add_param_group inside `with evaluating(...)`. Leave the context first.")
        before = list(self.param_groups)
        family = 1 + max(group["split_from"] for group in before)
        try:
            for group in self._scaled(param_group):
                super().add_param_group(group | {"split_from": family + group["split_from"]})
        except BaseException:
            self.param_groups[:] = before
            raise
        # A parameter without state is its own x and y. In the other mode, schedulefree would leave it at y in eval().
        if "train_mode" in before[0]:
            for group in self.param_groups[len(before) :]:
                group["train_mode"] = before[0]["train_mode"]
        self._keep(unseen=True)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """A step of the optimizer's own, at rates that are in µP's ratios."""
        self._rates.settle()
        step: Any = super().step
        if "torch._dynamo" in sys.modules:  # importing it takes seconds, and unless it is, nothing is compiled
            step = functools.partial(_uncompiled(step.__func__), self)
        if not self.wrapped:
            return step(*args, **kwargs)
        with _wrappers_state_hidden(self.state):
            return step(*args, **kwargs)

    # torch wraps the step of each class in what runs its hooks, unless this says that it is wrapped: here, the one below is.
    step.hooked = True  # type: ignore[attr-defined]
    step._torchdynamo_disable = True  # type: ignore[attr-defined]

    def _scaled(self, param_group: dict[str, Any]) -> list[dict[str, Any]]:
        if "lr_multiplier" in param_group:
            return [param_group | {"split_from": 0}]
        if self._scaling is None:
            raise ValueError(
                "How this optimizer's groups were scaled isn't known here. Add each of mup_param_groups([{'params': ...}], "
                "lr=..., weight_decay=..., ...)."
            )
        return self._scaling([param_group])

    def _keep(self, unseen: bool = False) -> None:
        """Watch the groups there are."""
        warned = "_rates" in vars(self) and self._rates.warned
        groups = [Group({"split_from": place} | group) for place, group in enumerate(self.param_groups)]
        self.param_groups = [*groups]  # a new list, as copy.copy shares the old one
        self._rates = Rates(groups, unseen, warned)
        if is_schedule_free(self):
            remember(self)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_scaling": self._scaling, "wrapped": self.wrapped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # load_state_dict comes here too, maybe with the state of an optimizer that isn't µP's.
        before = vars(self).get("param_groups", [])
        super().__setstate__(state)
        for group, earlier in zip(self.param_groups, before, strict=False):
            for key in ("lr_multiplier", "split_from"):
                group.setdefault(key, earlier[key])
        self._keep(unseen=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self).__mro__[2],), self.__getstate__()


_CLASSES: dict[type[Any], type[Any]] = {}


def _scaled_class(kind: type[Any]) -> type[Any]:
    """`kind` with `Scaled` before it, under its own name: in messages and checkpoints it is what it was."""
    if kind not in _CLASSES:
        own = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
        _CLASSES[kind] = type(kind.__name__, (Scaled, kind), own | {"step": _step_like(kind)})
    return _CLASSES[kind]


def _step_like(kind: type[Any]) -> Callable[..., Any]:
    """`Scaled.step` with the signature that the step of `kind` has: whether it wants a closure is read from that."""
    own = Scaled.step
    # A copy, and no function around it, so that warnings name the line of the user that stepped.
    step = FunctionType(own.__code__, own.__globals__, own.__name__, own.__defaults__, own.__closure__)
    functools.update_wrapper(step, kind.step)
    vars(step).update(vars(own))
    return step


@contextmanager
def _wrappers_state_hidden(state: dict[Any, dict[str, Any]]) -> Iterator[None]:
    """Hide a wrapper's z from its base, most of which make their state in their first step, and only where they find none."""
    held = {weight: dict(kept) for weight, kept in state.items() if kept and kept.keys() <= {"x", "y", "z"}}
    for weight in held:
        state[weight].clear()
    try:
        yield
    finally:
        for weight, kept in held.items():
            state[weight].update(kept)


@functools.cache
def _uncompiled(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step that torch.compile leaves alone. It knows groups that are plain dicts only, and would end in an error."""
    disabled: Callable[..., Any] = torch.compiler.disable(step)  # type: ignore[no-untyped-call]
    return disabled


def _restored(kind: type[Any]) -> Any:
    return object.__new__(_scaled_class(kind))

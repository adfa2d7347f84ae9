"""Evaluation at x: the weights that a schedule-free optimizer averages, and BatchNorm's statistics at them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from mufree.optim.batches import Forward, run_on

Optimizers = Optimizer | Sequence[Optimizer]
"""The one that trains a model, or those that share its parameters among them."""


def is_schedule_free(optimizer: Optimizer) -> bool:
    """Whether the optimizer keeps two sets of weights, y to train at and x to evaluate at, and switches between them.

    False for the closure variants of `schedulefree`: their weights are at y within `step` alone, and at x otherwise.
    """
    optimizer = unwrapped(optimizer)  # accelerate's wrapper has train() and eval() whatever is inside
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


class evaluating(AbstractContextManager[None]):  # noqa: N801 (used like a function)
    """`with evaluating(optimizer, model):` puts the model in eval mode and a schedule-free optimizer's weights at x.

    Several optimizers that share the model's parameters among them are given as a list. One that was left out and is at y is
    warned of, once, if it was made here.

    `batches` are model inputs, such as a data loader gives (`recompute_batchnorm`, which `forward` is for too), by which
    BatchNorm's statistics are computed anew at x: those that training collected belong to y. Without them, a BatchNorm layer
    that is evaluated at x warns, once for each optimizer. Where nothing has been averaged, that is with other optimizers,
    this is `model.eval()` and `batches` is not read.

    Afterwards, also after an exception, everything has the bits it had: weights, buffers, each module's train or eval flag
    and the optimizer's mode. (The optimizers' own `eval()` and `train()` interpolate there and back, which changes bits, so
    that how often one looks would change what is trained.) Costs a copy of weights and buffers while it lasts.

    Contexts nest. Raises RuntimeError when one context object is entered a second time, when the optimizer steps inside, and
    when the optimizer's groups are in different modes; ValueError when an optimizer has no parameter of the model.
    """

    def __init__(
        self,
        optimizer: Optimizers,
        model: nn.Module,
        batches: Iterable[Any] | None = None,
        forward: Forward | None = None,
    ) -> None:
        self._entered = False
        self._context = _evaluating(listed(optimizer), model, batches, forward)

    def __enter__(self) -> None:
        if self._entered:
            raise RuntimeError(
                "This evaluating(...) has been entered before. Write `with evaluating(optimizer, model):` anew each time; "
                "such contexts may nest."
            )
        self._entered = True
        self._context.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self._context.__exit__(*error)


@contextmanager
def _evaluating(
    optimizers: list[Optimizer], model: nn.Module, batches: Iterable[Any] | None, forward: Forward | None
) -> Iterator[None]:
    check_covered(optimizers, model)
    averaging = [optimizer for optimizer in optimizers if averages(optimizer)]
    if not averaging:
        with flags_kept(model):
            model.eval()
            yield
        return
    said = (
        "A model with BatchNorm is evaluated at x with statistics that were collected at y. Give evaluating(optimizer, "
        "model, batches) some training inputs, to compute them anew."
    )
    with at_average(averaging[0], averaging, model, batches, forward, said):
        yield


@contextmanager
def at_average(
    owner: Any,
    optimizers: Sequence[Optimizer],
    model: nn.Module,
    batches: Iterable[Any] | None,
    forward: Forward | None,
    said: str,
    average: list[Tensor] | None = None,
) -> Iterator[None]:
    """Put a model in eval mode, and the weights of its optimizers at x, or those of one at the `average` that is given.

    BatchNorm's statistics are computed anew from the `batches`. Without them, a layer that is evaluated warns by what is
    `said`, once for each `owner` of an average.
    """
    inner = any(training_snapshot(optimizer) is not None for optimizer in optimizers)
    with flags_kept(model), ExitStack() as within:
        for optimizer in optimizers:
            within.enter_context(weights_at_x(optimizer, model))
        if average is not None:
            with torch.no_grad():
                torch._foreach_copy_(weights_of(optimizers[0]), average)
        if batches is not None:
            recompute_batchnorm(model, batches, forward)
        elif not inner:
            within.enter_context(_batchnorm_watched(owner, batchnorm_layers(model), said))
        model.eval()
        yield


@torch.no_grad()
def recompute_batchnorm(model: nn.Module, batches: Iterable[Any], forward: Forward | None = None) -> None:
    """Set BatchNorm's running statistics to the mean over `batches` at the weights as they are.

    A batch is a tensor, a tuple or list that begins with one, such as (inputs, targets), or a dict of inputs by name; for
    others, `forward(model, batch)` runs the model (`batches.run_on`).

    Everything but BatchNorm is in eval mode meanwhile, as it will be when the statistics are used: dropout would blur them,
    and draw random numbers that training would then miss. Frozen layers, those in eval mode while `model` is in train mode,
    are left alone; in a model that is itself in eval mode, none counts as frozen. Modes are left as they were. A model
    without BatchNorm isn't run at all.

    Raises ValueError if there are layers to compute and no batch, and TypeError for batches of another kind.
    """
    layers = batchnorm_layers(model)
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    count = 0
    with flags_kept(model):
        model.eval()
        try:
            for layer in layers:
                layer.train()
                layer.reset_running_stats()
                layer.momentum = None  # a cumulative mean
            for batch in batches:
                run_on(model, batch, forward)
                count += 1
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
    if count == 0:
        raise ValueError("There is no batch to compute BatchNorm's statistics from; was an iterator used up before?")


@dataclass(frozen=True)
class Snapshot:
    """What training continues from: an optimizer's weights and mode, a model's buffers. All tensors are copies."""

    optimizer: Optimizer
    weights: list[Tensor]
    """In the order of the optimizer's groups."""
    train_mode: bool | None
    """None for an optimizer without modes."""
    buffers: list[tuple[nn.Module, str, Tensor, Tensor]]
    """Owner, name, the tensor itself and a copy of it."""
    with_state: set[Tensor]

    @classmethod
    def take(cls, optimizer: Optimizer, model: nn.Module) -> Snapshot:
        """A snapshot of both as they are."""
        return cls(
            optimizer=optimizer,
            weights=[p.detach().clone() for p in weights_of(optimizer)],
            train_mode=train_mode(optimizer),
            buffers=[
                (module, name, buffer, buffer.detach().clone())
                for module in model.modules()
                for name, buffer in module.named_buffers(recurse=False)
            ],
            with_state=set(optimizer.state),
        )

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back, to the bit."""
        set_train_mode(self.optimizer, self.train_mode)
        for parameter, value in zip(weights_of(self.optimizer), self.weights, strict=True):
            parameter.copy_(value)
        for module, name, buffer, value in self.buffers:
            now = getattr(module, name, None)
            # A cache that has grown (positions, masks) belongs to attributes that remember its length.
            if isinstance(now, Tensor) and now.shape == value.shape:
                buffer.copy_(value)
                setattr(module, name, buffer)
        # Their eval() looks every parameter up in a defaultdict, which leaves empty entries in state dicts.
        for parameter in set(self.optimizer.state) - self.with_state:
            del self.optimizer.state[parameter]


# For each optimizer whose weights are at x for a while: what training will continue from.
_AT_X: WeakKeyDictionary[Optimizer, Snapshot] = WeakKeyDictionary()


def training_snapshot(optimizer: Optimizer) -> Snapshot | None:
    """What training will continue from, while `weights_at_x` holds; None outside."""
    return _AT_X.get(optimizer)


def snapshots_at_x() -> list[Snapshot]:
    """All that hold just now, the outermost first."""
    return list(_AT_X.values())


@contextmanager
def weights_at_x(optimizer: Optimizer, model: nn.Module) -> Iterator[Snapshot]:
    """Put the weights of an averaging optimizer at x; restore weights, buffers and mode to the bit. Stepping is refused.

    Gives what training will continue from.
    """
    snapshot = Snapshot.take(optimizer, model)
    outermost = _AT_X.setdefault(optimizer, snapshot)
    try:
        with _step_refused(optimizer):
            if is_schedule_free(optimizer):
                optimizer.eval()  # type: ignore[attr-defined]
            _drop_copies_of_weights(model)
            yield outermost
    finally:
        snapshot.restore()
        _drop_copies_of_weights(model)
        if outermost is snapshot:
            del _AT_X[optimizer]


def _drop_copies_of_weights(model: nn.Module) -> None:
    """Drop what doesn't see weights change: autocast's casts, kept until its region ends, and FSDP2's gathered weights, which
    the root module keeps after a forward pass without a backward one."""
    torch.clear_autocast_cache()
    for module in model.modules():
        reshard = getattr(module, "reshard", None)
        if callable(reshard) and hasattr(module, "unshard"):
            reshard()


def listed(optimizers: Optimizers) -> list[Optimizer]:
    """One or several as a list, unwrapped. Raises ValueError for none, and for one that is given twice."""
    found = [unwrapped(each) for each in (optimizers if isinstance(optimizers, list | tuple) else [optimizers])]
    if not found or len({id(optimizer) for optimizer in found}) < len(found):
        raise ValueError(f"Give one optimizer, or several different ones in a list, got {len(found)} of them.")
    return found


def unwrapped(optimizer: Any) -> Any:
    """The optimizer inside of accelerate's and Lightning's wrappers, which keep it as `.optimizer` and show its groups."""
    while (inner := getattr(optimizer, "optimizer", None)) is not None and hasattr(inner, "param_groups"):
        if inner.param_groups is not optimizer.param_groups:
            break
        optimizer = inner
    return optimizer


# The schedule-free optimizers that were made here, and those that a warning has named.
_MADE: WeakSet[Any] = WeakSet()
_NAMED: WeakSet[Any] = WeakSet()


def remember(optimizer: Any) -> None:
    """Let `check_covered` know of a schedule-free optimizer."""
    _MADE.add(optimizer)


def check_covered(optimizers: Sequence[Optimizer], model: nn.Module) -> None:
    """Raise ValueError for an optimizer that has no parameter of the model; warn, once, of another that keeps some at y.

    That a parameter belongs to none of the optimizers says nothing: it may not be trained. One that another schedule-free
    optimizer has moved stays at y, whatever is done with those that were given.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    given = {id(parameter) for optimizer in optimizers for parameter in weights_of(optimizer)}
    for optimizer in optimizers:
        if not any(id(parameter) in names for parameter in weights_of(optimizer)):
            raise ValueError(
                f"The {type(optimizer).__name__} has no parameter of this {type(model).__name__}: it was made for another "
                "model, or for the one that this is a copy of."
            )
    for other in set(_MADE) - set(_NAMED) - set(optimizers):
        moved = {id(p) for p in weights_of(other) if p.requires_grad and "z" in other.state.get(p, ())}
        left = [name for key, name in names.items() if key in moved - given]
        if left and _at_y(other):
            _NAMED.add(other)
            warnings.warn(
                f"These parameters are at y, as another {type(other).__name__} trains them: {', '.join(left[:5])}"
                f"{' and others' if len(left) > 5 else ''}. Give both optimizers, in a list.",
                stacklevel=4,
            )


def _at_y(optimizer: Any) -> bool:
    return bool(getattr(optimizer, "train_mode", any(group.get("train_mode") for group in optimizer.param_groups)))


def weights_of(optimizer: Optimizer) -> list[Tensor]:
    """All parameters of an optimizer, in the order of its groups."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def train_mode(optimizer: Optimizer) -> bool | None:
    """Whether a schedule-free optimizer is in train mode, its weights at y; None for one without modes.

    Raises RuntimeError when its groups disagree, and TypeError when it doesn't tell.
    """
    if not is_schedule_free(optimizer):
        return None
    if hasattr(optimizer, "train_mode"):  # ScheduleFreeWrapper's is not in the groups
        return bool(optimizer.train_mode)
    modes = {group.get("train_mode") for group in optimizer.param_groups}
    if len(modes) > 1:
        raise RuntimeError(
            "Some of the optimizer's groups are in train mode and some are not. Call optimizer.train() right after "
            "add_param_group: schedulefree adds groups in eval mode, and then leaves their weights at y in eval()."
        )
    (mode,) = modes
    if mode is None:
        raise TypeError(
            f"{type(optimizer).__name__} has train() and eval() but no `train_mode`, so that its mode can't be told. "
            "If it wraps another optimizer, give that one."
        )
    return bool(mode)


def set_train_mode(optimizer: Optimizer, mode: bool | None) -> None:
    """Set the flag that `train_mode` reads, without moving weights."""
    if mode is None:
        return
    if hasattr(optimizer, "train_mode"):
        optimizer.train_mode = mode
        return
    for group in optimizer.param_groups:
        group["train_mode"] = mode


@contextmanager
def _step_refused(optimizer: Optimizer) -> Iterator[None]:
    own = vars(optimizer).get("step")  # a learning-rate scheduler puts one there

    @functools.wraps(optimizer.step)
    def step(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError(
            "step() inside `with evaluating(...)`: the weights are at x, and gradients taken there are not those of "
            "training. Leave the context first."
        )

    optimizer.step = step  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        if own is None:
            del optimizer.step
        else:
            optimizer.step = own  # type: ignore[method-assign]


@contextmanager
def flags_kept(model: nn.Module) -> Iterator[None]:
    """Give every module its train or eval flag back: `model.train()` would unfreeze frozen layers."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def averages(optimizer: Optimizer) -> bool:
    """Whether an optimizer averages its weights, in whichever way."""
    # The closure variants have no modes, but they too train BatchNorm at y and are evaluated at x.
    return is_schedule_free(optimizer) or "weight_sum" in optimizer.param_groups[0]


def batchnorm_layers(model: nn.Module) -> list[_BatchNorm]:
    """The layers whose running statistics training moves; in a model in eval mode, where flags say nothing, all."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and (module.training or not model.training)
    ]


_WARNED: WeakSet[Any] = WeakSet()


@contextmanager
def _batchnorm_watched(owner: Any, layers: Iterable[_BatchNorm], said: str) -> Iterator[None]:
    """Warn when one of the layers runs in eval mode within, once for each owner of an average; not at once, since one may put
    the model in train mode again."""

    def warn(layer: nn.Module, _inputs: Any) -> None:
        if layer.training or owner in _WARNED:
            return
        _WARNED.add(owner)
        warnings.warn(said, stacklevel=2)

    handles = [layer.register_forward_pre_hook(warn) for layer in layers if owner not in _WARNED]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

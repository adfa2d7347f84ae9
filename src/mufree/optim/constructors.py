"""Optimizers with µP's parameter groups, and what each schedule-free variant needs."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import partial
from typing import Any

import schedulefree
from schedulefree import AdamWScheduleFree, RAdamScheduleFree, ScheduleFreeWrapper, SGDScheduleFree
from torch.optim import SGD, AdamW, Optimizer

from mufree.optim.evaluation import averages, remember
from mufree.optim.groups import Decay, EpsScale, Family, Names, Params, check_settings, mup_param_groups, number
from mufree.optim.muon import MuMuon
from mufree.optim.scaled import keep_scaled


@dataclass(frozen=True)
class Variant:
    """What µP has to know of a schedule-free optimizer."""

    constructor: str
    """The function here that takes it."""
    family: Family | None
    """How its steps scale with gradients; None where the base optimizer decides."""
    decay: Decay
    """The rule by which its weight decay takes the same off a weight at all widths."""
    experimental: bool = False


VARIANTS: dict[str, Variant] = {
    "AdamWScheduleFree": Variant("MuAdamW_ScheduleFree", "adam", "coupled"),
    "AdamWScheduleFreeClosure": Variant("MuAdamW_ScheduleFree", "adam", "coupled"),
    "AdamWScheduleFreePaper": Variant("MuAdamW_ScheduleFree", "adam", "coupled"),
    "AdamWScheduleFreeReference": Variant("MuAdamW_ScheduleFree", "adam", "coupled"),
    "AdamCScheduleFreePlusPaper": Variant("MuAdamW_ScheduleFree", "adam", "coupled_squared", experimental=True),
    "RAdamScheduleFree": Variant("MuRAdam_ScheduleFree", "adam", "coupled"),
    "RAdamScheduleFreeClosure": Variant("MuRAdam_ScheduleFree", "adam", "coupled"),
    "SGDScheduleFree": Variant("MuSGD_ScheduleFree", "sgd", "coupled"),
    "SGDScheduleFreeClosure": Variant("MuSGD_ScheduleFree", "sgd", "coupled"),
    "SGDScheduleFreeReference": Variant("MuSGD_ScheduleFree", "sgd", "coupled"),
    "ScheduleFreeWrapper": Variant("MuScheduleFreeWrapper", None, "coupled"),
    "ScheduleFreeWrapperReference": Variant("MuScheduleFreeWrapper", None, "coupled"),
}
"""The `impl` that each constructor takes; docs/weight-decay.md derives the rules. Not every `schedulefree` has them all."""

BASE_FAMILIES: dict[str, Family] = {
    "SGD": "sgd",
    "AdamW": "adam",
    "Adam": "adam",
    "NAdam": "adam",
    "Adamax": "adam",
    "Adagrad": "adam",
    "RMSprop": "adam",
}
"""How the steps of torch's optimizers scale (Yang et al. 2022, appendix B)."""

# These add weight_decay · weight to the gradient and then normalise the sum, so that what a step takes off a weight is no
# product of lr and weight_decay, and no multiplier keeps it the same at all widths.
_DECAY_INSIDE_THE_GRADIENT = ("Adam", "NAdam", "Adamax", "Adagrad", "RMSprop")


def available_impls(constructor: str) -> list[str]:
    """The names of the `impl` that a constructor takes and the installed `schedulefree` has."""
    return [
        name for name, variant in VARIANTS.items() if variant.constructor == constructor and hasattr(schedulefree, name)
    ]


def variant_of(impl: Any, constructor: str) -> Variant:
    """What is known of `impl` (a class of `schedulefree` or a subclass of one), found by its name.

    Raises `ValueError` for classes that aren't known, and for those of another constructor, which it names.
    """
    name = _known_as(impl, VARIANTS)
    if name is not None and VARIANTS[name].constructor == constructor:
        return VARIANTS[name]
    called = getattr(impl, "__name__", repr(impl))
    cure = "" if name is None else f" {VARIANTS[name].constructor} takes it."
    raise ValueError(
        f"{constructor} can't take impl {called!r}.{cure} Known: {', '.join(available_impls(constructor))}."
    )


def MuAdamW(  # noqa: N802 (the name that mup gives it)
    params: Params,
    impl: type[Optimizer] = AdamW,
    decoupled_wd: bool = False,
    *,
    family: Family | None = None,
    lr: float = 1e-3,
    eps_scale: EpsScale = "none",
    names: Names | None = None,
    **kwargs: Any,
) -> Optimizer:
    """AdamW, or another ordinary Adam-like `impl` that decays by lr · weight_decay, with µP's groups.

    `impl` is one of `BASE_FAMILIES` that is "adam" there, a subclass or a partial of one, or, with `family="adam"`, any class
    or function that makes an optimizer whose steps have a size free of the gradient's, entry by entry.
    `decoupled_wd=False` keeps lr · weight_decay the same at all widths; True leaves weight_decay as it is given. `eps_scale`
    and `names` are those of `mup_param_groups`.

    Raises `ValueError` for schedule-free classes and for Muon, which have constructors of their own, for a class that isn't
    known when no family is given, and for weight decay with an optimizer that puts it into the gradient, as torch's Adam does.
    """
    if name := _known_as(impl, VARIANTS):
        raise ValueError(
            f"MuAdamW takes ordinary optimizers, got impl {name!r}. {VARIANTS[name].constructor} takes it."
        )
    _check_class(impl)
    if (family or _family_of(impl, "impl")) != "adam":
        raise ValueError(
            f"MuAdamW takes Adam-like optimizers; µP scales those like {_name(impl)!r} otherwise. MuSGD takes it."
        )
    optimizer: Optimizer = _build(
        impl, params, "adam", _rule("coupled", decoupled_wd), eps_scale, names, lr=lr, **kwargs
    )
    _check_steps(optimizer)
    return optimizer


def MuSGD(  # noqa: N802 (the name that mup gives it)
    params: Params,
    impl: type[Optimizer] = SGD,
    decoupled_wd: bool = False,
    *,
    lr: float = 1e-3,
    names: Names | None = None,
    **kwargs: Any,
) -> Optimizer:
    """SGD, or a subclass of it, with µP's groups; arguments as for `MuAdamW`.

    Raises `ValueError` for an `impl` that is no SGD, since µP scales steps otherwise that aren't proportional to the gradient.
    """
    if _known_as(impl, BASE_FAMILIES) != "SGD":
        raise ValueError(f"MuSGD takes torch's SGD or a subclass, got impl {getattr(impl, '__name__', repr(impl))!r}.")
    optimizer: Optimizer = _build(impl, params, "sgd", _rule("coupled", decoupled_wd), "none", names, lr=lr, **kwargs)
    return optimizer


def MuAdamW_ScheduleFree(  # noqa: N802 (the name that the community gave it)
    params: Params,
    impl: type[Optimizer] = AdamWScheduleFree,
    decoupled_wd: bool = False,
    *,
    eps_scale: EpsScale = "none",
    names: Names | None = None,
    **kwargs: Any,
) -> Optimizer:
    """Schedule-free AdamW (Defazio et al. 2024) with µP's groups.

    `impl` is one of schedulefree's AdamW variants (`VARIANTS`) or a subclass, and `kwargs` are its own; what isn't given
    takes its defaults. `decoupled_wd=False` scales weight_decay so that what a step takes off a weight does not depend on
    width; True leaves weight_decay as it is given, so that it falls with width.

    Multiplying a group's learning rate by a constant leaves ScheduleFree's averaging weights as they are, since they are
    ratios of learning rates of the same group: x stays the same average at every width.

    `AdamCScheduleFreePlusPaper` (ScheduleFree+, not yet on PyPI) is experimental and warns: it decays with lr², which is
    scaled for, but one Polyak step, computed from the sum of all gradients' absolute values, multiplies all groups' rates,
    and that sum grows with width. Of its other settings it reads several from the first group alone.
    """
    return _schedule_free("MuAdamW_ScheduleFree", impl, params, decoupled_wd, eps_scale, names, **kwargs)


def MuRAdam_ScheduleFree(  # noqa: N802 (as MuAdamW_ScheduleFree)
    params: Params,
    impl: type[Optimizer] = RAdamScheduleFree,
    decoupled_wd: bool = False,
    *,
    eps_scale: EpsScale = "none",
    names: Names | None = None,
    **kwargs: Any,
) -> Optimizer:
    """Schedule-free RAdam with µP's groups; arguments as for `MuAdamW_ScheduleFree`.

    Raises `ValueError` for `silent_sgd_phase=False`: RAdam's first steps would then be plain SGD, which µP scales otherwise
    (vector-like parameters by m, matrix-like by 1, where Adam's steps take 1 and 1/m).
    """
    optimizer = _schedule_free("MuRAdam_ScheduleFree", impl, params, decoupled_wd, eps_scale, names, **kwargs)
    if not all(group["silent_sgd_phase"] for group in optimizer.param_groups):
        raise ValueError(
            "silent_sgd_phase=False takes the first steps without normalising the gradient, but with the learning rates that "
            "µP gives to normalised steps: they would change with width. Leave it True."
        )
    return optimizer


def MuSGD_ScheduleFree(  # noqa: N802 (as MuAdamW_ScheduleFree)
    params: Params,
    impl: type[Optimizer] = SGDScheduleFree,
    decoupled_wd: bool = False,
    *,
    names: Names | None = None,
    **kwargs: Any,
) -> Optimizer:
    """Schedule-free SGD with µP's groups; arguments as for `MuAdamW_ScheduleFree`."""
    return _schedule_free("MuSGD_ScheduleFree", impl, params, decoupled_wd, "none", names, **kwargs)


def MuScheduleFreeWrapper(  # noqa: N802 (as MuAdamW_ScheduleFree)
    params: Params | Optimizer,
    base: Callable[..., Optimizer] = SGD,
    impl: Any = ScheduleFreeWrapper,
    decoupled_wd: bool = False,
    *,
    family: Family | None = None,
    momentum: float = 0.9,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    weight_decay_at_y: float = 0.0,
    names: Names | None = None,
    **kwargs: Any,
) -> Any:
    """Any optimizer made schedule-free, with µP's groups; returns a schedulefree wrapper, which is no torch `Optimizer`.

    `params` are parameters, for which `base(groups, lr=..., **kwargs)` makes the optimizer, or an optimizer that has µP's
    groups already: from `MuAdamW` or `MuMuon`, or any with `mup_param_groups`. `base` is a torch class or a function; `family`
    says how its steps scale, and needs saying where it isn't one of `BASE_FAMILIES`. `momentum`, `r` and `weight_lr_power` are
    the wrapper's; a base with momentum of its own is given as `functools.partial(SGD, momentum=0.9)`. The base's
    `weight_decay` acts at z and is scaled with width as elsewhere.

    The wrapper puts z into the base's state before the base has made its own, for which most of torch's optimizers (Adam,
    AdamW, RMSprop, …) then raise a `KeyError`; here they work.

    Raises `ValueError`
      - for `weight_decay_at_y`: the wrapper has one number for all groups, so it can't scale with width;
      - for a base that puts weight decay into the gradient and normalises it (Adam, RMSprop, …), when there is any, and for
        torch's RAdam, whose first steps aren't normalised;
      - for tensors that `ScheduleFreeWrapper` can't swap bytewise (no dimension, or a last stride other than 1);
      - for an optimizer whose groups `mup_param_groups` didn't make, and for one that is schedule-free already.

    A learning rate of 0 in the first step divides by zero inside the wrapper: start a warm-up above 0.
    """
    variant = variant_of(impl, "MuScheduleFreeWrapper")
    own = {"momentum": momentum, "r": r, "weight_lr_power": weight_lr_power}
    check_settings(own)
    _check_no_decay_at_y(weight_decay_at_y)
    _check_not_averaging(params)
    if isinstance(params, Optimizer):
        optimizer = params
        _check_made_base(optimizer, [*kwargs, *([] if names is None else ["names"])])
    elif base is MuMuon:
        optimizer = MuMuon(params, decoupled_wd, names=names, **kwargs)
    else:
        _check_class(base)
        rule = _rule(variant.decay, decoupled_wd)
        optimizer = _build(base, params, family or _family_of(base, "base"), rule, "none", names, **kwargs)
    _check_not_averaging(optimizer)
    _check_steps(optimizer)
    if issubclass(impl, ScheduleFreeWrapper):
        _check_swappable(optimizer)
    keep_scaled(optimizer, None)
    optimizer.wrapped = True  # type: ignore[attr-defined]
    wrapped = impl(optimizer, **own)
    # The Reference writes this into the groups there are, and reads it in those that are added later.
    optimizer.defaults["weight_decay_at_y"] = 0.0
    wrapped.defaults = optimizer.defaults  # without which Lightning takes it for no optimizer
    remember(wrapped)
    return wrapped


def _check_no_decay_at_y(weight_decay_at_y: float) -> None:
    if number("weight_decay_at_y", weight_decay_at_y) != 0.0:
        raise ValueError(
            f"weight_decay_at_y={weight_decay_at_y:g} is one number for all parameter groups, and under µP the decay scales "
            "with width group by group. Use weight_decay of the base optimizer (at z), or MuAdamW_ScheduleFree or "
            "MuSGD_ScheduleFree, which decay at y."
        )


def _check_made_base(optimizer: Optimizer, given: list[str]) -> None:
    if given:
        raise ValueError(f"These belong to the base optimizer, which is made already: {', '.join(given)}.")
    if any("lr_multiplier" not in group for group in optimizer.param_groups):
        raise ValueError("The base optimizer's groups aren't µP's: give mup_param_groups(...) to it, or use MuAdamW.")


def _check_swappable(optimizer: Optimizer) -> None:
    tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    if odd := [t for t in tensors if t.dim() == 0 or t.stride(-1) != 1]:
        raise ValueError(
            f"ScheduleFreeWrapper can't swap a tensor of shape {tuple(odd[0].shape)} and strides {odd[0].stride()}: it needs a "
            "dimension, and a last stride of 1. Use impl=ScheduleFreeWrapperReference."
        )


def _known_as(made: Any, table: Container[str]) -> str | None:
    ancestry = made.__mro__ if inspect.isclass(made) else ()
    return next((cls.__name__ for cls in ancestry if cls.__name__ in table), None)


def _schedule_free(
    constructor: str,
    impl: type[Optimizer],
    params: Params,
    decoupled_wd: bool,
    eps_scale: EpsScale,
    names: Names | None,
    **kwargs: Any,
) -> Optimizer:
    variant = variant_of(impl, constructor)
    if variant.experimental:
        warnings.warn(
            f"{impl.__name__} under µP is experimental: its global Polyak step shrinks with width, and only the ratios "
            "between groups' learning rates and the weight decay are scaled.",
            stacklevel=3,
        )
    assert variant.family is not None
    return _build(impl, params, variant.family, _rule(variant.decay, decoupled_wd), eps_scale, names, **kwargs)


def _build(
    make: Callable[..., Optimizer],
    params: Params,
    family: Family,
    decay: Decay,
    eps_scale: EpsScale,
    names: Names | None,
    **kwargs: Any,
) -> Optimizer:
    check_settings(kwargs)
    # Weight decay is read here and not by `make`, whose default may differ from zero (torch's AdamW has 0.01).
    weight_decay = kwargs.pop("weight_decay", 0.0)
    lr = kwargs.pop("lr", _default(make, "lr"))
    eps = kwargs.get("eps", _default(make, "eps"))
    scaling = partial(
        mup_param_groups, lr=lr, weight_decay=weight_decay, family=family, decay=decay, eps=eps, eps_scale=eps_scale
    )
    optimizer = make(scaling(params, names=names), **({} if lr is None else {"lr": lr}), **kwargs)
    keep_scaled(optimizer, scaling)
    return optimizer


def _default(make: Callable[..., Any], name: str) -> Any:
    parameter = inspect.signature(make).parameters.get(name)
    return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default


def _rule(scaled: Decay, decoupled_wd: bool) -> Decay:
    return "independent" if decoupled_wd else scaled


def _made_by(make: Callable[..., Any]) -> Callable[..., Any]:
    return make.func if isinstance(make, partial) else make


def _name(make: Callable[..., Any]) -> str:
    return str(getattr(_made_by(make), "__name__", repr(make)))


def _family_of(make: Callable[..., Any], called: str) -> Family:
    if name := _known_as(_made_by(make), BASE_FAMILIES):
        return BASE_FAMILIES[name]
    raise ValueError(
        f"How steps of {called} {_name(make)!r} scale isn't known: give family='adam' if it normalises the gradient entry by "
        "entry or takes its sign, as Lion does, and family='sgd' if its steps are proportional to the gradient."
    )


def _check_not_averaging(base: Any) -> None:
    # A wrapper is no Optimizer, but has one.
    if hasattr(base, "base") or (isinstance(base, Optimizer) and averages(base)):
        raise ValueError(f"{type(base).__name__} is schedule-free already: use it as it is.")


def _check_class(make: Callable[..., Any]) -> None:
    """Raise for classes that no family fits, whatever is said."""
    if _known_as(_made_by(make), ("Muon",)):
        raise ValueError(
            f"{_name(make)!r} orthogonalises its steps: neither Adam's rule nor SGD's scales them. MuMuon does it by their own."
        )
    if _known_as(_made_by(make), ("RAdam",)):
        raise ValueError(
            "torch's RAdam takes its first steps without normalising the gradient, with the learning rates that µP gives to "
            "normalised steps. Use MuRAdam_ScheduleFree, or AdamW with a warm-up."
        )


def _check_steps(optimizer: Optimizer) -> None:
    _check_class(type(optimizer))
    if _known_as(type(optimizer), BASE_FAMILIES) not in _DECAY_INSIDE_THE_GRADIENT:
        return
    for group in optimizer.param_groups:
        if group["weight_decay"] != 0.0 and not group.get("decoupled_weight_decay", False):
            raise ValueError(
                f"{type(optimizer).__name__} adds weight_decay · weight to the gradient and then normalises it: no rule keeps "
                "that the same at all widths. Use AdamW, decoupled_weight_decay=True where there is one, or no weight decay."
            )

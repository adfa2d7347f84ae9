"""Parameter groups with µP's learning rates and weight decays, from `infshape` alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Family = Literal["adam", "sgd"]
Kind = Literal["embedding", "vector", "hidden", "output", "tied", "fixed"]
Decay = Literal["coupled", "coupled_squared", "independent", "unscaled", "none"]
EpsScale = Literal["none", "gradient"]
Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
Names = Iterable[tuple[str, Tensor]]

DECAY_POWERS: dict[Decay, int] = {"coupled": 1, "coupled_squared": 2, "independent": 0, "unscaled": 0, "none": 0}
"""The power of the learning rate that multiplies weight_decay in one step of the optimizer, which the rule undoes."""


class BaseShapesError(ValueError):
    """A parameter has no µP base shape, or one that no rule covers."""


@dataclass(frozen=True)
class Growth:
    """How a tensor grows with width, as `parametrize` understood it and attached it to the tensor as `mup_growth`."""

    kind: Kind
    inputs: tuple[int, ...]
    """The growing dimensions that are summed over: the fan-in, unless a multiplier makes up for it elsewhere."""
    outputs: tuple[int, ...]
    """The growing dimensions that are put out: the fan-out."""
    why: str


def growth_of(parameter: Tensor) -> tuple[float, float]:
    """By what factors the fan-in and the fan-out of a tensor have grown since the base width; 1.0 where they don't.

    Raises `BaseShapesError` as `growing_of` does.
    """
    inputs, outputs = growing_of(parameter)
    infshape = parameter.infshape  # type: ignore[attr-defined]
    fan_in, fan_out = (math.prod(float(infshape[i].width_mult()) for i in dims) for dims in (inputs, outputs))
    return fan_in, fan_out


def growing_of(parameter: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The dimensions of a tensor that grow with width: those of its fan-in, and those of its fan-out.

    Read from `mup_growth`, as `parametrize` leaves it, else from the shape alone as mup's conventions have it: [out, in, …] for
    linear layers and convolutions, [count, in, out] for stacked matrices, and two dimensions of which one grows for a look-up,
    a first layer, or mup's readout, whose multiplier stands for its fan-in.

    Raises `BaseShapesError` where there is no `infshape`, or where more than two dimensions grow.
    """
    infshape = getattr(parameter, "infshape", None)
    if infshape is None:
        raise BaseShapesError(
            f"A parameter of shape {tuple(parameter.shape)} has no `infshape`. Make the model with mufree.parametrize, or call "
            "mup.set_base_shapes(model, base, delta=...) first, then initialise, then make the optimizer."
        )
    growth: Growth | None = getattr(parameter, "mup_growth", None)
    return (growth.inputs, growth.outputs) if growth else _by_convention(parameter, infshape)


def _by_convention(parameter: Tensor, infshape: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The growing dimensions that are fan-in and fan-out where nothing but the shape is known."""
    growing = tuple(index for index, dim in enumerate(infshape) if dim.isinf())
    if len(growing) > 2:
        raise BaseShapesError(
            f"A parameter of shape {tuple(parameter.shape)} has {len(growing)} dimensions that grow with width; µP has rules "
            "for at most 2. Reshape it, or keep the others fixed."
        )
    if len(growing) < 2:
        # A convolution as output: mup's MuReadout is there for linear layers alone.
        return ((1,), ()) if growing == (1,) and len(infshape) > 2 else ((), growing)
    first, second = growing
    return ((second,), (first,)) if first == 0 else ((first,), (second,))


def lr_multiplier(parameter: Tensor, family: Family = "adam") -> float:
    """The factor by which µP multiplies a parameter's learning rate; 1.0 at base width.

    With the growth of the tensor's fan-in and fan-out since the base width (`growth_of`, which says what it raises), that is
    1 / fan-in for steps like Adam's, and fan-out / fan-in for steps like SGD's. Raises `ValueError` for an unknown family.
    Source: Yang et al. 2022, table 8; in this form, Yang, Simon and Bernstein 2023.
    """
    _check_choice("family", family, get_args(Family))
    fan_in, fan_out = growth_of(parameter)
    return 1.0 / fan_in if family == "adam" else fan_out / fan_in


def gradient_multiplier(parameter: Tensor) -> float:
    """The factor by which a gradient's entries shrink with width under µP: 1 / growth of the fan-out.

    A weight's gradient is the outer product of its inputs, of size Θ(1), and the gradient of its outputs. Those of the last
    activations are Θ(1/m), as µP's output weights or the readout's multiplier are, and so are those of all others, through
    layers of initial variance Θ(1/width); those of the logits are Θ(1). This follows from the scales in table 8 of Yang et al.
    2022. That Adam's ε must follow the gradients is in Everett et al. 2024 (Scaling Exponents Across Parameterizations and
    Optimizers).
    """
    return 1.0 / growth_of(parameter)[1]


def mup_param_groups(
    params: Params,
    *,
    lr: float | None = None,
    weight_decay: float = 0.0,
    family: Family = "adam",
    decay: Decay = "coupled",
    eps: float | None = None,
    eps_scale: EpsScale = "none",
    names: Names | None = None,
) -> list[dict[str, Any]]:
    """New parameter groups with µP's learning rates; the input is never changed.

    `params` is what a torch optimizer takes: parameters, (name, parameter) pairs, or group dicts with a learning rate, a
    weight decay or other keys of their own, which are kept. Each input group becomes one group for each multiplier among
    its parameters, in order of first appearance; none is empty. Frozen parameters (`requires_grad=False`) are kept, as
    torch keeps them, and a parameter that occurs twice in a group (tied weights) is kept once, under its first name.
    Numbers become plain floats. Every new group also holds its `lr_multiplier` and the index of the input group that it was
    `split_from`.

    `decay` says what becomes of the weight decay where the learning rate is multiplied by c:
      - "coupled", for optimizers that shrink weights by lr · weight_decay a step: weight_decay / c;
      - "coupled_squared", for those that shrink them by lr² · weight_decay: weight_decay / c². With either, what a step
        takes off a weight does not depend on width;
      - "independent" or "unscaled" leaves weight_decay alone. This is right for optimizers that shrink weights by
        weight_decay itself; with others the shrinking falls as c or c² does (`decoupled_wd=True` in mup's repository);
      - "none": there is no weight decay, and asking for one is an error.

    `eps_scale="gradient"` gives each group its own Adam ε, `eps` times `gradient_multiplier`, so that ε stays as small
    beside the gradients as it is at base width. The default leaves ε alone; a small one (1e-12) makes it immaterial.

    `names` are (name, parameter) pairs such as `model.named_parameters()` for parameters that come without a name; torch
    keeps them as the groups' `param_names`.

    Raises `BaseShapesError` for parameters without usable base shapes, `TypeError` for what isn't a parameter or a number, and
    `ValueError` for an empty list, numbers that are missing, negative or not finite, unknown choices, a parameter in two
    groups, and groups that were scaled before.
    """
    _check_choice("decay", decay, DECAY_POWERS)
    _check_choice("eps_scale", eps_scale, get_args(EpsScale))
    name_of = None if names is None else {id(parameter): name for name, parameter in names}
    new_groups: list[dict[str, Any]] = []
    owner: dict[int, int] = {}
    for index, group in enumerate(as_groups(params)):
        given = entries(group, name_of)
        extra = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        check_settings(extra)
        base_lr = number("lr", group.get("lr", lr))
        base_decay = number("weight_decay", group.get("weight_decay", weight_decay))
        base_eps = number("eps", group.get("eps", eps)) if eps_scale == "gradient" else 0.0
        if decay == "none" and base_decay != 0.0:
            raise ValueError(f"decay='none' and weight_decay={base_decay:g} contradict each other; drop one of them.")
        split: dict[tuple[float, float], dict[str, Any]] = {}
        for name, parameter in given:
            factor, eps_factor = _factors_of(name, parameter, index, owner, family, eps_scale)
            scaled = scaled_group(factor, base_lr, base_decay, decay, index)
            if eps_scale == "gradient":
                scaled["eps"] = base_eps * eps_factor
            entry = parameter if name is None else (name, parameter)
            split.setdefault((factor, eps_factor), extra | scaled)["params"].append(entry)
        new_groups.extend(split.values())
    if not new_groups:
        raise ValueError("All parameter groups are empty; was a generator used up before?")
    return new_groups


def scaled_group(factor: float, lr: float, weight_decay: float, decay: Decay, split_from: int) -> dict[str, Any]:
    """An empty group whose learning rate is multiplied by `factor`, and its weight decay by the rule `decay`."""
    return {
        "params": [],
        "lr": lr * factor,
        "weight_decay": weight_decay / factor ** DECAY_POWERS[decay],
        "lr_multiplier": factor,
        "split_from": split_from,
    }


def _factors_of(
    name: str | None, parameter: Tensor, index: int, owner: dict[int, int], family: Family, eps_scale: EpsScale
) -> tuple[float, float]:
    """The multipliers on a parameter's learning rate and ε; it belongs to group `index` from now on."""
    if (first := owner.setdefault(id(parameter), index)) != index:
        raise ValueError(
            f"{_called(name, parameter)} is in groups {first} and {index}. Tied weights are one parameter: leave it in one "
            "group."
        )
    try:
        factor = lr_multiplier(parameter, family)
    except BaseShapesError as error:
        raise error if name is None else BaseShapesError(f"{name!r}: {error}") from None
    return factor, gradient_multiplier(parameter) if eps_scale == "gradient" else 1.0


def describe(what: Any, model: nn.Module | None = None) -> str:
    """What µP makes of a model's tensors, or of an optimizer's groups, as a table of text with a heading.

    `describe(model)` has a line a tensor: its name, its shape at base width and here, how it was understood (`Growth.kind`),
    the growth of its fan-in and fan-out, the multipliers on the learning rate of Adam-like and SGD-like steps, and why it was
    understood so.

    `describe(optimizer, model)` has a line a group: its number, how its tensors grow with width, how many tensors and elements
    it holds, the multiplier on the base learning rate (– for groups that weren't made here), learning rate, weight decay, their
    product, Adam's ε (– for optimizers without), and the parameters: names from `model` or from named groups, else shapes, of
    the first three. The learning rate is the one of the moment, a scheduler's factor included; ScheduleFree's own warm-up isn't
    in it.
    """
    if isinstance(what, nn.Module):
        rows, left = _rows_of_model(what), {0, 3, 8}
    else:
        rows, left = _rows_of_optimizer(what, model), {1, 9}
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _rows_of_model(model: nn.Module) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("tensor", "at base", "here", "is", "fan-in", "fan-out", "Adam", "SGD", "why")]
    for name, parameter in model.named_parameters():
        fan_in, fan_out = growth_of(parameter)
        infshape = parameter.infshape  # type: ignore[attr-defined]
        growth: Growth | None = getattr(parameter, "mup_growth", None)
        base = "×".join(str(dim.base_dim or dim.dim) for dim in infshape)
        rows.append(
            (
                name,
                base or "1",
                "×".join(map(str, parameter.shape)) or "1",
                growth.kind if growth else _growth(parameter),
                _short(fan_in),
                _short(fan_out),
                _short(lr_multiplier(parameter, "adam")),
                _short(lr_multiplier(parameter, "sgd")),
                growth.why if growth else "its shape",
            )
        )
    return rows


def _rows_of_optimizer(optimizer: Any, model: nn.Module | None) -> list[tuple[str, ...]]:
    name_of = {} if model is None else {id(parameter): name for name, parameter in model.named_parameters()}
    rows: list[tuple[str, ...]] = [
        ("group", "grows", "tensors", "elements", "multiplier", "lr", "wd", "lr·wd", "eps", "parameters")
    ]
    for index, group in enumerate(optimizer.param_groups):
        tensors: list[Tensor] = group["params"]
        own = group.get("param_names") or [str(tuple(tensor.shape)) for tensor in tensors]
        called = [name_of.get(id(tensor), name) for tensor, name in zip(tensors, own, strict=True)]
        lr, weight_decay = float(group["lr"]), float(group.get("weight_decay", 0.0))
        rows.append(
            (
                str(index),
                ", ".join(dict.fromkeys(map(_growth, tensors))),
                str(len(tensors)),
                str(sum(tensor.numel() for tensor in tensors)),
                _short(group.get("lr_multiplier")),
                _short(lr),
                _short(weight_decay),
                _short(lr * weight_decay),
                _short(group.get("eps")),
                ", ".join(called[:3]) + (f", … {len(called) - 3} more" if len(called) > 3 else ""),
            )
        )
    return rows


def _growth(parameter: Tensor) -> str:
    infshape = getattr(parameter, "infshape", None)
    return "?" if infshape is None else ("fixed", "vector", "matrix")[infshape.ninf()]


def _short(value: float | None) -> str:
    return "–" if value is None else f"{float(value):.4g}"


def as_groups(params: Params) -> list[dict[str, Any]]:
    """What a torch optimizer takes, as group dicts. Raises TypeError and ValueError for what it doesn't."""
    if isinstance(params, (Tensor, dict, str, nn.Module)):
        raise TypeError(
            f"params must be parameters, (name, parameter) pairs or group dicts, in a list or an iterator, got a "
            f"{type(params).__name__}; model.parameters() is what is usually meant."
        )
    entries: list[Any] = _ordered(params)
    if not entries:
        raise ValueError("The optimizer got an empty parameter list; was a generator used up before?")
    if not any(isinstance(entry, dict) for entry in entries):
        return [{"params": entries}]
    for index, group in enumerate(entries):
        if not isinstance(group, dict) or "params" not in group:
            raise TypeError(f"Entry {index} of params is no group dict with 'params', though another entry is a dict.")
        if "lr_multiplier" in group:
            raise ValueError(
                f"Group {index} was scaled before: it has an lr_multiplier. Give the groups as they were at first."
            )
    return entries


def _ordered(params: Iterable[Any]) -> list[Any]:
    if isinstance(params, (set, frozenset)):
        raise TypeError("Parameters in a set have no order that lasts from run to run; use a list.")
    return list(params)


def entries(group: dict[str, Any], name_of: dict[int, str] | None) -> list[tuple[str | None, Tensor]]:
    """The group's (name, parameter) pairs, each parameter once, all with a name or all without."""
    # A single tensor is a legitimate value of "params", and a generator can be read only once.
    given = [group["params"]] if isinstance(group["params"], Tensor) else _ordered(group["params"])
    if "param_names" in group:
        given = list(zip(group["param_names"], given, strict=True))
    first: dict[int, tuple[str | None, Tensor]] = {}
    for entry in given:
        name, parameter = entry if isinstance(entry, tuple) and len(entry) == 2 else (None, entry)
        if not isinstance(parameter, Tensor):
            raise TypeError(f"An optimizer takes tensors, or (name, tensor) pairs, got {torch.typename(entry)}.")
        if name is None and name_of is not None:
            name = name_of.get(id(parameter))
        first.setdefault(id(parameter), (name, parameter))
    pairs = list(first.values())
    unnamed = [parameter for name, parameter in pairs if name is None]
    if unnamed and (name_of is not None or len(unnamed) < len(pairs)):
        raise ValueError(f"{_called(None, unnamed[0])} has no name though others have: name all of them or none.")
    return pairs


def _called(name: str | None, parameter: Tensor) -> str:
    return repr(name) if name is not None else f"A parameter of shape {tuple(parameter.shape)}"


def _check_choice(what: str, choice: str, known: Iterable[str]) -> None:
    if choice not in known:
        raise ValueError(f"Unknown {what} {choice!r}. Known: {', '.join(known)}.")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError for a numeric setting of an optimizer that is none it can use, by name and value."""
    for name, (least, below) in _RANGES.items():
        if name not in settings:
            continue
        values = settings[name] if name == "betas" else (settings[name],)
        if not isinstance(values, tuple | list) or (name == "betas" and len(values) != 2):
            raise TypeError(f"betas must be two numbers, got {values!r}.")
        for value in values:
            if isinstance(value, Tensor):
                raise TypeError(f"{name} must be a plain number, got {value!r}; use its .item().")
            number(name, value, least, below)


_RANGES = {
    "betas": (0.0, 1.0),
    "momentum": (0.0, 1.0),
    "eps": (0.0, math.inf),
    "warmup_steps": (0.0, math.inf),
    "weight_lr_power": (0.0, math.inf),
    "r": (-math.inf, math.inf),
}
"""What few optimizers check by themselves, besides lr and weight_decay: the least value, and the first that is too large."""


def number(what: str, value: Any, least: float = 0.0, below: float = math.inf) -> float:
    """The value as a float. Raises TypeError for what is no number, ValueError for one not finite and in [least, below)."""
    if value is None:
        raise ValueError(f"{what} is missing: give {what}=..., or one in every group.")
    plain = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if isinstance(plain, bool) or not isinstance(plain, Real):
        raise TypeError(f"{what} must be a number, got {value!r}.")
    try:
        found = float(plain)
    except OverflowError:  # a whole number of more than 308 digits
        found = math.inf
    if not (math.isfinite(found) and least <= found < below):
        range_ = f"at least {least:g} and below {below:g}" if below < math.inf else "finite"
        range_ += " and not negative" if (least, below) == (0.0, math.inf) else ""
        raise ValueError(f"{what} must be {range_}, got {value!r}.")
    return found

"""Muon under µP: orthogonalised steps for hidden matrices, AdamW for all else, in one optimizer.

An orthogonalised step has a spectral norm of 1, whatever the gradient and the width. What keeps activations and their changes
free of width is a step whose spectral norm goes as √(fan-out / fan-in) (Yang, Simon & Bernstein 2023, A Spectral Condition
for Feature Learning; Bernstein & Newhouse 2024, Old Optimizer, New Norm). Adam's 1/m would make wide models stand still.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from mufree.optim.groups import (
    Decay,
    Names,
    Params,
    as_groups,
    check_settings,
    entries,
    growing_of,
    growth_of,
    mup_param_groups,
    number,
    scaled_group,
)
from mufree.optim.scaled import keep_scaled

Adjust = Literal["original", "match_rms_adamw", "spectral_unclamped"]

ADJUSTED: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    "spectral_unclamped": lambda rows, columns: math.sqrt(rows / columns),
}
"""What torch's Muon multiplies the learning rate by for a matrix, by its `adjust_lr_fn`."""


def muon_multiplier(parameter: Tensor, adjust_lr_fn: Adjust = "original") -> float:
    """The factor on a hidden matrix's learning rate with which torch's Muon takes steps that go as √(fan-out / fan-in).

    It is √(growth of fan-out / growth of fan-in) · a(base shape) / a(shape), where a is what torch's `adjust_lr_fn` multiplies
    by: 1.0 at base width. `parameter` carries base shapes (`groups.growth_of`).
    """
    rows, columns = parameter.infshape  # type: ignore[attr-defined]
    adjusted = ADJUSTED[adjust_lr_fn]
    fan_in, fan_out = growth_of(parameter)
    return math.sqrt(fan_out / fan_in) * adjusted(rows.base_dim, columns.base_dim) / adjusted(rows.dim, columns.dim)


def is_hidden_matrix(parameter: Tensor) -> bool:
    """Whether it has two dimensions, a growing fan-in and a growing fan-out. Raises as `groups.growth_of` does."""
    fan_in_and_out = growing_of(parameter)
    return parameter.ndim == 2 and all(fan_in_and_out)


def MuMuon(  # noqa: N802 (as MuAdamW)
    params: Params,
    decoupled_wd: bool = False,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    adjust_lr_fn: Adjust = "original",
    adamw_lr: float = 1e-3,
    adamw_betas: tuple[float, float] = (0.9, 0.999),
    adamw_eps: float = 1e-8,
    adamw_weight_decay: float | None = None,
    names: Names | None = None,
) -> Optimizer:
    """Muon (Jordan et al. 2024) for hidden matrices and AdamW for all other tensors, with µP's groups.

    A hidden matrix has two dimensions and both grow with width (`is_hidden_matrix`). Its steps are those of `torch.optim.Muon`,
    which takes `lr`, `weight_decay`, `momentum`, `nesterov`, `ns_steps` and `adjust_lr_fn`, at `muon_multiplier` times the
    rate. All others (embeddings, readouts, biases, gains, and tensors of more dimensions, such as convolutions, which torch's
    Muon doesn't take) get those of `torch.optim.AdamW`, which takes what begins with `adamw_`, as `MuAdamW` scales them.
    `adamw_weight_decay` is `weight_decay` if not given. Each group says its `kind`, "muon" or "adamw".

    A group of the user's may have any of these settings under the same names, and `kind="adamw"` for matrices that Muon shall
    leave alone. `decoupled_wd` and `names` are those of `MuAdamW`.

    Raises `ValueError` where there is no hidden matrix or torch has no Muon (before 2.9), for an unknown setting, and as
    `mup_param_groups` does.
    """
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"torch {torch.__version__} has no Muon; it came with 2.9.")
    settings = {
        "lr": lr,
        "weight_decay": weight_decay,
        "momentum": momentum,
        "nesterov": nesterov,
        "ns_steps": ns_steps,
        "adjust_lr_fn": adjust_lr_fn,
        "adamw_lr": adamw_lr,
        "adamw_betas": adamw_betas,
        "adamw_eps": adamw_eps,
        "adamw_weight_decay": weight_decay if adamw_weight_decay is None else adamw_weight_decay,
    }
    scaling = partial(_groups, settings=settings, decay="independent" if decoupled_wd else "coupled")
    groups = scaling(params, names=names)
    if not any(group["kind"] == "muon" for group in groups):
        raise ValueError(
            "No parameter is a hidden matrix, of two dimensions that grow with width, so that there is nothing for Muon to do. "
            "Were base and delta of mup.set_base_shapes two widths? For such parameters, use MuAdamW."
        )
    optimizer = MuonAdamW(groups)
    keep_scaled(optimizer, scaling)
    return optimizer


def _groups(
    params: Params, *, settings: dict[str, Any], decay: Decay, names: Names | None = None
) -> list[dict[str, Any]]:
    """Groups of either kind; those of one kind that come from one input group share their `split_from`."""
    name_of = None if names is None else {id(parameter): name for name, parameter in names}
    made: list[dict[str, Any]] = []
    for index, given in enumerate(as_groups(params)):
        its_settings = settings | _own_settings(index, given, settings)
        matrices: list[Any] = []
        others: list[Any] = []
        for name, parameter in entries(given, name_of):
            hidden = is_hidden_matrix(parameter) and given.get("kind") != "adamw"
            (matrices if hidden else others).append(parameter if name is None else (name, parameter))
        _check_used(index, given, matrices, others)
        made += _muon_groups(matrices, its_settings, decay, 2 * index)
        made += _adamw_groups(others, its_settings, decay, 2 * index + 1)
    return made


def _own_settings(index: int, given: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in given.items() if key not in ("params", "param_names", "kind")}
    if unknown := own.keys() - known.keys():
        raise ValueError(f"Group {index} has {', '.join(sorted(unknown))}. Known: {', '.join(known)}.")
    if given.get("kind", "adamw") != "adamw":
        raise ValueError(
            f"Group {index} has kind={given['kind']!r}. Known: 'adamw'; without it, hidden matrices are Muon's."
        )
    if "weight_decay" in own:  # a group without decay means all of its tensors
        own.setdefault("adamw_weight_decay", own["weight_decay"])
    return own


def _check_used(index: int, given: dict[str, Any], matrices: list[Any], others: list[Any]) -> None:
    """Raise for a rate of the user's that none of the group's tensors would get."""
    if "lr" in given and not matrices:
        raise ValueError(f"Group {index} has an lr, which is Muon's, and no matrix for Muon: AdamW's is adamw_lr.")
    if "adamw_lr" in given and not others:
        raise ValueError(f"Group {index} has an adamw_lr, but all of its parameters are hidden matrices: Muon's is lr.")


def _muon_groups(matrices: list[Any], settings: dict[str, Any], decay: Decay, split_from: int) -> list[dict[str, Any]]:
    lr, weight_decay = number("lr", settings["lr"]), number("weight_decay", settings["weight_decay"])
    own = {key: settings[key] for key in ("momentum", "nesterov", "ns_steps", "adjust_lr_fn")}
    check_settings(own)
    # torch's class knows the other settings, and refuses an unknown adjust_lr_fn.
    defaults = torch.optim.Muon([torch.zeros(1, 1)], **own).defaults
    split: dict[float, dict[str, Any]] = {}
    for entry in matrices:
        factor = muon_multiplier(entry[1] if isinstance(entry, tuple) else entry, settings["adjust_lr_fn"])
        scaled = scaled_group(factor, lr, weight_decay, decay, split_from) | {"kind": "muon"}
        split.setdefault(factor, defaults | scaled)["params"].append(entry)
    return list(split.values())


def _adamw_groups(others: list[Any], settings: dict[str, Any], decay: Decay, split_from: int) -> list[dict[str, Any]]:
    if not others:
        return []
    own = {"betas": settings["adamw_betas"], "eps": settings["adamw_eps"]}
    check_settings(own)
    defaults = AdamW([torch.zeros(1)], **own).defaults
    groups = mup_param_groups(
        others, lr=settings["adamw_lr"], weight_decay=settings["adamw_weight_decay"], family="adam", decay=decay
    )
    return [defaults | group | {"split_from": split_from, "kind": "adamw"} for group in groups]


class MuonAdamW(Optimizer):
    """torch's Muon for the groups of kind "muon", torch's AdamW for those of kind "adamw"; made by `MuMuon`.

    Groups have all that their kind's optimizer reads, as the two have different settings and there is one set of defaults.
    """

    def __init__(self, params: list[dict[str, Any]]) -> None:
        super().__init__(params, {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of each; returns what `closure` returns, which computes gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for kind, optimizer in (("muon", torch.optim.Muon), ("adamw", AdamW)):
            if groups := [group for group in self.param_groups if group["kind"] == kind]:
                # torch's own step, on our groups and state. As a part that is kept would hold on to those of before a
                # load_state_dict, each step has a new one.
                part = optimizer.__new__(optimizer)
                part.__setstate__({"defaults": {}, "state": self.state, "param_groups": groups})
                part.step()
        return loss

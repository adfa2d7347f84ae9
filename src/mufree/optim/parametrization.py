"""µP for any module that is built from a width, without an edit.

    model = parametrize(make_model, width=1024, base_width=64, seed=0)
    print(describe(model))
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=2**-8)

Which dimensions grow with width is read from the model at the base width and at twice that, and what a tensor does with them
from its module (`uses`). With g the growth of a tensor's fan-in since the base width, and the model's own initial weights at
that width as the start:

    kind        example                              initial size    Adam's rate    SGD's rate
    embedding   first layer, look-up, token          1               1              growth of fan-out
    vector      bias, gain                           1               1              growth of fan-out
    hidden      growing fan-in and fan-out           g^-½            1/g            growth of fan-out / g
    output      growing fan-in, fixed fan-out        1/g             1/g            1/g
    tied        embedding that is the output, too    1               1              growth of fan-out

This is table 8 of Yang et al. 2022 with the output's multiplier 1/g taken into its weight: by their lemma J.1, a multiplier is
the same as a smaller weight with a smaller rate. So an output layer keeps its class, its forward pass and its name, and what is
saved is the plain model. Only a tied weight can't be small as an output and large as an embedding; there a hook divides the
input of the output layer by g, and `export` writes a model without it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

import torch
from mup.infshape import InfDim, InfShape
from torch import Tensor, nn

from mufree.optim.attention import scale_attention
from mufree.optim.base_shapes import attach, divide_input, outputs_of
from mufree.optim.groups import BaseShapesError, Growth, Kind, growth_of
from mufree.optim.uses import Use, uses_of

Parametrization = Literal["mup", "sp"]
Initial = Literal["own", "kept"]

ADDED = ("bias", "pos", "token", "embed")
"""Words in the names of what is added to activations, where nothing else tells what becomes of a tensor."""
FORCED = get_args(Kind)


def parametrize(
    make_model: Callable[[int], nn.Module],
    width: int,
    base_width: int,
    parametrization: Parametrization = "mup",
    *,
    seed: int | None = None,
    initial: Initial = "own",
    rules: Mapping[str, str] | None = None,
    own_scale: Sequence[str] = (),
) -> nn.Module:
    """`make_model(width)` under µP, ready for an optimizer of `mufree.optim`. At base width it is the plain model, to the bit.

    `make_model(width)` builds any `nn.Module`; it is also called for the base width and twice that, where only shapes and the
    size of initial weights are looked at. With `seed`, all of it draws from that seed, and torch's random state is left as it
    was.

    `initial` says what becomes of the initial weights. "own": the model's own draws, each tensor scaled as the table above has
    it; how the model itself scales it with width (not at all as in most transformers, or as 1/√fan-in as torch's layers) is
    measured against the base width and made up for. "kept": weights stay as they are, for a model that has been trained.

    `rules` maps patterns of parameter names (`fnmatch`) to the kind that they are, for tensors that are understood wrongly or
    not at all; the first that fits counts. "fixed" takes a tensor as one that does not grow.

    `own_scale` are patterns of names of modules, attention as a rule, that multiply by a number of the width in a way that
    suits µP: they are left alone, and no warning names them.

    With `parametrization="sp"` nothing is scaled, and every multiplier is 1: the control that a coordinate check must fail.

    Raises BaseShapesError, naming tensor, shapes and cure, for a tensor that grows and whose use isn't clear, for models whose
    parameters differ in name or in number of dimensions, and for a rule that fits no parameter; ValueError for unknown choices
    and widths below 1. Warns if nothing grows, if a head dimension grows and the scale of its attention isn't found, and of
    other numbers of the width in a forward pass (`attention.scale_attention`).
    Source: Yang et al. 2022 (Tensor Programs V), table 8 and lemma J.1.
    """
    _check(make_model, width, base_width, parametrization, initial, rules or {})
    model = _drawn(make_model, width, seed)
    scaled = initial == "own" and parametrization == "mup" and width != base_width
    base, wider = _shape_models(make_model, base_width, seed, with_weights=scaled)
    shapes = _infshapes(model, base, wider, base_width)
    if parametrization == "sp":
        for parameter in model.parameters():
            attach(parameter, [None] * parameter.dim(), Growth("fixed", (), (), "SP"))
        return model
    _warn_if_nothing_grows(shapes, base_width)
    understood = _understood(model, shapes, rules or {}, base_width)
    for name, parameter in model.named_parameters():
        attach(parameter, shapes[name].base_shape(), understood[name])
    if scaled:
        _scale_initial_weights(model, base, understood)
    for name, growth in understood.items():
        if growth.kind == "tied":
            _divide_inputs_of_outputs(model, name)
    scale_attention(model, base, own_scale)
    return model


def _drawn(make_model: Callable[[int], nn.Module], width: int, seed: int | None) -> nn.Module:
    """The model with its own weights; of a seed, if there is one, and with torch's random state as it was."""
    if seed is None:
        return make_model(width)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which seeds accelerators too
        return make_model(width)


def _check(
    make_model: Any, width: int, base_width: int, parametrization: str, initial: str, rules: Mapping[str, str]
) -> None:
    if isinstance(make_model, nn.Module):
        raise TypeError(
            f"make_model must be a function of the width that builds the model, got a {type(make_model).__name__}: "
            "lambda width: MyModel(width)."
        )
    for name, value in (("width", width), ("base_width", base_width)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
    for what, choice, known in (
        ("parametrization", parametrization, get_args(Parametrization)),
        ("initial", initial, get_args(Initial)),
        *((f"rule for {pattern!r}:", kind, FORCED) for pattern, kind in rules.items()),
    ):
        if choice not in known:
            raise ValueError(f"Unknown {what} {choice!r}. Known: {', '.join(known)}.")


# --- which dimensions grow -------------------------------------------------------------------------------------------


def _shape_models(
    make_model: Callable[[int], nn.Module], base_width: int, seed: int | None, with_weights: bool
) -> tuple[nn.Module, nn.Module]:
    """The model at base width and at twice that, for their shapes; the first with weights, too, if asked for.

    No random number is missed afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        base = make_model(base_width) if with_weights else _on_meta(make_model, base_width)
        return base, _on_meta(make_model, 2 * base_width)


def _on_meta(make_model: Callable[[int], nn.Module], width: int) -> nn.Module:
    """The model without memory for its weights, or with, if its constructor reads numbers from a tensor."""
    try:
        with torch.device("meta"):
            return make_model(width)
    except Exception:  # what a constructor raises there is of any kind; a true fault is raised again
        return make_model(width)


def _infshapes(model: nn.Module, base: nn.Module, wider: nn.Module, base_width: int) -> dict[str, InfShape]:
    """Each parameter's shape, and the base dimension of each dimension that grows; by the parameter's first name."""
    if lazy := [n for n, p in model.named_parameters() if isinstance(p, nn.UninitializedParameter)]:
        raise BaseShapesError(
            f"{lazy[0]} has no shape yet: run lazy modules once in make_model, before they are returned."
        )
    own, at_base, at_twice = ({n: tuple(p.shape) for n, p in m.named_parameters()} for m in (model, base, wider))
    for other, where in ((at_base, base_width), (at_twice, 2 * base_width)):
        if odd := sorted(own.keys() ^ other.keys()):
            raise BaseShapesError(
                f"make_model gives other parameters at width {where}: {', '.join(odd[:5])} are there or not. Width may change "
                "their shapes alone, not their number or names."
            )
    found = {}
    for name, shape in own.items():
        small, large = at_base[name], at_twice[name]
        if not len(shape) == len(small) == len(large) or any(
            s == b and d != b for d, b, s in zip(shape, small, large, strict=True)
        ):
            raise BaseShapesError(
                f"{name} is {small} at width {base_width}, {large} at {2 * base_width} and {shape} in the model: a dimension "
                "must grow with width or stay. Does make_model round widths, or take another setting from somewhere?"
            )
        found[name] = InfShape([InfDim(b if s != b else None, d) for d, b, s in zip(shape, small, large, strict=True)])
    return found


def _warn_if_nothing_grows(shapes: Mapping[str, InfShape], base_width: int) -> None:
    if not any(shape.ninf() for shape in shapes.values()):
        warnings.warn(
            f"No parameter of make_model(width) grows between widths {base_width} and {2 * base_width}: under µP nothing is "
            "scaled then, and the model is trained in the standard parametrization.",
            stacklevel=3,
        )


# --- what each tensor is ---------------------------------------------------------------------------------------------


def _understood(
    model: nn.Module, shapes: Mapping[str, InfShape], rules: Mapping[str, str], base_width: int
) -> dict[str, Growth]:
    uses = uses_of(model)
    unused = [pattern for pattern in rules if not any(fnmatchcase(name, pattern) for name in shapes)]
    if unused:
        raise BaseShapesError(
            f"No parameter fits the rule {unused[0]!r}. Parameters: {', '.join(list(shapes)[:8])}, …."
        )
    found = {}
    for name, shape in shapes.items():
        forced = next((kind for pattern, kind in rules.items() if fnmatchcase(name, pattern)), None)
        growth = _forced(name, forced, shape, uses[name]) if forced else _read(name, shape, uses[name])
        if isinstance(growth, str):
            small = tuple(dim.base_dim or dim.dim for dim in shape)
            raise BaseShapesError(
                f"{name}, {small} at width {base_width} and {tuple(shape.shape())} here: {growth} Say what it is: "
                f'rules={{"{name}": "hidden"}}, or another of {", ".join(FORCED)}.'
            )
        found[name] = growth
    return found


def _read(name: str, shape: InfShape, uses: list[Use]) -> Growth | str:
    """What a tensor is by its uses, or why that isn't clear."""
    growing = [index for index, dim in enumerate(shape) if dim.isinf()]
    if not growing:
        return Growth("fixed", (), (), "no dimension grows")
    sums = [use for use in uses if use.is_sum]
    if not uses:
        return _by_shape(shape, growing, name)
    if not sums:
        return _entry_by_entry(shape, uses, growing)
    read = [_summed(use, growing) for use in sums]
    if error := next((each for each in read if isinstance(each, str)), None):
        return error
    (growth, *others) = [each for each in read if isinstance(each, Growth)]
    if any(_factors(shape, other) != _factors(shape, growth) for other in others):
        return f"it is used in two ways, {growth.why} and {others[0].why}."
    entrywise = [use for use in uses if not use.is_sum]
    if not entrywise or not growth.inputs:
        return growth
    if not growth.outputs:
        tied = tuple(i for i in entrywise[0].outputs if i in growing)
        return Growth("tied", (), tied, f"{entrywise[0].why} and {growth.why}")
    return f"it is used in two ways, {entrywise[0].why} and {growth.why}."


def _summed(use: Use, growing: list[int]) -> Growth | str:
    inputs, outputs = (tuple(i for i in dims if i in growing) for dims in (use.inputs, use.outputs))
    if left := [i for i in growing if i not in (*inputs, *outputs)]:
        return f"its dimension {left[0]} grows and is neither fan-in nor fan-out of {use.why}."
    return Growth("hidden" if inputs and outputs else "output" if inputs else "embedding", inputs, outputs, use.why)


def _entry_by_entry(shape: InfShape, uses: list[Use], growing: list[int]) -> Growth | str:
    if len(growing) > 1 and not any(len(use.outputs) < len(shape) for use in uses):
        return f"two of its dimensions grow, and all that is known of its use is {uses[0].why}."
    outputs = tuple(i for i in growing if any(i in use.outputs for use in uses))
    return Growth("vector" if len(shape) == 1 else "embedding", (), outputs, uses[0].why)


def _factors(shape: InfShape, growth: Growth) -> tuple[float, ...]:
    return tuple(math.prod(shape[i].width_mult() for i in dims) for dims in (growth.inputs, growth.outputs))


def _by_shape(shape: InfShape, growing: list[int], name: str) -> Growth | str:
    """What a tensor is whose use isn't known: by its shape, or by a name that says that it is added to something."""
    own_name = name.rpartition(".")[2]
    if all(dim.isinf() or dim.dim == 1 for dim in shape) and len(growing) == 1:
        return Growth("embedding", (), tuple(growing), "all its other dimensions are 1")
    if len(growing) == 2 and shape[growing[0]].width_mult() == shape[growing[1]].width_mult():
        return Growth("hidden", (growing[0],), (growing[1],), "two dimensions grow alike")
    if len(growing) == 1 and any(word in own_name for word in ADDED):
        return Growth("embedding", (), tuple(growing), f"its name, {own_name}")
    return "how its module uses it isn't known, and the shape alone doesn't tell fan-in from fan-out."


def _forced(name: str, kind: str, shape: InfShape, uses: list[Use]) -> Growth | str:
    growing = tuple(index for index, dim in enumerate(shape) if dim.isinf())
    why = "a rule"
    match kind:
        case "fixed":
            return Growth("fixed", (), (), why)
        case "embedding" | "vector" | "tied":
            return Growth(kind, (), growing, why)
    read = _read(name, shape, [use for use in uses if use.is_sum])
    if kind == "output":
        if not isinstance(read, str) and read.inputs:
            return Growth("output", read.inputs, (), why)
        return Growth("output", growing, (), why) if len(growing) == 1 else "an output's fan-out doesn't grow."
    if not isinstance(read, str) and read.inputs:
        return Growth("hidden", read.inputs, read.outputs, why)
    if len(growing) == 1:
        return Growth("hidden", growing, (), why)
    if len(shape) == 3 and growing == (1, 2):  # stacked matrices, [count, in, out] as for torch.bmm
        return Growth("hidden", (1,), (2,), why)
    return "which of its dimensions is the fan-in isn't known."


# --- initial weights -------------------------------------------------------------------------------------------------


@torch.no_grad()
def _scale_initial_weights(model: nn.Module, base: nn.Module, understood: Mapping[str, Growth]) -> None:
    """Multiply each tensor so that its size has grown since the base width as its kind asks."""
    parameters = dict(model.named_parameters())
    growths = {name: growth_of(parameter)[0] for name, parameter in parameters.items()}
    powers = sorted({g**-p for g in growths.values() if g != 1.0 for p in (0.5, 1.0)} | {1.0})
    for name, at_base in base.named_parameters():
        parameter = parameters[name]
        if parameter.is_meta:
            raise BaseShapesError(f"{name} is on the meta device: give weights first, and then call parametrize.")
        wanted = growths[name] ** -_POWERS.get(understood[name].kind, 0.0)
        factor = wanted / _own_growth(parameter, at_base, powers)
        if factor != 1.0:
            parameter.mul_(factor)


_POWERS: dict[Kind, float] = {"hidden": 0.5, "output": 1.0}
"""The power of 1/g by which the initial size goes, where it goes."""


def _own_growth(parameter: Tensor, at_base: Tensor, powers: list[float]) -> float:
    """By what factor the model itself made the tensor larger than at base width: the power of growth that it looks like.

    Where it looks like none, as under Xavier's rule for a first layer, the factor that is measured. 1 for zeros.
    """
    here, there = (tensor.detach().double().square().mean().sqrt().item() for tensor in (parameter, at_base))
    if not (0.0 < here < math.inf and 0.0 < there < math.inf):
        return 1.0
    measured = math.log(here / there)
    nearest = min(powers, key=lambda power: abs(math.log(power) - measured))
    # The relative error of a size that n normal numbers give is 1/√(2n).
    noise = math.sqrt(0.5 / parameter.numel() + 0.5 / at_base.numel())
    return nearest if abs(math.log(nearest) - measured) <= 4.0 * noise else here / there


# --- tied weights ----------------------------------------------------------------------------------------------------


def _divide_inputs_of_outputs(model: nn.Module, name: str) -> None:
    """Put the multiplier before every module in which the tied weight `name` is an output's."""
    weight = model.get_parameter(name)
    outputs = outputs_of(model, weight)
    for output in outputs:
        divide_input(model.get_submodule(output), growth_of(weight)[1])
    if not outputs:
        raise BaseShapesError(
            f"{name} is an embedding and the output's weight, but no module holds it as an output, so that there is no place "
            "for µP's multiplier. Make one: `self.head = nn.Linear(width, n, bias=False)`, then "
            "`self.head.weight = self.embedding.weight`."
        )

"""Every schedule-free variant under µP against a slow reference, its decay rule, and the traps of the naive construction."""

from __future__ import annotations

import copy
import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mup
import pytest
import schedulefree
import torch
from mup_kinds import BASE, MULTIPLIERS, WIDTH, M, kinds, named
from torch import Tensor, nn
from torch.optim import Optimizer, RMSprop

from mufree import optim
from mufree.optim import (
    VARIANTS,
    MuAdamW,
    MuAdamW_ScheduleFree,
    MuRAdam_ScheduleFree,
    MuScheduleFreeWrapper,
    MuSGD,
    MuSGD_ScheduleFree,
    available_impls,
    mup_param_groups,
)

BETA1, BETA2, EPS, WARMUP = 0.8, 0.95, 1e-12, 5  # BETA1 is no package's default
STEPS = 50


def warmed_up(k: int) -> float:
    return min(1.0, (k + 1) / WARMUP)


def rectified(k: int) -> float:
    """RAdam's factor on the learning rate, 0 where it falls back to SGD (Liu et al. 2020, algorithm 2)."""
    longest = 2 / (1 - BETA2) - 1
    length = longest - 2 * (k + 1) * BETA2 ** (k + 1) / (1 - BETA2 ** (k + 1))
    if length <= 4:
        return 0.0
    return math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))


def corrected(v: Tensor, k: int) -> Tensor:
    return v / (1 - BETA2 ** (k + 1))


@dataclass(frozen=True)
class Case:
    """A variant, how it is made here and by its package, and what its reference needs."""

    make: Callable[..., Any]
    settings: dict[str, Any]
    plain: Callable[..., Any] | None
    column: int = 0  # of MULTIPLIERS
    schedule: Callable[[int], float] = warmed_up
    second_moment: Callable[[Tensor, int], Tensor] | None = corrected  # None for SGD
    decay_at: str = "y"
    closure: bool = False
    more: dict[str, Any] = field(default_factory=dict)


def case(constructor: Callable[..., Any], name: str, settings: dict[str, Any], **more: Any) -> Case:
    impl = getattr(schedulefree, name)
    return Case(functools.partial(constructor, impl=impl), settings, impl, closure=name.endswith("Closure"), **more)


def wrapped(impl: Any, base: Any) -> Callable[..., Any]:
    return lambda parameters, momentum, **kwargs: impl(base(parameters, **kwargs), momentum=momentum)


ADAM = {"lr": 0.01, "betas": (BETA1, BETA2), "eps": EPS, "weight_decay": 0.1, "warmup_steps": WARMUP}
RADAM = {key: value for key, value in ADAM.items() if key != "warmup_steps"}
SGD = {"lr": 0.01, "momentum": BETA1, "weight_decay": 0.1, "warmup_steps": WARMUP}
SHORT_PAPER = {"schedule": lambda k: warmed_up(k) * math.sqrt(1 - BETA2 ** (k + 1)), "second_moment": lambda v, k: v}
ON_SGD: dict[str, Any] = {"schedule": lambda k: 1.0, "second_moment": None, "decay_at": "z", "column": 1}
ON_ADAMW: dict[str, Any] = {"schedule": lambda k: 1.0, "decay_at": "z"}
INNER = {"betas": (0.0, BETA2), "eps": EPS}  # with momentum of its own the base would need a reference of its own

CASES = {
    "AdamWScheduleFree": case(MuAdamW_ScheduleFree, "AdamWScheduleFree", ADAM),
    "AdamWScheduleFree, loop": case(MuAdamW_ScheduleFree, "AdamWScheduleFree", ADAM | {"foreach": False}),
    "AdamWScheduleFreeClosure": case(MuAdamW_ScheduleFree, "AdamWScheduleFreeClosure", ADAM),
    "AdamWScheduleFreePaper": case(MuAdamW_ScheduleFree, "AdamWScheduleFreePaper", ADAM, **SHORT_PAPER),
    "AdamWScheduleFreeReference": case(MuAdamW_ScheduleFree, "AdamWScheduleFreeReference", ADAM),
    "AdamWScheduleFreeReference at z": case(
        MuAdamW_ScheduleFree, "AdamWScheduleFreeReference", ADAM | {"decay_at_z": True}, decay_at="z"
    ),
    "RAdamScheduleFree": case(MuRAdam_ScheduleFree, "RAdamScheduleFree", RADAM, schedule=rectified),
    "RAdamScheduleFreeClosure": case(MuRAdam_ScheduleFree, "RAdamScheduleFreeClosure", RADAM, schedule=rectified),
    "SGDScheduleFree": case(MuSGD_ScheduleFree, "SGDScheduleFree", SGD, second_moment=None, column=1),
    "SGDScheduleFreeClosure": case(MuSGD_ScheduleFree, "SGDScheduleFreeClosure", SGD, second_moment=None, column=1),
    "SGDScheduleFreeReference": case(MuSGD_ScheduleFree, "SGDScheduleFreeReference", SGD, second_moment=None, column=1),
}
for wrapper in ("ScheduleFreeWrapper", "ScheduleFreeWrapperReference"):
    impl = getattr(schedulefree, wrapper)
    make = functools.partial(MuScheduleFreeWrapper, impl=impl)
    settings = {"lr": 0.01, "weight_decay": 0.1, "momentum": BETA1}
    CASES[f"{wrapper} of SGD"] = Case(make, settings, wrapped(impl, torch.optim.SGD), **ON_SGD)
    # The package alone can't run this one: test_the_wrapper_alone_fails_on_most_of_torch.
    CASES[f"{wrapper} of AdamW"] = Case(
        functools.partial(make, base=torch.optim.AdamW), settings | INNER, None, **ON_ADAMW
    )

every_case = pytest.mark.parametrize("name", CASES)


def test_every_installed_variant_is_tested() -> None:
    assert {name.split()[0].rstrip(",") for name in CASES} == {name for name in VARIANTS if hasattr(schedulefree, name)}
    known = {impl for variant in VARIANTS.values() for impl in available_impls(variant.constructor)}
    assert known == {name for name in dir(schedulefree) if is_optimizer(getattr(schedulefree, name))}


def is_optimizer(thing: Any) -> bool:
    return isinstance(thing, type) and callable(getattr(thing, "step", None))


def step(optimizer: Any, case: Case, at_y: Callable[[], None]) -> None:
    """One step; `at_y` sets the gradients, when the parameters are at y."""
    if case.closure:
        optimizer.step(at_y)
    else:
        at_y()
        optimizer.step()


def switch(optimizer: Any, case: Case, mode: str) -> None:
    if not case.closure:  # closure variants stand at x except inside a step
        getattr(optimizer, mode)()


def reference_step(state: dict[str, Any], y: Tensor, grad: Tensor, k: int, lr: float, decay: float, case: Case) -> None:
    """Schedule-free by its definition (Defazio et al. 2024, equations 3 to 5, and section 4) on x and z, one tensor."""
    lr = lr * case.schedule(k)
    direction = grad
    if case.second_moment is not None:
        state["v"] = BETA2 * state["v"] + (1 - BETA2) * grad**2
        direction = grad / (case.second_moment(state["v"], k).sqrt() + EPS)
    point = y if case.decay_at == "y" else state["z"]
    state["z"] = state["z"] - lr * direction - lr * decay * point
    state["lr_max"] = max(state["lr_max"], lr)
    state["sum"] += state["lr_max"] ** 2
    weight = state["lr_max"] ** 2 / state["sum"] if state["sum"] else 0.0
    state["x"] = (1 - weight) * state["x"] + weight * state["z"]


@every_case
@pytest.mark.parametrize("width", [BASE, WIDTH])
def test_each_step_equals_the_definition_with_multipliers_by_hand(
    name: str, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    model = kinds(width, torch.float64)
    optimizer = case.make(model.parameters(), **case.settings)
    by_hand = {n: MULTIPLIERS[n][case.column] if width == WIDTH else 1.0 for n, _ in model.named_parameters()}
    states: dict[str, dict[str, Any]] = {
        n: {"x": p.detach().clone(), "z": p.detach().clone(), "v": torch.zeros_like(p), "lr_max": 0.0, "sum": 0.0}
        for n, p in model.named_parameters()
    }
    generator = torch.Generator().manual_seed(1)
    switch(optimizer, case, "train")
    for k in range(STEPS):

        def at_y(k: int = k) -> None:
            for n, p in model.named_parameters():
                y = (1 - BETA1) * states[n]["z"] + BETA1 * states[n]["x"]
                torch.testing.assert_close(p.detach(), y, rtol=1e-9, atol=1e-12)
                grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
                c = by_hand[n]
                reference_step(states[n], y, grad, k, 0.01 * c, 0.1 / c, case)
                p.grad = grad.clone()  # most variants write into it

        step(optimizer, case, at_y)
    switch(optimizer, case, "eval")
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), states[n]["x"], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(optimizer.state[p]["z"], states[n]["z"], rtol=1e-9, atol=1e-12)


def trained(optimizer: Any, model: nn.Module, case: Case, steps: int = 10, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)

    def at_y() -> None:
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)

    switch(optimizer, case, "train")
    for _ in range(steps):
        step(optimizer, case, at_y)


def same(first: tuple[nn.Module, Any], second: tuple[nn.Module, Any]) -> bool:
    return all(
        torch.equal(p, q) and torch.equal(first[1].state[p]["z"], second[1].state[q]["z"])
        for p, q in zip(first[0].parameters(), second[0].parameters(), strict=True)
    )


with_package = pytest.mark.parametrize("name", [name for name in CASES if CASES[name].plain])


@with_package
def test_at_base_width_it_is_the_package_to_the_bit(name: str) -> None:
    case = CASES[name]
    ours, theirs = kinds(BASE), kinds(BASE)
    assert case.plain is not None
    pair = (
        (ours, case.make(ours.parameters(), **case.settings)),
        (theirs, case.plain(theirs.parameters(), **case.settings)),
    )
    for model, optimizer in pair:
        trained(optimizer, model, case)
    assert same(*pair)
    for _, optimizer in pair:
        switch(optimizer, case, "eval")
    assert same(*pair)
    # and the control: in a wide network the multipliers are felt
    ours, theirs = kinds(), kinds()
    pair = (
        (ours, case.make(ours.parameters(), **case.settings)),
        (theirs, case.plain(theirs.parameters(), **case.settings)),
    )
    for model, optimizer in pair:
        trained(optimizer, model, case)
    assert not same(*pair)


@with_package
@pytest.mark.parametrize("to_ours", [True, False])
def test_state_dicts_of_the_package_are_read_and_written_where_groups_agree(name: str, to_ours: bool) -> None:
    case = CASES[name]
    assert case.plain is not None
    makers = [case.plain, case.make]
    write, read = makers if to_ours else makers[::-1]
    model = kinds(BASE)
    optimizer = write(model.parameters(), **case.settings)
    trained(optimizer, model, case)
    other = kinds(BASE)
    other.load_state_dict(model.state_dict())
    resumed = read(other.parameters(), **case.settings)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    if hasattr(optimizer, "train_mode"):  # the wrappers' state dict lacks it
        resumed.train_mode = optimizer.train_mode
    for m, o in ((model, optimizer), (other, resumed)):
        trained(o, m, case, seed=2)
    assert same((model, optimizer), (other, resumed))


# lr, weight_decay, lr · weight_decay at four times the base width, from lr 0.5 and weight decay 0.25 at base width.
ONE, QUARTER, FOUR = (0.5, 0.25, 0.125), (0.125, 1.0, 0.125), (2.0, 0.0625, 0.125)
UNSCALED_QUARTER, UNSCALED_FOUR = (0.125, 0.25, 0.03125), (2.0, 0.25, 0.5)
BY_HAND = {
    ("adam", False): {"hidden.weight": QUARTER, "wide.weight": QUARTER, "conv.weight": QUARTER},
    ("adam", True): dict.fromkeys(("hidden.weight", "wide.weight", "conv.weight"), UNSCALED_QUARTER),
}
for decoupled, scaled in ((False, FOUR), (True, UNSCALED_FOUR)):
    vector = ("table.weight", "hidden.bias", "norm.weight", "norm.bias", "readout.weight", "shared.weight")
    BY_HAND["sgd", decoupled] = dict.fromkeys(vector, scaled)


@every_case
@pytest.mark.parametrize("decoupled_wd", [False, True])
def test_rates_and_decays_of_every_kind_by_hand(name: str, decoupled_wd: bool) -> None:
    case = CASES[name]
    model = kinds()
    given = case.settings | {"lr": 0.5, "weight_decay": 0.25}
    optimizer = case.make(model.parameters(), decoupled_wd=decoupled_wd, **given)
    home = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    expected = BY_HAND["adam" if case.column == 0 else "sgd", decoupled_wd]
    for n, p in named(model).items():
        group = home[id(p)]
        lr, decay = group["lr"], group["weight_decay"]
        assert (lr, decay, lr * decay) == expected.get(n, ONE), n


def shrinking(name: str, width: int, decoupled_wd: bool) -> dict[str, float]:
    """What the first step that decays takes off each parameter's z, as a fraction, with gradients of zero."""
    case = CASES[name]
    model = kinds(width, torch.float64)
    for p in model.parameters():
        nn.init.ones_(p)
    optimizer = case.make(model.parameters(), decoupled_wd=decoupled_wd, **case.settings)

    def at_y() -> None:
        for p in model.parameters():
            p.grad = torch.zeros_like(p)

    switch(optimizer, case, "train")
    for _ in range(10):  # RAdam's first steps are silent
        step(optimizer, case, at_y)
        off = {n: 1 - optimizer.state[p]["z"].flatten()[0].item() for n, p in model.named_parameters()}
        if any(off.values()):
            return off
    raise AssertionError("no step decayed")


@every_case
def test_decay_a_step_does_not_depend_on_width_unless_decoupled(name: str) -> None:
    column = CASES[name].column
    base = shrinking(name, BASE, decoupled_wd=False)
    coupled, decoupled = shrinking(name, WIDTH, decoupled_wd=False), shrinking(name, WIDTH, decoupled_wd=True)
    assert shrinking(name, BASE, decoupled_wd=True) == base
    assert all(0 < off < 0.01 for off in base.values())
    for n in base:
        assert coupled[n] == pytest.approx(base[n], rel=1e-9)
        assert decoupled[n] == pytest.approx(base[n] * MULTIPLIERS[n][column], rel=1e-9)
    if column == 0:
        assert decoupled["hidden.weight"] == pytest.approx(base["hidden.weight"] / M, rel=1e-9)


@every_case
@pytest.mark.parametrize(("r", "weight_lr_power"), [(0.0, 2.0), (1.0, 2.0), (0.0, 0.5), (0.0, 0.0)])
def test_averaging_weights_do_not_see_the_multiplier(name: str, r: float, weight_lr_power: float) -> None:
    case = CASES[name]
    model = kinds()
    optimizer = case.make(model.parameters(), **case.settings, r=r, weight_lr_power=weight_lr_power)
    groups = optimizer.param_groups
    assert len({group["lr_multiplier"] for group in groups}) == len(groups) == 2
    sums: list[list[float]] = [[], []]
    switch(optimizer, case, "train")

    def at_y() -> None:
        for p in model.parameters():
            p.grad = torch.ones_like(p)

    for _ in range(12):
        step(optimizer, case, at_y)
        for series, group in zip(sums, groups, strict=True):
            series.append(group["weight_sum"])
    first, second = ([b - a for a, b in zip([0.0, *s[:-1]], s, strict=True)] for s in sums)
    averaging = [
        [w / s if s else 0.0 for w, s in zip(*pair, strict=True)] for pair in ((first, sums[0]), (second, sums[1]))
    ]
    largest = [max(map(case.schedule, range(k + 1))) for k in range(12)]
    weights = [(k + 1) ** r * largest[k] ** weight_lr_power for k in range(12)]
    by_hand = [w / sum(weights[: k + 1]) if sum(weights[: k + 1]) else 0.0 for k, w in enumerate(weights)]
    assert averaging[0] == pytest.approx(by_hand, rel=1e-9)
    assert averaging[1] == pytest.approx(by_hand, rel=1e-9)
    # the control: what is no constant factor is seen
    dict.__setitem__(groups[0], "lr", 3 * groups[0]["lr"])  # past what keeps the groups in ratio
    step(optimizer, case, at_y)
    new = [group["weight_sum"] for group in groups]
    seen = [(n - s[-1]) / n for n, s in zip(new, sums, strict=True)]
    assert (seen[0] == pytest.approx(seen[1], rel=1e-6)) == (weight_lr_power == 0.0)


@every_case
def test_a_first_learning_rate_of_zero(name: str) -> None:
    case = CASES[name]
    model = kinds()
    optimizer = case.make(model.parameters(), **case.settings)
    rates = [group["lr"] for group in optimizer.param_groups]
    before = [p.detach().clone() for p in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    if "Wrapper" in name:
        with pytest.raises(ZeroDivisionError):
            trained(optimizer, model, case, steps=1)
        return
    trained(optimizer, model, case, steps=1)
    for p, q in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), q)  # the Reference variants round when they make y of x and z
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr
    trained(optimizer, model, case)
    assert all(p.isfinite().all() and not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


# ScheduleFree+ isn't on PyPI: only the rule that is chosen for its name can be tested.
class AdamCScheduleFreePlusPaper(torch.optim.Optimizer):
    def __init__(self, params: Any, lr: float = 1.0, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})


@pytest.mark.parametrize(("decoupled_wd", "decay"), [(False, 0.25 * 16), (True, 0.25)])
def test_schedule_free_plus_takes_the_squared_rule(decoupled_wd: bool, decay: float) -> None:
    model = kinds()
    with pytest.warns(UserWarning, match="experimental") as caught:
        optimizer = MuAdamW_ScheduleFree(
            model.parameters(), AdamCScheduleFreePlusPaper, decoupled_wd, lr=0.5, weight_decay=0.25
        )
    assert caught[0].filename == __file__
    vector, matrix = optimizer.param_groups
    assert (vector["lr"], vector["weight_decay"]) == (0.5, 0.25)
    assert (matrix["lr"], matrix["weight_decay"]) == (0.125, decay)


def test_defaults_are_those_of_the_variant() -> None:
    lr = {
        make.__name__: make(kinds(BASE).parameters()).param_groups[0]["lr"]
        for make in (MuAdamW, MuAdamW_ScheduleFree, MuRAdam_ScheduleFree, MuSGD_ScheduleFree, MuScheduleFreeWrapper)
    }
    assert lr == {
        "MuAdamW": 0.001,
        "MuAdamW_ScheduleFree": 0.0025,
        "MuRAdam_ScheduleFree": 0.0025,
        "MuSGD_ScheduleFree": 1.0,
        "MuScheduleFreeWrapper": 0.001,
    }
    assert MuAdamW(kinds().parameters()).param_groups[0]["weight_decay"] == 0.0  # torch's own is 0.01


def test_each_constructor_refuses_the_others_impl_and_says_which_takes_it() -> None:
    model = kinds()
    for name, variant in VARIANTS.items():
        if not hasattr(schedulefree, name):
            continue
        for constructor in {v.constructor for v in VARIANTS.values()} - {variant.constructor} | {"MuAdamW"}:
            with pytest.raises(ValueError, match=f"{name}'.* {variant.constructor} takes it"):
                getattr(optim, constructor)(model.parameters(), impl=getattr(schedulefree, name))


class MyScheduleFree(schedulefree.AdamWScheduleFree):
    pass


def test_subclasses_take_the_rule_of_their_class() -> None:
    _, matrix = MuAdamW_ScheduleFree(kinds().parameters(), MyScheduleFree, weight_decay=0.25).param_groups
    assert matrix["weight_decay"] == 1.0
    with pytest.raises(ValueError, match=r"MyScheduleFree'\. MuAdamW_ScheduleFree takes it"):
        MuSGD_ScheduleFree(kinds().parameters(), MyScheduleFree)


class Lion(torch.optim.Optimizer):
    """Any optimizer that torch hasn't."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0})


class MyAdamW(torch.optim.AdamW):
    pass


def made_by_muon(groups: Any, **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.Muon(groups, **settings)


@pytest.mark.parametrize(
    ("impl", "family"),
    [
        (torch.optim.NAdam, None),
        (torch.optim.Adagrad, None),
        (MyAdamW, None),
        (functools.partial(torch.optim.AdamW, amsgrad=True), None),
        (Lion, "adam"),
        (lambda groups, lr: Lion(groups, lr), "adam"),
    ],
)
def test_muadamw_takes_what_scales_as_adam_does(impl: Any, family: Any) -> None:
    rates = [group["lr"] for group in MuAdamW(kinds().parameters(), impl, family=family, lr=0.5).param_groups]
    assert rates == [0.5, 0.5 / M]


def test_what_cannot_scale_with_width_is_refused_with_the_reason() -> None:
    model = kinds()
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    scaled = torch.optim.SGD(mup_param_groups(model.parameters(), lr=0.1, family="sgd"), lr=0.1)
    l2 = torch.optim.Adam(mup_param_groups(model.parameters(), lr=0.1, weight_decay=0.1))
    silent = [{"params": model.parameters(), "silent_sgd_phase": False}]
    once = MuAdamW_ScheduleFree(model.parameters())
    closure = MuSGD_ScheduleFree(model.parameters(), schedulefree.SGDScheduleFreeClosure)
    p = model.hidden.weight
    inside = "adds weight_decay · weight to the gradient"
    refused: list[tuple[str, Callable[..., Any], Any, dict[str, Any]]] = [
        ("without normalising", MuRAdam_ScheduleFree, model.parameters(), {"silent_sgd_phase": False}),
        ("without normalising", MuRAdam_ScheduleFree, silent, {}),
        ("weight_decay_at_y=0.1 is one number", MuScheduleFreeWrapper, model.parameters(), {"weight_decay_at_y": 0.1}),
        (f"Adam {inside}", MuAdamW, model.parameters(), {"impl": torch.optim.Adam, "weight_decay": 0.1}),
        (f"RMSprop {inside}", MuScheduleFreeWrapper, model.parameters(), {"base": RMSprop, "weight_decay": 0.1}),
        (f"Adam {inside}", MuScheduleFreeWrapper, l2, {}),
        ("first steps without", MuAdamW, model.parameters(), {"impl": torch.optim.RAdam}),
        ("first steps without", MuScheduleFreeWrapper, [], {"base": torch.optim.RAdam}),
        (
            "first steps without",
            MuScheduleFreeWrapper,
            model.parameters(),
            {"base": torch.optim.RAdam, "family": "adam"},
        ),
        ("aren't µP's", MuScheduleFreeWrapper, plain, {}),
        ("AdamWScheduleFree is schedule-free already", MuScheduleFreeWrapper, once, {}),
        ("SGDScheduleFreeClosure is schedule-free already", MuScheduleFreeWrapper, closure, {}),
        ("ScheduleFreeWrapper is schedule-free already", MuScheduleFreeWrapper, MuScheduleFreeWrapper([p]), {}),
        (
            "AdamWScheduleFree is schedule-free already",
            MuScheduleFreeWrapper,
            [p],
            {"base": schedulefree.AdamWScheduleFree, "family": "adam"},
        ),
        (
            "ScheduleFreeWrapper is schedule-free already",
            MuScheduleFreeWrapper,
            [p],
            {"base": lambda groups, lr: schedulefree.ScheduleFreeWrapper(RMSprop(groups)), "family": "adam", "lr": 0.1},
        ),
        ("'Muon' orthogonalises its steps.* MuMuon does it", MuAdamW, [p], {"impl": torch.optim.Muon}),
        ("'Muon' orthogonalises", MuAdamW, [p], {"impl": torch.optim.Muon, "family": "adam"}),
        ("'Muon' orthogonalises", MuAdamW, [p], {"impl": made_by_muon, "family": "adam"}),
        ("'Muon' orthogonalises", MuScheduleFreeWrapper, [p], {"base": torch.optim.Muon, "family": "adam"}),
        ("'Muon' orthogonalises", MuScheduleFreeWrapper, torch.optim.Muon(mup_param_groups([p], lr=0.1)), {}),
        ("steps of impl 'Lion' scale isn't known: give family='adam'", MuAdamW, [p], {"impl": Lion}),
        ("steps of impl '<lambda>' scale isn't known", MuAdamW, [p], {"impl": lambda groups, **_: Lion(groups)}),
        ("steps of impl 'Adafactor' scale isn't known", MuAdamW, [p], {"impl": torch.optim.Adafactor}),
        ("those like 'SGD' otherwise", MuAdamW, [p], {"impl": functools.partial(torch.optim.SGD, momentum=0.9)}),
        ("made already: lr", MuScheduleFreeWrapper, scaled, {"lr": 0.1}),
        ("torch's SGD or a subclass, got impl 'AdamW'", MuSGD, model.parameters(), {"impl": torch.optim.AdamW}),
        ("those like 'SGD' otherwise", MuAdamW, model.parameters(), {"impl": torch.optim.SGD}),
        ("can't take impl 'AdamW'. Known: AdamWScheduleFree,", MuAdamW_ScheduleFree, [], {"impl": torch.optim.AdamW}),
        ("base 'LBFGS' scale isn't known", MuScheduleFreeWrapper, [], {"base": torch.optim.LBFGS}),
        ("lr is missing", MuAdamW_ScheduleFree, model.parameters(), {"lr": None}),
    ]
    for said, make, params, settings in refused:
        with pytest.raises(ValueError, match=said):
            make(params, **settings)
    MuAdamW(model.parameters(), impl=torch.optim.Adam)
    MuAdamW(model.parameters(), impl=torch.optim.Adam, weight_decay=0.1, decoupled_weight_decay=True)


def test_the_wrapper_takes_a_class_a_function_or_an_optimizer() -> None:
    settings = {"lr": 0.01, "weight_decay": 0.1}
    heavy = functools.partial(torch.optim.SGD, momentum=0.5)

    def made(model: nn.Module) -> list[Any]:
        groups = mup_param_groups(model.parameters(), family="sgd", **settings)
        return [
            MuScheduleFreeWrapper(model.parameters(), heavy, **settings),
            MuScheduleFreeWrapper(
                model.parameters(), lambda groups, lr: heavy(groups, lr=lr), family="sgd", **settings
            ),
            MuScheduleFreeWrapper(heavy(groups), momentum=0.9),
        ]

    results = []
    for i in range(3):
        model = kinds()
        optimizer = made(model)[i]
        trained(optimizer, model, CASES["ScheduleFreeWrapper of SGD"])
        results.append((model, optimizer))
    assert same(results[0], results[1])
    assert same(results[0], results[2])


def test_tensors_that_the_wrapper_cannot_swap_are_refused_and_its_reference_takes_them() -> None:
    scale = nn.Parameter(torch.tensor(1.0))
    scale.infshape = mup.InfShape([])
    conv = kinds().conv.weight
    channels_last = nn.Parameter(conv.detach().to(memory_format=torch.channels_last))
    channels_last.infshape = conv.infshape
    for parameter in (scale, channels_last):
        with pytest.raises(ValueError, match="can't swap a tensor of shape"):
            MuScheduleFreeWrapper([parameter])
        optimizer = MuScheduleFreeWrapper([parameter], impl=schedulefree.ScheduleFreeWrapperReference)
        before = parameter.detach().clone()
        optimizer.train()
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        assert not torch.equal(before, parameter)
        naive = schedulefree.ScheduleFreeWrapper(torch.optim.SGD([parameter], lr=0.1))
        naive.train()
        with pytest.raises(RuntimeError, match="to view Float as Byte"):
            naive.step()


@pytest.mark.parametrize("base", [torch.optim.AdamW, torch.optim.Adam, torch.optim.RMSprop, torch.optim.NAdam])
def test_the_wrapper_alone_fails_on_most_of_torch(base: type[torch.optim.Optimizer]) -> None:
    case = CASES["ScheduleFreeWrapper of SGD"]
    model = kinds(BASE)
    with pytest.raises(KeyError):
        trained(schedulefree.ScheduleFreeWrapper(base(model.parameters(), lr=0.01)), model, case)
    model = kinds(BASE)
    optimizer = MuScheduleFreeWrapper(model.parameters(), base, lr=0.01)
    trained(optimizer, model, case)
    assert all(p.isfinite().all() for p in model.parameters())
    assert all({"z", "step"} <= optimizer.state[p].keys() for p in model.parameters())


def naive(params: Any, **kwargs: Any) -> Any:
    return mup.MuAdam(params, impl=schedulefree.AdamWScheduleFree, **kwargs)


def test_the_naive_construction_writes_into_the_callers_groups_and_ours_does_not() -> None:
    model = kinds()
    for make, keys in ((naive, {"params", "lr", "weight_decay"}), (MuAdamW_ScheduleFree, {"params"})):
        given = [{"params": [model.hidden.weight]}]
        make(given, lr=0.1)
        assert set(given[0]) == keys


def test_the_naive_construction_makes_empty_groups_and_more_than_it_needs() -> None:
    model = kinds()
    matrices = [model.hidden.weight, model.wide.weight]
    assert [len(group["params"]) for group in naive(matrices, lr=0.1).param_groups] == [2, 0]
    assert [len(group["params"]) for group in MuAdamW_ScheduleFree(matrices).param_groups] == [2]
    narrow = kinds(BASE)
    assert len(naive(narrow.parameters(), lr=0.1).param_groups) == 2
    assert len(MuAdamW_ScheduleFree(narrow.parameters()).param_groups) == 1


def test_the_naive_construction_scales_groups_that_were_scaled_before() -> None:
    model = kinds()
    once = naive(model.parameters(), lr=0.1)
    twice = naive(once.param_groups, lr=0.1)
    assert min(group["lr"] for group in twice.param_groups) == 0.1 / M**2
    with pytest.raises(ValueError, match="scaled before"):
        MuAdamW_ScheduleFree(MuAdamW_ScheduleFree(model.parameters()).param_groups)


def test_lost_base_shapes_are_no_bare_assertion_here() -> None:
    plain = nn.Linear(3, 2)
    with pytest.raises(AssertionError):
        naive(plain.parameters(), lr=0.1)
    with pytest.raises(optim.BaseShapesError, match=r"no `infshape`. Make the model with mufree\.parametrize"):
        MuAdamW_ScheduleFree(plain.parameters())


def test_frozen_parameters_and_those_without_gradients_stay() -> None:
    model = kinds()
    model.hidden.weight.requires_grad_(False)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = MuAdamW_ScheduleFree(model.parameters(), weight_decay=0.1)
    optimizer.train()
    for _ in range(3):
        model.norm.weight.grad = torch.ones_like(model.norm.weight)
        optimizer.step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {"norm.weight"}


# Which document row belongs to which rule, and what the rules make of the weight decay, in the document's words.
DOCUMENT = Path(__file__).parents[2] / "docs" / "weight-decay.md"
WORDS = {
    ("adam", "coupled"): ("lr · wd", "wd · m", "lr · wd", "lr · wd / m"),
    ("adam", "coupled_squared"): ("lr² · wd", "wd · m²", "lr² · wd", "lr² · wd / m²"),
    ("sgd", "coupled"): ("lr · wd", "wd / m", "lr · wd", "lr · wd · m"),
    ("the base's", "coupled"): ("lr · wd", "wd / c", "lr · wd", "lr · wd · c"),
}


def decision_table() -> dict[str, list[str]]:
    rows = [
        line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if re.match(r"\| `\w*ScheduleFree\w*`", line)
    ]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]
    return {row[0]: row[1:] for row in split}


def test_the_document_and_the_code_have_one_decision_table() -> None:
    table = decision_table()
    in_code = {f"`{name}`" + " (experimental)" * variant.experimental: variant for name, variant in VARIANTS.items()}
    assert list(table) == list(in_code)
    for name, variant in in_code.items():
        constructor, family, _, takes_off, rule, becomes, scaled, unscaled = table[name]
        assert constructor == f"`{variant.constructor}`"
        assert family == (variant.family or "the base's")
        assert rule == variant.decay
        assert (takes_off, becomes, scaled, unscaled) == WORDS[family, rule]


def test_the_document_says_where_each_variant_decays() -> None:
    table = decision_table()
    for name, case in CASES.items():
        row = table[f"`{name.split()[0].rstrip(',')}`"]
        assert re.search(rf"\b{case.decay_at}\b", row[2])


def test_sgd_is_scaled_as_mup_scales_it() -> None:
    """Rates and decays, parameter by parameter, of `mup`'s own; with decoupled_wd the decay stays as it is given."""
    model = kinds()
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    theirs, ours = (
        {
            id(p): (group["lr"], group["weight_decay"])
            for group in make(list(model.parameters()), **settings).param_groups
            for p in group["params"]
        }
        for make in (mup.MuSGD, MuSGD)
    )
    assert theirs.keys() == ours.keys()
    assert len({lr for lr, _ in ours.values()}) > 1
    for name, p in model.named_parameters():
        assert ours[id(p)] == pytest.approx(theirs[id(p)]), name
    independent = MuSGD(model.parameters(), decoupled_wd=True, **settings)
    assert {group["weight_decay"] for group in independent.param_groups} == {0.01}


@pytest.mark.parametrize(
    ("make", "settings", "kind", "said"),
    [
        (MuAdamW_ScheduleFree, {"lr": "0.1"}, TypeError, "lr must be a number, got '0.1'"),
        (MuAdamW_ScheduleFree, {"lr": True}, TypeError, "lr must be a number, got True"),
        (MuAdamW_ScheduleFree, {"betas": (0.9, 1.0)}, ValueError, "betas must be at least 0 and below 1, got 1.0"),
        (MuAdamW, {"betas": ("0.9", 0.99)}, TypeError, "betas must be a number, got '0.9'"),
        (MuSGD_ScheduleFree, {"momentum": math.nan}, ValueError, "momentum must be at least 0 and below 1, got nan"),
        (MuSGD_ScheduleFree, {"warmup_steps": -5}, ValueError, "warmup_steps must be finite and not negative, got -5"),
        (MuRAdam_ScheduleFree, {"weight_decay": "0"}, TypeError, "weight_decay must be a number, got '0'"),
        (MuAdamW_ScheduleFree, {"betas": (0.9,)}, TypeError, "betas must be two numbers, got (0.9,)"),
        (
            MuAdamW_ScheduleFree,
            {"eps": torch.tensor(1e-8)},
            TypeError,
            "eps must be a plain number, got tensor(1.0000e-08)",
        ),
        (MuAdamW_ScheduleFree, {"r": math.nan}, ValueError, "r must be finite, got nan"),
        (MuScheduleFreeWrapper, {"lr": True}, TypeError, "lr must be a number, got True"),
        (MuScheduleFreeWrapper, {"momentum": "0.9"}, TypeError, "momentum must be a number, got '0.9'"),
        (MuScheduleFreeWrapper, {"r": "0"}, TypeError, "r must be a number, got '0'"),
        (MuScheduleFreeWrapper, {"weight_decay_at_y": "0"}, TypeError, "weight_decay_at_y must be a number, got '0'"),
        (MuAdamW_ScheduleFree, {"eps": -1e-8}, ValueError, "eps must be finite and not negative, got -1e-08"),
    ],
)
def test_what_is_no_usable_number_is_refused_by_name(
    make: Callable[..., Optimizer], settings: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=re.escape(said)):
        make(kinds().parameters(), **settings)

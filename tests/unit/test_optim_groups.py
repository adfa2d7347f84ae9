"""Parameter groups: learning rates and weight decays by hand, what is kept, what is refused."""

from __future__ import annotations

import math
import re
from typing import Any

import mup
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mup_kinds import BASE, MULTIPLIERS, WIDTH, M, kinds, named
from torch import nn

from mufree.optim import (
    BaseShapesError,
    MuAdamW_ScheduleFree,
    MuSGD_ScheduleFree,
    describe,
    lr_multiplier,
    mup_param_groups,
)
from mufree.optim.groups import growing_of
from mufree.optim.groups import number as checked_number

Groups = list[dict[str, Any]]


def by_name(model: nn.Module, groups: Groups) -> dict[str, dict[str, Any]]:
    home = {id(p): group for group in groups for p in group["params"]}
    return {name: home[id(p)] for name, p in named(model).items()}


@pytest.mark.parametrize("name", MULTIPLIERS)
@pytest.mark.parametrize(("family", "column"), [("adam", 0), ("sgd", 1)])
def test_learning_rate_and_decay_of_every_kind(name: str, family: Any, column: int) -> None:
    model = kinds()
    c = MULTIPLIERS[name][column]
    settings: dict[str, Any] = {"lr": 0.5, "weight_decay": 0.25, "family": family}
    made = {
        decay: by_name(model, mup_param_groups(model.parameters(), decay=decay, **settings))[name]
        for decay in ("coupled", "coupled_squared", "independent", "unscaled")
    }
    assert {group["lr"] for group in made.values()} == {0.5 * c}
    assert {group["lr_multiplier"] for group in made.values()} == {c}
    assert made["coupled"]["lr"] * made["coupled"]["weight_decay"] == 0.5 * 0.25
    assert made["coupled_squared"]["lr"] ** 2 * made["coupled_squared"]["weight_decay"] == 0.5**2 * 0.25
    assert made["independent"]["weight_decay"] == made["unscaled"]["weight_decay"] == 0.25
    none = by_name(model, mup_param_groups(model.parameters(), lr=0.5, family=family, decay="none"))[name]
    assert (none["lr"], none["weight_decay"]) == (0.5 * c, 0.0)


def test_at_base_width_there_is_one_group_and_every_multiplier_is_one() -> None:
    model = kinds(BASE)
    assert {lr_multiplier(p, family) for p in model.parameters() for family in ("adam", "sgd")} == {1.0}
    assert len(mup_param_groups(model.parameters(), lr=0.1, eps=1e-8, eps_scale="gradient")) == 1


def test_groups_agree_with_mup_where_mup_is_right() -> None:
    model = kinds()
    for family, theirs in (("adam", mup.MuAdam), ("sgd", mup.MuSGD)):
        ours = by_name(model, mup_param_groups(model.parameters(), lr=0.5, weight_decay=0.25, family=family))
        packaged = by_name(model, theirs(model.parameters(), lr=0.5, weight_decay=0.25).param_groups)
        for name in ours:
            assert ours[name]["lr"] == packaged[name]["lr"]
            assert ours[name]["weight_decay"] == packaged[name]["weight_decay"]


def test_user_groups_are_kept_and_never_changed() -> None:
    model = kinds()
    given = [
        {"params": [model.hidden.weight, model.hidden.bias], "lr": 0.5, "note": "a"},
        {"params": model.norm.parameters(), "weight_decay": 0.0},
        {"params": model.readout.weight},
        {"params": []},
    ]
    before = [dict(group) for group in given]
    groups = mup_param_groups(given, lr=0.25, weight_decay=0.125)
    assert [list(group) for group in given] == [list(group) for group in before]
    assert all(group[key] is earlier[key] for group, earlier in zip(given, before, strict=True) for key in group)
    assert [[tuple(p.shape) for p in group["params"]] for group in groups] == [
        [(WIDTH, WIDTH)],
        [(WIDTH,)],
        [(WIDTH,), (WIDTH,)],
        [(5, WIDTH)],
    ]
    assert [group["lr"] for group in groups] == [0.5 / M, 0.5, 0.25, 0.25]
    assert [group["weight_decay"] for group in groups] == [0.125 * M, 0.125, 0.0, 0.125]
    assert [group.get("note") for group in groups] == ["a", "a", None, None]


def test_numbers_become_plain_floats() -> None:
    groups = mup_param_groups(kinds().parameters(), lr=torch.tensor(0.5), weight_decay=1)  # type: ignore[arg-type]
    for group in groups:
        assert {type(group[key]) for key in ("lr", "weight_decay", "lr_multiplier")} == {float}


def test_tied_frozen_and_gradientless_parameters_are_kept_once() -> None:
    model = kinds()
    model.hidden.weight.requires_grad_(False)
    tied = [model.table.weight, *model.parameters(), model.shared.weight]
    grouped = [p for group in mup_param_groups(tied, lr=0.1) for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))
    by_both_names = mup_param_groups(model.named_parameters(remove_duplicate=False), lr=0.1)
    kept = [name for group in by_both_names for name, _ in group["params"]]
    assert sorted(kept) == sorted(name for name, _ in model.named_parameters())


def test_a_parameter_in_two_groups_is_refused() -> None:
    model = kinds()
    given = [{"params": named(model)["table.weight"]}, {"params": [("shared.weight", model.shared.weight)]}]
    with pytest.raises(ValueError, match=r"'shared\.weight' is in groups 0 and 1"):
        mup_param_groups(given, lr=0.1)


def test_names_reach_the_optimizer() -> None:
    model = kinds()
    given = [{"params": [model.norm.weight, model.hidden.weight]}, {"params": [model.norm.bias]}]
    expected = [["norm.weight"], ["hidden.weight"], ["norm.bias"]]
    optimizer = MuAdamW_ScheduleFree(given, names=model.named_parameters())
    assert [group["param_names"] for group in optimizer.param_groups] == expected
    pairs = [{"params": [("norm.weight", model.norm.weight), ("hidden.weight", model.hidden.weight)]}]
    optimizer = MuAdamW_ScheduleFree(pairs)
    assert [group["param_names"] for group in optimizer.param_groups] == expected[:2]
    plain = torch.optim.SGD(model.named_parameters(), lr=0.1)
    regrouped = MuAdamW_ScheduleFree(plain.param_groups)
    found = {name: p for g in regrouped.param_groups for name, p in zip(g["param_names"], g["params"], strict=True)}
    assert all(found[name] is p for name, p in model.named_parameters())


def pinned(*dims: tuple[int | None, int]) -> nn.Parameter:
    parameter = nn.Parameter(torch.ones([dim for _, dim in dims]))
    parameter.infshape = mup.InfShape([mup.InfDim(base, dim) for base, dim in dims])
    return parameter


def test_base_shapes_that_are_missing_or_not_covered_are_said() -> None:
    with pytest.raises(BaseShapesError, match=r"\(2, 3\) has no `infshape`"):
        mup_param_groups(nn.Linear(3, 2).parameters(), lr=0.1)
    with pytest.raises(BaseShapesError, match=r"'weight': .*mufree\.parametrize"):
        mup_param_groups(nn.Linear(3, 2).named_parameters(), lr=0.1)
    with pytest.raises(BaseShapesError, match="3 dimensions"):
        lr_multiplier(pinned((2, 4), (2, 4), (2, 4), (None, 3)))


def test_what_cannot_be_grouped_is_refused_with_the_cure() -> None:
    model = kinds()
    p, q = model.hidden.weight, model.norm.weight
    used_up = model.parameters()
    list(used_up)
    scaled = mup_param_groups([p], lr=0.1)
    refused: list[tuple[type[Exception], str, Any, dict[str, Any]]] = [
        (ValueError, "lr is missing", [p], {"lr": None}),
        (ValueError, "lr is missing", [{"params": [p], "lr": None}], {}),
        (ValueError, "lr must be finite and not negative, got -0.1", [p], {"lr": -0.1}),
        (ValueError, "lr must be finite", [{"params": [p], "lr": math.nan}], {}),
        (ValueError, "lr must be finite", [p], {"lr": math.inf}),
        (TypeError, "lr must be a number, got '0.1'", [p], {"lr": "0.1"}),
        (TypeError, "lr must be a number, got True", [p], {"lr": True}),
        (TypeError, "lr must be a number, got '0.1'", [{"params": [p], "lr": "0.1"}], {}),
        (TypeError, r"lr must be a number, got tensor\(\[", [p], {"lr": torch.ones(2)}),
        (TypeError, r"lr must be a number, got tensor\(True\)", [p], {"lr": torch.tensor(True)}),
        (ValueError, "lr must be finite", [p], {"lr": 10**400}),
        (TypeError, "eps must be a number, got '1e-8'", [{"params": [p], "lr": 0.1, "eps": "1e-8"}], {}),
        (TypeError, r"betas must be two numbers, got 0\.9", [{"params": [p], "lr": 0.1, "betas": 0.9}], {}),
        (ValueError, "momentum must be at least 0 and below 1, got 1", [{"params": [p], "lr": 0.1, "momentum": 1}], {}),
        (ValueError, "weight_decay must be finite and not negative, got -1", [p], {"weight_decay": -1}),
        (ValueError, "weight_decay is missing", [{"params": [p], "weight_decay": None}], {}),
        (ValueError, "empty parameter list; was a generator used up", used_up, {}),
        (ValueError, "All parameter groups are empty", [{"params": []}], {}),
        (ValueError, "Unknown family 'lion'. Known: adam, sgd", [p], {"family": "lion"}),
        (ValueError, "Unknown decay 'l2'. Known: coupled, ", [p], {"decay": "l2"}),
        (ValueError, "Unknown eps_scale 'rms'", [p], {"eps_scale": "rms"}),
        (ValueError, "eps is missing", [p], {"eps_scale": "gradient"}),
        (ValueError, "contradict", [{"params": [p], "weight_decay": 0.1}], {"decay": "none"}),
        (ValueError, "Group 0 was scaled before", scaled, {}),
        (ValueError, "name all of them or none", [("p", p), q], {}),
        (ValueError, "name all of them or none", [p, q], {"names": [("p", p)]}),
        (TypeError, r"model.parameters\(\) is what is usually meant", model, {}),
        (TypeError, "got a Parameter", p, {}),
        (TypeError, "no order", {p}, {}),
        (TypeError, "no order", [{"params": {p}}], {}),
        (TypeError, "Entry 1 of params is no group dict", [{"params": [p]}, q], {}),
        (TypeError, "Entry 0 of params is no group dict with 'params'", [{"lr": 0.1}], {}),
        (TypeError, "got str", ["hidden.weight"], {}),
    ]
    for error, said, params, changed in refused:
        with pytest.raises(error, match=said):
            mup_param_groups(params, **({"lr": 0.1} | changed))


def test_each_group_may_bring_its_own_learning_rate() -> None:
    model = kinds()
    assert mup_param_groups([{"params": [model.hidden.weight], "lr": 1.0}])[0]["lr"] == 1 / M


def test_epsilon_follows_the_gradient() -> None:
    model = kinds()
    found = by_name(model, mup_param_groups(model.parameters(), lr=0.1, eps=1e-8, eps_scale="gradient"))
    fixed = {"temperature", "readout.bias"}
    assert {name: group["eps"] for name, group in found.items()} == {
        name: 1e-8 if name in fixed else 1e-8 / M for name in found
    }
    optimizer = MuAdamW_ScheduleFree(model.parameters(), eps=1e-6, eps_scale="gradient")
    assert {group["eps"] for group in optimizer.param_groups} == {1e-6, 1e-6 / M}
    assert {group["eps"] for group in MuAdamW_ScheduleFree(model.parameters()).param_groups} == {1e-8}


def gradient_scales(width: int) -> dict[str, float]:
    def make(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), mup.MuReadout(width, 3)
        )

    total: dict[str, float] = {}
    for seed in range(4):
        torch.manual_seed(seed)
        model = make(width)
        mup.set_base_shapes(model, make(32), delta=make(64))
        inputs, labels = torch.randn(64, 8), torch.randint(3, (64,))
        nn.functional.cross_entropy(model(inputs), labels).backward()
        for name, p in model.named_parameters():
            assert p.grad is not None
            total[name] = total.get(name, 0.0) + p.grad.square().mean().item()
    return {name: math.sqrt(mean_square / 4) for name, mean_square in total.items()}


def test_gradients_do_shrink_as_the_epsilon_rule_says() -> None:
    narrow, wide = gradient_scales(32), gradient_scales(512)
    for name, scale in narrow.items():
        expected = 1.0 if name == "4.bias" else 1 / 16
        assert wide[name] / scale == pytest.approx(expected, rel=0.3), name


def cells(table: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()]


def test_describe_says_what_each_group_is() -> None:
    model = kinds()
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=0.5, weight_decay=0.25, eps=1e-12)
    first = "temperature, table.weight, hidden.bias, … 4 more"
    elements = 1 + 11 * WIDTH + 3 * WIDTH + 5 * WIDTH + 5
    matrices = WIDTH * WIDTH * (1 + 4 + 2 * 9)
    assert cells(describe(optimizer, model)) == [
        ["group", "grows", "tensors", "elements", "multiplier", "lr", "wd", "lr·wd", "eps", "parameters"],
        ["0", "fixed, vector", "7", str(elements), "1", "0.5", "0.25", "0.125", "1e-12", first],
        [
            "1",
            "matrix",
            "3",
            str(matrices),
            "0.25",
            "0.125",
            "1",
            "0.125",
            "1e-12",
            "hidden.weight, wide.weight, conv.weight",
        ],
    ]
    assert len({line.index("  ", len("group  fixed, vector")) for line in describe(optimizer, model).splitlines()}) == 1


def test_describe_takes_names_from_groups_and_any_optimizer() -> None:
    model = kinds()
    named_groups = MuSGD_ScheduleFree([("a", model.norm.weight)], lr=0.5)
    assert cells(describe(named_groups))[1] == ["0", "vector", "1", str(WIDTH), "4", "2", "0", "0", "–", "a"]
    plain = torch.optim.SGD([nn.Parameter(torch.ones(2, 3))], lr=0.5)
    assert cells(describe(plain))[1] == ["0", "?", "1", "6", "–", "0.5", "0", "0", "–", "(2, 3)"]


SHAPES = [((2, 8), (2, 8)), ((2, 8), (2, 4)), ((4, 2), (2, 6)), ((2, 8), (None, 3)), ((None, 3), (2, 4)), ((None, 5),)]
USER_GROUP = st.fixed_dictionaries(
    {"shapes": st.lists(st.sampled_from(SHAPES), max_size=6), "repeats": st.lists(st.integers(0, 5), max_size=3)},
    optional={"lr": st.floats(0, 10), "weight_decay": st.floats(0, 10), "betas": st.just((0.5, 0.5))},
)


@given(
    drawn=st.lists(USER_GROUP, min_size=1, max_size=4).filter(lambda groups: any(g["shapes"] for g in groups)),
    family=st.sampled_from(["adam", "sgd"]),
    decay=st.sampled_from(["coupled", "coupled_squared", "independent"]),
    with_names=st.booleans(),
)
def test_properties_of_any_groups(drawn: Groups, family: Any, decay: Any, with_names: bool) -> None:
    given: Groups = []
    for number, group in enumerate(drawn):
        entries: list[Any] = [pinned(*shape) for shape in group["shapes"]]
        entries += [entries[i] for i in group["repeats"] if i < len(entries)]
        if with_names:
            entries = [(f"{number}.{i}", p) for i, p in enumerate(entries)]
        given.append({"params": entries} | {k: v for k, v in group.items() if k not in ("shapes", "repeats")})
    before = [group | {"params": list(group["params"])} for group in given]

    made = mup_param_groups(given, lr=0.5, weight_decay=0.25, family=family, decay=decay)

    assert all(g.keys() == b.keys() for g, b in zip(given, before, strict=True))
    assert all(g[k] == b[k] for g, b in zip(given, before, strict=True) for k in g if k != "params")
    assert [list(map(id, g["params"])) for g in given] == [list(map(id, b["params"])) for b in before]

    def parameter(entry: Any) -> nn.Parameter:
        return entry[1] if with_names else entry

    position: dict[int, tuple[int, int]] = {}
    for number, group in enumerate(given):
        for i, entry in enumerate(group["params"]):
            position.setdefault(id(parameter(entry)), (number, i))
    homes = [[position[id(parameter(entry))] for entry in group["params"]] for group in made]
    assert sorted(p for home in homes for p in home) == sorted(position.values())
    assert all(home and home == sorted(home) and len({number for number, _ in home}) == 1 for home in homes)
    assert [home[0] for home in homes] == sorted(home[0] for home in homes)
    assert len({(home[0][0], group["lr_multiplier"]) for home, group in zip(homes, made, strict=True)}) == len(made)

    power = {"coupled": 1, "coupled_squared": 2, "independent": 0}[decay]
    for home, group in zip(homes, made, strict=True):
        user = given[home[0][0]]
        c = {lr_multiplier(parameter(entry), family) for entry in group["params"]}
        assert c == {group["lr_multiplier"]}
        assert group["lr"] == user.get("lr", 0.5) * group["lr_multiplier"]
        shrinking = group["weight_decay"] * group["lr_multiplier"] ** power
        assert shrinking == pytest.approx(user.get("weight_decay", 0.25), rel=1e-12)
        assert group.get("betas") == user.get("betas")
        assert {type(group[key]) for key in ("lr", "weight_decay", "lr_multiplier")} == {float}


@pytest.mark.parametrize(
    ("shape", "base", "inputs", "outputs"),
    [
        ((6, 8), (3, 2), (1,), (0,)),
        ((4, 6, 8), (4, 3, 2), (1,), (2,)),
        ((6, 3), (3, 3), (), (0,)),
        ((3, 6), (3, 3), (), (1,)),  # mup's readout, whose multiplier stands for its fan-in
        ((6, 3, 5), (3, 3, 5), (), (0,)),
        ((3, 6, 5), (3, 3, 5), (1,), ()),  # a convolution as output
        ((3, 4, 5), (3, 4, 5), (), ()),
    ],
)
def test_what_grows_is_read_from_the_shape(shape: Any, base: Any, inputs: Any, outputs: Any) -> None:
    parameter = nn.Parameter(torch.zeros(shape))
    parameter.infshape = mup.InfShape(  # type: ignore[attr-defined]
        [mup.InfDim(None if old == new else old, new) for old, new in zip(base, shape, strict=True)]
    )
    assert growing_of(parameter) == (inputs, outputs)


def test_a_tensor_without_an_entry_is_no_number() -> None:
    with pytest.raises(TypeError, match="lr must be a number"):
        checked_number("lr", torch.empty(0))

"""Muon under µP: which tensors it takes, its rule by hand, torch's own steps at base width, and the coordinate check."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import mup
import pytest
import schedulefree
import torch
from mup_kinds import BASE, WIDTH, M, kinds
from torch import Tensor, nn
from torch.optim._muon import _adjust_lr

from mufree.analysis.coordcheck import first_judged_step, slopes, verdict
from mufree.lab.coordcheck import coord_check
from mufree.optim import (
    BaseShapesError,
    MuMuon,
    MuScheduleFreeWrapper,
    evaluating,
    load_checkpoint,
    muon_multiplier,
    save_checkpoint,
    set_lr,
)
from mufree.optim.muon import ADJUSTED

Optimizer = Any


def matrix(rows: tuple[int, int], columns: tuple[int, int]) -> nn.Parameter:
    """A hidden matrix, each dimension as (base, now)."""
    parameter = nn.Parameter(torch.randn(rows[1], columns[1]))
    parameter.infshape = mup.InfShape([mup.InfDim(*rows), mup.InfDim(*columns)])
    return parameter


# By hand: √(growth of fan-out / growth of fan-in), over what torch's own factor grows by.
BY_HAND: list[tuple[tuple[int, int], tuple[int, int], dict[str, float]]] = [
    ((4, 16), (4, 16), {"original": 1.0, "match_rms_adamw": 0.5, "spectral_unclamped": 1.0}),
    ((16, 64), (4, 16), {"original": 1.0, "match_rms_adamw": 0.5, "spectral_unclamped": 1.0}),
    # fan-out grows alone, from square to 4 : 1; torch's own factor does it
    ((4, 16), (4, 4), {"original": 1.0, "match_rms_adamw": 1.0, "spectral_unclamped": 1.0}),
    # fan-in grows alone, from square to 1 : 4; torch clamps at 1
    ((4, 4), (4, 16), {"original": 0.5, "match_rms_adamw": 0.25, "spectral_unclamped": 1.0}),
    # from 1 : 4 to 1 : 1
    ((4, 16), (16, 16), {"original": 2.0, "match_rms_adamw": 2.0, "spectral_unclamped": 1.0}),
    ((4, 4), (16, 16), {"original": 1.0, "match_rms_adamw": 1.0, "spectral_unclamped": 1.0}),
]


@pytest.mark.parametrize(("rows", "columns", "expected"), BY_HAND)
@pytest.mark.parametrize("adjust", ADJUSTED)
def test_the_multiplier_by_hand(rows: Any, columns: Any, expected: dict[str, float], adjust: Any) -> None:
    assert muon_multiplier(matrix(rows, columns), adjust) == pytest.approx(expected[adjust], rel=1e-12)


@pytest.mark.parametrize("adjust", ADJUSTED)
@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (5, 3), (64, 16), (16, 64), (8, 8)])
def test_what_torch_multiplies_by_is_known(adjust: str, rows: int, columns: int) -> None:
    assert ADJUSTED[adjust](rows, columns) == _adjust_lr(1.0, adjust, torch.Size((rows, columns)))


@pytest.mark.parametrize(("rows", "columns"), [(pair[0], pair[1]) for pair in BY_HAND])
@pytest.mark.parametrize("adjust", ADJUSTED)
def test_a_steps_spectral_norm_grows_as_the_root_of_fan_out_over_fan_in(rows: Any, columns: Any, adjust: Any) -> None:
    """With steps of Newton-Schulz that converge (its usual coefficients leave singular values between 0.7 and 1.2)."""

    def norm(parameter: nn.Parameter) -> float:
        optimizer = MuMuon([parameter], lr=0.1, adjust_lr_fn=adjust, momentum=0.0)
        optimizer.param_groups[0]["ns_coefficients"] = (1.5, -0.5, 0.0)
        optimizer.param_groups[0]["ns_steps"] = 60
        before = parameter.detach().clone()
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        optimizer.step()
        return float(torch.linalg.matrix_norm(parameter.detach() - before, ord=2))

    base = norm(matrix((rows[0], rows[0]), (columns[0], columns[0])))
    growth = math.sqrt((rows[1] / rows[0]) / (columns[1] / columns[0]))
    assert norm(matrix(rows, columns)) / base == pytest.approx(growth, rel=0.02)


def test_matrices_are_muons_and_all_else_is_adamws() -> None:
    model = kinds()
    settings: dict[str, Any] = {"lr": 0.5, "weight_decay": 0.25, "adamw_lr": 0.125, "adamw_betas": (0.8, 0.9)}
    optimizer = MuMuon(model.parameters(), **settings, adamw_eps=1e-12, momentum=0.9, ns_steps=3)
    found = [(g["kind"], g["lr_multiplier"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
    assert found == [("muon", 1.0, 0.5, 0.25), ("adamw", 1.0, 0.125, 0.25), ("adamw", 1 / M, 0.125 / M, 0.25 * M)]
    matrices, vectors, convolution = optimizer.param_groups
    assert [p is q for p, q in zip(matrices["params"], [model.hidden.weight, model.wide.weight], strict=True)] == [
        True
    ] * 2
    assert [p is model.conv.weight for p in convolution["params"]] == [True]  # torch's Muon takes two dimensions
    assert len(vectors["params"]) == 7
    assert (matrices["momentum"], matrices["ns_steps"], "betas" in matrices) == (0.9, 3, False)
    assert (vectors["betas"], vectors["eps"], "momentum" in vectors) == ((0.8, 0.9), 1e-12, False)
    rms = MuMuon(model.parameters(), adjust_lr_fn="match_rms_adamw", lr=0.5, weight_decay=0.25).param_groups[0]
    assert (rms["lr"], rms["weight_decay"]) == (0.5 / math.sqrt(M), 0.25 * math.sqrt(M))
    independent = MuMuon(model.parameters(), True, adjust_lr_fn="match_rms_adamw", weight_decay=0.25)
    assert {group["weight_decay"] for group in independent.param_groups} == {0.25}


@pytest.mark.parametrize("adjust", ADJUSTED)
def test_at_base_width_its_steps_are_torchs_to_the_bit(adjust: Any) -> None:
    ours, theirs = kinds(BASE), kinds(BASE)
    muon: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9, "adjust_lr_fn": adjust}
    adamw: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-10, "weight_decay": 0.2}
    optimizer = MuMuon(ours.parameters(), **muon, **{f"adamw_{key}": value for key, value in adamw.items()})
    matrices = [theirs.hidden.weight, theirs.wide.weight]
    others = [p for p in theirs.parameters() if not any(p is each for each in matrices)]
    parts = torch.optim.Muon(matrices, **muon), torch.optim.AdamW(others, **adamw)
    before = [p.detach().clone() for p in ours.parameters()]
    for step in range(5):
        for model in (ours, theirs):
            gradients(model, step)
        optimizer.step()
        for part in parts:
            part.step()
        assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(ours.parameters(), before, strict=True))


def gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_groups_of_the_users_and_groups_that_come_later() -> None:
    model = kinds()
    given = [
        {"params": [model.hidden.weight, model.hidden.bias], "lr": 0.5, "adamw_lr": 0.25},
        {"params": [model.norm.weight], "weight_decay": 0.0},
        {"params": [model.wide.weight], "kind": "adamw"},
    ]
    optimizer = MuMuon(given, lr=0.125, adamw_lr=0.0625, weight_decay=0.1)
    found = [(g["kind"], g["lr"], g["weight_decay"], g["split_from"]) for g in optimizer.param_groups]
    assert found == [
        ("muon", 0.5, 0.1, 0),
        ("adamw", 0.25, 0.1, 1),
        ("adamw", 0.0625, 0.0, 3),
        ("adamw", 0.0625 / M, 0.1 * M, 5),
    ]
    optimizer.add_param_group({"params": [model.conv.weight]})
    assert (optimizer.param_groups[-1]["lr"], optimizer.param_groups[-1]["weight_decay"]) == (0.0625 / M, 0.1 * M)
    set_lr(optimizer, 1.0, kind="muon")
    set_lr(optimizer, 2.0, kind="adamw")
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 2.0, 2.0, 2.0 / M, 2.0 / M]
    with pytest.raises(ValueError, match="it is one of: kind='adamw', kind='muon'"):
        set_lr(optimizer, 1.0)


def test_what_is_refused() -> None:
    model = kinds()
    p, q = model.hidden.weight, model.norm.weight
    refused: list[tuple[type[Exception], str, Any, dict[str, Any]]] = [
        (ValueError, "No parameter is a hidden matrix", [q], {}),
        (ValueError, "No parameter is a hidden matrix", nn_without_width().parameters(), {}),
        (BaseShapesError, "no `infshape`", nn.Linear(2, 2).parameters(), {}),
        (ValueError, "Group 0 has betas. Known: lr, ", [{"params": [p], "betas": (0.9, 0.9)}], {}),
        (ValueError, "Group 0 has kind='muon'", [{"params": [p], "kind": "muon"}], {}),
        (ValueError, "Group 1 has an lr, which is Muon's", [{"params": [p]}, {"params": [q], "lr": 0.1}], {}),
        (ValueError, "Group 0 has an adamw_lr, but", [{"params": [p], "adamw_lr": 0.1}], {}),
        (ValueError, "lr must be finite and not negative, got -1", [p], {"lr": -1}),
        (ValueError, "lr must be finite and not negative, got -1", [p, q], {"adamw_lr": -1}),
        (ValueError, "function rms is not supported", [p], {"adjust_lr_fn": "rms"}),
        (ValueError, "betas must be at least 0 and below 1, got 1", [p, q], {"adamw_betas": (0.9, 1)}),
        (ValueError, "momentum must be at least 0 and below 1, got 1", [p], {"momentum": 1}),
    ]
    for error, said, params, settings in refused:
        with pytest.raises(error, match=said):
            MuMuon(params, **settings)


def nn_without_width() -> nn.Module:
    return mup.set_base_shapes(nn.Linear(WIDTH, WIDTH), None)


def test_copies_and_state_dicts_go_on_to_the_bit() -> None:
    models = [kinds() for _ in range(3)]
    first, loaded = (MuMuon(model.parameters(), lr=0.02, weight_decay=0.1) for model in models[:2])
    for step in range(3):
        gradients(models[0], step)
        first.step()
    models[1].load_state_dict(models[0].state_dict())
    loaded.load_state_dict(copy.deepcopy(first.state_dict()))
    models[2], copied = copy.deepcopy((models[0], first))
    for step in range(3, 6):
        for model, optimizer in zip(models, (first, loaded, copied), strict=True):
            gradients(model, step)
            optimizer.step()
    for model in models[1:]:
        assert all(torch.equal(p, q) for p, q in zip(models[0].parameters(), model.parameters(), strict=True))


# --- a network that runs ----------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Square and oblong hidden matrices between a look-up and a readout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(32, width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.middle = nn.Linear(width, width)
        self.readout = mup.MuReadout(width, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.table(tokens).mean(1)
        hidden = hidden + self.down(torch.relu(self.up(hidden)))
        return self.readout(hidden + torch.tanh(self.middle(hidden)))


def make_net(width: int, seed: int) -> Net:
    torch.manual_seed(seed)
    model = Net(width)
    mup.set_base_shapes(model, Net(32), delta=Net(64), rescale_params=False)
    for layer in (model.up, model.down, model.middle):
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    nn.init.zeros_(model.middle.bias)
    nn.init.zeros_(model.readout.weight)
    nn.init.zeros_(model.readout.bias)
    return model


def tokens(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(32, (8, 4), generator=generator), torch.randint(8, (8,), generator=generator)


RATES: dict[str, Any] = {"lr": 0.05, "adamw_lr": 2**-6, "adamw_eps": 1e-12}


def muon(model: Net, adjust: Any = "original") -> Optimizer:
    return MuMuon(model.parameters(), **RATES, adjust_lr_fn=adjust)


def partly_adamw(model: Net) -> Optimizer:
    """AdamW for one of the hidden matrices."""
    others = [p for p in model.parameters() if p is not model.middle.weight]
    return MuMuon([{"params": others}, {"params": [model.middle.weight], "kind": "adamw"}], **RATES)


def at_rate(optimizer: Optimizer, matrix: Tensor, rate: float) -> Optimizer:
    """Give the group of a matrix a rate of another rule, past what keeps µP's."""
    (group,) = [group for group in optimizer.param_groups if any(p is matrix for p in group["params"])]
    dict.__setitem__(group, "lr", rate)
    return optimizer


def as_adam(model: Net) -> Optimizer:
    """Adam's rule for Muon's steps."""
    return at_rate(muon(model), model.middle.weight, RATES["lr"] * 32 / model.middle.in_features)


RIGHT: dict[str, Callable[[Net], Optimizer]] = {
    **{adjust: lambda model, adjust=adjust: muon(model, adjust) for adjust in ADJUSTED},
    "AdamW for one of the matrices": partly_adamw,
    "schedule-free": lambda model: MuScheduleFreeWrapper(muon(model)),
}
WRONG: dict[str, Callable[[Net], Optimizer]] = {
    "Adam's rule": as_adam,
    "Adam's rule, schedule-free": lambda model: MuScheduleFreeWrapper(as_adam(model)),
    "torch's factor alone": lambda model: at_rate(muon(model, "match_rms_adamw"), model.up.weight, RATES["lr"]),
    "AdamW's matrix unscaled": lambda model: at_rate(partly_adamw(model), model.middle.weight, RATES["adamw_lr"]),
}


@pytest.mark.parametrize("name", [*RIGHT, *WRONG])
def test_the_coordinate_check_passes_and_other_rules_fail_it(name: str) -> None:
    frame = coord_check(make_net, (RIGHT | WRONG)[name], [32, 128], tokens, steps=3, seeds=3)
    table = slopes(frame)
    assert verdict(table, first_step=first_judged_step(frame))["passed"].all() == (name in RIGHT)


def test_schedule_free_muon_trains_is_evaluated_at_x_and_resumes(tmp_path: Any) -> None:
    def run(optimizer: Optimizer, model: Net, steps: range) -> None:
        optimizer.train()
        for step in steps:
            inputs, targets = tokens(step)
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()

    def made(model: Net) -> Optimizer:
        return MuScheduleFreeWrapper(model.parameters(), MuMuon, **RATES)

    model = make_net(64, 0)
    optimizer = made(model)
    assert isinstance(optimizer, schedulefree.ScheduleFreeWrapper)
    assert [group["kind"] for group in optimizer.param_groups] == ["muon", "adamw"]
    run(optimizer, model, range(4))
    at_y = model.middle.weight.detach().clone()
    with evaluating(optimizer, model):
        assert not torch.equal(model.middle.weight, at_y)
    assert {"z", "momentum_buffer"} == optimizer.state[model.middle.weight].keys()
    assert {"z", "step", "exp_avg", "exp_avg_sq"} == optimizer.state[model.table.weight].keys()
    save_checkpoint(tmp_path / "c.pt", model, optimizer)
    again = make_net(64, 1)
    resumed = made(again)
    load_checkpoint(tmp_path / "c.pt", again, resumed)
    run(optimizer, model, range(4, 7))
    run(resumed, again, range(4, 7))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))

"""Groups that are added after construction: scaled as the first ones, in the optimizer's mode, all or nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import schedulefree
import torch
from mup_kinds import M, kinds
from schedule_free_variants import MODAL, batch, bits, net, same, train

from mufree.optim import (
    BaseShapesError,
    MuAdamW,
    MuAdamW_ScheduleFree,
    MuMuon,
    MuRAdam_ScheduleFree,
    MuScheduleFreeWrapper,
    MuSGD,
    MuSGD_ScheduleFree,
    evaluating,
    mup_param_groups,
)

LR, DECAY = 0.5, 0.25


@pytest.mark.parametrize(
    ("make", "matrix", "vector"),
    [
        (MuAdamW, 1 / M, 1.0),
        (MuSGD, 1.0, M),
        (MuAdamW_ScheduleFree, 1 / M, 1.0),
        (MuRAdam_ScheduleFree, 1 / M, 1.0),
        (MuSGD_ScheduleFree, 1.0, M),
        (MuScheduleFreeWrapper, 1.0, M),
    ],
)
def test_an_added_group_is_split_and_scaled_as_the_first_ones(make: Any, matrix: float, vector: float) -> None:
    model = kinds()
    optimizer = make([model.norm.bias], lr=LR, weight_decay=DECAY)
    given = {"params": [model.hidden.weight, model.norm.weight]}
    optimizer.add_param_group(given)
    assert set(given) == {"params"}
    found = [(g["lr"], g["weight_decay"], g["lr_multiplier"]) for g in optimizer.param_groups[1:]]
    assert found == [(LR * matrix, DECAY / matrix, matrix), (LR * vector, DECAY / vector, vector)]
    optimizer.add_param_group({"params": model.wide.weight, "lr": 1.0, "weight_decay": 0.0})
    last = optimizer.param_groups[-1]
    assert (last["lr"], last["weight_decay"]) == (matrix, 0.0)
    assert [group["split_from"] for group in optimizer.param_groups] == [0, 1, 1, 2]


def test_epsilon_decoupled_decay_and_other_settings_are_the_constructors() -> None:
    model = kinds()
    optimizer = MuAdamW_ScheduleFree(
        [model.norm.bias],
        decoupled_wd=True,
        lr=LR,
        weight_decay=DECAY,
        betas=(0.5, 0.6),
        eps=1e-6,
        eps_scale="gradient",
        warmup_steps=7,
    )
    optimizer.add_param_group({"params": [model.hidden.weight]})
    added = optimizer.param_groups[-1]
    assert (added["lr"], added["weight_decay"], added["eps"]) == (LR / M, DECAY, 1e-6 / M)
    assert (added["betas"], added["warmup_steps"]) == ((0.5, 0.6), 7)


def test_the_package_alone_takes_neither_rate_nor_decay() -> None:
    model = kinds()
    optimizer = torch.optim.AdamW(mup_param_groups([model.norm.bias], lr=LR, weight_decay=DECAY))
    optimizer.add_param_group({"params": [model.hidden.weight]})
    added = optimizer.param_groups[-1]
    assert (added["lr"], added["weight_decay"]) == (1e-3, 1e-2)


def test_groups_that_were_scaled_by_hand_are_added_as_they_are() -> None:
    model = kinds()
    for optimizer in (
        MuAdamW([model.norm.bias], lr=LR),
        MuScheduleFreeWrapper(torch.optim.AdamW(mup_param_groups([model.norm.bias], lr=LR))),
    ):
        for group in mup_param_groups([model.hidden.weight, model.norm.weight], lr=1.0):
            optimizer.add_param_group(group)
        assert [group["lr"] for group in optimizer.param_groups] == [LR, 1 / M, 1.0]
        assert [group["split_from"] for group in optimizer.param_groups] == [0, 1, 2]
    with pytest.raises(ValueError, match=r"isn't known here. Add each of mup_param_groups"):
        optimizer.add_param_group({"params": [model.wide.weight]})


def test_a_rate_that_was_written_before_a_group_came_is_still_looked_at() -> None:
    model = kinds()
    optimizer = MuAdamW([model.norm.weight, model.hidden.weight], lr=LR)
    optimizer.param_groups[1]["lr"] = LR
    optimizer.add_param_group({"params": [model.wide.weight]})
    with pytest.warns(UserWarning, match="undoes µP"):
        optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == [LR, LR / M, LR / M]


def test_all_or_nothing_is_added() -> None:
    model = kinds()
    optimizer = MuAdamW([model.norm.bias], lr=LR)
    before = list(optimizer.param_groups)
    refused: list[tuple[type[Exception], str, Any]] = [
        (ValueError, "more than one parameter group", [model.hidden.weight, model.norm.bias]),
        (ValueError, "with/without names", [("a", model.hidden.weight)]),
        (BaseShapesError, "no `infshape`", [model.hidden.weight, torch.nn.Parameter(torch.ones(2))]),
    ]
    for error, said, params in refused:
        with pytest.raises(error, match=said):
            optimizer.add_param_group({"params": params})
        assert optimizer.param_groups == before


@pytest.mark.parametrize("name", MODAL)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_added_in_the_midst_of_training_a_group_is_in_the_optimizers_mode(name: str, mode: str) -> None:
    """Without a call of `optimizer.train()`: the package would leave the group at y in eval()."""
    model = net()
    optimizer = MODAL[name](list(model.first.parameters()))
    train(model, optimizer, range(3))
    getattr(optimizer, mode)()
    optimizer.add_param_group({"params": [model.hidden.weight]})
    before = bits(model, optimizer)
    with evaluating(optimizer, model, [batch(0)[0]]):  # also refuses groups in different modes
        pass
    assert same(bits(model, optimizer), before)
    train(model, optimizer, range(3, 9))
    weight = model.hidden.weight
    at_y, z = weight.detach().clone(), optimizer.state[weight]["z"]
    optimizer.eval()
    assert not torch.equal(weight, at_y)
    assert not torch.equal(weight, z)
    optimizer.train()
    torch.testing.assert_close(weight.detach(), at_y)


def test_a_later_group_averages_from_its_own_beginning() -> None:
    """x of the new group is the mean of its own z, with equal weights: none of those before it came counts."""
    model = net()
    optimizer = MuAdamW_ScheduleFree(list(model.first.parameters()), lr=0.05)
    train(model, optimizer, range(5))
    weight = model.hidden.weight
    optimizer.add_param_group({"params": [weight]})
    seen: list[torch.Tensor] = []
    train(model, optimizer, range(5, 9), after=lambda: seen.append(optimizer.state[weight]["z"].clone()))
    with evaluating(optimizer, model, [batch(0)[0]]):
        torch.testing.assert_close(weight.detach(), torch.stack(seen).mean(0))


@pytest.mark.parametrize("make", [MuAdamW_ScheduleFree, MuScheduleFreeWrapper])
def test_inside_evaluating_it_is_refused(make: Any) -> None:
    model = net()
    optimizer = make(list(model.first.parameters()), lr=0.05)
    with (
        evaluating(optimizer, model, [batch(0)[0]]),
        pytest.raises(RuntimeError, match="add_param_group inside `with evaluating"),
    ):
        optimizer.add_param_group({"params": [model.hidden.weight]})
    assert len(optimizer.param_groups) == 1


def test_the_class_is_still_that_of_the_package() -> None:
    optimizer = MuAdamW_ScheduleFree(kinds().parameters())
    assert isinstance(optimizer, schedulefree.AdamWScheduleFree)
    assert type(optimizer).__qualname__ == "AdamWScheduleFree"
    assert type(optimizer) is type(MuAdamW_ScheduleFree(kinds().parameters()))
    assert repr(optimizer).startswith("AdamWScheduleFree (")


def test_a_users_hooks_on_step_run_once_also_after_loading() -> None:
    model = kinds()
    optimizer = MuAdamW(model.parameters(), lr=LR)
    ran: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: ran.append("before"))
    optimizer.register_step_post_hook(lambda *_: ran.append("after"))
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert ran == ["before", "after"] * 2


def test_a_compiled_function_that_steps_runs() -> None:
    model, alone = kinds(), kinds()
    optimizers = [MuAdamW(each.parameters(), lr=LR) for each in (model, alone)]
    for each in (model, alone):
        each.hidden.weight.grad = torch.ones_like(each.hidden.weight)
    torch.compile(lambda: optimizers[0].step(), backend="eager")()
    optimizers[1].step()
    assert torch.equal(model.hidden.weight, alone.hidden.weight)


@pytest.mark.parametrize("base", [torch.optim.AdamW, torch.optim.SGD, MuMuon])
@pytest.mark.parametrize("before", [0, 2])
def test_a_copied_wrapper_goes_on_and_takes_weights_that_have_no_state(base: Any, before: int) -> None:
    model = net()
    model.first.weight.requires_grad_(False)  # takes no step before it is copied
    optimizer = MuScheduleFreeWrapper(model.parameters(), base, lr=0.01)
    train(model, optimizer, range(before))
    again, copied = copy.deepcopy((model, optimizer))
    for each, its in ((model, optimizer), (again, copied)):
        each.first.weight.requires_grad_(True)
        torch.manual_seed(1)  # of dropout
        train(each, its, range(before, 5))
    assert same(bits(model, optimizer), bits(again, copied))
    assert not torch.equal(again.first.weight, net().first.weight)

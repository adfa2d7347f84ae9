"""µP's ratios between learning rates: what schedulers and loops write, what is kept, and what is said."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mup_kinds import BASE, M, kinds
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.optim.swa_utils import SWALR

from mufree.optim import MuAdamW, MuAdamW_ScheduleFree, MuScheduleFreeWrapper, MuSGD, set_lr

LR = 0.01
UNDOES = "That undoes µP"


def rates(optimizer: Any) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def split() -> Optimizer:
    """Groups of multipliers 1 and 1/4."""
    return MuAdamW(kinds().parameters(), lr=LR)


def plain(lr: float = LR) -> Optimizer:
    """torch's own, with one group: what a scheduler makes of the base rate."""
    return torch.optim.AdamW(kinds(BASE).parameters(), lr=lr)


def apart(own: dict[str, Any] | None = None) -> Optimizer:
    """A group of multiplier 1/4 and one of 1 that were given apart."""
    model = kinds()
    return MuAdamW([{"params": [model.hidden.weight]}, {"params": [model.norm.weight]} | (own or {})], lr=LR)


# Schedulers that write one number into all groups, or mix one into each.
FLAT: dict[str, Callable[[Optimizer], Any]] = {
    "OneCycleLR": lambda o: OneCycleLR(o, max_lr=LR, total_steps=12),
    "OneCycleLR, linear": lambda o: OneCycleLR(o, max_lr=LR, total_steps=12, anneal_strategy="linear"),
    "CosineAnnealingLR": lambda o: CosineAnnealingLR(o, 10, eta_min=0.001),
    "warm restarts": lambda o: CosineAnnealingWarmRestarts(o, 5, eta_min=0.001),
    "CyclicLR": lambda o: CyclicLR(o, base_lr=0.001, max_lr=LR, step_size_up=4, cycle_momentum=False),
    "SWALR": lambda o: SWALR(o, swa_lr=0.002, anneal_epochs=5),
    "two in turn": lambda o: SequentialLR(
        o, [LinearLR(o, 0.1, total_iters=3), CosineAnnealingLR(o, 8, eta_min=0.001)], [3]
    ),
    "two at once": lambda o: ChainedScheduler([CosineAnnealingLR(o, 10, eta_min=0.001), StepLR(o, 3)]),
}


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.filterwarnings("ignore:The learning rates written")
def test_every_rate_is_its_multiplier_times_what_the_scheduler_makes_of_the_base_rate(name: str) -> None:
    ours, alone = split(), plain()
    schedules = FLAT[name](ours), FLAT[name](alone)
    for _ in range(11):
        (base,) = rates(alone)
        assert rates(ours) == pytest.approx([base, base / M], rel=1e-12)
        for optimizer, schedule in zip((ours, alone), schedules, strict=True):
            optimizer.step()
            schedule.step()
    assert schedules[0].get_last_lr()[0] == pytest.approx(rates(alone)[0], rel=1e-12)


def test_the_same_schedulers_undo_the_ratios_of_a_plain_optimizer() -> None:
    groups = [dict(group) for group in split().param_groups]
    naive = torch.optim.AdamW(groups)
    OneCycleLR(naive, max_lr=LR, total_steps=12)
    assert len(set(rates(naive))) == 1


# What keeps the ratios by itself: (the scheduler, the bits that torch writes into plain dicts).
KEEPS: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda o: LambdaLR(o, lambda k: 1 / (k + 3)),
    "StepLR": lambda o: StepLR(o, 2, 0.3),
    "MultiplicativeLR": lambda o: MultiplicativeLR(o, lambda k: 0.9),
    "CosineAnnealingLR": lambda o: CosineAnnealingLR(o, 10),
    "OneCycleLR": lambda o: OneCycleLR(o, max_lr=rates(o), total_steps=12),
    "SequentialLR": lambda o: SequentialLR(o, [LinearLR(o, 0.1, total_iters=3), CosineAnnealingLR(o, 8)], [3]),
}


@pytest.mark.parametrize("name", KEEPS)
def test_rates_that_are_in_ratio_keep_the_bits_as_they_were_written(name: str) -> None:
    ours = split()
    naive = torch.optim.AdamW([dict(group) for group in ours.param_groups])
    schedules = KEEPS[name](ours), KEEPS[name](naive)
    for _ in range(11):
        assert rates(ours) == rates(naive)
        for optimizer, schedule in zip((ours, naive), schedules, strict=True):
            optimizer.step()
            schedule.step()


def test_loops_of_ones_own() -> None:
    optimizer = split()
    for group in optimizer.param_groups:
        group["lr"] *= 0.9
    assert rates(optimizer) == [LR * 0.9, LR / M * 0.9]
    for group in optimizer.param_groups:
        group["lr"] = 0.02 * group["lr_multiplier"]
    assert rates(optimizer) == [0.02, 0.02 / M]
    optimizer.step()  # without a warning
    for group in optimizer.param_groups:
        group["lr"] = 0.005
    assert rates(optimizer) == [0.005, 0.005 / M]
    for group in optimizer.param_groups:
        group.update(lr=0.003)
    assert rates(optimizer) == [0.003, 0.003 / M]
    for group in optimizer.param_groups:
        group |= {"lr": 0.0}
    assert rates(optimizer) == [0.0, 0.0]


def test_a_plateau_is_followed_down_to_its_floor() -> None:
    optimizer = split()
    schedule = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, min_lr=0.004)
    for _ in range(4):
        schedule.step(1.0)
    with pytest.warns(UserWarning, match=UNDOES):
        optimizer.step()
    assert rates(optimizer) == [0.004, 0.001]


def test_a_group_that_was_written_alone_follows_the_others_from_the_next_step_on() -> None:
    optimizer = split()
    optimizer.param_groups[1]["lr"] = 0.5
    assert rates(optimizer) == [LR, 0.5]
    with pytest.warns(UserWarning, match=r"groups 0, 1 were 0\.01, 0\.5\. .* set to 0\.01, 0\.0025\. Use .*set_lr"):
        optimizer.step()
    assert rates(optimizer) == [LR, LR / M]
    optimizer.param_groups[0]["lr"] = 0.02
    optimizer.step()  # warned before
    assert rates(optimizer) == [0.02, 0.02 / M]


def test_the_warning_names_what_was_written_and_the_line_that_stepped() -> None:
    optimizer = split()
    for group in optimizer.param_groups:
        group["lr"] = 0.005
    with pytest.warns(UserWarning, match=r"groups 0, 1 were 0\.005, 0\.005\. .* are 1, 0\.25: they") as caught:
        optimizer.step()
    assert caught[0].filename == __file__


def test_a_number_that_all_of_a_family_without_multiplier_one_get_is_the_base_rate() -> None:
    model = kinds()
    optimizer = MuSGD([model.norm.weight, model.wide.weight], lr=LR)  # multipliers 4 and 1
    hidden = MuAdamW([{"params": [model.hidden.weight]}], lr=LR)
    for group in [*optimizer.param_groups, *hidden.param_groups]:
        group["lr"] = 0.1
    assert rates(optimizer) == [0.4, 0.1]
    assert rates(hidden) == [0.1]  # one group has no ratios: what is written is its rate


def test_one_number_for_groups_that_were_given_apart_is_the_base_rate_of_all() -> None:
    optimizer = apart()
    for group in optimizer.param_groups:
        group["lr"] = 0.005
    with pytest.warns(UserWarning, match=UNDOES):
        optimizer.step()
    assert rates(optimizer) == [0.005 / M, 0.005]


def test_groups_that_were_given_apart_may_part_with_a_warning_or_have_rates_of_their_own_without() -> None:
    optimizer = apart()
    optimizer.param_groups[0]["lr"] = 0.1
    with pytest.warns(UserWarning, match="have parted: .* They are left so"):
        optimizer.step()
    assert rates(optimizer) == [0.1, LR]
    own = apart({"lr": 1.0})
    assert rates(own) == [LR / M, 1.0]
    schedule = OneCycleLR(own, max_lr=[0.1, 0.2], total_steps=10, div_factor=1)
    own.step()
    schedule.step()
    assert rates(own) == [group["lr"] for group in own.param_groups]
    assert rates(own)[1] == pytest.approx(2 * rates(own)[0])
    for group in own.param_groups:
        group["lr"] = 0.5
    own.step()
    assert rates(own) == [0.5, 0.5]


def test_equal_rates_of_their_own_stay_equal() -> None:
    model = kinds()
    groups = [{"params": [model.hidden.weight], "lr": M * LR}, {"params": [model.norm.weight], "lr": LR}]
    optimizer = MuAdamW(groups)
    schedule = LambdaLR(optimizer, lambda k: 1 / (k + 1))
    optimizer.step()
    schedule.step()
    optimizer.step()
    assert rates(optimizer) == [LR / 2, LR / 2]


def test_rates_that_are_tensors_are_left_alone() -> None:
    optimizer = split()
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.3 * group["lr_multiplier"])
    optimizer.step()  # without a warning
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.5)
    with pytest.warns(UserWarning, match="have parted"):
        optimizer.step()
    assert [rate.item() for rate in rates(optimizer)] == [0.5, 0.5]


@pytest.mark.filterwarnings("ignore:The learning rates written")
def test_the_wrapper_and_schedule_free_optimizers_keep_them_too() -> None:
    for optimizer in (
        MuScheduleFreeWrapper(kinds().parameters(), torch.optim.AdamW, lr=LR),
        MuScheduleFreeWrapper(split()),
        MuAdamW_ScheduleFree(kinds().parameters(), lr=LR),
    ):
        for group in optimizer.param_groups:
            group["lr"] = 0.005
        assert rates(optimizer) == [0.005, 0.005 / M]


COPIES: dict[str, Callable[[Optimizer], Any]] = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_keep_ratios_and_the_constructors_settings(name: str) -> None:
    optimizer = MuAdamW(kinds().parameters(), lr=LR, weight_decay=0.1)
    copied = COPIES[name](optimizer)
    assert isinstance(copied, torch.optim.AdamW)
    assert (type(copied).__name__, rates(copied)) == ("AdamW", [LR, LR / M])
    for group in copied.param_groups:
        group["lr"] = 0.005
    assert rates(copied) == [0.005, 0.005 / M]
    with pytest.warns(UserWarning, match=UNDOES):
        copied.step()
    assert rates(optimizer) == [LR, LR / M]
    for group in optimizer.param_groups:
        group["lr"] = 0.02
    assert rates(optimizer) == [0.02, 0.02 / M]
    copied.add_param_group({"params": [kinds().hidden.weight]})
    assert (rates(copied)[-1], copied.param_groups[-1]["weight_decay"]) == (LR / M, 0.1 * M)


def test_state_dicts_are_plain_and_loading_one_keeps_watching() -> None:
    optimizer = split()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert {type(group) for group in optimizer.state_dict()["param_groups"]} == {dict}
    again = split()
    set_lr(again, 0.5)
    again.load_state_dict(state)
    assert rates(again) == [LR, LR / M]
    for group in again.param_groups:
        group["lr"] = 0.005
    assert rates(again) == [0.005, 0.005 / M]


def test_loading_what_a_plain_optimizer_wrote_does_not_undo_the_ratios() -> None:
    optimizer = split()
    naive = torch.optim.AdamW([{"params": group["params"]} for group in optimizer.param_groups], lr=0.005)
    optimizer.load_state_dict(naive.state_dict())
    with pytest.warns(UserWarning, match=UNDOES):
        optimizer.step()
    assert rates(optimizer) == [0.005, 0.005 / M]


def test_nothing_is_watched_at_base_width() -> None:
    optimizer = MuAdamW(kinds(BASE).parameters(), lr=LR)
    schedule = OneCycleLR(optimizer, max_lr=LR, total_steps=12)
    alone = plain()
    by_hand = OneCycleLR(alone, max_lr=LR, total_steps=12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(11):
            assert rates(optimizer) == rates(alone)
            for each in (optimizer, schedule, alone, by_hand):
                each.step()


def test_set_lr() -> None:
    optimizer = apart({"lr": 1.0})
    set_lr(optimizer, 0.5)
    assert rates(optimizer) == [0.5 / M, 0.5]
    wrapped = MuScheduleFreeWrapper(split())
    set_lr(wrapped, 0.5)
    assert rates(wrapped) == [0.5, 0.5 / M]
    optimizer.step()  # without a warning
    with pytest.raises(ValueError, match="lr must be finite and not negative, got -1"):
        set_lr(optimizer, -1)
    with pytest.raises(ValueError, match="aren't µP's"):
        set_lr(plain(), 0.1)
    with pytest.raises(ValueError, match="No group is of kind 'muon'"):
        set_lr(optimizer, 0.1, kind="muon")
    assert rates(optimizer) == [0.5 / M, 0.5]


def test_an_optimizers_memory_is_freed_with_it() -> None:
    gc.collect()
    gc.disable()
    try:
        model = kinds()
        weight = weakref.ref(model.hidden.weight)
        optimizer = MuAdamW(model.parameters(), lr=LR)
        group = optimizer.param_groups[0]
        del model, optimizer
        assert weight() is None
        group["lr"] = 0.5  # its family is gone
        assert group["lr"] == 0.5
    finally:
        gc.enable()

"""Several optimizers on one model, in evaluation and in checkpoints, and models that are none of an optimizer's."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from schedule_free_variants import Net, batch, bits, net, same
from torch import nn

from mufree.optim import (
    CheckpointError,
    MuAdamW,
    MuAdamW_ScheduleFree,
    MuScheduleFreeWrapper,
    MuSGD_ScheduleFree,
    evaluating,
    load_checkpoint,
    save_checkpoint,
)

INPUTS = [batch(k)[0] for k in range(100, 103)]


def two(model: Net, ordinary: bool = False) -> list[Any]:
    """The first layers by one optimizer, the rest by another."""
    rest = [*model.hidden.parameters(), *model.readout.parameters()]
    other = MuAdamW(rest, lr=0.05) if ordinary else MuSGD_ScheduleFree(rest, lr=0.1)
    return [MuAdamW_ScheduleFree([*model.first.parameters(), *model.norm.parameters()], lr=0.05), other]


def train(model: nn.Module, optimizers: list[Any], steps: range) -> None:
    for optimizer in optimizers:
        if hasattr(optimizer, "train"):
            optimizer.train()
    for step in steps:
        inputs, targets = batch(step)
        model.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()


def trained(ordinary: bool = False) -> tuple[Net, list[Any]]:
    model = net()
    model.drop.p = 0.0
    optimizers = two(model, ordinary)
    train(model, optimizers, range(6))
    return model, optimizers


def all_bits(model: nn.Module, optimizers: list[Any]) -> list[Any]:
    return [bits(model, optimizer) for optimizer in optimizers]


@pytest.mark.parametrize("kind", [list, tuple])
def test_evaluating_puts_the_weights_of_all_at_x(kind: Any) -> None:
    model, optimizers = trained()
    before = all_bits(model, optimizers)
    with evaluating(kind(optimizers), model, INPUTS):
        inside = {name: p.detach().clone() for name, p in model.named_parameters()}
        torch.testing.assert_close(
            model.norm.running_mean, torch.stack([model.first(x).mean(0) for x in INPUTS]).mean(0)
        )
        for optimizer in optimizers:
            with pytest.raises(RuntimeError, match="inside `with evaluating"):
                optimizer.step()
    assert same(all_bits(model, optimizers), before)
    for optimizer in optimizers:
        optimizer.eval()
    assert all(torch.equal(p, inside[name]) for name, p in model.named_parameters())


def test_an_ordinary_optimizer_among_them_has_nothing_to_put() -> None:
    model, optimizers = trained(ordinary=True)
    before = all_bits(model, optimizers)
    with evaluating(optimizers, model, INPUTS):
        assert not torch.equal(model.first.weight, before[0][0]["first.weight"])
        assert torch.equal(model.hidden.weight, before[0][0]["hidden.weight"])
    assert same(all_bits(model, optimizers), before)


@pytest.mark.parametrize("ordinary", [False, True])
def test_a_checkpoint_of_several_holds_x_and_resumes_to_the_bit(tmp_path: Path, ordinary: bool) -> None:
    model, optimizers = trained(ordinary)
    with evaluating(optimizers, model, INPUTS):
        expected = model(INPUTS[0])
        save_checkpoint(tmp_path / "c.pt", model, optimizers, step=6)
    alone = net(seed=9)
    assert load_checkpoint(tmp_path / "c.pt", alone) == {"step": 6}
    assert torch.equal(alone.eval()(INPUTS[0]), expected)
    resumed = net(seed=9)
    resumed.drop.p = 0.0
    again = two(resumed, ordinary)
    load_checkpoint(tmp_path / "c.pt", resumed, again)
    assert same(all_bits(resumed, again), all_bits(model, optimizers))
    for some, its in ((model, optimizers), (resumed, again)):
        train(some, its, range(6, 10))
    assert same(all_bits(resumed, again), all_bits(model, optimizers))


@pytest.mark.filterwarnings("ignore:These parameters are at y")
def test_buffers_of_training_are_saved_from_within_one_context_for_each(tmp_path: Path) -> None:
    model, optimizers = trained()
    training = model.norm.running_mean.clone()
    with evaluating(optimizers[1], model, INPUTS[:1]), evaluating(optimizers[0], model, INPUTS):
        save_checkpoint(tmp_path / "c.pt", model, optimizers)
        at_x = model.norm.running_mean.clone()
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    assert torch.equal(content["training"]["buffers"]["norm.running_mean"], training)
    assert torch.equal(content["model"]["norm.running_mean"], at_x)


def test_others_or_fewer_than_were_saved_are_said(tmp_path: Path) -> None:
    model, optimizers = trained()
    save_checkpoint(tmp_path / "c.pt", model, optimizers)
    saved = "of a AdamWScheduleFree and a SGDScheduleFree, but the optimizer is a "
    for given, here in ((optimizers[0], "AdamWScheduleFree$"), (optimizers[::-1], "SGDScheduleFree and a AdamW")):
        with pytest.raises(CheckpointError, match=saved + here):
            load_checkpoint(tmp_path / "c.pt", model, given)
    with evaluating(optimizers, model, INPUTS), pytest.raises(RuntimeError, match="which would undo it"):
        load_checkpoint(tmp_path / "c.pt", model, optimizers)


def test_a_list_of_one_is_one(tmp_path: Path) -> None:
    model = net()
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=0.05)
    save_checkpoint(tmp_path / "c.pt", model, [optimizer])
    load_checkpoint(tmp_path / "c.pt", model, optimizer)
    assert torch.load(tmp_path / "c.pt", weights_only=True)["optimizer_type"] == "AdamWScheduleFree"
    for wrong in ([], [optimizer, optimizer]):
        with pytest.raises(ValueError, match=f"got {len(wrong)} of them"):
            evaluating(wrong, model)


def look(what: str, given: Any, model: nn.Module, folder: Path) -> None:
    if what == "save":
        save_checkpoint(folder / "c.pt", model, given)
        return
    with evaluating(given, model, INPUTS):
        pass


@pytest.mark.parametrize("what", ["evaluate", "save"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_one_that_was_left_out_at_y_is_warned_of_once(tmp_path: Path, what: str, wrapped: bool) -> None:
    model, optimizers = trained()
    if wrapped:
        optimizers[1] = MuScheduleFreeWrapper([model.hidden.weight], lr=0.1)
        train(model, optimizers, range(2))
    named = "ScheduleFreeWrapper trains them: hidden.weight. Give both" if wrapped else "hidden.weight, hidden.bias, "
    with pytest.warns(UserWarning, match=f"at y, .*{named}"):
        look(what, optimizers[0], model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        look(what, optimizers[0], model, tmp_path)


@pytest.mark.parametrize(
    "why", ["both given", "at x", "not moved yet", "frozen", "taken over", "gone", "of another model"]
)
def test_no_warning_where_nothing_is_left_at_y(tmp_path: Path, why: str) -> None:
    model, (first, second) = trained()
    given: Any = first
    if why == "both given":
        given = [first, second]
    if why == "at x":
        second.eval()
    if why == "not moved yet":
        second = MuSGD_ScheduleFree(model.hidden.parameters(), lr=0.1)
        second.train()
    if why == "frozen":
        model.hidden.requires_grad_(False)
        model.readout.requires_grad_(False)
    if why == "taken over":
        given = MuAdamW_ScheduleFree(model.parameters(), lr=0.1)
    if why == "gone":
        del second
    if why == "of another model":
        model = net()
        given = MuAdamW_ScheduleFree(model.first.parameters(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        look("evaluate", given, model, tmp_path)


def test_training_a_part_is_nothing_to_warn_of() -> None:
    model = net()
    optimizer = MuAdamW_ScheduleFree(model.readout.parameters(), lr=0.05)
    train(model, [optimizer], range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with evaluating(optimizer, model, INPUTS):
            pass


@pytest.mark.parametrize("make", [MuAdamW, MuAdamW_ScheduleFree])
def test_a_model_that_is_none_of_the_optimizers_is_an_error(tmp_path: Path, make: Any) -> None:
    model = net()
    optimizer = make(model.parameters())
    for other in (net(), copy.deepcopy(model), nn.ReLU()):
        with (
            pytest.raises(
                ValueError, match=rf"has no parameter of this {type(other).__name__}: it was made for another"
            ),
            evaluating(optimizer, other),
        ):
            pass
        with pytest.raises(ValueError, match="has no parameter of this"):
            save_checkpoint(tmp_path / "c.pt", other, optimizer)
    with (
        pytest.raises(ValueError, match="SGDScheduleFree has no parameter"),
        evaluating([optimizer, two(net())[1]], model),
    ):
        pass
    assert list(tmp_path.iterdir()) == []

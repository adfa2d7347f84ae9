"""Checkpoints: x for inference, and training resumed to the bit from either mode."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import mup
import pytest
import schedulefree
import torch
from schedule_free_variants import BASE, MODAL, VARIANTS, WIDTH, Net, batch, bits, net, same, train
from torch import nn

from mufree.optim import (
    BaseShapesError,
    CheckpointError,
    MuAdamW,
    MuAdamW_ScheduleFree,
    MuSGD_ScheduleFree,
    evaluating,
    load_checkpoint,
    save_checkpoint,
)

INPUTS = [batch(k)[0] for k in range(100, 103)]
PLACES = ["y", "x", "inside"]


def trained(name: str, steps: int = 10) -> tuple[Net, Any]:
    model = net()
    optimizer = VARIANTS[name](model.parameters())
    torch.manual_seed(1)
    train(model, optimizer, range(steps))
    return model, optimizer


def save_at(place: str, path: Path, model: nn.Module, optimizer: Any) -> None:
    if place == "inside":
        with evaluating(optimizer, model, INPUTS):
            save_checkpoint(path, model, optimizer, rng=torch.get_rng_state())
        return
    if place == "x" and hasattr(optimizer, "eval"):
        optimizer.eval()
    save_checkpoint(path, model, optimizer, rng=torch.get_rng_state())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", VARIANTS)
def test_resumes_to_the_bit(tmp_path: Path, name: str, place: str) -> None:
    model, optimizer = trained(name)
    save_at(place, tmp_path / "c.pt", model, optimizer)
    train(model, optimizer, range(10, 15))
    resumed = net(seed=9)
    again = VARIANTS[name](resumed.parameters())
    torch.set_rng_state(load_checkpoint(tmp_path / "c.pt", resumed, again)["rng"])
    train(resumed, again, range(10, 15))
    assert same(bits(resumed, again), bits(model, optimizer))


@pytest.mark.parametrize("name", ["AdamW", "SGD", "RAdam", "Wrapper(SGD)", "Wrapper(AdamW)"])
@pytest.mark.parametrize("place", PLACES)
def test_resumes_over_a_running_optimizer_of_either_mode(tmp_path: Path, name: str, place: str) -> None:
    model, optimizer = trained(name)
    save_at(place, tmp_path / "c.pt", model, optimizer)
    other, running = trained(name, steps=3)
    if place == "y":
        running.eval()
    torch.set_rng_state(load_checkpoint(tmp_path / "c.pt", other, running)["rng"])
    assert same(bits(other, running)[0], bits(model, optimizer)[0])
    for some, its in ((other, running), (model, optimizer)):
        torch.manual_seed(2)
        train(some, its, range(10, 15))
    assert same(bits(other, running), bits(model, optimizer))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", VARIANTS)
def test_saving_changes_nothing_and_the_model_in_the_file_is_x(tmp_path: Path, name: str, place: str) -> None:
    model, optimizer = trained(name)
    if place == "x" and hasattr(optimizer, "eval"):
        optimizer.eval()
    before = bits(model, optimizer)
    save_at(place, tmp_path / "c.pt", model, optimizer)
    assert same(bits(model, optimizer), before)
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    assert (tmp_path / "c.pt").stat().st_mode & 0o777 == 0o644
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    with evaluating(optimizer, model, INPUTS):
        at_x = bits(model, optimizer)[0]
    statistics = at_x if place == "inside" else before[0]
    parameters = {name for name, _ in model.named_parameters()}
    assert content["model"].keys() == before[0].keys()
    for key, value in content["model"].items():
        assert torch.equal(value, at_x[key] if key in parameters else statistics[key]), key


def naive_resume(tmp_path: Path, name: str, at: str) -> bool:
    """Whether saving two state dicts, with the optimizer at y or at x, and going on both ways gives the same bits."""
    model, optimizer = trained(name)
    random_state = torch.get_rng_state()
    uninterrupted, its = trained(name)
    if at == "x":
        optimizer.eval()
    torch.save((model.state_dict(), optimizer.state_dict()), tmp_path / "naive.pt")
    resumed = net(seed=9)
    again = VARIANTS[name](resumed.parameters())
    model_state, optimizer_state = torch.load(tmp_path / "naive.pt", weights_only=True)
    resumed.load_state_dict(model_state)
    again.load_state_dict(optimizer_state)
    for some, mine in ((resumed, again), (uninterrupted, its)):
        torch.set_rng_state(random_state)
        train(some, mine, range(10, 15))
    return same(bits(resumed, again)[0], bits(uninterrupted, its)[0])


def test_two_state_dicts_lose_bits_at_x_and_the_wrapper_loses_its_mode_at_y(tmp_path: Path) -> None:
    for name in ("AdamW", "SGD", "RAdam"):
        assert not naive_resume(tmp_path, name, "x")
        assert naive_resume(tmp_path, name, "y")  # resumes; but the file holds y, the wrong weights for inference
    # Its train_mode is in no state dict: a new one believes to be at x, and extrapolates y as if it were.
    assert not naive_resume(tmp_path, "Wrapper(SGD)", "y")


def test_in_another_process(tmp_path: Path) -> None:
    model, optimizer = trained("AdamW")
    save_checkpoint(tmp_path / "c.pt", model, optimizer, rng=torch.get_rng_state())
    train(model, optimizer, range(10, 15))
    script = """
        import sys, torch
        from schedule_free_variants import VARIANTS, bits, net, train
        from mufree.optim import load_checkpoint
        torch.set_num_threads(1)
        model = net(seed=9)
        optimizer = VARIANTS["AdamW"](model.parameters())
        torch.set_rng_state(load_checkpoint(sys.argv[1], model, optimizer)["rng"])
        train(model, optimizer, range(10, 15))
        torch.save(bits(model, optimizer), sys.argv[2])
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path / "c.pt", tmp_path / "bits.pt"],
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert same(torch.load(tmp_path / "bits.pt", weights_only=True), bits(model, optimizer))


def test_loading_the_model_alone_gives_x_and_its_base_shapes(tmp_path: Path) -> None:
    model, optimizer = trained("AdamW")
    with evaluating(optimizer, model, INPUTS):
        save_checkpoint(tmp_path / "c.pt", model, optimizer, step=10)
        expected = model(INPUTS[0])
    fresh = Net(WIDTH)
    with pytest.raises(AssertionError, match="set_base_shapes"):
        fresh.eval()(INPUTS[0])
    assert load_checkpoint(tmp_path / "c.pt", fresh) == {"step": 10}
    assert torch.equal(fresh(INPUTS[0]), expected)
    MuAdamW_ScheduleFree(fresh.parameters(), lr=0.1)


def test_other_base_shapes_are_an_error(tmp_path: Path) -> None:
    model, optimizer = trained("AdamW", steps=1)
    save_checkpoint(tmp_path / "c.pt", model, optimizer)
    other = mup.set_base_shapes(Net(WIDTH), Net(4), delta=Net(BASE))
    with pytest.raises(CheckpointError, match=r"first.weight has the base shape \[4, None\] but \[8, None\]"):
        load_checkpoint(tmp_path / "c.pt", other)
    wider = net(2 * WIDTH)
    with pytest.raises(CheckpointError, match="size mismatch"):
        load_checkpoint(tmp_path / "c.pt", wider)
    partial = net()
    optimizer = VARIANTS["AdamW"](partial.parameters())
    del partial.hidden.weight.infshape
    with pytest.raises(BaseShapesError, match=r"hidden\.weight"):
        save_checkpoint(tmp_path / "d.pt", partial, optimizer)


def test_a_compiled_model_and_a_bare_one_share_files(tmp_path: Path) -> None:
    model, optimizer = trained("AdamW")
    compiled = torch.compile(model, backend="eager")
    save_checkpoint(tmp_path / "c.pt", compiled, optimizer)
    bare = net(seed=9)
    load_checkpoint(tmp_path / "c.pt", bare, VARIANTS["AdamW"](bare.parameters()))
    assert same(bare.state_dict(), model.state_dict())
    target = torch.compile(net(seed=9), backend="eager")
    load_checkpoint(tmp_path / "c.pt", target, VARIANTS["AdamW"](target.parameters()))
    assert same(dict(zip(bare.state_dict(), target.state_dict().values(), strict=True)), bare.state_dict())


@pytest.mark.parametrize(
    ("ours", "plain"),
    [(MuAdamW_ScheduleFree, schedulefree.AdamWScheduleFree), (MuSGD_ScheduleFree, schedulefree.SGDScheduleFree)],
)
def test_state_dicts_pass_to_plain_optimizers_and_back_at_base_width(tmp_path: Path, ours: Any, plain: Any) -> None:
    model = net(BASE)
    optimizer = ours(model.parameters(), lr=0.05)
    torch.manual_seed(1)
    train(model, optimizer, range(5))
    save_checkpoint(tmp_path / "c.pt", model, optimizer)
    content = torch.load(tmp_path / "c.pt", weights_only=True)

    theirs = net(BASE, seed=9)
    bare = plain(theirs.parameters(), lr=0.3)
    theirs.load_state_dict(content["model"])
    bare.load_state_dict(content["optimizer"])
    assert not bare.param_groups[0]["train_mode"]  # as fits x
    optimizer.eval()
    assert same(theirs.state_dict(), model.state_dict())
    for some, its in ((model, optimizer), (theirs, bare)):
        torch.manual_seed(2)
        train(some, its, range(5, 10))
    assert same(theirs.state_dict(), model.state_dict())

    back = net(BASE, seed=7)
    mine = ours(back.parameters(), lr=0.3)
    back.load_state_dict(theirs.state_dict())
    mine.load_state_dict(copy.deepcopy(bare.state_dict()))
    for some, its in ((back, mine), (theirs, bare)):
        torch.manual_seed(3)
        train(some, its, range(10, 15))
    assert same(back.state_dict(), theirs.state_dict())


def test_an_ordinary_optimizer_resumes_too(tmp_path: Path) -> None:
    model = net()
    optimizer = MuAdamW(model.parameters(), lr=0.05)
    train(model, optimizer, range(5))
    save_checkpoint(tmp_path / "c.pt", model, optimizer)
    resumed = net(seed=9)
    again = MuAdamW(resumed.parameters(), lr=0.05)
    load_checkpoint(tmp_path / "c.pt", resumed, again)
    for some, its in ((model, optimizer), (resumed, again)):
        torch.manual_seed(2)
        train(some, its, range(5, 10))
    assert same(bits(resumed, again), bits(model, optimizer))


def test_a_file_that_is_missing_foreign_or_damaged_is_said(tmp_path: Path) -> None:
    model, optimizer = trained("AdamW", steps=2)
    before = bits(model, optimizer)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*c\.pt"):
        load_checkpoint(tmp_path / "c.pt", model, optimizer)
    torch.save(model.state_dict(), tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="not written by save_checkpoint"):
        load_checkpoint(tmp_path / "foreign.pt", model, optimizer)
    torch.save(model, tmp_path / "pickled.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    (tmp_path / "empty.pt").touch()
    save_checkpoint(tmp_path / "whole.pt", model, optimizer)
    content = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    for name in ("pickled", "text", "empty", "cut"):
        with pytest.raises(CheckpointError, match=f"{name}.pt is damaged or no checkpoint"):
            load_checkpoint(tmp_path / f"{name}.pt", model, optimizer)
    assert same(bits(model, optimizer), before)


def test_another_optimizer_or_model_is_said(tmp_path: Path) -> None:
    model, optimizer = trained("AdamW", steps=2)
    save_checkpoint(tmp_path / "c.pt", model, optimizer)
    for name, found in (("SGD", "SGDScheduleFree"), ("Wrapper(SGD)", r"ScheduleFreeWrapper\(SGD\)")):
        with pytest.raises(CheckpointError, match=f"of a AdamWScheduleFree, but the optimizer is a {found}"):
            load_checkpoint(tmp_path / "c.pt", net(), MODAL[name](net().parameters()))
    half = net()
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(tmp_path / "c.pt", half, MuAdamW_ScheduleFree(half.first.parameters(), lr=0.1))
    turned = net()
    backwards = MuAdamW_ScheduleFree(reversed(list(turned.parameters())), lr=0.1)
    with pytest.raises(CheckpointError, match="parameters in another order"):
        load_checkpoint(tmp_path / "c.pt", turned, backwards)
    with pytest.raises(CheckpointError, match="Missing key"):
        load_checkpoint(tmp_path / "c.pt", nn.Linear(2, 3))


def test_loading_inside_evaluating_is_refused(tmp_path: Path) -> None:
    model, optimizer = trained("AdamW", steps=2)
    save_checkpoint(tmp_path / "c.pt", model, optimizer)
    with evaluating(optimizer, model, INPUTS), pytest.raises(RuntimeError, match="which would undo it"):
        load_checkpoint(tmp_path / "c.pt", model, optimizer)


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    model, optimizer = trained("AdamW", steps=2)
    save_checkpoint(tmp_path / "c.pt", model, optimizer, step=2)
    old = (tmp_path / "c.pt").read_bytes()
    before = bits(model, optimizer)
    with pytest.raises(CheckpointError, match=r"pathlib\.\w+ could only .*\['where'\]"):
        save_checkpoint(tmp_path / "c.pt", model, optimizer, where=Path("x"))
    with pytest.raises(CheckpointError, match=r"lambda.* in \['loss'\]"):
        save_checkpoint(tmp_path / "c.pt", model, optimizer, loss=lambda: 0)
    assert (tmp_path / "c.pt").read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    assert same(bits(model, optimizer), before)
    train(model, optimizer, range(2, 3))


def test_what_extra_may_hold(tmp_path: Path) -> None:
    model, optimizer = trained("AdamW", steps=1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    extra = {"step": 3, "name": "a", "best": 0.5, "of": [1, (2, None)], "scheduler": scheduler.state_dict()}
    save_checkpoint(tmp_path / "c.pt", model, optimizer, **extra, rng=torch.get_rng_state())
    loaded = load_checkpoint(tmp_path / "c.pt", copy.deepcopy(model))
    assert torch.equal(loaded.pop("rng"), torch.get_rng_state())
    assert loaded == extra


def test_a_flipped_bit_in_a_weight_is_found(tmp_path: Path) -> None:
    """torch.load does not look at the checksums that torch.save writes."""
    model, optimizer = trained("AdamW", steps=1)
    save_checkpoint(tmp_path / "c.pt", model, optimizer)
    content = bytearray((tmp_path / "c.pt").read_bytes())
    z = next(state["z"] for state in optimizer.state.values() if state)
    content[content.index(z.numpy().tobytes())] ^= 1
    (tmp_path / "c.pt").write_bytes(content)
    torch.load(tmp_path / "c.pt", weights_only=True)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(tmp_path / "c.pt", net())

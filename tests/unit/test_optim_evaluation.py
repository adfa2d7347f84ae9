"""Evaluation at x: what it shows, that it leaves nothing behind, and what it refuses."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from schedule_free_variants import CLOSURE, MODAL, VARIANTS, batch, bits, net, same, train
from schedulefree import AdamWScheduleFree
from torch import nn

from mufree.optim import MuAdamW, MuAdamW_ScheduleFree, evaluating, is_schedule_free, recompute_batchnorm

INPUTS = [batch(k)[0] for k in range(100, 103)]


def look(model: nn.Module, optimizer: Any) -> None:
    with evaluating(optimizer, model, INPUTS):
        model(INPUTS[0])


@pytest.mark.parametrize("name", VARIANTS)
def test_looking_changes_no_bit_of_training(name: str) -> None:
    looked, alone = net(), net()
    optimizers = VARIANTS[name](looked.parameters()), VARIANTS[name](alone.parameters())
    torch.manual_seed(1)
    train(looked, optimizers[0], range(6), after=lambda: look(looked, optimizers[0]))
    torch.manual_seed(1)
    train(alone, optimizers[1], range(6))
    assert same(bits(looked, optimizers[0]), bits(alone, optimizers[1]))


@pytest.mark.parametrize("name", ["AdamW", "AdamWPaper", "SGD", "RAdam", "Wrapper(SGD)", "Wrapper(AdamW)"])
def test_looking_by_eval_and_train_alone_changes_bits(name: str) -> None:
    looked, alone = net(), net()
    optimizers = MODAL[name](looked.parameters()), MODAL[name](alone.parameters())

    def look_naively() -> None:
        optimizers[0].eval()
        optimizers[0].train()

    torch.manual_seed(1)
    train(looked, optimizers[0], range(40), after=look_naively)
    torch.manual_seed(1)
    train(alone, optimizers[1], range(40))
    assert not same(bits(looked, optimizers[0])[0], bits(alone, optimizers[1])[0])


@pytest.mark.parametrize("name", MODAL)
def test_inside_the_weights_are_what_eval_gives(name: str) -> None:
    model = net()
    optimizer = MODAL[name](model.parameters())
    train(model, optimizer, range(9))
    at_y = [p.clone() for p in model.parameters()]
    with evaluating(optimizer, model, INPUTS):
        inside = [p.clone() for p in model.parameters()]
        assert not any(module.training for module in model.modules())
    assert all(torch.equal(p, y) for p, y in zip(model.parameters(), at_y, strict=True))
    optimizer.eval()
    assert all(torch.equal(p, x) for p, x in zip(model.parameters(), inside, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(inside, at_y, strict=True))


@pytest.mark.parametrize("name", VARIANTS)
def test_x_is_the_average_of_z_weighted_by_lr_squared(name: str) -> None:
    """Defazio et al. 2024, section 4.1: the weight of an iterate is the square of the largest learning rate so far."""
    model = net()
    weight = model.hidden.weight
    optimizer = VARIANTS[name](model.parameters())
    (group,) = [g for g in optimizer.param_groups if any(p is weight for p in g["params"])]
    terms: list[tuple[torch.Tensor, float]] = []
    train(
        model,
        optimizer,
        range(9),
        after=lambda: terms.append((optimizer.state[weight]["z"].clone(), group["lr_max"] ** 2)),
    )
    expected = sum(z * w for z, w in terms) / sum(w for _, w in terms)
    with evaluating(optimizer, model, INPUTS):
        torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize("name", CLOSURE)
def test_closure_variants_are_at_x_already(name: str) -> None:
    model = net()
    optimizer = CLOSURE[name](model.parameters())
    train(model, optimizer, range(4))
    weights = [p.clone() for p in model.parameters()]
    statistics = model.norm.running_mean.clone()
    assert not is_schedule_free(optimizer)
    with evaluating(optimizer, model, INPUTS):
        assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
        assert not torch.equal(model.norm.running_mean, statistics)
    assert torch.equal(model.norm.running_mean, statistics)


@pytest.mark.parametrize("mode", ["y", "x", "fresh"])
def test_restores_flags_buffers_and_mode_after_an_exception(mode: str) -> None:
    model = net()
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=0.05)
    if mode != "fresh":
        train(model, optimizer, range(4))
    if mode == "x":
        optimizer.eval()
    model.norm.eval()
    before = bits(model, optimizer)

    def disturb() -> None:
        with evaluating(optimizer, model, INPUTS):
            model.train()
            optimizer.train()
            model(INPUTS[0])
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        disturb()
    assert same(bits(model, optimizer), before)
    assert not model.norm.training
    assert model.training


def test_restores_when_a_batch_fails() -> None:
    model = net()
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=0.05)
    train(model, optimizer, range(4))
    before = bits(model, optimizer)
    with pytest.raises(RuntimeError, match="mat1"), evaluating(optimizer, model, [torch.ones(4, 7)]):
        pass
    assert same(bits(model, optimizer), before)
    assert model.norm.momentum == 0.1
    with pytest.raises(ValueError, match="no batch"), evaluating(optimizer, model, iter([])):
        pass
    assert same(bits(model, optimizer), before)
    look(model, optimizer)


def test_nests_and_the_inner_one_gives_back_what_the_outer_had() -> None:
    model = net()
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=0.05)
    train(model, optimizer, range(4))
    before = bits(model, optimizer)
    with evaluating(optimizer, model, INPUTS):
        outer = bits(model, optimizer)
        with evaluating(optimizer, model, INPUTS[:1]):
            assert not same(bits(model, optimizer)[0], outer[0])
        assert same(bits(model, optimizer), outer)
        with evaluating(optimizer, model):  # no warning: the statistics are those of the outer one
            model(INPUTS[0])
            assert same(bits(model, optimizer), outer)
        with pytest.raises(RuntimeError, match="inside `with evaluating"):
            optimizer.step()
    assert same(bits(model, optimizer), before)
    train(model, optimizer, range(4, 5))


@pytest.mark.parametrize("name", VARIANTS)
def test_stepping_inside_is_refused_and_allowed_again_after(name: str) -> None:
    model = net()
    optimizer = VARIANTS[name](model.parameters())
    train(model, optimizer, range(2))
    before = bits(model, optimizer)
    with evaluating(optimizer, model, INPUTS):
        if hasattr(optimizer, "train"):
            optimizer.train()  # in train mode the package itself would let it pass
        with pytest.raises(RuntimeError, match="Leave the context first"):
            optimizer.step(lambda: 0.0)
    assert same(bits(model, optimizer), before)
    assert "step" not in vars(optimizer)
    train(model, optimizer, range(2, 3))


def test_a_schedulers_hook_on_step_survives() -> None:
    model = net()
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    hooked = vars(optimizer)["step"]
    look(model, optimizer)
    assert vars(optimizer)["step"] is hooked
    train(model, optimizer, range(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns if it believes that it was stepped before the optimizer
        scheduler.step()


def test_one_context_cannot_be_entered_twice() -> None:
    model = net()
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=0.05)
    context = evaluating(optimizer, model, INPUTS)
    with context:
        with pytest.raises(RuntimeError, match="entered before"), context:
            pass
        assert not model.training
    assert model.training
    with pytest.raises(RuntimeError, match="entered before"), context:
        pass
    assert model.training


def test_a_batchnorm_model_without_batches_warns_once_and_only_if_it_is_run() -> None:
    model = net()
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=0.05)
    train(model, optimizer, range(2))
    with evaluating(optimizer, model):
        model.train()
        model(INPUTS[0])  # by the statistics of the batch: nothing to warn of
    with pytest.warns(UserWarning, match="statistics that were collected at y"), evaluating(optimizer, model):
        model(INPUTS[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with evaluating(optimizer, model):
            model(INPUTS[0])
    assert not model.norm._forward_pre_hooks
    other = MuAdamW_ScheduleFree(model.parameters(), lr=0.05)
    with pytest.warns(UserWarning, match="BatchNorm"), evaluating(other, model):
        model(INPUTS[0])


@pytest.mark.parametrize("norm", ["none", "batch statistics only", "frozen"])
def test_no_warning_where_no_statistics_of_y_are_used(norm: str) -> None:
    model = net()
    if norm == "none":
        model.norm = nn.Identity()
    if norm == "batch statistics only":
        model.norm = nn.BatchNorm1d(16, affine=False, track_running_stats=False)
    if norm == "frozen":
        model.norm.eval()
    optimizer = MuAdamW_ScheduleFree([p for p in model.parameters() if hasattr(p, "infshape")], lr=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with evaluating(optimizer, model):
            model(INPUTS[0])


def test_batchnorm_statistics_are_the_mean_over_the_batches_at_x_without_dropout() -> None:
    model = net()
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=0.05)
    train(model, optimizer, range(4))
    random_state = torch.get_rng_state()
    with evaluating(optimizer, model, INPUTS):
        outputs = [model.first(x) for x in INPUTS]
        torch.testing.assert_close(model.norm.running_mean, torch.stack([h.mean(0) for h in outputs]).mean(0))
        torch.testing.assert_close(model.norm.running_var, torch.stack([h.var(0) for h in outputs]).mean(0))
        assert model.norm.num_batches_tracked == 3
        assert model.norm.momentum == 0.1
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.norm.num_batches_tracked == 4


def test_frozen_batchnorm_stays_as_it_is() -> None:
    model = net()
    model.norm.eval()
    model.norm.running_mean.fill_(0.5)
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=0.05)
    recompute_batchnorm(model, INPUTS)
    with evaluating(optimizer, model, INPUTS):
        assert set(model.norm.running_mean.tolist()) == {0.5}
    assert [name for name, module in model.named_modules() if not module.training] == ["norm"]


def test_with_an_ordinary_optimizer_only_modes_change_and_batches_are_not_read() -> None:
    model = net()
    model.drop.eval()
    optimizer = MuAdamW(model.parameters(), lr=0.05)
    before = bits(model, optimizer)

    def batches() -> Any:
        raise AssertionError("read")
        yield

    with evaluating(optimizer, model, batches()):
        assert not any(module.training for module in model.modules())
        assert same(bits(model, optimizer)[0], before[0])
        assert "step" not in vars(optimizer)
    assert same(bits(model, optimizer), before)


def test_several_dtypes_in_one_model() -> None:
    model = net()
    model.hidden.to(torch.bfloat16)
    model.readout.to(torch.float64)
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=0.05)
    optimizer.train()
    for _ in range(3):
        for p in model.parameters():
            p.grad = torch.ones_like(p) if p.requires_grad else None
        optimizer.step()
    before = bits(model, optimizer)
    with evaluating(optimizer, model):
        assert {p.dtype for p in model.parameters()} == {torch.float32, torch.bfloat16, torch.float64}
        assert not same(bits(model, optimizer)[0], before[0])
    assert same(bits(model, optimizer), before)


def test_a_buffer_that_was_replaced_comes_back_and_a_cache_that_grew_stays() -> None:
    model = net()
    model.register_buffer("count", torch.zeros(()))
    model.register_buffer("cache", torch.zeros(2))
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=0.05)
    with evaluating(optimizer, model):
        model.count = model.count + 1
        model.cache = torch.zeros(4)
        model.register_buffer("made_inside", torch.zeros(1))
    assert model.count == 0
    assert model.cache.shape == (4,)
    assert model.made_inside == 0


def test_autocast_sees_the_weights_of_x() -> None:
    """Autocast keeps the bfloat16 copies of the weights of its region, whatever happens to the weights meanwhile."""
    model = net()
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=0.5)
    train(model, optimizer, range(5))
    with evaluating(optimizer, model, INPUTS), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model.hidden(torch.ones(1, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        at_y = model.hidden(torch.ones(1, 16))
        optimizer.eval()
        assert torch.equal(model.hidden(torch.ones(1, 16)), at_y)  # what happens without
        optimizer.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        at_y = model.hidden(torch.ones(1, 16))
        with evaluating(optimizer, model, INPUTS):
            torch.testing.assert_close(model.hidden(torch.ones(1, 16)), expected, rtol=2**-7, atol=1e-2)
            assert not torch.equal(model.hidden(torch.ones(1, 16)), at_y)
        assert torch.equal(model.hidden(torch.ones(1, 16)), at_y)


def test_groups_in_different_modes_are_an_error() -> None:
    model = net()
    optimizer = AdamWScheduleFree(model.first.parameters(), lr=0.05)
    optimizer.train()
    optimizer.add_param_group({"params": list(model.hidden.parameters())})
    with (
        pytest.raises(RuntimeError, match=r"optimizer.train\(\) right after add_param_group"),
        evaluating(optimizer, model),
    ):
        pass
    assert model.training
    optimizer.train()
    look(model, optimizer)


def test_the_package_leaves_such_a_group_at_y() -> None:
    model = net()
    optimizer = AdamWScheduleFree(model.first.parameters(), lr=0.05)
    optimizer.train()
    optimizer.add_param_group({"params": list(model.hidden.parameters())})
    train_without_mode = [batch(k) for k in range(3)]
    for inputs, targets in train_without_mode:
        (model(inputs) - targets).square().mean().backward()
        optimizer.step()
    at_y = model.hidden.weight.clone()
    optimizer.eval()
    assert torch.equal(model.hidden.weight, at_y)
    assert not torch.equal(optimizer.state[model.hidden.weight]["z"], at_y)


def test_an_optimizer_that_does_not_tell_its_mode_is_refused() -> None:
    class Shell(torch.optim.SGD):
        def train(self) -> None: ...

        def eval(self) -> None: ...

    model = net()
    with pytest.raises(TypeError, match="Shell has train"), evaluating(Shell(model.parameters(), lr=0.1), model):
        pass


def test_no_empty_state_is_left_for_parameters_without_gradients() -> None:
    model = net()
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=0.05)
    for group in optimizer.param_groups:
        group["train_mode"] = True  # without train(), which makes such entries itself
    (model(batch(0)[0])).sum().backward()
    optimizer.step()
    with_state = set(optimizer.state)
    look(model, optimizer)
    assert set(optimizer.state) == with_state
    assert model.unused not in with_state

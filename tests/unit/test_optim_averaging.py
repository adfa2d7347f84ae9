"""The average beside an ordinary optimizer, against a slow reference of a few lines."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import mup
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mufree.optim import MuAdamW, MuAdamW_ScheduleFree, WeightAverage


def make() -> tuple[nn.Module, Optimizer]:
    torch.manual_seed(0)

    def net(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), mup.MuReadout(width, 2))

    model = net(16)
    mup.set_base_shapes(model, net(4), delta=net(8))
    return model, MuAdamW(model.parameters(), lr=0.1)


INPUTS = torch.randn(32, 3, generator=torch.Generator().manual_seed(2))


def trajectory(model: nn.Module, optimizer: Optimizer, steps: int) -> Iterator[list[Tensor]]:
    """The weights after each step."""
    for _ in range(steps):
        (model(INPUTS) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        yield [p.detach().clone() for p in model.parameters()]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def in_order_of(optimizer: Optimizer, model: nn.Module, values: list[Tensor]) -> list[Tensor]:
    """Values of the model's parameters in the order of the optimizer's groups."""
    of = {id(p): value for p, value in zip(model.parameters(), values, strict=True)}
    return [of[id(p)] for group in optimizer.param_groups for p in group["params"]]


def test_it_is_the_mean_and_then_exponential() -> None:
    model, optimizer = make()
    average = WeightAverage(optimizer, time_constant=4)
    past: list[list[Tensor]] = []
    for weights in trajectory(model, optimizer, 9):
        average.update()
        past.append(in_order_of(optimizer, model, weights))
        mean = [torch.stack(values).double().mean(0) for values in zip(*past[:4], strict=True)]
        for newer in past[4:]:
            mean = [3 / 4 * old + 1 / 4 * new.double() for old, new in zip(mean, newer, strict=True)]
        for value, expected in zip(average.average, mean, strict=True):
            torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


def test_before_the_first_update_and_with_no_memory_it_is_the_weights() -> None:
    model, optimizer = make()
    average = WeightAverage(optimizer, time_constant=1)
    for steps in (0, 3):
        for _ in trajectory(model, optimizer, steps):
            average.update()
        before = state(model)
        with average.evaluating(model):
            assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_updating_and_looking_change_no_bit() -> None:
    watched, alone = make(), make()
    average = WeightAverage(watched[1], time_constant=4)
    for _ in trajectory(*watched, 6):
        average.update()
        with average.evaluating(watched[0], [INPUTS]):
            pass
    list(trajectory(*alone, 6))
    first, second = state(watched[0]), state(alone[0])
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_batchnorm_is_that_of_the_average_inside_and_that_of_training_outside() -> None:
    model, optimizer = make()
    average = WeightAverage(optimizer, time_constant=4)
    for _ in trajectory(model, optimizer, 6):
        average.update()
    before = state(model)
    with average.evaluating(model, [INPUTS]):
        assert not model.training
        assert not torch.equal(model[0].weight, before["0.weight"])
        torch.testing.assert_close(model[1].running_mean, model[0](INPUTS).mean(0))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


def test_stepping_inside_is_refused_and_an_exception_restores() -> None:
    model, optimizer = make()
    average = WeightAverage(optimizer, time_constant=4)
    for _ in trajectory(model, optimizer, 3):
        average.update()
    before = state(model)
    with pytest.raises(RuntimeError, match=r"step\(\) inside"), average.evaluating(model):
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


@pytest.mark.parametrize("time_constant", [0.5, 0, float("nan")])
def test_a_time_constant_below_a_step_is_an_error(time_constant: float) -> None:
    _, optimizer = make()
    with pytest.raises(ValueError, match="at least 1, got"):
        WeightAverage(optimizer, time_constant)


def test_without_batches_a_batchnorm_model_warns_once_and_a_batch_may_bring_targets() -> None:
    model, optimizer = make()
    average = WeightAverage(optimizer, time_constant=4)
    for _ in trajectory(model, optimizer, 3):
        average.update()
    with pytest.warns(UserWarning, match="collected at the weights themselves"), average.evaluating(model):
        model(INPUTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with average.evaluating(model):
            model(INPUTS)
        again = WeightAverage(optimizer, time_constant=4)
        with again.evaluating(model, [(INPUTS, torch.zeros(32))]):
            torch.testing.assert_close(model[1].running_mean, model[0](INPUTS).mean(0))
            with again.evaluating(model):  # the statistics are those of the outer one
                model(INPUTS)
        with again.evaluating(model, [{"a": INPUTS}], forward=lambda model, batch: model(batch["a"])):
            model(INPUTS)
    assert not model[1]._forward_pre_hooks


def test_another_model_is_an_error() -> None:
    _, optimizer = make()
    with (
        pytest.raises(ValueError, match="AdamW has no parameter of this Sequential"),
        WeightAverage(optimizer, 4).evaluating(make()[0]),
    ):
        pass


def test_weights_in_bfloat16_have_an_average_that_moves() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data = torch.ones(1, 1, dtype=torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    average = WeightAverage(optimizer, time_constant=1000)
    wanted = 1.0
    for n in range(1, 3001):
        model.weight.data.fill_(1.0 if n < 100 else 4.0)
        average.update()
        wanted += max(1 / n, 1 / 1000) * (model.weight.item() - wanted)
    (mean,) = average.average
    assert mean.dtype == torch.float32
    assert float(mean) == pytest.approx(wanted, abs=1e-3)
    with average.evaluating(model):
        assert model.weight.item() == pytest.approx(wanted, rel=2**-8)
        assert model.weight.dtype == torch.bfloat16


def test_inside_evaluating_nothing_is_taken_in() -> None:
    model, optimizer = make()
    average = WeightAverage(optimizer, 5)
    with average.evaluating(model, [INPUTS]), pytest.raises(RuntimeError, match="inside `with evaluating"):
        average.update()
    assert average.updates == 0


def test_weights_that_came_later_and_weights_that_are_averaged_already_are_errors() -> None:
    model, optimizer = make()
    average = WeightAverage(optimizer, 5)
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))], "lr_multiplier": 1.0, "split_from": 0})
    with pytest.raises(ValueError, match="of 6 weights, and the optimizer has 7"):
        average.update()
    with pytest.raises(ValueError, match="of 6 weights, and the optimizer has 7"), average.evaluating(model):
        pass
    with pytest.raises(ValueError, match="AdamWScheduleFree averages its weights itself"):
        WeightAverage(MuAdamW_ScheduleFree(make()[0].parameters(), lr=0.1), 5)

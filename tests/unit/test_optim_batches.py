"""What a data loader gives, as the batches by which BatchNorm's statistics are computed."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader, TensorDataset

from mufree.optim import recompute_batchnorm
from mufree.optim.batches import run_on

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
Y = torch.zeros(8)
Pair = namedtuple("Pair", ["inputs", "targets"])


class Named(nn.Module):
    """Takes its inputs by name, and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.came: list[Any] = []

    def forward(self, inputs: Tensor, scale: float = 1.0) -> Tensor:
        self.came.append((inputs, scale))
        return self.norm(inputs * scale)


class Anything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.came: list[Any] = []

    def forward(self, *args: Any, **kwargs: Any) -> None:
        self.came.append((args, kwargs))


BATCHES: dict[str, Any] = {
    "tensor": X,
    "tuple": (X, Y),
    "list": [X, Y],
    "named tuple": Pair(X, Y),
    "tuple of one": (X,),
    "dict": {"inputs": X, "labels": Y},
    "ordered dict": OrderedDict(inputs=X, labels=Y),
    "dict and targets": ({"inputs": X, "mask": Y}, Y),
}


@pytest.mark.parametrize("name", BATCHES)
def test_the_inputs_of_a_batch_are_found(name: str) -> None:
    model = Named()
    run_on(model, BATCHES[name])
    ((inputs, scale),) = model.came
    assert inputs is X
    assert scale == 1.0


def test_what_the_model_takes_by_name_is_given_by_name() -> None:
    model = Named()
    run_on(model, {"scale": 2.0, "inputs": X, "labels": Y})
    assert model.came[0][1] == 2.0
    anything = Anything()
    batch = {"inputs": X, "labels": Y}
    run_on(anything, batch)
    assert anything.came == [((), batch)]


@pytest.mark.parametrize("wrap", ["compile", "DataParallel"])
def test_a_wrapper_takes_what_its_module_takes(wrap: str) -> None:
    model = Named()
    run_on(torch.compile(model, backend="eager") if wrap == "compile" else nn.DataParallel(model), BATCHES["dict"])
    assert len(model.came) == 1


def test_a_packed_sequence_is_one_input() -> None:
    anything = Anything()
    packed = pack_sequence([X])
    run_on(anything, packed)
    ((args, _),) = anything.came
    assert isinstance(args[0], PackedSequence)
    run_on(anything, (packed, Y))
    assert anything.came[1][0][0] is packed


@pytest.mark.parametrize(
    ("batch", "came"),
    [
        (([X, X], Y), "got tuple that begins with list."),
        ((), "got tuple."),
        ([3, X], "got list that begins with int."),
        ("text", "got str."),
        (None, "got NoneType."),
    ],
)
def test_what_came_is_said_where_it_is_no_batch(batch: Any, came: str) -> None:
    with pytest.raises(TypeError, match=r"A batch has to be .*, " + came + r" Give forward=lambda"):
        run_on(Named(), batch)
    ours = Named()
    run_on(ours, batch, forward=lambda model, batch: model(X))
    assert ours.came[0][0] is X


def test_a_dict_without_any_input_is_said() -> None:
    with pytest.raises(
        TypeError, match=r"takes inputs, scale, and the batch is a dict of pixels, labels\. Give forward="
    ):
        run_on(Named(), {"pixels": X, "labels": Y})


def test_batchnorm_statistics_are_those_of_the_inputs_in_a_data_loader() -> None:
    dataset = TensorDataset(X, Y)

    def named(pairs: list[tuple[Tensor, Tensor]]) -> Mapping[str, Tensor]:
        return {"inputs": torch.stack([x for x, _ in pairs]), "labels": torch.stack([y for _, y in pairs])}

    for loader in (DataLoader(dataset, 4), DataLoader(dataset, 4, collate_fn=named)):
        model = Named()
        recompute_batchnorm(model, loader)
        torch.testing.assert_close(model.norm.running_mean, X.mean(0))
        assert len(model.came) == 2
    model = Named()
    recompute_batchnorm(model, DataLoader(dataset, 8), forward=lambda model, batch: model(batch[0], 3.0))
    torch.testing.assert_close(model.norm.running_mean, 3 * X.mean(0))

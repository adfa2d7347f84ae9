"""µP's base shapes found again by name: after copies, files, wrappers and sharding."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mup
import pytest
import torch
import torch.distributed as dist
import two_processes
from torch import nn
from two_processes import STEPS, groups, network, optimizer_for, trained, weights

from mufree.optim import (
    BaseShapesError,
    attach_base_shapes,
    base_shapes_of,
    evaluating,
    load_base_shapes,
    load_checkpoint,
    save_base_shapes,
)

WIDTH, BASE = 16, 4


def without() -> nn.Module:
    """As `network`, but never given base shapes."""
    return two_processes.make(WIDTH).double()


def test_shapes_are_json_with_a_base_dimension_where_width_grows() -> None:
    shapes = base_shapes_of(network())
    assert shapes["0.weight"] == {"shape": [16, 3], "base_shape": [4, None]}
    assert shapes["2.0.weight"] == {"shape": [16, 16], "base_shape": [4, 4]}
    assert shapes["3.weight"] == {"shape": [2, 16], "base_shape": [None, 4]}
    assert json.loads(json.dumps(shapes)) == shapes
    assert list(shapes) == [name for name, _ in network().named_parameters()]


def test_a_deep_copy_keeps_them_and_a_new_model_gets_them_by_attaching() -> None:
    model = network()
    copied = copy.deepcopy(model)
    assert groups(copied, optimizer_for(copied)) == groups(model, optimizer_for(model))
    assert copy.deepcopy(model[0]).weight.infshape == model[0].weight.infshape
    fresh = without()
    fresh.load_state_dict(model.state_dict())
    with pytest.raises(BaseShapesError, match="infshape"):
        optimizer_for(fresh)
    with pytest.raises(BaseShapesError, match=r"0\.weight, 0\.bias, 2\.0\.weight, 2\.0\.bias, 3\.weight and 1 more"):
        base_shapes_of(fresh)
    attach_base_shapes(fresh, base_shapes_of(model))
    assert groups(fresh, optimizer_for(fresh)) == groups(model, optimizer_for(model))
    assert all(p.infshape == q.infshape for p, q in zip(fresh.parameters(), model.parameters(), strict=True))
    inputs = torch.ones(2, 3, dtype=torch.float64)
    assert torch.equal(fresh(inputs), model(inputs))
    assert torch.equal(copied(inputs), model(inputs))


def test_by_a_file_into_a_new_model_with_loaded_weights(tmp_path: Path) -> None:
    model = network()
    save_base_shapes(model, tmp_path / "shapes.json")
    assert [p.name for p in tmp_path.iterdir()] == ["shapes.json"]
    fresh = without()
    fresh.load_state_dict(model.state_dict())
    attach_base_shapes(fresh, load_base_shapes(tmp_path / "shapes.json"))
    assert all(torch.equal(p, q) for p, q in zip(fresh.parameters(), model.parameters(), strict=True))
    assert groups(fresh, optimizer_for(fresh)) == groups(model, optimizer_for(model))
    # The control: mup's own way takes loaded weights for fresh ones, and rescales them.
    rescaled = without()
    rescaled.load_state_dict(model.state_dict())
    mup.set_base_shapes(rescaled, two_processes.make(BASE), delta=two_processes.make(2 * BASE))
    torch.testing.assert_close(rescaled[3].weight, model[3].weight * (WIDTH / BASE) ** 0.5)


def test_a_model_of_another_width_takes_its_own_multipliers() -> None:
    wide = two_processes.make(2 * WIDTH).double()
    attach_base_shapes(wide, base_shapes_of(network()))
    expected = network(2 * WIDTH)
    assert groups(wide, optimizer_for(wide)) == groups(expected, optimizer_for(expected))


def test_errors_name_the_parameters() -> None:
    shapes = base_shapes_of(network())
    larger = without()
    larger.add_module("extra", nn.Linear(2, 2, bias=False))
    with pytest.raises(BaseShapesError, match=r"they lack extra\.weight, and the model lacks nothing"):
        attach_base_shapes(larger, shapes)
    with pytest.raises(BaseShapesError, match=r"lack nothing, and the model lacks 3\.bias, 3\.weight"):
        attach_base_shapes(without()[:3], shapes)
    other = without()
    other[0] = nn.Linear(5, WIDTH)
    with pytest.raises(BaseShapesError, match=r"0\.weight has the shape \(16, 5\), but \(16, 3\) where"):
        attach_base_shapes(other, shapes)
    assert not any(hasattr(p, "infshape") for p in other.parameters())
    other[0] = nn.Conv1d(3, WIDTH, 1)
    with pytest.raises(BaseShapesError, match=r"0\.weight has the shape \(16, 3, 1\), but \(16, 3\)"):
        attach_base_shapes(other, shapes)


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"a": 1}', '{"a": {"shape": [1]}}', '{"a": {"shape": [1], "base_shape": []}}']
)
def test_a_foreign_file_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "shapes.json").write_text(content)
    with pytest.raises(BaseShapesError, match=r"shapes\.json is not a file of base shapes"):
        load_base_shapes(tmp_path / "shapes.json")


def test_a_submodule_that_is_called_module_keeps_its_name() -> None:
    class Holder(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.module = nn.Linear(3, width)
            self.mlp = nn.Linear(width, width)

    model = mup.set_base_shapes(Holder(WIDTH), Holder(BASE), delta=Holder(2 * BASE))
    shapes = base_shapes_of(model)
    assert list(shapes) == ["module.weight", "module.bias", "mlp.weight", "mlp.bias"]
    compiled = torch.compile(copy.deepcopy(model), backend="eager")
    attach_base_shapes(compiled, shapes)
    assert base_shapes_of(compiled) == shapes
    only = nn.Sequential()
    only.add_module("module", copy.deepcopy(model.mlp))
    attach_base_shapes(only, {f"module.{n}": shapes[f"mlp.{n}"] for n in ("weight", "bias")})
    assert list(base_shapes_of(only)) == ["module.weight", "module.bias"]


def test_shapes_by_names_of_a_wrapped_model_fit_a_bare_one() -> None:
    """mup strips the letters of "module." from both ends, so that "module.mlp.weight" becomes "p.weight"."""
    assert "module.mlp.weight".strip("module.") == "p.weight"
    model = nn.Sequential()
    model.add_module("mlp", nn.Linear(WIDTH, WIDTH))
    wrapped = {
        f"module.mlp.{name}": {"shape": list(p.shape), "base_shape": [BASE] * p.dim()}
        for name, p in model.mlp.named_parameters()
    }
    with pytest.raises(AssertionError, match="extra names"):
        mup.set_base_shapes(model, {name: tuple(entry["base_shape"]) for name, entry in wrapped.items()})
    attach_base_shapes(model, wrapped)
    assert list(base_shapes_of(model)) == ["mlp.weight", "mlp.bias"]
    attach_base_shapes(model, {f"module._orig_mod.{name.removeprefix('module.')}": s for name, s in wrapped.items()})


def test_compiled_models_have_the_same_groups_and_run() -> None:
    model = network()
    expected = groups(model, optimizer_for(model))
    compiled = torch.compile(model, backend="eager")
    found = groups(compiled, optimizer_for(compiled))
    assert {name.removeprefix("_orig_mod."): setting for name, setting in found.items()} == expected
    assert base_shapes_of(compiled) == base_shapes_of(model)
    again = torch.compile(without(), backend="eager")
    attach_base_shapes(again, base_shapes_of(compiled))
    again.load_state_dict(compiled.state_dict())
    inputs = torch.ones(2, 3, dtype=torch.float64)
    assert torch.equal(again(inputs), model(inputs))


def test_tied_weights_have_one_name() -> None:
    class Tied(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.table = nn.Embedding(5, width)
            self.readout = mup.MuSharedReadout(self.table.weight, bias=False)

    model = mup.set_base_shapes(Tied(WIDTH), Tied(BASE), delta=Tied(2 * BASE))
    shapes = base_shapes_of(model)
    assert list(shapes) == ["table.weight"]
    copied = copy.deepcopy(model)
    attach_base_shapes(copied, shapes)
    assert copied.readout.width_mult() == WIDTH / BASE


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what two processes with gloo wrote."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    folder = tmp_path_factory.mktemp("two")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen([sys.executable, two_processes.__file__, str(rank), str(folder)], env=environment)
        for rank in (0, 1)
    ]
    try:
        assert [process.wait(timeout=200) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return folder


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    """The same training in one process, on whole batches."""
    model = network()
    optimizer = optimizer_for(model)
    trained(model, optimizer, slice(0, 8))
    result: dict[str, Any] = {"groups": groups(model, optimizer), "y": weights(model)}
    with evaluating(optimizer, model):
        result["x"] = weights(model)
        result["output"] = model(two_processes.data(0)[0]).detach()
    result["output_y"] = model(two_processes.data(0)[0]).detach()
    return result


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """To 1e-9 in float64, where only the order of sums differs; the weights are of size 0.1 and moved by about that."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9)


def test_two_processes_with_ddp_are_one(two: Path, one: dict[str, Any]) -> None:
    result = torch.load(two / "ddp.pt", weights_only=True)
    assert "error" not in result, result["error"]
    assert {name.removeprefix("module."): setting for name, setting in result["groups"].items()} == one["groups"]
    assert result["attached"] == result["groups"]
    assert result["saved"] == base_shapes_of(network())
    close(result["y"], one["y"])
    close(result["x"], one["x"])
    assert any((result["x"][name] - value).abs().max() > 1e-4 for name, value in result["y"].items())


def test_a_checkpoint_of_ddp_resumes_without(two: Path, one: dict[str, Any]) -> None:
    model = network()
    optimizer = optimizer_for(model)
    load_checkpoint(two / "checkpoint.pt", model, optimizer)
    assert optimizer.param_groups[0]["k"] == STEPS
    close(weights(model), one["y"])
    alone = without()
    load_checkpoint(two / "checkpoint.pt", alone)
    close(weights(alone), one["x"])


def test_two_processes_with_fsdp2_are_one(two: Path, one: dict[str, Any]) -> None:
    """Sharded tensors are new ones without `infshape`; in forward passes mup's readout sees yet others."""
    result = torch.load(two / "fsdp.pt", weights_only=True)
    assert "error" not in result, result["error"]
    assert "no `infshape`" in result["without"]
    assert result["local_shapes"]["2.0.weight"] == (8, 16)
    assert result["groups"] == one["groups"]
    close(result["y"], one["y"])
    close(result["x"], one["x"])
    assert result["restored"]
    torch.testing.assert_close(result["output"], one["output"], rtol=0, atol=1e-9)
    torch.testing.assert_close(result["output_y"], one["output_y"], rtol=0, atol=1e-9)
    assert (one["output"] - one["output_y"]).abs().max() > 1e-4
    assert "sharded" in result["save"]
    assert not (two / "sharded.pt").exists()


def test_an_unedited_model_is_the_same_under_ddp_and_fsdp2(two: Path) -> None:
    result = torch.load(two / "unedited.pt", weights_only=True)
    assert "error" not in result, result["error"]
    for name in ("ddp", "fsdp"):
        torch.testing.assert_close(result[name], result["alone"], rtol=0, atol=1e-9)

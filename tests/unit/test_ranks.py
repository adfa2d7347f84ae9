"""Several processes that train one run leave what one would have left, but for the order of sums."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ddp_runs
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from ddp_runs import CASES, WRONG, OtherOrder, run_of, trained
from test_cli import write_study
from test_train import make_run

from mufree.cli import main
from mufree.lab.train.network import make_model, make_optimizer
from mufree.lab.train.ranks import ALONE, Ranks, RanksError, joined
from mufree.lab.train.run import start

HERE = Path(__file__).parent

TOLERANCE = 1e-5
"""Relative difference of a loss, a norm or an RMS that rounding may make in 12 steps: 80 times 2⁻²³ = 1.2e-7, by which a sum of
float32 in another order differs. What reading the batch backwards does in one process is held to the same bound."""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes with gloo left behind."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    file = tmp_path_factory.mktemp("two") / "results.pt"
    done = subprocess.run(
        torchrun(ddp_runs.__file__, str(file)), env=environment(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = torch.load(file, weights_only=True)
    return results


def torchrun(*command: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "helpers"), *sys.path])}


def difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """The largest relative difference of a number in rows and curves; those that are texts and counts must be equal.

    RMS of updates are left out: they are differences of weights, of whose roundings an SGD step of this size is a few.
    """
    assert found["curves"].keys() == expected["curves"].keys()
    assert [found["row"][k] for k in ("status", "divergence", "steps_done")] == [
        expected["row"][k] for k in ("status", "divergence", "steps_done")
    ]
    losses = [name for name in expected["row"] if "loss" in name]
    pairs = [(np.array(found["row"][name]), np.array(expected["row"][name])) for name in losses]
    kept = [name for name in expected["curves"] if not name.startswith("update_rms")]
    pairs += [(found["curves"][name].numpy(), expected["curves"][name].numpy()) for name in kept]
    return max(float(np.max(np.abs(f - e) / (np.abs(e) + 1e-30))) for f, e in pairs)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "method"), CASES)
def test_two_processes_are_one_but_for_rounding(model: str, method: str, two: dict[str, Any]) -> None:
    run = run_of(model, method)
    alone = trained(run)
    assert difference(trained(run, OtherOrder()), alone) < TOLERANCE
    found = two[f"{model} {method}"]
    assert difference(found, alone) < TOLERANCE
    for name in ("val_accuracy", "test_accuracy"):
        assert found["row"][name] == pytest.approx(alone["row"][name], abs=0.01)  # of 250 or more: two may tip over


@pytest.mark.slow
@pytest.mark.parametrize("case", ["mlp mup_sgd", "gpt mup_sgd"])
@pytest.mark.parametrize("wrong", WRONG)
def test_gradients_that_are_put_together_wrongly_are_seen(wrong: str, case: str, two: dict[str, Any]) -> None:
    """By SGD, since Adam does not see a factor on the gradient."""
    alone = trained(run_of(*case.split()))
    assert difference(two["mup_sgd"][case], alone) < TOLERANCE
    assert difference(two[wrong][case], alone) > 10 * TOLERANCE


@pytest.mark.slow
def test_a_batch_that_does_not_split_and_batchnorm_are_refused(two: dict[str, Any]) -> None:
    assert "batch_size 7 can't be split over 2 processes" in two["odd"]
    assert "ResNet has BatchNorm" in two["resnet"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mup_adamw_ema", "mup_schedulefree"])
def test_two_processes_stop_together_and_resume_to_the_bit(method: str, two: dict[str, Any]) -> None:
    again, whole = two[f"resumed {method}"], two[f"mlp {method}"]
    assert repr(again["row"]) == repr(whole["row"])
    assert again["curves"].keys() == whole["curves"].keys()
    assert all(torch.equal(again["curves"][name], values) for name, values in whole["curves"].items())


@pytest.mark.slow
def test_a_sweep_by_two_processes_is_that_of_one_and_written_once(tmp_path: Path) -> None:
    study, out = write_study(tmp_path), tmp_path / "out"
    assert main(["data", "--study", str(study), "--task", "photo", "--out", str(tmp_path / "photo")]) == 0

    def arguments(folder: Path) -> list[str]:
        where = ["--data", str(tmp_path / "photo"), "--store", str(folder / "runs"), "--out", str(folder / "sweep")]
        return ["sweep", "--study", str(study), "--sweep", "photo.mup_schedulefree.w32.s0", *where]

    assert main(arguments(tmp_path / "alone")) == 0
    mufree = [sys.executable, "-c", "from mufree.cli import main; exit(main())"]
    command = torchrun("--no-python", *mufree, *arguments(out), "--ddp")
    for trained_now in (2, 0):
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1  # of one process
        assert f"{trained_now} of 2 runs trained" in done.stdout
    assert {p.name for p in (out / "runs").iterdir()} == {p.name for p in (tmp_path / "alone/runs").iterdir()}
    found, expected = (pq.read_table(f / "sweep/rows.parquet").to_pylist() for f in (out, tmp_path / "alone"))
    for one, other in zip(found, expected, strict=True):
        assert {k: v for k, v in one.items() if not isinstance(v, float)} == {
            k: v for k, v in other.items() if not isinstance(v, float)
        }
        for name in ("train_loss", "val_loss", "val_loss_y", "test_loss"):
            assert one[name] == pytest.approx(other[name], rel=TOLERANCE)


def test_several_processes_that_were_not_asked_for_train_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    where = ["--data", str(tmp_path), "--store", str(tmp_path / "runs"), "--out", str(tmp_path / "sweep")]
    assert main(["sweep", "--study", str(write_study(tmp_path)), "--sweep", "photo.sp_adamw.w32.s0", *where]) == 2
    assert "give --ddp" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_parts_make_up_the_batch_and_shares_the_evaluation() -> None:
    batch = torch.arange(24).view(12, 2)
    ranks = [Ranks(rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat([r.part(batch) for r in ranks]), batch)
    assert {len(r.part(batch)) for r in ranks} == {4}
    assert sorted(value for r in ranks for value in r.share([1, 2, 3, 4, 5])) == [1, 2, 3, 4, 5]
    assert torch.equal(ALONE.part(batch), batch)


def test_alone_nothing_is_wrapped_or_rounded() -> None:
    model = make_model(make_run(), 4)
    assert ALONE.replicate(model) is model
    assert ALONE.sums(0.1, 2) == (0.1, 2)
    assert (ALONE.mean(0.1), ALONE.any(True), ALONE.any(False)) == (0.1, True, False)
    ALONE.check(7, torch.nn.BatchNorm1d(3))


def test_mup_groups_of_a_wrapped_model_are_those_of_the_bare_one(tmp_path: Path) -> None:
    """In one process with gloo, which is enough for the wrapper."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    run = make_run("gpt", width=32)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        wrapped = Ranks(0, 2).replicate(model := make_model(run, 32))
    finally:
        dist.destroy_process_group()
    assert isinstance(wrapped, torch.nn.parallel.DistributedDataParallel)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {id(p) for p in wrapped.parameters()} == names.keys()  # the same tensors, with their infshape

    def groups(model: torch.nn.Module) -> list[tuple[float, list[str]]]:
        own = {id(p): name.removeprefix("module.") for name, p in model.named_parameters()}
        return [(g["lr"], [own[id(p)] for p in g["params"]]) for g in make_optimizer(run, model).param_groups]

    assert groups(wrapped) == groups(make_model(run, 32))
    assert {lr / run.lr for lr, _ in groups(wrapped)} == {1.0, 0.25}


def test_ddp_without_torchrun_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RanksError, match="torchrun --nproc-per-node 2"), joined("cpu"):
        pass


def test_start_refuses_what_ranks_refuse() -> None:
    with pytest.raises(RanksError, match="BatchNorm"):
        start(make_run("resnet"), ddp_runs.data_for(make_run("resnet")), torch.device("cpu"), Ranks(0, 2))

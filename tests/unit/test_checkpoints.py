"""A run that is stopped and resumed has the bits of one that was not, and no file can change that."""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from studies import with_grid
from test_train import ALL_METHODS, MODELS, data_for, make_run, same_numbers, trace_of

from mufree.cli import main
from mufree.cli.inputs import load_study
from mufree.lab.data import Prepared
from mufree.lab.train import checkpoints
from mufree.lab.train.checkpoints import Interrupted, keeper, resumed, save
from mufree.lab.train.run import Session, finish, train
from mufree.lab.train.watch import TrainLoss
from mufree.optim import save_checkpoint
from mufree.study import run_store
from mufree.study.plan import Run, expand
from mufree.study.run_store import checkpoint_path, store_path

CPU = torch.device("cpu")


def stop_after(run: Run, step: int, path: Path) -> Session:
    """Train until the stop is asked for in step `step`; the session as it was left."""
    session = resumed(path, run, data_for(run), CPU)
    with pytest.raises(Interrupted, match=f"kept after step {step} of"):
        finish(session, keeper(path, session, math.inf, lambda: session.step == step))
    return session


def resume(run: Run, path: Path) -> Session:
    return resumed(path, run, data_for(run), CPU)


def resumable(model: str, method: str, **changes: Any) -> Run:
    """A tiny run whose images make an epoch of four batches, so that a stop in step 5 is in the second."""
    training = {"batch_size": 64} if model in ("mlp", "vit", "resnet") else {}
    return make_run(model, method, training=training | changes.pop("training", {}), **changes)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ALL_METHODS)
def test_stopped_and_resumed_has_the_bits_of_one_that_was_not(model: str, method: str, tmp_path: Path) -> None:
    run = resumable(model, method)
    stop_after(run, 5, tmp_path / "c")
    session = resume(run, tmp_path / "c")
    assert session.step == 5
    assert same_numbers(finish(session), trace_of(run))


@pytest.mark.parametrize("model", MODELS)
def test_also_in_bfloat16(model: str, tmp_path: Path) -> None:
    run = resumable(model, "mup_schedulefree", training={"precision": "bfloat16"})
    stop_after(run, 5, tmp_path / "c")
    assert same_numbers(finish(resume(run, tmp_path / "c")), trace_of(run))


@pytest.mark.parametrize("method", ["mup_schedulefree", "mup_adamw_ema"])
@pytest.mark.parametrize("steps", [(1,), (3,), (2, 5, 7), tuple(range(1, 13))])
def test_whenever_and_however_often_it_is_stopped(method: str, steps: tuple[int, ...], tmp_path: Path) -> None:
    run = resumable("mlp", method)
    for step in steps:
        stop_after(run, step, tmp_path / "c")
    assert same_numbers(finish(resume(run, tmp_path / "c")), trace_of(run))


@pytest.mark.parametrize("model", ["resnet", "gpt"])
@pytest.mark.parametrize("method", ["mup_adamw", "mup_schedulefree", "sp_radam_schedulefree", "sp_adamw_ema"])
def test_saving_changes_nothing_in_the_run_that_goes_on(model: str, method: str, tmp_path: Path) -> None:
    run = resumable(model, method)
    session = resume(run, tmp_path / "c")
    saved: list[int] = []
    keep = keeper(tmp_path / "c", session, 0, lambda: saved.append(session.step))  # after every step
    assert same_numbers(finish(session, keep), trace_of(run))
    assert saved == list(range(1, 13))
    assert resume(run, tmp_path / "c").step == 12


def test_a_run_that_diverges_is_given_up_in_the_same_step(tmp_path: Path) -> None:
    run = resumable("mlp", "sp_adamw", log2_lr=10, training={"steps": 120, "evaluations": 2})
    whole = trace_of(run)
    assert (whole.divergence, whole.steps_done < 120) == ("above_start", True)
    stop_after(run, 30, tmp_path / "c")
    session = resume(run, tmp_path / "c")
    assert session.losses.blown_up > 0
    assert same_numbers(finish(session), whole)
    stop_after(run, whole.steps_done, tmp_path / "c")  # given up already: nothing is left to train
    assert same_numbers(finish(resume(run, tmp_path / "c")), whole)


def forget_the_order_of_data(session: Session) -> None:
    session.stream = session.course.batches(0)


def forget_z(session: Session) -> None:
    for parameter, state in session.optimizer.state.items():
        state["z"] = parameter.detach().clone()


def forget_squares(session: Session) -> None:
    for state in session.optimizer.state.values():
        state["exp_avg_sq"].zero_()


def forget_y(session: Session) -> None:
    session.optimizer.eval()  # type: ignore[attr-defined]
    for group in session.optimizer.param_groups:
        group["train_mode"] = True


def forget_batchnorm(session: Session) -> None:
    for module in session.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()


def forget_losses(session: Session) -> None:
    session.losses = TrainLoss(initial=session.losses.initial, steps=session.losses.steps)


def forget_the_average(session: Session) -> None:
    assert session.average is not None
    session.average.updates = 0


def forget_curves(session: Session) -> None:
    points = session.curves.points
    session.curves.points = {key: (steps[-1:], values[-1:]) for key, (steps, values) in points.items()}


@pytest.mark.parametrize(
    ("model", "method", "forget"),
    [
        ("mlp", "mup_adamw", forget_the_order_of_data),
        ("mlp", "mup_schedulefree", forget_z),
        ("mlp", "mup_schedulefree", forget_squares),
        ("mlp", "mup_schedulefree", forget_y),
        ("mlp", "mup_adamw", forget_squares),
        ("resnet", "mup_adamw", forget_batchnorm),
        ("mlp", "mup_adamw", forget_losses),
        ("mlp", "mup_adamw_ema", forget_the_average),
        ("mlp", "mup_adamw", forget_curves),
    ],
)
def test_each_part_of_the_state_is_needed(
    model: str, method: str, forget: Callable[[Session], None], tmp_path: Path
) -> None:
    run = resumable(model, method)
    stop_after(run, 5, tmp_path / "c")
    session = resume(run, tmp_path / "c")
    forget(session)
    lacking, whole = finish(session), trace_of(run)
    assert len(lacking.curves) == len(whole.curves)
    assert not same_numbers(lacking, whole)


def test_short_runs_write_nothing(tmp_path: Path) -> None:
    run = resumable("mlp", "mup_adamw")
    session = resume(run, tmp_path / "store/c")
    finish(session, keeper(tmp_path / "store/c", session, 600, lambda: False))
    assert not list(tmp_path.iterdir())


def test_no_flipped_byte_changes_the_numbers(tmp_path: Path) -> None:
    """Most are found and the run starts anew; the others lie where nothing is read."""
    run = resumable("mlp", "mup_schedulefree", width=8, base_width=8)
    whole = trace_of(run)
    stop_after(run, 5, tmp_path / "c")
    intact = (tmp_path / "c").read_bytes()
    found = []
    for position in [*range(0, len(intact), len(intact) // 60), *range(len(intact) - 30, len(intact))]:
        damaged = bytearray(intact)
        damaged[position] ^= 0x5A
        (tmp_path / "c").write_bytes(damaged)
        session = resume(run, tmp_path / "c")
        found.append(session.step == 0)
        assert session.step in (0, 5)
        assert same_numbers(finish(session), whole), position
    assert sum(found) > len(found) / 2


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def code(path: Path) -> None:
    torch.save(Malicious(path.parent / "broken-in"), path)


def bare_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Malicious(path.parent / "broken-in")))


def another_runs(path: Path) -> None:
    other = make_run(seed=1)
    save(path, resumed(path.parent / "none", other, data_for(other), CPU))


def another_models(path: Path) -> None:
    other = make_run("gpt")
    save(path, resumed(path.parent / "none", other, data_for(other), CPU))


def a_librarys(path: Path) -> None:
    other = make_run()
    session = resumed(path.parent / "none", other, data_for(other), CPU)
    save_checkpoint(path, session.model, session.optimizer, step=3)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (truncated, "is damaged or no checkpoint"),
        (empty, "is damaged or no checkpoint"),
        (code, "is damaged or no checkpoint"),
        (bare_pickle, "is damaged or no checkpoint"),
        (another_runs, r"it has run toy\.\S+ instead of toy\.\S+\)"),
        (another_models, "does not fit this model and optimizer"),
        (a_librarys, "it is no run's"),
    ],
)
def test_a_checkpoint_that_cannot_be_trusted_is_said_and_the_run_starts_anew(
    spoil: Callable[[Path], None], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run()
    stop_after(run, 5, tmp_path / "c")
    spoil(tmp_path / "c")
    with caplog.at_level(logging.WARNING):
        session = resume(run, tmp_path / "c")
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path / 'c'} can't be gone on with")
    assert re.search(reason, message)
    assert not (tmp_path / "broken-in").exists()
    assert session.step == 0
    assert same_numbers(finish(session), trace_of(run))


def test_a_checkpoint_of_other_data_is_not_gone_on_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run()
    stop_after(run, 5, tmp_path / "c")
    data = data_for(run)
    other = Prepared(data.kind, data.classes, data.train, data.valid, data.test, data.manifest, digest="other")
    session = resumed(tmp_path / "c", run, other, CPU)
    assert session.step == 0
    assert "it has data image-digest instead of other" in caplog.text
    assert same_numbers(finish(session), train(run, other))


@pytest.mark.parametrize(("part", "value"), [("numerics", 2), ("device", "cuda"), ("format", 0)])
def test_a_checkpoint_of_other_numbers_is_not_gone_on_with(
    part: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run()
    own = checkpoints._key
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "_key", lambda session: own(session) | {part: value})
        stop_after(run, 5, tmp_path / "c")
    assert resume(run, tmp_path / "c").step == 0
    assert f"it has {part} {value} instead of" in caplog.text


# --- the command -----------------------------------------------------------------------------------------------------

STEPS = 1500
SWEEP = "photo.mup_schedulefree.w32.s0"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file, and beside it the prepared data and an uninterrupted sweep."""
    folder = tmp_path_factory.mktemp("study")
    plain = with_grid(methods=["mup_schedulefree"])
    plain["tasks"]["photo"]["dataset"] = {
        "name": "photo_patches",
        "train_examples": 64,
        "valid_examples": 32,
        "test_examples": 32,
    }
    plain["tasks"]["photo"]["training"] |= {"steps": STEPS, "evaluations": 4, "eval_examples": 16}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(plain))
    assert main(["data", "--study", str(path), "--task", "photo", "--out", str(folder / "photo")]) == 0
    assert main(sweep_arguments(path, folder / "whole")) == 0
    return path


def sweep_arguments(study: Path, out: Path) -> list[str]:
    where = ["--data", str(study.parent / "photo"), "--store", str(out / "runs"), "--out", str(out / "sweep")]
    return ["sweep", "--study", str(study), "--sweep", SWEEP, *where]


def start_sweep(study: Path, out: Path, *extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from mufree.cli import main; exit(main())", *sweep_arguments(study, out), *extra],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], there: Callable[[], object]) -> None:
    while not there():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def content(store: Path) -> dict[str, Any]:
    """What the store holds, but for times."""
    return {
        path.name: (
            json.loads(pq.read_schema(path).metadata[b"mufree.row"]),
            pq.read_table(path, partitioning=None).replace_schema_metadata().to_pydict(),
        )
        if path.suffix == ".parquet"
        else path.read_bytes()
        for path in store.iterdir()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(n, marks=pytest.mark.whole) for n in (signal.SIGTERM, signal.SIGUSR1))],
    ids=lambda n: n.name,
)
def test_a_sweep_that_is_stopped_in_its_second_run_completes_in_the_second_call(
    number: signal.Signals, study: Path, tmp_path: Path
) -> None:
    store = tmp_path / "runs"
    # A checkpoint every 120 ms, of which the test must see one; that which a signal asks for comes besides.
    process = start_sweep(study, tmp_path, "--checkpoint-minutes", "0.002")
    wait_for(process, lambda: list(store.glob("*.lr-9.*.parquet")) and list(store.glob("*.lr-8.*.checkpoint")))
    process.send_signal(number)
    _, said = process.communicate(timeout=900)
    assert len(list(store.glob("*.parquet"))) == 1
    assert len(list(store.glob("*.checkpoint"))) == 1
    assert not (tmp_path / "sweep").exists()
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 75
        last = said.splitlines()[-1]
        assert last.startswith(f"mufree sweep: stopped by {number.name} in photo.mup_schedulefree.w32.lr-8.s0.")
        assert last.endswith(f"of {STEPS}; 1 of 2 missing runs trained. The same command goes on from there.")
    process = start_sweep(study, tmp_path)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0
    assert "goes on from step" in said
    assert content(store) == content(study.parent / "whole/runs")
    for name in ("rows", "curves"):
        again, whole = (folder / f"sweep/{name}.parquet" for folder in (tmp_path, study.parent / "whole"))
        assert again.read_bytes() == whole.read_bytes()


def test_a_sweep_that_is_stopped_between_runs_trains_no_other(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = run_store.save_run

    def save_and_be_stopped(*arguments: Any) -> None:
        keep(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr(run_store, "save_run", save_and_be_stopped)
        assert main(sweep_arguments(study, tmp_path)) == 75
    assert signal.getsignal(signal.SIGTERM) == before
    assert "stopped by SIGTERM before photo.mup_schedulefree.w32.lr-8.s0." in capsys.readouterr().err
    assert [path.suffix for path in (tmp_path / "runs").iterdir()] == [".parquet"]


def test_the_checkpoint_of_a_finished_run_is_removed(study: Path, tmp_path: Path) -> None:
    """Also where the process was killed between the one and the other, with what it left half written."""
    store = tmp_path / "runs"
    shutil.copytree(study.parent / "whole/runs", store)
    finished = sorted(store.iterdir())
    (run,) = [run for run in expand(load_study(study)) if store_path(store, run) == finished[0]]
    path = checkpoint_path(store, run)
    path.write_bytes(b"stale")
    (store / f".{path.name}.abc.tmp").write_bytes(b"half")
    assert main(sweep_arguments(study, tmp_path)) == 0
    assert sorted(store.iterdir()) == finished

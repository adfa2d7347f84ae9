"""Runs side by side leave what they leave one by one, whoever they are trained with, and go on where they were stopped."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_train import MODELS, curve, data_for, make_run, same_numbers, trace_of
from torch._inductor import config
from torch._inductor.utils import fresh_cache

from mufree.lab.train import checkpoints
from mufree.lab.train.network import configure_torch
from mufree.lab.train.run import finish as finish_one
from mufree.lab.train.run import start
from mufree.lab.train.stack import LAUNCHED, Stack, finish, train_stack
from mufree.lab.train.watch import Trace
from mufree.study.plan import Run

CPU = torch.device("cpu")
METHODS = ("adamw", "schedulefree", "adamw_wsd", "adamw_ema", "sgd", "sgd_schedulefree")
CLOSE = 1e-5
"""Relative difference of losses that sums in another order may make over 20 steps."""
NETWORKS = [name for name in MODELS if name != "resnet"]


def runs_of(model: str, method: str, **changes: Any) -> list[Run]:
    """Both parametrizations, two seeds and three rates; 20 steps."""
    training = {"steps": 20} | changes.pop("training", {})
    return [
        make_run(model, f"{parametrization}_{method}", seed=seed, log2_lr=rate, training=training, **changes)
        for parametrization, seed, rate in (
            ("sp", 0, -9),
            ("mup", 1, -8),
            ("mup", 0, -7),
            ("sp", 1, -7),
            ("mup", 0, -9),
        )
    ]


def compare(one: Trace, other: Trace, close: float) -> None:
    """The same row and curves, but for the last digits of losses."""
    rows = one.row(), other.row()
    for name, value in rows[0].items():
        if isinstance(value, float):
            # Where rounding is coarse, or amplified, some of the 32 examples may change sides.
            near = 5 / 32 if name.endswith("accuracy") and close > CLOSE else 1e-7
            assert rows[1][name] == pytest.approx(value, rel=close, abs=near, nan_ok=True), name
        else:
            assert rows[1][name] == value, name
    mine, theirs = ({(s.name, s.layer): s for s in trace.curves} for trace in (one, other))
    assert mine.keys() == theirs.keys()
    for key, series in mine.items():
        np.testing.assert_array_equal(theirs[key].steps, series.steps)
        if key[0] in ("train_loss", "val_loss", "val_loss_y"):
            np.testing.assert_allclose(theirs[key].values, series.values, rtol=close, atol=1e-7)


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_a_stack_leaves_what_its_runs_leave_one_by_one(model: str, method: str) -> None:
    runs = runs_of(model, method)
    for run, stacked in zip(runs, train_stack(runs, data_for(runs[0])), strict=True):
        compare(trace_of(run), stacked, CLOSE)


@pytest.mark.parametrize("method", ["schedulefree", "adamw_ema", "sgd"])
def test_a_stacked_resnet_is_as_near_as_two_whose_weights_differ_in_the_last_digit(method: str) -> None:
    """Its steps amplify rounding, by BatchNorm at small gradients; the first has nothing to amplify."""
    runs = runs_of("resnet", method)
    serial = [trace_of(run) for run in runs]
    stacked = train_stack(runs, data_for(runs[0]))
    apart = max(
        distance(one, from_other_digits(run, seed)) for one, run in zip(serial, runs, strict=True) for seed in (0, 1)
    )
    assert 0 < max(map(distance, serial, stacked)) < 30 * apart
    for one, other in zip(serial, stacked, strict=True):
        compare(
            one, other, max(0.01, 30 * apart)
        )  # evaluation amplifies once more, by the statistics that were collected
        (first, *_), (mine, *_) = curve(one, "grad_norm")[1], curve(other, "grad_norm")[1]
        assert mine == pytest.approx(first, rel=CLOSE)


def distance(one: Trace, other: Trace) -> float:
    """The largest relative difference of a training loss."""
    values = curve(one, "train_loss")[1], curve(other, "train_loss")[1]
    return float(np.abs(values[1] / values[0] - 1).max())


def from_other_digits(run: Run, seed: int) -> Trace:
    """The run from weights of which each is moved by a unit in the last place, up or down."""
    configure_torch()
    session = start(run, data_for(run), CPU)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in session.model.parameters():
            parameter.mul_(1 + 2**-23 * torch.randn(parameter.shape, generator=generator).sign())
    return finish_one(session)


@pytest.mark.parametrize("model", ["mlp", "gpt"])
@pytest.mark.parametrize("method", ["adamw", "schedulefree", "sgd"])
def test_settings_may_differ_within_a_stack(model: str, method: str) -> None:
    different = [
        {"optimizer": {"weight_decay": 0.1, "beta1": 0.8}},
        {"optimizer": {"weight_decay": 0.1, "weight_decay_scaling": "independent", "beta2": 0.95}},
        {"optimizer": {"eps": 1e-6}},
    ]
    runs = [make_run(model, f"mup_{method}", log2_lr=-8, training={"steps": 20}, **change) for change in different]
    if method == "adamw":
        runs.append(make_run(model, "mup_adamw_wsd", log2_lr=-8, training={"steps": 20}))
        runs.append(make_run(model, "sp_adamw_embedding", log2_lr=-8, training={"steps": 20}))
    for run, stacked in zip(runs, train_stack(runs, data_for(runs[0])), strict=True):
        compare(trace_of(run), stacked, CLOSE)


@pytest.mark.parametrize("model", MODELS)
def test_also_in_bfloat16(model: str) -> None:
    runs = runs_of(model, "schedulefree", training={"precision": "bfloat16"})[:4]
    for run, stacked in zip(runs, train_stack(runs, data_for(runs[0])), strict=True):
        compare(trace_of(run), stacked, 0.1 if model == "resnet" else 0.03)


def test_a_run_that_diverges_has_the_serial_status_and_harms_nobody() -> None:
    long = {"steps": 120, "evaluations": 4}
    rates = (-8, 2, 12, 60)  # fine; above where it started; blown up; not finite
    runs = [make_run("mlp", "mup_sgd", log2_lr=rate, training=long) for rate in rates]
    stacked = train_stack(runs, data_for(runs[0]))
    kinds = [trace.divergence for trace in stacked]
    assert kinds[0] is None
    assert "nonfinite" in kinds
    for run, trace in zip(runs, stacked, strict=True):
        alone = trace_of(run)
        assert (trace.status, trace.divergence, trace.steps_done) == (alone.status, alone.divergence, alone.steps_done)
        assert [(s.name, s.layer, list(s.steps)) for s in sorted(trace.curves, key=_name)] == [
            (s.name, s.layer, list(s.steps)) for s in sorted(alone.curves, key=_name)
        ]
    healthy = train_stack([runs[0], runs[0]], data_for(runs[0]))
    assert same_numbers(healthy[0], stacked[0])


def _name(series: Any) -> tuple[str, str]:
    return series.name, series.layer


@pytest.mark.parametrize("model", NETWORKS)
def test_a_runs_bits_dont_depend_on_whom_it_is_trained_with(model: str) -> None:
    """But for the ResNet's, whose convolutions are one of so many groups."""
    runs = runs_of(model, "schedulefree")
    data = data_for(runs[0])
    whole = train_stack(runs, data)
    for part in ([3], [0, 1], [1, 2, 3], [4, 2]):
        for place, trace in zip(part, train_stack([runs[i] for i in part], data), strict=True):
            assert same_numbers(whole[place], trace)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stops", [(3,), (5, 10), tuple(range(1, 20))])
def test_stopped_and_resumed_has_the_bits_of_one_that_was_not(
    method: str, stops: tuple[int, ...], tmp_path: Path
) -> None:
    runs = runs_of("mlp", method)[:4]
    data, path = data_for(runs[0]), tmp_path / "stack.checkpoint"
    configure_torch()
    for stop in stops:
        stack = checkpoints.resumed_stack(path, runs, data, CPU)
        with pytest.raises(InterruptedError):
            finish(stack, lambda stack=stack, stop=stop: _stop_at(stack, stop, path))
    resumed = finish(checkpoints.resumed_stack(path, runs, data, CPU))
    for one, other in zip(train_stack(runs, data), resumed, strict=True):
        assert same_numbers(one, other)


def _stop_at(stack: Stack, step: int, path: Path) -> None:
    if stack.step == step:
        checkpoints.save(path, stack)
        raise InterruptedError


def test_a_checkpoint_of_other_runs_or_damaged_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs = runs_of("mlp", "adamw")[:3]
    data, path = data_for(runs[0]), tmp_path / "stack.checkpoint"
    configure_torch()
    stack = Stack(runs, data, CPU)
    stack.evaluate()
    stack.take_step()
    checkpoints.save(path, stack)
    assert checkpoints.resumed_stack(path, runs, data, CPU).step == 1
    assert checkpoints.resumed_stack(path, runs[:2], data, CPU).step == 0
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert checkpoints.resumed_stack(path, runs, data, CPU).step == 0
    assert len([r for r in caplog.records if "its runs start anew" in r.getMessage()]) == 2


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Of what was logged, what this package warned of: torch.compile logs much."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("mufree") and r.levelname == "WARNING"]


@pytest.mark.parametrize(
    "model", ["mlp", *(pytest.param(name, marks=pytest.mark.whole) for name in MODELS if name != "mlp")]
)
def test_compiled_kernels_leave_what_torchs_own_leave(model: str, caplog: pytest.LogCaptureFixture) -> None:
    runs = runs_of(model, "schedulefree", training={"steps": 4 if model == "resnet" else 20})
    data = data_for(runs[0])
    for own, compiled in zip(train_stack(runs, data), train_stack(runs, data, compiles=True), strict=True):
        compare(own, compiled, 0.01 if model == "resnet" else CLOSE)  # its steps amplify rounding
        assert curve(compiled, "grad_norm")[1][0] == pytest.approx(curve(own, "grad_norm")[1][0], rel=CLOSE)
    assert not warned(caplog)


def test_a_stack_goes_on_by_the_engine_that_began_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs, path = runs_of("mlp", "schedulefree"), tmp_path / "stack"
    for compiles in (False, True):
        stack = Stack(runs, data_for(runs[0]), CPU)
        stack.compiles = compiles  # as it would be saved
        stack.evaluate()
        checkpoints.save(path, stack)
        assert "start anew" not in caplog.text
        checkpoints.resumed_stack(path, runs, data_for(runs[0]), CPU, compiles=not compiles)
        assert "compiles" in caplog.text
        assert "its runs start anew" in caplog.text
        caplog.clear()


@pytest.mark.parametrize("place", ["/proc/nowhere", __file__])
def test_with_nowhere_to_keep_kernels_torchs_own_are_taken(
    place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", place)
    runs = runs_of("mlp", "schedulefree")
    for own, plain in zip(
        train_stack(runs, data_for(runs[0])), train_stack(runs, data_for(runs[0]), compiles=True), strict=True
    ):
        assert same_numbers(own, plain)
    assert len(warned(caplog)) == 2


def test_without_a_compiler_torchs_own_kernels_are_taken(caplog: pytest.LogCaptureFixture) -> None:
    runs = runs_of("mlp", "schedulefree")
    torch.compiler.reset()
    with fresh_cache(), config.patch({"cpp.cxx": ("no-such-compiler",)}):
        found = train_stack(runs, data_for(runs[0]), compiles=True)
    assert [words.split(" (")[0] for words in warned(caplog)] == [
        "a stack's losses can't be compiled",
        "a stack's update can't be compiled",
    ]
    for own, plain in zip(train_stack(runs, data_for(runs[0])), found, strict=True):
        assert same_numbers(own, plain)


def test_seconds_are_shared_out() -> None:
    runs = runs_of("mlp", "adamw")[:4]
    traces = train_stack(runs, data_for(runs[0]))
    assert len({dataclasses.astuple(trace)[-1]["train"] for trace in traces}) == 1
    assert all(math.isfinite(trace.seconds["evaluate"]) and trace.seconds["train"] > 0 for trace in traces)


on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@on_gpu
@pytest.mark.parametrize("model", MODELS)
def test_captured_steps_are_those_that_are_launched(model: str) -> None:
    runs = [make_run(model, seed=seed) for seed in (0, 1)]
    losses = []
    for captures in (True, False):
        configure_torch()
        stack = Stack(runs, data_for(runs[0]), torch.device("cuda"))
        stack.captures = captures
        losses.append([trace.train_loss for trace in finish(stack)])
        assert (stack.graph is not None) == captures
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@on_gpu
@pytest.mark.parametrize("model", MODELS)
def test_between_evaluations_nothing_waits_for_the_host(model: str) -> None:
    configure_torch()
    stack = Stack([make_run(model, seed=seed) for seed in (0, 1)], data_for(make_run(model)), torch.device("cuda"))
    stack.evaluate()
    for _ in range(stack.interval - 1):
        quiet = stack.launched != LAUNCHED  # capturing waits, once
        torch.cuda.set_sync_debug_mode("error" if quiet else "default")
        try:
            stack.take_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")

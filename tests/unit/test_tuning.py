"""`tune` on small models of one's own, from the check to the verdict, and `mufree tune` on a file."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mup
import pandas as pd
import pytest
import torch
from snippets import blocks
from torch import Tensor, nn

from mufree.cli import main
from mufree.lab.parametrization import SEED_STREAM
from mufree.lab.tune import Functions, Here
from mufree.lab.tune.functions import batch_loss
from mufree.lab.tune.training import train
from mufree.optim import MuAdamW, MuAdamW_ScheduleFree, evaluating, parametrize, warmup_factor
from mufree.study.config import OptimizerSettings
from mufree.study.trials import TUNABLE, Settings, Trial
from mufree.tuning import CheckError, TuneResult, UserFunctionError, run, tune

ROOT = Path(__file__).parents[2]
BASE, WIDTHS, STEPS = 16, (32, 64), 40
Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.readout = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.readout(self.layers(x))
        return out


def batch(generator: torch.Generator, count: int) -> Batch:
    x = torch.randn(count, 8, generator=generator)
    return x, (x[:, :4] * x[:, 4:]).argmax(1)


def train_batches(seed: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield batch(generator, 32)


def valid_batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(10**6)
    return [batch(generator, 96), batch(generator, 32)]  # not of one size


def tuned(make_model: Callable[..., Any] = Net, **changes: Any) -> TuneResult:
    settings: dict[str, Any] = {"base_width": BASE, "check_widths": WIDTHS, "steps": STEPS, **changes}
    batches = settings.pop("train_batches", train_batches), settings.pop("valid_batches", valid_batches)
    return tune(make_model, *batches, **settings)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> TuneResult:
    return tuned(store=tmp_path_factory.mktemp("tuned"), method=["mup_schedulefree", "sp_adamw"])


def trial(method: str, width: int = 32, log2_lr: float = -6.0, seed: int = 1, **changes: Any) -> Trial:
    return Trial(
        **{"name": "net", "functions": "", "method_name": method, "method": TUNABLE[method], "steps": STEPS}
        | {"optimizer": OptimizerSettings(), "width": width, "base_width": BASE, "log2_lr": log2_lr, "seed": seed}
        | changes
    )


# --- a trial ---------------------------------------------------------------------------------------------------------


def mean_loss(model: nn.Module) -> float:
    """Over all examples, whatever the size of their batches."""
    losses = [nn.functional.cross_entropy(model(x), y, reduction="sum") for x, y in valid_batches()]
    return float(sum(losses)) / sum(len(y) for _, y in valid_batches())


def plain_loop(method: str) -> float:
    """What a person writes who has read the how-to."""
    torch.manual_seed(1 ^ SEED_STREAM)
    parametrization = TUNABLE[method].parametrization
    model = parametrize(Net, 32, BASE, parametrization, seed=1 ^ SEED_STREAM)
    shared: dict[str, Any] = {"lr": 2**-6, "betas": (0.9, 0.99), "eps": 1e-12}
    free = TUNABLE[method].schedule_free
    optimizer: Any = (
        MuAdamW_ScheduleFree(model.parameters(), warmup_steps=4, **shared)
        if free
        else MuAdamW(model.parameters(), weight_decay=0.0, **shared)
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    if free:
        optimizer.train()
    for step, (x, y) in zip(range(STEPS), train_batches(1), strict=False):
        if not free:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * warmup_factor("cosine", step, 4, STEPS)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    with evaluating(optimizer, model), torch.no_grad():
        return mean_loss(model)


@pytest.mark.parametrize("method", ["mup_schedulefree", "mup_adamw", "sp_schedulefree", "sp_adamw"])
def test_a_trial_is_what_a_plain_loop_gives(method: str) -> None:
    functions = Functions.of(Net, train_batches, valid_batches)
    made = train(trial(method), Here(functions), lambda _: None)
    assert made.row["val_loss"] == pytest.approx(plain_loop(method), rel=1e-5)


def test_wsd_and_an_average_are_other_methods() -> None:
    functions = Functions.of(Net, train_batches, valid_batches)
    names = ("mup_adamw", "mup_adamw_wsd", "mup_adamw_constant_ema")
    losses = {name: train(trial(name), Here(functions), lambda _: None).row["val_loss"] for name in names}
    assert len(set(losses.values())) == 3
    assert all(loss < math.log(4) for loss in losses.values())


def test_a_loss_and_batches_of_one_s_own() -> None:
    """Dicts, and a loss that is no cross-entropy: its margin follows from what training gains."""

    def batches(_: int) -> list[dict[str, Tensor]]:
        return [{"inputs": x, "values": y.float()} for x, y in valid_batches()]

    def loss(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
        return (model(given["inputs"]).mean(1) - given["values"]).square().mean()

    found = tuned(train_batches=batches, valid_batches=lambda: batches(0), loss=loss, seeds=2, check_widths=[32])
    base = found.rows[found.rows["width"].eq(BASE) & found.rows["status"].eq("ok")]
    gain = base["initial_loss"].mean() - base["val_loss"].min()
    assert found.tuned[0].judgement.checks[0].margin == pytest.approx(0.003 * gain)


def test_a_batch_that_is_a_dict_is_for_a_model_that_gives_its_loss() -> None:
    class Says(Net):
        def forward(self, inputs: Tensor, labels: Tensor) -> Any:  # type: ignore[override]
            class Output:
                loss = nn.functional.cross_entropy(Net.forward(self, inputs), labels)

            return Output()

    def dicts(_: int = 0) -> list[dict[str, Tensor]]:
        return [{"inputs": x, "labels": y} for x, y in valid_batches()]

    functions = Functions.of(Says, dicts, dicts)
    assert train(trial("mup_schedulefree"), Here(functions), lambda _: None).row["val_loss"] < math.log(4)


def test_a_loss_below_zero_and_a_rate_too_small_to_learn_by_are_no_divergence() -> None:
    def below(model: nn.Module, given: Batch) -> Tensor:
        return batch_loss(model, given) - 3.0

    functions = Functions.of(Net, train_batches, valid_batches, below)
    for x in (-6.0, -30.0):
        made = train(trial("mup_schedulefree", log2_lr=x, steps=120), Here(functions), lambda _: None)
        assert (made.row["status"], made.row["steps_done"]) == ("ok", 120)
    assert (
        train(trial("mup_schedulefree", log2_lr=4.0), Here(functions), lambda _: None).row["val_loss"]
        != made.row["val_loss"]
    )


def test_a_loss_that_is_changed_elsewhere_is_another_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = 1.0

    def loss(model: nn.Module, given: Batch) -> Tensor:
        return batch_loss(model, given) * scale

    functions = Functions.of(Net, train_batches, valid_batches, loss)
    before = functions.fingerprint(BASE)
    assert functions.fingerprint(BASE) == before
    scale = 10.0
    assert functions.fingerprint(BASE) != before


def test_batchnorm_is_evaluated_with_statistics_at_x() -> None:
    """With those that training collected at y the run would warn, and warnings are errors here."""

    def make_model(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 4))

    functions = Functions.of(make_model, train_batches, valid_batches)
    assert train(trial("mup_schedulefree"), Here(functions), lambda _: None).row["status"] == "ok"


# --- the whole -------------------------------------------------------------------------------------------------------


def test_the_rate_is_the_full_grid_s(result: TuneResult) -> None:
    """Trained once at all rates of a factor-2 grid, with the same seeds: the best mean loss is where the search found it."""
    functions = Functions.of(Net, train_batches, valid_batches)
    means = {}
    for x in range(-11, 0):
        rows = [train(trial("mup_schedulefree", BASE, x, s), Here(functions), lambda _: None).row for s in range(3)]
        means[x] = sum(row["val_loss"] for row in rows) if {row["status"] for row in rows} == {"ok"} else math.inf
    best = min(means, key=lambda x: means[x])
    judgement = result.tuned[0].judgement
    assert judgement.optimum.log2_lr_argmin == best
    assert math.log2(result.lr) == pytest.approx(judgement.optimum.log2_lr, abs=0.006)


def test_at_most_half_the_grid_s_runs_at_base_width(result: TuneResult) -> None:
    rows = result.rows
    for method, base in rows[rows["width"].eq(BASE)].groupby("method"):
        assert len(base) <= 11 * 3 / 2 + 3, method  # the mean over searches is below a half; docs/tuning.md


def test_the_rate_half_and_double_are_tried_wide_with_all_seeds(result: TuneResult) -> None:
    for each in result.tuned:
        kept = each.judgement.log2_lr
        for width in WIDTHS:
            here = result.rows[result.rows["method"].eq(each.method) & result.rows["width"].eq(width)]
            assert {(x, s) for x in (kept - 1, kept, kept + 1) for s in range(3)} <= set(
                zip(here["log2_lr"], here["seed"], strict=True)
            )


def test_only_methods_under_mup_are_checked_first(result: TuneResult) -> None:
    assert [each.check is None for each in result.tuned] == [False, True]


def test_the_best_beta2_is_kept() -> None:
    found = tuned(beta2=[0.5, 0.99], seeds=1, check_widths=[32], check=False)
    base = found.rows[found.rows["width"].eq(BASE)]
    best = base.loc[base["val_loss"].idxmin(), "beta2"]
    assert found.tuned[0].beta2 == best
    assert set(found.rows.loc[found.rows["width"].eq(32), "beta2"]) == {best}
    assert set(base["beta2"]) == {0.5, 0.99}


# --- what is broken on purpose ---------------------------------------------------------------------------------------


def without_its_multiplier(width: int, seed: int) -> nn.Module:
    """In µP but for the readout, whose weight is taken for one that is no output."""
    return parametrize(Net, width, BASE, seed=seed, rules={"readout.weight": "embedding"})


class Attending(nn.Module):
    """One head as wide as the model, and scores by 1/√d."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.width = nn.Linear(1, width), width
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.readout = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x[..., None])
        scores = self.q(h) @ self.k(h).transpose(1, 2) / math.sqrt(self.width)
        out: Tensor = self.readout((scores.softmax(-1) @ self.v(h)).mean(1))
        return out


def test_a_readout_without_its_multiplier_fails_the_check_and_is_named() -> None:
    found = tuned(without_its_multiplier, check_widths=[64, 256], steps=20)
    assert (found.verdict, found.exit_code) == ("does not transfer", 1)
    assert "first in readout (readout): change goes as width^+0." in found.reasons[0]
    assert found.rows.empty  # nothing was trained for it


def test_attention_by_the_root_of_a_growing_d_is_named() -> None:
    """No activation of ten steps shows it: what is known is that its scale isn't found."""
    found = tuned(Attending, check_widths=[32], steps=10, seeds=2)
    assert (found.verdict, found.exit_code) == ("can't tell", 2)
    assert "the model (Attending)" in found.reasons[0]
    assert "√d_base / d" in found.reasons[0]


def test_one_who_sees_to_the_scale_is_trusted() -> None:
    functions = Functions.of(
        lambda width, seed: parametrize(Attending, width, BASE, seed=seed, own_scale=[""]), train_batches, valid_batches
    )
    assert functions.warnings_of(32, BASE) == ()


def test_the_rates_of_sp_do_not_transfer_far() -> None:
    """A control: from width 16 to 1024 the best rate of SP falls by doublings, and its loss at the narrow one's is another."""
    found = tuned(method="sp_schedulefree", check_widths=[1024], steps=60, seeds=2)
    (check,) = found.tuned[0].judgement.checks
    assert float(check.moved.estimate) < -1.0
    assert found.exit_code in (1, 2)


# --- stopped, and gone on with ---------------------------------------------------------------------------------------


def test_what_is_in_the_store_is_not_trained_again(tmp_path: Path) -> None:
    functions = Functions.of(Net, train_batches, valid_batches)
    settings = Settings(BASE, (32,), STEPS, seeds=1, check=False)
    first = run(functions, settings, Here(functions, tmp_path), tmp_path)
    refuses = Here(Functions.of(Net, raises, valid_batches), tmp_path)  # would raise if it had to train
    again = run(functions, settings, refuses, tmp_path)
    pd.testing.assert_frame_equal(first.rows, again.rows)


def test_stopped_at_any_step_it_goes_on_to_the_same_rows(tmp_path: Path) -> None:
    functions = Functions.of(Net, train_batches, valid_batches)
    settings = Settings(BASE, (32,), STEPS, seeds=2, check=False)
    whole = run(functions, settings, Here(functions))
    assert not whole.stopped
    steps, stops = 0, 0
    for _ in range(100):
        limit = steps + 150  # in the middle of the fourth trial, and so on

        def stop_requested() -> bool:
            nonlocal steps
            steps += 1
            return steps >= limit  # noqa: B023

        found = run(functions, settings, Here(functions, tmp_path, stop_requested=stop_requested), tmp_path)
        if not found.stopped:
            break
        stops += 1
        assert (found.verdict, found.exit_code) == ("can't tell", 2)
        assert "goes on" in found.reasons[0]
    assert stops > 3
    pd.testing.assert_frame_equal(found.rows, whole.rows)
    assert not list(tmp_path.glob("*.checkpoint"))


def test_other_data_or_another_model_is_not_served(tmp_path: Path) -> None:
    ids = set()
    for other in (
        Functions.of(Net, train_batches, valid_batches),
        Functions.of(Net, lambda seed: train_batches(seed + 1), valid_batches),
        Functions.of(Net, train_batches, lambda: valid_batches()[:1]),
        Functions.of(lambda width: nn.Sequential(Net(width)), train_batches, valid_batches),
    ):
        ids.add(other.fingerprint(BASE))
    assert len(ids) == 4
    again = Functions.of(Net, train_batches, valid_batches)
    assert again.fingerprint(BASE) in ids


# --- what can't be tuned ---------------------------------------------------------------------------------------------


def ends(seed: int) -> Iterator[Batch]:
    yield from valid_batches()


def raises(*_: Any) -> Any:
    raise KeyError("mine")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "batches that run out": ({"train_batches": ends, "check": False}, r"ended after 2 batches; let it go on for ever"),
    "no validation": ({"valid_batches": lambda: []}, "gives no batch"),
    "endless validation": ({"valid_batches": lambda: train_batches(0)}, "must come to an end"),
    "a loss of many numbers": ({"loss": lambda model, b: model(b[0])}, r"tensor of shape \[32, 4\]"),
    "a loss that is no tensor": ({"loss": lambda model, b: 1.0}, "and is float"),
    "a loss that starts as NaN": (
        {"loss": lambda model, b: model(b[0]).sum() * math.nan},
        "is nan before the first step",
    ),
    "one batch of another kind": ({"train_batches": lambda seed: [torch.ones(2)]}, "define loss"),
    "a model that doesn't grow": ({"make_model": lambda width: Net(8)}, "same shapes at widths 16 and 32"),
    "no model": ({"make_model": lambda width: None}, "must return an nn.Module"),
    "nothing to train": (
        {"make_model": lambda width: Net(width).requires_grad_(False)},
        "no parameter that is trained",
    ),
    "batches that no seed decides": (
        {"train_batches": lambda seed: train_batches(int(torch.Generator().seed()))},
        "gives other batches each time",
    ),
    "no width": ({"make_model": lambda: Net(8)}, r"must take \(width, seed\) or \(width\)"),
    "a base width of its own": ({"make_model": lambda w, seed: parametrize(Net, w, 8)}, "base width isn't 16"),
    "SP with base shapes": (
        {"make_model": lambda w, seed: parametrize(Net, w, BASE), "method": "sp_adamw"},
        "give the plain model",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_can_not_be_tuned_is_named_with_the_cure(what: str) -> None:
    changes, said = BAD[what]
    with pytest.raises(CheckError, match=said):
        tuned(**changes)


@pytest.mark.parametrize("function", ["make_model", "train_batches", "valid_batches", "loss"])
def test_what_a_function_raises_is_its_own(function: str) -> None:
    with pytest.raises(UserFunctionError, match=f"{function}.* raised KeyError: 'mine'"):
        tuned(**{function: raises})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "muon"}, "Unknown method 'muon'. Known: sp_adamw"),
        ({"check_widths": [16]}, "check width 16: must be 17 or more"),
        ({"check_widths": []}, "a check width"),
        ({"check_widths": [32, 32]}, "given twice: 32, 32"),
        ({"steps": 0}, "steps 0: must be 1 or more"),
        ({"seeds": 0}, "seeds 0"),
        ({"beta2": 1.5}, "beta2 1.5: must be 0 or more, and below 1"),
        ({"margin": -1.0}, "margin -1.0: must be above 0"),
        ({"target_width": 4}, "target width 4: must be 16 or more"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        tuned(**changes)


def test_a_model_that_comes_with_base_shapes_is_taken_as_it_is() -> None:
    def make_model(width: int, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, width), nn.ReLU(), mup.MuReadout(width, 4, readout_zero_init=True))
        base, delta = (nn.Sequential(nn.Linear(8, w), nn.ReLU(), mup.MuReadout(w, 4)) for w in (BASE, 2 * BASE))
        mup.set_base_shapes(model, base, delta=delta)
        return model

    functions = Functions.of(make_model, train_batches, valid_batches)
    model = functions.model(64, BASE, 3, "mup")
    expected = make_model(64, 3)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), expected.parameters(), strict=True))
    assert isinstance(model[2], mup.MuReadout)
    assert model[2].width_mult() == 4


# --- the page --------------------------------------------------------------------------------------------------------


def test_what_is_saved_says_the_same_three_times(result: TuneResult, tmp_path: Path) -> None:
    result.save(tmp_path)
    plain = json.loads((tmp_path / "tune.json").read_text())
    assert plain["verdict"] == result.verdict
    assert plain["methods"]["mup_schedulefree"]["lr"] == pytest.approx(result.lr)
    assert len(pd.read_parquet(tmp_path / "runs.parquet")) == plain["trials"] == len(result.rows)
    html = (tmp_path / "tune.html").read_text()
    assert f"{result.lr:.3g}" in html
    assert len(html) < 3_000_000
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)


def test_the_snippet_runs_and_makes_the_optimizer_that_was_tuned(result: TuneResult) -> None:
    from mufree.publish.report.tuned import snippet

    training = "batch_loss(model, batch).backward(); optimizer.step(); optimizer.zero_grad()"
    code = snippet(result)["text"].replace("…  # train", training).replace("…", "validated = model(batch[0])")
    made: dict[str, Any] = {"make_model": Net, "width": 64, "batch": valid_batches()[0], "batch_loss": batch_loss}
    exec(code, made)
    assert made["validated"].shape == (96, 4)
    rates = {group["lr"] for group in made["optimizer"].param_groups}
    assert max(rates) == pytest.approx(result.lr, rel=1e-3)
    assert min(rates) == pytest.approx(result.lr * BASE / 64, rel=1e-3)
    assert {group["warmup_steps"] for group in made["optimizer"].param_groups} == {4}


# --- the command -----------------------------------------------------------------------------------------------------

OWN = blocks((ROOT / "docs/tuning.md").read_text(encoding="utf-8"))[0][1]
"""What the document gives as a file of one's own."""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def command(own: Path, *more: str) -> list[str]:
    out = str(own.parent / "out")
    sizes = ["--base-width", "16", "--check-widths", "32,64", "--steps", "40", "--out", out]
    return ["tune", str(own), *sizes, *more]


def code_of(words: list[str]) -> int:
    try:
        return main(words)
    except SystemExit as stop:
        return int(stop.code or 0)


def test_the_command_says_what_it_wrote(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own.write_text(OWN + "\nprint('not a result')\n")
    code = code_of(command(own, "--jobs", "1"))
    said = capsys.readouterr()
    plain = json.loads((own.parent / "out/tune.json").read_text())
    assert code == {"transfers": 0, "does not transfer": 1, "can't tell": 2}[plain["verdict"]]
    assert "not a result" in said.err
    assert "not a result" not in said.out
    assert said.out.splitlines()[-1] == f"{plain['trials']} trials; see {own.parent / 'out/tune.html'}"


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (("def valid_batches", "def other"), 65, "has no function valid_batches"),
        (("import torch", "import sys; sys.exit(0)"), 65, "can't be imported"),
        (("import torch", "def ("), 65, "SyntaxError"),
        (
            ("    return nn.Sequential(", "    raise KeyError('mine')\n    return nn.Sequential("),
            70,
            "raised KeyError: 'mine'",
        ),
        (("while True", "for _ in range(5)"), 65, "ended after 5 batches"),
    ],
)
def test_a_file_that_can_not_be_tuned(
    own: Path, change: tuple[str, str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own.write_text(OWN.replace(*change))
    assert code_of(command(own, "--jobs", "1")) == code
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "more",
    [
        ["--steps", "none"],
        ["--check-widths", "32,a"],
        ["--method", "muon"],
        ["--nope"],
        ["--steps", "0"],
        ["--jobs", "-3"],
    ],
)
def test_wrong_usage_is_no_verdict(own: Path, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(command(own, *more)) == 64
    assert "Traceback" not in capsys.readouterr().err


def test_a_folder_that_can_not_be_written_is_no_verdict(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own.parent / "out").write_text("a file")
    assert code_of(command(own, "--jobs", "1")) == 74
    assert "Traceback" not in capsys.readouterr().err


def test_out_of_minutes_it_can_not_tell_and_goes_on(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(command(own, "--jobs", "1", "--unchecked", "--minutes", "0.001")) == 2
    assert "goes on" in capsys.readouterr().out
    code_of(command(own, "--jobs", "1", "--unchecked"))
    assert json.loads((own.parent / "out/tune.json").read_text())["stopped"] is None


def test_a_function_that_never_returns_is_ended_by_ctrl_c(own: Path) -> None:
    started = own.parent / "started"
    hangs = f"    import pathlib, time\n    pathlib.Path({str(started)!r}).touch()\n    time.sleep(600)\n"
    own.write_text(OWN.replace("    return nn.Sequential(", f"{hangs}    return nn.Sequential("))
    words = [
        sys.executable,
        "-c",
        "import sys; from mufree.cli import main; sys.exit(main())",
        *command(own, "--jobs", "1"),
    ]
    # What a shell started in the background ignores Ctrl-C, and hands that on.
    process = subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    try:
        while process.poll() is None and not started.exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == 75
    assert said.splitlines()[-1].endswith("and the same command goes on")
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_ctrl_c_while_processes_start_is_the_parents(own: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\nif '--multiprocessing-fork' in sys.argv:\n    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    program = "import sys; from mufree.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", program, *command(own, "--jobs", "2", "--unchecked", "--minutes", "0.1")]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode in (0, 1, 2), done.stderr
    assert "KeyboardInterrupt" not in done.stderr


@pytest.mark.slow
def test_killed_in_processes_and_started_again_it_ends_as_if_it_had_not_been(own: Path) -> None:
    program = "import sys; from mufree.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", program, *command(own, "--jobs", "2", "--unchecked", "--steps", "80")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    store = own.parent / "out/store"
    first = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    while first.poll() is None and len(list(store.glob("*.parquet"))) < 3:
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    kept = len(list(store.glob("*.parquet")))
    assert kept >= 3
    second = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert second.returncode in (0, 1, 2), second.stderr
    rows = pd.read_parquet(own.parent / "out/runs.parquet")
    assert len(re.findall(r"^INFO own\.", second.stderr, re.MULTILINE)) <= len(rows) - 3
    in_one = own.parent / "one"
    assert (
        code_of([*command(own, "--jobs", "1", "--unchecked", "--steps", "80"), "--out", str(in_one)])
        == second.returncode
    )
    columns = ["run_id", "val_loss", "train_loss", "status"]
    alone = pd.read_parquet(in_one / "runs.parquet")
    pd.testing.assert_frame_equal(
        rows[columns].sort_values("run_id", ignore_index=True), alone[columns].sort_values("run_id", ignore_index=True)
    )

"""`mufree coordcheck` on a file of one's own: exit codes for CI, what it prints, writes and refuses."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mufree.cli import main
from mufree.lab.coordcheck import OPTIMIZERS

MODEL = """
import mup
import torch
from torch import nn
from torch.nn import functional as F
from sizes import CLASSES


def net(width):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), mup.MuReadout(width, CLASSES))


def make_model(width, seed):
    model = net(width)
    mup.set_base_shapes(model, net(64), delta=net(128), rescale_params=False)
    torch.manual_seed(seed)
    for p in model.parameters():
        if p.ndim == 2:
            mup.init.kaiming_normal_(p, nonlinearity="relu")
        else:
            nn.init.zeros_(p)
    nn.init.zeros_(model[-1].weight)
    return model


def without_base_shapes(width, seed):
    return net(width)


def make_batch(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 4, generator=generator), torch.randint(0, CLASSES, (4,), generator=generator)


def squared(outputs, targets):
    return (outputs - F.one_hot(targets, CLASSES)).square().mean()


def naive(model):
    return torch.optim.AdamW(model.parameters(), lr=2**-9)
"""
QUICK = ("--widths", "256,1024", "--steps", "3", "--seeds", "3")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "sizes.py").write_text("CLASSES = 3\n")
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_schedulefree", "sgd_schedulefree"])
def test_a_model_that_is_right_passes(model: Path, optimizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coordcheck", f"{model}:make_model", "--optimizer", optimizer, *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "widths 256, 1024, 3 seeds, steps 2–3" in printed
    assert printed.count(" passed ") == 2
    assert "worst_module" in printed


def test_radam_is_judged_from_when_it_moves(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["coordcheck", str(model), "--optimizer", "radam_schedulefree", *QUICK]
    assert main([*arguments, "--steps", "6"]) == 0
    assert "steps 6–6" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "nothing moved in 3 steps; use more steps" in capsys.readouterr().err


def test_an_optimizer_without_multipliers_fails(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coordcheck", str(model), "--optimizer", "naive", *QUICK]) == 1
    printed = capsys.readouterr()
    assert printed.out.count(" failed ") == 2
    assert "2 (hidden): change goes as width^+0." in printed.err
    assert "Traceback" not in printed.err


def test_what_it_writes(model: Path, tmp_path: Path) -> None:
    out, figure = tmp_path / "new/check.csv", tmp_path / "new/check.pdf"
    options = ["--loss", "squared", "--lr", "2^-8", "--out", str(out), "--figure", str(figure)]
    assert main(["coordcheck", str(model), *QUICK, *options]) == 0
    table = pd.read_csv(out, dtype={"module": str})
    assert set(table["module"]) == {"0", "2", "4"}
    assert {"at", "step", "quantity", "slope", "slope_low", "slope_high", "passed"} <= set(table.columns)
    assert figure.read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", ["either FILE:FUNCTION", "or --study"]),
        ("{model} --study study.yaml", ["either FILE:FUNCTION"]),
        ("--study study.yaml", ["--study needs --task, --data, --out"]),
        ("{folder}/absent.py", ["no file", "absent.py"]),
        ("{folder}/notes.txt", ["no Python file"]),
        ("{model}:make_modle", ["model.py has no function make_modle(width, seed)", "base shapes"]),
        ("{folder}/sizes.py:CLASSES", ["has no function CLASSES"]),
        ("{folder}/half.py", ["half.py has no function make_batch(seed)", "(inputs, targets)"]),
        ("{model} --loss absolute", ["no function absolute(outputs, targets)"]),
        ("{model} --optimizer adamv", ["'adamv'", "adamw_schedulefree", "model.py"]),
        ("{model} --optimizer naive --lr 0.1", ["naive", "sets its own"]),
        ("{model} --figure check.doc", ["check.doc", ".pdf"]),
    ],
)
def test_wrong_usage_is_said(
    model: Path, arguments: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "half.py").write_text("def make_model(width, seed): ...\n")
    (tmp_path / "notes.txt").write_text("no code\n")
    assert main(["coordcheck", *arguments.format(model=model, folder=tmp_path).split()]) == 2
    said = capsys.readouterr().err
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    "option", ["--widths=64", "--widths=64,64", "--widths=a,b", "--lr=fast", "--lr=2^9999", "--lr=nan"]
)
def test_numbers_that_are_none(model: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["coordcheck", str(model), option])
    assert stopped.value.code == 2
    assert option.partition("=")[2] in capsys.readouterr().err


def test_help_names_every_optimizer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["coordcheck", "--help"])
    assert ", ".join(OPTIMIZERS) in capsys.readouterr().out


def test_a_model_without_base_shapes_is_said(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coordcheck", f"{model}:without_base_shapes", *QUICK]) == 1
    assert "set_base_shapes" in capsys.readouterr().err

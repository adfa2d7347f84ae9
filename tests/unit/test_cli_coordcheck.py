"""`mufree coordcheck` on a file of one's own: exit codes for CI, what it prints, writes and refuses."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mufree.cli import main
from mufree.cli.coordcheck import _failures
from mufree.lab.coordcheck import OPTIMIZERS

MODEL = """
import mup
import torch
from torch import nn
from torch.nn import functional as F
from mufree.optim import MuAdamW
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


class Tilted(nn.Linear):
    # puts out what grows as width^exponent
    exponent = 0.0

    def forward(self, h):
        return super().forward(h) * self.in_features**self.exponent


def tilted(exponents):
    def make(width, seed):
        model = net(width)
        model[2] = Tilted(width, width)
        base, delta = net(64), net(128)
        mup.set_base_shapes(model, base, delta=delta, rescale_params=False)
        for p in model.parameters():
            nn.init.zeros_(p)
        # Without noise: every coordinate is the same, whatever the width.
        nn.init.constant_(model[0].bias, 1.0)
        nn.init.constant_(model[2].weight, 1 / width)
        model[2].exponent = exponents[seed % len(exponents)]
        return model

    return make


scattered = tilted([0.0, 0.3])
settles = tilted([0.0, 0.3, 0.0, 0.0])
steep = tilted([0.5])


def still(model):
    # so that sizes stay what they are
    return MuAdamW(model.parameters(), lr=1e-4, eps=1e-30)


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


def test_scattered_seeds_are_unsure_and_more_are_added_up_to_a_limit(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*QUICK[:4], "--optimizer", "still", "--seeds", "2", "--max-seeds", "6"]
    assert main(["coordcheck", f"{model}:scattered", *arguments]) == 3
    printed = capsys.readouterr()
    assert "6 seeds (2 were too few)" in printed.out
    assert printed.out.count(" unsure ") == 2
    assert "unsure: no slope is surely too steep" in printed.err
    assert "2 (hidden): size goes as width^+0.15" in printed.err
    # With four seeds the mean is 0.075: they are enough, and no more are drawn.
    assert main(["coordcheck", f"{model}:settles", *arguments]) == 0
    assert "4 seeds (2 were too few)" in capsys.readouterr().out
    assert main(["coordcheck", f"{model}:steep", *arguments]) == 1
    printed = capsys.readouterr()
    assert ", 2 seeds, " in printed.out
    assert "2 (hidden): size goes as width^+0.50" in printed.err


def test_what_is_skipped_is_not_judged_and_said(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["coordcheck", f"{model}:steep", *QUICK, "--optimizer", "still"]
    assert main([*arguments, "--skip", "2", "--skip", "[4]"]) == 0
    printed = capsys.readouterr()
    assert "left out by --skip: 2, [4]" in printed.out
    assert not printed.err
    assert main([*arguments, "--skip", "0"]) == 1
    printed = capsys.readouterr()
    assert "2 (hidden)" in printed.err
    assert "0 (embedding)" not in printed.err
    assert main([*arguments, "--skip", "head"]) == 2
    assert "'head' is the name of no module" in capsys.readouterr().err


def test_only_what_is_judged_is_listed() -> None:
    """Two of a random readout's modules fail; what is not judged does not, however steep it is."""
    rows = [
        ("a", "hidden", "size", 0.2, True),
        ("a", "hidden", "size", 0.5, True),
        ("a", "hidden", "relative", 2.0, False),
        ("b", "readout", "change", float("nan"), True),
        ("b", "readout", "size", -0.5, False),
        ("c", "hidden", "size", 0.01, True),
    ]
    table = pd.DataFrame(rows, columns=["module", "layer", "quantity", "slope", "judged"])
    table = table.assign(at="y", step=2, passed=table["slope"].abs() < 0.1)
    assert _failures(table).splitlines()[1:] == [
        "  b (readout): change is zero, infinite or NaN somewhere at y, step 2",
        "  a (hidden): size goes as width^+0.50 at y, step 2",
    ]


CRASHES = """
import mup
import sys
import torch
from torch import nn
from model import make_batch, make_model


def in_make_model(width, seed):
    model = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3))
    mup.set_base_shapes(model, None)  # mup asserts that the last layer is a MuReadout
    assert False, "as mup does"


def quits(width, seed):
    sys.exit(0)


def nothing(width, seed):
    pass


def same(width, seed):
    return make_model(64, seed)


def infinite(width, seed):
    model = make_model(width, seed)
    nn.init.constant_(model[0].bias, float("inf"))
    return model


def optimizer(model):
    raise OSError("no such state")


def loss(outputs, targets):
    return outputs @ targets
"""


@pytest.fixture
def crashes(model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file beside the model's that imports it, and whose functions raise."""
    monkeypatch.syspath_prepend(str(model.parent))
    file = model.parent / "crashes.py"
    file.write_text(CRASHES)
    return file


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (":in_make_model", "make_model at width 256, seed 0 raised AssertionError: as mup does"),
        (":quits", "make_model at width 256, seed 0 raised SystemExit: 0"),
        (" --optimizer optimizer", "the function that makes the optimizer raised OSError: no such state"),
        (" --loss loss", "at width 256, seed 0: the loss raised RuntimeError"),
    ],
)
def test_a_crash_in_a_function_of_the_file_is_no_verdict(
    crashes: Path, arguments: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["coordcheck", *f"{crashes}{arguments}".split(), *QUICK]) == 4
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "crashes.py" in said
    assert "lab/coordcheck" not in said  # the traceback begins in the user's own file
    assert words in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (":nothing", "make_model at width 256, seed 0 returned NoneType, and must return an nn.Module"),
        (":same", "make_model does not use its width"),
        (":infinite", "at width 256, seed 0: the loss is nan before the first step"),
        (" --steps 0", "--steps 0: must be 1 or more"),
        (" --seeds 0", "--seeds 0: must be 1 or more"),
        (" --steps 1", "use more steps"),
    ],
)
def test_what_can_not_be_checked_is_one_line(
    crashes: Path, arguments: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["coordcheck", *f"{crashes}{arguments}".split(), *_without(QUICK, arguments)]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert words in said


def _without(options: tuple[str, ...], given: str) -> list[str]:
    """The options, name and value, but for those given."""
    pairs = zip(options[::2], options[1::2], strict=True)
    return [word for pair in pairs if pair[0] not in given for word in pair]


def test_a_file_that_can_not_be_imported_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    assert main(["coordcheck", str(tmp_path / "broken.py")]) == 2
    said = capsys.readouterr().err
    assert "broken.py can't be imported: ModuleNotFoundError: No module named 'nothing_of_this_name'" in said


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
    "option",
    [
        "--widths=64",
        "--widths=64,64",
        "--widths=0,64",
        "--widths=-64,64",
        "--widths=a,b",
        "--lr=fast",
        "--lr=2^9999",
        "--lr=nan",
    ],
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
    assert main(["coordcheck", f"{model}:without_base_shapes", *QUICK]) == 2
    assert "set_base_shapes" in capsys.readouterr().err

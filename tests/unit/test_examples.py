"""The examples run as scripts, and train what they say."""

from __future__ import annotations

import math
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mufree.analysis.coordcheck import slopes, verdict
from mufree.lab.coordcheck import coord_check
from mufree.optim import MuAdamW_ScheduleFree

EXAMPLES = Path(__file__).parents[2] / "examples"
CHANCE = {"transformer": math.log(32), "resnet": math.log(4)}


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(CHANCE)


@pytest.mark.parametrize("name", CHANCE)
def test_it_learns_and_its_checkpoint_holds_what_it_evaluated(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    loss = example["main"](str(tmp_path / "model.pt"), steps=60)
    assert loss < CHANCE[name] / 2
    said = re.search(r"loss at x ([\d.]+) nats, at chance ([\d.]+)", capsys.readouterr().out)
    assert said
    assert float(said[1]) == pytest.approx(loss, abs=1e-3)
    assert float(said[2]) == pytest.approx(CHANCE[name], abs=1e-3)


def test_as_a_script(tmp_path: Path) -> None:
    subprocess.run([sys.executable, EXAMPLES / "resnet.py"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "resnet.pt").exists()


@pytest.mark.parametrize(("name", "widths"), [("transformer", (64, 256)), ("resnet", (32, 128))])
def test_it_passes_the_coordinate_check(name: str, widths: tuple[int, int]) -> None:
    torch.manual_seed(0)
    example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    frame = coord_check(
        example["make_model"],
        lambda model: MuAdamW_ScheduleFree(model.parameters(), lr=2**-9, eps=1e-12),
        widths,
        example["make_batch"],
        steps=4,
        seeds=5,
    )
    assert verdict(slopes(frame))["passed"].all()

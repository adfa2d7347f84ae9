"""The benchmark that a GPU's time is spent on works where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from scripts import benchmark_script


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with cases of seconds."""
    module = benchmark_script("device", monkeypatch)
    text, images = {"name": "gpt", "depth": 1, "head_dim": 8, "context_length": 16}, {"name": "mlp"}
    small = [module.Case("GPT", text, 16, 4, 4, 10), module.Case("MLP", images, 16, 8, 4, 10)]
    monkeypatch.setitem(module.CASES, "cpu", small)
    return module


def test_it_measures_compares_and_resumes(
    device: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device.main(["--out", str(tmp_path / "device.json")])
    found = json.loads((tmp_path / "device.json").read_text())
    assert [case["name"] for case in found["cases"]] == ["GPT", "MLP"]
    for case in found["cases"]:
        assert case["ratio"] == pytest.approx(case["serial_ms"] / case["stack_ms"])
        assert case["loss_apart"] < 1e-4
    assert found["resumed_apart"] == 0.0
    assert "| GPT | float32 | 4 |" in capsys.readouterr().out


def test_a_case_that_fails_costs_no_other(
    device: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (broken, fine) = device.CASES["cpu"]
    impossible = device.Case("GPT", broken.model, 12, 4, 4, 10)  # 12 is no multiple of the head's 8
    monkeypatch.setitem(device.CASES, "cpu", [impossible, fine])
    device.main(["--out", str(tmp_path / "device.json")])
    assert "GPT float32: ValueError" in capsys.readouterr().err
    assert [case["name"] for case in json.loads((tmp_path / "device.json").read_text())["cases"]] == ["MLP"]

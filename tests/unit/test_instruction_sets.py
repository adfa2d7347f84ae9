"""Older instructions than this processor's: the same training, and nothing written outside its buffers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import short_trainings
import torch

TESTS = Path(__file__).parents[1]
LIMITS = {
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "SSE41": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
}
# glibc then checks the heap at each free. Where there is no such library, the loader says so and goes on.
CHECKED_HEAP = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3"} if sys.platform == "linux" else {}
NATS = {"float32": 1e-4, "bfloat16": 1e-2}
"""How far a loss may lie from that in float64: ten times what was seen, a hundredth of what six steps change it by."""


def trained_in_a_subprocess(model: str, limit: dict[str, str]) -> dict[str, dict[str, list[float]]]:
    """Losses by precision and method, trained under the limit; a crash is a failure that names the signal."""
    paths = os.pathsep.join([str(TESTS / "helpers"), str(TESTS / "unit"), *sys.path])
    done = subprocess.run(
        [sys.executable, short_trainings.__file__, model],
        env=os.environ | {"PYTHONPATH": paths} | CHECKED_HEAP | limit,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode < 0:
        pytest.fail(f"{model} died of {signal.Signals(-done.returncode).name}: {done.stderr[-500:]}")
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, list[float]]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("model", short_trainings.WIDTHS)
def test_every_optimizer_trains_as_in_float64(model: str, limit: str) -> None:
    exact = short_trainings.losses(model, torch.float64)
    found = trained_in_a_subprocess(model, LIMITS[limit])
    assert found.keys() == NATS.keys()
    for precision, by_method in found.items():
        assert by_method.keys() == exact.keys()
        for method, losses in by_method.items():
            assert losses == pytest.approx(exact[method], abs=NATS[precision]), f"{precision} {method}"


def test_a_crash_is_a_failure_that_names_the_signal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    crashing = tmp_path / "crashing.py"
    crashing.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(short_trainings, "__file__", str(crashing))
    with pytest.raises(pytest.fail.Exception, match="mlp died of SIGSEGV"):
        trained_in_a_subprocess("mlp", {})

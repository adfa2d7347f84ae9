"""The scripts of `benchmarks/` as modules."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
from checkouts import ROOT


def benchmark_script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`benchmarks/NAME.py`, imported anew; in `sys.modules`, where dataclasses look it up, as long as the test runs."""
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module

"""Where the built numbers are. No torch: the article's own build runs these tests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from evidence import ROOT, Evidence

FROZEN = [
    folder
    for folder in ("paper/data", "paper/confirm", "paper/follow_ups")
    if (ROOT / folder / "MANIFEST.json").exists()
]
"""The paper's studies."""


@pytest.fixture(scope="session")
def evidence() -> Evidence:
    """What is frozen; the article and the README are about the full study alone."""
    if not (ROOT / "paper/data/MANIFEST.json").exists():
        pytest.skip("no study is frozen in paper/data")
    return Evidence.of(*FROZEN)


@pytest.fixture(scope="session")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the workflow has just built (MUFREE_NUMBERS), or else what the frozen studies give."""
    built = os.environ.get("MUFREE_NUMBERS")
    path = Path(built) if built else tmp_path_factory.mktemp("paper") / "numbers.json"
    if not built:
        from mufree.cli import main

        assert main(["numbers", "--frozen", *(str(ROOT / folder) for folder in FROZEN), "--out", str(path)]) == 0
    found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["numbers"]
    return found

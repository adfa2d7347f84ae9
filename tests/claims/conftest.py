"""Where the built numbers are. No torch: the article's own build runs these tests."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from evidence import ROOT, Paper


@pytest.fixture(scope="session")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Paper:
    """What the workflow has just built (MUFREE_PAPER), or else what the frozen study gives."""
    frozen = ROOT / "paper/data"
    if not (frozen / "MANIFEST.json").exists():
        pytest.skip("no study is frozen in paper/data")
    built = os.environ.get("MUFREE_PAPER")
    folder = Path(built) if built else tmp_path_factory.mktemp("paper")
    if not built:
        from mufree.cli import main

        verdicts = str(folder / "verdicts.csv")
        estimates, hypotheses = frozen / "tables/estimates.csv", frozen / "hypotheses.yaml"
        assert (
            main(["verdicts", "--estimates", str(estimates), "--hypotheses", str(hypotheses), "--out", verdicts]) == 0
        )
        numbers = ["numbers", "--frozen", str(frozen), "--verdicts", verdicts, "--out", str(folder)]
        later = frozen.with_name("follow_ups")
        assert main([*numbers, *(["--follow-ups", str(later)] if later.exists() else [])]) == 0
    return Paper(json.loads((folder / "numbers.json").read_text()), frozen, folder)

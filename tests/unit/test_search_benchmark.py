"""The searches on the study's own losses, and the tables that `docs/tuning.md` has of them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scripts import benchmark_script
from surfaces import make_surface, parabolas

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    return benchmark_script("search", monkeypatch)


def test_the_document_has_the_tables_that_the_script_makes(benchmark: ModuleType) -> None:
    text = (ROOT / "docs/tuning.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- search -->\n(.*?)\n<!-- /search -->", text, flags=re.DOTALL)
    assert found is not None
    assert len(found[1].splitlines()) > 25
    assert found[1] == benchmark.block()


def test_what_was_measured_is_what_the_search_does(benchmark: ModuleType) -> None:
    """With 5 seeds, which is a tenth of it; where not, `python benchmarks/search.py` writes it anew."""
    cells, _ = benchmark.read_cells(pd.read_parquet(benchmark.ROWS))
    stored = pd.read_csv(benchmark.MEASURED)
    stored = stored[stored["seeds"] == 5].reset_index(drop=True)
    now = benchmark.measure(cells, 5)
    exact = [
        "of",
        "cells",
        "searches",
        "runs_mean",
        "runs_max",
        "share_of_grid",
        "search_close_all",
        "search_covers_all",
    ]
    pd.testing.assert_frame_equal(now[exact], stored[exact])
    pd.testing.assert_frame_equal(now, stored, check_dtype=False, atol=2e-5)


def cell(benchmark: ModuleType, **changes: Any) -> Any:
    return benchmark.Cell("toy", True, parabolas([-8.3], **changes))


def test_beyond_the_grid_a_run_is_a_little_worse_than_at_its_end_or_diverged(benchmark: ModuleType) -> None:
    gentle, cliff = cell(benchmark), cell(benchmark, cliff=3.0)
    end = 1 + 0.05 * 4.3**2
    assert gentle.loss((-4.0, 0), [2]) == pytest.approx(end)
    assert gentle.loss((-2.0, 0), [2]) == pytest.approx(end + 0.02)
    assert cliff.loss((-2.0, 0), [2]) == cliff.loss((-5.0, 0), [2]) == math.inf
    assert cliff.loss((-16.0, 0), [2]) == pytest.approx(1 + 0.05 * 5.7**2 + 0.02)


def test_a_rate_costs_what_the_parabola_says_and_further_off_what_was_measured(benchmark: ModuleType) -> None:
    judge = benchmark.judge_of(cell(benchmark), [0, 1])
    assert judge.optimum.log2_lr == pytest.approx(-8.3)
    assert judge.excess(-8.8) == pytest.approx(0.05 * 0.5**2)
    assert judge.excess(-12.0) == pytest.approx(0.05 * (3.7**2 - 0.3**2)), "beyond the fit, above the lowest mean"
    assert benchmark.judge_of(cell(benchmark), []) is None
    rising = make_surface([[[1.0], [2.0], [3.0]]])
    assert benchmark.judge_of(benchmark.Cell("toy", True, rising), [0]) is None


def test_on_an_exact_parabola_search_and_grid_find_the_truth_whatever_the_start(benchmark: ModuleType) -> None:
    found = pd.DataFrame(benchmark.searches([cell(benchmark, seeds=4)], 3))
    assert len(found) == 4 * 11
    assert (found["grid_runs"] == 33).all()
    assert found["runs"].between(13, 16).all()
    for column in ("search_error_held_out", "search_error_all", "grid_error_held_out", "search_excess_all"):
        np.testing.assert_allclose(found[column], 0, atol=1e-9)
    assert found.loc[found["start"] == -8, "off"].tolist() == pytest.approx([0.3] * 4)


def test_what_has_no_optimum_in_its_grid_or_is_known_is_left_out(benchmark: ModuleType) -> None:
    rows = pd.read_parquet(benchmark.ROWS)
    one = rows[(rows["task"] == "cifar10-vit") & (rows["method"] == "mup_adamw") & (rows["width"] == 32)]
    ten, left_out = benchmark.read_cells(one)
    assert len(ten) == 1
    assert not left_out
    twice = pd.concat([one, one.assign(method="sp_adamw")])
    assert benchmark.read_cells(twice)[1] == {"the same network as another": 1}
    assert benchmark.read_cells(one[one["log2_lr"] > -12])[1] == {"fewer than 9 rates": 1}
    edge = one.assign(val_loss=one["log2_lr"])
    assert benchmark.read_cells(edge)[1] == {"no optimum inside the grid": 1}

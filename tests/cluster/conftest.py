"""A real SLURM for the tests that ask for it, and what the same studies give without one."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import slurm as real
import yaml
from checkouts import Checkout, copy_project

SMALL: dict[str, Any] = {
    "name": "small",
    "title": "Four sweeps of four runs, each some seconds long",
    "tasks": {
        "photo-mlp": {
            "description": "MLP",
            "dataset": {"name": "photo_patches", "train_examples": 2048, "valid_examples": 512, "test_examples": 512},
            "model": {"name": "mlp"},
            "base_width": 16,
            "training": {"steps": 400, "batch_size": 32, "evaluations": 20, "eval_examples": 128},
        }
    },
    "grids": [
        {
            "tasks": ["photo-mlp"],
            "methods": ["sp_adamw", "mup_schedulefree"],
            "widths": [16, 32],
            "log2_lrs": [-10, -9, -8, -7],
            "seeds": [0],
        }
    ],
}

LIMIT = 60
"""Seconds: the shortest limit that SLURM knows."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def allowed() -> None:
    """Skip, with the reason, where no SLURM may be started."""
    if not os.environ.get("MUFREE_TEST_CLUSTER"):
        pytest.skip("`make test-cluster` starts a SLURM for it")
    if reason := real.why_not():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def slurm(allowed: None) -> Iterator[real.Slurm]:
    """SLURM on this machine, started for the session."""
    real.install()
    with real.running() as started:
        yield started


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkout]:
    """A checkout in which a study's rows were trained without SLURM."""

    @cache
    def run(study: str) -> Checkout:
        checkout = with_study(copy_project(tmp_path_factory.mktemp(f"local-{study}") / "checkout"), SMALL)
        if study == "long":
            with_study(checkout, one_long_run(run("small")))
        checkout.snakemake(f"results/{study}/rows.parquet", study=study)
        return checkout

    return run


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A fresh copy, nothing run."""
    return with_study(copy_project(tmp_path / "checkout"), SMALL)


def with_study(checkout: Checkout, study: dict[str, Any]) -> Checkout:
    (checkout.path / f"experiments/{study['name']}.yaml").write_text(yaml.safe_dump(study))
    return checkout


def one_long_run(trained: Checkout) -> dict[str, Any]:
    """A run that takes longer than the shortest limit, and not much longer, on this machine whatever its speed."""
    seconds = pd.read_parquet(trained.path / "results/small/timings.parquet")["train_seconds"].min()
    task = SMALL["tasks"]["photo-mlp"]
    # Twice the limit, since the first steps of a short run are slower than the others.
    steps = math.ceil(2 * LIMIT / seconds) * task["training"]["steps"]
    return SMALL | {
        "name": "long",
        "title": "One run that takes more than a minute",
        "tasks": {"photo-mlp": task | {"training": task["training"] | {"steps": steps}}},
        "grids": [
            {"tasks": ["photo-mlp"], "methods": ["mup_schedulefree"], "widths": [16], "log2_lrs": [-9], "seeds": [0]}
        ],
    }

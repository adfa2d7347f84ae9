"""Checkouts in temporary folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from checkouts import Checkout, copy_project
from filelock import FileLock


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A fresh copy, nothing run."""
    return copy_project(tmp_path / "checkout")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy in which the smoke study has run, one for all processes of the tests: whoever changes something takes a copy."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    project, done = Checkout(folder / "finished/checkout"), folder / "finished/done"
    with FileLock(folder / "finished.lock"):
        if not done.exists():
            copy_project(project.path).snakemake()
            done.touch()
    return project

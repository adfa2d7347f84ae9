"""Checkouts in temporary folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkouts import Checkout, copy_project


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A fresh copy, nothing run."""
    return copy_project(tmp_path / "checkout")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy in which the smoke study has run. Tests that change it must change it back."""
    project = copy_project(tmp_path_factory.mktemp("finished") / "checkout")
    project.snakemake()
    return project

"""What the tests damage."""

from __future__ import annotations

from pathlib import Path

import pytest
from finished_study import finish


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny study, trained to the end; nobody writes into it."""
    folder = tmp_path_factory.mktemp("finished")
    finish(folder)
    return folder

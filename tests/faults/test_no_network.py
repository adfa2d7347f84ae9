"""A study is trained and frozen on a machine that reaches no other: only `mufree data` of what is downloaded needs one."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

ALONE = ("unshare", "--user", "--map-root-user", "--net")
"""Runs a command where there is no network, not even that of the machine itself."""
STUDY = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from finished_study import finish, small_study
finish(Path(sys.argv[2]), small_study())
"""
CONNECT = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5)"


@pytest.fixture
def alone() -> tuple[str, ...]:
    try:
        subprocess.run([*ALONE, "true"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network can be taken away here: {error}")
    return ALONE


def test_there_is_none(alone: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect = [sys.executable, "-c", CONNECT, str(server.getsockname()[1])]
        assert subprocess.run(connect, timeout=60).returncode == 0
        refused = subprocess.run([*alone, *connect], capture_output=True, text=True, timeout=60)
    assert "Network is unreachable" in refused.stderr


def test_a_study_needs_none(alone: tuple[str, ...], small: Path, tmp_path: Path) -> None:
    helpers = Path(__file__).parents[1] / "helpers"
    subprocess.run([*alone, sys.executable, "-c", STUDY, str(helpers), str(tmp_path)], check=True, timeout=600)
    tables = sorted(path.name for path in (small / "tables").iterdir())
    assert tables
    for name in tables:
        assert (tmp_path / "tables" / name).read_bytes() == (small / "tables" / name).read_bytes(), name

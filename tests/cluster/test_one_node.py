"""The SLURM that tests start: it leaves another one alone, and nothing behind. Runs before the one of the session."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
import slurm as real


def test_it_runs_a_job_and_leaves_nothing_behind(allowed: None, tmp_path: Path) -> None:
    real.install()
    children = set(psutil.Process().children(recursive=True))
    with real.running() as slurm:
        assert slurm.folder.is_dir()
        assert str(real.CONFIG) in real.why_not()  # nobody else's is overwritten, and neither is this
        daemons = [p.name() for p in set(psutil.Process().children(recursive=True)) - children]
        assert {"munged", "slurmctld", "slurmd"} <= set(daemons)
        slurm.set_node("down")
        assert slurm.state_of_node() == "down"
        slurm.set_node("resume")
        real.wait_for(lambda: slurm.state_of_node() == "idle", "the node is back")
    assert not slurm.folder.exists()
    assert not real.CONFIG.exists()
    assert not real.GPUS.exists()
    assert set(psutil.Process().children(recursive=True)) == children


def test_without_root_there_is_a_reason(allowed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert real.why_not() == ""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root on Debian" in real.why_not()

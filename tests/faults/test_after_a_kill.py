"""A workflow that was killed leaves a lock: the next one goes on by itself, and takes no lock from a live one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "rules"))
from after_a_kill import is_local, others  # noqa: E402

SNAKEMAKE = [str(Path(sys.executable).with_name("snakemake")), "--cores", "1", "--rerun-incomplete"]
WRAPPED = [sys.executable, str(ROOT / "rules/after_a_kill.py"), *SNAKEMAKE]
WORKFLOW = """
rule slow:
    output:
        "done.txt",
    shell:
        "touch begun; [ -e quick ] || sleep 300; touch {output}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "Snakefile").write_text(WORKFLOW)
    started.clear()
    yield tmp_path
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


started: list[subprocess.Popen[bytes]] = []


def start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """A workflow that is at its rule."""
    process = subprocess.Popen(
        command, cwd=folder, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    started.append(process)
    deadline = time.monotonic() + 120
    while not (folder / "begun").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def run(command: list[str], folder: Path) -> tuple[int, str]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.fault("SIGKILL of Snakemake and its job")
@pytest.mark.parametrize("first", [SNAKEMAKE, WRAPPED], ids=["by hand", "make study"])
def test_after_a_sigkill_the_same_command_goes_on(folder: Path, first: list[str]) -> None:
    process = start(first, folder)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (folder / "quick").touch()
    code, said = run(SNAKEMAKE, folder)
    assert code != 0
    assert "LockException" in said or "cannot be locked" in said  # or what follows would say nothing
    code, said = run(WRAPPED, folder)
    assert code == 0, said
    assert "A workflow was killed here: its lock is removed" in said
    assert (folder / "done.txt").exists()
    assert not list((folder / ".snakemake/locks").glob("*"))


@pytest.mark.fault("two Snakemakes at once on one folder")
@pytest.mark.parametrize("first", [SNAKEMAKE, WRAPPED], ids=["by hand", "make study"])
def test_the_lock_of_a_live_one_is_respected(folder: Path, first: list[str]) -> None:
    process = start(first, folder)
    held = sorted((folder / ".snakemake/locks").glob("*"))
    assert held
    assert others(folder)
    code, said = run(WRAPPED, folder)
    assert code != 0
    assert "cannot be locked" in said
    assert "is removed" not in said
    assert sorted((folder / ".snakemake/locks").glob("*")) == held
    assert process.poll() is None


def test_where_another_machine_may_write_nothing_is_removed() -> None:
    mounts = "/dev/sda1 / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\ntmpfs /home/me/fast tmpfs rw 0 0\n"
    found = {name: is_local(Path(name), mounts) for name in ("/work", "/home/me/study", "/home/me/fast/study")}
    assert found == {"/work": True, "/home/me/study": False, "/home/me/fast/study": True}

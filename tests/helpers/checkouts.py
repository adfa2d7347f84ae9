"""A copy of the project in which Snakemake really runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mufree.study import sources

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "rules", "profiles", "experiments", "envs", "paper", "src")


@dataclass(frozen=True)
class Checkout:
    """A copy of the project, whose own sources are the ones that run."""

    path: Path

    @property
    def environment(self) -> dict[str, str]:
        """The tests' own interpreter and its commands first, and this copy's package."""
        scripts = str(Path(sys.executable).parent)
        changes = {"PATH": scripts + os.pathsep + os.environ["PATH"], "PYTHONPATH": str(self.path / "src")}
        return os.environ | changes

    def snakemake(self, *arguments: str, study: str = "smoke", check: bool = True, **config: str) -> str:
        """Run Snakemake; return what it said."""
        done = subprocess.run(
            command(*arguments, study=study, **config),
            cwd=self.path,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stdout
        else:
            assert done.returncode != 0, done.stdout
        return done.stdout

    def planned_jobs(self, *arguments: str, study: str = "smoke") -> dict[str, int]:
        """Jobs by rule that a dry run counts."""
        said = self.snakemake("--dry-run", *arguments, study=study)
        table = re.search(r"^job +count\n-.*\n((?:\S+ +\d+\n)+)", said, flags=re.MULTILINE)
        if table is None:
            return {}
        counts = dict(line.split() for line in table.group(1).splitlines())
        return {rule: int(count) for rule, count in counts.items() if rule not in ("all", "total")}

    def loaded_beside(self, stage: str, command: str) -> set[str]:
        """Modules of the package that calls of a command have loaded here, that every command doesn't, and `stage` hasn't."""
        loaded = {module for note in (self.path / "loaded" / command).iterdir() for module in note.read_text().split()}
        parts = [path.relative_to(sources.PACKAGE).with_suffix("").parts for path in sources.files(stage)]
        return (
            loaded
            - loaded_by_every_command()
            - {".".join(["mufree", *part]).removesuffix(".__init__") for part in parts}
        )

    def start(self, *arguments: str, study: str = "smoke") -> subprocess.Popen[str]:
        """Start Snakemake in a process group of its own."""
        return subprocess.Popen(
            command(*arguments, study=study),
            cwd=self.path,
            env=self.environment,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


@cache
def loaded_by_every_command() -> set[str]:
    """Modules that are there before a command does anything."""
    code = "import sys, mufree.cli; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def command(*arguments: str, **config: str) -> list[str]:
    """Snakemake with targets and options, and the settings of `--config`, which takes all that follows it."""
    settings = [f"{key}={value}" for key, value in config.items()]
    return [sys.executable, "-m", "snakemake", "--cores", "2", *arguments, "--config", *settings]


def kill_group(process: subprocess.Popen[str]) -> None:
    """SIGKILL Snakemake and all its jobs, as a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def copy_project(target: Path) -> Checkout:
    """Copy what a workflow needs."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, target / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / part)
    shutil.copy2(ROOT / "tests/helpers/noting/sitecustomize.py", target / "src")
    return Checkout(target)

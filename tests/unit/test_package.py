"""What is released: its version, what its files contain, and whether they work where nothing else of the project is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
import snippets
import yaml

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
"""Nothing that leads a Python to this project's sources."""


def said(*command: object, cwd: Path | None = None) -> str:
    """What a command prints, which has to succeed."""
    arguments = [str(word) for word in command]
    done = subprocess.run(
        arguments, cwd=cwd, env=CLEAN, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_version_is_the_same_wherever_it_stands() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = re.search(r"^## (\d\S*) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert changes
    assert (changes[1], changes[2]) == (VERSION, str(citation["date-released"]))
    assert citation["version"] == VERSION


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    return set(said("git", "ls-files", "-z", cwd=ROOT).split("\0")) - {""}


@pytest.fixture(scope="module")
def wheel(tracked: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, and that from a copy, so that the project keeps no build folder."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    # Without isolation, which would download setuptools; torch has brought it.
    said(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, copy)
    assert [path.name for path in out.glob("*.tar.gz")] == [f"mufree-{VERSION}.tar.gz"]
    said(sys.executable, "-m", "twine", "check", "--strict", *out.iterdir())
    return out / f"mufree-{VERSION}-py3-none-any.whl"


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commands of a new environment that has the wheel, and behind it all packages that the tests' own has."""
    venv = tmp_path_factory.mktemp("venv")
    said(sys.executable, "-m", "venv", venv)
    scripts = venv / "bin"
    said(scripts / "python", "-m", "pip", "install", "--no-index", "--no-deps", wheel)
    (packages,) = venv.glob("lib/python*/site-packages")
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "zz_others.pth").write_text("\n".join(others))
    return scripts


@pytest.mark.whole
def test_the_wheel_has_the_package_and_nothing_else(wheel: Path, tracked: set[str]) -> None:
    names = set(ZipFile(wheel).namelist())
    package = {name for name in names if name.startswith("mufree/")}
    assert package == {name.removeprefix("src/") for name in tracked if name.startswith("src/mufree/")}
    assert "mufree/py.typed" in package
    assert any(name.startswith("mufree/publish/templates/") for name in package)
    assert {name.partition("/")[0] for name in names} == {"mufree", f"mufree-{VERSION}.dist-info"}


@pytest.mark.whole
def test_it_is_the_wheel_that_runs(scripts: Path, tmp_path: Path) -> None:
    where = said(scripts / "python", "-c", "import mufree; print(mufree.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(scripts.parent)
    assert said(scripts / "mufree", "--version", cwd=tmp_path) == f"mufree {VERSION}\n"


@pytest.mark.whole
def test_the_how_to_works_with_it(scripts: Path, tmp_path: Path) -> None:
    said(scripts / "python", snippets.__file__, ROOT / "docs/how-to.md", cwd=tmp_path)

"""What is installed is what the ranges allow, and what the documents say of it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RANGES = [*PROJECT["dependencies"], *(each for extra in PROJECT["optional-dependencies"].values() for each in extra)]


def locked() -> dict[str, str]:
    lines = (ROOT / "envs/requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def misfits(ranges: list[str], lock: dict[str, str]) -> list[str]:
    """The ranges that the lock has no version for, or one outside."""
    wanted = [(Requirement(text), lock.get(canonicalize_name(Requirement(text).name))) for text in ranges]
    return [str(each) for each, version in wanted if version is None or version not in each.specifier]


def test_every_requirement_is_locked_within_its_range() -> None:
    assert misfits(RANGES, locked()) == []


@pytest.mark.parametrize("lock", [{}, {"typst": "0.12"}, {"typst": "0.14.dev1"}])
def test_one_that_is_not_is_found(lock: dict[str, str]) -> None:
    assert misfits(["typst>=0.13"], lock) == ["typst>=0.13"]


def test_one_of_any_version_is_missed() -> None:
    assert misfits(["types-tqdm"], {}) == ["types-tqdm"]


def test_conda_brings_a_python_that_the_package_takes() -> None:
    pin = re.search(r"^  - python=(\S+)$", (ROOT / "envs/mufree.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    assert pin is not None
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(pin[1])


def test_the_licence_of_every_locked_package_is_listed() -> None:
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (.+) \|$", (ROOT / "docs/licences.md").read_text(encoding="utf-8"), re.M)
    listed = {canonicalize_name(name): version for name, version, _ in rows if name not in ("package", "---")}
    assert listed == locked(), "make licences"


def test_the_licence_of_every_data_set_is_listed_as_its_manifest_gives_it() -> None:
    text = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| .* \| (.+) \|$", text, re.M))
    modules = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "src/mufree/lab/data").glob("*.py")}
    given = {name: re.findall(r'"licence": "([^"]+)"', code) for name, code in modules.items()}
    assert {name: [licence.replace("`", "")] for name, licence in listed.items()} == {
        name: [found.removesuffix(" (Wikipedia)") for found in licences] for name, licences in given.items() if licences
    }

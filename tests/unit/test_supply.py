"""What is installed is what the ranges allow, and what the documents say of it."""

from __future__ import annotations

import hashlib
import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mufree.lab.lock import pinned

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = ROOT / "envs/requirements.lock"
CONDA = (ROOT / "envs/mufree.yaml").read_text(encoding="utf-8")
RANGES = [*PROJECT["dependencies"], *(each for extra in PROJECT["optional-dependencies"].values() for each in extra)]


def locked() -> dict[str, str]:
    return {name: pin.version for name, pin in pinned(LOCK).items()}


def needed(ranges: list[str]) -> set[str]:
    """What is installed here for some requirements, and for what those require, and so on."""
    found: set[tuple[str, str]] = set()
    pending = [(Requirement(text), "") for text in ranges]
    while pending:
        each, extra = pending.pop()
        if each.marker is not None and not each.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(each.name)
        for asked in {"", *each.extras} - {extra for of, extra in found if of == name}:
            found.add((name, asked))
            pending += [(Requirement(text), asked) for text in distribution(name).requires or []]
    return {name for name, _ in found}


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


def test_nothing_is_locked_that_nothing_asks_for() -> None:
    assert needed(RANGES) == set(pinned(LOCK, {}))
    assert needed(["matplotlib"]) < needed(RANGES)


def test_every_entry_of_the_lock_has_digests_also_those_of_other_platforms() -> None:
    entries = re.split(r"\n(?=\w)", LOCK.read_text(encoding="utf-8"))[1:]
    plain = [
        entry for entry in entries if not re.fullmatch(r"\S+==[^\\]+( \\\n    --hash=sha256:[0-9a-f]{64})+\n?", entry)
    ]
    assert plain == []
    assert len(entries) > len(locked())


def test_a_pin_is_for_what_its_marker_says_and_keeps_its_digests(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text(
        "# made\nA_b.c==1.0 \\\n    --hash=sha256:12 \\\n    --hash=sha256:34\n\nplain==2\n"
        "old==3 ; python_full_version < '3.12' and sys_platform == 'linux' \\\n    --hash=sha256:56\n"
        "other==4 ; sys_platform == 'win32' \\\n    --hash=sha256:78\n"
    )
    versions = {name: pin.version for name, pin in pinned(lock).items()}
    assert versions == {"a-b-c": "1.0", "plain": "2", "old": "3"}
    assert pinned(lock)["a-b-c"].entry.split() == ["A_b.c==1.0", "--hash=sha256:12", "--hash=sha256:34"]
    assert set(pinned(lock, {"sys_platform": "win32"})) == {"a-b-c", "plain", "other"}


def test_make_and_conda_install_the_lock_by_its_digests() -> None:
    script = (ROOT / "envs/mufree.post-deploy.sh").read_text(encoding="utf-8")
    assert 'into --require-hashes --no-build-isolation -r "$lock"' in script.splitlines()
    assert "bash envs/mufree.post-deploy.sh" in (ROOT / "Makefile").read_text(encoding="utf-8")
    # conda makes its environment anew only when this file changes.
    assert hashlib.sha256(LOCK.read_bytes()).hexdigest() in CONDA, "make lock"
    assert "==" not in CONDA


def test_conda_brings_a_python_that_the_package_takes() -> None:
    pin = re.search(r"^  - python=(\S+)$", CONDA, re.MULTILINE)
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

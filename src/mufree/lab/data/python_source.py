"""The Python files of the packages that `envs/requirements.lock` pins for Linux, as the environment has them. No network.

A package trains or validates, whole: those of `VALIDATION` validate, all others train. What the texts are is fixed by the lock
and by the rules below, and no folder's order or date has a part in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

from mufree.lab.data.prepared import Built, DataError
from mufree.lab.data.text import build_text
from mufree.lab.lock import pinned
from mufree.study.files import sha256
from mufree.study.parts import PythonSource

LOCK = Path(__file__).parents[4] / "envs" / "requirements.lock"

VALIDATION = (
    "aiohttp",
    "black",
    "docutils",
    "fsspec",
    "gensim",
    "gitpython",
    "hypothesis",
    "jinja2",
    "networkx",
    "pillow",
    "snakemake",
    "trio",
)
"""Packages that validate, normalised: of many kinds, and none of which another of the lock is a copy or a part."""

NOT_TAKEN = ("cuda-", "nvidia-", "setuptools", "triton")
"""How the names of packages begin that differ between builds of PyTorch, or that an environment has to be made with."""

LARGEST = 100_000
"""Bytes beyond which a file is left out: such files are tables and what programs wrote."""


def build(settings: PythonSource, data_dir: Path, lock: Path = LOCK, site: Sequence[str] | None = None) -> Built:
    """Take the files of the packages that `lock` pins and split them by package; there is no test split.

    Files come in the order of the digests of their names, so that a part of the text has something of every package. A file
    that isn't UTF-8, or whose text has come before, is left out: no file is in both splits. `data_dir` is not used; `site` are
    the folders of the environment, sys.path if None. Raises DataError unless they hold the versions of the lock.
    """
    packages = _locked(lock, site)
    limits = {"train": settings.train_bytes, "valid": settings.valid_bytes}
    names = {
        "train": [name for name in packages if name not in VALIDATION],
        "valid": [name for name in packages if name in VALIDATION],
    }
    texts, used, seen = {}, {}, set[str]()
    for split, chosen in names.items():
        pieces = list(_until(limits[split], _files({name: packages[name] for name in chosen}, seen)))
        texts[split] = "".join(text for _, text in pieces)
        used[split] = {"packages": sorted({name for name, _ in pieces}), "python_files": len(pieces)}
    about = {
        "source": "Python files of the packages in the running environment",
        "version": f"as {lock.name} pins them",
        "licence": "that of each package",
        "inputs": {lock.name: {"sha256": sha256(lock)}},
        "used": used,
    }
    return build_text(texts, settings.vocab_size, about)


def _locked(lock: Path, site: Sequence[str] | None) -> dict[str, Distribution]:
    """What the environment has of each package that is taken, by normalised name, sorted."""
    from packaging.utils import canonicalize_name

    try:
        pins = pinned(lock)
    except OSError as error:
        raise DataError(f"{lock} can't be read ({error}); python_source needs a checkout of the project") from error
    versions = {name: pin.version for name, pin in sorted(pins.items()) if not name.startswith(NOT_TAKEN)}
    found: dict[str, Distribution] = {}
    for each in distributions() if site is None else distributions(path=list(site)):
        found.setdefault(canonicalize_name(each.name), each)  # the first is the one that is imported
    wrong = [
        f"{name} {version} is pinned, {found[name].version if name in found else 'nothing'} is installed"
        for name, version in versions.items()
        if name not in found or found[name].version.partition("+")[0] != version
    ]
    if wrong:
        shown = "\n  ".join(wrong[:10]) + (f"\n  … and {len(wrong) - 10} more" if len(wrong) > 10 else "")
        raise DataError(
            f"The environment is not that of {lock}:\n  {shown}\n"
            f"Make it by `make setup` with Python 3.11, or `pip install -r {lock}`"
        )
    return {name: found[name] for name in versions}


def _files(packages: Mapping[str, Distribution], seen: set[str]) -> Iterator[tuple[str, str]]:
    """Name of the package and text of each file, lines ended; what is taken is added to `seen`, by digest."""
    listed = [
        (name, file)
        for name, package in packages.items()
        for file in package.files or []
        if file.suffix == ".py" and ".." not in file.parts
    ]
    for name, file in sorted(listed, key=lambda each: _digest(f"{each[0]}/{each[1].as_posix()}".encode())):
        path = Path(str(file.locate()))
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} of {name} can't be read ({error}); install the package again") from error
        if len(content) > LARGEST or (digest := _digest(content)) in seen:
            continue
        try:
            text = content.decode()
        except UnicodeDecodeError:
            continue
        seen.add(digest)
        yield name, text if text.endswith("\n") else text + "\n"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _until(limit: int | None, pieces: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The pieces until there are so many bytes, the last one cut; all if None."""
    left = limit
    for name, text in pieces:
        content = text.encode()
        yield name, content[:left].decode(errors="ignore")  # a character that is cut in two goes
        if left is not None:
            left -= len(content)
            if left <= 0:
                return

"""Write the licences of the locked packages, as their metadata give them, into docs/licences.md: `make licences`."""

from __future__ import annotations

import sys
from importlib.metadata import distribution
from pathlib import Path

import marked

from mufree.lab.lock import pinned

LONGEST = 60
"""Some packages give the whole text in place of a name."""


def table(lock: Path) -> str:
    """Each package of the lock with its version and licence, as Markdown."""
    rows = [f"| {name} | {pin.version} | {licence(name)} |" for name, pin in pinned(lock).items()]
    return "\n".join(["| package | version | licence |", "| --- | --- | --- |", *rows])


def licence(name: str) -> str:
    """The SPDX expression of an installed package, or what it says in its place; or the file in which it says so."""
    metadata = distribution(name).metadata
    classifiers = [
        each.split(" :: ")[-1] for each in metadata.get_all("Classifier") or [] if each.startswith("License")
    ]
    said = metadata.get("License") or ""
    short = [said] if said and len(said) <= LONGEST and "\n" not in said else []
    files = [f"see its {each}" for each in metadata.get_all("License-File") or []]
    found = [*filter(None, [metadata.get("License-Expression")]), *short, ", ".join(classifiers), *files]
    return next(filter(None, found), "its metadata don't say")


if __name__ == "__main__":
    marked.write(sys.argv[2], "licences", table(Path(sys.argv[1])))

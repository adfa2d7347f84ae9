"""`envs/requirements.lock`: the exact versions of all packages, with a digest of each file that may be installed of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

LINUX: Mapping[str, str] = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "python_full_version": "3.11.0",
    "python_version": "3.11",
    "sys_platform": "linux",
}
"""What the lock is tried on, for which its markers are read wherever this runs: Linux on x86-64 with Python 3.11."""


class Pin(NamedTuple):
    """One package of the lock."""

    version: str
    entry: str
    """All that the lock says of it, as pip takes it from a file."""


def pinned(lock: Path, environment: Mapping[str, str] = LINUX) -> dict[str, Pin]:
    """The packages that the lock has for an environment (this one's, where it says nothing), by normalised name.

    Raises OSError.
    """
    # Not at the top: a machine that trains a lease lacks it.
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, Pin] = {}
    for entry in lock.read_text(encoding="utf-8").replace("\\\n", "").splitlines():
        if not entry or entry.startswith("#"):
            continue
        required = Requirement(entry.partition(" --hash")[0])
        if required.marker is None or required.marker.evaluate(dict(environment)):
            found[canonicalize_name(required.name)] = Pin(str(required.specifier).removeprefix("=="), entry)
    return found

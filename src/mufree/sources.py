"""Which source files each stage of the study depends on, and their digest.

Rules name them as inputs, so that changing a figure never touches a sweep and changing the optimizer looks at every sweep
again. Rows record the digest of what trained them. Standard library only.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

PACKAGE = Path(__file__).parent

DATA = ("config.py", "files.py", "data")
TRAIN = (*DATA, "plan.py", "machine.py", "ranks.py", "models", "parametrization.py", "optim", "train.py")
STAGES: dict[str, tuple[str, ...]] = {
    "data": DATA,
    "train": (*TRAIN, "checkpoints.py"),
    "coordcheck": (*TRAIN, "coordcheck.py"),
    "metrics": ("config.py", "metrics", "tables", "coordcheck.py"),
    "calibration": ("metrics",),
    "verdicts": ("hypotheses.py", "verdicts.py", "metrics/statistics.py"),
    "figures": ("figures",),
    # Display names come from figures/style.py, the margin of drift from tables/transfer.py.
    "report": ("report", "templates", "config.py", "verdicts.py", "figures/style.py", "tables/transfer.py"),
    "paper": (
        "hypotheses.py",
        "numbers",
        "follow_ups.py",
        "paper.py",
        "recipe.py",
        "frozen.py",
        "freeze.py",
        "files.py",
        "verdicts.py",
        "tables/transfer.py",
        "metrics/stability.py",
        "report",
        "figures",
    ),
}


def files(stage: str) -> list[Path]:
    """The files of a stage, sorted. Raises `KeyError` for a stage that doesn't exist."""
    found: list[Path] = []
    for name in STAGES[stage]:
        path = PACKAGE / name
        found.extend([path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and p.suffix != ".pyc"])
    return sorted(found)


def digest(stage: str) -> str:
    """SHA-256 over names and contents of a stage's files, 12 hex digits."""
    sha = hashlib.sha256()
    for path in files(stage):
        sha.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()[:12]

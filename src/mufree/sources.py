"""Which source files each stage of the study depends on, and their digest.

Rules name them as inputs, so that changing a figure never touches a sweep and changing the optimizer looks at every sweep
again. Rows record the digest of what trained them. A stage names the modules that its rule's command calls; what these import
is read from their sources, so that nothing can be forgotten. Standard library only.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent

STAGES: dict[str, tuple[str, ...]] = {
    "data": ("data",),
    "train": ("train", "checkpoints"),
    "coordcheck": ("coordcheck", "train"),
    "metrics": ("tables", "coordcheck"),
    "calibration": ("metrics.calibration",),
    "verdicts": ("verdicts",),
    "figures": ("figures",),
    "report": ("report",),
    "paper": ("numbers", "follow_ups", "paper", "freeze"),
}
"""Modules by stage, without the package's name."""

TEMPLATES = "report"
"""The module that reads `templates/`."""


@cache
def files(stage: str) -> list[Path]:
    """The files of a stage, sorted. Raises `KeyError` for a stage that doesn't exist."""
    found: set[str] = set()
    pending = list(STAGES[stage])
    while pending:
        module = pending.pop()
        if module not in found:
            found.add(module)
            pending += imports(module)
    paths = [path for module in found if (path := _path(module)) is not None]
    return sorted([*paths, *(PACKAGE.glob("templates/*") if TEMPLATES in found else ())])


def digest(stage: str) -> str:
    """SHA-256 over names and contents of a stage's files, 12 hex digits."""
    sha = hashlib.sha256()
    for path in files(stage):
        sha.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()[:12]


@cache
def imports(module: str) -> list[str]:
    """What a module of the package imports of it, anywhere but for type checkers; and the packages around it."""
    path = _path(module)
    assert path is not None
    named = {name for node in _run(ast.parse(path.read_bytes())) for name in _named(node)}
    parents = {name.rpartition(".")[0] for name in {module, *named}} - {""}
    return sorted(name for name in named | parents if _path(name) is not None)


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a tree but those that are there for type checkers alone."""
    yield tree
    if isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING":
        children: Iterable[ast.AST] = tree.orelse
    else:
        children = ast.iter_child_nodes(tree)
    for child in children:
        yield from _run(child)


def _named(node: ast.AST) -> Iterator[str]:
    """Modules of the package that a statement may import, without the package's name; some may be names in a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name.removeprefix("mufree.") for alias in node.names if alias.name.startswith("mufree."))
    elif isinstance(node, ast.ImportFrom) and node.module is not None and f"{node.module}.".startswith("mufree."):
        inside = node.module.removeprefix("mufree").removeprefix(".")
        yield from ([inside] if inside else [])
        yield from (f"{inside}.{alias.name}".removeprefix(".") for alias in node.names)


def _path(module: str) -> Path | None:
    """The file of a module; None where there is no such module."""
    base = PACKAGE / module.replace(".", "/")
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)

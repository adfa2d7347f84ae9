"""Which source files each stage of the study depends on, and their digest.

Rules name them as inputs, so that changing a figure never touches a sweep and changing the optimizer looks at every sweep
again. Rows record the digest of what trained them. A stage names what its rule's command calls; what that imports is read from
the sources, so that nothing can be forgotten. Standard library only, and quick: Snakemake asks for it at each job's start.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]

STAGES: dict[str, str] = {
    "data": "lab.data",
    "train": "lab.train.checkpoints",
    "coordcheck": "cli.coordcheck:_check_study",
    "collect": "cli.analysing:collect",
    "first_look": "cli.analysing:first_look",
    "metrics": "cli.analysing:metrics",
    "calibration": "analysis.metrics.calibration",
    "verdicts": "cli.paper:verdicts",
    "figures": "cli.analysing:figure",
    "overview": "cli.analysing:overview",
    "provenance": "cli.analysing:provenance",
    "report": "cli.analysing:report",
    "recompute": "cli.paper:check_frozen",
    "numbers": "cli.paper:numbers",
    "supplement": "cli.paper:supplement",
    "paper": "cli.paper:paper",
}
"""What each stage starts from, without the package's name: a module, or one of the functions in a module of `cli`.

Where data are prepared, runs are trained or studies simulated, it is the module that does so: how the command picks runs and
keeps them changes none, and must not have all sweeps looked at again.
"""

TEMPLATES = "publish.report"
"""The module that reads `publish/templates/`."""

_FOR_TYPE_CHECKERS = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t]+.*\n|\n)+", re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*((?:from mufree|import .*\bmufree)\b[^\n(]*(?:\([^)]*\))?)", re.MULTILINE)


@cache
def files(stage: str) -> list[Path]:
    """The files of a stage, sorted. Raises `KeyError` for a stage that doesn't exist."""
    found: set[str] = set()
    pending = {STAGES[stage]}
    while pending:
        needed = pending.pop()
        found.add(needed)
        pending |= needs(needed) - found
    modules = {needed.partition(":")[0] for needed in found}
    return sorted([*map(_source, modules), *(PACKAGE.glob("publish/templates/*") if TEMPLATES in modules else ())])


def digest(stage: str) -> str:
    """SHA-256 over names and contents of a stage's files, 12 hex digits."""
    sha = hashlib.sha256()
    for path in files(stage):
        sha.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()[:12]


@cache
def needs(needed: str) -> set[str]:
    """What a module imports of the package, anywhere but for type checkers, and the package that it lies in; or what a name in
    a module of `cli` reaches, in that module and by imports.
    """
    module, _, name = needed.partition(":")
    if name:
        nodes = list(ast.walk(_definitions(module)[name]))
        used = {node.id for node in nodes if isinstance(node, ast.Name)} & _definitions(module).keys() - _local(nodes)
        return {f"{module}:{other}" for other in used} | _imported(nodes)
    # Statements alone, since parsing whole modules takes ten times as long.
    text = _FOR_TYPE_CHECKERS.sub("", _source(module).read_text(encoding="utf-8"))
    return {module.rpartition(".")[0]} | _imported(ast.parse("\n".join(_IMPORT.findall(text))).body)


@cache
def _definitions(module: str) -> dict[str, ast.stmt]:
    """Each name that a module defines or imports at its top, with the statement that does so."""
    found: dict[str, ast.stmt] = {}
    for statement in ast.parse(_source(module).read_bytes()).body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            found[statement.name] = statement
        elif isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                found[alias.asname or alias.name] = ast.ImportFrom(statement.module, [alias], 0)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found |= {target.id: statement for target in targets if isinstance(target, ast.Name)}
    return found


def _local(nodes: Iterable[ast.AST]) -> set[str]:
    """Names that are a function's own: its parameters, and what it imports itself."""
    aliases = (alias for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names)
    return {node.arg for node in nodes if isinstance(node, ast.arg)} | {alias.asname or alias.name for alias in aliases}


def _imported(nodes: Iterable[ast.AST]) -> set[str]:
    """What the imports among some nodes name of the package."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("mufree.") for alias in node.names if alias.name.startswith("mufree.")}
        elif isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("mufree."):
            inside = str(node.module).removeprefix("mufree").removeprefix(".")
            found |= {_named(inside, alias.name) for alias in node.names}
    return found


def _named(module: str, name: str) -> str:
    """The module that `from module import name` names, or what it takes a name from."""
    inner = f"{module}.{name}".removeprefix(".")
    if _source(inner).is_file():
        return inner
    return f"{module}:{name}" if module.startswith("cli.") else module


def _source(module: str) -> Path:
    """The file of a module; of one that doesn't exist, a path to nothing."""
    base = PACKAGE / module.replace(".", "/")
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")

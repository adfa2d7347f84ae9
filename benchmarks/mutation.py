"""Change the code at random, one place at a time, and see whether the tests of that module notice.

`make mutation` writes what came out into docs/testing.md. The changes are Cosmic Ray's. Each is tried in a process forked from
one that has PyTorch and pandas already, with the module's own tests alone, and no file is changed for it: it takes seconds.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import marked
import pandas as pd  # noqa: F401 (what tests import is imported once, before the forks)
import pyarrow.parquet  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import torch  # noqa: F401
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

METRICS = Path("src/mufree/analysis/metrics")
SLOW = ("calibration",)
"""Modules whose tests take a minute: a fifth of the sample is tried of these, and they come last."""
TESTS = {
    "src/mufree/optim/groups.py": ["optim_groups", "optim_constructors", "optim_scaled"],
    "src/mufree/lab/train/updates.py": ["updates"],
    **{
        str(path): [f"metrics_{path.stem}"]
        for path in sorted(METRICS.glob("[a-z]*.py"), key=lambda path: path.stem in SLOW)
    },
    f"{METRICS}/dynamics.py": ["metrics_curves"],
    f"{METRICS}/stability.py": ["metrics_stability", "metrics_curves"],
}
"""The modules, and the test files that hold what each is for."""
OUTCOMES = FAILED, NO_START, NO_END, ALIVE = "a test failed", "not imported", "crashed or no end", "survived"


class Mutant(NamedTuple):
    """A module with one change: where it is, and what it does to that line."""

    line: int
    change: str
    text: str


def places(text: str) -> list[tuple[str, int]]:
    """Every change of the module: an operator of Cosmic Ray's, and which of the places it is for."""
    tree = get_ast(text)
    kinds = {name: get_operator(name) for name in sorted(operator_names())}
    return [
        (name, occurrence)
        for name, kind in kinds.items()
        if not kind.arguments()
        for occurrence in range(sum(len(list(kind().mutation_positions(node))) for node in ast_nodes(tree)))
    ]


def mutants(text: str, drawn: list[tuple[str, int]]) -> Iterator[Mutant]:
    """The module with each of these changes, but for those in annotations, which aren't looked at when it runs."""
    original = _meaning(text)
    for name, occurrence in drawn:
        new = mutate_code(text, get_operator(name)(), occurrence)
        if _meaning(new) != original:
            yield Mutant(*_difference(text, new), new)


def _meaning(text: str) -> str:
    """What of a module can matter when it runs, or the text where it is no Python."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return text
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                setattr(node, field, ast.Constant(0))
    return ast.dump(tree)


def _difference(old: str, new: str) -> tuple[int, str]:
    """The first line that differs, from 1, and what it was and is."""
    before, after = old.splitlines(), [*new.splitlines(), ""]
    line = next(index for index, words in enumerate(before) if words != after[index])
    gone = after[line].strip() if len(after) > len(before) else "(removed)"
    return line + 1, f"`{before[line].strip()}` → `{gone}`"


def outcome(path: str, text: str, tests: list[str], seconds: int) -> str:
    """What these tests say with this text in the module's place: one of `OUTCOMES`."""
    child = os.fork()
    if child == 0:
        signal.alarm(seconds)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        _replace(str(Path(path).resolve()), text)
        # The examples of hypothesis are the same ones for every mutant.
        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", *tests]))
    status = os.waitpid(child, 0)[1]
    return NO_END if os.WIFSIGNALED(status) else {0: ALIVE, 1: FAILED}.get(os.WEXITSTATUS(status), NO_START)


def _replace(path: str, text: str) -> None:
    original = SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, fullname: str) -> Any:
        return compile(text, path, "exec", dont_inherit=True) if self.path == path else original(self, fullname)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def main() -> None:
    """Try a sample of each module's mutants and write a table of them, and those that no test noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=25, help="mutants a module")
    parser.add_argument("--all", action="store_true", help="all of them: hours")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="modules whose path has this in it; writes no table")
    args = parser.parse_args()
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = (
        tempfile.mkdtemp()
    )  # what failed for one mutant is no hint for the next
    modules = {path: names for path, names in TESTS.items() if args.only in path}
    if not modules:
        sys.exit(f"No module has '{args.only}' in its path: {', '.join(TESTS)}")
    rows, survivors, total = [], [], Counter[str]()
    for path, names in modules.items():
        tests = [f"tests/unit/test_{name}.py" for name in names]
        text = Path(path).read_text(encoding="utf-8")
        every, start = places(text), time.monotonic()
        if outcome(path, text, tests, 600) != ALIVE:
            sys.exit(f"{' '.join(tests)} fails as it is")
        limit = 10 + int(5 * (time.monotonic() - start))
        random.Random(args.seed).shuffle(every)
        most = max(1, args.sample // 5) if Path(path).stem in SLOW else args.sample
        sample = list(islice(mutants(text, every), None if args.all else most))
        found = [(mutant, outcome(path, mutant.text, tests, limit)) for mutant in sample]
        counted, alive = Counter(said for _, said in found), sorted(mutant for mutant, said in found if said == ALIVE)
        total += counted
        rows.append(_row(f"`{path.removeprefix('src/mufree/')}`", len(every), counted))
        survivors += [f"- `{path.removeprefix('src/mufree/')}:{each.line}` {each.change}" for each in alive]
        print(rows[-1], *survivors[len(survivors) - len(alive) :], sep="\n", flush=True)
    drawn = "All" if args.all else f"At most {args.sample} a module, drawn with seed {args.seed}"
    said = f"{drawn}: {total.total()} mutants tried, {1 - total[ALIVE] / total.total():.1%} killed."
    head = f"| module | places | {' | '.join(OUTCOMES)} | killed |\n| --- | --- | --- | --- | --- | --- | --- |"
    print(said)
    if not args.only:
        marked.write(
            "docs/testing.md", "mutation", "\n".join([said, "", head, *rows, "", "Survivors:", "", *survivors])
        )


def _row(name: str, every: int, counted: Counter[str]) -> str:
    killed = 1 - counted[ALIVE] / counted.total()
    return f"| {name} | {every} | {' | '.join(str(counted[said]) for said in OUTCOMES)} | {killed:.0%} |"


if __name__ == "__main__":
    main()

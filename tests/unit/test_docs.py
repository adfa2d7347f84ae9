"""What the documents tell to type works, in the order in which it stands there."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mufree.cli import main

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)(, continued)?\n")


def _blocks(text: str) -> list[tuple[str, str]]:
    return BLOCK.findall(text)


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_snippets_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python blocks in one namespace, but for those that name a file, which they are put into; then lines with `mufree`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    namespace: dict[str, object] = {"__name__": "__main__"}
    files: set[str] = set()
    torch.manual_seed(0)
    try:
        for kind, block in _blocks(path.read_text(encoding="utf-8")):
            if kind == "sh":
                for line in block.splitlines():
                    if line.startswith("mufree "):
                        assert main(shlex.split(line, comments=True)[1:]) == 0, line
            elif name := FILE.match(block):
                files.add(name[1])
                with Path(name[1]).open("a") as file:
                    file.write(block)
            else:
                exec(compile(block, str(path), "exec"), namespace)
    finally:
        for name in files:
            sys.modules.pop(name.removesuffix(".py"), None)


def test_the_how_to_needs_the_library_alone_until_the_coordinate_check() -> None:
    """`pip install .` brings torch, mup and schedulefree; the extra comes where the text says so."""
    before, heading, _ = (DOCS / "how-to.md").read_text(encoding="utf-8").partition("## 8. The coordinate check")
    assert heading
    python = [ast.parse(block) for kind, block in _blocks(before) if kind == "python"]
    nodes = [node for tree in python for node in ast.walk(tree)]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert modules == {"copy", "model", "mufree.optim", "mup", "torch", "torch.nn"}
    assert "mufree " not in "".join(block for kind, block in _blocks(before) if kind == "sh")


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (DOCS / target).exists(), target


def test_what_the_cluster_study_costs_is_what_the_plan_says(capsys: pytest.CaptureFixture[str]) -> None:
    study = DOCS.parent / "experiments/cluster.yaml"
    assert main(["plan", str(study), "--cost", "--device", "cuda"]) == 0
    assert capsys.readouterr().out.strip() in (DOCS / "cluster.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("measured", ["bench.csv", "bench_zen4.csv"])
def test_a_table_of_speed_is_the_one_that_was_measured(measured: str) -> None:
    root = DOCS.parent
    command = [sys.executable, str(root / "benchmarks" / "bench.py"), "--table", str(DOCS / "measured" / measured)]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert len(table.splitlines()) > 10
    assert table in (DOCS / "performance.md").read_text(encoding="utf-8")

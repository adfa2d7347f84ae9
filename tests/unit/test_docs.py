"""What the documents tell to type works, in the order in which it stands there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import snippets
import yaml

from mufree.cli import main
from mufree.study.statistics import ALL, Statistic

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_snippets_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    snippets.run(path)


def test_the_how_to_needs_the_library_alone_until_the_coordinate_check() -> None:
    """`pip install .` brings torch, mup and schedulefree; the extra comes where the text says so."""
    before, heading, _ = (DOCS / "how-to.md").read_text(encoding="utf-8").partition("## 8. The coordinate check")
    assert heading
    python = [ast.parse(block) for kind, block in snippets.blocks(before) if kind == "python"]
    nodes = [node for tree in python for node in ast.walk(tree)]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert modules == {"model", "mufree.optim", "torch", "torch.nn"}
    assert "mufree " not in "".join(block for kind, block in snippets.blocks(before) if kind == "sh")


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


def statistics_table() -> str:
    """The table of `docs/metrics.md`, from the declarations and from what the hypotheses name."""
    files = [DOCS.parent / f"experiments/{name}.yaml" for name in ("hypotheses", "confirm.hypotheses")]
    judged: dict[Statistic, dict[str, None]] = {}
    for hypothesis in (h for file in files for h in yaml.safe_load(file.read_text(encoding="utf-8"))["hypotheses"]):
        for condition in hypothesis["conditions"]:
            judged.setdefault(general(condition["statistic"]), {})[hypothesis["id"]] = None
    lines = ["| statistic | in words | unit | of | table | hypotheses |", *["| --- " * 6 + "|"]]
    for each in ALL:
        cells = [f"`{each.name}`", each.words, each.unit, each.of, f"`{each.table}`" if each.table else ""]
        cells.append(", ".join(judged.get(each, ())))
        lines.append("".join(f"| {cell} " if cell else "| " for cell in cells) + "|")
    return "\n".join(lines)


def general(name: str) -> Statistic:
    """The declaration that a statistic is one of, with its layer or horizon in braces."""
    return next(each for each in ALL if re.fullmatch(re.sub(r"\{\w+\}", ".+", each.name), name))


def test_every_statistic_is_in_the_table_as_it_is_declared() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- statistics -->\n(.*?)\n<!-- end -->", text, flags=re.DOTALL)
    assert found is not None
    assert found[1] == statistics_table()


def test_a_statistic_that_no_hypothesis_judges_tells_somebody_something() -> None:
    _, _, section = (DOCS / "metrics.md").read_text(encoding="utf-8").partition("## Those that no hypothesis judges")
    unjudged = re.findall(r"^\| `([^`]+)` .* \| \|$", statistics_table(), flags=re.MULTILINE)
    assert len(unjudged) > 20
    assert sorted(re.findall(r"^\| `([^`]+)` \| \S", section, flags=re.MULTILINE)) == sorted(unjudged)


if __name__ == "__main__":
    print(statistics_table())

"""What each stage depends on is what it imports: nothing is forgotten, and a figure is no part of a sweep."""

from __future__ import annotations

import re
from pathlib import Path

import grimp
import pytest

from mufree.study import sources


def names(stage: str) -> set[str]:
    return {path.relative_to(sources.PACKAGE).as_posix() for path in sources.files(stage)}


def forgotten() -> set[tuple[str, str]]:
    """Modules outside `cli`, of which stages take functions alone, each with what grimp finds it to import and we don't, or
    the other way round."""
    graph = grimp.build_graph("mufree", exclude_type_checking_imports=True, cache_dir=None)
    modules = {module for module in graph.modules if not f"{module}.".startswith("mufree.cli.")}
    assert len(modules) > 90
    theirs = {(module, other) for module in modules for other in graph.find_modules_directly_imported_by(module)}
    theirs |= {(module, module.rpartition(".")[0] or module) for module in modules}  # the package that it lies in
    inside = {module: module.removeprefix("mufree").removeprefix(".") for module in modules}
    ours = {(module, f"mufree.{name}".rstrip(".")) for module in modules for name in sources.needs(inside[module])}
    return ours ^ theirs


def test_imports_are_those_that_grimp_finds() -> None:
    assert forgotten() == set()


def test_a_forgotten_import_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "needs", sources.needs.__wrapped__)
    monkeypatch.setattr(sources, "_IMPORT", re.compile(sources._IMPORT.pattern.replace("^[ \\t]*", "^"), re.MULTILINE))
    assert ("mufree.lab.speed", "mufree.lab.train.run") in forgotten()  # it stands in a function


def test_what_a_command_reaches_is_found_through_its_helpers() -> None:
    """By hand: `numbers` reads the frozen studies in a helper of its module."""
    assert {"cli.paper:_read_studies", "publish.numbers", "study.files"} <= sources.needs("cli.paper:numbers")
    assert {"publish.results", "publish.freeze"} <= sources.needs("cli.paper:_read_studies")
    assert sources.needs("cli.paper:load_study") == {"cli.inputs:load_study"}
    assert "cli.coordcheck:FIGURE_KINDS" in sources.needs("cli.coordcheck:coordcheck")
    # A parameter is no function of the same name, and neither is what a command imports itself.
    assert "cli.paper:numbers" not in sources.needs("cli.paper:answer")
    assert {"study.collect"} == sources.needs("cli.analysing:provenance") & {"study.collect", "cli.analysing:collect"}
    # The same module trains runs again for `mufree rerun`, draws the check of one's own model, and holds the commands' words.
    assert "cli/training.py" not in names("numbers")
    assert not {name for name in names("coordcheck") if name.startswith("publish/figures/")}


def test_a_change_of_what_the_article_prints_makes_its_numbers_anew() -> None:
    changed = {"analysis/coordcheck.py", "study/config.py", "study/hypotheses.py"}
    assert changed <= names("numbers")
    assert {"publish/templates/report.js", "publish/contents.py"} <= names("report") & names("supplement")


def test_a_change_of_what_only_looks_at_runs_trains_nothing() -> None:
    looking = ("publish/", "analysis/", "cli/", "study/record.py", "study/run_store.py")
    assert not [name for name in names("train") | names("data") if name.startswith(looking)]
    assert {"lab/train/run.py", "optim/groups.py", "lab/data/batches.py", "lab/models/kernels.py"} <= names("train")


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A package of its own in the place of ours, empty."""
    monkeypatch.setattr(sources, "PACKAGE", tmp_path)
    monkeypatch.setattr(sources, "STAGES", {"one": "start"})
    for function in (sources.files, sources.needs, sources._definitions):
        monkeypatch.setattr(sources, function.__name__, function.__wrapped__)
    return tmp_path


def test_imports_are_found_wherever_they_stand(package: Path) -> None:
    for name, text in {
        "start.py": "from typing import TYPE_CHECKING\nimport json, mufree.plain\nfrom mufree.inner import part, CONSTANT\n"
        "if TYPE_CHECKING:\n    from mufree import types_only\nelse:\n    from mufree import elsewhere\n"
        "def f():\n    from mufree import lazy\n    import torch\n",
        "plain.py": "import mufree.start",  # a circle
        "lazy.py": "from mufree.lazier import (\n    x,\n    y,\n)\n",
        **dict.fromkeys(("__init__.py", "elsewhere.py", "types_only.py", "lazier.py", "unused.py"), ""),
        **dict.fromkeys(("inner/__init__.py", "inner/part.py", "inner/other.py"), ""),
    }.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text)
    assert names("one") == {
        *(
            "__init__.py",
            "start.py",
            "plain.py",
            "elsewhere.py",
            "inner/__init__.py",
            "inner/part.py",
            "lazy.py",
            "lazier.py",
        ),
    }
    before = sources.digest("one")
    (package / "unused.py").write_text("changed = True")
    assert sources.digest("one") == before
    (package / "lazier.py").write_text("changed = True")
    assert sources.digest("one") != before


def test_of_a_module_of_commands_a_stage_has_what_its_own_reaches(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "STAGES", {"one": "cli.many:first", "two": "cli.many:second"})
    (package / "cli").mkdir()
    for name, text in {
        "cli/__init__.py": "from mufree.cli import many",
        "cli/many.py": "from mufree import early, late\nfrom mufree.cli.shared import load, save\nLIMIT = late.LIMIT\n"
        "def first():\n    return _helper()\n"
        "def _helper():\n    from mufree import lazy\n    load(early)\n"
        "def second():\n    save(LIMIT)\n",
        "cli/shared.py": "def load(x):\n    from mufree import loading\ndef save(x):\n    from mufree import saving\n",
        **{f"{name}.py": "" for name in ("__init__", "early", "late", "lazy", "loading", "saving")},
    }.items():
        (package / name).write_text(text)
    shared = {"__init__.py", "cli/many.py", "cli/shared.py"}
    assert names("one") == shared | {"early.py", "lazy.py", "loading.py"}
    assert names("two") == shared | {"late.py", "saving.py"}

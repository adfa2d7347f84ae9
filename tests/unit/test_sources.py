"""What each stage depends on is what it imports: nothing is forgotten, and a figure is no part of a sweep."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mufree import sources


def names(stage: str) -> set[str]:
    return {path.relative_to(sources.PACKAGE).as_posix() for path in sources.files(stage)}


@pytest.mark.parametrize("stage", sources.STAGES)
def test_every_module_that_a_stage_loads_is_in_it(stage: str) -> None:
    code = "; ".join(f"import mufree.{module}" for module in sources.STAGES[stage])
    code += "; import sys; print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('mufree.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {Path(path).relative_to(sources.PACKAGE).as_posix() for path in loaded} <= names(stage)


def test_a_change_of_what_the_article_prints_makes_its_numbers_anew() -> None:
    changed = {"coordcheck.py", "tables/power.py", "metrics/calibration.py", "config.py", "templates/report.js"}
    assert changed <= names("paper")


def test_a_change_of_what_only_looks_at_runs_trains_nothing() -> None:
    looking = ("figures/", "report/", "tables/", "metrics/", "numbers/", "cli/", "record.py", "verdicts.py")
    assert not [name for name in names("train") | names("data") if name.startswith(looking)]
    assert {"train.py", "optim/groups.py", "data/batches.py", "models/kernels.py"} <= names("train")


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A package of its own in the place of ours."""
    monkeypatch.setattr(sources, "PACKAGE", tmp_path)
    monkeypatch.setattr(sources, "STAGES", {"one": ("start",)})
    for function in (sources.files, sources.imports):
        function.cache_clear()
        monkeypatch.setattr(sources, function.__name__, function.__wrapped__)
    return tmp_path


def test_imports_are_found_wherever_they_stand(package: Path) -> None:
    for name, text in {
        "start.py": "from typing import TYPE_CHECKING\nimport json, mufree.plain\nfrom mufree.inner import part, CONSTANT\n"
        "if TYPE_CHECKING:\n    from mufree import types_only\nelse:\n    from mufree import elsewhere\n"
        "def f():\n    from mufree import lazy\n    import torch\n",
        "plain.py": "import mufree.start",  # a circle
        "lazy.py": "from mufree.lazier import x",
        **dict.fromkeys(("elsewhere.py", "types_only.py", "lazier.py", "unused.py"), ""),
        **dict.fromkeys(("inner/__init__.py", "inner/part.py", "inner/other.py"), ""),
    }.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text)
    assert names("one") == {
        *("start.py", "plain.py", "elsewhere.py", "inner/__init__.py", "inner/part.py", "lazy.py", "lazier.py"),
    }
    before = sources.digest("one")
    (package / "unused.py").write_text("changed = True")
    assert sources.digest("one") == before
    (package / "lazier.py").write_text("changed = True")
    assert sources.digest("one") != before

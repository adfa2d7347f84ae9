"""One's own data set, model, method, metric and figure, by the README's list and by nothing else, in a study that runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from checkouts import ROOT, copy_project

TOYS = ROOT / "tests/helpers/toys"
"""The new files, by their paths in the project."""

SCHEMA = "experiments/schema.json"

PARTS: dict[str, dict[str, list[tuple[str, str]]]] = {
    "data set": {
        "src/mufree/lab/data/stripes.py": [],
        "src/mufree/lab/data/__init__.py": [
            ("import cifar10, photo_patches, prepared,", "import cifar10, photo_patches, prepared, stripes,"),
            ('    "wikitext2":', '    "stripes": stripes.build,\n    "wikitext2":'),
        ],
        "src/mufree/study/parts.py": [
            (
                "Dataset = Annotated[",
                'class Stripes(Images):\n    """Stripes."""\n\n    name: Literal["stripes"]\n    examples: Positive = 256\n'
                '    """Of each split."""\n\n\nDataset = Annotated[Stripes | ',
            )
        ],
    },
    "model": {
        "src/mufree/lab/models/shallow.py": [],
        "src/mufree/lab/models/__init__.py": [
            (
                "from mufree.lab.models.transformer",
                "from mufree.lab.models.shallow import Shallow\nfrom mufree.lab.models.transformer",
            ),
            ('"gpt": GPT', '"gpt": GPT, "shallow": Shallow'),
        ],
        "src/mufree/study/parts.py": [
            (
                "Model = Annotated[",
                'class Shallow(Network):\n    """A layer."""\n\n    kind: ClassVar[Kind] = "image"\n'
                '    name: Literal["shallow"]\n\n'
                "    def products(self, width: int) -> int:\n        return 3072 * width\n\n"
                "    def parameters(self, width: int, vocabulary: int) -> int:\n        return 3072 * width\n\n"
                "    def kept(self, width: int, vocabulary: int) -> int:\n        return 3072 + 2 * width\n\n"
                "    def held(self, width: int, vocabulary: int) -> int:\n        return 3072 + 2 * width\n\n\n"
                "Model = Annotated[Shallow | ",
            )
        ],
    },
    "method": {
        "experiments/toy.yaml": [],
        "src/mufree/study/config.py": [("OptimizerName = Literal[", 'OptimizerName = Literal["adamax", ')],
        "src/mufree/lab/train/network.py": [
            (
                '        case "sgd":',
                '        case "adamax":\n            return MuAdamW(impl=torch.optim.Adamax, **adam, **shared)\n'
                '        case "sgd":',
            )
        ],
    },
    "metric": {
        "src/mufree/analysis/metrics/progress.py": [],
        "src/mufree/analysis/tables/progress.py": [],
        "src/mufree/analysis/tables/__init__.py": [
            ("from mufree.analysis.tables import inside,", "from mufree.analysis.tables import inside, progress,"),
            ('        "loss": transfer', '        "progress": progress.table(cases),\n        "loss": transfer'),
        ],
        "src/mufree/study/statistics.py": [
            (
                "DECLARED: tuple[Statistic, ...] = (",
                "DECLARED: tuple[Statistic, ...] = (\n"
                '    Statistic("progress", "share of the loss that is learnt", "share", "best", table="progress"),',
            )
        ],
        "src/mufree/publish/contents.py": [
            ("TABLES = {", 'TABLES = {\n    "progress": "How much is learnt, in numbers.",'),
            ('("cost",)', '("cost", "progress")'),
        ],
    },
    "figure": {
        "src/mufree/publish/figures/progress.py": [],
        "src/mufree/publish/figures/__init__.py": [
            (
                "from mufree.publish.figures.schedule",
                "from mufree.publish.figures.progress import progress_vs_width\nfrom mufree.publish.figures.schedule",
            ),
            ('    "averages": (', '    "progress_vs_width": (progress_vs_width, ("progress",)),\n    "averages": ('),
        ],
        "src/mufree/publish/contents.py": [
            ("FIGURES = {", 'FIGURES = {\n    "progress_vs_width": "How much is learnt.",'),
            ('("best_of_k",)', '("best_of_k", "progress_vs_width")'),
        ],
    },
}
"""What the README's list comes to: files by path; new ones from `TOYS`, in others what stands there and what then does."""


def told() -> dict[str, set[str]]:
    """Files and folders that the README's list names for each part."""
    section = re.search(
        r"^## Your own .*?(?=^## )", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M | re.S
    )
    assert section is not None
    items = re.findall(r"^- \*\*A ([a-z ]+)\*\*(.*?)(?=^- |^\S|\Z)", section[0], flags=re.M | re.S)
    return {part: set(re.findall(r"`((?:src|rules|paper|experiments)/[^`]*)`", text)) for part, text in items}


def test_the_readme_names_every_place_and_no_other() -> None:
    assert set(told()) == set(PARTS)
    for part, named in told().items():
        places = {place for file in PARTS[part] for place in {file, f"{Path(file).parent}/"} & named}
        assert places == named, part
        assert not [file for file in PARTS[part] if not {file, f"{Path(file).parent}/"} & named], part


@pytest.mark.slow
def test_one_of_each_is_trained_measured_drawn_and_reported(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "checkout")
    for file, changes in ((file, changes) for files in PARTS.values() for file, changes in files.items()):
        path = project.path / file
        if not changes:
            shutil.copy2(TOYS / file, path)
        for before, after in changes:
            text = path.read_text(encoding="utf-8")
            assert text.count(before) == 1, f"{file}: {before}"
            path.write_text(text.replace(before, after), encoding="utf-8")
    code = "from mufree.cli import main; main(['schema'])"
    schema = subprocess.run(
        [sys.executable, "-c", code], env=project.environment, capture_output=True, text=True, check=True
    ).stdout
    assert {"Stripes", "Shallow"} <= set(json.loads(schema)["$defs"])
    project.snakemake(study="toy")

    results = project.path / "results/toy"
    rows = pd.read_parquet(results / "rows.parquet")
    assert len(rows) == 2 * 2 * 2
    assert set(rows["dataset"]) == {"stripes"}
    assert set(rows["model"]) == {"shallow"}
    assert set(rows["optimizer"]) == {"adamax", "adamw_schedulefree"}
    assert set(rows["status"]) == {"ok"}
    assert (rows["val_loss"] < rows["initial_loss"]).all()

    best = rows.loc[rows.groupby(["method", "width"])["val_loss"].idxmin()]
    by_hand = (1 - best["val_loss"] / best["initial_loss"]).to_numpy()
    for file in ("tables/progress.csv", "figures/stripes-shallow.progress_vs_width.csv"):
        found = pd.read_csv(results / file).sort_values(["method", "width"])
        np.testing.assert_allclose(found["progress"], by_hand, rtol=1e-7)
    estimates = pd.read_csv(results / "tables/estimates.csv").query("statistic == 'progress'")
    assert sorted(estimates["estimate"]) == pytest.approx(sorted(by_hand), rel=1e-7)
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "How much is learnt." in page
    assert "How much is learnt, in numbers." in page
    assert "One layer on stripes" in page

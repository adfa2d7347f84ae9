"""A tiny study that is really trained, with all that the commands make of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml
from studies import with_grid

from mufree.cli import main

HYPOTHESES = Path(__file__).parents[2] / "experiments/hypotheses.yaml"
TASK = "photo"
SWEEPS = "sweeps/{task}/{method}/w{widths}/s{seeds}"


def tiny_study() -> dict[str, Any]:
    """Four methods at three widths, three rates and three seeds, eight steps each."""
    methods = ["sp_adamw", "sp_schedulefree", "mup_adamw", "mup_schedulefree"]
    plain = with_grid(methods=methods, widths=[16, 32, 64], log2_lrs=[-11, -9, -7], seeds=[0, 1, 2])
    task = plain["tasks"][TASK]
    task["dataset"] = {"name": "photo_patches", "train_examples": 64, "valid_examples": 32, "test_examples": 32}
    task["training"] |= {"steps": 8, "evaluations": 2, "eval_examples": 16}
    task["coordinate_check"] = {"steps": 3, "seeds": [0, 1], "batch_size": 4}
    return plain | {"seeds_per_sweep": 3, "widths_per_sweep": 3}


def small_study() -> dict[str, Any]:
    """Two methods at two widths, three rates and two seeds, four steps each."""
    plain = tiny_study()
    plain["grids"][0] |= {"methods": ["mup_adamw", "mup_schedulefree"], "widths": [16, 32], "seeds": [0, 1]}
    plain["tasks"][TASK]["training"] |= {"steps": 4, "batch_size": 4}
    return plain | {"seeds_per_sweep": 2, "widths_per_sweep": 2}


def call(folder: Path, words: str) -> int:
    """A command with its files in `folder`, which `@` stands for."""
    return main([word.replace("@", str(folder)) for word in words.split()])


def finish(folder: Path, study: dict[str, Any] | None = None) -> None:
    """Make it, in a quarter of a minute, or another study in less."""
    study = study or tiny_study()
    (folder / "tiny.yaml").write_text(yaml.safe_dump(study))
    shutil.copyfile(HYPOTHESES, folder / "hypotheses.yaml")
    grid = study["grids"][0]
    widths, seeds = ("_".join(map(str, grid[axis])) for axis in ("widths", "seeds"))
    sweeps = [
        f"sweep --study @/tiny.yaml --sweep {TASK}.{method}.w{widths}.s{seeds} --data @/data --store @/runs"
        f" --out @/{SWEEPS.format(task=TASK, method=method, widths=widths, seeds=seeds)}"
        for method in grid["methods"]
    ]
    for words in (
        f"data --study @/tiny.yaml --task {TASK} --out @/data",
        *sweeps,
        f"coordcheck --study @/tiny.yaml --task {TASK} --data @/data --out @/coordcheck/{TASK}.parquet",
        f"collect --study @/tiny.yaml --sweeps @/{SWEEPS} --out @",
        f"metrics --rows @/rows.parquet --curves @/curves.parquet --coordcheck @/coordcheck/{TASK}.parquet --out @/tables",
        "verdicts --estimates @/tables/estimates.csv --hypotheses @/hypotheses.yaml --out @/verdicts.csv",
        "provenance --study @/tiny.yaml --rows @/rows.parquet --timings @/timings.parquet"
        " --manifests @/data/manifest.json --out @/provenance.json",
        "freeze --study @/tiny.yaml --hypotheses @/hypotheses.yaml --rows @/rows.parquet --timings @/timings.parquet"
        f" --store @/runs --coordcheck @/coordcheck/{TASK}.parquet --provenance @/provenance.json"
        " --out @/frozen",
        "numbers --frozen @/frozen --out @/numbers.json",
        "pack @/tiny.yaml --store @/runs --packs @/packs",
    ):
        assert call(folder, words) == 0, words

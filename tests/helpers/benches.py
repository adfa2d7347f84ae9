"""Commands on the small finished study that are disturbed, each on a bench of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import yaml
from faulty import Faulty
from finished_study import SWEEPS, TASK, call, small_study
from survival import Bench, bench

SWEEP = f"sweep --study @/two.yaml --sweep {TASK}.mup_schedulefree.w16.s0 --data @/data --store @/runs --out @/out"
COLLECTED = ("rows.parquet", "curves.parquet", "timings.parquet")

COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "sweep": (f"{SWEEP} --checkpoint-minutes 0", ("data", "two.yaml")),
    "stack": (f"{SWEEP} --checkpoint-minutes 0 --engine stack", ("data", "two.yaml")),
    "data": (f"data --study @/tiny.yaml --task {TASK} --out @/data", ("tiny.yaml", "data")),
    "collect": (f"collect --study @/tiny.yaml --sweeps @/{SWEEPS} --out @", ("tiny.yaml", "sweeps")),
    "verdicts": (
        "verdicts --estimates @/tables/estimates.csv --hypotheses @/hypotheses.yaml --out @/verdicts.csv",
        ("tables", "hypotheses.yaml", "verdicts.csv"),
    ),
    "provenance": (
        "provenance --study @/tiny.yaml --rows @/rows.parquet --timings @/timings.parquet"
        " --manifests @/data/manifest.json --out @/provenance.json",
        ("tiny.yaml", "data", *COLLECTED),
    ),
    "pack": ("pack @/tiny.yaml --store @/runs --packs @/packs", ("tiny.yaml", "runs")),
    "unpack": ("unpack @/tiny.yaml --store @/again --packs @/packs", ("tiny.yaml", "packs")),
}
"""Commands, and what is there before: of the finished study, or of `MADE`."""

STUDY = "--study @/tiny.yaml"
RUNS = "--rows @/rows.parquet --curves @/curves.parquet"
PUBLISHING: dict[str, tuple[str, tuple[str, ...]]] = {
    "coordcheck": (
        f"coordcheck {STUDY} --task {TASK} --data @/data --out @/coordcheck/{TASK}.parquet",
        ("tiny.yaml", "data"),
    ),
    "metrics": (
        f"metrics {RUNS} --coordcheck @/coordcheck/{TASK}.parquet --out @/tables",
        ("rows.parquet", "curves.parquet", "coordcheck"),
    ),
    "figure": (
        f"figure loss_vs_lr --task {TASK} {RUNS} --tables @/tables --out @/figures",
        ("rows.parquet", "curves.parquet", "tables"),
    ),
    "report": (
        f"report {STUDY} --rows @/rows.parquet --tables @/tables --figures @/built/tiny/figures"
        " --provenance @/provenance.json --verdicts @/verdicts.csv --out @",
        ("tiny.yaml", "rows.parquet", "tables", "built", "provenance.json", "verdicts.csv"),
    ),
    "freeze": (
        f"freeze {STUDY} --hypotheses @/hypotheses.yaml --rows @/rows.parquet --timings @/timings.parquet"
        f" --store @/runs --coordcheck @/coordcheck/{TASK}.parquet --provenance @/provenance.json --out @/older",
        (
            "tiny.yaml",
            "hypotheses.yaml",
            "rows.parquet",
            "timings.parquet",
            "runs",
            "coordcheck",
            "provenance.json",
            "older",
        ),
    ),
    "freeze-tables": ("freeze-tables @/older", ("older",)),
    "check-frozen": ("check-frozen @/frozen --recompute --thaw @/thawed --out @/checked.json", ("frozen",)),
    "numbers": ("numbers --frozen @/frozen --out @/numbers.json", ("frozen",)),
    "supplement": (
        "supplement --frozen @/frozen --figures @/built --out @/supplement.pdf",
        ("frozen", "built"),
    ),
    "paper": (
        f"paper --source @/paper --numbers @/numbers.json --figures @/built/tiny/figures/{TASK}.dynamics.pdf"
        " --out @/paper/paper.pdf",
        ("paper", "numbers.json", "built"),
    ),
    "answer": (
        "answer --numbers @/numbers.json --answer @/paper/answer.md @/paper/README.md",
        ("numbers.json", "paper"),
    ),
    "crate": ("crate @/frozen --published 2026-01-02 --out @/crate", ("frozen",)),
}
"""The same of what is made of finished runs: tables, figures, pages, and what is kept of a study."""

WHOLE = {
    "data": "data",
    "freeze": "older",
    "freeze-tables": "older",
    "check-frozen": "thawed/tiny/tables",
    "crate": "crate",
}
"""The folder that a command makes whole or not at all."""


TYPESET = {"report": "mufree.publish.report", "supplement": "mufree.publish.report", "paper": "mufree.publish.paper"}
"""Commands that start threads, which no fork survives: the server loads a module alone."""


class Benches(dict[str, Bench]):
    """A bench for each command, made when it is asked for."""

    def __init__(self, small: Path, server: Faulty, folder: Path) -> None:
        self.small, self.server, self.folder = small, server, folder

    def __missing__(self, name: str) -> Bench:
        words, parts = (COMMANDS | PUBLISHING)[name]
        start = self.folder / name / "start"
        start.mkdir(parents=True)
        for part in parts:
            source = self.part(part)
            if source.is_dir():
                shutil.copytree(source, start / part)
            else:
                shutil.copyfile(source, start / part)
        self[name] = bench(
            self.server, start, self.folder / name / "work", words, WHOLE.get(name), TYPESET.get(name, "")
        )
        return self[name]

    def part(self, name: str) -> Path:
        """A file or folder that commands start with."""
        if name not in MADE:
            return self.small / name
        own = self.folder / "parts" / name
        if not own.exists():
            own.parent.mkdir(exist_ok=True)
            MADE[name](self.small, own)
        return own


# --- what is made up -------------------------------------------------------------------------------------------------


def two_runs(small: Path, path: Path) -> None:
    """A study of two runs."""
    two = small_study()
    two["grids"][0] |= {"methods": ["mup_schedulefree"], "widths": [16], "log2_lrs": [-9, -8], "seeds": [0]}
    two |= {"name": "two", "seeds_per_sweep": 1, "widths_per_sweep": 1}
    path.write_text(yaml.safe_dump(two))


def older(small: Path, folder: Path) -> None:
    """What was frozen before: another manifest, one table fewer, and one that is no more."""
    shutil.copytree(small / "frozen", folder)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"]["tables/old.csv"] = manifest["files"].pop("tables/loss.csv")
    (folder / "tables/loss.csv").rename(folder / "tables/old.csv")
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))


def built(small: Path, folder: Path) -> None:
    """All figures."""
    assert call(small, f"figure --task {TASK} {RUNS} --tables @/tables --out {folder}/tiny/figures") == 0


def article(small: Path, folder: Path) -> None:
    """An article of a page, with a number and a figure; and a text that wants an answer."""
    folder.mkdir()
    (folder / "template.typ").write_text('#let title = "An article"\n')
    (folder / "references.bib").touch()
    (folder / "paper.typ").write_text(
        '#set document(date: none)\n#import "template.typ": title\n#title\n'
        '#let found = json("numbers.json")\n#found.numbers.len() numbers\n'
        f'#image("tiny/{TASK}.dynamics.pdf")\n'
    )
    (folder / "README.md").write_text("A\n<!-- answer -->\n<!-- /answer -->\n")
    (folder / "answer.md").write_text("{runs}\n")


MADE: dict[str, Callable[[Path, Path], None]] = {
    "two.yaml": two_runs,
    "older": older,
    "built": built,
    "paper": article,
}

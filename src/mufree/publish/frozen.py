"""A frozen study as the paper reads it: tables, runs, hypotheses and the verdicts on them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from mufree.publish.figures import display_names
from mufree.study.config import METHODS
from mufree.study.hypotheses import Hypotheses
from mufree.study.yaml_files import read_yaml


@dataclass(frozen=True)
class Frozen:
    """What the paper is built from: a frozen study, and the verdicts on it.

    `checked_seeds` is how many seeds the coordinate check of each task has.
    """

    manifest: Mapping[str, Any]
    study: Mapping[str, Any]
    hypotheses: Hypotheses
    provenance: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    runs: pd.DataFrame
    verdicts: pd.DataFrame
    calibration: pd.DataFrame | None
    power: pd.DataFrame | None
    checked_seeds: Mapping[str, int]

    @cached_property
    def tasks(self) -> list[str]:
        """Tasks by name."""
        return sorted(map(str, self.runs["task"].unique()))

    def description(self, task: str) -> str:
        """What a task is, in the study file's words."""
        return str(self.study["tasks"][task]["description"])

    def of_kind(self, kind: str) -> list[str]:
        """Ids of the hypotheses of a kind, such as `primary`."""
        return [h.id for h in self.hypotheses.hypotheses if h.kind == kind]

    @property
    def estimates(self) -> pd.DataFrame:
        """The table of estimates."""
        return self.tables["estimates"]

    @cached_property
    def names(self) -> dict[str, str]:
        """Each method's name of display."""
        return display_names(self.runs)

    def named(self, text: str) -> str:
        """A text in which methods are called by their names of display, and a pair is compared in words."""
        joined = text.replace(" - ", " against ").replace(" / ", " over ")
        return re.sub(r"\b(?:sp|mup)_[a-z0-9_]+", lambda found: self.names.get(found.group(), found.group()), joined)

    def primary(self, task: str) -> pd.DataFrame:
        """The runs of a task whose settings are all the task's own."""
        return self.runs[self.runs["task"].eq(task) & self.runs["variant"].fillna("").eq("")]

    def methods(self, task: str) -> list[str]:
        """The four of the study that ran, in their order, then the others."""
        return list(dict.fromkeys(self.tables["optima"].query("task == @task")["method"]))

    def widths(self, task: str) -> list[int]:
        """Widths of primary runs, ascending."""
        return sorted(int(width) for width in self.primary(task)["width"].unique())

    def base_width(self, task: str) -> int:
        """The width at which settings were tuned; there may be narrower ones."""
        return int(self.study["tasks"][task]["base_width"])

    def n_widths(self, task: str, method: str) -> int:
        """At how many widths a method was trained in primary cells."""
        runs = self.primary(task)
        return int(runs[runs["method"].eq(method)]["width"].nunique())

    def seeds(self, task: str) -> list[int]:
        """How many seeds the methods were judged by: one number, unless they differ."""
        return sorted(int(n) for n in self.tables["optima"].query("task == @task")["n_seeds"].unique())

    @property
    def least_seeds(self) -> int:
        """The fewest seeds that one of the study's four methods was judged by; controls beside them may have fewer."""
        optima = self.tables["optima"]
        of_four = optima[optima["method"].isin(list(METHODS))]
        return int((of_four if len(of_four) else optima)["n_seeds"].min())

    def records(self, table: str, **where: Any) -> list[dict[str, Any]]:
        """Rows of a table with the given values, in its order."""
        frame = self.tables[table]
        for column, wanted in where.items():
            frame = frame[frame[column].eq(wanted)]
        return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]

    def judged(self, hypothesis: str, scope: str) -> list[dict[str, Any]]:
        """Rows of the verdicts of one hypothesis and scope."""
        frame = self.verdicts[self.verdicts["id"].eq(hypothesis) & self.verdicts["scope"].eq(scope)]
        return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def read(folder: Path, manifest: Mapping[str, Any], verdicts: pd.DataFrame) -> Frozen:
    """A frozen folder that `freeze.verify` has passed."""
    calibration, power = folder / "calibration.csv", folder / "power.csv"
    return Frozen(
        manifest=manifest,
        study=read_yaml(folder / "study.yaml"),
        hypotheses=Hypotheses.model_validate(read_yaml(folder / "hypotheses.yaml")),
        provenance=json.loads((folder / "provenance.json").read_text(encoding="utf-8")),
        tables={path.stem: pd.read_csv(path) for path in sorted((folder / "tables").glob("*.csv"))},
        runs=pd.read_parquet(folder / "rows.parquet"),
        verdicts=verdicts,
        calibration=pd.read_csv(calibration) if calibration.exists() else None,
        power=pd.read_csv(power) if power.exists() else None,
        checked_seeds={
            path.stem: pd.read_parquet(path, columns=["seed"])["seed"].nunique()
            for path in sorted((folder / "coordcheck").glob("*.parquet"))
        },
    )

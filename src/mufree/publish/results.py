"""A finished study as pages read it: what was planned, what ran, its tables, and what is judged by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from mufree.analysis.tables import ALWAYS, read_tables
from mufree.analysis.tables.cases import COLUMNS_NEEDED, ordered, part, primary
from mufree.analysis.tables.cases import plain_records as records
from mufree.publish import freeze
from mufree.publish.figures import display_names
from mufree.study.config import METHODS, Study
from mufree.study.hypotheses import Hypotheses
from mufree.study.reading import RecordError, read_csv, read_frame, read_json
from mufree.study.record import PROVENANCE
from mufree.study.yaml_files import read_model

ROLES = {"train": "trained", "valid": "validated", "test": "tested"}


@dataclass(frozen=True)
class Results:
    """One study. `rows` has a row a run, `tables` are frames by name, `verdicts` is empty where nothing is judged.

    What only a frozen study has is empty or None elsewhere: `run_set` (a digest of its rows), `hypotheses`, and the
    frames `calibration` (of the intervals), `power` (of the design) and `validation_noise` (of the held-out examples).
    """

    study: Mapping[str, Any]
    rows: pd.DataFrame
    tables: Mapping[str, pd.DataFrame]
    provenance: Mapping[str, Any]
    verdicts: pd.DataFrame
    run_set: str = ""
    hypotheses: Hypotheses | None = None
    calibration: pd.DataFrame | None = None
    power: pd.DataFrame | None = None
    validation_noise: pd.DataFrame | None = None

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.study["name"])

    @cached_property
    def tasks(self) -> list[str]:
        """Tasks in the study file's order."""
        return [str(task) for task in self.study["tasks"]]

    def description(self, task: str) -> str:
        """What a task is, in the study file's words."""
        return str(self.study["tasks"][task]["description"])

    @cached_property
    def names(self) -> dict[str, str]:
        """Each method's name for readers."""
        return display_names(self.rows)

    def of(self, table: str, task: str, **where: Any) -> pd.DataFrame:
        """A table's rows of one task with the given values, methods in their order of display; empty if there are none."""
        frame = self.tables.get(table, pd.DataFrame())
        if frame.empty:
            return frame
        found: pd.DataFrame = part(frame, task=task, **where)
        if "method" not in found:
            return found
        place = {method: i for i, method in enumerate(ordered(found["method"]))}
        return found.sort_values("method", key=lambda methods: methods.map(place), kind="stable")

    def record(self, table: str, task: str, **where: Any) -> dict[str, Any]:
        """The first such row; empty if there is none."""
        return next(iter(records(self.of(table, task, **where))), {})

    def runs(self, task: str) -> pd.DataFrame:
        """All runs of a task."""
        return self.rows[self.rows["task"].eq(task)]

    def primary(self, task: str) -> pd.DataFrame:
        """The runs of a task whose settings are all the task's own."""
        return primary(self.runs(task))

    def widths(self, task: str) -> list[int]:
        """Widths of primary runs, ascending."""
        return sorted(int(width) for width in self.primary(task)["width"].unique())

    def base_width(self, task: str) -> int:
        """The width at which settings are tuned; there may be narrower ones."""
        return int(self.study["tasks"][task]["base_width"])

    def widths_words(self, task: str) -> str:
        """The widths of a task, the base width named as such."""
        base = self.base_width(task)
        return ", ".join(f"{width} (base)" if width == base else str(width) for width in self.widths(task))

    def seeds(self, task: str) -> list[int]:
        """How many seeds the methods were judged by: one number, unless they differ."""
        return sorted(int(n) for n in self.of("optima", task)["n_seeds"].unique())

    @property
    def least_seeds(self) -> int:
        """The fewest seeds that one of the study's four methods was judged by; controls beside them may have fewer."""
        optima = self.tables["optima"]
        of_four = optima[optima["method"].isin(list(METHODS))]
        return int((of_four if len(of_four) else optima)["n_seeds"].min())

    @property
    def core_hours(self) -> float:
        """What its runs took."""
        return float(self.provenance["core_hours"])

    def data_of(self, task: str) -> Mapping[str, Any]:
        """The manifest of a task's data set. Raises `RecordError` if there is none."""
        dataset = self.study["tasks"][task]["dataset"]
        for manifest in self.provenance["data"]:
            if manifest["settings"] == dataset:
                return dict(manifest)
        raise RecordError(f"provenance.json has no manifest of data set {dataset['name']} with this study's settings")

    def other_splits(self, task: str) -> str:
        """How published splits were used, where it is not as published; else nothing."""
        splits = self.data_of(task).get("published_splits", {})
        if all(role == split for role, split in splits.items()):
            return ""
        return ", ".join(f"{ROLES[role]} on the published {split} split" for role, split in splits.items())


def read(
    study: Path, rows: Path, tables: Path, provenance: Path, *, verdicts: pd.DataFrame | None, **frozen: Any
) -> Results:
    """The study whose files these are; `tables` is the folder of the CSV files. `frozen` is what a frozen study has besides."""
    return Results(
        study=read_model(study, Study).model_dump(mode="json"),
        rows=read_frame(rows, COLUMNS_NEEDED),
        tables=read_tables(tables, ALWAYS),
        provenance=read_json(provenance, PROVENANCE),
        verdicts=pd.DataFrame() if verdicts is None else verdicts,
        **frozen,
    )


def read_frozen(folder: Path, run_set: str) -> Results:
    """A frozen folder that `freeze.verify` has passed, with its manifest's run set and the verdicts by its hypotheses."""
    return read(
        folder / "study.yaml",
        folder / "rows.parquet",
        folder / "tables",
        folder / "provenance.json",
        verdicts=freeze.judged(folder),
        run_set=run_set,
        hypotheses=freeze.hypotheses(folder),
        **{
            path.stem: read_csv(path, needs)
            for name, needs in freeze.BESIDES.items()
            if (path := folder / name).exists()
        },
    )

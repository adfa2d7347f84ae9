"""What the source of a number means: rows of a table, and the runs that these are made of. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mufree.analysis.tables import read_table
from mufree.analysis.tables.cases import COLUMNS_NEEDED, PRIMARY, plain_records
from mufree.publish import freeze
from mufree.publish.words import statistic
from mufree.study import record
from mufree.study.config import METHODS
from mufree.study.reading import RecordError, UserError, read_frame, read_json

OF_RUNS = (*COLUMNS_NEEDED, "dataset", "data_digest", "code_digest", "device", "numerics")
BEYOND = ("arms", "anytime", "horizon", "weight_decay", "weight_decay_optimum", "provenance", "timings")
"""Tables whose rows are of more runs than the primary ones."""
NAMES = ("method", "subject", "numerator", "denominator", "rival", "constant", "scheduled", "optimizer")
"""Columns that name methods."""
OTHERS = {"interaction": METHODS, "best other": METHODS, "best single factor": ("sp_schedulefree", "mup_adamw")}
"""Of which methods a subject is beside those that it names."""
NO_RUNS = {
    "src/mufree/study/limits.py": "the code says so",
    "hypotheses.yaml": "written down before there were any",
    "calibration.csv": "of simulated studies (mufree calibrate)",
    "validation_noise.csv": "of networks trained anew for it (benchmarks/validation_noise.py)",
    "tables/coordcheck_verdict.csv": "of coordinate checks, which are in coordcheck/",
}
"""Files whose numbers are of no run."""


class Source(NamedTuple):
    """Which cells a number is made of, read from its words: `FILE: COLUMN, KEY=VALUE, …; NOTE`."""

    file: str
    column: str
    where: Mapping[str, str]
    note: str

    @classmethod
    def read(cls, words: str) -> Source:
        """The parts of the words; values may have commas."""
        file, _, rest = words.partition(": ")
        cells, _, note = rest.partition("; ")
        parts = re.split(r", (?=\w+=)", cells)
        column = "" if "=" in parts[0] else parts.pop(0)
        return cls(file, column, {key: value for key, _, value in (part.partition("=") for part in parts)}, note)


@dataclass(frozen=True)
class Place:
    """A frozen folder, or the results of a study, which have no manifest; `files` are its tables, `read` those read already."""

    folder: Path
    rows: pd.DataFrame
    provenance: Mapping[str, Any]
    files: Sequence[str]
    read: dict[str, pd.DataFrame]

    @property
    def frozen(self) -> bool:
        """Whether it has a manifest."""
        return (self.folder / freeze.MANIFEST).exists()

    def table(self, file: str) -> pd.DataFrame:
        """One of its tables; the verdicts are made anew."""
        if file not in self.read:
            judged = freeze.judged(self.folder) if file == "verdicts.csv" else None
            self.read[file] = read_table(self.folder / file) if judged is None else judged
        return self.read[file]

    def matching(self, source: Source) -> pd.DataFrame:
        """The rows that a source means. Raises `UserError` for columns that the table lacks."""
        table = self.table(source.file)
        for name in filter(None, [*source.where, source.column]):
            if name not in table:
                raise UserError(f"{source.file} has no column '{name}'. It has: {', '.join(map(str, table))}", 2)
        for name, value in source.where.items():
            table = table[table[name].isin([cell for cell in table[name].unique() if text(cell) == value])]
        return table


class Found(NamedTuple):
    """Rows that a source means, where they are, and the runs that they are made of."""

    here: Place
    source: Source
    rows: pd.DataFrame
    runs: pd.DataFrame


def place(folder: Path) -> Place:
    """A frozen folder, or one of results. Raises `RecordError` where a file of a manifest isn't there."""
    if (folder / freeze.MANIFEST).exists():
        signed = freeze.manifest_of(folder)["files"]
        if lost := freeze.lost(folder, signed):
            raise RecordError(f"{folder}: missing: {', '.join(lost)}. {freeze.CURE}", freeze.exit_code(lost))
    rows = read_frame(folder / "rows.parquet", OF_RUNS)
    provenance = read_json(folder / "provenance.json", record.PROVENANCE)
    read = {"rows.parquet": rows, "provenance.json": pd.DataFrame([provenance])}
    judged = ["verdicts.csv"] if (folder / freeze.HYPOTHESES).exists() else []
    files = dict.fromkeys(
        [*read, *judged, *sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.csv"))]
    )
    return Place(folder, rows, provenance, [*files], read)


def find(words: str, places: Sequence[Place]) -> Iterator[Found]:
    """What the words of a source mean: of each of its parts, rows in the first place that has any.

    Nothing of a file that is no table. Raises `UserError` where there is no such table, or row.
    """
    for source in map(Source.read, re.split("; (?:less|and) ", words)):
        having = [each for each in places if source.file in each.files]
        if not having and source.file not in NO_RUNS:
            there = dict.fromkeys(file for each in places for file in each.files)
            raise UserError(f"there is no table '{source.file}'. There are: {', '.join(there)}", 2)
        for here in having:
            if len(rows := here.matching(source)):
                yield Found(here, source, rows, behind(here, source.file, rows))
                break
        else:
            if having and source.file == "rows.parquet" and not source.column:  # a count, of none
                none = having[0].matching(source)
                yield Found(having[0], source, none, none)
            elif having:
                raise UserError(f"no row of {listed(each.folder for each in having)} is '{words}'", 2)


def behind(here: Place, file: str, rows: pd.DataFrame) -> pd.DataFrame:
    """The runs that rows of a table are made of; those of a verdict are those of its conditions."""
    if file == "rows.parquet":
        return rows
    if file in NO_RUNS:
        return here.rows.iloc[:0]
    if file == "verdicts.csv":
        judged = here.table(file)
        tasks = judged["task"].isin(rows["task"]) | bool(rows["scope"].eq("overall").any())
        rows = judged[judged["scope"].eq("condition") & judged["id"].isin(rows["id"]) & tasks]
    named = [name for name in ("task", "tasks", "statistic", *NAMES) if name in rows]
    each = plain_records(rows[named].drop_duplicates()) if named else [{}]
    return here.rows[pd.concat([_of(here.rows, Path(file).stem, row) for row in each], axis=1).any(axis=1)]


def listed(values: Iterable[Any]) -> str:
    """The values, each once, in order."""
    return ", ".join(map(str, sorted(set(values))))


def text(cell: object) -> str:
    """A cell as the words of a source have it."""
    return f"{cell:.15g}" if isinstance(cell, float) else str(cell)


def _of(runs: pd.DataFrame, table: str, row: Mapping[str, Any]) -> pd.Series:
    """Which runs are of the tasks and methods that a row names, at all widths and rates; of all, where it names none."""
    of = pd.Series(True, runs.index)
    if tasks := set(str(row.get("tasks", row.get("task", ""))).split()) & set(runs["task"].unique()):
        of &= runs["task"].isin(tasks)
    words = " ".join(str(row[name]) for name in NAMES if name in row)
    named = set(re.findall(r"\w+", words)) & set(runs["method"].unique())
    named |= {method for subject, methods in OTHERS.items() if subject in words for method in methods}
    what = statistic(row["statistic"]) if table in ("estimates", "pooled", "verdicts") else None
    if what and what.name.startswith("embedding_gap"):
        # between SP and µP, under the optimizer of the method that closes it
        optimizers = set(runs[runs["method"].isin(named)]["optimizer"].unique())
        named |= {method for method, made in METHODS.items() if made.optimizer in optimizers}
    if named:
        of &= runs["method"].isin(named)
    contrast = bool(what and not what.table and what.question in ("schedule", "weight_decay"))
    beyond = contrast or (what.table if what else table) in BEYOND
    return of if beyond else of & runs["variant"].eq(PRIMARY)

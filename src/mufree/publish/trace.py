"""From a number of the paper back to its row, its runs, and the code, data and machine that these come from. No torch.

What stands in a folder has to be what its manifest, its runs and its tables say: a line that says otherwise is `wrong`. Code,
packages, machine and prepared data of this tree may well be others than those of the runs, which outlive them; that is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mufree.analysis.tables import COLUMNS, read_table
from mufree.analysis.tables.cases import COLUMNS_NEEDED, PRIMARY
from mufree.publish import freeze, numbers
from mufree.publish.results import read_frozen
from mufree.publish.words import statistic
from mufree.study import packs, record, sources
from mufree.study.config import Study
from mufree.study.hypotheses import Hypotheses
from mufree.study.plan import NUMERICS, canonical_json, dataset_id, expand
from mufree.study.reading import RecordError, UserError, read_csv, read_frame, read_json
from mufree.study.yaml_files import read_model

OF_RUNS = (*COLUMNS_NEEDED, "dataset", "data_digest", "code_digest", "device", "numerics")
NUMBERS = {"numbers": {...: {"text": str, "digits": str, "interval": str, "source": str}}}
BEYOND = frozenset({"", "arms", "anytime", "horizon", "weight_decay", "weight_decay_optimum"})
"""Tables whose rows are of more runs than the primary ones; contrasts are of no table."""
METHODS_IN = ("method", "subject", "numerator", "denominator", "rival", "constant", "scheduled")
"""Columns that name methods."""
FIRST = 3
"""Of so many runs the ids are shown."""


class Line(NamedTuple):
    """One link of the chain: what it is about, what is said of it, and whether that ought to be otherwise."""

    what: str
    said: str
    wrong: bool = False


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
    """A frozen folder, or the results of a study, which have no manifest."""

    folder: Path
    rows: pd.DataFrame
    provenance: Mapping[str, Any]

    @property
    def frozen(self) -> bool:
        """Whether it has a manifest."""
        return (self.folder / freeze.MANIFEST).exists()

    def table(self, file: str) -> pd.DataFrame | None:
        """The table that a source names; None for what is no table."""
        name = file.removeprefix("tables/").removesuffix(".csv")
        if file == "rows.parquet":
            return self.rows
        if file == "verdicts.csv":
            return _judged(self.folder)
        if name in COLUMNS:
            return read_table(self.folder / file) if (self.folder / file).exists() else None
        return read_csv(self.folder / file, ()) if file in ("calibration.csv", "validation_noise.csv") else None

    def matching(self, source: Source) -> pd.DataFrame | None:
        """The rows that a source means; None where it names no table. Raises `UserError` for columns that the table lacks."""
        table = self.table(source.file)
        if table is None:
            return None
        named = [*source.where, *([source.column] if source.column else [])]
        if unknown := [name for name in named if name not in table]:
            raise UserError(f"{source.file} has no column '{unknown[0]}'. It has: {', '.join(map(str, table))}", 2)
        for name, value in source.where.items():
            table = table[table[name].map(_text).eq(value)]
        return table


def place(folder: Path) -> Place:
    """A frozen folder, or one of results."""
    rows = read_frame(folder / "rows.parquet", OF_RUNS)
    return Place(folder, rows, read_json(folder / "provenance.json", record.PROVENANCE))


def trace(name: str, places: Sequence[Place], numbers_file: Path, *, every_run: bool = False) -> Iterator[Line]:
    """The chain of a number by its key, of rows by the words of a source, or of a run by its id."""
    if found := [
        (each, each.rows[each.rows["run_id"].eq(name)]) for each in places if name in set(each.rows["run_id"])
    ]:
        yield from _runs(*found[0], every_run)
        return
    source, entry = Source.read(name), None
    if ": " not in name:
        entries = read_json(numbers_file, NUMBERS)["numbers"]
        if name not in entries:
            near = [key for key in entries if name in key][:5]
            raise UserError(
                f"'{name}' is no key of {numbers_file} and no run of {', '.join(str(each.folder) for each in places)}"
                + (f". Did you mean {', '.join(near)}?" if near else ""),
                2,
            )
        entry = entries[name]
        source = Source.read(entry["source"])
        yield Line("number", f"{name} is {entry['text']} {entry['interval']}, from {entry['source']}")
        yield from _made_anew(name, entry, places)
    own = [each for each in places if name.startswith(f"{each.provenance.get('study')}/")] or places
    for each in own:
        rows = each.matching(source)
        if rows is not None and len(rows):
            yield from _rows(each, source, rows, entry)
            yield from _runs(each, _behind(each, source, rows), every_run)
            return
    yield Line("row", f"not here: '{source.file}' names no rows of a table in {own[0].folder}", wrong=entry is None)


def about(here: Place, prepared: Path, *, recompute: bool = False) -> Iterator[Line]:
    """What a folder is, against its manifest, this tree's code, packages and machine, and the data in `prepared`."""
    yield from _files(here)
    if recompute:
        yield _tables_anew(here.folder)
    made, now = here.provenance, record.environment()
    yield from (_compared("code", sources.digest("train"), each) for each in sorted(set(here.rows["code_digest"])))
    yield from (_compared("numerics", NUMERICS, each) for each in sorted(set(here.rows["numerics"])))
    yield from _data(here, prepared)
    then = made["environment"]
    versions = {"python": then["python"], **then["packages"]}
    found = {"python": now["python"], **now["packages"]}
    if same := [f"{name} {version}" for name, version in versions.items() if found.get(name) == version]:
        yield Line("packages", f"{', '.join(same)}: same")
    yield from (
        _compared(name, found.get(name), version) for name, version in versions.items() if found.get(name) != version
    )
    yield _compared("system", now["system"], then["system"])
    yield from (_compared("cpu", now["cpu"], each) for each in sorted(set(made["cpus_of_runs"])))
    yield Line("device", _one(here.rows["device"]))


# --- inside ----------------------------------------------------------------------------------------------------------


def _compared(what: str, here: Any, there: Any, said: str = "", wrong: bool = False) -> Line:
    """Whether something here is what was there; `wrong`, if it isn't and had to be."""
    if here is None or there is None:
        return Line(what, f"{said or there or here}: not here", wrong)
    same = str(here) == str(there)
    return Line(
        what, f"{said or there}: " + ("same" if same else f"differs: {here} here, {there} there"), wrong and not same
    )


def _one(values: Iterable[Any]) -> str:
    return ", ".join(sorted({str(value) for value in values}))


def _sorted(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(values))))


def _text(cell: object) -> str:
    return f"{cell:.15g}" if isinstance(cell, float) else str(cell)


def _judged(folder: Path) -> pd.DataFrame:
    """The verdicts on a frozen study, as they come back from their file."""
    from mufree.analysis.verdicts import judge

    estimates = read_csv(folder / "tables/estimates.csv", COLUMNS["estimates"])
    return freeze.as_read(judge(estimates, read_model(folder / "hypotheses.yaml", Hypotheses)))


def _made_anew(name: str, entry: Mapping[str, Any], places: Sequence[Place]) -> Iterator[Line]:
    """Whether the tables give the number; all of it, its text and its interval too."""
    studies = [
        read_frozen(each.folder, read_json(each.folder / freeze.MANIFEST, freeze.SIGNED, freeze.CURE))
        for each in places
    ]
    main, *later = studies
    again = numbers.collect([replace(main, verdicts=_judged(places[0].folder)), *later])
    if name not in again:
        yield Line(
            "number", "not here: these folders don't give it; name all studies of the paper, in order", wrong=True
        )
        return
    for field, value in again[name].items():
        yield _compared("number", entry.get(field), value, f"its {field} by the tables", wrong=True)


def _rows(here: Place, source: Source, rows: pd.DataFrame, entry: Mapping[str, Any] | None) -> Iterator[Line]:
    """Which rows of its table a source means, and the cell if it is one."""
    at = f"{here.folder}/{source.file}"
    of = ", ".join(f"{key}={value}" for key, value in source.where.items()) or "all of it"
    if len(rows) > 1 or not source.column:
        yield Line(
            "rows", f"{len(rows)} of {at}: {of}" + (f"; {source.column}" * bool(source.column)) + f" {source.note}"
        )
        return
    cell = rows[source.column].iloc[0]
    yield Line("row", f"{rows.index[0] + 1} of {at}: {of}; {source.column} is {_text(cell)}")
    if entry is not None and entry.get("value") is not None and not source.note:
        yield _compared("cell", entry["value"], float(cell), source.column, wrong=True)


def _behind(here: Place, source: Source, rows: pd.DataFrame) -> pd.DataFrame:
    """The runs of the tasks and methods that rows of a table name, at all widths and rates; of all, where none is named."""
    if source.file == "rows.parquet":
        return rows
    runs, known = here.rows, set(here.rows["method"])
    if "task" in rows and set(rows["task"]) & set(runs["task"]):
        runs = runs[runs["task"].isin(set(rows["task"]))]
    cells = [str(cell) for name in METHODS_IN if name in rows for cell in rows[name]]
    if not any("best" in cell for cell in cells) and (named := set(re.findall(r"\w+", " ".join(cells))) & known):
        runs = runs[runs["method"].isin(named)]
    tables = {source.file.removeprefix("tables/").removesuffix(".csv")}
    if "statistic" in rows and tables & {"estimates", "pooled", "verdicts"}:
        tables = {statistic(name).table if isinstance(name, str) else "" for name in rows["statistic"]}
    return runs if tables & BEYOND else runs[runs["variant"].eq(PRIMARY)]


def _runs(here: Place, runs: pd.DataFrame, every_run: bool) -> Iterator[Line]:
    """How many runs, their ids, whether they are in the packs and in the plan, and the settings of the first."""
    ids = list(runs["run_id"])
    if not ids:
        yield Line("runs", f"not here: {here.folder} has no run of these tasks and methods", wrong=True)
        return
    tasks, methods = _one(runs["task"]), _one(runs["method"])
    yield Line(
        "runs", f"{len(ids)} of {tasks}; {methods}; widths {_sorted(runs['width'])}; seeds {_sorted(runs['seed'])}"
    )
    shown = ids if every_run else ids[:FIRST]
    yield from (Line("run", name) for name in shown)
    if len(ids) > len(shown):
        yield Line("run", f"… and {len(ids) - len(shown)} more, with --runs")
    if not here.frozen:
        yield Line("spec", f"not here: {here.folder} is not frozen, and has neither packs nor the study file")
        return
    planned = {run.id: run for run in expand(read_model(here.folder / "study.yaml", Study))}
    for what, there in (("packs", packs.packed_ids(here.folder / "runs")), ("plan", planned.keys())):
        missing = [name for name in ids if name not in there]
        said = f"not here: {', '.join(missing[:FIRST])}" if missing else "all of them: same"
        yield Line(what, said, wrong=bool(missing))
    if ids[0] in planned:
        yield Line("spec", canonical_json(planned[ids[0]]))


def _files(here: Place) -> Iterator[Line]:
    if not here.frozen:
        yield Line("manifest", f"not here: {here.folder} is not frozen")
        return
    manifest = read_json(here.folder / freeze.MANIFEST, freeze.SIGNED, freeze.CURE)
    problems = freeze.misfits(here.folder, manifest)
    yield from (Line("file", f"differs: {here.folder}: {problem}", wrong=True) for problem in problems)
    if not problems:
        yield Line("files", f"{len(manifest['files'])} of {here.folder} by {freeze.MANIFEST}: same")


def _tables_anew(folder: Path) -> Line:
    try:
        made = freeze.recompute(folder)
    except RecordError as error:
        return Line("tables", f"differs: {folder}: {error}", wrong=True)
    return Line("tables", f"{len(made)} of {folder} made anew from the runs: same")


def _data(here: Place, prepared: Path) -> Iterator[Line]:
    """By data set, the digest that runs were trained on, against provenance.json and against what is prepared here."""
    for name, runs in here.rows.groupby("dataset"):
        known = {each["digest"]: each for each in here.provenance["data"] if each["settings"]["name"] == name}
        for digest in sorted(set(runs["data_digest"])):
            yield _compared(f"data {name}", digest, digest if digest in known else _one(known), wrong=True)
    if not here.frozen:
        return
    study = read_model(here.folder / "study.yaml", Study)
    for _, runs in here.rows.groupby("dataset"):
        for dataset in sorted({dataset_id(study.tasks[task].dataset) for task in set(runs["task"])}):
            path = prepared / dataset / "manifest.json"
            now = read_json(path, record.DATA_MANIFEST)["digest"] if path.exists() else None
            yield from (_compared("prepared", now, each, str(path)) for each in sorted(set(runs["data_digest"])))

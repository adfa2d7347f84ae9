"""From a number of the paper back to its row, its runs, and the code, data and machine that these come from. No torch.

What stands in a folder has to be what its manifest, its runs and its tables say: a line that says otherwise is `wrong`. Code,
packages, machine and prepared data of this tree may well be others than those of the runs, which outlive them; that is told.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mufree.publish import freeze, numbers
from mufree.publish.cells import NO_RUNS, Found, Place, Source, find, listed, text
from mufree.publish.results import read_frozen
from mufree.study import packs, record, sources
from mufree.study.config import Study
from mufree.study.plan import NUMERICS, canonical_json, dataset_id, expand
from mufree.study.reading import RecordError, UserError, read_json
from mufree.study.yaml_files import read_model

NUMBERS = {
    "numbers": {...: {"text": str, "digits": str, "interval": str, "source": str}},
}
FIRST = 3
"""Of so many runs the ids are shown."""


class Line(NamedTuple):
    """One link of the chain: what it is about, what is said, whether that ought to be otherwise, or is as it was there.

    `folder` is where the runs are that it leads to.
    """

    what: str
    said: str
    wrong: bool = False
    same: bool = False
    folder: Path | None = None


def trace(name: str, places: Sequence[Place], numbers_file: Path, *, every_run: bool = False) -> Iterator[Line]:
    """The chain of a number by its key, of rows by the words of a source, or of a run by its id."""
    for each in places:
        if len(run := each.rows[each.rows["run_id"].eq(name)]):
            yield from _runs(each, run, every_run)
            return
    words, entry, own = name, None, places
    if ": " not in name and not name.endswith((".csv", ".parquet")):
        entry = _entry(name, places, numbers_file, read_json(numbers_file, NUMBERS)["numbers"])
        words = entry["source"]
        own = [each for each in places if name.startswith(f"{each.provenance.get('study')}/")] or places
        yield Line("number", f"{_spaced(name, 'is', entry['text'], entry['interval'])}, from {words}")
        yield from _made_anew(name, entry, places)
    try:
        for found in find(words, own):
            yield from _rows(found, entry)
            if found.source.file not in NO_RUNS:
                yield from _runs(found.here, found.runs, every_run)
    except UserError as error:
        if entry is None:
            raise
        yield Line("row", f"not here: {error}", wrong=True)
    if why := NO_RUNS.get(Source.read(words).file):
        yield Line("runs", f"none: {why}")


def about(here: Place, prepared: Path, *, recompute: bool = False) -> Iterator[Line]:
    """What a folder is, against its manifest, this tree's code, packages and machine, and the data in `prepared`."""
    yield from _files(here, recompute)
    yield _compared("code", sources.digest("train"), here.rows["code_digest"])
    yield _compared("numerics", NUMERICS, here.rows["numerics"])
    yield from _data(here, prepared)
    then, now = here.provenance["environment"], record.environment()
    found = {"python": now["python"], **now["packages"]}
    for name, version in {"python": then["python"], **then["packages"]}.items():
        yield _compared("packages", found.get(name), [version], f"{name} {version}")
    yield _compared("system", now["system"], [then["system"]])
    yield _compared("cpu", now["cpu"], here.provenance["cpus_of_runs"])


def told(lines: Iterable[Line], whose: str = "", *, full: bool = False) -> Iterator[Line]:
    """The lines, with the name of `whose` they are. Unless `full`, one names all that is the same, in place of its lines."""
    same, others = [], set()
    for line in lines:
        if line.same and not full:
            same.append(line.what)
        else:
            others.add(line.what)
            yield line._replace(said=f"{whose}{line.said}")
    if same:
        names = (f"other {what}" if what == "packages" and what in others else what for what in dict.fromkeys(same))
        yield Line("same", f"{whose}{', '.join(names)}")


# --- inside ----------------------------------------------------------------------------------------------------------


def _compared(what: str, here: Any, there: Iterable[Any], said: str = "", wrong: bool = False) -> Line:
    """Whether something here is what was there; `wrong`, if it isn't and had to be."""
    then = listed(there)
    if here is None:
        return Line(what, f"{said or then}: not here", wrong)
    if str(here) == then:
        return Line(what, f"{said or then}: same", same=True)
    return Line(what, _spaced(f"{said}:" * bool(said), f"differs: {here} here, {then} there"), wrong)


def _spaced(*words: str) -> str:
    return " ".join(filter(None, words))


def _entry(
    name: str, places: Sequence[Place], numbers_file: Path, entries: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """What numbers.json has of a key."""
    if name in entries:
        return entries[name]
    near = [key for key in entries if name in key][:5] or difflib.get_close_matches(name, entries)
    raise UserError(
        f"'{name}' is no key of {numbers_file} and no run of {', '.join(str(each.folder) for each in places)}"
        + (f". Did you mean {', '.join(near)}?" if near else ""),
        2,
    )


def _made_anew(name: str, entry: Mapping[str, Any], places: Sequence[Place]) -> Iterator[Line]:
    """Whether the tables give the number; all of it, its text and its interval too."""
    studies = [read_frozen(each.folder, freeze.manifest_of(each.folder)["run_set"]) for each in places]
    for each, study in zip(places, studies, strict=True):
        if study.hypotheses is not None:
            each.read["verdicts.csv"] = study.verdicts  # judging takes a second or two
    again = numbers.collect(studies)
    if name not in again:
        said = "not here: these folders don't give it; name all studies of the paper, in order"
        yield Line("number", said, wrong=True)
        return
    for part, value in again[name].items():
        yield _compared("number", str(entry.get(part)), [value], f"its {part} by the tables", wrong=True)


def _rows(found: Found, entry: Mapping[str, Any] | None) -> Iterator[Line]:
    """Which rows of its table a source means, and the cell if it is one."""
    here, source, rows, _ = found
    of = ", ".join(f"{key}={value}" for key, value in source.where.items()) or "all of it"
    at = f"of {here.folder}/{source.file}: {of}"
    if len(rows) > 1 or not source.column:
        yield Line("rows", "; ".join(filter(None, [f"{len(rows)} {at}", source.column, source.note])))
        return
    cell = rows[source.column].iloc[0]
    # As an editor counts: the first line of a CSV is its head.
    number = f"line {rows.index[0] + 2}" if source.file.endswith(".csv") else f"row {rows.index[0] + 1}"
    yield Line("row", f"{number} {at}; {_spaced(source.note and f'{source.note};', source.column)} is {text(cell)}")
    if entry is not None and entry.get("value") is not None and not source.note:
        yield _compared("cell", entry["value"], [float(cell)], source.column, wrong=True)


def _runs(here: Place, runs: pd.DataFrame, every_run: bool) -> Iterator[Line]:
    """How many runs, their ids, whether they are in the packs and in the plan, and the settings of a single one."""
    ids = list(runs["run_id"])
    if not ids:
        yield Line("runs", f"none: {here.folder} has no run of these tasks and methods")
        return
    of = [
        listed(runs["task"]),
        listed(runs["method"]),
        f"widths {listed(runs['width'])}",
        f"seeds {listed(runs['seed'])}",
    ]
    yield Line("runs", f"{len(ids)} of {'; '.join(of)}; on {listed(runs['device'])}", folder=here.folder)
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
        yield Line(what, said, wrong=bool(missing), same=not missing)
    if ids[0] in planned and (every_run or len(ids) == 1):
        yield Line("spec", canonical_json(planned[ids[0]]))


def _files(here: Place, recompute: bool) -> Iterator[Line]:
    """Whether the files are those of the manifest, and the tables those of the runs, if they are made anew."""
    if not here.frozen:
        yield Line("manifest", "not here: it is not frozen")
        return
    manifest = freeze.manifest_of(here.folder)
    problems = freeze.misfits(here.folder, manifest)
    yield from (Line("file", problem, wrong=True) for problem in problems)
    if not problems:
        yield Line("files", f"{len(manifest['files'])} by {freeze.MANIFEST}: same", same=True)
    if recompute:
        try:
            yield Line("tables", f"{len(freeze.recompute(here.folder))} made anew from the runs: same", same=True)
        except RecordError as error:
            yield Line("tables", f"differs: {error}", wrong=True)


def _data(here: Place, prepared: Path) -> Iterator[Line]:
    """By data set, the digest that runs were trained on, against provenance.json and against what is prepared here."""
    study = read_model(here.folder / "study.yaml", Study) if here.frozen else None
    for name, runs in here.rows.groupby("dataset"):
        known = {each["digest"] for each in here.provenance["data"] if each["settings"]["name"] == name}
        for digest in sorted(set(runs["data_digest"])):
            yield _compared(f"data {name}", digest, known & {digest} or known, wrong=True)
        paths = {prepared / dataset_id(study.tasks[task].dataset) for task in set(runs["task"])} if study else set()
        for path in sorted(path / "manifest.json" for path in paths):
            now = read_json(path, record.DATA_MANIFEST)["digest"] if path.exists() else None
            yield _compared("prepared", now, runs["data_digest"], str(path))

"""From a finished study to the few megabytes that the paper is built from, with a manifest of digests; and back.

`freeze` copies, rounds and signs; `make_tables` makes every table from the frozen runs, and `recompute` makes them again and
compares; `verify` says whether a frozen folder is what its manifest says; `thaw` gives what figures and people read. No torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mufree.study import files, packs, record
from mufree.study.files import replacing, sha256
from mufree.study.hypotheses import Hypotheses
from mufree.study.reading import RecordError, read_csv, read_frame, read_json
from mufree.study.yaml_files import read_model, read_yaml

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from mufree.study.config import Study
    from mufree.study.plan import Run

MANIFEST = "MANIFEST.json"
HYPOTHESES = "hypotheses.yaml"
"""What a study is judged by: the folder of one that isn't judged has none."""

BESIDES = {
    "calibration.csv": ("scenario", "n_seeds", "statistic", "coverage"),
    "power.csv": ("task", "method", "n_seeds", "planned"),
    "validation_noise.csv": ("task", "se"),
}
"""Tables that a frozen folder may have of what isn't computed from its runs, and the columns that are read of them."""

UNSIGNED = (MANIFEST, "ro-crate-metadata.json")
"""What describes a folder, and isn't part of what is signed."""

MAX_BYTES = 20_000_000
"""A frozen folder is kept in the repository, so it has to be small."""

NOT_KEPT = "coordcheck"
"""The table that is large and quickly made from what else is kept."""

ROUNDING = (
    f"Curves are in runs/, with every point: {', '.join(packs.WHOLE)} are whole, values of all other series have {packs.BITS} "
    f"significant bits. The tables are made of these. Of them, {NOT_KEPT} is left out: the raw checks give it."
)

CURE = (
    "Restore it from version control, or freeze the study again with `snakemake freeze` and its name, --cores all "
    "--config study=NAME"
)
SIGNED = {"study": str, "run_set": str, "runs": int, "numerics": list, "files": {...: {"sha256": str, "bytes": int}}}
"""What a manifest has at least."""


def freeze(
    out: Path,
    *,
    study: str,
    copies: Mapping[str, Path | None],
    rows: pa.Table,
    timings: pa.Table,
    store: Path,
    runs: Iterable[Run],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the frozen folder `out`, but for its tables, in place of what stands there, and return its manifest.

    `runs` are the study's, which `store` has. `copies` are files that are copied as they are, if there are any, by their names
    in the folder. Either the whole folder is replaced or nothing is. The same input gives the same bytes. Raises `RecordError`,
    naming the largest files, above `MAX_BYTES`, and where `store` lacks a run or has a damaged one.
    """
    import pyarrow.parquet as pq

    with replacing(out) as folder:
        _copy(copies, folder)
        pq.write_table(rows, folder / "rows.parquet", compression="zstd")
        _, packed = packs.pack(store, runs, folder / "runs", rounding=True)
        if packed != rows.num_rows:
            raise RecordError(
                f"{store} has {packed} of the {rows.num_rows} runs; run the workflow again to complete it"
            )
        (folder / "timings.csv").write_text(_summed(rows, timings).to_csv(index=False, float_format="%.6g"))
        files.write_json(folder / "provenance.json", provenance)
        manifest = _manifest(folder, study, provenance, rows)
        files.write_json(folder / MANIFEST, manifest)
    return manifest


def may_replace(out: Path, mark: str = MANIFEST, study: str | None = None, judged: bool = True) -> None:
    """Raise `RecordError` unless `out` isn't there, is an empty folder, or has the file `mark`, by which it is one of ours.

    Also where it is frozen and of another `study`, or has hypotheses and what takes its place isn't `judged`.
    """
    if out.exists() and not (out.is_dir() and ((out / mark).is_file() or not any(out.iterdir()))):
        raise RecordError(f"{out} is there and has no {mark}, so it isn't replaced. Remove it, or choose another --out")
    if study is not None and (out / MANIFEST).is_file():
        there = read_json(out / MANIFEST, {"study": str}, CURE)["study"]
        if there != study:
            raise RecordError(
                f"{out} has study {there}, so {study} doesn't take its place. Name the study (--config study={there}), "
                "remove the folder, or choose another --out"
            )
    if not judged and (out / HYPOTHESES).exists():
        raise RecordError(f"{out} is judged by its {HYPOTHESES}; give --hypotheses, or remove the folder")


def besides(out: Path, given: Mapping[str, Path]) -> dict[str, Path]:
    """The `BESIDES` of a study by their names, as they are given, or else as they were frozen in `out` before.

    Raises `RecordError` for one that can't be read, or lacks a column.
    """
    found = {name: path for name in BESIDES if (path := out / name).exists()} | dict(given)
    for name, path in found.items():
        read_csv(path, BESIDES[name])
    return found


def check_checks(study: Study, paths: Iterable[Path]) -> None:
    """Raise `RecordError` where a raw coordinate check can't be read, or is of a task that the study lacks."""
    from mufree.analysis.coordcheck import RAW

    for path in paths:
        if odd := set(read_frame(path, RAW)["task"]) - set(study.tasks):
            raise RecordError(f"{path} is of {', '.join(sorted(odd))}, and {study.name} has {', '.join(study.tasks)}")


def make_tables(folder: Path, copies: Mapping[str, Path | None] | None = None) -> dict[str, Any]:
    """Make every table of a frozen folder from its runs, in place of those that it has, and return the new manifest.

    That is enough where the metrics were changed. `copies` are files that replace others as well, as in `freeze`. Raises
    `RecordError` above `MAX_BYTES`.
    """
    from mufree.analysis.tables import to_csv

    with replacing(folder) as new:
        _copy({name: path for name, path in _files(folder).items() if not name.startswith("tables/")}, new)
        _copy(copies or {}, new)
        for name, table in _tables(new).items():
            files.write_text(new / f"tables/{name}.csv", to_csv(table))
        manifest = {**manifest_of(folder), "rounding": ROUNDING, "files": _signed(new)}
        files.write_json(new / MANIFEST, manifest)
    return manifest


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a frozen folder in which every file is there, and is what the manifest says.

    Raises `RecordError`, naming the file, where one is missing, changed or unknown.
    """
    manifest = manifest_of(folder)
    if problems := misfits(folder, manifest):
        said = f"{folder} is not what was frozen:\n  " + "\n  ".join(problems) + f"\n{CURE}."
        raise RecordError(said, exit_code(lost(folder, manifest["files"])))
    return manifest


def lost(folder: Path, signed: Iterable[str]) -> list[str]:
    """What isn't there of the files that a manifest names."""
    return [name for name in signed if not (folder / name).exists()]


def exit_code(missing: Sequence[str]) -> int | None:
    """That of a command which misses these files: where YAML can't be read, every command ends with 2."""
    return 2 if missing and missing[0].endswith(".yaml") else None


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest of a frozen folder. Raises `RecordError` where there is none that can be read."""
    return read_json(folder / MANIFEST, SIGNED, CURE)


def misfits(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What is missing, unknown or changed in a folder by its manifest, each in words that name the file."""
    files: dict[str, dict[str, Any]] = manifest["files"]
    found = _files(folder)
    return [
        *(f"missing: {name}" for name in sorted(set(files) - set(found))),
        *(f"not in the manifest: {name}" for name in sorted(set(found) - set(files))),
        *(f"changed: {name}" for name in files if name in found and sha256(found[name]) != files[name]["sha256"]),
    ]


def recompute(folder: Path) -> dict[str, int]:
    """Make every table anew from the frozen runs, and compare; return how many rows each has.

    Raises `RecordError`, naming the table, the row and the column, where numbers differ.
    """
    from mufree.analysis.tables import read_table

    compared = {}
    for name, table in _tables(folder).items():
        frozen = read_table(folder / f"tables/{name}.csv")
        _same(name, as_read(table), frozen)
        compared[name] = len(frozen)
    return compared


def hypotheses(folder: Path) -> Hypotheses | None:
    """Those that a frozen study is judged by, if it is."""
    path = folder / HYPOTHESES
    return read_model(path, Hypotheses) if path.exists() else None


def judged(folder: Path) -> pd.DataFrame | None:
    """The verdicts on a frozen study that is judged, as they come back from their file."""
    from mufree.analysis import tables
    from mufree.analysis.verdicts import judge

    registered = hypotheses(folder)
    if registered is None:
        return None
    return as_read(judge(tables.read_table(folder / "tables/estimates.csv"), registered))


def thaw(folder: Path, out: Path) -> None:
    """Write into `out` the rows, curves and tables of a frozen folder, and its verdicts, as a study's results have them."""
    from mufree.analysis import tables

    with replacing(out / "tables") as new:
        _copy({path.name: path for path in (folder / "tables").iterdir()}, new)
        if checks := _checks(folder):
            (new / f"{NOT_KEPT}.csv").write_text(tables.to_csv(checks[NOT_KEPT]))
    with files.atomic(out / "rows.parquet") as rows:
        shutil.copyfile(folder / "rows.parquet", rows)
    record.write_table(out / "curves.parquet", packs.curves(folder / "runs"))
    verdicts = judged(folder)
    if verdicts is None:
        (out / "verdicts.csv").unlink(missing_ok=True)
    else:
        files.write_text(out / "verdicts.csv", tables.to_csv(verdicts))


def as_read(table: pd.DataFrame) -> pd.DataFrame:
    """The table as it comes back from its file."""
    import io

    import pandas as pd

    from mufree.analysis import tables

    return pd.read_csv(io.StringIO(tables.to_csv(table)))


def coordinate_checks(folder: Path) -> list[Path]:
    """The raw coordinate checks of a frozen folder in the order of the study's tasks, as its tables have them."""
    checks = {path.stem: path for path in (folder / "coordcheck").glob("*.parquet")}
    tasks = read_yaml(folder / "study.yaml")["tasks"]
    return [checks[task] for task in tasks if task in checks]


# --- inside ----------------------------------------------------------------------------------------------------------


def _tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Every table that is kept, made from the runs and coordinate checks of a frozen folder."""
    from mufree.analysis import tables
    from mufree.analysis.tables.cases import COLUMNS_NEEDED

    made = tables.build(read_frame(folder / "rows.parquet", COLUMNS_NEEDED), packs.curves(folder / "runs").to_pandas())
    return {name: table for name, table in (made | _checks(folder)).items() if name != NOT_KEPT}


def _checks(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of the coordinate checks of a frozen folder."""
    from mufree.analysis import coordcheck

    return coordcheck.tables(read_frame(path, coordcheck.RAW) for path in coordinate_checks(folder))


def _files(folder: Path) -> dict[str, Path]:
    """Every file but those that describe them, by its path in the folder."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if name not in UNSIGNED}


def _copy(copies: Mapping[str, Path | None], folder: Path) -> None:
    for name, source in copies.items():
        if source is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)


def _signed(folder: Path) -> dict[str, dict[str, Any]]:
    """Digest and size of every file but those that describe them. Raises `RecordError` where they are too large."""
    signed: dict[str, dict[str, Any]] = {
        name: {"sha256": sha256(path), "bytes": path.stat().st_size} for name, path in _files(folder).items()
    }
    total = sum(file["bytes"] for file in signed.values())
    if total >= MAX_BYTES:
        largest = sorted(signed, key=lambda name: -signed[name]["bytes"])[:3]
        sizes = ", ".join(f"{name} ({signed[name]['bytes'] / 1e6:.1f} MB)" for name in largest)
        raise RecordError(
            f"the frozen study would be {total / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:.0f}; the largest files are {sizes}"
        )
    return signed


def _manifest(folder: Path, study: str, provenance: Mapping[str, Any], rows: pa.Table) -> dict[str, Any]:
    files = _signed(folder)
    return {
        "study": study,
        "run_set": files["rows.parquet"]["sha256"][:8],
        "runs": rows.num_rows,
        "core_hours": provenance["core_hours"],
        "code_digest": provenance["code_digest"],
        "numerics": provenance["numerics"],
        "data": {str(entry["settings"]["name"]): entry["digest"] for entry in provenance["data"]},
        "versions": {"python": provenance["environment"]["python"], **provenance["environment"]["packages"]},
        "machine": {
            "system": provenance["environment"]["system"],
            "cpus_of_runs": provenance["cpus_of_runs"],
            "device": provenance["device"],
        },
        "rounding": ROUNDING,
        "files": files,
    }


def _summed(rows: pa.Table, timings: pa.Table) -> pd.DataFrame:
    """Times and FLOPs by task, method and width."""
    keys = ["task", "method", "width"]
    if sorted(rows.column("run_id").to_pylist()) != sorted(timings.column("run_id").to_pylist()):
        raise RecordError("the times are not those of the rows' runs; collect the study again")
    joined = rows.select(["run_id", *keys]).to_pandas().merge(timings.to_pandas(), on="run_id", validate="one_to_one")
    sums = [name for name in timings.column_names if name.endswith("_seconds") or name == "flops"]
    summed: pd.DataFrame = joined.groupby(keys, sort=True)[sums].sum()
    summed.insert(0, "runs", joined.groupby(keys, sort=True).size())
    return summed.reset_index()


def _same(name: str, made: pd.DataFrame, frozen: pd.DataFrame) -> None:
    """Raise `RecordError` at the first cell that differs; numbers may by 1e-6, or 1e-8 of the largest in their column."""
    import numpy as np
    from pandas.api.types import is_numeric_dtype

    again = "The frozen runs give other numbers than the frozen table"
    if list(made.columns) != list(frozen.columns) or len(made) != len(frozen):
        raise RecordError(f"{again}: {name} has other columns or rows ({made.shape} made, {frozen.shape} frozen)")
    for column in made:
        a, b = made[column], frozen[column]
        if is_numeric_dtype(a) and is_numeric_dtype(b):
            x, y = a.to_numpy(np.float64), b.to_numpy(np.float64)
            size = np.abs(y[np.isfinite(y)]).max(initial=0.0)
            equal = np.isclose(x, y, rtol=1e-6, atol=1e-8 * size, equal_nan=True)
        else:
            equal = (a.fillna("").astype(str) == b.fillna("").astype(str)).to_numpy()
        if not equal.all():
            at = int(np.flatnonzero(~equal)[0])
            raise RecordError(
                f"{again}: {name}, row {at + 1}, {column}: {a.iloc[at]} made, {b.iloc[at]} frozen. If the metrics were changed "
                "on purpose, make the tables anew with `mufree freeze-tables FOLDER`."
            )

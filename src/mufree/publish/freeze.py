"""From a finished study to the few megabytes that the paper is built from, with a manifest of digests; and back.

`freeze` copies, thins and signs; `verify` says whether a frozen folder is what its manifest says; `recompute` makes from the
frozen runs every table that they still determine, and compares it with the frozen one. No torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mufree.study import record
from mufree.study.files import replacing, sha256
from mufree.study.yaml_files import read_yaml

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from mufree.study.plan import Run

MANIFEST = "MANIFEST.json"

MAX_BYTES = 20_000_000
"""A frozen folder is kept in the repository, so it has to be small."""

POINTS = 100
"""Points that are kept of a series that has one a step."""

THINNED = ("train_loss", "grad_norm")
"""Series that have one point a step."""

THINNING = (
    f"Of {' and '.join(THINNED)}, which have a point a step, every k-th point of a run counted back from its last one is kept, "
    f"with k the least that leaves at most {POINTS}. All other series are whole. Values of curves are rounded to 32 bits. The "
    "tables were computed before thinning."
)

FROM_CURVES = {"smoothness", "dynamics_points", "dynamics", "epsilon", "anytime", "horizon", "estimates"}
"""Tables that read curves which are not thinned, so that they can be made again up to the rounding of curves."""

NEED_EVERY_STEP = {"wider_is_better", "spikes"}
"""Tables that can't be made from thinned curves."""

NEED_EVERY_STEP_STATISTICS = {"wider_share", "wider_tau", "spike_score"}
"""Rows of the table of estimates that come from these."""

TOLERANCE = {"rows": 1e-6, "curves": 1e-4}
"""Relative, for numbers made again. Tables are written with 8 digits; curves were rounded besides."""


class FrozenError(Exception):
    """A frozen folder is too large, incomplete, or not what its manifest says."""


def thin(curves: pa.Table) -> pa.Table:
    """Curves by the rule of `THINNING`, in the order given; `value` becomes a 32-bit float."""
    import numpy as np
    import pyarrow as pa

    frame = curves.select(["run_id", "series", "layer"]).to_pandas()
    groups = frame.groupby(["run_id", "series", "layer"], sort=False, observed=True)
    from_the_end = groups.cumcount(ascending=False).to_numpy()
    stride = np.ceil(groups["series"].transform("size").to_numpy() / POINTS).astype(np.int64)
    stride = np.where(frame["series"].isin(THINNED), np.maximum(stride, 1), 1)
    kept = curves.filter(pa.array(from_the_end % stride == 0))
    place = kept.column_names.index("value")
    return kept.set_column(place, "value", kept.column("value").cast(pa.float32()))


def freeze(
    out: Path,
    *,
    study: str,
    copies: Mapping[str, Path],
    rows: pa.Table,
    curves: pa.Table,
    timings: pa.Table,
    provenance: Mapping[str, Any],
    full: Iterable[Run],
) -> dict[str, Any]:
    """Write the frozen folder `out` in place of what stands there, and return its manifest.

    `full` are the runs of the study that the paper is about, which this one may stand in for. `copies` are files that are
    copied as they are, by their names in the folder. Either the whole folder is replaced or nothing is. The same input gives
    the same bytes. Raises `FrozenError`, naming the largest files, above `MAX_BYTES`.
    """
    import pyarrow.parquet as pq

    with replacing(out) as folder:
        for name, source in copies.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)
        pq.write_table(rows, folder / "rows.parquet", compression="zstd")
        pq.write_table(
            thin(curves),
            folder / "curves.parquet",
            compression="zstd",
            use_dictionary=["run_id", "series", "layer"],
            column_encoding={"value": "BYTE_STREAM_SPLIT", "step": "DELTA_BINARY_PACKED"},
        )
        (folder / "timings.csv").write_text(_summed(rows, timings).to_csv(index=False, float_format="%.6g"))
        record.write_json(folder / "provenance.json", provenance)
        manifest = _manifest(folder, study, provenance, rows, full)
        record.write_json(folder / MANIFEST, manifest)
    return manifest


def belong(found: Collection[str], full: Iterable[Run]) -> bool:
    """Whether runs, by their ids, are all of the full study's own."""
    return bool(found) and set(found) <= {run.id for run in full}


def is_part(found: Collection[str], full: Collection[Run]) -> bool:
    """Whether runs, by their ids, are some of the full study's, not all of them, and no others."""
    return belong(found, full) and len(set(found)) < len({run.id for run in full})


def missing_words(study: str, found: Collection[str], full: Iterable[Run]) -> str:
    """What a study lacks of the full one, task by task, by the ids of its runs; empty where it has all."""
    full = list(full)
    runs, here = len(full), sum(run.id in found for run in full)
    if here == runs:
        return ""
    opening = f"This is the study {study}. It stands in for the full study on CIFAR-10 and WikiText-2, "
    if not here:
        return f"{opening}of which all runs are missing."
    planned: dict[str, list[Run]] = {}
    for run in full:
        planned.setdefault(run.task, []).append(run)
    tasks = ", ".join(_missing_of(task, its_runs, found) for task, its_runs in planned.items())
    if is_part(found, full):
        return (
            f"This is a part of the full study on CIFAR-10 and WikiText-2: of its {runs} runs it has {here} ({tasks})."
        )
    return f"{opening}of whose {runs} runs it has {here}: {tasks}."


def _missing_of(task: str, planned: Sequence[Run], found: Collection[str]) -> str:
    """How many of a task's runs are here, and at which of its widths none is."""
    here = [run for run in planned if run.id in found]
    untrained = sorted({run.width for run in planned} - {run.width for run in here}) if here else []
    without = f" without width {' and '.join(map(str, untrained))}" if untrained else ""
    return f"{task} {len(here)} of {len(planned)}{without}"


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a frozen folder in which every file is there, and is what the manifest says.

    Raises `FrozenError`, naming the file, where one is missing, changed or unknown.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        files: dict[str, dict[str, Any]] = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FrozenError(f"{path} can't be read ({error}); freeze a study with `snakemake freeze`") from error
    found = _files(folder)
    problems = [
        *(f"missing: {name}" for name in sorted(set(files) - set(found))),
        *(f"not in the manifest: {name}" for name in sorted(set(found) - set(files))),
        *(f"changed: {name}" for name in files if name in found and sha256(found[name]) != files[name]["sha256"]),
    ]
    if problems:
        raise FrozenError(
            f"{folder} is not what was frozen:\n  " + "\n  ".join(problems) + "\n"
            "Restore it from version control, or freeze the study again with `snakemake freeze`."
        )
    return manifest


def recompute(folder: Path) -> dict[str, int]:
    """Make every table anew that the frozen runs determine, and compare; return how many rows each has.

    Only `NEED_EVERY_STEP` can't be made. Raises `FrozenError`, naming the table, the row and the column, where numbers differ.
    """
    import pandas as pd

    from mufree.analysis import coordcheck, tables

    made = tables.build(pd.read_parquet(folder / "rows.parquet"), pd.read_parquet(folder / "curves.parquet"))
    made |= coordcheck.tables(pd.read_parquet(path) for path in coordinate_checks(folder))
    compared = {}
    for name, table in made.items():
        if name in NEED_EVERY_STEP:
            continue
        path = folder / "tables" / f"{name}.csv"
        if not path.exists():
            raise FrozenError(f"{path} is missing; freeze the study again with `snakemake freeze`")
        again, frozen = _as_read(table), pd.read_csv(path)
        if name == "estimates":
            again, frozen = (
                t[~t["statistic"].isin(NEED_EVERY_STEP_STATISTICS)].reset_index(drop=True) for t in (again, frozen)
            )
        _same(name, again, frozen, TOLERANCE["curves" if name in FROM_CURVES else "rows"])
        compared[name] = len(frozen)
    return compared


def coordinate_checks(folder: Path) -> list[Path]:
    """The raw coordinate checks of a frozen folder in the order of the study's tasks, as its tables have them."""
    checks = {path.stem: path for path in (folder / "coordcheck").glob("*.parquet")}
    tasks = read_yaml(folder / "study.yaml")["tasks"]
    return [checks[task] for task in tasks if task in checks]


# --- inside ----------------------------------------------------------------------------------------------------------


def _files(folder: Path) -> dict[str, Path]:
    """Every file but the manifest, by its path in the folder."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if name != MANIFEST}


def _manifest(
    folder: Path, study: str, provenance: Mapping[str, Any], rows: pa.Table, full: Iterable[Run]
) -> dict[str, Any]:
    files: dict[str, dict[str, Any]] = {
        name: {"sha256": sha256(path), "bytes": path.stat().st_size} for name, path in _files(folder).items()
    }
    total = sum(file["bytes"] for file in files.values())
    if total >= MAX_BYTES:
        largest = sorted(files, key=lambda name: -files[name]["bytes"])[:3]
        sizes = ", ".join(f"{name} ({files[name]['bytes'] / 1e6:.1f} MB)" for name in largest)
        raise FrozenError(
            f"the frozen study would be {total / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:.0f}; the largest files are {sizes}"
        )
    found, full = set(rows.column("run_id").to_pylist()), list(full)
    missing = missing_words(study, found, full)
    return {
        "study": study,
        "complete": not missing,
        "part": is_part(found, full),
        "missing": missing,
        "run_set": files["rows.parquet"]["sha256"][:8],
        "runs": rows.num_rows,
        "core_hours": provenance["core_hours"],
        "code_digest": provenance["code_digest"],
        "numerics": provenance["numerics"],
        "data": {_data_name(entry): entry["digest"] for entry in provenance["data"]},
        "versions": {"python": provenance["environment"]["python"], **provenance["environment"]["packages"]},
        "machine": {
            "system": provenance["environment"]["system"],
            "cpus_of_runs": provenance["cpus_of_runs"],
            "device": provenance["device"],
        },
        "thinning": THINNING,
        "files": files,
    }


def _data_name(entry: Mapping[str, Any]) -> str:
    return str(entry["settings"]["name"])


def _summed(rows: pa.Table, timings: pa.Table) -> pd.DataFrame:
    """Times and FLOPs by task, method and width."""
    keys = ["task", "method", "width"]
    joined = rows.select(["run_id", *keys]).to_pandas().merge(timings.to_pandas(), on="run_id", validate="one_to_one")
    sums = [name for name in timings.column_names if name.endswith("_seconds") or name == "flops"]
    summed: pd.DataFrame = joined.groupby(keys, sort=True)[sums].sum()
    summed.insert(0, "runs", joined.groupby(keys, sort=True).size())
    return summed.reset_index()


def _as_read(table: pd.DataFrame) -> pd.DataFrame:
    """The table as it comes back from its file."""
    import io

    import pandas as pd

    from mufree.analysis import tables

    return pd.read_csv(io.StringIO(tables.to_csv(table)))


def _same(name: str, made: pd.DataFrame, frozen: pd.DataFrame, tolerance: float) -> None:
    """Raise `FrozenError` at the first cell that differs; numbers may by `tolerance`, relative to the column's size."""
    import numpy as np
    from pandas.api.types import is_numeric_dtype

    again = "The frozen runs give other numbers than the frozen table"
    if list(made.columns) != list(frozen.columns) or len(made) != len(frozen):
        raise FrozenError(f"{again}: {name} has other columns or rows ({made.shape} made, {frozen.shape} frozen)")
    for column in made:
        a, b = made[column], frozen[column]
        if is_numeric_dtype(a) and is_numeric_dtype(b):
            x, y = a.to_numpy(np.float64), b.to_numpy(np.float64)
            size = np.abs(y[np.isfinite(y)]).max(initial=0.0)
            equal = np.isclose(x, y, rtol=tolerance, atol=tolerance * size * 1e-2, equal_nan=True)
        else:
            equal = (a.fillna("").astype(str) == b.fillna("").astype(str)).to_numpy()
        if not equal.all():
            at = int(np.flatnonzero(~equal)[0])
            raise FrozenError(
                f"{again}: {name}, row {at + 1}, {column}: {a.iloc[at]} made, {b.iloc[at]} frozen. If the metrics were changed "
                "on purpose, freeze the study again with `snakemake freeze`."
            )


def copies_of(
    *,
    study: Path,
    hypotheses: Path,
    tables: Path,
    coordcheck: Sequence[Path],
    calibration: Path | None,
    power: Path | None,
) -> dict[str, Path]:
    """The files that are frozen as they are, by their names in the folder."""
    return {
        "study.yaml": study,
        "hypotheses.yaml": hypotheses,
        **{f"tables/{path.name}": path for path in sorted(tables.glob("*.csv"))},
        **{f"coordcheck/{path.name}": path for path in coordcheck},
        **({"calibration.csv": calibration} if calibration is not None else {}),
        **({"power.csv": power} if power is not None else {}),
    }

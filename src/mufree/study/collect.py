"""The tables of sweeps: each sweep writes its own, and a study's are joined, the runs of each being exactly those planned."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mufree.study import record, sources
from mufree.study.config import Study
from mufree.study.plan import Run, Sweep
from mufree.study.reading import CURE, RecordError, read_json, read_parquet
from mufree.study.record import Record

log = logging.getLogger(__name__)


def write_sweep(out: Path, records: Sequence[Record]) -> None:
    """Rows, timings and curves of a sweep's runs, in their order."""
    record.write_table(out / "rows.parquet", record.rows_table(r.row for r in records))
    record.write_table(
        out / "timings.parquet", pa.Table.from_pylist([r.timing for r in records], schema=record.TIMING_SCHEMA)
    )
    record.write_table(out / "curves.parquet", record.concat_curves(r.curves for r in records))


def collected(study: Study, runs: list[Run], sweeps: Sequence[Sweep], pattern: str) -> dict[str, pa.Table]:
    """Rows, timings and curves of all sweeps of a study; `pattern` says in which folder a sweep's files are.

    Raises `RecordError` for a sweep that is not finished, and where `record.check_collected` does. Warns of a task whose runs
    are of several processors.
    """
    rows, timings, curves = (_of_sweeps(name, sweeps, pattern) for name in ("rows", "timings", "curves"))
    found = pa.concat_tables(rows)
    times = pa.concat_tables(timings)
    record.check_collected(runs, found, mixed=study.mixed)
    _warn_of_processors(found, times)
    return {
        "rows": record.collected_rows(runs, study.tasks, found),
        "timings": times,
        "curves": record.concat_curves(curves),
    }


def _warn_of_processors(rows: pa.Table, timings: pa.Table) -> None:
    """One of them gives a run the same bits each time; another differs in how it sums."""
    task_of = dict(zip(rows["run_id"].to_pylist(), rows["task"].to_pylist(), strict=True))
    cpus: dict[str, set[str]] = {}
    for run_id, cpu in zip(timings["run_id"].to_pylist(), timings["cpu"].to_pylist(), strict=True):
        if run_id in task_of:  # times of other runs are an error for who sums them
            cpus.setdefault(task_of[run_id], set()).add(str(cpu))
    for task, names in cpus.items():
        if len(names) > 1:
            log.warning(
                "The runs of %s are of several processors: %s. On another one a run ends a little differently, and where "
                "training is unstable as differently as with another seed.",
                *(task, ", ".join(sorted(names))),
            )


def rows_so_far(study: Study, runs: list[Run], sweeps: Sequence[Sweep], pattern: str) -> pa.Table:
    """The rows of some sweeps, whatever the others are. Raises `RecordError` for one of them that is not finished."""
    return record.collected_rows(runs, study.tasks, pa.concat_tables(_of_sweeps("rows", sweeps, pattern)))


def _of_sweeps(name: str, sweeps: Sequence[Sweep], pattern: str) -> list[pa.Table]:
    """The file `name`.parquet of each sweep."""
    schema = {"rows": record.ROW_SCHEMA, "timings": record.TIMING_SCHEMA, "curves": record.CURVE_SCHEMA}[name]
    paths = [Path(pattern.format(**sweep.labels)) / f"{name}.parquet" for sweep in sweeps]
    tables = [read_parquet(path, schema.names).select(schema.names) for path in paths]
    for path, table in zip(paths, tables, strict=True):
        if table.schema != schema:
            raise RecordError(f"{path}: its columns hold other types than this version writes. {CURE}")
    return tables


def provenance(study: Study, rows: Path, timings: Path, manifests: Sequence[Path]) -> dict[str, Any]:
    """Versions, machine, digests of code and data, and times of a study, from its collected tables and its data's manifests."""
    of_runs = read_parquet(rows, record.COLLECTED_SCHEMA.names).to_pydict()
    times = read_parquet(timings, record.TIMING_SCHEMA.names).to_pydict()
    seconds = sum(sum(times[f"{phase}_seconds"]) for phase in ("setup", "train", "evaluate"))
    return {
        "study": study.name,
        "environment": record.environment(),
        "code_digest": sources.digest("train"),
        "code_digests_of_runs": sorted(set(of_runs["code_digest"])),
        "numerics": sorted(set(of_runs["numerics"])),
        "device": sorted(set(of_runs["device"])),
        "runs": len(of_runs["run_id"]),
        "core_hours": round(seconds / 3600, 3),
        "cpus_of_runs": sorted(set(times["cpu"])),
        "data": [read_json(path, record.DATA_MANIFEST) for path in manifests],
    }

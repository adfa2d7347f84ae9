"""Rows, curves and times of runs: what is kept of a run, and whether what is found is what was planned. pyarrow, no torch."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mufree.study.config import STACKABLE, Task
from mufree.study.files import atomic
from mufree.study.machine import cpu_name
from mufree.study.plan import Run, training_flops, variant
from mufree.study.reading import RecordError as RecordError

_PLANNED: dict[str, tuple[pa.DataType, Callable[[Run], Any]]] = {
    "run_id": (pa.string(), lambda run: run.id),
    "task": (pa.string(), lambda run: run.task),
    "dataset": (pa.string(), lambda run: run.dataset.name),
    "model": (pa.string(), lambda run: run.model.name),
    "method": (pa.string(), lambda run: run.method_name),
    "parametrization": (pa.string(), lambda run: run.method.parametrization),
    "optimizer": (pa.string(), lambda run: run.method.optimizer),
    "schedule": (pa.string(), lambda run: run.method.schedule),
    "average": (pa.string(), lambda run: run.method.average),
    "embedding_lr": (pa.string(), lambda run: run.method.embedding_lr),
    "weight_decay_scaling": (pa.string(), lambda run: run.optimizer.weight_decay_scaling),
    "width": (pa.int64(), lambda run: run.width),
    "base_width": (pa.int64(), lambda run: run.base_width),
    "log2_lr": (pa.int64(), lambda run: run.log2_lr),
    "seed": (pa.int64(), lambda run: run.seed),
    "steps": (pa.int64(), lambda run: run.training.steps),
    "batch_size": (pa.int64(), lambda run: run.training.batch_size),
    "warmup_steps": (pa.int64(), lambda run: run.warmup_steps),
    "beta1": (pa.float64(), lambda run: run.optimizer.beta1),
    "beta2": (pa.float64(), lambda run: run.optimizer.beta2),
    "eps": (pa.float64(), lambda run: run.optimizer.eps),
    "weight_decay": (pa.float64(), lambda run: run.optimizer.weight_decay),
    "precision": (pa.string(), lambda run: run.training.precision),
    "numerics": (pa.int64(), lambda run: run.numerics),
}
"""The columns that the plan knows: type, and where in a run they are."""

ROW_SCHEMA = pa.schema(
    [
        *((name, kind) for name, (kind, _) in _PLANNED.items()),
        *((name, pa.string()) for name in ("data_digest", "code_digest", "device", "engine", "status", "divergence")),
        ("steps_done", pa.int64()),
        *((name, pa.float64()) for name in ("initial_loss", "train_loss", "train_loss_min")),
        *((name, pa.float64()) for name in ("val_loss", "val_loss_y", "val_accuracy", "test_loss", "test_accuracy")),
    ]
)
"""One row a run. Nothing in it depends on when or how fast it ran: two runs from scratch give the same bytes."""

COLLECTED_SCHEMA = pa.schema(
    [*ROW_SCHEMA, ("variant", pa.string()), ("horizon", pa.float64()), ("flops", pa.float64())]
)
"""A study's rows: also `plan.variant`, which is empty for a primary run, the run's steps as a share of its task's, and the
training FLOPs that it was planned with (`plan.training_flops`), also if it was stopped before."""

CURVE_SCHEMA = pa.schema(
    [
        ("run_id", pa.dictionary(pa.int32(), pa.string())),
        ("series", pa.dictionary(pa.int32(), pa.string())),
        ("layer", pa.dictionary(pa.int32(), pa.string())),
        ("step", pa.int32()),
        ("value", pa.float64()),
    ]
)
"""Long form: one row a point of a curve. `layer` is a layer type, or empty."""

TIMING_SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        *((f"{phase}_seconds", pa.float64()) for phase in ("setup", "train", "evaluate")),
        ("flops", pa.float64()),
        ("cpu", pa.string()),
    ]
)
"""Wall seconds of a run by phase, its training FLOPs and the processor (`cpu`, or the GPU's name): what may differ between two
runs of the same.
"""


DATA_MANIFEST = {"settings": {"name": str}, "digest": str, "sizes": dict, "source": str, "version": str, "licence": str}
"""What a study reads of the manifest of a prepared data set."""

PROVENANCE = {
    "core_hours": float,
    "code_digest": str,
    "numerics": list,
    "device": list,
    "cpus_of_runs": list,
    "environment": {"python": str, "system": str, "packages": dict},
    "data": [DATA_MANIFEST],
}
"""What is read of a study's provenance."""


@dataclass(frozen=True)
class Record:
    """A finished run: its row and times as plain values, its curves as a table of `CURVE_SCHEMA`."""

    row: dict[str, Any]
    timing: dict[str, Any]
    curves: pa.Table


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file atomically; equal tables give equal bytes, and no bit of a page changes unseen.

    Split bytes of floats are a third smaller, at no cost.
    """
    split = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    other = [name for name in table.column_names if name not in split]
    with atomic(path) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            use_dictionary=other,
            use_byte_stream_split=split,
            write_page_checksum=True,
        )


def rows_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Rows as a table of `ROW_SCHEMA`. A row without an engine is of before there was another: `serial`."""
    return pa.Table.from_pylist([{"engine": "serial"} | row for row in rows], schema=ROW_SCHEMA)


def curves_table(run_id: str, curves: Iterable[tuple[str, str, Any, Any]]) -> pa.Table:
    """Curves (series, layer, steps, values) of one run as a table of `CURVE_SCHEMA`."""
    points = [
        {"run_id": run_id, "series": series, "layer": layer, "step": int(step), "value": float(value)}
        for series, layer, steps, values in curves
        for step, value in zip(steps, values, strict=True)
    ]
    return pa.Table.from_pylist(points, schema=CURVE_SCHEMA)


def concat_curves(tables: Iterable[pa.Table]) -> pa.Table:
    """Join curves of several runs; the dictionaries of names become one."""
    return pa.concat_tables(list(tables)).unify_dictionaries()


def describe_run(run: Run) -> dict[str, Any]:
    """The part of a row that the plan knows."""
    return {name: value_of(run) for name, (_, value_of) in _PLANNED.items()}


def check_collected(planned: list[Run], rows: pa.Table, *, mixed: bool = False) -> None:
    """Assert that the rows are exactly the planned runs and that their numbers may stand in one table.

    Raises `RecordError` where a run is missing, unplanned or there twice, or where runs differ in `numerics`, or within a task
    in precision, the digest of their data or, unless they may be `mixed`, in kind of device or engine. Optimizers whose runs
    can't be trained side by side are no other engine. Tasks are never compared with one another.
    """
    found = Counter(rows.column("run_id").to_pylist())
    expected = {run.id for run in planned}
    problems = [
        *(f"missing: {name}" for name in sorted(expected - found.keys())),
        *(f"not planned: {name}" for name in sorted(found.keys() - expected)),
        *(f"twice: {name}" for name, times in sorted(found.items()) if times > 1),
    ]
    numerics = set(rows.column("numerics").to_pylist())
    if len(numerics) > 1:
        problems.append(f"more than one numerics: {', '.join(map(str, sorted(numerics)))}")
    same = [("precision", "precision"), ("data_digest", "data set")]
    same += [] if mixed else [("device", "kind of device"), ("engine", "engine")]
    for column, what in same:
        of_task: dict[str, set[str]] = {}
        for row in rows.select(["task", "optimizer", column]).to_pylist():
            if column != "engine" or row["optimizer"] in STACKABLE:
                of_task.setdefault(row["task"], set()).add(row[column])
        problems += [
            f"task {task} was trained with more than one {what}: {', '.join(sorted(values))}"
            for task, values in of_task.items()
            if len(values) > 1
        ]
    if problems:
        shown = "\n  ".join(problems[:20]) + (f"\n  … and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise RecordError(
            f"The runs found are not the runs planned:\n  {shown}\nRun the workflow again to complete them."
        )


def collected_rows(planned: Iterable[Run], tasks: Mapping[str, Task], rows: pa.Table) -> pa.Table:
    """Rows of planned runs as a table of `COLLECTED_SCHEMA`; `tasks` are the study's. Raises KeyError for a run not planned."""
    runs = {run.id: run for run in planned}
    found = [runs[name] for name in rows.column("run_id").to_pylist()]
    variants = [variant(run, tasks[run.task]) for run in found]
    horizons = [run.training.steps / tasks[run.task].training.steps for run in found]
    # Columns are set beside the others, so that numbers keep their bits.
    more = rows.append_column("variant", pa.array(variants, pa.string()))
    more = more.append_column("horizon", pa.array(horizons, pa.float64()))
    flops = pa.array([training_flops(run) for run in found], pa.float64())
    return more.append_column("flops", flops).cast(COLLECTED_SCHEMA)


PACKAGES = ("torch", "mup", "schedulefree", "numpy", "pandas", "scipy", "matplotlib", "seaborn", "snakemake", "mufree")


def environment() -> dict[str, Any]:
    """Versions, processor and memory of the machine this runs on; nothing that names the machine or its user."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

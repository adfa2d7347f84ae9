"""Rows, curves and the run store: how a finished run is kept, and found again.

A finished run is one Parquet file named by its id, written once and atomically, that carries its row, its curves, its times
and a checksum over them. Standard library and pyarrow only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mufree.study.config import STACKABLE, Task
from mufree.study.machine import cpu_name
from mufree.study.plan import Run, training_flops, variant

log = logging.getLogger(__name__)

ROW_SCHEMA = pa.schema(
    [
        *(
            (name, pa.string())
            for name in (
                "run_id",
                "task",
                "dataset",
                "model",
                "method",
                "parametrization",
                "optimizer",
                "schedule",
                "average",
                "embedding_lr",
                "weight_decay_scaling",
            )
        ),
        *(
            (name, pa.int64())
            for name in ("width", "base_width", "log2_lr", "seed", "steps", "batch_size", "warmup_steps")
        ),
        *((name, pa.float64()) for name in ("beta1", "beta2", "eps", "weight_decay")),
        ("precision", pa.string()),
        ("numerics", pa.int64()),
        *((name, pa.string()) for name in ("data_digest", "code_digest", "device", "engine", "status", "divergence")),
        ("steps_done", pa.int64()),
        *(
            (name, pa.float64())
            for name in (
                "initial_loss",
                "train_loss",
                "train_loss_min",
                "val_loss",
                "val_loss_y",
                "val_accuracy",
                "test_loss",
                "test_accuracy",
            )
        ),
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


class RecordError(Exception):
    """A file of the study is missing, damaged, or doesn't belong with the others."""


@dataclass(frozen=True)
class Record:
    """A finished run: its row and times as plain values, its curves as a table of `CURVE_SCHEMA`."""

    row: dict[str, Any]
    timing: dict[str, Any]
    curves: pa.Table


# --- files -----------------------------------------------------------------------------------------------------------


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` if the block succeeds, remove it if it fails.

    The data is on the disk before the name is, so that a full disk or a power cut leaves the old file or none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file atomically; equal tables give equal bytes."""
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def rows_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Rows as a table of `ROW_SCHEMA`. A row without an engine is of before there was another: `serial`."""
    return pa.Table.from_pylist([{"engine": "serial"} | row for row in rows], schema=ROW_SCHEMA)


def timings_table(timings: Iterable[dict[str, Any]]) -> pa.Table:
    """Times as a table of `TIMING_SCHEMA`."""
    return pa.Table.from_pylist(list(timings), schema=TIMING_SCHEMA)


def curves_table(run_id: str, curves: Iterable[tuple[str, str, Any, Any]]) -> pa.Table:
    """Curves (series, layer, steps, values) of one run as a table of `CURVE_SCHEMA`."""
    names: list[str] = []
    layers: list[str] = []
    steps: list[int] = []
    values: list[float] = []
    for series, layer, at, value in curves:
        names += [series] * len(at)
        layers += [layer] * len(at)
        steps += [int(step) for step in at]
        values += [float(v) for v in value]
    plain = {"run_id": [run_id] * len(steps), "series": names, "layer": layers, "step": steps, "value": values}
    return pa.Table.from_pydict(plain, schema=CURVE_SCHEMA)


def concat_curves(tables: Iterable[pa.Table]) -> pa.Table:
    """Join curves of several runs; the dictionaries of names become one."""
    return pa.concat_tables(list(tables)).unify_dictionaries()


# --- rows ------------------------------------------------------------------------------------------------------------


def describe_run(run: Run) -> dict[str, Any]:
    """The part of a row that the plan knows."""
    return {
        "run_id": run.id,
        "task": run.task,
        "dataset": run.dataset.name,
        "model": run.model.name,
        "method": run.method_name,
        "parametrization": run.method.parametrization,
        "optimizer": run.method.optimizer,
        "schedule": run.method.schedule,
        "average": run.method.average,
        "embedding_lr": run.method.embedding_lr,
        "weight_decay_scaling": run.optimizer.weight_decay_scaling,
        "width": run.width,
        "base_width": run.base_width,
        "log2_lr": run.log2_lr,
        "seed": run.seed,
        "steps": run.training.steps,
        "batch_size": run.training.batch_size,
        "warmup_steps": run.warmup_steps,
        "beta1": run.optimizer.beta1,
        "beta2": run.optimizer.beta2,
        "eps": run.optimizer.eps,
        "weight_decay": run.optimizer.weight_decay,
        "precision": run.training.precision,
        "numerics": run.numerics,
    }


# --- the run store ---------------------------------------------------------------------------------------------------


def _checksum(row: str, timing: str, curves: pa.Table) -> str:
    sha = hashlib.sha256(f"{row}\0{timing}\0".encode())
    for name in ("series", "layer", "step", "value"):
        values = curves.column(name)
        plain = values.cast(pa.string()) if pa.types.is_dictionary(values.type) else values
        sha.update(repr(plain.to_pylist()).encode())
    return sha.hexdigest()


def store_path(store: Path, run: Run) -> Path:
    """Where the store keeps a run."""
    return store / f"{run.id}.parquet"


def checkpoint_path(store: Path, run: Run) -> Path:
    """Where the store keeps a run that isn't finished (`mufree.lab.train.checkpoints`)."""
    return store / f"{run.id}.checkpoint"


def discard_checkpoint(store: Path, run: Run) -> None:
    """Remove the checkpoint of a finished run, and what is left of it where a process was killed while it wrote."""
    path = checkpoint_path(store, run)
    if path.exists():
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            leftover.unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def sign(record: Record) -> dict[str, str]:
    """A record's `row` and `timing` as JSON, and `sha256`, the checksum of these and its curves; equal records, equal text."""
    row, timing = (json.dumps(part, sort_keys=True) for part in (record.row, record.timing))
    return {"row": row, "timing": timing, "sha256": _checksum(row, timing, record.curves)}


def save_run(store: Path, run: Run, record: Record) -> None:
    """Keep a finished run: one file, complete or not there at all."""
    metadata = {f"mufree.{name}": text for name, text in sign(record).items()}
    write_table(store_path(store, run), record.curves.replace_schema_metadata(metadata))


def load_run(store: Path, run: Run, data_digest: str) -> Record | None:
    """The finished run if the store has it, trained on this very data; None if it has to be trained.

    A file that can't be read or has a wrong checksum is set aside as `<id>.parquet.damaged` with a warning, and the run is
    trained again. One trained on other data is left alone until the new one replaces it.
    """
    path = store_path(store, run)
    if not path.exists():
        return None
    try:
        record = read_run(path)
    except RecordError as error:
        aside = path.with_name(path.name + ".damaged")
        path.replace(aside)
        log.warning("%s is damaged (%s); kept as %s, the run is trained again", path, error, aside.name)
        return None
    if record.row["data_digest"] != data_digest:
        log.warning("%s was trained on other data (%s); the run is trained again", path, record.row["data_digest"])
        return None
    return record


def load_timing(store: Path, run: Run) -> dict[str, Any]:
    """The times of a finished run, without its curves. Raises `RecordError` if its file can't be read."""
    timing: dict[str, Any] = json.loads(_metadata(store_path(store, run))["mufree.timing"])
    return timing


def _metadata(path: Path) -> dict[str, str]:
    try:
        metadata = pq.read_schema(path).metadata
        return {key.decode(): value.decode() for key, value in metadata.items()}
    except (pa.ArrowException, OSError, AttributeError) as error:
        raise RecordError(f"{path} can't be read: {error}") from error


def read_run(path: Path) -> Record:
    """What `save_run` wrote. Raises `RecordError` if the file can't be read or its checksum is wrong."""
    metadata = _metadata(path)
    try:
        table = pq.read_table(path, partitioning=None)
        row, timing, expected = (metadata[f"mufree.{name}"] for name in ("row", "timing", "sha256"))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise RecordError(f"{path} can't be read: {error}") from error
    if _checksum(row, timing, table) != expected:
        raise RecordError("its checksum is wrong")
    curves = table.select(CURVE_SCHEMA.names).cast(CURVE_SCHEMA)
    return Record(row=json.loads(row), timing=json.loads(timing), curves=curves)


# --- collecting ------------------------------------------------------------------------------------------------------


def check_collected(planned: list[Run], rows: pa.Table, *, mixed: bool = False) -> None:
    """Assert that the rows are exactly the planned runs and that their numbers may stand in one table.

    Raises `RecordError` where a run is missing, unplanned or there twice, or where runs differ in `numerics`, or within a task
    in precision, the digest of their data or, unless they may be `mixed`, in kind of device or engine. Optimizers whose runs
    can't be trained side by side are no other engine. Tasks are never compared with one another.
    """
    found = rows.column("run_id").to_pylist()
    expected = {run.id for run in planned}
    problems = (
        [
            *(f"missing: {name}" for name in sorted(expected - set(found))),
            *(f"not planned: {name}" for name in sorted(set(found) - expected)),
            *(f"twice: {name}" for name in sorted({name for name in found if found.count(name) > 1})),
        ]
        if len(found) != len(expected) or set(found) != expected
        else []
    )
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


# --- provenance ------------------------------------------------------------------------------------------------------

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

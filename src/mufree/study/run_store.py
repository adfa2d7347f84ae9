"""The run store: each finished run is one Parquet file named by its id, with its row, curves, times and a checksum over them.

It is written once and atomically. What isn't finished lies beside it as a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from mufree.study.reading import FormatError, UserError, check_metadata, read_parquet
from mufree.study.record import CURVE_SCHEMA, Record, RecordError, write_table

log = logging.getLogger(__name__)


class Run(Protocol):
    """What is kept here: a study's run, or a trial."""

    @property
    def id(self) -> str:
        """Its identity, by which its file is named."""


def _checksum(row: str, timing: str, curves: pa.Table) -> str:
    sha = hashlib.sha256(f"{row}\0{timing}\0".encode())
    for name in ("series", "layer", "step", "value"):
        values = curves.column(name)
        plain = values.cast(pa.string()) if pa.types.is_dictionary(values.type) else values
        sha.update(repr(plain.to_pylist()).encode())
    return sha.hexdigest()


def existing(store: Path) -> Path:
    """The store, which has to be there. Raises `UserError`."""
    if not store.is_dir():
        raise UserError(f"--store {store} is no folder; give the one with the runs, results/NAME/runs of a study", 2)
    return store


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
    trained again. One trained on other data is left alone until the new one replaces it. Raises `FormatError` for one of
    another version, which is no reason to train.
    """
    path = store_path(store, run)
    if not path.exists():
        return None
    try:
        record = read_run(path)
    except FormatError:
        raise
    except RecordError as error:
        aside = path.with_name(path.name + ".damaged")
        path.replace(aside)
        log.warning("%s is damaged (%s); kept as %s, the run is trained again", path, error, aside.name)
        return None
    if (digest := record.row.get("data_digest")) != data_digest:
        log.warning("%s was trained on other data (%s); the run is trained again", path, digest)
        return None
    return record


def load_timing(store: Path, run: Run) -> dict[str, Any]:
    """The times of a finished run, without its curves. Raises `RecordError` if its file can't be read."""
    timing: dict[str, Any] = json.loads(_signed(store_path(store, run))[1])
    return timing


def _signed(path: Path) -> tuple[str, str, str]:
    """The row and the timing of a run's file, as JSON, and its checksum."""
    try:
        metadata = pq.read_schema(path).metadata
        check_metadata(path, metadata)
        row, timing, checksum = (metadata[f"mufree.{name}".encode()].decode() for name in ("row", "timing", "sha256"))
    except (pa.ArrowException, OSError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} can't be read: {error}. Delete it, and its sweep trains it again") from error
    return row, timing, checksum


def read_run(path: Path) -> Record:
    """What `save_run` wrote. Raises `RecordError` if it can't be read, has a wrong checksum or is another run's."""
    row, timing, expected = _signed(path)
    table = read_parquet(path, ("series", "layer", "step", "value"))
    if _checksum(row, timing, table) != expected:
        raise RecordError(f"{path}: its checksum is wrong. Delete it, and its sweep trains it again")
    curves = table.select(CURVE_SCHEMA.names).cast(CURVE_SCHEMA)
    found = Record(row=json.loads(row), timing=json.loads(timing), curves=curves)
    if f"{(name := found.row.get('run_id'))}.parquet" != path.name:
        raise RecordError(f"{path} holds the run {name}. Delete it, and its sweep trains it again")
    return found

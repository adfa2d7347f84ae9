"""Finished runs of a store in few files, whole and small: what a study that takes several sittings keeps between them.

A pack holds every bit of its runs in about a third of the bytes. Packs are only added to: a later one holds the runs that the
earlier ones lack, so that keeping them under version control costs each run once. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mufree.study import record
from mufree.study.plan import Run
from mufree.study.record import CURVE_SCHEMA, Record, RecordError

# Names of series and layers are plain text here: Parquet makes a dictionary for the whole pack.
POINT = pa.struct([("series", pa.string()), ("layer", pa.string()), ("step", pa.int32()), ("value", pa.float64())])
SIGNED = ("row", "timing", "sha256")

PACK_SCHEMA = pa.schema(
    [("run_id", pa.string()), *((name, pa.string()) for name in SIGNED), ("points", pa.list_(POINT))]
)
"""One row a run: its row and times as JSON, the checksum that the store keeps, and the points of its curves."""


def pack(store: Path, runs: Iterable[Run], out: Path) -> tuple[Path | None, int]:
    """Put the finished ones of `runs` that no pack in `out` has into a new pack there; its path and how many they are.

    No path where there is nothing new. Raises `RecordError` for a damaged run of the store, and for a damaged pack.
    """
    known = _packed_ids(out)
    new = [run for run in runs if run.id not in known and record.store_path(store, run).exists()]
    if not new:
        return None, 0
    path = out / f"{1 + max([0, *(int(each.stem) for each in _packs(out))]):03d}.parquet"
    table = _packed([record.read_run(record.store_path(store, run)) for run in new])
    with record.atomic(path) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=19,
            use_dictionary=["points.list.element.series", "points.list.element.layer"],
            column_encoding={
                "points.list.element.value": "BYTE_STREAM_SPLIT",
                "points.list.element.step": "DELTA_BINARY_PACKED",
            },
        )
    return path, len(new)


def unpack(folder: Path, runs: Iterable[Run], store: Path) -> int:
    """Put into `store` those of `runs` that it lacks and a pack in `folder` has; return how many. They come back to the bit.

    Raises `RecordError` where a pack can't be read or a run's checksum is wrong; what was put back before stays.
    """
    wanted = {run.id: run for run in runs if not record.store_path(store, run).exists()}
    count = 0
    for path in _packs(folder):
        for name, found in _unpacked(path, wanted):
            record.save_run(store, wanted[name], found)
            count += 1
    return count


# --- inside ----------------------------------------------------------------------------------------------------------


def _packs(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.parquet"))


def _packed_ids(folder: Path) -> set[str]:
    return {str(name) for path in _packs(folder) for name in _table(path, ["run_id"]).column("run_id").to_pylist()}


def _table(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        return pq.read_table(path, columns=list(columns), partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise RecordError(f"{path} can't be read ({error}); restore it from version control") from error


def _packed(records: Sequence[Record]) -> pa.Table:
    curves = record.concat_curves(each.curves for each in records).combine_chunks()
    columns = [curves.column(field.name).cast(field.type).combine_chunks() for field in POINT]
    ends = [0]
    for each in records:
        ends.append(ends[-1] + each.curves.num_rows)
    points = pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), pa.StructArray.from_arrays(columns, fields=list(POINT))
    )
    signed = [record.sign(each) for each in records]
    texts = [pa.array([each[name] for each in signed], pa.string()) for name in SIGNED]
    names = pa.array([each.row["run_id"] for each in records], pa.string())
    return pa.Table.from_arrays([names, *texts, points], schema=PACK_SCHEMA)


def _unpacked(path: Path, wanted: Iterable[str]) -> Iterator[tuple[str, Record]]:
    """Ids and records of the wanted runs that a pack has, their checksums verified."""
    table = _table(path, PACK_SCHEMA.names)
    names = table.column("run_id").to_pylist()
    for place in [place for place, name in enumerate(names) if name in wanted]:
        values: dict[str, Any] = {name: table.column(name)[place].as_py() for name in SIGNED}
        points = pa.Table.from_struct_array(table.column("points")[place].values)
        ids = pa.array([names[place]] * points.num_rows, pa.string())
        curves = points.add_column(0, "run_id", ids).select(CURVE_SCHEMA.names).cast(CURVE_SCHEMA)
        found = Record(row=json.loads(values["row"]), timing=json.loads(values["timing"]), curves=curves)
        if record.sign(found)["sha256"] != values["sha256"]:
            raise RecordError(f"{path}: the checksum of {names[place]} is wrong; restore the file from version control")
        yield names[place], found

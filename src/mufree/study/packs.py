"""Finished runs of a store in few files: what a study that takes several sittings keeps between them, and what is frozen.

A pack holds every bit of its runs in about a third of the bytes; where curves are rounded, as in what is frozen, in an eighth.
Packs are only added to: a later one holds the runs that the earlier ones lack, so that keeping them under version control costs
each run once. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mufree.study import files, record, run_store
from mufree.study.plan import Run
from mufree.study.reading import read_parquet
from mufree.study.record import CURVE_SCHEMA, Record, RecordError

# Names of series and layers are plain text here: Parquet makes a dictionary for the whole pack.
POINT = pa.struct([("series", pa.string()), ("layer", pa.string()), ("step", pa.int32()), ("value", pa.float64())])
SIGNED = ("row", "timing", "sha256")

PACK_SCHEMA = pa.schema(
    [("run_id", pa.string()), *((name, pa.string()) for name in SIGNED), ("points", pa.list_(POINT))]
)
"""One row a run: its row and times as JSON, the checksum that the store keeps, and the points of its curves."""

WHOLE = ("val_loss", "val_loss_y", "sqrt_v")
"""Series that keep every bit when curves are rounded: few points, of which tables take small differences."""

BITS = 11
"""Significant bits of all other values then, which puts them off by at most 2⁻¹¹, or 0.05 %."""


def rounded(curves: pa.Table) -> pa.Table:
    """Curves with values of `BITS` bits but in the series that stay `WHOLE`; what is rounded already stays as it is."""
    fraction, exponent = np.frexp(curves.column("value").to_numpy())
    values = pa.array(np.ldexp(np.rint(np.ldexp(fraction, BITS)), exponent - BITS))
    whole = pc.is_in(curves.column("series").cast(pa.string()), pa.array(WHOLE))
    place = curves.column_names.index("value")
    return curves.set_column(place, "value", pc.if_else(whole, curves.column("value"), values))


def pack(store: Path, runs: Iterable[Run], out: Path, *, rounding: bool = False) -> tuple[Path | None, int]:
    """Put the finished ones of `runs` that no pack in `out` has into a new pack there; its path and how many they are.

    `rounding` packs their curves `rounded`. No path where there is nothing new. Raises `RecordError` for a damaged run of the
    store, and for a damaged pack.
    """
    known = packed_ids(out)
    new = [run for run in runs if run.id not in known and run_store.store_path(store, run).exists()]
    if not new:
        return None, 0
    path = out / f"{1 + max([0, *(int(each.stem) for each in _packs(out))]):03d}.parquet"
    records = [run_store.read_run(run_store.store_path(store, run)) for run in new]
    if rounding:
        records = [replace(each, curves=rounded(each.curves)) for each in records]
    table = _packed(records)
    with files.atomic(path) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=19,
            write_page_checksum=True,
            use_dictionary=["points.list.element.series", "points.list.element.layer"],
            column_encoding={
                "points.list.element.value": "BYTE_STREAM_SPLIT",
                "points.list.element.step": "DELTA_BINARY_PACKED",
            },
        )
    return path, len(new)


def pack_in_pieces(store: Path, runs: Sequence[Run], out: Path, most_bytes: int) -> list[tuple[Path, int]]:
    """`pack`, into as many new packs as it takes for each to have at most `most_bytes`, or one run; path and count of each."""
    known = packed_ids(out)
    new = [run for run in runs if run.id not in known and run_store.store_path(store, run).exists()]
    if not new:
        return []
    # What is likely not to fit is halved at once: a pack takes a third of what its runs take, and time that is short.
    fits = sum(run_store.store_path(store, run).stat().st_size for run in new) <= 2 * most_bytes
    if fits or len(new) == 1:
        path, count = pack(store, new, out)
        if path is None or len(new) == 1 or path.stat().st_size <= most_bytes:
            return [(path, count)] if path else []
        path.unlink()
    half = (len(new) + 1) // 2
    return [found for part in (new[:half], new[half:]) for found in pack_in_pieces(store, part, out, most_bytes)]


def unpack(folder: Path, runs: Iterable[Run], store: Path) -> int:
    """Put into `store` those of `runs` that it lacks and a pack in `folder` has; return how many. They come back to the bit.

    Raises `RecordError` where a pack can't be read or a run's checksum is wrong; what was put back before stays.
    """
    if not _packs(folder):
        raise RecordError(f"{folder} has no pack, such as 001.parquet; give the folder that `mufree pack` wrote")
    wanted = {run.id: run for run in runs if not run_store.store_path(store, run).exists()}
    count = 0
    for path in _packs(folder):
        for name, found in _unpacked(path, wanted):
            run_store.save_run(store, wanted[name], found)
            count += 1
    return count


def curves(folder: Path, ids: Collection[str] | None = None) -> pa.Table:
    """Curves of all packed runs, or of those that `ids` names, as a table of `CURVE_SCHEMA`; no checksum is looked at.

    Raises `RecordError` where a pack can't be read.
    """
    tables = [_table(path, ["run_id", "points"]) for path in _packs(folder)]
    if ids is not None:
        tables = [table.filter(pc.is_in(table.column("run_id"), pa.array(ids, pa.string()))) for table in tables]
    return record.concat_curves(map(_curves, tables))


def packed_ids(folder: Path) -> set[str]:
    """The ids of all packed runs."""
    return {str(name) for path in _packs(folder) for name in _table(path, ["run_id"]).column("run_id").to_pylist()}


def processors(folder: Path) -> dict[str, str]:
    """The processor that trained each packed run, by the run's id."""
    tables = (_table(path, ["run_id", "timing"]) for path in _packs(folder))
    return {
        str(name): str(json.loads(timing)["cpu"])
        for table in tables
        for name, timing in zip(table["run_id"].to_pylist(), table["timing"].to_pylist(), strict=True)
    }


# --- inside ----------------------------------------------------------------------------------------------------------


def _packs(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.parquet"))


def _table(path: Path, columns: Sequence[str]) -> pa.Table:
    return read_parquet(path, columns, "Restore it from version control", alone=True)


def _packed(records: Sequence[Record]) -> pa.Table:
    curves = record.concat_curves(each.curves for each in records).combine_chunks()
    columns = [curves.column(field.name).cast(field.type).combine_chunks() for field in POINT]
    ends = np.cumsum([0, *(each.curves.num_rows for each in records)])
    points = pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), pa.StructArray.from_arrays(columns, fields=list(POINT))
    )
    signed = [run_store.sign(each) for each in records]
    texts = [pa.array([each[name] for each in signed], pa.string()) for name in SIGNED]
    names = pa.array([each.row["run_id"] for each in records], pa.string())
    return pa.Table.from_arrays([names, *texts, points], schema=PACK_SCHEMA)


def _unpacked(path: Path, wanted: Iterable[str]) -> Iterator[tuple[str, Record]]:
    """Ids and records of the wanted runs that a pack has, their checksums verified."""
    table = _table(path, PACK_SCHEMA.names)
    names = table.column("run_id").to_pylist()
    for place in [place for place, name in enumerate(names) if name in wanted]:
        values: dict[str, Any] = {name: table.column(name)[place].as_py() for name in SIGNED}
        its_curves = _curves(table.take([place]))
        found = Record(row=json.loads(values["row"]), timing=json.loads(values["timing"]), curves=its_curves)
        if run_store.sign(found)["sha256"] != values["sha256"]:
            raise RecordError(f"{path}: the checksum of {names[place]} is wrong; restore the file from version control")
        yield names[place], found


def _curves(table: pa.Table) -> pa.Table:
    """The curves in some rows of a pack."""
    points = table.column("points").combine_chunks()
    names = pa.DictionaryArray.from_arrays(
        pc.list_parent_indices(points).cast(pa.int32()), table.column("run_id").combine_chunks()
    )
    flat = pa.Table.from_struct_array(points.flatten())
    return flat.add_column(0, "run_id", names).select(CURVE_SCHEMA.names).cast(CURVE_SCHEMA)

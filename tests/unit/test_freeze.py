"""Freezing: what is kept, that it is signed, and that nothing changes unseen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from studies import with_grid

from mufree.publish import freeze as frozen
from mufree.publish.freeze import POINTS, FrozenError, freeze, missing_words, thin, verify
from mufree.study.config import Study
from mufree.study.plan import expand

PROVENANCE = {
    "core_hours": 1.5,
    "code_digest": "abc",
    "numerics": [3],
    "data": [{"settings": {"name": "photo_patches"}, "digest": "d1"}],
    "environment": {"python": "3.11.0", "packages": {"numpy": "2"}, "system": "Linux x86_64"},
    "cpus_of_runs": ["a cpu"],
    "device": ["cpu"],
}


FULL = expand(Study.model_validate(with_grid(widths=[16])))


def curves(**lengths: int) -> pa.Table:
    """Two runs with a curve of each length; the value is the step."""
    columns: dict[str, list[Any]] = {"run_id": [], "series": [], "layer": [], "step": [], "value": []}
    for run in ("r1", "r2"):
        for name, length in lengths.items():
            for step in range(1, length + 1):
                for column, value in zip(columns, (run, name, "", step, step + 1 / 3), strict=True):
                    columns[column].append(value)
    text = pa.dictionary(pa.int32(), pa.string())
    fields = [("run_id", text), ("series", text), ("layer", text), ("step", pa.int32()), ("value", pa.float64())]
    return pa.Table.from_pydict(columns, schema=pa.schema(fields))


def inputs(tmp_path: Path, study: str = "quickstart") -> dict[str, Any]:
    (tmp_path / "tables").mkdir(exist_ok=True)
    (tmp_path / "tables/optima.csv").write_text("task,method\na,b\n")
    (tmp_path / "study.yaml").write_text("name: x\n")
    keys = {"run_id": ["r1", "r2"], "task": ["a", "a"], "method": ["m", "m"], "width": [16, 16]}
    return {
        "study": study,
        "copies": {"study.yaml": tmp_path / "study.yaml", "tables/optima.csv": tmp_path / "tables/optima.csv"},
        "rows": pa.table(keys),
        "curves": curves(train_loss=250, val_loss=20),
        "timings": pa.table({"run_id": ["r2", "r1"], "train_seconds": [1.0, 2.0], "flops": [10.0, 30.0]}),
        "provenance": PROVENANCE,
        "full": FULL,
    }


def steps(table: pa.Table, run: str, series: str) -> list[int]:
    frame = table.to_pandas()
    return frame[(frame["run_id"] == run) & (frame["series"] == series)]["step"].tolist()


# --- thinning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "stride"), [(1, 1), (99, 1), (POINTS, 1), (POINTS + 1, 2), (250, 3), (300, 3), (301, 4), (1000, 10)]
)
def test_every_kth_point_counted_from_the_last(length: int, stride: int) -> None:
    kept = steps(thin(curves(train_loss=length)), "r2", "train_loss")
    assert kept == sorted(range(length, 0, -stride))
    assert len(kept) <= POINTS


def test_other_series_are_whole_and_runs_apart() -> None:
    kept = thin(curves(train_loss=250, grad_norm=120, val_loss=250, grad_rms=180))
    for run in ("r1", "r2"):
        assert steps(kept, run, "grad_norm") == list(range(2, 121, 2))
        assert steps(kept, run, "val_loss") == list(range(1, 251))
        assert steps(kept, run, "grad_rms") == list(range(1, 181))


def test_values_are_rounded_to_32_bits_and_no_further() -> None:
    kept = thin(curves(val_loss=10))
    assert kept.column("value").to_numpy().tolist() == [float(np.float32(step + 1 / 3)) for step in range(1, 11)] * 2


# --- the folder ------------------------------------------------------------------------------------------------------


def test_the_manifest_signs_every_file(tmp_path: Path) -> None:
    manifest = freeze(tmp_path / "data", **inputs(tmp_path))
    assert verify(tmp_path / "data") == manifest == json.loads((tmp_path / "data/MANIFEST.json").read_text())
    files = {"study.yaml", "tables/optima.csv", "rows.parquet", "curves.parquet", "timings.csv", "provenance.json"}
    assert set(manifest["files"]) == files
    assert manifest["run_set"] == manifest["files"]["rows.parquet"]["sha256"][:8]
    assert (manifest["runs"], manifest["core_hours"], manifest["data"]) == (2, 1.5, {"photo_patches": "d1"})
    assert manifest["versions"] == {"python": "3.11.0", "numpy": "2"}
    assert str(POINTS) in manifest["thinning"]


def test_a_stand_in_says_that_all_of_the_full_study_is_missing(tmp_path: Path) -> None:
    manifest = freeze(tmp_path / "data", **inputs(tmp_path))
    assert (manifest["complete"], manifest["part"]) == (False, False)
    assert "quickstart" in manifest["missing"]
    assert "all runs are missing" in manifest["missing"]


def test_a_study_with_every_run_of_the_full_one_is_complete(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    ids = pa.array([run.id for run in FULL])
    manifest = freeze(tmp_path / "data", **given | {"rows": given["rows"].set_column(0, "run_id", ids)})
    assert (manifest["complete"], manifest["part"], manifest["missing"]) == (True, False, "")
    manifest = freeze(tmp_path / "part", **given | {"rows": given["rows"].set_column(0, "run_id", ids).slice(1)})
    assert (manifest["complete"], manifest["part"]) == (False, True)


def test_what_a_part_lacks_is_said_task_by_task() -> None:
    assert missing_words("part", {FULL[0].id, "of another study"}, FULL).endswith(
        "of whose 2 runs it has 1: photo 1 of 2."
    )
    assert missing_words("part", {FULL[0].id}, FULL) == (
        "This is a part of the full study on CIFAR-10 and WikiText-2: of its 2 runs it has 1 (photo 1 of 2)."
    )
    wider = [run.model_copy(update={"width": 4 * run.width}) for run in FULL]
    assert missing_words("part", {run.id for run in FULL}, [*FULL, *wider]).endswith(
        f"of its 4 runs it has 2 (photo 2 of 4 without width {wider[0].width})."
    )
    assert missing_words("all", {run.id for run in FULL} | {"more"}, FULL) == ""


def test_rows_come_back_and_times_are_summed(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    freeze(tmp_path / "data", **given)
    assert pq.read_table(tmp_path / "data/rows.parquet").equals(given["rows"])
    assert (tmp_path / "data/timings.csv").read_text() == "task,method,width,runs,train_seconds,flops\na,m,16,2,3,40\n"


def test_coordinate_checks_come_in_the_order_of_the_studys_tasks(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("tasks: {b: {}, unchecked: {}, a: {}}\n")
    (tmp_path / "coordcheck").mkdir()
    for task in ("a", "b"):
        (tmp_path / f"coordcheck/{task}.parquet").touch()
    assert [path.stem for path in frozen.coordinate_checks(tmp_path)] == ["b", "a"]


def test_the_same_study_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        freeze(tmp_path / name, **inputs(tmp_path))
    assert (tmp_path / "one/MANIFEST.json").read_bytes() == (tmp_path / "two/MANIFEST.json").read_bytes()


def test_the_whole_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/old.csv").write_text("old")
    freeze(tmp_path / "data", **inputs(tmp_path))
    assert not (tmp_path / "data/old.csv").exists()
    assert not list(tmp_path.glob(".data.*"))


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    freeze(tmp_path / "data", **inputs(tmp_path))
    before = (tmp_path / "data/MANIFEST.json").read_bytes()
    broken = inputs(tmp_path, "pilot")
    broken["copies"] = {**broken["copies"], "tables/lost.csv": tmp_path / "lost.csv"}
    with pytest.raises(FileNotFoundError, match=r"lost\.csv"):
        freeze(tmp_path / "data", **broken)
    assert (tmp_path / "data/MANIFEST.json").read_bytes() == before
    assert not list(tmp_path.glob(".data.*"))


def test_too_large_names_the_largest_files(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    (tmp_path / "tables/optima.csv").write_bytes(b"0" * frozen.MAX_BYTES)
    with pytest.raises(FrozenError, match=r"more than 20; the largest files are tables/optima\.csv \(20\.0 MB\)"):
        freeze(tmp_path / "data", **given)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "tables/optima.csv").write_text("task,method\na,c\n"),
            r"changed: tables/optima\.csv",
        ),
        (lambda folder: (folder / "rows.parquet").unlink(), r"missing: rows\.parquet"),
        (lambda folder: (folder / "more.csv").write_text("x"), r"not in the manifest: more\.csv"),
        (lambda folder: (folder / "MANIFEST.json").unlink(), r"freeze a study with `snakemake freeze`"),
        (lambda folder: (folder / "MANIFEST.json").write_text("{}"), r"can't be read \('files'\)"),
    ],
)
def test_what_was_changed_is_named(tmp_path: Path, change: Any, message: str) -> None:
    freeze(tmp_path / "data", **inputs(tmp_path))
    change(tmp_path / "data")
    with pytest.raises(FrozenError, match=message):
        verify(tmp_path / "data")

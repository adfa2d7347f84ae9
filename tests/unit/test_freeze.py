"""Freezing: what is kept, that it is signed, and that nothing changes unseen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from studies import with_grid
from test_packs import store_of

from mufree.publish import freeze as frozen
from mufree.publish.freeze import freeze, verify
from mufree.study import packs, run_store
from mufree.study.config import Study
from mufree.study.plan import expand
from mufree.study.reading import RecordError

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
IDS = [run.id for run in FULL]


def inputs(tmp_path: Path, study: str = "quickstart") -> dict[str, Any]:
    (tmp_path / "tables").mkdir(exist_ok=True)
    (tmp_path / "tables/optima.csv").write_text("task,method\na,b\n")
    (tmp_path / "study.yaml").write_text("name: x\n")
    store_of(tmp_path / "store", FULL)
    keys = {"run_id": IDS, "task": ["a", "a"], "method": ["m", "m"], "width": [16, 16]}
    return {
        "study": study,
        "copies": {
            "study.yaml": tmp_path / "study.yaml",
            "hypotheses.yaml": tmp_path / "study.yaml",
            "power.csv": None,
            "tables/optima.csv": tmp_path / "tables/optima.csv",
        },
        "rows": pa.table(keys),
        "store": tmp_path / "store",
        "runs": FULL,
        "timings": pa.table({"run_id": IDS[::-1], "train_seconds": [1.0, 2.0], "flops": [10.0, 30.0]}),
        "provenance": PROVENANCE,
    }


# --- the folder ------------------------------------------------------------------------------------------------------


def test_the_manifest_signs_every_file(tmp_path: Path) -> None:
    manifest = freeze(tmp_path / "data", **inputs(tmp_path))
    assert verify(tmp_path / "data") == manifest == json.loads((tmp_path / "data/MANIFEST.json").read_text())
    copied = {"study.yaml", "hypotheses.yaml", "tables/optima.csv"}
    assert set(manifest["files"]) == copied | {"rows.parquet", "runs/001.parquet", "timings.csv", "provenance.json"}
    assert manifest["run_set"] == manifest["files"]["rows.parquet"]["sha256"][:8]
    assert (manifest["runs"], manifest["core_hours"], manifest["data"]) == (2, 1.5, {"photo_patches": "d1"})
    assert manifest["versions"] == {"python": "3.11.0", "numpy": "2"}
    assert "11 significant bits" in manifest["rounding"]


def test_rows_come_back_and_times_are_summed(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    freeze(tmp_path / "data", **given)
    assert pq.read_table(tmp_path / "data/rows.parquet").equals(given["rows"])
    assert (tmp_path / "data/timings.csv").read_text() == "task,method,width,runs,train_seconds,flops\na,m,16,2,3,40\n"


def test_runs_come_back_with_rounded_curves_and_the_same_bits_in_all_else(tmp_path: Path) -> None:
    freeze(tmp_path / "data", **inputs(tmp_path))
    assert packs.unpack(tmp_path / "data/runs", FULL, tmp_path / "again") == len(FULL)
    for run in FULL:
        kept, found = (run_store.read_run(run_store.store_path(tmp_path / store, run)) for store in ("store", "again"))
        assert (found.row, found.timing) == (kept.row, kept.timing)
        assert str(found.curves.to_pylist()) == str(packs.rounded(kept.curves).to_pylist())  # NaN is not equal to NaN


def test_a_run_that_the_store_lacks_is_not_left_out_unseen(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    run_store.store_path(given["store"], FULL[0]).unlink()
    with pytest.raises(RecordError, match="has 1 of the 2 runs"):
        freeze(tmp_path / "data", **given)
    assert not (tmp_path / "data").exists()


def test_coordinate_checks_come_in_the_order_of_the_studys_tasks(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("tasks: {b: {}, unchecked: {}, a: {}}\n")
    (tmp_path / "coordcheck").mkdir()
    for task in ("a", "b"):
        (tmp_path / f"coordcheck/{task}.parquet").touch()
    assert [path.stem for path in frozen.coordinate_checks(tmp_path)] == ["b", "a"]


def test_a_frozen_study_is_replaced_by_itself_alone(tmp_path: Path) -> None:
    freeze(tmp_path / "data", **inputs(tmp_path))
    frozen.may_replace(tmp_path / "data", study="quickstart")
    with pytest.raises(RecordError, match="has study quickstart, so smoke doesn't take its place"):
        frozen.may_replace(tmp_path / "data", study="smoke")


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
    with pytest.raises(RecordError, match=r"more than 20; the largest files are tables/optima\.csv \(20\.0 MB\)"):
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
        (
            lambda folder: (folder / "MANIFEST.json").unlink(),
            r"MANIFEST\.json is missing\. Restore it .*`snakemake freeze`",
        ),
        (lambda folder: (folder / "MANIFEST.json").write_text("{}"), r"MANIFEST\.json: it has no study\. Restore it"),
    ],
)
def test_what_was_changed_is_named(tmp_path: Path, change: Any, message: str) -> None:
    freeze(tmp_path / "data", **inputs(tmp_path))
    change(tmp_path / "data")
    with pytest.raises(RecordError, match=message):
        verify(tmp_path / "data")

"""Packs: every bit comes back, a run is packed once, and nothing damaged is served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from studies import study, with_grid
from test_record import DIGEST, finished

from mufree.cli import main
from mufree.cli.inputs import load_study
from mufree.study import record, run_store
from mufree.study.config import Study
from mufree.study.packs import WHOLE, curves, pack, pack_in_pieces, rounded, unpack
from mufree.study.plan import Run, expand
from mufree.study.record import RecordError

RUNS = expand(Study.model_validate(study()))


def store_of(folder: Path, runs: list[Run]) -> Path:
    for run in runs:
        run_store.save_run(folder, run, finished(run, val_loss=run.log2_lr / 3))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_store_comes_back_byte_for_byte(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", RUNS)
    path, count = pack(store, RUNS, tmp_path / "packs")
    assert (path, count) == (tmp_path / "packs/001.parquet", len(RUNS))
    assert unpack(tmp_path / "packs", RUNS, tmp_path / "again") == len(RUNS)
    assert files(tmp_path / "again") == files(store)


def test_a_later_pack_has_what_the_earlier_ones_lack(tmp_path: Path) -> None:
    store, packs = tmp_path / "store", tmp_path / "packs"
    pack(store_of(store, RUNS[:1]), RUNS, packs)
    first = files(packs)
    assert pack(store, RUNS, packs) == (None, 0)
    assert files(packs) == first
    path, count = pack(store_of(store, RUNS), RUNS, packs)
    assert (path, count) == (packs / "002.parquet", len(RUNS) - 1)
    assert files(packs)["001.parquet"] == first["001.parquet"]
    assert unpack(packs, RUNS, tmp_path / "again") == len(RUNS)
    assert files(tmp_path / "again") == files(store)


def test_a_run_of_another_plan_is_neither_packed_nor_put_back(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", RUNS)
    assert pack(store, RUNS[:2], tmp_path / "packs")[1] == 2
    assert unpack(tmp_path / "packs", RUNS[1:], tmp_path / "again") == 1
    assert list(files(tmp_path / "again")) == [f"{RUNS[1].id}.parquet"]


def test_a_run_that_the_store_has_is_left_alone(tmp_path: Path) -> None:
    pack(store_of(tmp_path / "store", RUNS), RUNS, tmp_path / "packs")
    mine = tmp_path / "mine"
    run_store.save_run(mine, RUNS[0], finished(RUNS[0], val_loss=7.0))
    before = files(mine)
    assert unpack(tmp_path / "packs", RUNS, mine) == len(RUNS) - 1
    assert files(mine) | before == files(mine)


def test_a_damaged_run_is_not_packed(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", RUNS)
    path = run_store.store_path(store, RUNS[1])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RecordError, match=path.name):
        pack(store, RUNS, tmp_path / "packs")
    assert not list((tmp_path / "packs").glob("*"))


@pytest.mark.parametrize("column", ["row", "timing", "sha256"])
def test_a_pack_whose_text_was_changed_is_refused(tmp_path: Path, column: str) -> None:
    path, _ = pack(store_of(tmp_path / "store", RUNS), RUNS, tmp_path / "packs")
    assert path is not None
    table = pq.read_table(path)
    plain = [text.replace("3", "4") for text in table.column(column).to_pylist()]
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, [plain]), path)
    with pytest.raises(RecordError, match=r"001\.parquet: the checksum of .* is wrong"):
        unpack(tmp_path / "packs", RUNS, tmp_path / "again")


def test_a_pack_that_is_cut_short_is_named(tmp_path: Path) -> None:
    path, _ = pack(store_of(tmp_path / "store", RUNS), RUNS, tmp_path / "packs")
    assert path is not None
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RecordError, match=r"001\.parquet can't be read .* Restore it from version control"):
        unpack(tmp_path / "packs", RUNS, tmp_path / "again")


def test_a_run_from_a_pack_is_served_for_its_data_alone(tmp_path: Path) -> None:
    pack(store_of(tmp_path / "store", RUNS), RUNS, tmp_path / "packs")
    unpack(tmp_path / "packs", RUNS, tmp_path / "again")
    assert run_store.load_run(tmp_path / "again", RUNS[0], DIGEST) is not None
    assert run_store.load_run(tmp_path / "again", RUNS[0], "other") is None


# --- curves ----------------------------------------------------------------------------------------------------------

ODD = [1 / 3, -1e-30, 2.5e34, 5e-324, 0.0, float("nan"), float("inf")]


@pytest.mark.parametrize("series", ["train_loss", *WHOLE])
def test_values_have_eleven_bits_but_in_series_that_stay_whole(series: str) -> None:
    once = rounded(record.curves_table("r", [(series, "", range(len(ODD)), ODD)]))
    found = once.column("value").to_numpy()
    if series in WHOLE:
        np.testing.assert_array_equal(found, ODD)
    else:
        np.testing.assert_allclose(found, ODD, rtol=2**-11, atol=0)
        assert found[0] == 1365 / 4096
    np.testing.assert_array_equal(rounded(once).column("value"), found)


def test_curves_of_some_runs_over_several_packs(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", RUNS)
    for some in (RUNS[:2], RUNS):
        pack(store, some, tmp_path / "packs")
    chosen = [RUNS[1].id, RUNS[3].id]
    whole = record.concat_curves(
        run_store.read_run(run_store.store_path(store, run)).curves for run in RUNS
    ).to_pandas()
    of_all, of_some = curves(tmp_path / "packs"), curves(tmp_path / "packs", chosen)
    assert of_all.schema == of_some.schema == record.CURVE_SCHEMA
    assert of_all.to_pandas().astype({"value": str}).equals(whole.astype({"value": str}))
    expected = whole[whole["run_id"].isin(chosen)].astype(str).reset_index(drop=True)
    assert of_some.to_pandas().astype(str).equals(expected)


# --- the commands ----------------------------------------------------------------------------------------------------


def write_study(folder: Path, **grid: object) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(with_grid(**grid)))
    return path


def test_a_part_is_a_study_file_of_what_is_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_study(tmp_path, widths=[16, 32, 64])
    runs = expand(load_study(path))
    finished_runs = [run for run in runs if run.width != 32 or run.log2_lr != -8]
    store = store_of(tmp_path / "store", finished_runs)
    part = tmp_path / "tiny_part.yaml"
    assert main(["part", str(path), "--store", str(store), "--out", str(part)]) == 0
    assert capsys.readouterr().out == f"{part}: 4 of the 6 runs of tiny\n"
    assert [run.id for run in expand(load_study(part))] == [run.id for run in runs if run.width != 32]


def test_a_part_takes_the_place_of_a_part_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_study(tmp_path)
    store, part = store_of(tmp_path / "store", expand(load_study(path))), tmp_path / "tiny_part.yaml"
    for _ in range(2):
        assert main(["part", str(path), "--store", str(store), "--out", str(part)]) == 0
    before = path.read_text()
    assert main(["part", str(path), "--store", str(store), "--out", str(path)]) == 2
    assert "so it isn't replaced" in capsys.readouterr().err
    assert path.read_text() == before


def test_a_part_may_be_of_one_of_the_parts_that_grids_name(tmp_path: Path) -> None:
    plain = with_grid(widths=[16])
    plain["grids"] = [{**plain["grids"][0], "part": 1}, {**plain["grids"][0], "part": 2, "widths": [32]}]
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(plain))
    runs = expand(load_study(path))
    store, part = store_of(tmp_path / "store", runs), tmp_path / "tiny_part.yaml"
    assert main(["part", str(path), "--part", "1", "--store", str(store), "--out", str(part)]) == 0
    assert [run.id for run in expand(load_study(part))] == [run.id for run in runs if run.width == 16]


def test_nothing_finished_is_no_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store").mkdir()
    arguments = ["part", str(write_study(tmp_path)), "--store", str(tmp_path / "store"), "--out"]
    assert main([*arguments, str(tmp_path / "tiny_part.yaml")]) == 1
    assert "0 of 4 runs, is no study yet" in capsys.readouterr().err
    assert not (tmp_path / "tiny_part.yaml").exists()


def test_packed_and_unpacked_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, packs = str(write_study(tmp_path)), str(tmp_path / "packs")
    store = store_of(tmp_path / "store", RUNS[:3])
    assert main(["pack", path, "--store", str(store), "--packs", packs]) == 0
    assert main(["pack", path, "--store", str(store), "--packs", packs]) == 0
    assert main(["unpack", path, "--store", str(tmp_path / "again"), "--packs", packs]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{packs}/001.parquet: 3 runs",
        f"{packs} has every finished run of {store} already",
        f"{tmp_path / 'again'}: 3 runs put there, 3 of 4 runs of the study are there now",
    ]
    (tmp_path / "packs/001.parquet").write_bytes(b"PAR1")
    assert main(["unpack", path, "--store", str(tmp_path / "new"), "--packs", packs]) == 1
    assert "Restore it from version control" in capsys.readouterr().err


def test_a_pack_that_would_be_too_large_becomes_several(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", RUNS)
    whole, _ = pack(store, RUNS, tmp_path / "whole")
    assert whole is not None
    halves = [pack(store, runs, tmp_path / runs[0].id)[0] for runs in (RUNS[:2], RUNS[2:])]
    half = min(path.stat().st_size for path in halves if path)
    kept = sum(path.stat().st_size for path in store.iterdir())
    enough = (kept + 1) // 2  # by what the runs take in the store
    assert whole.stat().st_size < enough < 2 * half
    assert pack_in_pieces(store, RUNS, tmp_path / "one", enough) == [(tmp_path / "one/001.parquet", 4)]
    assert files(tmp_path / "one") == files(tmp_path / "whole")
    assert [count for _, count in pack_in_pieces(store, RUNS, tmp_path / "two", enough - 1)] == [2, 2]
    # Halves that turn out too large are cut again, and leave nothing behind.
    made = pack_in_pieces(store, RUNS, tmp_path / "cut", half - 1)
    assert [count for _, count in made] == [1, 1, 1, 1]
    assert {path for path, _ in made} == set((tmp_path / "cut").iterdir())
    single = pack_in_pieces(store, RUNS, tmp_path / "four", 1)
    assert [path.name for path, _ in single] == [f"00{number}.parquet" for number in (1, 2, 3, 4)]
    for folder in ("two", "cut", "four"):
        assert unpack(tmp_path / folder, RUNS, tmp_path / f"again-{folder}") == len(RUNS)
        assert files(tmp_path / f"again-{folder}") == files(store)
        assert pack_in_pieces(store, RUNS, tmp_path / folder, 1) == []

"""The smallest study, end to end: what it leaves, what makes it run again, and that a power cut loses nothing."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from checkouts import Checkout, kill_group

from mufree.publish.figures import FIGURES
from mufree.study.config import METHODS

pytestmark = pytest.mark.slow

RESULTS = Path("results/smoke")


@pytest.fixture(scope="module")
def finished(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy of the finished study to change; tests change it back."""
    shutil.copytree(finished.path, path := tmp_path_factory.mktemp("changed") / "checkout")
    return Checkout(path)


def test_it_leaves_report_tables_and_figures(finished: Checkout) -> None:
    results = finished.path / RESULTS
    assert (results / "report.pdf").read_bytes().startswith(b"%PDF")
    assert "<html" in (results / "report.html").read_text()
    for task in ("photo-mlp", "wiki-gpt"):
        for name in FIGURES:
            for kind in ("pdf", "png", "csv", "points.json"):
                assert (results / f"figures/{task}.{name}.{kind}").stat().st_size > 0
    rows = pq.read_table(results / "rows.parquet")
    primary = pc.and_(pc.equal(rows["variant"], ""), pc.is_in(rows["method"], pa.array(list(METHODS))))
    assert pc.sum(primary).as_py() == 2 * 4 * 2 * 3
    assert rows.num_rows == 61
    assert set(rows["status"].to_pylist()) <= {"ok", "diverged"}


def test_base_width_is_bit_for_bit_the_same_under_both_parametrizations(finished: Checkout) -> None:
    control = (finished.path / RESULTS / "tables/control.csv").read_text().splitlines()
    columns = control[0].split(",")
    pairs = [dict(zip(columns, line.split(","), strict=True)) for line in control[1:]]
    assert len(pairs) == 4
    assert all(pair["n_pairs"] == pair["n_equal"] == "3" for pair in pairs)


def test_the_second_time_there_is_nothing_to_do(finished: Checkout) -> None:
    assert "Nothing to be done" in finished.snakemake()


@pytest.mark.parametrize(
    ("source", "jobs"),
    [
        ("publish/report/pages.py", {"report": 1}),
        ("analysis/metrics/transfer.py", {"first_look": 1, "metrics": 1, "draw": 2, "overview": 1, "report": 1}),
        (
            "study/jobs.py",
            {"first_look": 1, "collect": 1, "metrics": 1, "draw": 2, "overview": 1, "provenance": 1, "report": 1},
        ),
    ],
)
def test_analysis_code_trains_nothing(finished: Checkout, source: str, jobs: dict[str, int]) -> None:
    path = finished.path / "src/mufree" / source
    before = path.read_text()
    try:
        path.write_text(before + "\n# changed\n")
        assert finished.planned_jobs() == jobs
    finally:
        path.write_text(before)
    assert finished.planned_jobs() == {}


def test_all_that_a_stages_command_has_loaded_belongs_to_it(finished: Checkout) -> None:
    for stage in ("data", "coordcheck", "collect", "metrics", "overview", "provenance", "report"):
        assert finished.loaded_beside(stage, stage) == set(), stage
    assert finished.loaded_beside("figures", "figure") == finished.loaded_beside("first_look", "first-look") == set()
    # How runs are kept, and how long the others may take, changes none of them.
    keeping = {f"mufree.study.{name}" for name in ("collect", "jobs", "record", "run_store", "sources", "yaml_files")}
    assert finished.loaded_beside("train", "sweep") == keeping | {"mufree.lab.speed", "mufree.lab.train.sweeping"}
    assert "mufree.publish.figures.transfer" in finished.loaded_beside(
        "metrics", "figure"
    )  # a stage that lacks it is seen


def test_the_optimizer_looks_at_every_sweep_again(finished: Checkout) -> None:
    path = finished.path / "src/mufree/optim/constructors.py"
    before = path.read_text()
    try:
        path.write_text(before + "\n# changed\n")
        jobs = finished.planned_jobs()
        assert (jobs["sweep"], jobs["coordinate_check"]) == (15, 2)
        assert "prepare_data" not in jobs
    finally:
        path.write_text(before)


@pytest.mark.whole
def test_preparing_the_same_data_again_trains_nothing(finished: Checkout) -> None:
    store = finished.path / RESULTS / "runs"
    kept = {run: run.stat().st_mtime_ns for run in store.glob("*.parquet")}
    said = finished.snakemake("--forcerun", "prepare_data")
    assert "Prepare data set photo_patches" in said
    assert {run: run.stat().st_mtime_ns for run in store.glob("*.parquet")} == kept
    assert finished.planned_jobs() == {}


@pytest.mark.whole
def test_one_more_learning_rate_trains_exactly_its_own(finished: Checkout) -> None:
    path = finished.path / "experiments/smoke.yaml"
    before = path.read_text()
    store = finished.path / RESULTS / "runs"
    kept = {run: run.stat().st_mtime_ns for run in store.glob("*.parquet")}
    grid = """
  - tasks: [photo-mlp]
    methods: [mup_adamw]
    widths: [32]
    log2_lrs: [-7]
    seeds: [0]
"""
    rows = finished.path / RESULTS / "rows.parquet"
    old_rows = rows.read_bytes()
    try:
        path.write_text(before + grid)
        assert finished.planned_jobs()["sweep"] == 1
        finished.snakemake("sweeps")
        (new,) = set(store.glob("*.parquet")) - set(kept)
        assert new.name.startswith("photo-mlp.mup_adamw.w32.lr-7.s0.")
        assert {run: run.stat().st_mtime_ns for run in kept} == kept
        assert pq.read_table(rows).num_rows == 62
    finally:
        path.write_text(before)
    finished.snakemake()
    assert rows.read_bytes() == old_rows


@pytest.mark.whole
def test_killed_in_the_middle_it_loses_no_run_and_ends_in_the_same_bytes(
    finished: Checkout, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was begun on two cores and is ended on one, in another folder, with other hashes of names, is the same as well."""
    shutil.copytree(finished.path / "results/prepared", checkout.path / "results/prepared")
    store = checkout.path / RESULTS / "runs"
    process = checkout.start("sweeps")
    deadline = time.monotonic() + 300
    while len(list(store.glob("*.parquet"))) < 4:
        assert time.monotonic() < deadline, "no run was finished in five minutes"
        assert process.poll() is None, "the workflow ended before it could be killed"
        time.sleep(0.05)
    kill_group(process)
    kept = {run: run.stat().st_mtime_ns for run in store.glob("*.parquet")}
    assert 4 <= len(kept) < 61
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    checkout.snakemake("--unlock")
    checkout.snakemake("sweeps", "--cores", "1")
    assert {run: run.stat().st_mtime_ns for run in kept} == kept
    for name in ("rows.parquet", "curves.parquet"):
        assert (checkout.path / RESULTS / name).read_bytes() == (finished.path / RESULTS / name).read_bytes()


def test_a_damaged_data_file_stops_the_sweep_by_name(finished: Checkout, checkout: Checkout) -> None:
    shutil.copytree(finished.path / "results/prepared", checkout.path / "results/prepared")
    (damaged,) = (checkout.path / "results/prepared").glob("photo_patches.*/train_y.npy")
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x07")
    said = checkout.snakemake("results/smoke/sweeps/photo-mlp/sp_adamw/w16_32/s0/rows.parquet", check=False)
    assert "train_y.npy" in said
    assert "Traceback" not in said

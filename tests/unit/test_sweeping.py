"""What a sweep keeps, however its runs are trained: the same rows, no run lost, and none trained twice."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from studies import study

from mufree.cli import main
from mufree.lab.data import prepare
from mufree.lab.train import checkpoints, sweeping
from mufree.lab.train.sweeping import Finished, How, Stopped, sweep
from mufree.lab.train.updates import UPDATES
from mufree.study import jobs, record, run_store
from mufree.study.config import STACKABLE, Study
from mufree.study.plan import Run, expand

STACKED = How(engine="stack")
METHODS = {
    "mup_radam": {"parametrization": "mup", "optimizer": "radam_schedulefree", "schedule": "constant"},
    "mup_ema": {"parametrization": "mup", "optimizer": "adamw", "schedule": "constant", "average": "ema"},
}


def plain(**changes: Any) -> dict[str, Any]:
    made = study(methods=METHODS)
    made["tasks"]["photo"] |= {
        "dataset": {"name": "photo_patches", "train_examples": 64, "valid_examples": 32, "test_examples": 32},
        "training": {"steps": 12, "batch_size": 8, "evaluations": 3, "eval_examples": 16},
    }
    made["grids"][0] |= {"methods": ["sp_adamw", "mup_schedulefree"], "seeds": [0, 1]} | changes
    return made


def runs_of(**changes: Any) -> list[Run]:
    return expand(Study.model_validate(plain(**changes)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photo"
    prepare(runs_of()[0].dataset, folder, folder)
    return folder


def trained(runs: list[Run], data: Path, store: Path, how: How) -> dict[str, Finished]:
    return {found.run.id: found for found in sweep(runs, data, store, how)}


def test_side_by_side_a_sweep_keeps_what_it_keeps_one_by_one(tmp_path: Path, data: Path) -> None:
    runs = runs_of()
    serial, stacked = (trained(runs, data, tmp_path / how.engine, how) for how in (How(), STACKED))
    assert list(serial) == [run.id for run in runs]
    assert stacked.keys() == serial.keys()
    for name, found in stacked.items():
        mine, theirs = found.record.row, serial[name].record.row
        assert (mine["engine"], theirs["engine"]) == ("stack", "serial")
        assert found.trained
        for key in mine.keys() - {"engine"}:
            near = isinstance(mine[key], float)
            assert mine[key] == (pytest.approx(theirs[key], rel=1e-4, nan_ok=True) if near else theirs[key]), key
        assert found.record.curves.num_rows == serial[name].record.curves.num_rows
        assert run_store.read_run(run_store.store_path(tmp_path / "stack", found.run)).row == mine
    again = trained(runs, data, tmp_path / "stack", STACKED)
    assert not any(found.trained for found in again.values())
    assert {path.suffix for path in (tmp_path / "stack").iterdir()} == {".parquet"}


def test_what_has_no_step_for_many_networks_is_trained_alone_and_mixes(tmp_path: Path, data: Path) -> None:
    planned = runs_of(methods=["mup_schedulefree", "mup_radam"])
    found = trained(planned, data, tmp_path, STACKED)
    engines = {name: finished.record.row["engine"] for name, finished in found.items()}
    assert {engine for name, engine in engines.items() if "radam" in name} == {"serial"}
    assert {engine for name, engine in engines.items() if "radam" not in name} == {"stack"}
    rows = record.rows_table(finished.record.row for finished in found.values())
    record.check_collected(planned, rows)


@pytest.mark.whole
def test_a_compiled_sweep_says_so(tmp_path: Path, data: Path) -> None:
    runs = runs_of(widths=[16], methods=["mup_schedulefree"])
    plain, compiled = (trained(runs, data, tmp_path / engine, How(engine=engine)) for engine in ("stack", "compiled"))
    for name, found in compiled.items():
        assert found.record.row["engine"] == "compiled"
        assert found.record.row["val_loss"] == pytest.approx(plain[name].record.row["val_loss"], rel=1e-4)


def test_engines_and_devices_of_a_task_are_not_mixed_unless_asked(tmp_path: Path, data: Path) -> None:
    planned = runs_of()
    rows = [found.record.row for found in trained(planned, data, tmp_path, STACKED).values()]
    for column, value in (("engine", "serial"), ("device", "cuda")):
        odd = record.rows_table([rows[0] | {column: value}, *rows[1:]])
        with pytest.raises(record.RecordError, match=f"task photo was trained with more than one .*{value}"):
            record.check_collected(planned, odd)
        record.check_collected(planned, odd, mixed=True)


def test_where_memory_is_short_the_stack_is_halved_and_no_run_is_lost(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs = runs_of(widths=[16], methods=["mup_schedulefree"], log2_lrs=[-9, -8, -7])
    whole = trained(runs, data, tmp_path / "whole", STACKED)
    make = checkpoints.resumed_stack
    sizes = []

    def short_of_memory(path: Path, some: Any, *others: Any) -> Any:
        sizes.append(len(some))
        if len(some) > 2:
            torch.empty(2**60, dtype=torch.uint8)  # the allocator's own error
        return make(path, some, *others)

    monkeypatch.setattr(checkpoints, "resumed_stack", short_of_memory)
    with caplog.at_level(logging.WARNING):
        found = trained(runs, data, tmp_path / "halved", STACKED)
    assert sizes == [6, 3, 1, 2, 3, 1, 2]
    assert any("don't fit into memory" in r.getMessage() for r in caplog.records)
    assert {name: f.record.row for name, f in found.items()} == {name: f.record.row for name, f in whole.items()}


def test_another_error_is_not_taken_for_lack_of_memory(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes don't match")

    monkeypatch.setattr(checkpoints, "resumed_stack", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        trained(runs_of(), data, tmp_path, STACKED)


@pytest.mark.parametrize("after", [1, 5, 8, 20])
def test_stopped_in_a_stack_the_same_call_goes_on_to_the_same_rows(tmp_path: Path, data: Path, after: int) -> None:
    runs = runs_of(widths=[16, 32], methods=["mup_schedulefree"])
    whole = trained(runs, data, tmp_path / "whole", STACKED)
    asked = iter(range(10**6))
    stopping = How(engine="stack", stop_requested=lambda: "SIGTERM" if next(asked) >= after else None)
    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        trained(runs, data, tmp_path / "store", stopping)
    found = trained(runs, data, tmp_path / "store", STACKED)
    assert {name: f.record.row for name, f in found.items()} == {name: f.record.row for name, f in whole.items()}
    assert not list((tmp_path / "store").glob("*.checkpoint"))


def test_out_of_time_it_stops_as_if_by_a_signal(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(plain()))
    command = ["sweep", "--study", str(path), "--sweep", "photo.sp_adamw.w16.s0", "--data", str(data)]
    command += ["--store", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    for limit in (["--minutes", "0"], ["--until", "1"]):
        assert main([*command, *limit]) == 75
        assert "stopped by its limit of time before it began; 0 of 2 missing runs" in capsys.readouterr().err
    assert main([*command, "--engine", "auto"]) == 0


# --- how runs are dealt into stacks --------------------------------------------------------------------------------------


def test_jobs_know_what_can_be_stacked() -> None:
    assert set(STACKABLE) == set(UPDATES)


def test_runs_of_a_stack_differ_in_numbers_alone() -> None:
    grid = {"methods": ["sp_adamw", "mup_adamw", "mup_ema", "mup_schedulefree", "mup_radam"], "horizons": [1, 3]}
    made = plain(**{**grid, "horizons": [1]})
    runs = expand(Study.model_validate(made))
    dealt = jobs.stacks(runs, "stack", "cpu", 2**40)
    together = [stack for stack in dealt if stack.engine == "stack"]
    # Of each of two widths: AdamW by both parametrizations, AdamW with an average, ScheduleFree; 2 rates and 2 seeds each.
    assert sorted(len(stack.runs) for stack in together) == [4, 4, 4, 4, 8, 8]
    for stack in together:
        assert len({(run.width, run.method.optimizer, run.method.average) for run in stack.runs}) == 1
    alone = [stack for stack in dealt if stack.engine == "serial"]
    assert {stack.runs[0].method_name for stack in alone} == {"mup_radam"}
    assert sorted(run.id for stack in dealt for run in stack.runs) == sorted(run.id for run in runs)


def test_a_stack_is_as_large_as_memory_allows() -> None:
    runs = runs_of(widths=[16], methods=["sp_adamw"], log2_lrs=list(range(-12, -2)))
    of_one = 2**20 * jobs._network_mb(runs[0])
    sizes = [
        [len(stack.runs) for stack in jobs.stacks(runs, "stack", "cpu", free)]
        for free in (1e12, 7.6 * of_one / jobs.SHARE_OF_MEMORY, 0.0)
    ]
    assert sizes == [[20], [7, 7, 6], [1] * 20]


def test_serial_is_one_by_one_and_auto_stacks_the_narrow_on_a_cpu_and_all_on_a_gpu() -> None:
    narrow, wide = runs_of(widths=[16], methods=["sp_adamw"]), runs_of(widths=[16, 512], methods=["sp_adamw"])[4:]
    assert {run.width for run in wide} == {512}

    def engines(runs: list[Run], engine: jobs.StudyEngine, device: jobs.Device) -> set[str]:
        return {stack.engine for stack in jobs.stacks(runs, engine, device, 1e12)}

    assert engines(narrow, "serial", "cpu") == engines(narrow, "serial", "cuda") == {"serial"}
    assert engines(narrow, "auto", "cpu") == {"stack"}
    assert engines(wide, "auto", "cpu") == {"serial"}
    assert engines(wide, "auto", "cuda") == {"stack"}
    assert engines(wide, "compiled", "cpu") == engines(narrow, "compiled", "cuda") == {"compiled"}


def test_a_data_set_of_other_settings_is_refused_before_anything_is_trained(tmp_path: Path, data: Path) -> None:
    """Its arrays are whole, and fit the network; only its settings say that it isn't the one."""
    made = plain()
    made["tasks"]["photo"]["dataset"]["train_examples"] = 128
    runs = expand(Study.model_validate(made))
    with pytest.raises(sweeping.SweepError, match=r'"train_examples": 64.* and photo asks for .*"train_examples": 128'):
        trained(runs, data, tmp_path, How())
    assert not [*tmp_path.iterdir()]


def test_a_missing_data_set_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(sweeping.SweepError, match="make it with `mufree data`"):
        trained(runs_of(), tmp_path / "nowhere", tmp_path / "store", How())


def test_the_most_valuable_sweeps_come_first() -> None:
    made = Study.model_validate(plain(methods=["mup_ema", "mup_schedulefree"], widths=[16, 32, 64], seeds=[0]))
    sweeps = jobs.deal(made, expand(made), "cpu")
    ordered = [(s.method, s.widths) for s in jobs.most_valuable_first(made, sweeps)]
    assert ordered == [(method, (width,)) for method in ("mup_schedulefree", "mup_ema") for width in (16, 64, 32)]


def test_a_plan_names_what_is_trained_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(plain(methods=["mup_schedulefree", "mup_radam"], widths=[16])))
    assert main(["plan", str(path), "--engine", "stack"]) == 0
    assert (
        "4 of 8 runs are trained side by side. One by one:\n  photo mup_radam at width 16: 4\n"
        in capsys.readouterr().out
    )


def test_a_plan_for_no_core_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(tmp_path / "tiny.yaml"), "--cores", "0"]) == 2
    assert "--cores is 0" in capsys.readouterr().err

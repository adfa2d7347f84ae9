"""The run store: nothing is lost, nothing damaged is served, nothing foreign is collected."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from studies import study, with_grid

from mufree.study import files, record, run_store
from mufree.study.config import Study
from mufree.study.plan import Run, expand

DIGEST = "d" * 64


def runs() -> list[Run]:
    return expand(Study.model_validate(study()))


def finished(run: Run, *, data_digest: str = DIGEST, **row: object) -> record.Record:
    outcome = {"data_digest": data_digest, "code_digest": "c", "device": "cpu", "engine": "serial"}
    outcome |= {"status": "ok", "divergence": None}
    losses = {name: 0.1 + 0.2 for name in record.ROW_SCHEMA.names if "loss" in name or "accuracy" in name}
    timing = {"run_id": run.id, "setup_seconds": 0.5, "train_seconds": 2.0, "evaluate_seconds": 1.0, "flops": 1e9}
    curves = [("train_loss", "", [1, 2], [2.5, float("nan")]), ("grad_rms", "hidden", [2], [1e-30])]
    return record.Record(
        row={**record.describe_run(run), **outcome, "steps_done": 40, **losses, **row},
        timing=timing | {"cpu": "a processor"},
        curves=record.curves_table(run.id, curves),
    )


def test_a_finished_run_comes_back_as_it_was(tmp_path: Path) -> None:
    run = runs()[0]
    kept = finished(run)
    run_store.save_run(tmp_path, run, kept)
    found = run_store.load_run(tmp_path, run, DIGEST)
    assert found is not None
    assert found.row == kept.row
    assert found.timing == kept.timing
    assert found.curves.drop_columns("value").equals(kept.curves.drop_columns("value"))
    assert str(found.curves["value"].to_pylist()) == str(kept.curves["value"].to_pylist())  # NaN is not equal to NaN


def test_a_run_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert run_store.load_run(tmp_path, runs()[0], DIGEST) is None


def test_rows_hold_every_column_and_no_other(tmp_path: Path) -> None:
    run = runs()[0]
    assert list(finished(run).row) != []
    assert set(finished(run).row) == set(record.ROW_SCHEMA.names)
    assert record.rows_table([finished(run).row]).to_pylist() == [finished(run).row]


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    run = runs()[0]
    for folder in ("a", "b"):
        run_store.save_run(tmp_path / folder, run, finished(run))
    first, second = (run_store.store_path(tmp_path / folder, run).read_bytes() for folder in ("a", "b"))
    assert first == second


def change_one_value(path: Path) -> None:
    """As a bit that flips on a disk: the file is good Parquet, the number is another."""
    table = pq.read_table(path)
    values = table["value"].to_pylist()
    changed = table.set_column(table.schema.get_field_index("value"), "value", pa.array([2.0, *values[1:]]))
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)


def change_the_row(path: Path) -> None:
    table = pq.read_table(path)
    metadata = {key: value.replace(b"0.3000", b"0.2000") for key, value in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata(metadata), path)


@pytest.mark.parametrize(
    "damage",
    [
        change_one_value,
        change_the_row,
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(b""),
        lambda path: pq.write_table(pa.table({"a": [1]}), path),
    ],
    ids=["value", "row", "truncated", "empty", "foreign"],
)
def test_a_damaged_file_is_set_aside_and_never_served(
    tmp_path: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    run = runs()[0]
    run_store.save_run(tmp_path, run, finished(run))
    path = run_store.store_path(tmp_path, run)
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert run_store.load_run(tmp_path, run, DIGEST) is None
    assert path.name in caplog.text
    assert not path.exists()
    assert path.with_name(path.name + ".damaged").exists()


def test_a_run_on_other_data_is_not_served_and_not_deleted(tmp_path: Path) -> None:
    run = runs()[0]
    run_store.save_run(tmp_path, run, finished(run, data_digest="e" * 64))
    assert run_store.load_run(tmp_path, run, DIGEST) is None
    assert run_store.store_path(tmp_path, run).exists()


def test_an_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    files.write_text(path, "old")

    def interrupted() -> None:
        with files.atomic(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_full_disk_is_an_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    path = tmp_path / "file.txt"
    files.write_text(path, "old")

    def fill() -> None:
        with files.atomic(path) as temporary:
            temporary.unlink()
            temporary.symlink_to("/dev/full")
            temporary.write_text("new")

    with pytest.raises(OSError, match="No space left"):
        fill()
    assert path.read_text() == "old"


def table(*rows: record.Record) -> pa.Table:
    return record.rows_table(r.row for r in rows)


def test_exactly_the_planned_runs_are_accepted() -> None:
    record.check_collected(runs(), table(*map(finished, runs())))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[1:], ["missing: photo.mup_adamw.w16.lr-9.s0"]),
        (lambda rows: [*rows, rows[0]], ["twice: photo.mup_adamw.w16.lr-9.s0"]),
        (lambda rows: [*rows[:-1], {**rows[-1], "device": "cuda"}], ["more than one kind of device: cpu, cuda"]),
        (lambda rows: [*rows[:-1], {**rows[-1], "numerics": 99}], ["more than one numerics"]),
        (lambda rows: [*rows[:-1], {**rows[-1], "precision": "bf16"}], ["task photo", "more than one precision"]),
        (lambda rows: [*rows[:-1], {**rows[-1], "data_digest": "x"}], ["task photo", "more than one data set"]),
    ],
)
def test_anything_else_is_refused_by_name(
    change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], words: list[str]
) -> None:
    rows = [finished(run).row for run in runs()]
    with pytest.raises(record.RecordError) as caught:
        record.check_collected(runs(), record.rows_table(change(rows)))
    for word in words:
        assert word in str(caught.value)


def test_tasks_may_differ_in_precision() -> None:
    plain = study()
    plain["tasks"]["other"] = plain["tasks"]["photo"] | {
        "training": plain["tasks"]["photo"]["training"] | {"precision": "bfloat16"}
    }
    plain["grids"][0]["tasks"] = ["photo", "other"]
    planned = expand(Study.model_validate(plain))
    found = table(*map(finished, planned))
    assert set(found.column("precision").to_pylist()) == {"float32", "bfloat16"}
    record.check_collected(planned, found)


def test_unplanned_runs_are_refused() -> None:
    more = expand(Study.model_validate(with_grid(seeds=[0, 1])))
    with pytest.raises(record.RecordError, match=r"not planned: photo\.mup_adamw\.w16\.lr-9\.s1"):
        record.check_collected(runs(), table(*map(finished, more)))


def test_collected_rows_know_their_variant_and_horizon() -> None:
    plan = Study.model_validate(with_grid(widths=[16], log2_lrs=[-9], horizons=[4, 1], beta1s=[0.9, 0.95]))
    planned = expand(plan)
    rows = table(*map(finished, planned))
    collected = record.collected_rows(reversed(planned), plan.tasks, rows)
    assert collected.schema == record.COLLECTED_SCHEMA
    assert collected["variant"].to_pylist() == ["T/4", "T/4, beta1=0.95", "", "beta1=0.95"]
    assert collected["horizon"].to_pylist() == [0.25, 0.25, 1.0, 1.0]
    assert collected.select(record.ROW_SCHEMA.names).equals(rows)
    record.check_collected(planned, collected)


def test_a_row_tells_the_factors_of_its_method() -> None:
    arm = {
        "parametrization": "sp",
        "optimizer": "sgd",
        "schedule": "wsd",
        "average": "ema",
        "embedding_lr": "times_width",
    }
    settings = {"weight_decays": [0.1], "weight_decay_scalings": ["independent"]}
    first, second = (
        expand(
            Study.model_validate(
                with_grid(methods=[name], widths=[16], log2_lrs=[-9], **settings) | {"methods": {"arm": arm}}
            )
        )
        for name in ("arm", "mup_adamw")
    )
    (row,), (other,) = (list(map(record.describe_run, runs)) for runs in (first, second))
    assert {name: row[name] for name in arm} == arm
    assert (row["weight_decay_scaling"], other["weight_decay_scaling"]) == ("coupled", "independent")
    assert (other["average"], other["embedding_lr"]) == ("none", "shared")


def test_environment_names_no_machine_and_no_user() -> None:
    text = str(record.environment())
    assert os.uname().nodename not in text
    assert str(Path.home()) not in text
    assert record.environment()["packages"]["torch"]

"""A frozen run that comes out again is told from one that doesn't."""

import json
import math
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mufree.study import record
from mufree.study.packs import processors
from mufree.study.plan import NUMERICS
from mufree.study.rerun import chosen, differences, differing_curves, sample

FROZEN = Path(__file__).parents[2] / "paper/follow_ups"

NAMES = [field.name for field in record.COLLECTED_SCHEMA]


def rows(**changes: object) -> pa.Table:
    """Two runs, of which the second diverged; `changes` are of the first."""
    plain = {f.name: None if pa.types.is_string(f.type) else 1 for f in record.COLLECTED_SCHEMA}
    first = plain | {"run_id": "r1", "val_loss": 2.0, "code_digest": "old"}
    second = plain | {"run_id": "r2", "val_loss": math.nan, "divergence": "rebound"}
    return pa.Table.from_pylist([first | changes, second], schema=record.COLLECTED_SCHEMA)


def curves(value: float = 0.5, steps: int = 3) -> pa.Table:
    text = pa.dictionary(pa.int32(), pa.string())
    fields = [("run_id", text), ("series", text), ("layer", text), ("step", pa.int32()), ("value", pa.float64())]
    columns = {"run_id": "r1", "series": "train_loss", "layer": ""}
    plain = [columns | {"step": step, "value": value if step == 1 else 1.0} for step in range(1, steps + 1)]
    return pa.Table.from_pylist(plain, schema=pa.schema(fields))


def test_a_sample_is_a_share_without_repeats_and_the_same_for_a_seed() -> None:
    found = sample(range(500), 0.02, seed=1)
    assert len(set(found)) == 10
    assert found == sorted(found) == sample(range(500), 0.02, seed=1) != sample(range(500), 0.02, seed=2)
    assert sample(range(3), 0.01, seed=0) != []
    assert sample(range(3), 1.0, seed=0) == [0, 1, 2]


@pytest.fixture
def two_kinds(tmp_path: Path) -> Path:
    """A frozen study of which every other run was trained on another processor."""
    (tmp_path / "runs").mkdir()
    shutil.copy(FROZEN / "study.yaml", tmp_path)
    packed = pq.read_table(FROZEN / "runs/001.parquet")
    times = [json.loads(each) for each in packed["timing"].to_pylist()]
    named = [json.dumps(each | ({"cpu": "a second"} if place % 2 else {})) for place, each in enumerate(times)]
    pq.write_table(
        packed.set_column(packed.schema.get_field_index("timing"), "timing", pa.array(named)),
        tmp_path / "runs/001.parquet",
    )
    return tmp_path


def test_runs_are_drawn_from_those_of_this_processor_and_from_all_if_it_has_none(
    two_kinds: Path, caplog: pytest.LogCaptureFixture
) -> None:
    of = processors(two_kinds / "runs")
    assert len(of) == pq.read_metadata(FROZEN / "rows.parquet").num_rows
    assert len(set(of.values())) > 1
    for cpu in set(of.values()):
        _, runs = chosen(two_kinds, [NUMERICS], 0.05, 0, cpu)
        assert {of[run.id] for run in runs} == {cpu}
    assert not caplog.records
    _, runs = chosen(two_kinds, [NUMERICS], 0.5, 0, "another")
    assert {of[run.id] for run in runs} == set(of.values())
    assert "was trained on another, but on" in caplog.text


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_beyond_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=str(share)):
        sample(range(3), share, seed=0)


def test_equal_rows_differ_in_nothing_also_where_there_is_no_number() -> None:
    assert differences(rows(), rows()) == {}
    assert differences(rows(), rows().slice(1)) == {}


def test_one_bit_is_a_difference_and_the_sources_are_none() -> None:
    assert differences(rows(), rows(val_loss=math.nextafter(2.0, 3.0))) == {"r1": ["val_loss"]}
    assert differences(rows(), rows(val_loss=math.nan, status="ok")) == {"r1": ["status", "val_loss"]}
    assert differences(rows(), rows(code_digest="new")) == {}


def test_a_run_that_was_not_frozen_is_an_error() -> None:
    with pytest.raises(ValueError, match="run r1 is not among"):
        differences(rows().slice(1), rows())


def test_curves_differ_in_a_value_or_in_their_length() -> None:
    assert differing_curves(curves(), curves()) == []
    assert differing_curves(curves(), curves(value=0.25)) == ["r1"]
    assert differing_curves(curves(), curves(steps=2)) == ["r1"]

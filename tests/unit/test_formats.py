"""Versions of formats: a file of a later one is refused by name, with the cure; today's, which don't say theirs, are read."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from test_data_prepared import built
from test_record import DIGEST, finished, runs
from torch import nn

from mufree.lab.data import load, prepared
from mufree.lab.train.checkpoints import STACK_FORMAT
from mufree.optim import CheckpointError, load_checkpoint, save_checkpoint
from mufree.optim.checkpoint import FORMAT, read_checkpoint
from mufree.publish import freeze
from mufree.study import packs, record, run_store
from mufree.study.reading import FormatError, read_frame, read_json

ROOT = Path(__file__).parents[2]
FROZEN = ROOT / "paper/data"
RUN = runs()[0]


def stored(folder: Path) -> Path:
    run_store.save_run(folder, RUN, finished(RUN))
    return run_store.store_path(folder, RUN)


def prepared_there(folder: Path) -> Path:
    prepared.write(built(), {"name": "made"}, folder / "data")
    return folder / "data/manifest.json"


def copied(name: str) -> Callable[[Path], Path]:
    return lambda folder: Path(shutil.copy(FROZEN / name, folder))


def changed(path: Path, version: str) -> None:
    """Let a file say that it is of a version of its format."""
    if path.suffix == ".json":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": int(version)}))
    else:
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), "mufree.format": version}), path)


READERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "a run": (stored, run_store.read_run),
    "a run to be served": (stored, lambda path: run_store.load_run(path.parent, RUN, DIGEST)),
    "the times of a run": (stored, lambda path: run_store.load_timing(path.parent, RUN)),
    "a pack's curves": (copied("runs/001.parquet"), lambda path: packs.curves(path.parent)),
    "a pack's names": (copied("runs/001.parquet"), lambda path: packs.packed_ids(path.parent)),
    "rows": (copied("rows.parquet"), lambda path: read_frame(path, ["run_id", "val_loss"])),
    "a manifest": (copied("MANIFEST.json"), lambda path: freeze.verify(path.parent)),
    "provenance": (copied("provenance.json"), lambda path: read_json(path, record.PROVENANCE)),
    "prepared data": (prepared_there, lambda path: load(path.parent)),
}


@pytest.mark.parametrize("what", READERS)
def test_a_later_version_is_refused_by_name_and_left_alone(what: str, tmp_path: Path) -> None:
    make, read = READERS[what]
    path = make(tmp_path)
    changed(path, "2")
    before = path.read_bytes()
    with pytest.raises(FormatError) as error:
        read(path)
    assert str(error.value) == (
        f"{path} has version 2 of its format, and this mufree reads version 1. "
        "Use the mufree that wrote it, or make the file anew"
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize("what", sorted(READERS.keys() - {"a manifest"}))  # which is that of a whole folder
def test_a_file_that_does_not_say_or_says_one_is_read(what: str, tmp_path: Path) -> None:
    make, read = READERS[what]
    path = make(tmp_path)
    assert read(path) is not None
    changed(path, "1")
    assert read(path) is not None


@pytest.mark.parametrize(
    "frozen", sorted(path.parent for path in ROOT.glob("paper/*/MANIFEST.json")), ids=lambda path: path.name
)
def test_what_is_frozen_is_of_this_version(frozen: Path) -> None:
    """Its columns, too: who changes those has to think of what was written before."""
    assert "format" not in freeze.verify(frozen)
    assert packs.packed_ids(frozen / "runs") == set(read_frame(frozen / "rows.parquet", ["run_id"])["run_id"])
    for pack in (frozen / "runs").glob("*.parquet"):
        assert pq.read_schema(pack) == packs.PACK_SCHEMA


@pytest.mark.parametrize("form", [FORMAT, STACK_FORMAT])
def test_a_checkpoint_of_a_later_version_is_refused_by_name(form: str, tmp_path: Path) -> None:
    later = f"{form.rpartition(' ')[0]} 2"
    torch.save({"format": later}, tmp_path / "c.pt")
    said = f"{tmp_path / 'c.pt'} is a '{later}', and this reads a '{form}'. Use the mufree that wrote it"
    with pytest.raises(CheckpointError, match=f"^{re.escape(said)}$"):
        read_checkpoint(tmp_path / "c.pt", form)


def test_a_checkpoint_of_this_version_is_read(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    save_checkpoint(tmp_path / "c.pt", model, torch.optim.SGD(model.parameters()), step=3)
    assert read_checkpoint(tmp_path / "c.pt")["format"] == "mufree checkpoint 1"
    assert load_checkpoint(tmp_path / "c.pt", model) == {"step": 3}

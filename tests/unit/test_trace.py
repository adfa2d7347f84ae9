"""From numbers of the paper, chosen at random, back to their runs; and that what was changed on the way is found."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from mufree.cli import main
from mufree.publish.trace import Source

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / "paper/data", ROOT / "paper/follow_ups"]
SEEDS = (0, 1, 2)
"""Of the choice of numbers, one each; the ids of the tests name them."""


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """numbers.json of the paper, made from what is frozen."""
    path = tmp_path_factory.mktemp("numbers") / "numbers.json"
    data = FOLDERS[0]
    verdicts = ["--estimates", f"{data}/tables/estimates.csv", "--hypotheses", f"{data}/hypotheses.yaml"]
    assert main(["verdicts", *verdicts, "--out", f"{path}.csv"]) == 0
    assert main(["numbers", "--frozen", *map(str, FOLDERS), "--verdicts", f"{path}.csv", "--out", str(path)]) == 0
    return path


def trace(numbers: Path, *words: str, folders: list[Path] = FOLDERS) -> int:
    return main(["trace", *words, "--folders", *map(str, folders), "--numbers", str(numbers)])


def said(out: str, what: str) -> list[str]:
    """What the lines about something say."""
    return [line.partition(": ")[2] for line in out.splitlines() if line.startswith(f"{what}: ")]


def entries(numbers: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(numbers.read_text())["numbers"]
    return found


def of_tables(numbers: Path) -> dict[str, dict[str, Any]]:
    """The numbers that are a cell of a frozen table."""
    found = entries(numbers).items()
    return {
        key: each
        for key, each in found
        if each["source"].startswith("tables/") and ";" not in each["source"] and each["value"] is not None
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_a_number_chosen_at_random_leads_to_its_cell_and_its_runs(
    numbers: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = of_tables(numbers)
    key = random.Random(seed).choice(sorted(cells))
    assert trace(numbers, key, "--runs") == 0, key
    out = capsys.readouterr().out

    words = cells[key]["source"]
    file, _, rest = words.partition(": ")
    column, *where = rest.split(", ")
    [row] = said(out, "row")
    place, folder = int(row.split()[0]), Path(row.split(" of ")[1].partition("/tables/")[0])
    table = pd.read_csv(folder / file)
    frozen = table.iloc[place - 1]
    for name, _, value in (part.partition("=") for part in where):
        assert float(frozen[name]) == float(value) if name == "width" else frozen[name] == value
    assert float(frozen[column]) == cells[key]["value"] == float(row.rpartition(" is ")[2]), key
    printed = said(out, "number")[0].partition(" is ")[2].replace("−", "-").split()[0]
    digits, decimals = printed.strip("+"), len(printed.partition(".")[2])
    percent = 100 if " % " in said(out, "number")[0].partition(", from ")[0] + " " else 1
    if "10^" not in digits and "e" not in digits:
        assert abs(float(digits) - percent * frozen[column]) <= 0.5000001 * 10**-decimals, (key, printed)

    runs = said(out, "run")
    count = int(said(out, "runs")[0].split()[0])
    packed = {name for path in folder.glob("runs/*.parquet") for name in pq.read_table(path)["run_id"].to_pylist()}
    assert len(set(runs)) == len(runs) == count > 0
    assert set(runs) <= packed
    rows = pq.read_table(folder / "rows.parquet").to_pandas().set_index("run_id").loc[runs]
    assert "task" not in frozen or set(rows["task"]) == {frozen["task"]}
    named = frozen.get("subject", frozen.get("method"))
    assert named not in set(rows["method"]) or set(rows["method"]) == {named}


def test_what_a_count_counts_is_what_its_source_matches(numbers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers of runs, which no table has: the rows with these values, by the words alone."""
    keys = ["diverged", "follow_ups/diverged", "runs/cifar10-mlp/mup_schedulefree"]
    for key in keys:
        assert trace(numbers, key) == 0
        found = capsys.readouterr().out
        assert int(said(found, "runs")[0].split()[0]) == entries(numbers)[key]["value"], key


def test_every_source_can_be_read(numbers: Path) -> None:
    """Tables have the columns and rows that sources name, but for those that are of no table."""
    frames: dict[str, list[pd.DataFrame]] = {}
    without = 0
    for key, entry in entries(numbers).items():
        source = Source.read(entry["source"])
        if not source.file.startswith("tables/"):
            without += 1
            continue
        if source.file not in frames:
            frames[source.file] = [pd.read_csv(folder / source.file) for folder in FOLDERS]
        for name in [*source.where, *filter(None, [source.column])]:
            assert all(name in frame for frame in frames[source.file]), (key, entry["source"])
    assert 0 < without < len(entries(numbers)) / 5


def test_a_run_is_walked_back_by_its_id(numbers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = random.Random(0).choice(pq.read_table(FOLDERS[1] / "runs/001.parquet")["run_id"].to_pylist())
    assert trace(numbers, name) == 0
    out = capsys.readouterr().out
    assert said(out, "run") == [name]
    spec = json.loads(said(out, "spec")[0])
    task, method, width, rate, seed, _ = name.replace(".lr-", " lr-").replace(" lr-", ".lr-").split(".")
    assert [spec["task"], spec["method_name"], f"w{spec['width']}", f"lr{spec['log2_lr']}", f"s{spec['seed']}"] == [
        *(task, method, width, rate, seed)
    ]
    assert trace(numbers, "tables/transfer.csv: drift, task=cifar10-mlp, method=mup_adamw") == 0
    assert "mup_adamw" in said(capsys.readouterr().out, "runs")[0]


@pytest.mark.parametrize(
    ("name", "named"),
    [("drift/nope", "no key of"), ("drift/mup_adamw", "Did you mean"), ("tables/transfer.csv: nope, task=x", "'nope'")],
)
def test_what_cannot_be_traced_is_an_error(
    numbers: Path, name: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trace(numbers, name) == 2
    assert named in capsys.readouterr().err


# --- what was changed is found ---------------------------------------------------------------------------------------


@pytest.fixture
def copies(tmp_path: Path) -> list[Path]:
    return [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in FOLDERS]


def _flip(path: Path, key: str, entry: dict[str, Any]) -> None:
    """The last digit of the cell that a number is, in one byte."""
    source = Source.read(entry["source"])
    text = path.read_text()
    frame = pd.read_csv(path, dtype=str)
    for name, value in source.where.items():
        frame = frame[frame[name].eq(value)]
    line = text.splitlines()[1 + frame.index[0]]
    cell = frame[source.column].iloc[0]
    other = cell[:-1] + str((int(cell[-1]) + 5) % 10)
    path.write_text(text.replace(line, line.replace(cell, other, 1), 1))


KEY = "cifar10-mlp/mup_schedulefree/drift"


def test_a_flipped_byte_of_a_table_is_found_and_named(
    numbers: Path, copies: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    table = copies[0] / "tables/estimates.csv"
    before = table.read_bytes()
    _flip(table, KEY, entries(numbers)[KEY])
    assert sum(a != b for a, b in zip(before, table.read_bytes(), strict=True)) == 1
    assert trace(numbers, KEY, folders=copies) == 1
    errors = capsys.readouterr().err
    assert f"{copies[0]}: changed: tables/estimates.csv" in errors
    assert "cell: estimate: differs" in errors


@pytest.mark.whole
def test_a_table_that_is_signed_anew_is_still_not_what_the_runs_give(
    numbers: Path, copies: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from mufree.study.files import sha256

    table, manifest = copies[1] / "tables/transfer.csv", copies[1] / "MANIFEST.json"
    frame = pd.read_csv(table)
    row = frame["drift"].first_valid_index()
    frame.loc[row, "drift"] += 0.5
    frame.to_csv(table, index=False)
    signed = json.loads(manifest.read_text())
    signed["files"]["tables/transfer.csv"]["sha256"] = sha256(table)
    manifest.write_text(json.dumps(signed))
    assert main(["trace", "--folders", str(copies[1])]) == 0
    assert main(["trace", "--folders", str(copies[1]), "--recompute"]) == 1
    assert f"transfer, row {int(row) + 1}, drift" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "change"), [("value", lambda value: value + 1e-6), ("text", lambda text: text.replace("0", "9", 1))]
)
def test_a_changed_number_is_found_and_named(
    numbers: Path, tmp_path: Path, field: str, change: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    plain = json.loads(numbers.read_text())
    plain["numbers"][KEY][field] = change(plain["numbers"][KEY][field])
    (tmp_path / "numbers.json").write_text(json.dumps(plain))
    assert trace(tmp_path / "numbers.json", KEY) == 1
    assert f"number: its {field} by the tables: differs: " in capsys.readouterr().err

"""From numbers of the paper, drawn anew in each run, back to their runs; and that what was changed on the way is found.

`MUFREE_TEST_SEED=N` draws those again that a failure tells the seed of.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from mufree.cli import main
from mufree.publish.cells import NO_RUNS, Source, find, place
from mufree.study.config import METHODS
from mufree.study.files import sha256

ROOT = Path(__file__).parents[2]
FOLDERS = [
    folder
    for name in ("data", "confirm", "follow_ups")
    if ((folder := ROOT / "paper" / name) / "MANIFEST.json").exists()
]
SEED = int(os.environ.get("MUFREE_TEST_SEED", random.SystemRandom().randrange(10**9)))
"""Of the choice of numbers. Not in the ids of tests, which have to be the same in all processes."""
DRAWS = 3
OF_SUBJECTS = {
    "interaction": set(METHODS),
    "mup_schedulefree - best other": set(METHODS),
    "mup_schedulefree - best single factor": {"mup_schedulefree", "mup_adamw", "sp_schedulefree"},
}
"""Subjects that don't name all their methods."""


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """numbers.json of the paper, made from what is frozen."""
    return made(tmp_path_factory.mktemp("numbers") / "numbers.json", FOLDERS)


def made(path: Path, folders: list[Path]) -> Path:
    """The numbers of some frozen studies."""
    assert main(["numbers", "--frozen", *map(str, folders), "--out", str(path)]) == 0
    return path


def sign(folder: Path, name: str) -> None:
    """Have the manifest say of a file what it now is."""
    manifest = folder / "MANIFEST.json"
    signed = json.loads(manifest.read_text())
    signed["files"][name] = {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}
    manifest.write_text(json.dumps(signed))


def trace(numbers: Path, *words: str, folders: list[Path] = FOLDERS) -> int:
    return main(["trace", *words, "--folders", *map(str, folders), "--numbers", str(numbers)])


def said(out: str, what: str) -> list[str]:
    """What the lines about something say."""
    return [line.partition(": ")[2] for line in out.splitlines() if line.startswith(f"{what}: ")]


def line_of(row: str) -> int:
    """The line of a file that a row is in, counted from 1 as editors do, the head being the first."""
    found = re.match(r"line (\d+) of ", row)
    assert found, row
    return int(found[1])


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


def methods_of(row: pd.Series) -> set[str]:
    """The methods that a row of a table is of."""
    if "embedding_gap" in str(row.get("statistic")):
        return {row["subject"], "sp_adamw", "mup_adamw"}
    subject = row.get("subject", row.get("method"))
    return OF_SUBJECTS.get(subject, set(re.split(" [-/] ", subject.partition(",")[0])))


@pytest.mark.parametrize("draw", range(DRAWS))
def test_a_number_chosen_at_random_leads_to_its_cell_and_its_runs(
    numbers: Path, draw: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = of_tables(numbers)
    key = random.Random(SEED).sample(sorted(cells), DRAWS)[draw]
    why = f"{key}; again with MUFREE_TEST_SEED={SEED}"
    assert trace(numbers, key, "--runs") == 0, why
    out = capsys.readouterr().out

    words = cells[key]["source"]
    file, _, rest = words.partition(": ")
    column, *where = rest.split(", ")
    [row] = said(out, "row")
    folder = Path(row.split(" of ")[1].partition("/tables/")[0])
    frozen = pd.read_csv(folder / file).iloc[line_of(row) - 2]
    first = (folder / file).read_text().splitlines()[line_of(row) - 1].partition(",")[0]
    assert str(frozen.iloc[0]) == first, why
    for name, _, value in (part.partition("=") for part in where):
        assert float(frozen[name]) == float(value) if name == "width" else frozen[name] == value, why
    assert float(frozen[column]) == cells[key]["value"] == float(row.rpartition(" is ")[2]), why
    told = said(out, "number")[0].partition(", from ")[0]
    printed = told.partition(" is ")[2].replace("−", "-").split()[0]
    digits, decimals = printed.strip("+"), len(printed.partition(".")[2])
    percent = 100 if " % " in f"{told} " else 1
    if "10^" not in digits and "e" not in digits:
        assert abs(float(digits) - percent * frozen[column]) <= 0.5000001 * 10**-decimals, (why, printed)

    runs = said(out, "run")
    count = int(said(out, "runs")[0].split()[0])
    packed = {name for path in folder.glob("runs/*.parquet") for name in pq.read_table(path)["run_id"].to_pylist()}
    assert len(set(runs)) == len(runs) == count > 0, why
    assert set(runs) <= packed, why
    rows = pq.read_table(folder / "rows.parquet").to_pandas().set_index("run_id").loc[runs]
    tasks = frozen["tasks"].split() if "tasks" in frozen else [frozen["task"]]
    assert set(rows["task"]) == set(tasks), why
    assert set(rows["method"]) == methods_of(frozen), why


@pytest.mark.whole
def test_every_number_leads_to_runs_unless_it_is_of_none(numbers: Path) -> None:
    """Those that don't: what is written down or simulated, and verdicts on a task where nothing was measured."""
    places = [place(folder) for folder in FOLDERS]
    without = {}
    for key, entry in entries(numbers).items():
        own = [each for each in places if key.startswith(f"{each.provenance['study']}/")] or places
        found = list(find(entry["source"], own))
        if not found or any(each.runs.empty for each in found):
            without[key] = Source.read(entry["source"]).file
    none = [key for key, file in without.items() if file == "rows.parquet"]
    assert all(entries(numbers)[key]["value"] == 0 for key in none)  # how many diverged
    unmeasured = [key for key, file in without.items() if file not in NO_RUNS and key not in none]
    assert unmeasured == ["verdict/R6/cifar10-vit", "verdict/R6/wikitext2-gpt"]
    assert {file for key, file in without.items() if key not in none} == {*NO_RUNS, "verdicts.csv"}
    assert len(without) < len(entries(numbers)) / 50


def traced(
    numbers: Path, key: str, capsys: pytest.CaptureFixture[str], folders: list[Path] = FOLDERS
) -> tuple[str, pd.DataFrame]:
    """What is said of a number, and its runs."""
    assert trace(numbers, key, "--runs", folders=folders) == 0
    out = capsys.readouterr().out
    rows = pd.concat(pq.read_table(folder / "rows.parquet").to_pandas() for folder in FOLDERS).set_index("run_id")
    return out, rows.loc[said(out, "run")]


def test_a_difference_across_studies_leads_to_the_runs_of_both(
    numbers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = ("gpt-same-beta2", "mup_schedulefree"), ("wikitext2-gpt", "mup_adamw_constant_ema")
    key = f"{'/'.join(one)} - {'/'.join(other)}/best_loss/w64"
    out, runs = traced(numbers, key, capsys)
    assert [line.split(" of ")[1].partition(":")[0] for line in said(out, "rows")] == [
        f"{FOLDERS[-1]}/rows.parquet",
        f"{FOLDERS[0]}/rows.parquet",
    ]
    assert set(zip(runs["task"], runs["method"], runs["width"], runs["variant"], strict=True)) == {
        (*one, 64, ""),
        (*other, 64, ""),
    }
    means = runs.groupby(["task", "log2_lr"])["val_loss"].mean().groupby("task").min()
    assert means[one[0]] - means[other[0]] == pytest.approx(entries(numbers)[key]["value"], abs=1e-9)


@pytest.mark.parametrize("end", ["least", "most"])
def test_the_least_and_the_most_lead_to_the_row_that_gives_them(
    numbers: Path, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key = f"drift/mup_adamw/{end}"
    out, runs = traced(numbers, key, capsys)
    table = pd.read_csv(FOLDERS[0] / "tables/estimates.csv").query("statistic == 'drift' and subject == 'mup_adamw'")
    row = table.loc[table["estimate"].idxmin() if end == "least" else table["estimate"].idxmax()]
    [line] = said(out, "row")
    assert (line_of(line) - 2, float(line.rpartition(" is ")[2])) == (row.name, entries(numbers)[key]["value"])
    assert (set(runs["task"]), set(runs["method"])) == ({row["task"]}, {"mup_adamw"})


def test_a_verdict_of_several_conditions_leads_to_the_runs_that_these_judge(
    numbers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, methods, variants in (
        ("H1a", {"mup_schedulefree", "sp_schedulefree"}, False),
        ("H3", {"mup_schedulefree", "sp_schedulefree", "mup_adamw"}, False),
        ("H5", {"mup_schedulefree", "mup_adamw"}, True),
    ):
        _, runs = traced(numbers, f"p/{name}/cifar10-mlp", capsys)
        assert (set(runs["task"]), set(runs["method"])) == ({"cifar10-mlp"}, methods)
        assert runs["variant"].ne("").any() == variants


def test_of_a_study_with_hypotheses_the_verdicts_and_ranges_are_numbers_under_its_name(
    numbers: Path, copies: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not (copies[-1] / "hypotheses.yaml").exists()
    shutil.copyfile(copies[0] / "hypotheses.yaml", copies[-1] / "hypotheses.yaml")
    sign(copies[-1], "hypotheses.yaml")
    both = made(tmp_path / "numbers.json", copies)
    before, after = entries(numbers), entries(both)
    own = {key: each for key, each in after.items() if key not in before}
    assert all(key.startswith("follow_ups/") or " + " in key for key in own)
    assert {key: after[key] for key in before} == before
    for key, tasks in (
        ("verdict/H1a/vit-other-seeds", {"vit-other-seeds"}),
        ("p/H1a/gpt-other-seeds", {"gpt-other-seeds"}),
    ):
        _, runs = traced(both, f"follow_ups/{key}", capsys, copies)
        assert set(runs["task"]) == tasks
    alike = "cifar10-vit + vit-other-seeds/mup_schedulefree/drift"
    _, runs = traced(both, alike, capsys, copies)
    assert set(runs["task"]) == {"cifar10-vit", "vit-other-seeds"}
    parts = [after[key]["value"] for key in alike.replace(" + ", "/mup_schedulefree/drift ").split()]
    assert min(parts) < own[alike]["value"] < max(parts)
    assert trace(numbers, "follow_ups/verdict/H1a/vit-other-seeds") == 2


def test_the_papers_first_study_comes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its numbers have no name of a study before them."""
    words = ["numbers", "--frozen", *map(str, FOLDERS[::-1]), "--out", str(tmp_path / "numbers.json")]
    assert main(words) == 2
    assert f"begins with {FOLDERS[-1]}, which isn't judged" in capsys.readouterr().err


def test_a_number_of_no_run_says_why(numbers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for key, why in (("power", "the code says so"), ("coverage/drift/least", "of simulated studies")):
        assert trace(numbers, key) == 0
        [line] = said(capsys.readouterr().out, "runs")
        assert line.startswith(f"none: {why}")


def test_what_agrees_is_one_line_unless_all_is_asked_for(numbers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "--folders", str(FOLDERS[-1])]) == 0
    short = capsys.readouterr().out.splitlines()
    assert main(["trace", "--folders", str(FOLDERS[-1]), "--full"]) == 0
    full = capsys.readouterr().out.splitlines()
    [same] = [line for line in short if line.startswith("same: ")]
    assert [line for line in short if line != same] == [line for line in full if not line.endswith(": same")]
    for name in same.removeprefix(f"same: {FOLDERS[-1]}: ").split(", "):
        assert any(line.startswith(name.removeprefix("other ") + ": ") and line.endswith(": same") for line in full)
    assert trace(numbers, "drift/mup_adamw/most") == 0
    assert not re.search("  | ,|,,", capsys.readouterr().out)


def test_what_a_count_counts_is_what_its_source_matches(numbers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers of runs, which no table has: the rows with these values, by the words alone."""
    keys = ["diverged", "follow_ups/diverged", "runs/cifar10-mlp/mup_schedulefree"]
    for key in keys:
        assert trace(numbers, key) == 0
        found = capsys.readouterr().out
        assert int(said(found, "runs")[0].split()[0]) == entries(numbers)[key]["value"], key


def test_every_source_can_be_read(numbers: Path) -> None:
    """Tables have the columns and rows that sources name, but for those that are of no table; a cell is the number."""
    frames: dict[str, list[pd.DataFrame]] = {}
    rows: dict[tuple[str, ...], dict[tuple[str, ...], list[tuple[str, float]]]] = {}
    without = 0
    cells = of_tables(numbers)
    for key, entry in entries(numbers).items():
        source = Source.read(entry["source"])
        if not source.file.startswith("tables/"):
            without += 1
            continue
        if source.file not in frames:
            frames[source.file] = [pd.read_csv(folder / source.file) for folder in FOLDERS]
        for name in [*source.where, *filter(None, [source.column])]:
            assert all(name in frame for frame in frames[source.file]), (key, entry["source"])
        if key not in cells:
            continue
        kind = (source.file, source.column, *source.where)
        if kind not in rows:
            rows[kind] = {}
            for folder, frame in zip(FOLDERS, frames[source.file], strict=True):
                whole = frame.astype({"width": "Int64"}) if "width" in frame else frame
                named = zip(*(whole[name].astype(str) for name in source.where), strict=True)
                for names, cell in zip(named, frame[source.column], strict=True):
                    rows[kind].setdefault(names, []).append((folder.name, cell))
        found = rows[kind][tuple(source.where.values())]
        if source.file == "tables/pooled.csv":
            # A mean over tasks names none, so that several studies may have it; the key says whose the number is.
            mine = "confirm" if key.startswith("confirm/") else "data"
            found = [each for each in found if each[0] == mine]
        assert [cell for _, cell in found] == [entry["value"]], (key, entry["source"])
    assert 0 < without < len(entries(numbers)) / 5


def test_a_run_is_walked_back_by_its_id(numbers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = random.Random(0).choice(pq.read_table(FOLDERS[-1] / "runs/001.parquet")["run_id"].to_pylist())
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
    [
        ("drift/nope", "no key of"),
        ("drift/mup_adamw", "Did you mean"),
        ("confirm-vit/mup_schedulefree/drfit", "Did you mean confirm-vit/mup_schedulefree/drift"),
        ("tables/transfer.csv: nope, task=x", "'nope'"),
        ("tables/nope.csv", "There are: rows.parquet, provenance.json, verdicts.csv, calibration.csv"),
        ("tables/nope.csv: drift, task=x", "tables/transfer.csv"),
        ("tables/transfer.csv: drift, task=x", "no row of"),
    ],
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
    frame = pd.read_csv(path, dtype=str)
    [place] = frame.index[
        [all(row[name] == value for name, value in source.where.items()) for _, row in frame.iterrows()]
    ]
    lines = path.read_text().splitlines()
    [cells] = csv.reader([lines[1 + place]])
    column = list(frame).index(source.column)
    assert cells[column] == frame[source.column][place]
    cells[column] = cells[column][:-1] + str((int(cells[column][-1]) + 5) % 10)
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow(cells)
    lines[1 + place] = written.getvalue()
    path.write_text("\n".join(lines) + "\n")
    again = pd.read_csv(path, dtype=str)
    assert [(place, source.column)] == list(again.fillna("").ne(frame.fillna("")).stack().loc[lambda cell: cell].index)


@pytest.mark.parametrize("file", ["rows.parquet", "provenance.json", "tables/estimates.csv", "hypotheses.yaml"])
def test_a_file_that_is_missing_is_to_be_restored(
    numbers: Path, copies: list[Path], file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is frozen can't be made by the workflow."""
    (copies[0] / file).unlink()
    assert trace(numbers, KEY, folders=copies) in (1, 2)
    errors = capsys.readouterr().err
    assert file in errors
    assert "Restore it from version control" in errors
    assert "workflow" not in errors


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
    table = copies[-1] / "tables/transfer.csv"
    frame = pd.read_csv(table)
    row = frame["drift"].first_valid_index()
    frame.loc[row, "drift"] += 0.5
    frame.to_csv(table, index=False)
    sign(copies[-1], "tables/transfer.csv")
    assert main(["trace", "--folders", str(copies[-1])]) == 0
    assert main(["trace", "--folders", str(copies[-1]), "--recompute"]) == 1
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

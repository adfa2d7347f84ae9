"""Bad input to every command: one error that names the file and the cure, and no traceback."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from finished_study import SWEEPS, TASK, call, tiny_study
from survival import Tally

from mufree.study import record
from mufree.study.reading import RecordError, read_parquet

SWEEP = SWEEPS.format(task=TASK, method="sp_adamw", widths="16_32_64", seeds="0_1_2")
RUNS = "--rows @/rows.parquet --curves @/curves.parquet"
STUDY = "--study @/tiny.yaml"

READS: dict[str, tuple[str, ...]] = {
    f"collect {STUDY} --sweeps @/{SWEEPS} --out @/out": tuple(
        f"{SWEEP}/{name}.parquet" for name in ("rows", "curves", "timings")
    ),
    f"first-look {STUDY} --task {TASK} --sweeps @/{SWEEPS} --out @/out": (f"{SWEEP}/rows.parquet",),
    f"metrics {RUNS} --coordcheck @/coordcheck/{TASK}.parquet --out @/out": (
        *("rows.parquet", "curves.parquet", f"coordcheck/{TASK}.parquet"),
    ),
    f"figure loss_vs_lr coordcheck --task {TASK} {RUNS} --tables @/tables --out @/out": (
        *(
            "rows.parquet",
            "curves.parquet",
            "tables/loss.csv",
            "tables/optima.csv",
            "tables/regret.csv",
            "tables/coordcheck.csv",
        ),
    ),
    "overview --tables @/tables --rows @/rows.parquet --out @/out/best": (
        *("tables/optima.csv", "tables/transfer.csv", "tables/pooled.csv", "rows.parquet"),
    ),
    f"provenance {STUDY} --rows @/rows.parquet --timings @/timings.parquet --manifests @/data/manifest.json"
    " --out @/out.json": ("rows.parquet", "timings.parquet", "data/manifest.json"),
    f"report {STUDY} --rows @/rows.parquet --tables @/tables --figures @/figures --provenance @/provenance.json"
    " --verdicts @/verdicts.csv --out @/out": (
        *("rows.parquet", "tables/regret.csv", "provenance.json", "verdicts.csv", "tiny.yaml"),
    ),
    "verdicts --estimates @/tables/estimates.csv --hypotheses @/hypotheses.yaml --out @/out.csv": (
        *("tables/estimates.csv", "hypotheses.yaml"),
    ),
    f"freeze {STUDY} --hypotheses @/hypotheses.yaml --rows @/rows.parquet --timings @/timings.parquet --store @/runs"
    f" --coordcheck @/coordcheck/{TASK}.parquet --provenance @/provenance.json --out @/out": (
        *("rows.parquet", "timings.parquet", f"coordcheck/{TASK}.parquet", "provenance.json"),
    ),
    "check-frozen @/frozen --recompute --thaw @/thawed --out @/out.json": (
        *("frozen/MANIFEST.json", "frozen/rows.parquet", "frozen/runs/001.parquet", "frozen/tables/optima.csv"),
    ),
    "numbers --frozen @/frozen --out @/out.json": ("frozen/hypotheses.yaml", "frozen/MANIFEST.json"),
    "crate @/frozen --published 2026-01-02 --out @/out": ("frozen/MANIFEST.json",),
    f"trace {TASK}/mup_schedulefree/best_loss/w16 --folders @/frozen --numbers @/numbers.json": (
        *("numbers.json", "frozen/MANIFEST.json", "frozen/rows.parquet", "frozen/runs/001.parquet"),
        *("frozen/provenance.json", "frozen/tables/estimates.csv", "frozen/hypotheses.yaml", "frozen/study.yaml"),
    ),
    "rerun --frozen @/frozen --prepared @/prepared --out @/out": ("frozen/MANIFEST.json",),
    f"power --pilot @/rows.parquet {STUDY} --simulations 20 --out @/out.csv": ("rows.parquet", "tiny.yaml"),
    "usage --timings @/timings.parquet --store @/runs --since 0 --cores 1": ("timings.parquet",),
    "answer --numbers @/numbers.json --answer @/answer.md @/README.md": ("numbers.json", "README.md"),
    "unpack @/tiny.yaml --store @/again --packs @/packs": ("packs/001.parquet", "tiny.yaml"),
    f"sweep {STUDY} --sweep {TASK}.sp_adamw.w16_32_64.s0_1_2 --data @/data --store @/again --out @/out": (
        *("data/manifest.json", "data/train_x.npy"),
    ),
}
"""Commands that end well on the finished study, and the files of it that they read."""

TEXT = "# A title\n\nSome words, with a comma, and more.\n"


def _lines(data: bytes) -> list[str]:
    return data.decode().splitlines()


Damage = Callable[[bytes], bytes | None]
ANY: dict[str, Damage] = {
    "empty": lambda data: b"",
    # a CSV that is cut after a row is a shorter table, which nothing tells from a whole one
    "cut": lambda data: data[: len(data) // 2].removesuffix(b"\n"),
    "other": lambda data: TEXT.encode(),
    "no text": lambda data: b"caf\xe9,\x00\xff\n1,2\n",
    "missing": lambda data: None,
}
OF: dict[str, dict[str, Damage]] = {
    ".parquet": {"flipped": lambda data: data[:200] + bytes([data[200] ^ 255]) + data[201:]},
    ".npy": {"flipped": lambda data: data[:200] + bytes([data[200] ^ 255]) + data[201:]},
    ".csv": {
        "no row": lambda data: f"{_lines(data)[0]}\n".encode(),
        "no column": lambda data: "".join(f"{line.partition(',')[2]}\n" for line in _lines(data)).encode(),
        "words": lambda data: "\n".join(
            [(lines := _lines(data))[0], ",".join("x" * (lines[0].count(",") + 1)), *lines[1:], ""]
        ).encode(),
        "another table": lambda data: b"task,optimizer,width,n_pairs,n_equal\na,b,1,2,3\n",
    },
    ".json": {
        "a list": lambda data: b"[]",
        "nothing in it": lambda data: b"{}",
        "a text": lambda data: b'"x"',
        "null": lambda data: b"null",
        "nested": lambda data: b"[" * 100_000,
    },
    ".yaml": {"a list": lambda data: b"[]", "a text": lambda data: b"x"},
}
QUICK = ("empty", "flipped", "words", "no row", "nothing in it", "a list")


def _cases() -> Iterator[object]:
    for words, files in READS.items():
        for file in files:
            for damage in [*ANY, *OF.get(Path(file).suffix, ())]:
                if (file, damage) == ("tables/pooled.csv", "no row"):
                    continue  # that of a study with fewer than three tasks
                marks = () if damage in QUICK else (pytest.mark.whole,)
                yield pytest.param(words, file, damage, marks=marks, id=f"{words.split()[0]}-{file}-{damage}")


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """The finished study once more; its files are links, so that a test removes what it writes anew."""
    shutil.copytree(finished, tmp_path / "study", copy_function=os.link)
    (tmp_path / "study/README.md").write_text("A\n<!-- answer -->\n<!-- /answer -->\n")
    (tmp_path / "study/answer.md").write_text("{runs}\n")
    return tmp_path / "study"


def put(path: Path, data: bytes | None) -> None:
    """In place of a file; in a frozen folder signed, as if it had been frozen so."""
    path.unlink()
    if data is None:
        return
    path.write_bytes(data)
    manifest = next((parent / "MANIFEST.json" for parent in path.parents if parent.name == "frozen"), path)
    if manifest != path:
        signed = json.loads(manifest.read_text())
        name = path.relative_to(manifest.parent).as_posix()
        signed["files"][name]["sha256"] = hashlib.sha256(data).hexdigest()
        put(manifest, json.dumps(signed).encode())


def one_error(folder: Path, words: str, code: int, capsys: pytest.CaptureFixture[str], *named: str) -> str:
    """The only thing that a command says, which is why it ends with this code."""
    capsys.readouterr()
    assert call(folder, words) == code
    said = capsys.readouterr().err
    command = words.split()[0]
    assert said.startswith(f"mufree {command}: ")
    assert said.count(f"mufree {command}:") == 1
    assert "Traceback" not in said
    assert "  File " not in said
    for name in named:
        assert name in said, said
    return said


@pytest.mark.bad_input("a damaged file, to each command that reads it")
@pytest.mark.parametrize(("words", "file", "damage"), list(_cases()))
def test_a_damaged_file_is_one_error_that_names_it(
    folder: Path, words: str, file: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / file
    harm = ANY.get(damage) or OF[path.suffix][damage]
    put(path, harm(path.read_bytes()))
    before = sorted(folder.rglob("out*"))
    one_error(folder, words, 2 if path.suffix == ".yaml" else 1, capsys, path.name)
    assert not [found for found in folder.rglob("out*") if found not in before and found.is_file()]


@pytest.mark.parametrize(
    # A report needs figures, and rerun trains: tests/workflow runs them.
    "words",
    [words for words in READS if words.split()[0] not in ("report", "rerun")],
    ids=lambda words: words.split()[0],
)
def test_undamaged_they_end_well(folder: Path, words: str) -> None:
    """Or the errors above would say nothing."""
    assert call(folder, words) == 0


# --- what is wrong with a call ---------------------------------------------------------------------------------------

FIGURE = f"figure loss_vs_lr --task {TASK} {RUNS}"


@pytest.mark.bad_input("a call that can't be meant")
@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (f"figure --task nope {RUNS} --tables @/tables --out @/out", 2, ["'nope'", TASK]),
        (f"{FIGURE} --tables @/figures --out @/out", 1, ["figures/loss.csv is missing"]),
        ("metrics --rows @/curves.parquet --curves @/rows.parquet --out @/out", 1, ["curves.parquet has no column"]),
        ("metrics --rows @/README.md --curves @/curves.parquet --out @/out", 1, ["README.md", "Parquet"]),
        (f"power --pilot @/README.md {STUDY} --out @/out.csv", 1, ["README.md", "Parquet"]),
        ("metrics --rows @/runs --curves @/curves.parquet --out @/out", 1, ["runs can't be read", "Is a directory"]),
        ("numbers --frozen @/frozen @/frozen --out @/out", 2, ["frozen twice"]),
        ("numbers --frozen @/frozen @/runs/../frozen --out @/out", 2, ["are the same study, tiny"]),
        ("check-frozen @/frozen @/runs/../frozen --thaw @/thawed --out @/out", 2, ["are the same study, tiny"]),
        ("numbers --frozen @/tables --out @/out", 1, ["tables/MANIFEST.json", "freeze"]),
        (
            f"report {STUDY} --rows @/rows.parquet --tables @/tables --figures @/figures --provenance @/provenance.json"
            " --verdicts @/tables/control.csv --out @/out",
            1,
            ["control.csv has no column id"],
        ),
        ("plan @/tiny.yaml --store @/nope", 2, ["/nope is no folder", "results/NAME/runs"]),
        ("pack @/tiny.yaml --store @/nope --packs @/packs", 2, ["/nope is no folder"]),
        ("part @/tiny.yaml --store @/nope --out @/tiny_part.yaml", 2, ["/nope is no folder"]),
        ("usage --timings @/timings.parquet --store @/nope --since 0 --cores 1", 2, ["/nope is no folder"]),
        ("unpack @/tiny.yaml --store @/again --packs @/nope", 1, ["/nope has no pack", "mufree pack"]),
        (
            "report --study @/nope.yaml --rows @/rows.parquet --tables @/tables --figures @/figures --provenance "
            "@/provenance.json --out @/out",
            2,
            ["nope.yaml can't be read: No such file"],
        ),
        ("answer --numbers @/numbers.json --answer @/answer.md @/answer.md", 1, ["answer.md lacks the lines"]),
    ],
)
def test_a_call_that_cannot_be_meant(
    folder: Path, words: str, code: int, named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "figures").mkdir()
    one_error(folder, words, code, capsys, *named)


def test_what_snakemake_holds_to_be_up_to_date_is_made_anew_once_it_is_deleted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (folder / "rows.parquet").read_bytes()
    put(folder / "rows.parquet", whole[:100])
    metrics = f"metrics {RUNS} --out @/out"
    one_error(folder, metrics, 1, capsys, "rows.parquet", "delete this one, and the workflow makes it anew")
    (folder / "rows.parquet").unlink()
    assert call(folder, f"collect {STUDY} --sweeps @/{SWEEPS} --out @/again") == 0
    assert (folder / "again/rows.parquet").read_bytes() == whole


def test_rows_that_an_older_version_froze_can_not_be_frozen_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = pq.read_table(folder / "frozen/rows.parquet").drop_columns("engine")
    (folder / "rows.parquet").unlink()
    record.write_table(folder / "rows.parquet", older)
    words = next(words for words in READS if words.startswith("freeze"))
    one_error(folder, words, 1, capsys, "rows.parquet has no column engine")


def test_a_study_is_judged_where_it_has_hypotheses_and_does_not_lose_them_unseen(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = next(words for words in READS if words.startswith("freeze"))
    words = judged.replace("--hypotheses @/hypotheses.yaml ", "")
    one_error(folder, words.replace("@/out", "@/frozen"), 1, capsys, "frozen is judged by its hypotheses.yaml")
    thaw = "check-frozen @/out --thaw @/thawed --out @/checked.json"
    for freeze, verdicts in ((judged, True), (words, False)):
        shutil.rmtree(folder / "out", ignore_errors=True)
        assert call(folder, freeze) == 0
        assert ("not judged" in capsys.readouterr().out) != verdicts
        assert call(folder, thaw) == 0
        assert list((folder / "thawed").rglob("verdicts.csv")) == [folder / "thawed/tiny/verdicts.csv"] * verdicts
        assert call(folder, "numbers --frozen @/out --out @/numbers_of_it.json") == 0
        numbers = json.loads((folder / "numbers_of_it.json").read_text())["numbers"]
        assert any(key.startswith("verdict/") for key in numbers) == verdicts


def test_what_belongs_to_another_study_is_not_frozen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = next(words for words in READS if words.startswith("freeze"))
    other = json.loads((folder / "provenance.json").read_text()) | {"study": "other"}
    (folder / "other.json").write_text(json.dumps(other))
    foreign = words.replace("@/provenance.json", "@/other.json")
    one_error(folder, foreign, 1, capsys, "other.json is of study other, and not of tiny")
    checks = pq.read_table(folder / f"coordcheck/{TASK}.parquet").to_pandas().assign(task="nope")
    checks.to_parquet(folder / "nope.parquet")
    foreign = words.replace(f"@/coordcheck/{TASK}.parquet", "@/nope.parquet")
    one_error(folder, foreign, 1, capsys, "nope.parquet is of nope, and tiny has")
    one_error(folder, f"{words} --power @/tables/optima.csv", 1, capsys, "optima.csv has no column planned")


def test_frozen_again_a_study_keeps_what_is_not_computed_from_its_runs(folder: Path) -> None:
    words = next(words for words in READS if words.startswith("freeze"))
    noise = folder / "noise.csv"
    noise.write_text(f"task,se\n{TASK},0.25\n")
    assert call(folder, words) == 0
    assert call(folder, "freeze-tables @/out --validation-noise @/noise.csv") == 0
    assert call(folder, words) == 0
    assert (folder / "out/validation_noise.csv").read_text() == noise.read_text()
    assert call(folder, "check-frozen @/out --out @/checked.json") == 0


@pytest.mark.parametrize("key", ["study", "run_set", "runs", "numerics", "files"])
def test_a_manifest_has_what_is_read_of_it(folder: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((folder / "frozen/MANIFEST.json").read_text())
    del manifest[key]
    put(folder / "frozen/MANIFEST.json", json.dumps(manifest).encode())
    one_error(folder, "check-frozen @/frozen --out @/out.json", 1, capsys, f"MANIFEST.json: it has no {key}")


def test_times_of_other_runs_are_not_frozen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = pq.read_table(folder / "timings.parquet")
    (folder / "timings.parquet").unlink()
    record.write_table(folder / "timings.parquet", times.slice(1))
    words = next(words for words in READS if words.startswith("freeze"))
    one_error(folder, words, 1, capsys, "the times are not those of the rows' runs")


# --- sizes that nobody means -----------------------------------------------------------------------------------------


@pytest.mark.bad_input("a size that nobody means")
@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        ("grids 0 widths", [16, 10**9], ["at width 1000000000", "weights"]),
        ("tasks photo training batch_size", 2**31 - 1, ["activations"]),
        ("tasks photo model depth", 10**9, ["tasks.photo.model.mlp.depth", "1000"]),
        ("grids 0 seeds", list(range(40_000)), ["1,440,000 runs", "1,000,000"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_absurd_sizes_are_no_plan(
    tmp_path: Path, where: str, value: object, named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tiny_study()
    place = plain
    *path, last = [int(part) if part.isdigit() else part for part in where.split()]
    for part in path:
        place = place[part]
    place[last] = value
    (tmp_path / "tiny.yaml").write_text(yaml.dump(plain, Dumper=yaml.CSafeDumper))
    one_error(tmp_path, "plan @/tiny.yaml", 2, capsys, "tiny.yaml", *named)


@pytest.mark.parametrize(
    ("name", "key", "count", "there"),
    [
        ("photo_patches", "train_examples", 999_999_999, 2_078_363),
        pytest.param("wiki_sample", "articles", 105, 104, marks=pytest.mark.whole),
    ],
)
def test_more_examples_than_there_are(
    tmp_path: Path, name: str, key: str, count: int, there: int, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = json.dumps({"name": name, key: count}, separators=(",", ":"))
    said = one_error(tmp_path, f"data --dataset {dataset} --out @/data", 1, capsys, f"{key} is {count}")
    assert str(there) in said
    assert not (tmp_path / "data").exists()


# --- bits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "schema"),
    [("rows", record.COLLECTED_SCHEMA), ("curves", record.CURVE_SCHEMA), ("timings", record.TIMING_SCHEMA)],
    ids=["rows", "curves", "timings"],
)
@pytest.mark.parametrize("count", [100, pytest.param(3000, marks=pytest.mark.whole)])
def test_a_flipped_byte_is_found_or_changes_nothing(
    finished: Path,
    tmp_path: Path,
    name: str,
    schema: object,
    count: int,
    tally: Tally,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, path = (finished / f"{name}.parquet").read_bytes(), tmp_path / "flipped.parquet"
    whole = read_parquet(finished / f"{name}.parquet", schema.names)
    found = 0
    few, places = (set(range(0, len(data), max(1, len(data) // most))) for most in (100, count))
    places = sorted(places - few if count > 100 else few)
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            read = read_parquet(path, schema.names)
            # Types may be others that hold the same, such as text without a dictionary.
            assert read.equals(whole) or str(read.to_pylist()) == str(whole.to_pylist()), f"byte {place} of {len(data)}"
        except RecordError as error:
            found += str(path) in str(error)
    tally.inputs("a flipped byte of a table", found)
    with capsys.disabled():
        print(f" {name}: {found} of {len(places)} flipped bytes found, the others change nothing", end="")
    assert found > len(places) / 3

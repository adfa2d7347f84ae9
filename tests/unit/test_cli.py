"""The commands that rules call, by hand: what they leave, what they say, how they fail."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from studies import study, with_grid

from mufree.cli import main
from mufree.cli.commands import app
from mufree.cli.inputs import UserError, load_study
from mufree.study import record

COMMANDS = (
    "plan",
    "data",
    "sweep",
    "coordcheck",
    "tune",
    "collect",
    "metrics",
    "figure",
    "provenance",
    "report",
    "verdicts",
    "freeze",
    "freeze-tables",
    "seeds",
    "check-frozen",
    "numbers",
    "trace",
    "crate",
    "supplement",
    "overview",
    "paper",
    "answer",
    "pack",
    "unpack",
    "part",
    "lease",
    "calibrate",
    "power",
    "first-look",
    "rerun",
    "usage",
    "schema",
)


def write_study(folder: Path, plain: dict[str, object] | None = None) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(plain or small_study()))
    return path


def small_study() -> dict[str, object]:
    plain = with_grid(methods=["sp_adamw", "mup_schedulefree"])
    plain["tasks"]["photo"]["dataset"] = {
        "name": "photo_patches",
        "train_examples": 64,
        "valid_examples": 32,
        "test_examples": 32,
    }
    plain["tasks"]["photo"]["training"] |= {"steps": 4, "evaluations": 2, "eval_examples": 16}
    return plain


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    arguments = ["data", "--study", str(write_study(folder)), "--task", "photo", "--out", str(folder / "photo")]
    assert main(arguments) == 0
    return folder / "photo"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"example:\n  mufree {command}" in capsys.readouterr().out


def test_help_lists_the_commands_and_loads_none_of_what_they_need(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys, mufree.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "pandas", "matplotlib", "pyarrow", "pydantic", "yaml"} & set(loaded)
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert set(COMMANDS) == set(re.findall(r"^  ([a-z]\S*)", said, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", ["mufree: name a command", "`mufree --help`"]),
        ("plam", ["plam", "plan"]),
        ("plan", ["mufree plan: ", "STUDY", "`mufree plan --help`"]),
        ("plan s.yaml --cores four", ["--cores", "four"]),
        ("plan s.yaml --device gpu", ["--device", "gpu", "cuda"]),
        ("plan s.yaml --no-sweeps", ["--no-sweeps"]),
        ("plan s.yaml other.yaml", ["other.yaml"]),
        ("check-frozen --out checked.json", ["FROZEN"]),
        ("calibrate --seeds --out table.csv", ["--seeds"]),
    ],
)
def test_wrong_arguments_are_a_usage_error(
    arguments: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments.split())
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert "Traceback" not in said


def test_a_list_ends_at_the_next_option_and_may_be_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "metrics --rows no.parquet --curves no.parquet"
    for checks in ("", " --coordcheck", " --coordcheck a.parquet b.parquet"):
        assert main(f"{rows}{checks} --out {tmp_path}".split()) == 1
        assert "no.parquet" in capsys.readouterr().err


def test_cores_and_the_end_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    where = ["--runs", "[]", "--data", "d", "--store", "s", "--out", "o"]
    monkeypatch.setenv("MUFREE_CORES", "3")
    monkeypatch.setenv("MUFREE_UNTIL", "12.5")
    for more, cores in (([], 3), (["--cores", "2"], 2)):
        _, found, _ = app.parse_args(["sweep", *where, *more])
        assert (found.arguments["cores"], found.arguments["until"]) == (cores, 12.5)


def sweep(folder: Path, data: Path, *extra: str) -> int:
    where = ["--data", str(data), "--store", str(folder / "runs"), "--out", str(folder / "sweep")]
    return main(
        ["sweep", "--study", str(write_study(folder)), "--sweep", "photo.mup_schedulefree.w32.s0", *where, *extra]
    )


def test_a_sweep_trains_what_is_missing_and_writes_what_is_there(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(tmp_path, data) == 0
    assert "2 of 2 runs trained" in capsys.readouterr().out
    first = {name: (tmp_path / f"sweep/{name}.parquet").read_bytes() for name in ("rows", "curves", "timings")}
    (lost,) = (tmp_path / "runs").glob("*lr-9*")
    lost.unlink()
    assert sweep(tmp_path, data) == 0
    assert "1 of 2 runs trained" in capsys.readouterr().out
    for name in ("rows", "curves"):
        assert (tmp_path / f"sweep/{name}.parquet").read_bytes() == first[name]
    assert sweep(tmp_path, data) == 0
    assert "0 of 2 runs trained" in capsys.readouterr().out
    assert pq.read_table(tmp_path / "sweep/rows.parquet")["log2_lr"].to_pylist() == [-9, -8]


def test_progress_is_that_of_the_whole_study(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path, data) == 0
    assert "study" not in capsys.readouterr().out
    assert sweep(tmp_path, data, "--progress") == 0
    assert "0 of 2 runs trained" in (said := capsys.readouterr().out)
    assert "; study: 2 done, 6 to train, about" in said


def test_a_device_that_is_not_there_is_no_silent_cpu(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    assert sweep(tmp_path, data, "--device", "cuda") == 1
    assert "device cuda" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*"))


def test_plan_counts_what_the_store_has(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_study(tmp_path)
    store = ["--store", str(tmp_path / "runs")]
    assert main(["plan", str(path), *store]) == 2
    assert f"--store {tmp_path / 'runs'} is no folder" in capsys.readouterr().err
    (tmp_path / "runs").mkdir()
    assert main(["plan", str(path), *store]) == 0
    said = capsys.readouterr().out
    assert "8 runs in 4 sweeps, 0 done, 8 to train" in said
    assert "on 1 core, by some steps of each network on this machine" in said
    sweep(tmp_path, data)
    capsys.readouterr()
    assert main(["plan", str(path), *store]) == 0
    said = capsys.readouterr().out
    assert "8 runs in 4 sweeps, 2 done, 6 to train" in said
    assert "by some steps of each network" not in said  # finished runs tell


def test_collect_names_the_sweep_that_is_missing(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pattern = str(tmp_path / "{task}.{method}.w{widths}.s{seeds}")
    arguments = ["collect", "--study", str(write_study(tmp_path)), "--sweeps", pattern, "--out", str(tmp_path / "all")]
    assert main(arguments) == 1
    assert "photo.sp_adamw.w16.s0" in capsys.readouterr().err
    assert not (tmp_path / "all").exists()


def test_runs_of_several_processors_are_collected_and_told(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = small_study()
    plain["grids"] = [
        {"tasks": ["photo"], "methods": ["mup_adamw"], "widths": [16], "log2_lrs": [-9, -8], "seeds": [0]}
    ]
    study = str(write_study(tmp_path, plain))
    out = tmp_path / "sweep"
    sweeps = ["--study", study, "--sweep", "photo.mup_adamw.w16.s0", "--data", str(data), "--store", str(tmp_path)]
    assert main(["sweep", *sweeps, "--out", str(out)]) == 0
    collect = ["collect", "--study", study, "--sweeps", str(out), "--out", str(tmp_path / "all")]
    assert main(collect) == 0
    assert not [each for each in caplog.records if each.levelname == "WARNING"]
    times = pq.read_table(out / "timings.parquet")
    other = pa.array(["another", times["cpu"][1].as_py()])
    record.write_table(out / "timings.parquet", times.set_column(times.column_names.index("cpu"), "cpu", other))
    assert main(collect) == 0
    assert "The runs of photo are of several processors: " in caplog.text


def test_collected_rows_have_variants(tmp_path: Path, data: Path) -> None:
    plain = small_study()
    plain["grids"] = [
        {"tasks": ["photo"], "methods": ["mup_adamw"], "widths": [16], "log2_lrs": [-9], "seeds": [0], **more}
        for more in ({}, {"weight_decays": [0.05], "weight_decay_scalings": ["coupled", "independent"]})
    ]
    path = write_study(tmp_path, plain)
    pattern = str(tmp_path / "{task}.{method}.w{widths}.s{seeds}")
    out = pattern.format(task="photo", method="mup_adamw", widths=16, seeds=0)
    where = ["--data", str(data), "--store", str(tmp_path / "runs"), "--out", out]
    assert main(["sweep", "--study", str(path), "--sweep", "photo.mup_adamw.w16.s0", *where]) == 0
    assert main(["collect", "--study", str(path), "--sweeps", pattern, "--out", str(tmp_path / "all")]) == 0
    rows = pq.read_table(tmp_path / "all/rows.parquet")
    assert rows["variant"].to_pylist() == ["", "weight_decay=0.05", "weight_decay=0.05, independent"]
    assert rows["horizon"].to_pylist() == [1.0, 1.0, 1.0]
    first, coupled, independent = rows["val_loss"].to_pylist()
    assert first != coupled == independent  # at base width, where the scaling changes nothing


def test_the_coordinate_check_has_a_row_for_every_method_and_scales_each_model_by_its_own_width(
    tmp_path: Path, data: Path
) -> None:
    plain = small_study()
    plain["methods"] = {
        "sp_wsd": {"parametrization": "sp", "optimizer": "adamw", "schedule": "wsd", "average": "ema"},
        "sp_embedding": {
            "parametrization": "sp",
            "optimizer": "adamw",
            "schedule": "cosine",
            "embedding_lr": "times_width",
        },
        "sp_radam": {"parametrization": "sp", "optimizer": "radam_schedulefree", "schedule": "constant"},
    }
    plain["grids"][0]["methods"] = ["sp_adamw", *plain["methods"]]
    plain["tasks"]["photo"]["coordinate_check"] = {"steps": 2, "seeds": [0], "batch_size": 4}
    out = tmp_path / "check.parquet"
    where = ["--task", "photo", "--data", str(data), "--out", str(out)]
    assert main(["coordcheck", "--study", str(write_study(tmp_path, plain)), *where]) == 0
    frame = pq.read_table(out).to_pandas()
    assert list(frame["method"].unique()) == plain["grids"][0]["methods"]
    frame = frame[frame["at"] == "x"].set_index(["method", "module", "width", "step"]).sort_index()
    assert frame.loc["sp_adamw"].equals(frame.loc["sp_wsd"])  # neither schedule nor average matters in it
    change = frame["mean_abs_change"]
    first = change["sp_embedding", "hidden.0"] / change["sp_adamw", "hidden.0"]
    assert first[16, 2] == 1.0
    assert first[32, 2] == pytest.approx(2.0, rel=0.05)  # twice the rate, at twice the base width
    assert frame.index.unique("step").tolist() == [0, 1, 2]
    assert (change["sp_radam", "readout"].unstack("step") > 0).to_numpy().tolist() == [[False, True, True]] * 2


def test_a_coordinate_check_takes_the_data_that_its_task_asks_for(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = small_study()
    plain["tasks"]["photo"]["dataset"]["valid_examples"] = 7
    where = ["--task", "photo", "--data", str(data), "--out", str(tmp_path / "check.parquet")]
    assert main(["coordcheck", "--study", str(write_study(tmp_path, plain)), *where]) == 1
    assert "was prepared as" in (said := capsys.readouterr().err)
    assert "photo asks for" in said


def test_a_task_of_one_width_is_told_to_name_widths_for_its_coordinate_check(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = small_study()
    for grid in plain["grids"]:
        grid["widths"] = [16]
    where = ["--task", "photo", "--data", str(data), "--out", str(tmp_path / "check.parquet")]
    assert main(["coordcheck", "--study", str(write_study(tmp_path, plain)), *where]) == 2
    assert "task photo has the width 16 alone" in (said := capsys.readouterr().err)
    assert "coordinate_check: {widths: [16, 32]}" in said


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("plan {folder}/absent.yaml", 2, ["absent.yaml", "Known: tiny"]),
        ("sweep --study {study} --sweep photo.x --data . --store . --out .", 2, ["photo.x"]),
        ("sweep --runs [{{}}] --data . --store . --out .", 2, ["--runs has 11 mistake(s)", "0.task: Field required"]),
        ("data --dataset {{ --out {folder}/out", 2, ["--dataset has 1 mistake(s)", "Invalid JSON"]),
        ("sweep --runs [] --progress --data . --store . --out .", 2, ["--progress", "--study and --sweep"]),
        ("sweep --runs [] --data . --store . --out .", 2, ["--runs names no run"]),
        ("sweep --study {study} --data . --store . --out .", 2, ["--sweep", "--task"]),
        ("sweep --study {study} --task photo --minutes nan --data . --store . --out .", 2, ["--minutes nan"]),
        ("sweep --study {study} --task photo --until inf --data . --store . --out .", 2, ["--until inf"]),
        ("sweep --study {study} --task photo --checkpoint-minutes -1 --data . --store . --out .", 2, ["minutes -1"]),
        ("pack {study} --store . --packs {folder}/packs --most-mb nan", 2, ["--most-mb nan"]),
        ("pack {study} --store . --packs {folder}/packs --most-mb 0", 2, ["--most-mb 0"]),
        ("part {study} --store . --out {study}", 2, ["wasn't made by `mufree part`"]),
        ("calibrate --simulations 0 --out {folder}/out.csv", 2, ["one simulation or more"]),
        ("calibrate --seeds 1 --out {folder}/out.csv", 2, ["two seeds or more"]),
        ("plan {folder}/none/absent.yaml", 2, ["none/absent.yaml. No study is in that folder"]),
        ("plan {study} --part 1", 2, ["tiny has no part 1. Known: none"]),
        ("sweep --task photo --data . --store . --out .", 2, ["--task is of a study; give --study"]),
        ("sweep --study {study} --task photo --sweep x --data . --store . --out .", 2, ["neither --runs nor --sweep"]),
        ("sweep --study {study} --task phto --data . --store . --out .", 2, ["'phto'", "Known: photo"]),
        ("lease {study} --part 2 --out {folder}/out", 2, ["tiny has no part 2"]),
        ("data --study {study} --task phto --out {folder}/out", 2, ["'phto'", "Known: photo"]),
        (
            "sweep --study {study} --sweep photo.sp_adamw.w16.s0 --data {folder}/no --store . --out .",
            1,
            ["no/manifest.json", "mufree data"],
        ),
        ("metrics --rows {folder}/no.parquet --curves {folder}/no.parquet --out {folder}", 1, ["no.parquet"]),
    ],
)
def test_mistakes_are_said_without_a_traceback(
    tmp_path: Path, arguments: str, code: int, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path)
    assert main(arguments.format(folder=tmp_path, study=path).split()) == code
    said = capsys.readouterr().err
    for word in words:
        assert word in said
    assert "Traceback" not in said


def test_a_study_must_bear_its_files_name(tmp_path: Path) -> None:
    path = write_study(tmp_path, study(name="other"))
    with pytest.raises(UserError, match="other"):
        load_study(path)


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Study"


def test_a_sweep_that_changed_since_it_was_planned_is_not_trained(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data", str(data), "--store", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    sweep = ["sweep", "--study", str(write_study(tmp_path)), "--sweep", "photo.sp_adamw.w16.s0", *where]
    assert main([*sweep, "--digest", "0123456789ab"]) == 1
    assert "0123456789ab was planned" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_answer_goes_between_its_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers, readme, words = (tmp_path / name for name in ("numbers.json", "README.md", "answer.md"))
    found = {"a/drift": {"digits": "+0.1", "interval": "[0.0, +0.2]"}}
    numbers.write_text(json.dumps({"numbers": found}))
    readme.write_text("# A\n<!-- answer -->\nold\n<!-- /answer -->\nB\n")
    words.write_text("It moves by {a/drift}.\n\n| {a/drift:} |\n")
    command = ["answer", "--numbers", str(numbers), "--answer", str(words), str(readme)]
    for _ in range(2):
        assert main(command) == 0
        answer = "It moves by +0.1.\n\n| +0.1 [0.0, +0.2] |"
        assert readme.read_text() == f"# A\n<!-- answer -->\n{answer}\n<!-- /answer -->\nB\n"
    words.write_text("{b/drift}")
    assert main(command) == 1
    assert "wants the number b/drift" in capsys.readouterr().err
    readme.write_text("# A\n<!-- answer -->\nB\n")
    words.write_text("")
    assert main(command) == 1
    assert "lacks the lines" in capsys.readouterr().err
    assert readme.read_text() == "# A\n<!-- answer -->\nB\n"

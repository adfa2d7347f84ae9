"""The article from a frozen study: built from that alone, the same bytes each time, and never past what the runs say."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from checkouts import ROOT, Checkout

pytestmark = [pytest.mark.slow, pytest.mark.whole]  # the claims alone are tested by `make test`, too

DATA = Path("paper/data")
BUILD = Path("results/paper")
FOLLOW_UPS = Path("paper/follow_ups")
ANALYSIS = {
    *(
        "check_frozen",
        "recompute",
        "paper_verdicts",
        "numbers",
        "paper_figures",
        "follow_up_figures",
        "claims",
        "paper",
    ),
}


@pytest.fixture(scope="module")
def built(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy in which the smoke study is frozen, as its own follow-up as well, and the article built; all else is gone."""
    project = Checkout(tmp_path_factory.mktemp("paper") / "checkout")
    shutil.copytree(finished.path, project.path)
    for folder in (DATA, FOLLOW_UPS):
        shutil.rmtree(project.path / folder, ignore_errors=True)
    shutil.copytree(ROOT / "tests/claims", project.path / "tests/claims", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "pyproject.toml", project.path)
    project.snakemake("freeze")
    shutil.copytree(project.path / DATA, project.path / FOLLOW_UPS)
    shutil.rmtree(project.path / "results")
    project.snakemake("paper")
    return project


@pytest.fixture
def copy(built: Checkout, tmp_path: Path) -> Checkout:
    """A copy of it to spoil."""
    shutil.copytree(built.path, tmp_path / "checkout")
    return Checkout(tmp_path / "checkout")


def sign(project: Checkout) -> None:
    """Digest all frozen files anew, as someone would who wants a change to go unseen."""
    path = project.path / DATA / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    for name, file in manifest["files"].items():
        content = (project.path / DATA / name).read_bytes()
        file |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    path.write_text(json.dumps(manifest))


def change(project: Checkout, table: str, column: str, value: object) -> None:
    """Change one number, in the first row of a frozen table."""
    path = project.path / DATA / "tables" / f"{table}.csv"
    frame = pd.read_csv(path)
    frame[column] = frame[column].astype(object)
    frame.loc[0, column] = value
    frame.to_csv(path, index=False)


def mufree(project: Checkout, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from mufree.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, cwd=project.path, env=project.environment, capture_output=True, text=True, check=False
    )


def make_numbers(project: Checkout) -> dict[str, list[str]]:
    """The computed sentences, by the two commands that make them."""
    estimates, hypotheses = str(DATA / "tables/estimates.csv"), str(DATA / "hypotheses.yaml")
    verdicts = str(BUILD / "verdicts.csv")
    for arguments in (
        ["verdicts", "--estimates", estimates, "--hypotheses", hypotheses, "--out", verdicts],
        ["numbers", "--frozen", str(DATA), "--verdicts", verdicts, "--out", str(BUILD)],
    ):
        done = mufree(project, *arguments)
        assert done.returncode == 0, done.stderr
    sentences: dict[str, list[str]] = json.loads((project.path / BUILD / "numbers.json").read_text())["sentences"]
    return sentences


# --- the runs themselves ---------------------------------------------------------------------------------------------


def test_frozen_runs_come_out_again_and_a_changed_one_is_found(finished: Checkout, copy: Checkout) -> None:
    again = ["rerun", "--frozen", str(DATA), "--prepared", str(finished.path / "results/prepared")]
    again += ["--share", "0.1", "--out", "results/rerun"]
    done = mufree(copy, *again)
    assert (done.returncode, "6 of 61 runs" in done.stdout) == (0, True), done.stderr
    chosen = json.loads((copy.path / "results/rerun/rerun.json").read_text())["runs"]
    path = copy.path / DATA / "rows.parquet"
    rows = pd.read_parquet(path)
    rows.loc[rows["run_id"] == chosen[0], "train_loss"] *= 1 + 2**-50
    rows.to_parquet(path)
    sign(copy)
    done = mufree(copy, *again)
    assert done.returncode == 1
    assert f"1 of 6 runs came out differently, such as {chosen[0]}" in done.stderr


# --- what it leaves --------------------------------------------------------------------------------------------------


def test_it_leaves_an_article_that_says_it_is_a_stand_in(built: Checkout) -> None:
    assert (built.path / "paper/paper.pdf").read_bytes().startswith(b"%PDF")
    numbers = json.loads((built.path / BUILD / "numbers.json").read_text())
    assert numbers["complete"] is False
    assert "smoke" in numbers["missing"]
    assert (built.path / BUILD / "claims.txt").read_text().endswith("passed\n")
    for name in ("main", "verdicts"):
        assert "\\toprule" in (built.path / BUILD / f"tables/{name}.tex").read_text()
        assert (built.path / BUILD / f"tables/{name}.csv").stat().st_size


def test_it_shows_follow_ups_beside_the_study(built: Checkout) -> None:
    found = json.loads((built.path / BUILD / "numbers.json").read_text())["follow_ups"]
    tasks = [each["name"] for each in found["tasks"]]
    assert tasks == sorted(tasks)
    for each in found["tasks"]:
        assert (built.path / BUILD / f"follow_ups/{each['name']}.loss_vs_lr.pdf").read_bytes().startswith(b"%PDF")
        # The smoke study followed up by itself finds what it had found.
        shared = [text for text in each["findings"] if "fail here" in text]
        assert shared
        assert all(re.search(r", (\d+) fail here and \1 there\.", text) for text in shared)


def test_a_follow_up_that_was_changed_is_named(copy: Checkout) -> None:
    path = copy.path / FOLLOW_UPS / "tables/optima.csv"
    path.write_text(path.read_text() + "\n")
    assert "changed: tables/optima.csv" in copy.snakemake("paper", check=False)


def test_it_needs_the_frozen_study_and_trains_nothing(built: Checkout) -> None:
    assert {path.name for path in (built.path / "results").iterdir() if path.is_dir()} <= {"paper", "smoke"}
    assert not (built.path / "results/smoke/runs").exists()
    assert set(built.planned_jobs("paper", "--forceall")) == ANALYSIS
    assert built.planned_jobs("paper") == {}


@pytest.mark.parametrize(
    "source",
    ["analysis/tables/power.py", "analysis/coordcheck.py", "study/config.py"],  # tests/unit/test_sources.py has all
)
def test_a_change_of_what_it_prints_makes_its_numbers_anew(built: Checkout, source: str) -> None:
    path = built.path / "src/mufree" / source
    before = path.read_text()
    try:
        path.write_text(before + "\n# changed\n")
        planned = built.planned_jobs("paper")
    finally:
        path.write_text(before)
    assert planned["numbers"] == planned["paper"] == 1
    assert "sweep" not in planned


def test_all_that_its_commands_have_loaded_belongs_to_their_stages(built: Checkout) -> None:
    for stage, command in {"recompute": "check-frozen", "numbers": "numbers", "paper": "paper"}.items():
        assert built.loaded_beside(stage, command) == set()


def test_no_command_of_the_build_loads_torch(built: Checkout) -> None:
    (task, *_) = json.loads((built.path / BUILD / "numbers.json").read_text())["tasks"]
    out = "--out results/again"
    commands = [
        f"check-frozen {DATA} --recompute {out}.json",
        f"verdicts --estimates {DATA}/tables/estimates.csv --hypotheses {DATA}/hypotheses.yaml {out}.csv",
        f"numbers --frozen {DATA} --verdicts {BUILD}/verdicts.csv {out}",
        f"figure loss_vs_lr --task {task['name']} --rows {DATA}/rows.parquet --curves {DATA}/curves.parquet"
        f" --tables {DATA}/tables {out}",
        f"paper --source paper --build {BUILD} --figures {' '.join(map(str, (built.path / BUILD).rglob('*.pdf')))}"
        f" {out}.pdf",
    ]
    code = "import sys; from mufree.cli import main; assert not main(sys.argv[1:]); assert 'torch' not in sys.modules"
    for command in commands:
        arguments = [sys.executable, "-c", code, *command.split()]
        done = subprocess.run(
            arguments, cwd=built.path, env=built.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_two_builds_give_the_same_bytes(built: Checkout, copy: Checkout) -> None:
    shutil.rmtree(copy.path / "results")
    (copy.path / "paper/paper.pdf").unlink()
    copy.snakemake("paper")
    for name in ("paper/paper.pdf", BUILD / "numbers.json", BUILD / "tables/main.tex", BUILD / "verdicts.csv"):
        assert (copy.path / name).read_bytes() == (built.path / name).read_bytes()


# --- what it refuses -------------------------------------------------------------------------------------------------


def test_a_file_that_was_changed_is_named(copy: Checkout) -> None:
    change(copy, "optima", "best_loss", 0.5)
    said = copy.snakemake("paper", check=False)
    assert "changed: tables/optima.csv" in said
    assert "Restore it from version control, or freeze the study again" in said
    assert "Traceback" not in said


def test_a_number_that_the_runs_do_not_give_stops_the_article(copy: Checkout) -> None:
    change(copy, "optima", "best_loss", 0.5)
    sign(copy)
    said = copy.snakemake("paper", check=False)
    assert "The frozen runs give other numbers than the frozen table: optima, row 1, best_loss" in said


def test_a_sentence_follows_its_table(copy: Checkout) -> None:
    before = make_numbers(copy)["negative-control"]
    assert not any("in doubt" in text for text in before)
    change(copy, "control", "n_equal", 0)
    sign(copy)
    after = make_numbers(copy)["negative-control"]
    assert sum("in doubt" in text for text in after) == 1


def test_a_drift_that_is_there_changes_the_verdict_and_the_headline(copy: Checkout) -> None:
    path = copy.path / DATA / "tables/estimates.csv"
    frame = pd.read_csv(path)
    assert "can't be estimated" in " ".join(make_numbers(copy)["headline"])
    for method, drift in (("sp_schedulefree", -1.0), ("mup_schedulefree", 0.0)):
        at = frame["statistic"].eq("drift") & frame["subject"].eq(method)
        found = {"estimate": drift, "low": drift - 0.06, "high": drift + 0.06, "low90": drift - 0.04}
        for column, value in (found | {"high90": drift + 0.04, "se": 0.02, "n_seeds": 5, "status": "ok"}).items():
            frame.loc[at, column] = value
    frame.to_csv(path, index=False)
    sign(copy)
    assert "the best learning rate moves by less than ±0.25 doublings" in " ".join(make_numbers(copy)["headline"])


@pytest.mark.parametrize("claim", ["size", "negative-control", "transfer", "best"])
def test_a_sentence_that_the_tables_do_not_bear_fails_its_claim(copy: Checkout, claim: str) -> None:
    path = copy.path / BUILD / "numbers.json"
    numbers = json.loads(path.read_text())
    lies = {
        "size": ["We report 1 runs of 1 methods."],
        "negative-control": [f"{task['name']}: the implementation is in doubt." for task in numbers["tasks"]],
        "transfer": ["Supported in every task."],
        "best": [f"{task['name']}, width 1: lowest is none with 0.001 nats." for task in numbers["tasks"]],
    }
    numbers["sentences"][claim] = lies[claim]
    path.write_text(json.dumps(numbers))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/claims",
        "--confcutdir",
        "tests/claims",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    environment = copy.environment | {"MUFREE_PAPER": str(path.parent)}
    done = subprocess.run(command, cwd=copy.path, env=environment, capture_output=True, text=True, check=False)
    name = f"test_answers[{claim}]" if claim == "transfer" else f"test_claim_{claim.replace('-', '_')}"
    assert done.returncode == 1, done.stdout
    assert f"FAILED tests/claims/test_claims.py::{name}" in done.stdout

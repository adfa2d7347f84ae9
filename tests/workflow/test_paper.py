"""What is built from a frozen study: from that alone, the same bytes each time, and never past what the runs say."""

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
from checkouts import ROOT, Checkout, copy_project

pytestmark = [pytest.mark.slow, pytest.mark.whole]  # the claims alone are tested by `make test`, too

DATA = Path("paper/data")
BUILD = Path("results/paper")
SUPPLEMENT = BUILD / "supplement.pdf"
TARGETS = (str(SUPPLEMENT), str(BUILD / "numbers.json"), str(BUILD / "recomputed.json"))
ANALYSIS = {"check_frozen", "recompute", "numbers", "draw", "overview", "supplement"}


@pytest.fixture(scope="module")
def built(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy in which the smoke study is frozen, and all but the article built from it; what trained it is gone."""
    project = Checkout(tmp_path_factory.mktemp("paper") / "checkout")
    shutil.copytree(finished.path, project.path)
    for frozen in (project.path / "paper").glob("*/MANIFEST.json"):
        shutil.rmtree(frozen.parent)
    project.snakemake("freeze")
    shutil.rmtree(project.path / "results")
    project.snakemake(*TARGETS)
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


def test_it_leaves_numbers_and_a_supplement(built: Checkout) -> None:
    assert (built.path / SUPPLEMENT).read_bytes().startswith(b"%PDF")
    found = json.loads((built.path / BUILD / "numbers.json").read_text())
    assert [study["name"] for study in found["studies"]] == ["smoke"]
    assert found["numbers"]["runs"]["value"] == 61


def test_it_needs_the_frozen_study_and_trains_nothing(built: Checkout) -> None:
    assert {path.name for path in (built.path / "results").iterdir() if path.is_dir()} <= {"paper", "smoke"}
    assert not (built.path / "results/smoke/runs").exists()
    assert set(built.planned_jobs(*TARGETS, "--forceall")) == ANALYSIS
    assert built.planned_jobs(*TARGETS) == {}


@pytest.mark.parametrize(
    "source",
    ["analysis/coordcheck.py", "study/config.py"],  # tests/unit/test_sources.py has all
)
def test_a_change_of_what_it_prints_makes_its_numbers_anew(built: Checkout, source: str) -> None:
    path = built.path / "src/mufree" / source
    before = path.read_text()
    try:
        path.write_text(before + "\n# changed\n")
        planned = built.planned_jobs(*TARGETS)
    finally:
        path.write_text(before)
    assert planned["numbers"] == planned["supplement"] == 1
    assert "sweep" not in planned


def test_all_that_its_commands_have_loaded_belongs_to_their_stages(built: Checkout) -> None:
    for stage, command in {"recompute": "check-frozen", "numbers": "numbers", "supplement": "supplement"}.items():
        assert built.loaded_beside(stage, command) == set()


def test_no_command_of_the_build_loads_torch(built: Checkout) -> None:
    out = "--out results/again"
    commands = [
        f"check-frozen {DATA} --recompute {out}.json",
        f"verdicts --estimates {DATA}/tables/estimates.csv --hypotheses {DATA}/hypotheses.yaml {out}.csv",
        f"numbers --frozen {DATA} {out}.json",
        f"overview --tables {DATA}/tables --rows {DATA}/rows.parquet {out}",
        f"supplement --frozen {DATA} --figures {BUILD} {out}.pdf",
    ]
    for arguments in commands:
        code = "import sys; from mufree.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments.split()],
            **{"cwd": built.path, "env": built.environment, "capture_output": True, "text": True, "check": False},
        )
        assert done.returncode == 0, done.stderr


def test_two_builds_give_the_same_bytes(built: Checkout, copy: Checkout) -> None:
    shutil.rmtree(copy.path / "results")
    copy.snakemake(*TARGETS)
    for name in (SUPPLEMENT, BUILD / "numbers.json", BUILD / "smoke/verdicts.csv"):
        assert (copy.path / name).read_bytes() == (built.path / name).read_bytes()


# --- what it refuses -------------------------------------------------------------------------------------------------


def test_a_file_that_was_changed_is_named(copy: Checkout) -> None:
    change(copy, "optima", "best_loss", 0.5)
    said = copy.snakemake(*TARGETS, check=False)
    assert "changed: tables/optima.csv" in said
    assert "Restore it from version control, or freeze the study again" in said
    assert "Traceback" not in said


def test_a_number_that_the_runs_do_not_give_is_found(copy: Checkout) -> None:
    change(copy, "optima", "best_loss", 0.5)
    sign(copy)
    said = copy.snakemake(*TARGETS, check=False)
    assert "The frozen runs give other numbers than the frozen table: optima, row 1, best_loss" in said


# --- the article -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def article(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy of the project in which the article is built from what is in the repository."""
    project = copy_project(tmp_path_factory.mktemp("article") / "checkout")
    shutil.copytree(ROOT / "tests/claims", project.path / "tests/claims", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md"):
        shutil.copy2(ROOT / file, project.path)
    (project.path / "paper/paper.pdf").unlink(missing_ok=True)
    project.snakemake("paper")
    return project


def test_the_article_is_short_and_its_claims_are_tested(article: Checkout) -> None:
    pages = [int(n) for n in re.findall(rb"/Count (\d+)", (article.path / "paper/paper.pdf").read_bytes())]
    assert 4 <= max(pages) <= 10
    assert (article.path / BUILD / "claims.txt").read_text().endswith("passed\n")
    assert article.planned_jobs("paper") == {}


def test_a_number_that_the_article_lacks_is_named(article: Checkout) -> None:
    path = article.path / "paper/paper.typ"
    before = path.read_text()
    try:
        path.write_text(before.replace('#n("core_hours")', '#n("core_minutes")'))
        done = mufree(article, "paper", "--source", "paper", "--numbers", f"{BUILD}/numbers.json", "--out", "a.pdf")
    finally:
        path.write_text(before)
    assert done.returncode == 1
    assert "core_minutes" in done.stderr
    assert not (article.path / "a.pdf").exists()

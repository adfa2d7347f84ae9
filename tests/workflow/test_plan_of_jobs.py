"""What Snakemake would do: which jobs, how many, and the errors that a person gets. Nothing is trained here."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml
from checkouts import ROOT, Checkout
from surfaces import NO_CURVES, make_rows, parabolas

from mufree.analysis import tables
from mufree.publish import contents, figures
from mufree.study.config import Study
from mufree.study.jobs import deal
from mufree.study.plan import Sweep, expand

STUDIES = sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml") if not path.stem.endswith("hypotheses"))


def sweeps_of(name: str) -> list[Sweep]:
    study = Study.model_validate(yaml.safe_load((ROOT / f"experiments/{name}.yaml").read_text()))
    return deal(study, expand(study), "cpu")


def test_jobs_of_the_smoke_study(checkout: Checkout) -> None:
    # 2 tasks × 4 methods, and 7 of other methods; a data set, a coordinate check and a set of
    # figures for each task
    assert checkout.planned_jobs() == {
        "prepare_data": 2,
        "sweep": 15,
        "coordinate_check": 2,
        "first_look": 1,
        "collect": 1,
        "metrics": 1,
        "draw": 2,
        "overview": 1,
        "provenance": 1,
        "report": 1,
    }


def test_the_largest_study_is_planned_by_commands_that_linux_takes(checkout: Checkout) -> None:
    said = checkout.snakemake("--dry-run", "--printshellcmds", study="cluster")
    assert f"Study cluster: 12064 runs in {len(sweeps_of('cluster'))} sweeps." in said
    commands = [line for line in said.splitlines() if "mufree sweep" in line]
    assert len(commands) == len(sweeps_of("cluster"))
    # An argument may have 128 KiB; a few hundred runs as JSON have more.
    assert max(map(len, commands)) < 2000


def test_the_default_is_the_quickstart_which_needs_no_download() -> None:
    study = yaml.safe_load((ROOT / "experiments/quickstart.yaml").read_text())
    assert {task["dataset"]["name"] for task in study["tasks"].values()} == {"photo_patches", "wiki_sample"}


@pytest.mark.parametrize("study", [name for name in STUDIES if name not in ("cluster", "smoke")])
def test_every_study_can_be_planned(checkout: Checkout, study: str) -> None:
    assert checkout.planned_jobs("--quiet", "rules", "reason", study=study)["sweep"] > 0


def test_follow_ups_are_frozen_beside_the_study_and_not_in_its_place(checkout: Checkout) -> None:
    def freezing(study: str) -> str:
        said = checkout.snakemake("freeze", "--dry-run", "--printshellcmds", study=study)
        (command,) = (line for line in said.splitlines() if "mufree freeze" in line)
        return command

    study, later, second = map(freezing, ("cifar_wikitext", "follow_ups", "confirm"))
    assert " --out paper/data " in study
    assert "--power experiments/cifar_wikitext.power.csv" in study
    assert " --out paper/follow_ups " in later
    assert "cifar_wikitext" not in later
    assert "--hypotheses" not in later  # and so nothing is judged
    assert "--hypotheses experiments/hypotheses.yaml" in study
    assert " --out paper/confirm " in second
    assert "--hypotheses experiments/confirm.hypotheses.yaml" in second


def test_an_unknown_study_is_an_error_that_names_the_known_ones(checkout: Checkout) -> None:
    said = checkout.snakemake("--dry-run", study="smok", check=False)
    assert "Unknown study 'smok'" in said
    assert ", ".join(STUDIES) in said


def test_a_mistake_in_a_study_is_an_error_before_anything_runs(checkout: Checkout) -> None:
    path = checkout.path / "experiments/smoke.yaml"
    path.write_text(path.read_text().replace("base_width: 16", "base_width: 20"))
    said = checkout.snakemake(check=False)
    assert "base_width 20 is in no width list" in said
    assert "Traceback" not in said
    path.write_bytes(b"name: smok\xe9")
    said = checkout.snakemake(check=False)
    assert "smoke.yaml is not UTF-8" in said
    assert "Traceback" not in said
    assert not (checkout.path / "results").exists()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("stduy", "quickstart", "stduy: unknown key"),
        ("device", "gpu", "device: Input should be 'cpu' or 'cuda' (got 'gpu')"),
        ("shard", "3/2", "such as 1/4 and up to 4/4 (got '3/2')"),
        ("max_minutes", "1d", "max_minutes: Input should be a valid integer (got '1d')"),
    ],
)
def test_a_mistake_in_config_is_an_error_that_says_so(checkout: Checkout, key: str, value: str, words: str) -> None:
    said = checkout.snakemake("--dry-run", check=False, **{key: value})
    assert words in said
    assert "Traceback" not in said


INJECTED = """a'; touch executed; "$(touch executed)" `touch executed` {wildcards.task} {output} * $HOME"""
OF_CONFIG = INJECTED.replace("{", "(").replace("}", ")")  # or Snakemake takes it for a wildcard


def test_words_of_a_study_or_of_config_are_arguments_and_no_commands(checkout: Checkout) -> None:
    """Bash reads the commands, with a function in the place of `mufree` that says what it is given."""
    path = checkout.path / "experiments/smoke.yaml"
    study = yaml.safe_load(path.read_text())
    for task in study["tasks"].values():
        task["description"] = INJECTED
    path.write_text(yaml.safe_dump(study))
    said = checkout.snakemake("--dry-run", "--printshellcmds", data_dir=OF_CONFIG)
    commands = re.findall(r"^Shell command: (mufree .*) 2> ", said, flags=re.MULTILINE)
    given = [
        subprocess.run(
            ["bash", "-c", f"mufree() {{ printf '%s\\0' \"$@\"; }}; {command}"],
            cwd=checkout.path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")
        for command in commands
    ]
    assert sum(INJECTED in words for words in given) == len(study["tasks"])  # their figures
    assert sum(words[0] == "data" and OF_CONFIG in words for words in given) == 2
    assert not (checkout.path / "executed").exists()


def test_shards_train_every_sweep_once_and_nothing_else(checkout: Checkout) -> None:
    first, second = (
        set(re.findall(r"Train (\S+ \S+ widths \S+ seeds \S+)", checkout.snakemake("--dry-run", "shard", shard=part)))
        for part in ("1/2", "2/2")
    )
    assert first
    assert second
    assert not first & second
    assert len(first | second) == checkout.planned_jobs()["sweep"]


def test_pages_and_package_agree_on_tables_and_figures() -> None:
    assert set(contents.FIGURES) - {contents.OVERVIEW} == set(figures.FIGURES)
    made = tables.build(make_rows(parabolas([-8])), NO_CURVES)  # a study of one width has all tables as well
    assert set(contents.TABLES) == {*made, "coordcheck", "coordcheck_verdict"}


def test_what_was_registered_for_a_study_is_judged_there_alone(checkout: Checkout) -> None:
    judged = {
        study: checkout.planned_jobs("--quiet", "rules", "reason", study=study).get("verdicts")
        for study in ("smoke", "cifar_wikitext")
    }
    assert judged == {"smoke": None, "cifar_wikitext": 1}

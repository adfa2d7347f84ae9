"""Profiles say what Snakemake and the SLURM plugin read, of rules that exist; a slip of the pen is found without a cluster."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import snakemake_executor_plugin_slurm
import yaml
from checkouts import ROOT, Checkout
from snakemake.cli import get_argument_parser

from mufree.study import jobs, plan
from mufree.study.config import Study
from mufree.study.settings import Settings

PROFILES = ROOT / "profiles"
RULES = set(
    re.findall(r"^rule (\w+):", "".join(p.read_text() for p in [ROOT / "Snakefile", *ROOT.glob("rules/*.smk")]), re.M)
)
OPTIONS = {option.lstrip("-") for action in get_argument_parser()._actions for option in action.option_strings}
RESOURCES = {"mem_mb", "runtime", "gpu"} | {
    name
    for path in Path(snakemake_executor_plugin_slurm.__file__).parent.glob("*.py")
    for name in re.findall(r"resources\.get\(\s*\"(\w+)\"", path.read_text())
}
CONFIG = set(Settings.model_fields)
# Snakemake drops a mapping under any other key without a word.
MAPPINGS = {"resources", "default-resources", "set-resources", "set-threads"}


def with_examples(text: str) -> str:
    """The profile with what it offers in comments, `# key: value`, taken as said."""
    return re.sub(r"^(\s*)# (\s*[\w-]+:( \S+)?)$", r"\1\2", text, flags=re.MULTILINE)


def mistakes(text: str) -> list[str]:
    """What in a profile is nothing that Snakemake, the plugin or this workflow knows."""
    profile = yaml.safe_load(text)
    found = [key for key in profile if key not in OPTIONS]
    for key, value in profile.items():
        if isinstance(value, dict):
            found += [key] if key not in MAPPINGS else []
            of_rules = value if key.startswith("set-") else {}
            found += [rule for rule in of_rules if rule not in RULES]
            of_resources = [value] if key.endswith("resources") and not of_rules else []
            of_resources += of_rules.values() if key == "set-resources" else []
            found += [name for mapping in of_resources for name in mapping if name not in RESOURCES]
    return found


def test_the_profiles_are_these() -> None:
    assert {path.parent.name for path in PROFILES.glob("*/config.yaml")} == {"default", "slurm", "slurm-node"}
    assert {"sweep", "prepare_data"} <= RULES
    assert {"slurm_partition", "slurm_account", "gpu_model"} <= RESOURCES


@pytest.mark.parametrize("profile", sorted(PROFILES.glob("*/config.yaml")), ids=lambda path: path.parent.name)
def test_a_profile_has_no_mistake_and_a_comment_on_every_line(profile: Path) -> None:
    text = profile.read_text()
    assert mistakes(text) == []
    assert mistakes(with_examples(text)) == []
    lines = [line for line in with_examples(text).splitlines() if line.strip()]
    keys = [number for number, line in enumerate(lines) if re.match(r"\s*[\w-]+:( \S|$)", line)]
    nested = re.compile(r"\s*[\w-]+:$")
    assert all(lines[n - 1].lstrip().startswith("#") or nested.match(lines[n - 1]) for n in keys)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("retries:", "retires:"),
        ("slurm-requeue:", "slurm-requeu:"),
        ("set-resources:", "set-resoruces:"),
        ("  sweep:", "  swep:"),
        ("gpu_model:", "gpu_modle:"),
        ("slurm_account:", "slurm_acount:"),
        ("mem_mb:", "mem_bm:"),
    ],
)
def test_a_misspelt_option_rule_or_resource_is_found(right: str, wrong: str) -> None:
    text = with_examples((PROFILES / "slurm/config.yaml").read_text())
    assert right in text
    assert mistakes(text.replace(right, wrong)) == [wrong.strip(" :")] * len(mistakes(text.replace(right, wrong)))
    assert mistakes(text.replace(right, wrong))


def test_the_settings_are_known_to_the_workflow() -> None:
    assert set(yaml.safe_load((PROFILES / "slurm/settings.yaml").read_text())) <= CONFIG
    assert {"study", "device", "max_minutes", "shard"} <= CONFIG


def test_a_dry_run_of_the_cluster_study_says_what_all_jobs_ask_for(checkout: Checkout) -> None:
    said = checkout.snakemake("--profile", "profiles/slurm", "--dry-run", "--quiet", "rules", study="cluster")
    study = Study.model_validate(yaml.safe_load((ROOT / "experiments/cluster.yaml").read_text()))
    settings = yaml.safe_load((PROFILES / "slurm/settings.yaml").read_text())
    sweeps = jobs.deal(study, plan.expand(study), settings["device"])
    assert jobs.describe(sweeps, settings["device"], settings["max_minutes"]) in said
    assert f"{len(sweeps)} jobs ask for {len(sweeps)} GPUs" in said

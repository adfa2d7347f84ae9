"""The study, and the few functions that rules ask about it. Imports no torch: Snakemake runs this again in every job."""

import os
import time
from pathlib import Path

import yaml
from pydantic import ValidationError
from snakemake.exceptions import WorkflowError

from mufree import sources
from mufree.config import Study, explain
from mufree.plan import (
    canonical_json,
    dataset_id,
    expand as expand_runs,
    study_datasets,
    study_sweeps,
)

STARTED = time.time()
STUDY_FILE = f"experiments/{config.get('study', 'quickstart')}.yaml"
DATA_DIR = config.get("data_dir", os.environ.get("MUFREE_DATA_DIR", "data"))
DEVICE = config.get("device", "cpu")
FIGURES = [
    "loss_vs_lr",
    "optimum_vs_width",
    "regret_vs_width",
    "coordcheck",
    "dynamics",
    "validation_curves",
    "lr_sensitivity",
    "best_of_k",
    "interaction",
    "anytime",
    "averages",
    "weight_decay",
]


def read_study(file):
    """The study in `file`, or an error that says what to mend."""
    unknown = sorted(set(config) - {"study", "data_dir", "device"})
    if unknown:
        raise WorkflowError(
            f"Unknown --config {', '.join(unknown)}. Known: study, data_dir, device"
        )
    path = Path(workflow.basedir) / file
    if not path.exists():
        known = sorted(
            p.stem for p in path.parent.glob("*.yaml") if p.stem != "hypotheses"
        )
        raise WorkflowError(f"Unknown study '{path.stem}'. Known: {', '.join(known)}")
    try:
        study = Study.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise WorkflowError(f"{file} is no YAML: {error}")
    except ValidationError as error:
        raise WorkflowError(
            f"{file} has {error.error_count()} mistake(s):\n{explain(error)}"
        )
    if study.name != path.stem:
        raise WorkflowError(
            f"{file} says name: {study.name}; the file's name and the study's must be the same"
        )
    return study


STUDY = read_study(STUDY_FILE)
RUNS = expand_runs(STUDY)
SWEEPS = {
    (s.task, s.method, s.width_label, s.seed_label): s
    for s in study_sweeps(STUDY, RUNS)
}
CELLS = {
    "study": [STUDY.name] * len(SWEEPS),
    **dict(zip(["task", "method", "widths", "seeds"], zip(*SWEEPS))),
}
DATASETS = study_datasets(STUDY)
LARGEST_SWEEP = max(sweep.flops for sweep in SWEEPS.values())

if workflow.is_main_process:
    logger.info(f"Study {STUDY.name}: {len(RUNS)} runs in {len(SWEEPS)} sweeps.")


def manifest(wildcards):
    """The manifest of the data set that a task needs."""
    return f"results/prepared/{dataset_id(STUDY.tasks[wildcards.task].dataset)}/manifest.json"


def sweep_of(wildcards):
    """The sweep that a job trains."""
    return SWEEPS[wildcards.task, wildcards.method, wildcards.widths, wildcards.seeds]


def sweep_priority(wildcards):
    """Longer sweeps start first, so that none is left alone at the end."""
    return 1 + int(1000 * sweep_of(wildcards).flops / LARGEST_SWEEP)


def report_usage():
    """Say how well the cores were used, if anything was trained."""
    timings = Path(f"results/{STUDY.name}/timings.parquet")
    if timings.exists() and timings.stat().st_mtime > STARTED:
        shell(
            "mufree usage --timings {timings:q} --store results/{STUDY.name}/runs --since {STARTED} --cores {workflow.cores}"
        )

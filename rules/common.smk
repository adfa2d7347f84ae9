"""The study, and the few functions that rules ask about it. Imports no torch: Snakemake runs this again in every job."""

import os
import time
from pathlib import Path

from mufree.publish.contents import OF_A_TASK, OVERVIEW, TABLES, stems
from mufree.study import files, jobs, plan, settings, sources, yaml_files

STARTED = time.time()
ASKED = settings.read(config)
STUDY_FILE = f"experiments/{ASKED.study}.yaml"
STUDY = yaml_files.load_study(Path(STUDY_FILE))
if ASKED.precision is not None:
    # A study that no file holds is kept beside its results, where commands read it.
    why = f"Made by the workflow from {STUDY_FILE} by --config precision={ASKED.precision}."
    STUDY = yaml_files.in_precision(STUDY, ASKED.precision)
    STUDY_FILE = f"results/{STUDY.name}/{STUDY.name}.yaml"
    files.keep_text(Path(STUDY_FILE), yaml_files.to_yaml(STUDY, why))

RUNS = plan.expand(STUDY)
SWEEPS = {sweep.id: sweep for sweep in jobs.deal(STUDY, RUNS, ASKED.device)}
MY_SWEEPS = jobs.shard(list(SWEEPS.values()), ASKED.device, *ASKED.shard)
PRIORITIES = jobs.priorities(
    STUDY, list(SWEEPS.values()), by_value=ASKED.minutes is not None
)
DATASETS = plan.study_datasets(STUDY)
# Its figure is there long before the report.
FIRST_TASK = next(iter(STUDY.tasks))
# A figure as files: for print, for the page with what the pointer finds in it, and what it plots.
KINDS = ["pdf", "png", "csv", "points.json"]
# A study is judged if it has hypotheses, which were written down before its runs: the first one's, or a file of its own.
OWN_HYPOTHESES = Path(f"experiments/{STUDY.name}.hypotheses.yaml")
JUDGED = OWN_HYPOTHESES.exists() or STUDY.name == "cifar_wikitext"
HYPOTHESES = (
    str(OWN_HYPOTHESES) if OWN_HYPOTHESES.exists() else "experiments/hypotheses.yaml"
)
# Cores to divide the time by; where jobs are submitted, how many of them may run.
CORES = workflow.resource_settings.cores or workflow.resource_settings.nodes or 1

# The paper's studies by their frozen folders: those that are judged, then what was tried after the first one's results.
FROZEN = {
    folder: yaml_files.read_yaml(Path(folder) / "study.yaml")
    for folder in ["paper/data", "paper/confirm", "paper/follow_ups"]
    if (Path(folder) / "study.yaml").exists()
}
PAPER = {f"results/paper/{study['name']}": study for study in FROZEN.values()}
# What there are figures of: this study and the paper's, as plain values, by the folders of their results.
DRAWN = {f"results/{STUDY.name}": STUDY.model_dump()} | PAPER


def source_files(stage):
    """The source files of a stage; those here by their paths from here, so that a project that is moved has nothing to do."""
    here = Path.cwd()
    return [
        path.relative_to(here) if path.is_relative_to(here) else path
        for path in sources.files(stage)
    ]


def sweep_of(wildcards):
    """The sweep that a job trains."""
    return SWEEPS["{task}.{method}.w{widths}.s{seeds}".format(**wildcards)]


def sweep_files(name, sweeps=SWEEPS.values()):
    """The file `name`.parquet that each sweep leaves."""
    return [
        "results/{study}/sweeps/{task}/{method}/w{widths}/s{seeds}/{name}.parquet".format(
            study=STUDY.name, name=name, **sweep.labels
        )
        for sweep in sweeps
    ]


def manifest(wildcards):
    """The manifest of the data set that a task needs."""
    return f"results/prepared/{plan.dataset_id(STUDY.tasks[wildcards.task].dataset)}/manifest.json"


def files_below(folder, pattern):
    """The files in a folder, sorted."""
    return [str(p) for p in sorted(Path(folder).glob(pattern)) if p.is_file()]


def those_there(*paths):
    """The files among these that exist."""
    return [path for path in paths if Path(path).exists()]


def option(name, files):
    """An option of a command with the first of some files, or nothing where there is none."""
    return f"--{name} {files[0]}" if files else ""


if workflow.is_main_process:
    # What sweeps divide the time left by; as an argument, another number of cores would seem to be another job.
    os.environ.update(MUFREE_CORES=str(CORES))
    if ASKED.minutes is not None:
        os.environ.update(MUFREE_UNTIL=str(STARTED + 60 * ASKED.minutes))
    logger.info(f"Study {STUDY.name}: {len(RUNS)} runs in {len(SWEEPS)} sweeps.")
    left = [s for s in MY_SWEEPS if not those_there(*sweep_files("rows", [s]))]
    logger.info(jobs.describe(left, ASKED.device, ASKED.max_minutes))

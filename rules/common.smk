"""The study, and the few functions that rules ask about it. Imports no torch: Snakemake runs this again in every job."""

import os
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError

from mufree.publish import contents
from mufree.study import jobs, sources
from mufree.study.plan import (
    canonical_json,
    dataset_id,
    expand as expand_runs,
    study_datasets,
)
from mufree.study.yaml_files import (
    StudyFileError,
    in_precision,
    load_study,
    read_yaml,
    to_yaml,
)

STARTED = time.time()
STUDY_FILE = f"experiments/{config.get('study', 'quickstart')}.yaml"
DATA_DIR = config.get("data_dir", os.environ.get("MUFREE_DATA_DIR", "data"))
DEVICE = config.get("device", "cpu")
# How a sweep trains its runs: one by one, or those that differ in numbers alone side by side.
ENGINE = config.get("engine", "serial")
# The longest that a job may ask for, in minutes: the limit of the partition.
MAX_MINUTES = config.get("max_minutes")
# Minutes after which sweeps stop, the most valuable having been first; the same command goes on from there.
MINUTES = config.get("minutes")
# Of several allocations that share a study, which one this is: 2/4 trains the second quarter of the sweeps.
SHARD = str(config.get("shard", "1/1"))
# All runs in this precision instead of the study's own: a study of its own, with results of its own.
PRECISION = config.get("precision")
KNOWN_CONFIG = [
    "study",
    "data_dir",
    "device",
    "max_minutes",
    "shard",
    "precision",
    "engine",
    "minutes",
]
OVERVIEW = contents.OVERVIEW
FIGURES = [name for name in contents.FIGURES if name != OVERVIEW]
TABLES = contents.TABLES
# A figure as files: for print, for the page with what the pointer finds in it, and what it plots.
KINDS = ["pdf", "png", "csv", "points.json"]
# Of all studies, the one whose hypotheses were written down before its runs.
JUDGED = ["cifar_wikitext"]


def read_study(file):
    """The study in `file`, or an error that says what to mend."""
    unknown = sorted(set(config) - set(KNOWN_CONFIG))
    if unknown:
        raise WorkflowError(
            f"Unknown --config {', '.join(unknown)}. Known: {', '.join(KNOWN_CONFIG)}"
        )
    if ENGINE not in jobs.ENGINES:
        raise WorkflowError(
            f"Unknown engine '{ENGINE}'. Known: {', '.join(jobs.ENGINES)}"
        )
    if DEVICE not in jobs.RATES:
        raise WorkflowError(
            f"Unknown device '{DEVICE}'. Known: {', '.join(jobs.RATES)}"
        )
    if MAX_MINUTES is not None and (
        not isinstance(MAX_MINUTES, int) or MAX_MINUTES < 1
    ):
        raise WorkflowError(
            f"max_minutes is {MAX_MINUTES!r}; give the partition's limit in minutes, such as 1440"
        )
    if MINUTES is not None and not (
        isinstance(MINUTES, (int, float)) and 0 < MINUTES < float("inf")
    ):
        raise WorkflowError(
            f"minutes is {MINUTES!r}; give a number of minutes, such as 9"
        )
    if PRECISION not in (None, "float32", "bfloat16"):
        raise WorkflowError(
            f"Unknown precision '{PRECISION}'. Known: float32, bfloat16"
        )
    try:
        return load_study(Path(workflow.basedir) / file)
    except StudyFileError as error:
        raise WorkflowError(str(error))


def write_study(study, from_file):
    """Keep a study that no file holds beside its results, where commands read it; return the file."""
    file = Path(f"results/{study.name}/{study.name}.yaml")
    text = to_yaml(
        study,
        f"Made by the workflow from {from_file} by --config precision={PRECISION}.",
    )
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return str(file)


def source_files(stage):
    """The source files of a stage; those here by their paths from here, so that a project that is moved has nothing to do."""
    here = Path.cwd()
    return [
        path.relative_to(here) if path.is_relative_to(here) else path
        for path in sources.files(stage)
    ]


def read_shard(sweeps):
    """The sweeps of the part of the study that `--config shard` asks for."""
    number, _, count = SHARD.partition("/")
    try:
        return jobs.shard(sweeps, DEVICE, int(number), int(count))
    except ValueError:
        raise WorkflowError(
            f"shard is '{SHARD}'; give a part and their number, such as 1/4 and up to 4/4"
        )


def parallel_jobs():
    """Cores to divide the time by; where jobs are submitted, how many of them may run."""
    return workflow.resource_settings.cores or workflow.resource_settings.nodes or 1


STUDY = read_study(STUDY_FILE)
if PRECISION is not None:
    STUDY = in_precision(STUDY, PRECISION)
    STUDY_FILE = write_study(STUDY, STUDY_FILE)
RUNS = expand_runs(STUDY)
SWEEPS = {
    (s.task, s.method, s.width_label, s.seed_label): s
    for s in jobs.deal(STUDY, RUNS, DEVICE)
}
MY_SWEEPS = read_shard(list(SWEEPS.values()))
CELLS = {
    "study": [STUDY.name] * len(SWEEPS),
    **dict(zip(["task", "method", "widths", "seeds"], zip(*SWEEPS))),
}
DATASETS = study_datasets(STUDY)
# Its figure is there long before the report.
FIRST_TASK = next(iter(STUDY.tasks))
# Where there isn't time for all, the most valuable sweep has the highest priority.
WORTH = (
    {}
    if MINUTES is None
    else {
        s.id: place
        for place, s in enumerate(
            reversed(jobs.most_valuable_first(STUDY, list(SWEEPS.values()))), start=1
        )
    }
)
LARGEST_SWEEP = max(sweep.flops for sweep in SWEEPS.values())


def rows_of(sweep):
    """The file that a finished sweep leaves."""
    return f"results/{STUDY.name}/sweeps/{sweep.task}/{sweep.method}/w{sweep.width_label}/s{sweep.seed_label}/rows.parquet"


def minutes_of(wildcards, attempt):
    """The run time that a sweep asks for."""
    estimate = jobs.sweep_seconds(sweep_of(wildcards), DEVICE)
    return jobs.minutes_to_ask(estimate, attempt, MAX_MINUTES)


def memory_of(wildcards, attempt):
    """The main memory that a sweep asks for, in MB."""
    return jobs.memory_to_ask(jobs.memory_mb(sweep_of(wildcards).runs, DEVICE), attempt)


def check_minutes_of(wildcards, attempt):
    """The run time that a task's coordinate check asks for; it always runs on a CPU."""
    runs = jobs.coordinate_check_runs(STUDY, wildcards.task)
    estimate = jobs.START_SECONDS + sum(jobs.seconds(run, "cpu") for run in runs)
    return jobs.minutes_to_ask(estimate, attempt, MAX_MINUTES)


def check_memory_of(wildcards, attempt):
    """The main memory that a task's coordinate check asks for, in MB."""
    runs = jobs.coordinate_check_runs(STUDY, wildcards.task)
    return jobs.memory_to_ask(jobs.memory_mb(runs, "cpu"), attempt)


if workflow.is_main_process:
    # What sweeps divide the time left by; as an argument, another number of cores would seem to be another job.
    os.environ.update(MUFREE_CORES=str(parallel_jobs()))
    if MINUTES is not None:
        os.environ.update(MUFREE_UNTIL=str(STARTED + 60 * MINUTES))
    logger.info(f"Study {STUDY.name}: {len(RUNS)} runs in {len(SWEEPS)} sweeps.")
    left = [s for s in MY_SWEEPS if not Path(rows_of(s)).exists()]
    logger.info(jobs.describe(left, DEVICE, MAX_MINUTES))


def manifest(wildcards):
    """The manifest of the data set that a task needs."""
    return f"results/prepared/{dataset_id(STUDY.tasks[wildcards.task].dataset)}/manifest.json"


def sweep_of(wildcards):
    """The sweep that a job trains."""
    return SWEEPS[wildcards.task, wildcards.method, wildcards.widths, wildcards.seeds]


def sweep_priority(wildcards):
    """The first task's sweeps come first, and longer ones before shorter, so that none is left alone at the end; or by worth."""
    sweep = sweep_of(wildcards)
    longest = sweep.flops / LARGEST_SWEEP
    return WORTH.get(sweep.id) or task_priority(wildcards) + int(1000 * longest)


def check_priority(wildcards):
    """The gate comes before the runs: it says within a minute or two whether the implementation can be believed."""
    return task_priority(wildcards) + 1500


def task_priority(wildcards):
    """What the first task is ahead of the others."""
    return 2000 if wildcards.task == FIRST_TASK else 1


def report_usage():
    """Say how well the cores were used, if anything was trained on a known number of them."""
    timings = Path(f"results/{STUDY.name}/timings.parquet")
    cores = workflow.resource_settings.cores
    if cores and timings.exists() and timings.stat().st_mtime > STARTED:
        shell(
            "mufree usage --timings {timings:q} --store results/{STUDY.name}/runs --since {STARTED} --cores {cores}"
        )


def thawed(folder):
    """Where what figures read of a frozen folder is put beside one another."""
    return f"results/paper/thawed/{Path(folder).name}"


def frozen_studies(*folders):
    """Frozen folders by their study's name, each with the description of its tasks; a folder that isn't there has none."""
    try:
        found = {
            folder: read_yaml(Path(workflow.basedir) / folder / "study.yaml")
            for folder in folders
            if (Path(workflow.basedir) / folder / "study.yaml").exists()
        }
    except StudyFileError as error:
        raise WorkflowError(str(error))
    return {
        study["name"]: (
            folder,
            {name: task["description"] for name, task in study["tasks"].items()},
        )
        for folder, study in found.items()
    }

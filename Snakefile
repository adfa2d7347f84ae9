"""Train the runs of a study and turn them into tables, figures and a report.

snakemake --cores all                               the quickstart: bundled data, minutes
snakemake --cores all --config study=NAME           experiments/NAME.yaml
snakemake --cores all --config study=NAME --dry-run what would be done

Paths stand in the rules, under results/{study}; science is the package's, and rules call its command `mufree`.
"""

from snakemake.utils import min_version

min_version("9.0")


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/analyse.smk"
include: "rules/publish.smk"
include: "rules/paper.smk"


# A GPU is held by the job that uses it: a limit on `gpu` counts those on this machine, not those of submitted jobs.
resource_scopes:
    gpu="local",


wildcard_constraints:
    study=STUDY.name,
    folder="|".join(DRAWN),
    task="|".join(STUDY.tasks),
    method="|".join(STUDY.all_methods),
    widths=r"\d+(_\d+)*",
    seeds=r"\d+(_\d+)*",


localrules:
    all,
    sweeps,
    shard,
    figures,


rule all:
    """The report of the study, as PDF and as a page, with its tables and figures."""
    default_target: True
    input:
        f"results/{STUDY.name}/report.pdf",
        f"results/{STUDY.name}/report.html",
        f"results/{STUDY.name}/first_look/{FIRST_TASK}.loss_vs_lr.png",


rule sweeps:
    """All runs, without analysing them."""
    input:
        f"results/{STUDY.name}/rows.parquet",


rule shard:
    """The sweeps of one part of the study (`--config shard=2/4`), for one of several allocations."""
    input:
        sweep_files("rows", MY_SWEEPS),


rule figures:
    """All figures, without the report."""
    input:
        [f"results/{STUDY.name}/figures/{stem}.pdf" for stem in stems(STUDY.tasks)],


onstart:
    shell(
        "mufree plan {STUDY_FILE:q} --device {ASKED.device} --store results/{STUDY.name}/runs --cores {CORES}"
    )


onsuccess:
    # How well the cores were used, if anything was trained on a known number of them.
    timings = Path(f"results/{STUDY.name}/timings.parquet")
    cores = workflow.resource_settings.cores
    if cores and timings.exists() and timings.stat().st_mtime > STARTED:
        shell(
            "mufree usage --timings {timings:q} --store results/{STUDY.name}/runs --since {STARTED} --cores {cores}"
        )


onerror:
    logger.error(
        f"Stopped. Logs are in results/{STUDY.name}/logs; finished runs are kept, the same command goes on."
    )

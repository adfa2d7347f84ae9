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
        expand("results/{study}/report.{kind}", study=STUDY.name, kind=["pdf", "html"]),
        f"results/{STUDY.name}/first_look/{FIRST_TASK}.loss_vs_lr.png",


rule sweeps:
    """All runs, without analysing them."""
    input:
        expand("results/{study}/rows.parquet", study=STUDY.name),


rule shard:
    """The sweeps of one part of the study (`--config shard=2/4`), for one of several allocations."""
    input:
        [rows_of(sweep) for sweep in MY_SWEEPS],


rule figures:
    """All figures, without the report."""
    input:
        expand(
            "results/{study}/figures/{task}.{figure}.pdf",
            study=STUDY.name,
            task=STUDY.tasks,
            figure=FIGURES,
        ),


onstart:
    cores = parallel_jobs()
    shell(
        "mufree plan {STUDY_FILE:q} --device {DEVICE} --store results/{STUDY.name}/runs --cores {cores}"
    )


onsuccess:
    report_usage()


onerror:
    logger.error(
        f"Stopped. Logs are in results/{STUDY.name}/logs; finished runs are kept, the same command goes on."
    )

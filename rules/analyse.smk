"""From runs to tables and figures. No torch."""

TABLES = [
    "anytime",
    "arms",
    "best_of_k",
    "control",
    "coordcheck",
    "coordcheck_verdict",
    "cost",
    "dynamics",
    "dynamics_points",
    "epsilon",
    "estimates",
    "horizon",
    "interaction",
    "loss",
    "optima",
    "premium",
    "rate_ratio",
    "regret",
    "smoothness",
    "spikes",
    "stability",
    "transfer",
    "transfer_error",
    "weight_decay",
    "weight_decay_optimum",
    "wider_is_better",
]


rule first_look:
    """Loss against rate for the first task, as soon as its runs are there."""
    input:
        source_files("first_look"),
        rows=[rows_of(sweep) for sweep in SWEEPS.values() if sweep.task == FIRST_TASK],
        study=ancient(STUDY_FILE),
    output:
        f"results/{{study}}/first_look/{FIRST_TASK}.loss_vs_lr.png",
    log:
        "results/{study}/logs/first_look.log",
    # Before the sweeps of other tasks: somebody waits for it.
    priority: 4000
    conda:
        "../envs/mufree.yaml"
    params:
        task=FIRST_TASK,
        device=DEVICE,
    message:
        "Draw the first figure"
    shell:
        "mufree first-look --study {input.study:q} --task {params.task:q} --device {params.device}"
        " --sweeps 'results/{wildcards.study}/sweeps/{{task}}/{{method}}/w{{widths}}/s{{seeds}}'"
        " --out $(dirname {output:q}) 2> {log:q}"


rule metrics:
    """Every metric of the study, as tables."""
    input:
        source_files("metrics"),
        rows="results/{study}/rows.parquet",
        curves="results/{study}/curves.parquet",
        coordcheck=expand(
            "results/{{study}}/coordcheck/{task}.parquet", task=STUDY.tasks
        ),
    output:
        tables=[
            report(
                f"results/{{study}}/tables/{table}.csv",
                category="Tables",
                caption=f"../paper/captions/{table}.rst",
                labels={"table": table},
            )
            for table in TABLES
        ],
        summary="results/{study}/tables/summary.json",
    log:
        "results/{study}/logs/metrics.log",
    conda:
        "../envs/mufree.yaml"
    message:
        "Compute the metrics"
    shell:
        "mufree metrics --rows {input.rows:q} --curves {input.curves:q} --coordcheck {input.coordcheck:q}"
        " --out $(dirname {output.summary:q}) 2> {log:q}"


rule calibration:
    """How often the intervals cover what is true, on simulated studies; minutes of one core, and part of no study."""
    input:
        source_files("calibration"),
    output:
        "results/calibration.csv",
    log:
        "results/calibration.log",
    conda:
        "../envs/mufree.yaml"
    message:
        "Calibrate the intervals on simulated studies"
    shell:
        "mufree calibrate --out {output:q} 2> {log:q}"


rule verdicts:
    """What the estimates say about each hypothesis that was written down before the runs."""
    input:
        source_files("verdicts"),
        estimates="results/{study}/tables/estimates.csv",
        hypotheses="experiments/hypotheses.yaml",
    output:
        report(
            "results/{study}/tables/verdicts.csv",
            category="Tables",
            caption="../paper/captions/verdicts.rst",
            labels={"table": "verdicts"},
        ),
    log:
        "results/{study}/logs/verdicts.log",
    conda:
        "../envs/mufree.yaml"
    message:
        "Decide the hypotheses"
    shell:
        "mufree verdicts --estimates {input.estimates:q} --hypotheses {input.hypotheses:q} --out {output:q} 2> {log:q}"


rule draw:
    """All figures of a task, each as PDF and PNG, with the numbers that it shows."""
    input:
        source_files("figures"),
        rows="results/{study}/rows.parquet",
        curves="results/{study}/curves.parquet",
        tables=expand("results/{{study}}/tables/{table}.csv", table=TABLES),
        study=ancient(STUDY_FILE),
    output:
        expand(
            "results/{{study}}/figures/{{task}}.{figure}.{kind}",
            figure=FIGURES,
            kind=["pdf", "csv"],
        ),
        png=[
            report(
                f"results/{{study}}/figures/{{task}}.{figure}.png",
                category="Figures",
                caption=f"../paper/captions/{figure}.rst",
                labels={"task": "{task}", "figure": figure.replace("_", " ")},
            )
            for figure in FIGURES
        ],
    log:
        "results/{study}/logs/figures/{task}.log",
    conda:
        "../envs/mufree.yaml"
    params:
        title=lambda wildcards: STUDY.tasks[wildcards.task].description,
        names=FIGURES,
    message:
        "Draw the figures of {wildcards.task}"
    shell:
        "mufree figure {params.names} --task {wildcards.task:q} --title {params.title:q} --rows {input.rows:q}"
        " --curves {input.curves:q} --tables $(dirname {input.tables[0]:q}) --out $(dirname {output.png[0]:q}) 2> {log:q}"

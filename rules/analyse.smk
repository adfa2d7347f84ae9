"""From runs to tables and figures. No torch."""


rule first_look:
    """Loss against rate for the first task, as soon as its runs are there."""
    input:
        source_files("first_look"),
        rows=sweep_files("rows", [s for s in SWEEPS.values() if s.task == FIRST_TASK]),
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
        device=ASKED.device,
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
                labels={"table": table, "what it says": says},
            )
            for table, says in TABLES.items()
        ],
    log:
        "results/{study}/logs/metrics.log",
    conda:
        "../envs/mufree.yaml"
    message:
        "Compute the metrics"
    shell:
        "mufree metrics --rows {input.rows:q} --curves {input.curves:q} --coordcheck {input.coordcheck:q}"
        " --out $(dirname {output.tables[0]:q}) 2> {log:q}"


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
        hypotheses=HYPOTHESES,
    output:
        report(
            "results/{study}/verdicts.csv",
            category="Tables",
            labels={
                "table": "verdicts",
                "what it says": "Each hypothesis, the numbers that decide it, and the verdict.",
            },
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
    """All figures of a task, each as PDF and PNG, with the numbers that it shows and what the pointer finds in it."""
    input:
        source_files("figures"),
        rows="{folder}/rows.parquet",
        curves="{folder}/curves.parquet",
        tables=expand("{{folder}}/tables/{table}.csv", table=TABLES),
    output:
        expand(
            "{{folder}}/figures/{{task}}.{figure}.{kind}",
            figure=OF_A_TASK,
            kind=KINDS,
        ),
    log:
        "{folder}/logs/figures/{task}.log",
    wildcard_constraints:
        task="|".join(task for study in DRAWN.values() for task in study["tasks"]),
    conda:
        "../envs/mufree.yaml"
    params:
        title=lambda w: DRAWN[w.folder]["tasks"][w.task]["description"],
        names=OF_A_TASK,
    message:
        "Draw the figures of {wildcards.task}"
    shell:
        "mufree figure {params.names} --task {wildcards.task:q} --title {params.title:q} --rows {input.rows:q}"
        " --curves {input.curves:q} --tables $(dirname {input.tables[0]:q}) --out {wildcards.folder:q}/figures 2> {log:q}"


rule overview:
    """The figure that shows all tasks side by side."""
    input:
        source_files("overview"),
        expand("{{folder}}/tables/{table}.csv", table=["optima", "transfer", "pooled"]),
        rows="{folder}/rows.parquet",
    output:
        expand("{{folder}}/figures/{figure}.{kind}", figure=OVERVIEW, kind=KINDS),
    log:
        "{folder}/logs/figures/overview.log",
    conda:
        "../envs/mufree.yaml"
    params:
        name=OVERVIEW,
    message:
        "Draw all tasks side by side"
    shell:
        "mufree overview --tables {wildcards.folder:q}/tables --rows {input.rows:q} --out {wildcards.folder:q}/figures/{params.name} 2> {log:q}"

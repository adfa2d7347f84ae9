"""Training: one job a sweep, and one coordinate check a task."""


rule sweep:
    """Train one task and method at some widths and seeds and all learning rates; runs that the store has are not trained again."""
    input:
        source_files("train"),
        study=ancient(STUDY_FILE),
        manifest=manifest,
    output:
        rows="results/{study}/sweeps/{task}/{method}/w{widths}/s{seeds}/rows.parquet",
        curves="results/{study}/sweeps/{task}/{method}/w{widths}/s{seeds}/curves.parquet",
        timings="results/{study}/sweeps/{task}/{method}/w{widths}/s{seeds}/timings.parquet",
    log:
        "results/{study}/logs/sweep/{task}.{method}.w{widths}.s{seeds}.log",
    benchmark:
        "results/{study}/benchmarks/sweep/{task}.{method}.w{widths}.s{seeds}.tsv"
    priority: lambda wildcards: PRIORITIES[sweep_of(wildcards).id]
    conda:
        "../envs/mufree.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: jobs.memory_to_ask(
            sweep_of(wildcards).runs, ASKED.device, attempt
        ),
        runtime=lambda wildcards, attempt: jobs.minutes_to_ask(
            sweep_of(wildcards).runs, ASKED.device, attempt, ASKED.max_minutes
        ),
        gpu=1 if ASKED.device == "cuda" else 0,
    params:
        sweep=lambda wildcards: sweep_of(wildcards).id,
        # Of all that can change a number, so that a new learning rate starts this sweep and no other.
        digest=lambda wildcards: sweep_of(wildcards).digest,
        device=ASKED.device,
        engine=ASKED.engine,
    message:
        "Train {wildcards.task} {wildcards.method} widths {wildcards.widths} seeds {wildcards.seeds}"
    # exec, so that a signal that ends the job reaches the sweep, which then saves the run that it is in.
    shell:
        "exec mufree sweep --study {input.study:q} --sweep {params.sweep:q} --digest {params.digest} --data $(dirname {input.manifest:q}) --device {params.device}"
        " --engine {params.engine} --store results/{wildcards.study}/runs --out $(dirname {output.rows:q})"
        " --progress 2> {log:q}"


rule coordinate_check:
    """Watch activations against width in the first steps, for every method of a task."""
    input:
        source_files("coordcheck"),
        study=ancient(STUDY_FILE),
        manifest=manifest,
    output:
        "results/{study}/coordcheck/{task}.parquet",
    log:
        "results/{study}/logs/coordcheck/{task}.log",
    # The gate comes before the runs: it says within a minute or two whether the implementation can be believed.
    priority: lambda wildcards: 1500 + (jobs.FIRST_TASK if wildcards.task == FIRST_TASK else 1)
    conda:
        "../envs/mufree.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: jobs.memory_to_ask(
            jobs.coordinate_check_runs(STUDY, wildcards.task), "cpu", attempt
        ),
        runtime=lambda wildcards, attempt: jobs.minutes_to_ask(
            jobs.coordinate_check_runs(STUDY, wildcards.task),
            "cpu",
            attempt,
            ASKED.max_minutes,
        ),
    params:
        task=lambda wildcards: plan.canonical_json(STUDY.tasks[wildcards.task]),
        cells=lambda wildcards: sorted(
            (s.method, s.labels["widths"])
            for s in SWEEPS.values()
            if s.task == wildcards.task
        ),
    message:
        "Coordinate check of {wildcards.task}"
    shell:
        "mufree coordcheck --study {input.study:q} --task {wildcards.task:q} --data $(dirname {input.manifest:q})"
        " --out {output:q} 2> {log:q}"


rule collect:
    """Join the sweeps, and assert that they are exactly the runs planned."""
    input:
        source_files("collect"),
        rows=sweep_files("rows"),
        curves=sweep_files("curves"),
        timings=sweep_files("timings"),
        study=ancient(STUDY_FILE),
    output:
        rows="results/{study}/rows.parquet",
        curves="results/{study}/curves.parquet",
        timings="results/{study}/timings.parquet",
    log:
        "results/{study}/logs/collect.log",
    conda:
        "../envs/mufree.yaml"
    params:
        device=ASKED.device,
    message:
        "Collect the runs"
    shell:
        "mufree collect --study {input.study:q} --device {params.device} --out $(dirname {output.rows:q})"
        " --sweeps 'results/{wildcards.study}/sweeps/{{task}}/{{method}}/w{{widths}}/s{{seeds}}' 2> {log:q}"

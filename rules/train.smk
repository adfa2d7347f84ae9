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
    priority: sweep_priority
    conda:
        "../envs/mufree.yaml"
    threads: 1
    resources:
        mem_mb=memory_of,
        runtime=minutes_of,
        gpu=1 if DEVICE == "cuda" else 0,
    params:
        sweep=lambda wildcards: sweep_of(wildcards).id,
        # Of all that can change a number, so that a new learning rate starts this sweep and no other.
        digest=lambda wildcards: sweep_of(wildcards).digest,
        device=DEVICE,
        engine=ENGINE,
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
    priority: check_priority
    conda:
        "../envs/mufree.yaml"
    threads: 1
    resources:
        mem_mb=check_memory_of,
        runtime=check_minutes_of,
    params:
        task=lambda wildcards: canonical_json(STUDY.tasks[wildcards.task]),
        cells=lambda wildcards: sorted(
            (m, w) for t, m, w, _ in SWEEPS if t == wildcards.task
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
        rows=expand(
            "results/{study}/sweeps/{task}/{method}/w{widths}/s{seeds}/rows.parquet",
            zip,
            **CELLS,
        ),
        curves=expand(
            "results/{study}/sweeps/{task}/{method}/w{widths}/s{seeds}/curves.parquet",
            zip,
            **CELLS,
        ),
        timings=expand(
            "results/{study}/sweeps/{task}/{method}/w{widths}/s{seeds}/timings.parquet",
            zip,
            **CELLS,
        ),
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
        device=DEVICE,
    message:
        "Collect the runs"
    shell:
        "mufree collect --study {input.study:q} --device {params.device} --out $(dirname {output.rows:q})"
        " --sweeps 'results/{wildcards.study}/sweeps/{{task}}/{{method}}/w{{widths}}/s{{seeds}}' 2> {log:q}"

"""Raw data to plain arrays, once for all studies that share them."""


rule prepare_data:
    """Prepare one data set: arrays that are mapped into memory, and a manifest of their source and digests."""
    input:
        source_files("data"),
    output:
        manifest="results/prepared/{dataset}/manifest.json",
    log:
        "results/prepared/logs/{dataset}.log",
    priority: 5000
    # The one step that may need a network.
    retries: 1
    conda:
        "../envs/mufree.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        dataset=lambda wildcards: DATASETS[wildcards.dataset],
        data_dir=ASKED.data_dir,
    message:
        "Prepare data set {wildcards.dataset}"
    shell:
        "mufree data --dataset {params.dataset:q} --data-dir {params.data_dir:q}"
        " --out $(dirname {output.manifest:q}) 2> {log:q}"

"""What a person reads."""


rule provenance:
    """Versions, machine, digests of code and data, and times."""
    input:
        source_files("provenance"),
        rows="results/{study}/rows.parquet",
        timings="results/{study}/timings.parquet",
        manifests=expand("results/prepared/{dataset}/manifest.json", dataset=DATASETS),
        study=ancient(STUDY_FILE),
    output:
        "results/{study}/provenance.json",
    log:
        "results/{study}/logs/provenance.log",
    conda:
        "../envs/mufree.yaml"
    message:
        "Note versions, machine and digests"
    shell:
        "mufree provenance --study {input.study:q} --rows {input.rows:q} --timings {input.timings:q}"
        " --manifests {input.manifests:q} --out {output:q} 2> {log:q}"


rule report:
    """The report: page one answers, all else is behind it; in print the main figures alone."""
    input:
        source_files("report"),
        tables=expand("results/{{study}}/tables/{table}.csv", table=TABLES),
        rows="results/{study}/rows.parquet",
        figures=expand(
            "results/{{study}}/figures/{figure}.{kind}",
            figure=stems(STUDY.tasks),
            kind=KINDS,
        ),
        provenance="results/{study}/provenance.json",
        verdicts=["results/{study}/verdicts.csv"] if JUDGED else [],
        study=STUDY_FILE,
    output:
        pdf="results/{study}/report.pdf",
        html=report("results/{study}/report.html", category="Report"),
    log:
        "results/{study}/logs/report.log",
    conda:
        "../envs/mufree.yaml"
    params:
        verdicts=lambda wildcards, input: option("verdicts", input.verdicts),
    message:
        "Write the report"
    shell:
        "mufree report --study {input.study:q} --rows {input.rows:q} --tables $(dirname {input.tables[0]:q})"
        " --figures $(dirname {input.figures[0]:q}) --provenance {input.provenance:q} {params.verdicts}"
        " --out $(dirname {output.pdf:q}) 2> {log:q}"

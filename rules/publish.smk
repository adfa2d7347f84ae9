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
    """The report: what was run, what came out, and how far one may believe it."""
    input:
        source_files("report"),
        tables=expand("results/{{study}}/tables/{table}.csv", table=TABLES),
        verdicts="results/{study}/tables/verdicts.csv",
        summary="results/{study}/tables/summary.json",
        rows="results/{study}/rows.parquet",
        curves="results/{study}/curves.parquet",
        figures=expand(
            "results/{{study}}/figures/{task}.{figure}.{kind}",
            task=STUDY.tasks,
            figure=FIGURES,
            kind=["pdf", "png", "csv"],
        ),
        provenance="results/{study}/provenance.json",
        study=STUDY_FILE,
    output:
        pdf=report(
            "results/{study}/report.pdf",
            category="Report",
            caption="../paper/captions/report.rst",
            labels={"kind": "PDF"},
        ),
        html=report(
            "results/{study}/report.html",
            category="Report",
            caption="../paper/captions/report.rst",
            labels={"kind": "page"},
        ),
    log:
        "results/{study}/logs/report.log",
    conda:
        "../envs/mufree.yaml"
    message:
        "Write the report"
    shell:
        "mufree report --study {input.study:q} --rows {input.rows:q} --curves {input.curves:q}"
        " --tables $(dirname {input.summary:q})"
        " --figures $(dirname {input.figures[0]:q}) --provenance {input.provenance:q}"
        " --out $(dirname {output.pdf:q}) 2> {log:q}"

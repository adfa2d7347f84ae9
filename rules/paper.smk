"""The article, from the frozen study in paper/data alone, and how a study is frozen. Nothing here trains."""

# The paper's studies, by name: the one that is judged, then what was tried after its results.
PAPER = frozen_studies("paper/data", "paper/follow_ups")
FROZEN_FOLDERS = [folder for folder, _ in PAPER.values()] or ["paper/data"]
# A change of any file is seen. The manifest is asked for even before there is one.
FROZEN_FILES = [f"{FROZEN_FOLDERS[0]}/MANIFEST.json"] + [
    path.relative_to(workflow.basedir).as_posix()
    for folder in FROZEN_FOLDERS
    for path in sorted((Path(workflow.basedir) / folder).rglob("*"))
    if path.is_file() and path != Path(workflow.basedir) / "paper/data/MANIFEST.json"
]
PAPER_OVERVIEWS = [
    f"results/paper/figures/{name}/{OVERVIEW}.{kind}"
    for name in PAPER
    for kind in KINDS
]
PAPER_FIGURES = PAPER_OVERVIEWS + [
    f"results/paper/figures/{name}/{task}.{figure}.{kind}"
    for name, (_, tasks) in PAPER.items()
    for task in tasks
    for figure in FIGURES
    for kind in KINDS
]


IS_FOLLOW_UP = STUDY.name == "follow_ups"


localrules:
    freeze,


rule freeze:
    """Freeze the study of --config study=NAME into paper/data, which the article is built from; or follow_ups, beside it."""
    input:
        rows=f"results/{STUDY.name}/rows.parquet",
        timings=f"results/{STUDY.name}/timings.parquet",
        provenance=f"results/{STUDY.name}/provenance.json",
        tables=expand(
            "results/{study}/tables/{table}.csv", study=STUDY.name, table=TABLES
        ),
        coordcheck=expand(
            "results/{study}/coordcheck/{task}.parquet",
            study=STUDY.name,
            task=STUDY.tasks,
        ),
        study=STUDY_FILE,
        power=[f for f in [f"experiments/{STUDY.name}.power.csv"] if Path(f).exists()],
        hypotheses="experiments/hypotheses.yaml",
    log:
        f"results/{STUDY.name}/logs/freeze.log",
    conda:
        "../envs/mufree.yaml"
    params:
        # Hours of simulation, and of no study: taken along from where it was made, or from what was frozen before.
        calibration=lambda wildcards: next(
            (
                f"--calibration {path}"
                for path in ["results/calibration.csv", "paper/data/calibration.csv"]
                if Path(path).exists() and not IS_FOLLOW_UP
            ),
            "",
        ),
        power=lambda wildcards, input: f"--power {input.power}" if input.power else "",
        store=f"results/{STUDY.name}/runs",
        out="paper/follow_ups" if IS_FOLLOW_UP else "paper/data",
    message:
        "Freeze study {STUDY.name} for the paper"
    # No output: what is frozen is a source of the article, which must not pull training in.
    shell:
        "mufree freeze --study {input.study:q} --hypotheses {input.hypotheses:q} --rows {input.rows:q}"
        " --timings {input.timings:q} --store {params.store:q} --tables $(dirname {input.tables[0]:q})"
        " --coordcheck {input.coordcheck:q} --provenance {input.provenance:q} {params.calibration} {params.power}"
        " --out {params.out} 2> {log:q}"


rule check_frozen:
    """Frozen files are those of their manifest; what figures read of them is put beside one another."""
    input:
        source_files("recompute"),
        FROZEN_FILES,
    output:
        verified="results/paper/verified.json",
        thawed=expand(
            "{folder}/{file}",
            folder=[thawed(folder) for folder in FROZEN_FOLDERS],
            file=["curves.parquet", "tables/coordcheck.csv"],
        ),
    log:
        "results/paper/logs/check_frozen.log",
    conda:
        "../envs/mufree.yaml"
    params:
        folders=FROZEN_FOLDERS,
    message:
        "Check what is frozen against its manifest"
    shell:
        "mufree check-frozen {params.folders} --thaw results/paper/thawed --out {output.verified:q} 2> {log:q}"


rule recompute:
    """The frozen runs give the frozen tables."""
    input:
        source_files("recompute"),
        verified="results/paper/verified.json",
    output:
        "results/paper/recomputed.json",
    log:
        "results/paper/logs/recompute.log",
    # The longest step, and nothing but the last one needs it.
    priority: 10
    conda:
        "../envs/mufree.yaml"
    params:
        folders=FROZEN_FOLDERS,
    message:
        "Make the tables anew from the frozen runs, and compare"
    shell:
        "mufree check-frozen {params.folders} --recompute --out {output:q} 2> {log:q}"


rule paper_verdicts:
    """The hypotheses, judged by the frozen estimates."""
    input:
        source_files("verdicts"),
        verified="results/paper/verified.json",
    output:
        "results/paper/verdicts.csv",
    log:
        "results/paper/logs/verdicts.log",
    conda:
        "../envs/mufree.yaml"
    message:
        "Judge the hypotheses"
    shell:
        "mufree verdicts --estimates paper/data/tables/estimates.csv --hypotheses paper/data/hypotheses.yaml"
        " --out {output:q} 2> {log:q}"


rule numbers:
    """Every number that the article and the README may name."""
    input:
        source_files("numbers"),
        verdicts="results/paper/verdicts.csv",
    output:
        "results/paper/numbers.json",
    log:
        "results/paper/logs/numbers.log",
    conda:
        "../envs/mufree.yaml"
    params:
        folders=FROZEN_FOLDERS,
    message:
        "Collect the paper's numbers"
    shell:
        "mufree numbers --frozen {params.folders} --verdicts {input.verdicts:q} --out {output:q} 2> {log:q}"


rule paper_overview:
    """All tasks of a frozen study side by side."""
    input:
        source_files("overview"),
        verified="results/paper/verified.json",
    output:
        expand(
            "results/paper/figures/{{paper_study}}/{figure}.{kind}",
            figure=OVERVIEW,
            kind=KINDS,
        ),
    log:
        "results/paper/logs/figures/{paper_study}.log",
    wildcard_constraints:
        paper_study="|".join(PAPER) or "none",
    conda:
        "../envs/mufree.yaml"
    params:
        frozen=lambda wildcards: PAPER[wildcards.paper_study][0],
        stem=lambda wildcards: f"results/paper/figures/{wildcards.paper_study}/{OVERVIEW}",
    message:
        "Draw all tasks of {wildcards.paper_study} side by side"
    shell:
        "mufree overview --optima {params.frozen}/tables/optima.csv --rows {params.frozen}/rows.parquet --out {params.stem:q} 2> {log:q}"


rule paper_figures:
    """The figures of a task, from the frozen tables."""
    input:
        source_files("figures"),
        thawed=rules.check_frozen.output.thawed,
    output:
        expand(
            "results/paper/figures/{{paper_study}}/{{paper_task}}.{figure}.{kind}",
            figure=FIGURES,
            kind=KINDS,
        ),
    log:
        "results/paper/logs/figures/{paper_study}.{paper_task}.log",
    wildcard_constraints:
        paper_study="|".join(PAPER) or "none",
        paper_task="|".join(task for _, tasks in PAPER.values() for task in tasks)
        or "none",
    conda:
        "../envs/mufree.yaml"
    params:
        frozen=lambda wildcards: PAPER[wildcards.paper_study][0],
        thawed=lambda wildcards: thawed(PAPER[wildcards.paper_study][0]),
        title=lambda wildcards: PAPER[wildcards.paper_study][1][wildcards.paper_task],
        names=FIGURES,
        out=lambda wildcards: f"results/paper/figures/{wildcards.paper_study}",
    message:
        "Draw the paper's figures of {wildcards.paper_task}"
    shell:
        "mufree figure {params.names} --task {wildcards.paper_task:q} --title {params.title:q}"
        " --rows {params.frozen}/rows.parquet --curves {params.thawed}/curves.parquet --tables {params.thawed}/tables"
        " --out {params.out:q} 2> {log:q}"


rule claims:
    """Every statement of the article and of the README's answer, tested against the frozen tables."""
    input:
        "paper/paper.typ",
        "paper/answer.md",
        "README.md",
        [
            path.relative_to(workflow.basedir).as_posix()
            for path in sorted((Path(workflow.basedir) / "tests/claims").glob("*.py"))
        ],
        numbers="results/paper/numbers.json",
        recomputed="results/paper/recomputed.json",
    output:
        "results/paper/claims.txt",
    log:
        "results/paper/logs/claims.log",
    conda:
        "../envs/mufree.yaml"
    message:
        "Test the paper's claims"
    # The other tests' conftest loads torch; these need none.
    shell:
        "MUFREE_NUMBERS={input.numbers:q} python -m pytest tests/claims --confcutdir tests/claims"
        " -p no:cacheprovider -q --tb=short > {log:q} 2>&1 && tail -n 1 {log:q} | sed 's/ in .*//' > {output:q}"


rule supplement:
    """Every table and figure of the paper's studies: results/paper/supplement.pdf."""
    input:
        source_files("supplement"),
        PAPER_FIGURES,
        verdicts="results/paper/verdicts.csv",
    output:
        "results/paper/supplement.pdf",
    log:
        "results/paper/logs/supplement.log",
    conda:
        "../envs/mufree.yaml"
    params:
        folders=FROZEN_FOLDERS,
    message:
        "Set the supplement"
    shell:
        "mufree supplement --frozen {params.folders} --verdicts {input.verdicts:q} --figures results/paper/figures"
        " --out {output:q} 2> {log:q}"


rule paper:
    """The article, paper/paper.pdf, with its supplement beside its numbers."""
    input:
        "paper/paper.typ",
        "paper/template.typ",
        "paper/references.bib",
        source_files("paper"),
        numbers="results/paper/numbers.json",
        claims="results/paper/claims.txt",
        supplement="results/paper/supplement.pdf",
        figures=[figure for figure in PAPER_FIGURES if figure.endswith(".pdf")],
    output:
        "paper/paper.pdf",
    log:
        "results/paper/logs/paper.log",
    conda:
        "../envs/mufree.yaml"
    message:
        "Set the paper"
    shell:
        "mufree paper --source paper --numbers {input.numbers:q} --figures {input.figures:q} --out {output:q} 2> {log:q}"

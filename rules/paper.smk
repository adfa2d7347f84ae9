"""The article, from the frozen study in paper/data alone, and how a study is frozen. Nothing here trains."""

FROZEN = Path(workflow.basedir) / "paper/data"
# What was tried after the results of the study in FROZEN: a study of its own, frozen apart.
FOLLOW_UPS = Path(workflow.basedir) / "paper/follow_ups"
PAPER_FIGURES = [
    "loss_vs_lr",
    "optimum_vs_width",
    "regret_vs_width",
    "interaction",
    "anytime",
    "best_of_k",
    "weight_decay",
    "coordcheck",
    "dynamics",
    "validation_curves",
    "averages",
    "lr_sensitivity",
]
FOLLOW_UP_FIGURES = ["loss_vs_lr"]
PAPER_TABLES = [
    "answer",
    "tasks",
    "main",
    "cells",
    "verdicts",
    "conditions",
    "optima",
    "data",
    *(["calibration"] if (FROZEN / "calibration.csv").exists() else []),
    *(["power"] if (FROZEN / "power.csv").exists() else []),
]


PAPER_TASKS = frozen_tasks(FROZEN)
FOLLOW_UP_TASKS = frozen_tasks(FOLLOW_UPS)
FROZEN_FOLDERS = ["paper/data", *(["paper/follow_ups"] if FOLLOW_UP_TASKS else [])]
# A change of any file is seen. The manifest is asked for even before there is one.
FROZEN_FILES = ["paper/data/MANIFEST.json"] + [
    path.relative_to(workflow.basedir).as_posix()
    for folder in (FROZEN, FOLLOW_UPS)
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path != FROZEN / "MANIFEST.json"
]


IS_FOLLOW_UP = STUDY.name == FOLLOW_UPS.name


localrules:
    freeze,


rule freeze:
    """Freeze the study of --config study=NAME into paper/data, which the article is built from; or follow_ups, beside it."""
    input:
        rows=f"results/{STUDY.name}/rows.parquet",
        curves=f"results/{STUDY.name}/curves.parquet",
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
        full=STUDY_FILE if IS_FOLLOW_UP else "experiments/cifar_wikitext.yaml",
        power=[] if IS_FOLLOW_UP else "experiments/cifar_wikitext.power.csv",
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
        out="paper/follow_ups" if IS_FOLLOW_UP else "paper/data",
    message:
        "Freeze study {STUDY.name} for the paper"
    # No output: what is frozen is a source of the article, which must not pull training in.
    shell:
        "mufree freeze --study {input.study:q} --full {input.full:q} --hypotheses {input.hypotheses:q} --rows {input.rows:q}"
        " --curves {input.curves:q} --timings {input.timings:q} --tables $(dirname {input.tables[0]:q})"
        " --coordcheck {input.coordcheck:q} --provenance {input.provenance:q} {params.calibration} {params.power}"
        " --out {params.out} 2> {log:q}"


rule check_frozen:
    """Frozen files are those of their manifest."""
    input:
        FROZEN_FILES,
    output:
        "results/paper/verified.json",
    log:
        "results/paper/logs/check_frozen.log",
    conda:
        "../envs/mufree.yaml"
    params:
        folders=FROZEN_FOLDERS,
    message:
        "Check what is frozen against its manifest"
    shell:
        "mufree check-frozen {params.folders} --out {output:q} 2> {log:q}"


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
    """Every number and computed sentence of the article, and its tables as CSV and LaTeX."""
    input:
        source_files("numbers"),
        verdicts="results/paper/verdicts.csv",
    output:
        numbers="results/paper/numbers.json",
        tables=expand(
            "results/paper/tables/{table}.{kind}",
            table=PAPER_TABLES,
            kind=["csv", "tex"],
        ),
    log:
        "results/paper/logs/numbers.log",
    conda:
        "../envs/mufree.yaml"
    params:
        figures=PAPER_FIGURES,
        follow_ups="--follow-ups paper/follow_ups" if FOLLOW_UP_TASKS else "",
    message:
        "Collect the paper's numbers"
    shell:
        "mufree numbers --frozen paper/data --verdicts {input.verdicts:q} --figures {params.figures}"
        " {params.follow_ups} --out $(dirname {output.numbers:q}) 2> {log:q}"


rule paper_figures:
    """The figures of a task, from the frozen tables."""
    input:
        source_files("figures"),
        verified="results/paper/verified.json",
    output:
        expand(
            "results/paper/figures/{{paper_task}}.{figure}.{kind}",
            figure=PAPER_FIGURES,
            kind=["png", "csv"],
        ),
        pdf=expand(
            "results/paper/figures/{{paper_task}}.{figure}.pdf", figure=PAPER_FIGURES
        ),
    log:
        "results/paper/logs/figures/{paper_task}.log",
    wildcard_constraints:
        paper_task="|".join(PAPER_TASKS) or "none",
    conda:
        "../envs/mufree.yaml"
    params:
        frozen="paper/data",
        title=lambda wildcards: PAPER_TASKS[wildcards.paper_task],
        names=PAPER_FIGURES,
    message:
        "Draw the paper's figures of {wildcards.paper_task}"
    shell:
        "mufree figure {params.names} --task {wildcards.paper_task:q} --title {params.title:q}"
        " --rows {params.frozen}/rows.parquet --curves {params.frozen}/curves.parquet --tables {params.frozen}/tables"
        " --out $(dirname {output.pdf[0]:q}) 2> {log:q}"


use rule paper_figures as follow_up_figures with:
    output:
        expand(
            "results/paper/follow_ups/{{paper_task}}.{figure}.{kind}",
            figure=FOLLOW_UP_FIGURES,
            kind=["png", "csv"],
        ),
        pdf=expand(
            "results/paper/follow_ups/{{paper_task}}.{figure}.pdf",
            figure=FOLLOW_UP_FIGURES,
        ),
    log:
        "results/paper/logs/follow_ups/{paper_task}.log",
    wildcard_constraints:
        paper_task="|".join(FOLLOW_UP_TASKS) or "none",
    params:
        frozen="paper/follow_ups",
        title=lambda wildcards: FOLLOW_UP_TASKS[wildcards.paper_task],
        names=FOLLOW_UP_FIGURES,


rule claims:
    """Every claim of the article, tested against the frozen tables."""
    input:
        "paper/paper.typ",
        "paper/template.typ",
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
        "MUFREE_PAPER=$(dirname {input.numbers:q}) python -m pytest tests/claims/test_claims.py --confcutdir tests/claims"
        " -p no:cacheprovider -q --tb=short > {log:q} 2>&1 && tail -n 1 {log:q} | sed 's/ in .*//' > {output:q}"


rule paper:
    """The article: paper/paper.pdf."""
    input:
        "paper/paper.typ",
        "paper/template.typ",
        "paper/references.bib",
        source_files("paper"),
        numbers="results/paper/numbers.json",
        tables=rules.numbers.output.tables,
        claims="results/paper/claims.txt",
        figures=expand(
            "results/paper/figures/{task}.{figure}.pdf",
            task=PAPER_TASKS,
            figure=PAPER_FIGURES,
        ),
        follow_ups=expand(
            "results/paper/follow_ups/{task}.{figure}.pdf",
            task=FOLLOW_UP_TASKS,
            figure=FOLLOW_UP_FIGURES,
        ),
    output:
        "paper/paper.pdf",
    log:
        "results/paper/logs/paper.log",
    conda:
        "../envs/mufree.yaml"
    message:
        "Set the paper"
    shell:
        "mufree paper --source paper --build $(dirname {input.numbers:q}) --figures {input.figures:q} {input.follow_ups:q}"
        " --out {output:q} 2> {log:q}"

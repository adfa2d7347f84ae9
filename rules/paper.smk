"""The article, from the frozen study in paper/data alone, and how a study is frozen. Nothing here trains."""

FROZEN_FOLDERS = list(FROZEN) or ["paper/data"]
PAPER_FIGURES = [
    f"{folder}/figures/{figure}.{kind}"
    for folder, study in PAPER.items()
    for figure in stems(study["tasks"])
    for kind in KINDS
]
# Frozen beside the article's first study, not in its place.
BESIDE = ["follow_ups", "confirm", "confirm_gpt"]
FREEZE_TO = f"paper/{STUDY.name}" if STUDY.name in BESIDE else "paper/data"
# What stands in the place of the first study is judged as it was.
FROZEN_HYPOTHESES = [HYPOTHESES] if JUDGED or FREEZE_TO == "paper/data" else []
# Hours of simulation, and of no study.
CALIBRATION = those_there("results/calibration.csv")


localrules:
    freeze,


rule freeze:
    """Freeze the study of --config study=NAME for the article: into paper/data; one of BESIDE, beside it."""
    input:
        rows=f"results/{STUDY.name}/rows.parquet",
        timings=f"results/{STUDY.name}/timings.parquet",
        provenance=f"results/{STUDY.name}/provenance.json",
        coordcheck=[
            f"results/{STUDY.name}/coordcheck/{task}.parquet" for task in STUDY.tasks
        ],
        study=STUDY_FILE,
        power=those_there(f"experiments/{STUDY.name}.power.csv"),
        hypotheses=FROZEN_HYPOTHESES,
    log:
        f"results/{STUDY.name}/logs/freeze.log",
    conda:
        "../envs/mufree.yaml"
    params:
        calibration=option(
            "calibration", CALIBRATION if FREEZE_TO == "paper/data" else []
        ),
        power=lambda wildcards, input: option("power", input.power),
        hypotheses=lambda wildcards, input: option("hypotheses", input.hypotheses),
        store=f"results/{STUDY.name}/runs",
        out=FREEZE_TO,
    message:
        "Freeze study {STUDY.name} for the paper"
    # No output: what is frozen is a source of the article, which must not pull training in.
    shell:
        "mufree freeze --study {input.study:q} {params.hypotheses} --rows {input.rows:q}"
        " --timings {input.timings:q} --store {params.store:q}"
        " --coordcheck {input.coordcheck:q} --provenance {input.provenance:q} {params.calibration} {params.power}"
        " --out {params.out} 2> {log:q}"


rule check_frozen:
    """Frozen files are those of their manifest; what is read of them is put beside one another, with the verdicts."""
    input:
        source_files("recompute"),
        # A change of any file is seen. The manifest is asked for even before there is one.
        f"{FROZEN_FOLDERS[0]}/MANIFEST.json",
        [files_below(folder, "**/*") for folder in FROZEN_FOLDERS],
    output:
        verified="results/paper/verified.json",
        thawed=expand(
            "{folder}/{file}",
            folder=PAPER,
            file=[
                "rows.parquet",
                "curves.parquet",
                *(f"tables/{t}.csv" for t in TABLES),
            ],
        ),
        verdicts=[
            f"results/paper/{study['name']}/verdicts.csv"
            for folder, study in FROZEN.items()
            if (Path(folder) / "hypotheses.yaml").exists()
        ],
    log:
        "results/paper/logs/check_frozen.log",
    conda:
        "../envs/mufree.yaml"
    params:
        folders=FROZEN_FOLDERS,
    message:
        "Check what is frozen against its manifest"
    shell:
        "mufree check-frozen {params.folders} --thaw results/paper --out {output.verified:q} 2> {log:q}"


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


rule numbers:
    """Every number that the article and the README may name."""
    input:
        source_files("numbers"),
        "results/paper/verified.json",
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
        "mufree numbers --frozen {params.folders} --out {output:q} 2> {log:q}"


rule claims:
    """Every statement of the article and of the README's answer, tested against the frozen tables."""
    input:
        "paper/paper.typ",
        "paper/answer.md",
        "README.md",
        files_below("tests/claims", "*.py"),
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
        "mufree supplement --frozen {params.folders} --figures results/paper --out {output:q} 2> {log:q}"


rule both_beta2:
    """Validation loss of the GPT against its rivals, with the β₂ of a follow-up beside the study's."""
    input:
        source_files("figures"),
        verified="results/paper/verified.json",
        rows="results/paper/cifar_wikitext/rows.parquet",
        curves="results/paper/cifar_wikitext/curves.parquet",
        tables=expand("results/paper/cifar_wikitext/tables/{table}.csv", table=TABLES),
        beside="results/paper/follow_ups/rows.parquet",
    output:
        "results/paper/figures/wikitext2-gpt.anytime.pdf",
    log:
        "results/paper/logs/both_beta2.log",
    conda:
        "../envs/mufree.yaml"
    params:
        title="GPT with 2 blocks on WikiText-2 (trained on its test split)",
    message:
        "Draw the GPT with both β₂"
    shell:
        "mufree figure anytime --task wikitext2-gpt --title {params.title:q} --rows {input.rows:q} --curves {input.curves:q}"
        " --tables $(dirname {input.tables[0]:q}) --beside $(dirname {input.beside:q})/gpt-same-beta2"
        " --out $(dirname {output:q}) 2> {log:q}"


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
        figures=[
            "results/paper/figures/wikitext2-gpt.anytime.pdf",
            *(figure for figure in PAPER_FIGURES if figure.endswith(".pdf")),
        ],
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

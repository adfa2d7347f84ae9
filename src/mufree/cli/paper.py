"""`mufree verdicts`, and what freezes a study and builds the paper from it. Loads no torch but to train runs again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from mufree.cli.commands import Checks, Paths, StudyFile, command
from mufree.cli.inputs import UserError, load_hypotheses, load_study

if TYPE_CHECKING:
    from mufree.publish.results import Results


@command("--estimates tables/estimates.csv --hypotheses experiments/hypotheses.yaml --out verdicts.csv")
def verdicts(*, estimates: Path, hypotheses: Path, out: Path) -> None:
    """Judge the hypotheses by the table of estimates.

    Args:
        estimates: the table of estimates, as `mufree metrics` writes it
        hypotheses: the hypotheses (YAML)
        out: the table of verdicts (CSV)
    """
    from mufree.analysis import tables
    from mufree.analysis.verdicts import judge
    from mufree.study import files
    from mufree.study.reading import read_csv

    registered = load_hypotheses(hypotheses)
    frame = judge(read_csv(estimates, tables.COLUMNS["estimates"]), registered)
    files.write_text(out, tables.to_csv(frame))


@command(
    "--study experiments/quickstart.yaml --hypotheses experiments/hypotheses.yaml --rows rows.parquet "
    "--timings timings.parquet --store runs --coordcheck coordcheck/*.parquet "
    "--provenance provenance.json --out paper/data"
)
def freeze(
    *,
    study: StudyFile,
    hypotheses: Path | None = None,
    rows: Path,
    timings: Path,
    store: Path,
    coordcheck: Checks = (),
    provenance: Path,
    calibration: Path | None = None,
    power: Path | None = None,
    out: Path,
) -> None:
    """Keep of a finished study what the paper needs, a few megabytes with a manifest of digests.

    Args:
        hypotheses: those that the study is judged by (YAML), if it is
        store: folder of the run store
        calibration: the simulation of the intervals (CSV), if it was made
        power: what the study was sized by (CSV of `mufree power`)
        out: folder to write; what stands there is replaced, but for the tables above that aren't given again
    """
    from mufree.publish import freeze as frozen
    from mufree.study import files, run_store
    from mufree.study.plan import expand
    from mufree.study.reading import read_json, read_parquet
    from mufree.study.record import COLLECTED_SCHEMA, PROVENANCE, TIMING_SCHEMA, check_collected

    planned = load_study(study)
    if hypotheses:
        load_hypotheses(hypotheses)
    runs = expand(planned)
    of_rows, of_timings = read_parquet(rows, COLLECTED_SCHEMA.names), read_parquet(timings, TIMING_SCHEMA.names)
    given = {name: path for name, path in (("calibration.csv", calibration), ("power.csv", power)) if path}
    made_by = read_json(provenance, PROVENANCE)
    copies = {
        "study.yaml": study,
        frozen.HYPOTHESES: hypotheses,
        **{f"coordcheck/{path.name}": path for path in coordcheck},
        **frozen.besides(out, given),
    }
    check_collected(runs, of_rows)
    frozen.check_checks(planned, coordcheck)
    if made_by["study"] != planned.name:
        raise UserError(f"{provenance} is of study {made_by['study']}, and not of {planned.name}")
    frozen.may_replace(out, study=planned.name, judged=hypotheses is not None)
    with files.replacing(out) as whole:
        frozen.freeze(
            whole,
            study=planned.name,
            copies=copies,
            rows=of_rows,
            timings=of_timings,
            store=run_store.existing(store),
            runs=runs,
            provenance=made_by,
        )
        manifest = frozen.make_tables(whole)
    size = sum(file["bytes"] for file in manifest["files"].values()) / 1e6
    judged = "judged" if hypotheses else "not judged"
    print(f"{out}: {manifest['runs']} runs of {planned.name}, {judged}, run set {manifest['run_set']}, {size:.1f} MB")


@command("paper/data paper/confirm paper/follow_ups")
def freeze_tables(
    frozen: Paths,
    /,
    *,
    calibration: Path | None = None,
    validation_noise: Path | None = None,
) -> None:
    """Make the tables of frozen studies anew from their runs, after a change of the metrics.

    Args:
        frozen: frozen folders
        calibration: a new simulation of the intervals (CSV), for the first of them
        validation_noise: what the choice of held-out examples adds (CSV of benchmarks/validation_noise.py), likewise
    """
    from mufree.publish import freeze

    copies = {"calibration.csv": calibration, "validation_noise.csv": validation_noise}
    for folder in frozen:
        freeze.verify(folder)
        manifest = freeze.make_tables(folder, copies)
        copies = {}
        print(f"{folder}: {len(manifest['files'])} files")


@command("paper/data --recompute --out checked.json")
def check_frozen(
    frozen: Paths,
    /,
    *,
    recompute: bool = False,
    thaw: Path | None = None,
    out: Path,
) -> None:
    """Check frozen studies against their manifests, and their tables against their runs.

    Args:
        frozen: frozen folders
        recompute: also make the tables anew from the runs, and compare
        thaw: folder for what is read of them: rows, curves, all tables and the verdicts, a folder a study, by its name
        out: JSON that says what was checked
    """
    from mufree.publish import freeze
    from mufree.study import files

    checked, manifests = {}, {folder: freeze.verify(folder) for folder in frozen}
    if thaw:
        _check_each_once({folder: manifest["study"] for folder, manifest in manifests.items()})
    for folder, manifest in manifests.items():
        tables = freeze.recompute(folder) if recompute else {}
        if thaw:
            freeze.thaw(folder, thaw / manifest["study"])
        found = {"run_set": manifest["run_set"], "files": len(manifest["files"]), "rows_of_tables_made_anew": tables}
        checked[str(folder)] = found
    files.write_json(out, checked)


@command("--frozen paper/data --prepared results/prepared --share 0.02 --out results/rerun")
def rerun(*, frozen: Path, prepared: Path, share: float = 0.02, seed: int = 0, out: Path) -> None:
    """Train a random share of the frozen runs from scratch, and compare them bit for bit.

    Of those that a processor like this one has trained; another doesn't give the same bits.

    Args:
        frozen: the frozen folder
        prepared: folder of the prepared data sets, each by its id
        share: share of these runs
        seed: of the choice
        out: folder for the runs and rerun.json; a second call goes on there
    """
    from mufree.lab.train import sweeping
    from mufree.publish import freeze
    from mufree.study import files
    from mufree.study import rerun as again
    from mufree.study.machine import cpu_name
    from mufree.study.plan import dataset_id

    manifest = freeze.verify(frozen)
    study, chosen = again.chosen(frozen, manifest["numerics"], share, seed, cpu_name())
    records = []
    for task, settings in study.tasks.items():
        if runs := [run for run in chosen if run.task == task]:
            found = sweeping.train(runs, prepared / dataset_id(settings.dataset), out / "runs", sweeping.How())
            records += found.records
    odd = again.compared(frozen, study, chosen, records)
    about = {"run_set": manifest["run_set"], "seed": seed, "runs": [run.id for run in chosen]}
    files.write_json(out / "rerun.json", {**about, **odd})
    if names := sorted({*odd["rows"], *odd["curves"]}):
        raise UserError(
            f"{len(names)} of {len(chosen)} runs came out differently, such as {names[0]}: {out}/rerun.json"
        )
    print(
        f"{len(chosen)} of {manifest['runs']} runs trained from scratch: rows and curves are the frozen ones, bit for bit"
    )


@command("paper/data --published 2026-11-28 --out results/paper/crate")
def crate(frozen: Path, /, *, published: date, author: tuple[str, ...] = (), out: Path) -> None:
    """Write a frozen study for an archive: a copy with ro-crate-metadata.json, by RO-Crate.

    Args:
        frozen: the frozen folder
        published: date of publication
        author: people who made the study (default: the authors of mufree)
        out: folder to write; a crate that stands there is replaced
    """
    from mufree.publish import crate as crates

    print(f"{out}: {crates.write(frozen, out, published, author)} files")


@command("cifar10-mlp/mup_schedulefree/drift --folders paper/data paper/confirm paper/follow_ups")
def trace(
    name: str | None = None,
    /,
    *,
    folders: Paths,
    numbers: Path = Path("results/paper/numbers.json"),
    prepared: Path = Path("results/prepared"),
    runs: bool = False,
    recompute: bool = False,
    full: bool = False,
) -> None:
    """Walk from a number of the paper to its row, runs, code, data and machine, and say what is the same here.

    Of the folders, those are told of that have runs of the number, or all if none has. Reads what `mufree provenance` and
    `mufree freeze` wrote. Exits with 1 where a file, a table or a number isn't what the others say; other code, packages or
    machines than those of the runs are told, and are no error.

    Args:
        name: key of a number, id of a run, or rows as a number's source names them (default: the folders alone)
        folders: frozen folders, in the order of the paper, or folders of results
        numbers: numbers.json of the paper
        prepared: folder of the prepared data sets, each by its id
        runs: show the ids of all runs
        recompute: also make the tables anew from the runs, in a minute, and compare
        full: say all that is the same here, too, in place of a line that names it
    """
    from mufree.publish import trace as walk
    from mufree.publish.cells import place

    places, wrong = [place(folder) for folder in folders], []

    def lines() -> Iterator[walk.Line]:
        led = set()
        if name is not None:
            for line in walk.told(walk.trace(name, places, numbers, every_run=runs), full=full):
                led |= {line.folder} - {None}
                yield line
        for each in places:
            if not led or each.folder in led:
                about = walk.about(each, prepared, recompute=recompute)
                yield from walk.told(about, f"{each.folder}: ", full=full)

    for line in lines():
        print(f"{line.what}: {line.said}", flush=True)
        wrong += [f"{line.what}: {line.said}"] if line.wrong else []
    if wrong:
        raise UserError("what stands here doesn't fit together:\n  " + "\n  ".join(wrong))


@command("--frozen paper/data paper/follow_ups --out results/paper/numbers.json")
def numbers(*, frozen: Paths, out: Path) -> None:
    """Write every number that the paper and the README may name, each with where it comes from.

    Args:
        frozen: frozen folders, the paper's first study before all others
        out: the numbers (JSON)
    """
    from mufree.publish import numbers as made
    from mufree.study import files

    studies = _read_studies(frozen)
    named = [{"name": study.name, "run_set": study.run_set} for study in studies]
    files.write_json(out, {"studies": named, "numbers": made.collect(studies)})


@command("--frozen paper/data paper/follow_ups --figures results/paper --out supplement.pdf")
def supplement(*, frozen: Paths, figures: Path, out: Path) -> None:
    """Write the supplement of the paper: every table and figure of its studies.

    Args:
        frozen: frozen folders, the paper's first study before all others
        figures: folder with a folder a study, by its name, whose figures are in its folder figures
        out: the PDF
    """
    from mufree.publish.report import write_supplement

    write_supplement(_read_studies(frozen), figures, out)


@command("--numbers results/paper/numbers.json README.md")
def answer(readme: Path, /, *, numbers: Path, answer: Path = Path("paper/answer.md")) -> None:
    """Put the paper's answer into the README, between its marks.

    Args:
        readme: a text with the lines <!-- answer --> and <!-- /answer -->
        numbers: numbers.json of the paper
        answer: its words, with the keys of numbers in braces
    """
    from mufree.publish import paper as papers
    from mufree.study import files
    from mufree.study.reading import read_json, read_text

    found = read_json(numbers, {"numbers": {...: {"digits": str, "interval": str}}})["numbers"]
    text = papers.answered(read_text(readme), read_text(answer), found, str(readme))
    files.write_text(readme, text)


@command("--source paper --numbers numbers.json --figures figures/*.pdf --out paper/paper.pdf")
def paper(*, source: Path, numbers: Path, figures: tuple[Path, ...] = (), out: Path) -> None:
    """Set the paper: its words, numbers and figures to a PDF.

    Args:
        source: folder of paper.typ, template.typ, references.bib
        numbers: numbers.json of the paper
        figures: figures (PDF)
        out: the PDF
    """
    from mufree.publish import paper as papers
    from mufree.study import files

    pdf = papers.to_pdf(source, numbers, figures)
    with files.atomic(out) as temporary:
        temporary.write_bytes(pdf)


def _read_studies(folders: Sequence[Path]) -> list[Results]:
    """Frozen studies, once they are found to be what was frozen."""
    from mufree.publish import freeze
    from mufree.publish.results import read_frozen

    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise UserError(f"--frozen names {twice[0]} twice; give each study once", 2)
    run_sets = [freeze.verify(folder)["run_set"] for folder in folders]
    studies = [read_frozen(folder, run_set) for folder, run_set in zip(folders, run_sets, strict=True)]
    _check_each_once({folder: study.name for folder, study in zip(folders, studies, strict=True)})
    if studies[0].hypotheses is None and any(study.hypotheses for study in studies):
        raise UserError(f"--frozen begins with {folders[0]}, which isn't judged. Give the paper's first study first", 2)
    return studies


def _check_each_once(names: Mapping[Path, str]) -> None:
    for folder, name in names.items():
        if others := [other for other in names if names[other] == name and other != folder]:
            raise UserError(f"{folder} and {others[0]} are the same study, {name}; give each once", 2)

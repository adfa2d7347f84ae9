"""`mufree verdicts`, and what freezes a study and builds the paper from it. Loads no torch but to train runs again."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mufree.cli.inputs import Command, UserError, load_study
from mufree.cli.training import train
from mufree.lab.train.sweeping import How
from mufree.study import config
from mufree.study.hypotheses import Hypotheses
from mufree.study.yaml_files import StudyFileError, read_yaml

if TYPE_CHECKING:
    import pandas as pd

    from mufree.publish.frozen import Frozen

ANSWER = ("<!-- answer -->", "<!-- /answer -->")
"""What the answer stands between in the README."""


def add_commands(command: Command) -> None:
    """Add all of them; `command(name, handler, summary, example)` makes one."""
    sub = command(
        "verdicts",
        verdicts,
        "Judge the hypotheses by the table of estimates.",
        "--estimates tables/estimates.csv --hypotheses experiments/hypotheses.yaml --out verdicts.csv",
    )
    sub.add_argument(
        "--estimates", type=Path, required=True, help="the table of estimates, as `mufree metrics` writes it"
    )
    sub.add_argument("--hypotheses", type=Path, required=True, help="the hypotheses (YAML)")
    sub.add_argument("--out", type=Path, required=True, help="the table of verdicts (CSV)")

    sub = command(
        "freeze",
        freeze,
        "Keep of a finished study what the paper needs, a few megabytes with a manifest of digests.",
        "--study experiments/quickstart.yaml --hypotheses experiments/hypotheses.yaml --rows rows.parquet "
        "--curves curves.parquet --timings timings.parquet --tables tables --coordcheck coordcheck/*.parquet "
        "--provenance provenance.json --out paper/data",
    )
    sub.add_argument("--study", type=Path, required=True, help="the study file")
    sub.add_argument("--full", type=Path, required=True, help="the study that the paper is about")
    sub.add_argument("--hypotheses", type=Path, required=True)
    for name in ("rows", "curves", "timings"):
        sub.add_argument(f"--{name}", type=Path, required=True, help=f"{name}.parquet of the study")
    sub.add_argument("--tables", type=Path, required=True, help="folder of the tables")
    sub.add_argument("--coordcheck", type=Path, nargs="*", default=[], help="raw coordinate checks, one a task")
    sub.add_argument("--provenance", type=Path, required=True)
    sub.add_argument("--calibration", type=Path, help="the simulation of the intervals (CSV), if it was made")
    sub.add_argument("--power", type=Path, help="what --full was sized by (CSV of `mufree power`)")
    sub.add_argument("--out", type=Path, required=True, help="folder to write; what stands there is replaced")

    sub = command(
        "check-frozen",
        check_frozen,
        "Check frozen studies against their manifests, and their tables against their runs.",
        "paper/data --recompute --out checked.json",
    )
    sub.add_argument("frozen", type=Path, nargs="+", help="frozen folders")
    sub.add_argument("--recompute", action="store_true", help="also make the tables anew from the runs, and compare")
    sub.add_argument("--out", type=Path, required=True, help="JSON that says what was checked")

    sub = command(
        "rerun",
        rerun,
        "Train a random share of the frozen runs from scratch, and compare them bit for bit.",
        "--frozen paper/data --prepared results/prepared --share 0.02 --out results/rerun",
    )
    sub.add_argument("--frozen", type=Path, required=True, help="the frozen folder")
    sub.add_argument("--prepared", type=Path, required=True, help="folder of the prepared data sets, each by its id")
    sub.add_argument("--share", type=float, default=0.02, help="share of the runs (default 0.02)")
    sub.add_argument("--seed", type=int, default=0, help="of the choice (default 0)")
    sub.add_argument(
        "--out", type=Path, required=True, help="folder for the runs and rerun.json; a second call goes on there"
    )

    sub = command(
        "numbers",
        numbers,
        "Write every number and computed sentence of the paper, and its tables as CSV and LaTeX.",
        "--frozen paper/data --verdicts verdicts.csv --figures loss_vs_lr --out results/paper",
    )
    sub.add_argument("--frozen", type=Path, required=True, help="the frozen folder")
    sub.add_argument("--verdicts", type=Path, required=True, help="the table of verdicts")
    sub.add_argument("--figures", nargs="*", default=[], metavar="NAME", help="figures that need a caption")
    sub.add_argument(
        "--follow-ups", type=Path, help="the frozen folder of what was tried after the results, if there is one"
    )
    sub.add_argument("--out", type=Path, required=True, help="folder for numbers.json and tables/")

    sub = command(
        "answer",
        answer,
        "Put the paper's answer into the README, between its marks.",
        "--numbers results/paper/numbers.json --picture docs/images/best-rates.png README.md",
    )
    sub.add_argument("--numbers", type=Path, required=True, help="numbers.json of the paper")
    sub.add_argument(
        "--answer", type=Path, default=Path("paper/answer.md"), help="its words, with the keys of numbers in braces"
    )
    sub.add_argument("--picture", type=Path, help="also draw best rates against width, as this PNG")
    sub.add_argument(
        "--optima", type=Path, default=Path("paper/data/tables/optima.csv"), help="the table to draw --picture from"
    )
    sub.add_argument("readme", type=Path, help="a text with the lines <!-- answer --> and <!-- /answer -->")

    sub = command(
        "paper",
        paper,
        "Set the paper: numbers, tables and figures to a PDF.",
        "--source paper --build results/paper --figures results/paper/figures/*.pdf --out paper/paper.pdf",
    )
    sub.add_argument("--source", type=Path, required=True, help="folder of paper.typ, template.typ, references.bib")
    sub.add_argument("--build", type=Path, required=True, help="folder of numbers.json and tables/")
    sub.add_argument("--figures", type=Path, nargs="*", default=[], help="figures (PDF)")
    sub.add_argument("--out", type=Path, required=True, help="the PDF")


def load_hypotheses(path: Path) -> Hypotheses:
    """Read and check the hypotheses. Raises `UserError` that says what is wrong, where."""
    try:
        return Hypotheses.model_validate(read_yaml(path))
    except StudyFileError as error:
        raise UserError(str(error), 2) from error
    except ValidationError as error:
        raise UserError(f"{path} has {error.error_count()} mistake(s):\n{config.explain(error)}", 2) from error


def verdicts(arguments: argparse.Namespace) -> None:
    """`mufree verdicts`."""
    import pandas as pd

    from mufree.analysis import tables
    from mufree.analysis.verdicts import judge
    from mufree.study import record

    hypotheses = load_hypotheses(arguments.hypotheses)
    try:
        frame = judge(pd.read_csv(arguments.estimates), hypotheses)
    except ValueError as error:
        raise UserError(str(error)) from error
    record.write_text(arguments.out, tables.to_csv(frame))


def freeze(arguments: argparse.Namespace) -> None:
    """`mufree freeze`."""
    import pyarrow.parquet as pq

    from mufree.publish import freeze as frozen
    from mufree.study import record
    from mufree.study.plan import expand

    study = load_study(arguments.study)
    load_hypotheses(arguments.hypotheses)
    rows, curves, timings = (
        pq.read_table(path, partitioning=None) for path in (arguments.rows, arguments.curves, arguments.timings)
    )
    full = expand(load_study(arguments.full))
    copies = frozen.copies_of(
        study=arguments.study,
        hypotheses=arguments.hypotheses,
        tables=arguments.tables,
        coordcheck=arguments.coordcheck,
        calibration=arguments.calibration,
        # What the full study was sized by says nothing on one that stands in for it.
        power=arguments.power if frozen.belong(rows.column("run_id").to_pylist(), full) else None,
    )
    try:
        record.check_collected(expand(study), rows)
        manifest = frozen.freeze(
            arguments.out,
            study=study.name,
            copies=copies,
            rows=rows,
            curves=curves,
            timings=timings,
            provenance=_read_json(arguments.provenance),
            full=full,
        )
    except (record.RecordError, frozen.FrozenError) as error:
        raise UserError(str(error)) from error
    size = sum(file["bytes"] for file in manifest["files"].values()) / 1e6
    print(f"{arguments.out}: {manifest['runs']} runs of {study.name}, run set {manifest['run_set']}, {size:.1f} MB")


def check_frozen(arguments: argparse.Namespace) -> None:
    """`mufree check-frozen`."""
    from mufree.publish import freeze as frozen
    from mufree.study import record

    checked = {}
    for folder in arguments.frozen:
        try:
            manifest = frozen.verify(folder)
            tables = frozen.recompute(folder) if arguments.recompute else {}
        except frozen.FrozenError as error:
            raise UserError(str(error)) from error
        found = {"run_set": manifest["run_set"], "files": len(manifest["files"]), "rows_of_tables_made_anew": tables}
        checked[str(folder)] = found
    record.write_json(arguments.out, checked)


def rerun(arguments: argparse.Namespace) -> None:
    """`mufree rerun`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mufree.publish import freeze as frozen
    from mufree.study import record
    from mufree.study.plan import NUMERICS, dataset_id, expand
    from mufree.study.rerun import differences, differing_curves, sample

    try:
        manifest = frozen.verify(arguments.frozen)
        study = config.Study.model_validate(read_yaml(arguments.frozen / "study.yaml"))
        chosen = sample(expand(study), arguments.share, arguments.seed)
    except (frozen.FrozenError, ValueError) as error:
        raise UserError(str(error)) from error
    if manifest["numerics"] != [NUMERICS]:
        raise UserError(f"{arguments.frozen} is of NUMERICS {manifest['numerics']}, and this package has {NUMERICS}")
    rows: list[pa.Table] = []
    curves: list[pa.Table] = []
    for task in study.tasks:
        runs = [run for run in chosen if run.task == task]
        if not runs:
            continue
        prepared = arguments.prepared / dataset_id(study.tasks[task].dataset)
        found = train(runs, prepared, arguments.out / "runs", How())
        records = [found[run.id].record for run in runs]
        rows.append(record.rows_table(r.row for r in records))
        curves.append(record.concat_curves(r.curves for r in records))
    again = record.collected_rows(chosen, study.tasks, pa.concat_tables(rows))
    odd = differences(pq.read_table(arguments.frozen / "rows.parquet", partitioning=None), again)
    curves = differing_curves(
        pq.read_table(arguments.frozen / "curves.parquet", partitioning=None),
        frozen.thin(record.concat_curves(curves)),
    )
    about = {"run_set": manifest["run_set"], "seed": arguments.seed, "runs": [run.id for run in chosen]}
    record.write_json(arguments.out / "rerun.json", {**about, "rows": odd, "curves": curves})
    if odd or curves:
        names = sorted({*odd, *curves})
        raise UserError(
            f"{len(names)} of {len(chosen)} runs came out differently, such as {names[0]}: {arguments.out}/rerun.json"
        )
    print(
        f"{len(chosen)} of {manifest['runs']} runs trained from scratch: rows and curves are the frozen ones, bit for bit"
    )


def numbers(arguments: argparse.Namespace) -> None:
    """`mufree numbers`."""
    import pandas as pd

    from mufree.publish import follow_ups
    from mufree.publish import numbers as made
    from mufree.publish import paper as papers
    from mufree.study import record

    frozen = _load_frozen(arguments.frozen, pd.read_csv(arguments.verdicts))
    try:
        tables = papers.display_tables(frozen)
        papers.write_tables(tables, arguments.out / "tables")
    except papers.PaperError as error:
        raise UserError(str(error)) from error
    captions = {name: {"caption": table.caption, "note": table.note} for name, table in tables.items()}
    # Nothing is judged in follow-ups.
    later = _load_frozen(arguments.follow_ups, pd.DataFrame()) if arguments.follow_ups else None
    again = follow_ups.again(frozen, later) if later else ""
    found = {
        **made.collect(frozen, arguments.figures, again),
        "tables": captions,
        "follow_ups": follow_ups.collect(frozen, later) if later else None,
    }
    record.write_json(arguments.out / "numbers.json", found)


def answer(arguments: argparse.Namespace) -> None:
    """`mufree answer`."""
    from mufree.study import record

    text = _filled(arguments.answer, _read_json(arguments.numbers).get("numbers", {})).rstrip("\n")
    before, opening, rest = arguments.readme.read_text(encoding="utf-8").partition(f"{ANSWER[0]}\n")
    _, closing, after = rest.partition(ANSWER[1])
    if not (opening and closing):
        raise UserError(f"{arguments.readme} lacks the lines {ANSWER[0]} and {ANSWER[1]} that the answer goes between")
    record.write_text(arguments.readme, f"{before}{opening}{text}\n{closing}{after}")
    if arguments.picture is not None:
        _draw_answer(arguments.optima, arguments.picture)


def _filled(template: Path, found: dict[str, dict[str, str]]) -> str:
    """The text with each `{key}` replaced by that number, and each `{key:}` by it and its interval."""

    def shown(match: re.Match[str]) -> str:
        key, colon = match[1], match[2]
        if key not in found:
            raise UserError(f"{template} wants the number {key}, which the frozen study doesn't have")
        number = found[key]
        return f"{number['digits']} {number['interval']}" if colon else number["digits"]

    return re.sub(r"\{([^{}:]+)(:?)\}", shown, template.read_text(encoding="utf-8"))


def _draw_answer(optima: Path, picture: Path) -> None:
    import tempfile

    import pandas as pd

    from mufree.publish import figures
    from mufree.study import record

    with tempfile.TemporaryDirectory() as folder:
        stem = Path(folder) / "answer"
        figures.save(*figures.draw_best_rates(pd.read_csv(optima)), stem)
        with record.atomic(picture) as path:
            path.write_bytes(stem.with_suffix(".png").read_bytes())


def paper(arguments: argparse.Namespace) -> None:
    """`mufree paper`."""
    from mufree.publish import paper as papers
    from mufree.study import record

    try:
        pdf = papers.to_pdf(arguments.source, arguments.build, arguments.figures)
    except papers.PaperError as error:
        raise UserError(str(error)) from error
    with record.atomic(arguments.out) as temporary:
        temporary.write_bytes(pdf)


def _load_frozen(folder: Path, verdicts: pd.DataFrame) -> Frozen:
    from mufree.publish import freeze as frozen
    from mufree.publish.frozen import read

    try:
        manifest = frozen.verify(folder)
    except frozen.FrozenError as error:
        raise UserError(str(error)) from error
    return read(folder, manifest, verdicts)


def _read_json(path: Path) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return plain

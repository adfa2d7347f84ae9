"""`mufree collect`, `metrics`, `figure`, `provenance`, `report`, `calibrate`, `power`: from runs to tables and pictures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mufree.cli.inputs import Command, UserError, load_study, read_tables, task_of
from mufree.study import jobs
from mufree.study.plan import Sweep, expand

if TYPE_CHECKING:
    import pyarrow as pa


def add_commands(command: Command) -> None:
    """Add all of them; `command(name, handler, summary, example)` makes one."""
    sub = command(
        "collect",
        collect,
        "Join the sweeps of a study and assert that they are exactly the runs planned.",
        "--study experiments/quickstart.yaml --sweeps 'sweeps/{task}/{method}/w{widths}/s{seeds}' --out results",
    )
    _of_a_study(sub)
    sub.add_argument("--out", type=Path, required=True, help="folder for rows.parquet, curves.parquet, timings.parquet")

    sub = command(
        "first-look",
        first_look,
        "Draw loss against rate for one task whose sweeps are finished, whatever the others are.",
        "--study experiments/quickstart.yaml --task photo-mlp --sweeps 'sweeps/{task}/{method}/w{widths}/s{seeds}' "
        "--out first_look",
    )
    _of_a_study(sub)
    sub.add_argument("--task", required=True)
    sub.add_argument("--out", type=Path, required=True, help="folder to draw into")

    sub = command(
        "metrics",
        metrics,
        "Turn rows, curves and coordinate checks into tables.",
        "--rows rows.parquet --curves curves.parquet --coordcheck coordcheck/*.parquet --out tables",
    )
    sub.add_argument("--rows", type=Path, required=True)
    sub.add_argument("--curves", type=Path, required=True)
    sub.add_argument("--coordcheck", type=Path, nargs="*", default=[], help="raw coordinate checks, one a task")
    sub.add_argument("--out", type=Path, required=True, help="folder for the tables (CSV) and summary.json")

    sub = command(
        "figure",
        figure,
        "Draw figures of one task from the tables, each as PDF, PNG and the CSV of what is plotted.",
        "loss_vs_lr --task photo-mlp --rows rows.parquet --curves curves.parquet --tables tables --out figures",
    )
    sub.add_argument("names", nargs="*", metavar="NAME", help="figures to draw (default: all)")
    sub.add_argument("--task", required=True)
    sub.add_argument("--title", help="title above the figures (default: the task's name)")
    sub.add_argument("--rows", type=Path, required=True)
    sub.add_argument("--curves", type=Path, required=True)
    sub.add_argument("--tables", type=Path, required=True, help="folder of the tables")
    sub.add_argument("--out", type=Path, required=True, help="folder to draw into")

    sub = command(
        "provenance",
        provenance,
        "Write versions, machine, digests of code and data, and times of a study.",
        "--study S.yaml --rows rows.parquet --timings timings.parquet --manifests */manifest.json --out provenance.json",
    )
    sub.add_argument("--study", type=Path, required=True)
    sub.add_argument("--rows", type=Path, required=True)
    sub.add_argument("--timings", type=Path, required=True)
    sub.add_argument("--manifests", type=Path, nargs="+", required=True, help="manifests of the prepared data sets")
    sub.add_argument("--out", type=Path, required=True)

    sub = command(
        "report",
        report,
        "Write report.pdf and report.html from tables and figures.",
        "--study S.yaml --rows rows.parquet --curves curves.parquet --tables tables --figures figures "
        "--provenance provenance.json --out results",
    )
    sub.add_argument("--study", type=Path, required=True)
    sub.add_argument("--tables", type=Path, required=True)
    sub.add_argument("--rows", type=Path, required=True)
    sub.add_argument("--curves", type=Path, required=True)
    sub.add_argument("--figures", type=Path, required=True)
    sub.add_argument("--provenance", type=Path, required=True)
    sub.add_argument("--out", type=Path, required=True, help="folder for report.pdf and report.html")

    sub = command(
        "calibrate",
        calibrate,
        "Simulate studies whose drift and regret are known, and count how often the intervals cover them.",
        "--simulations 2000 --out results/calibration.csv",
    )
    sub.add_argument("--simulations", type=int, default=2000, help="studies a scenario and number of seeds")
    sub.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 8], help="numbers of seeds of a study")
    sub.add_argument("--rng-seed", type=int, default=0)
    sub.add_argument("--out", type=Path, required=True, help="the table (CSV)")

    sub = command(
        "power",
        power,
        "Say what a study can see before it is run: simulate it with the noise and curvature of a pilot.",
        "--pilot results/pilot/rows.parquet --study experiments/cifar_wikitext.yaml --out experiments/cifar_wikitext.power.csv",
    )
    sub.add_argument("--pilot", type=Path, required=True, help="rows of a finished pilot")
    sub.add_argument("--study", type=Path, required=True, help="the planned study")
    sub.add_argument("--seeds", type=int, nargs="*", default=[3, 5, 8], help="numbers of seeds besides the planned one")
    sub.add_argument("--simulations", type=int, default=500, help="simulated studies a row")
    sub.add_argument("--out", type=Path, required=True, help="the table (CSV)")


def _of_a_study(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--study", type=Path, required=True, help="the study file")
    sub.add_argument("--sweeps", required=True, help="folder of a sweep, with {task}, {method}, {widths} and {seeds}")
    sub.add_argument(
        "--device", default="cpu", choices=["cpu", "cuda"], help="kind of device that trained (default cpu)"
    )


def collect(arguments: argparse.Namespace) -> None:
    """`mufree collect`."""
    import pyarrow as pa

    from mufree.study import record

    study = load_study(arguments.study)
    runs = expand(study)
    sweeps = jobs.deal(study, runs, arguments.device)
    found = {name: _of_sweeps(name, sweeps, arguments.sweeps) for name in ("rows", "timings", "curves")}
    joined = {
        name: record.concat_curves(tables) if name == "curves" else pa.concat_tables(tables)
        for name, tables in found.items()
    }
    try:
        record.check_collected(runs, joined["rows"], mixed=study.mixed)
    except record.RecordError as error:
        raise UserError(str(error)) from error
    joined["rows"] = record.collected_rows(runs, study.tasks, joined["rows"])
    for name, table in joined.items():
        record.write_table(arguments.out / f"{name}.parquet", table)


def _of_sweeps(name: str, sweeps: Sequence[Sweep], pattern: str) -> list[pa.Table]:
    """The file `name`.parquet of each sweep; `pattern` says in which folder a sweep's files are."""
    import pyarrow.parquet as pq

    def folder(s: Sweep) -> Path:
        return Path(pattern.format(task=s.task, method=s.method, widths=s.width_label, seeds=s.seed_label))

    try:
        return [pq.read_table(folder(sweep) / f"{name}.parquet", partitioning=None) for sweep in sweeps]
    except FileNotFoundError as error:
        raise UserError(f"a sweep is not finished: {error}. Run the workflow again to complete it.") from error


def first_look(arguments: argparse.Namespace) -> None:
    """`mufree first-look`."""
    import pyarrow as pa

    from mufree.analysis import tables
    from mufree.publish import figures
    from mufree.study import record

    study = load_study(arguments.study)
    runs = expand(study)
    sweeps = [sweep for sweep in jobs.deal(study, runs, arguments.device) if sweep.task == arguments.task]
    rows = record.collected_rows(runs, study.tasks, pa.concat_tables(_of_sweeps("rows", sweeps, arguments.sweeps)))
    found = {"rows": rows.to_pandas()}
    found |= tables.surfaces(found["rows"])
    title = task_of(study, arguments.task).description
    arguments.out.mkdir(parents=True, exist_ok=True)
    stem = arguments.out / f"{arguments.task}.loss_vs_lr"
    figures.save(*figures.draw("loss_vs_lr", found, arguments.task, title), stem)
    print(f"First figure: {stem}.png, loss against rate on {arguments.task}.", flush=True)


def metrics(arguments: argparse.Namespace) -> None:
    """`mufree metrics`."""
    import pandas as pd

    from mufree.analysis import coordcheck, tables
    from mufree.study import record

    rows = pd.read_parquet(arguments.rows)
    built = tables.build(rows, pd.read_parquet(arguments.curves))
    built |= coordcheck.tables(pd.read_parquet(path) for path in arguments.coordcheck)
    for name, table in built.items():
        record.write_text(arguments.out / f"{name}.csv", tables.to_csv(table))
    record.write_json(arguments.out / "summary.json", tables.summary(rows, built))


def figure(arguments: argparse.Namespace) -> None:
    """`mufree figure`."""
    import pandas as pd

    from mufree.publish import figures

    names = arguments.names or list(figures.FIGURES)
    unknown = [name for name in names if name not in figures.FIGURES]
    if unknown:
        raise UserError(f"Unknown figure '{unknown[0]}'. Known: {', '.join(figures.FIGURES)}", 2)
    tables = {
        "rows": pd.read_parquet(arguments.rows),
        "curves": pd.read_parquet(arguments.curves),
        **read_tables(arguments.tables),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        drawn, plotted = figures.draw(name, tables, arguments.task, arguments.title or arguments.task)
        figures.save(drawn, plotted, arguments.out / f"{arguments.task}.{name}")


def provenance(arguments: argparse.Namespace) -> None:
    """`mufree provenance`."""
    import pyarrow.parquet as pq

    from mufree.study import record, sources

    study = load_study(arguments.study)
    rows, timings = (pq.read_table(path).to_pydict() for path in (arguments.rows, arguments.timings))
    seconds = sum(sum(timings[f"{phase}_seconds"]) for phase in ("setup", "train", "evaluate"))
    record.write_json(
        arguments.out,
        {
            "study": study.name,
            "environment": record.environment(),
            "code_digest": sources.digest("train"),
            "code_digests_of_runs": sorted(set(rows["code_digest"])),
            "numerics": sorted(set(rows["numerics"])),
            "device": sorted(set(rows["device"])),
            "runs": len(rows["run_id"]),
            "core_hours": round(seconds / 3600, 3),
            "cpus_of_runs": sorted(set(timings["cpu"])),
            "data": [json.loads(path.read_text(encoding="utf-8")) for path in arguments.manifests],
        },
    )


def report(arguments: argparse.Namespace) -> None:
    """`mufree report`."""
    import pandas as pd

    from mufree.publish import report as reports

    study = load_study(arguments.study)
    reports.write(
        study=study.model_dump(mode="json"),
        tables=read_tables(arguments.tables),
        summary=json.loads((arguments.tables / "summary.json").read_text(encoding="utf-8")),
        provenance=json.loads(arguments.provenance.read_text(encoding="utf-8")),
        figures=arguments.figures,
        out=arguments.out,
        rows=pd.read_parquet(arguments.rows),
        curves=pd.read_parquet(arguments.curves),
    )


def calibrate(arguments: argparse.Namespace) -> None:
    """`mufree calibrate`."""
    from mufree.analysis.metrics.calibration import calibrate
    from mufree.study import record

    table = calibrate(arguments.simulations, arguments.seeds, arguments.rng_seed)
    record.write_text(arguments.out, table.to_csv(index=False, float_format="%.6g"))
    print(f"{int(table['within_bounds'].sum())} of {len(table)} rows within bounds; all of them: {arguments.out}")


def power(arguments: argparse.Namespace) -> None:
    """`mufree power`."""
    import pyarrow.parquet as pq

    from mufree.analysis.tables.power import power_table
    from mufree.study import record

    study = load_study(arguments.study)
    pilot = pq.read_table(arguments.pilot, partitioning=None).to_pandas()
    try:
        table = power_table(pilot, study, arguments.seeds, arguments.simulations)
    except ValueError as error:
        raise UserError(str(error)) from error
    record.write_text(arguments.out, table.to_csv(index=False, float_format="%.4g"))
    shown = table[table["planned"]].drop(columns=["planned", "reason"])
    print(shown.to_string(index=False, float_format="%.3g"))

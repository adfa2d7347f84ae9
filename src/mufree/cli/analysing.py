"""`mufree collect`, `metrics`, `figure`, `provenance`, `report`, `calibrate`, `power`: from runs to tables and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from mufree.cli.commands import AT_LEAST_ONE, Checks, Kind, Paths, StudyFile, Sweeps, command
from mufree.cli.inputs import UserError, load_hypotheses, load_study, task_of

if TYPE_CHECKING:
    from pandas import DataFrame


@command("--study experiments/quickstart.yaml --sweeps 'sweeps/{task}/{method}/w{widths}/s{seeds}' --out results")
def collect(*, study: StudyFile, sweeps: Sweeps, out: Path, device: Kind = "cpu") -> None:
    """Join the sweeps of a study and assert that they are exactly the runs planned.

    Args:
        out: folder for rows.parquet, curves.parquet, timings.parquet
    """
    from mufree.study import jobs, record
    from mufree.study.collect import collected
    from mufree.study.plan import expand

    planned = load_study(study)
    runs = expand(planned)
    found = collected(planned, runs, jobs.deal(planned, runs, device), sweeps)
    for name, table in found.items():
        record.write_table(out / f"{name}.parquet", table)


@command(
    "--study experiments/quickstart.yaml --task photo-mlp --sweeps 'sweeps/{task}/{method}/w{widths}/s{seeds}' "
    "--out first_look"
)
def first_look(*, study: StudyFile, task: str, sweeps: Sweeps, out: Path, device: Kind = "cpu") -> None:
    """Draw loss against rate for one task whose sweeps are finished, whatever the others are.

    Args:
        out: folder to draw into
    """
    from mufree.analysis import tables
    from mufree.publish import figures
    from mufree.study import jobs
    from mufree.study.collect import rows_so_far
    from mufree.study.plan import expand

    planned = load_study(study)
    title = task_of(planned, task).description
    runs = expand(planned)
    of_task = [sweep for sweep in jobs.deal(planned, runs, device) if sweep.task == task]
    found = {"rows": rows_so_far(planned, runs, of_task, sweeps).to_pandas()}
    found |= tables.surfaces(found["rows"])
    out.mkdir(parents=True, exist_ok=True)
    stem = out / f"{task}.loss_vs_lr"
    figures.save(*figures.draw("loss_vs_lr", found, task, title), stem)
    print(f"First figure: {stem}.png, loss against rate on {task}.", flush=True)


@command("--rows rows.parquet --curves curves.parquet --coordcheck coordcheck/*.parquet --out tables")
def metrics(*, rows: Path, curves: Path, coordcheck: Checks = (), out: Path) -> None:
    """Turn rows, curves and coordinate checks into tables.

    Args:
        out: folder for the tables (CSV)
    """
    from mufree.analysis import coordcheck as checks
    from mufree.analysis import tables
    from mufree.analysis.tables.cases import COLUMNS_NEEDED
    from mufree.study import files
    from mufree.study.reading import read_frame
    from mufree.study.record import CURVE_SCHEMA

    of_runs, points = read_frame(rows, COLUMNS_NEEDED), read_frame(curves, CURVE_SCHEMA.names)
    checked = checks.tables(read_frame(path, checks.RAW) for path in coordcheck)
    built = tables.build(of_runs, points) | checked
    for name, table in built.items():
        files.write_text(out / f"{name}.csv", tables.to_csv(table))


@command("loss_vs_lr --task photo-mlp --rows rows.parquet --curves curves.parquet --tables tables --out figures")
def figure(
    *names: str,
    task: str,
    title: str | None = None,
    rows: Path,
    curves: Path,
    tables: Path,
    beside: Path | None = None,
    out: Path,
) -> None:
    """Draw figures of one task from the tables, each as PDF, PNG and the CSV of what is plotted.

    Args:
        names: figures to draw (default: all)
        title: title above the figures (default: the task's name)
        tables: folder of the tables
        beside: FOLDER/TASK, the results of another study and a task of it with another β₂, for the figure `anytime`
        out: folder to draw into
    """
    from mufree.analysis.tables import read_tables
    from mufree.publish import figures

    if unknown := [name for name in names if name not in figures.FIGURES]:
        raise UserError(f"Unknown figure '{unknown[0]}'. Known: {', '.join(figures.FIGURES)}", 2)
    drawn_ones = names or tuple(figures.FIGURES)
    found = read_tables(tables, figures.needed(drawn_ones) - {"rows", "curves"})
    found["rows"], found["curves"] = _runs(rows, curves, task)
    if beside is not None:
        found["beside"] = _another_beta2(beside)
    out.mkdir(parents=True, exist_ok=True)
    for name in drawn_ones:
        drawn, plotted = figures.draw(name, found, task, title or task)
        figures.save(drawn, plotted, out / f"{task}.{name}")


def _runs(rows: Path, curves: Path, task: str, *more: str) -> tuple[DataFrame, DataFrame]:
    """Rows, with some more columns than all need, and curves of a study that has the task."""
    from mufree.analysis.tables.cases import COLUMNS_NEEDED
    from mufree.study.reading import read_frame
    from mufree.study.record import CURVE_SCHEMA

    found = read_frame(rows, {*COLUMNS_NEEDED, *more}), read_frame(curves, CURVE_SCHEMA.names)
    if task not in (known := found[0]["task"].unique()):
        raise UserError(f"Unknown task '{task}'. {rows} has: {', '.join(known)}", 2)
    return found


def _another_beta2(place: Path) -> DataFrame:
    """The curves that a task of another study adds to a figure; `place` is the folder of its results and the task's name."""
    from mufree.analysis.tables import read_table
    from mufree.publish.figures import another_beta2

    folder, task = place.parent, place.name
    rows, curves = _runs(folder / "rows.parquet", folder / "curves.parquet", task, "beta2")
    optima = read_table(folder / "tables/optima.csv")
    return another_beta2(rows[rows["task"].eq(task)], curves, optima[optima["task"].eq(task)])


@command("--tables tables --rows rows.parquet --out figures/best_rates")
def overview(*, tables: Path, rows: Path, out: Path) -> None:
    """Draw best rates against width, all tasks side by side.

    Args:
        tables: folder of the tables optima, transfer and pooled (CSV)
        rows: rows.parquet of the study
        out: the files' path without their endings
    """
    from mufree.analysis.tables import read_table
    from mufree.analysis.tables.cases import COLUMNS_NEEDED
    from mufree.publish import figures
    from mufree.study.reading import read_frame

    found = {name: read_table(tables / f"{name}.csv") for name in ("optima", "transfer", "pooled")}
    drawn = figures.draw_best_rates(**found, rows=read_frame(rows, COLUMNS_NEEDED))
    out.parent.mkdir(parents=True, exist_ok=True)
    figures.save(*drawn, out)


@command(
    "--study S.yaml --rows rows.parquet --timings timings.parquet --manifests */manifest.json --out provenance.json"
)
def provenance(*, study: StudyFile, rows: Path, timings: Path, manifests: Paths, out: Path) -> None:
    """Write versions, machine, digests of code and data, and times of a study.

    Args:
        manifests: manifests of the prepared data sets
    """
    from mufree.study import collect, files

    files.write_json(out, collect.provenance(load_study(study), rows, timings, manifests))


@command(
    "--study S.yaml --rows rows.parquet --tables tables --figures figures --provenance provenance.json --out results"
)
def report(
    *,
    study: StudyFile,
    tables: Path,
    rows: Path,
    figures: Path,
    provenance: Path,
    verdicts: Path | None = None,
    out: Path,
) -> None:
    """Write report.pdf and report.html from tables and figures.

    Args:
        verdicts: the table of verdicts, where the study is judged
        out: folder for report.pdf and report.html
    """
    from mufree.analysis.verdicts import COLUMNS
    from mufree.publish import report as reports
    from mufree.publish.results import read
    from mufree.study.reading import read_csv

    judged = read_csv(verdicts, COLUMNS) if verdicts else None
    reports.write(read(study, rows, tables, provenance, verdicts=judged), figures, out)


@command("--simulations 2000 --out results/calibration.csv")
def calibrate(
    *,
    simulations: int = 2000,
    seeds: Annotated[tuple[int, ...], AT_LEAST_ONE] = (3, 5, 8),
    rng_seed: int = 0,
    out: Path,
) -> None:
    """Simulate studies whose drift and regret are known, and count how often the intervals cover them.

    Args:
        simulations: studies a scenario and number of seeds
        seeds: numbers of seeds of a study
        out: the table (CSV)
    """
    from mufree.analysis.metrics import calibration
    from mufree.study import files

    if simulations < 1 or min(seeds) < 2:
        raise UserError("give one simulation or more, and two seeds or more: one has no interval", 2)
    table = calibration.calibrate(simulations, seeds, rng_seed)
    files.write_text(out, table.to_csv(index=False, float_format="%.6g"))
    print(f"{int(table['within_bounds'].sum())} of {len(table)} rows within bounds; all of them: {out}")


@command(
    "--pilot results/pilot/rows.parquet --study experiments/cifar_wikitext.yaml --out experiments/cifar_wikitext.power.csv"
)
def power(*, pilot: Path, study: Path, seeds: tuple[int, ...] = (3, 5, 8), simulations: int = 500, out: Path) -> None:
    """Say what a study can see before it is run: simulate it with the noise and curvature of a pilot.

    Args:
        pilot: rows of a finished pilot
        study: the planned study
        seeds: numbers of seeds besides the planned one
        simulations: simulated studies a row
        out: the table (CSV)
    """
    from mufree.analysis.tables.cases import COLUMNS_NEEDED
    from mufree.analysis.tables.power import power_table
    from mufree.study import files
    from mufree.study.reading import read_frame

    planned = load_study(study)
    table = power_table(read_frame(pilot, COLUMNS_NEEDED), planned, seeds, simulations)
    files.write_text(out, table.to_csv(index=False, float_format="%.4g"))
    shown = table[table["planned"]].drop(columns=["planned", "reason"])
    print(shown.to_string(index=False, float_format="%.3g"))


@command("--frozen paper/data --hypotheses experiments/confirm.hypotheses.yaml --out experiments/confirm.seeds.csv")
def seeds(*, frozen: Path, hypotheses: Path, out: Path) -> None:
    """Say how many seeds hypotheses need to be decided, and at what price, by the estimates of a frozen study.

    Args:
        frozen: folder of the frozen study whose estimates are taken for the truth
        hypotheses: the hypotheses (YAML)
        out: the table (CSV)
    """
    from mufree.analysis import tables
    from mufree.analysis.seeds import TIMES, seeds_table
    from mufree.study import files
    from mufree.study.reading import read_csv

    estimates = read_csv(frozen / "tables/estimates.csv", tables.COLUMNS["estimates"])
    timings = read_csv(frozen / "timings.csv", ("task", "method", *TIMES))
    table = seeds_table(estimates, load_hypotheses(hypotheses).hypotheses, timings)
    files.write_text(out, table.to_csv(index=False, float_format="%.4g"))
    print(f"{out}: {len(table)} rows")

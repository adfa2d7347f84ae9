"""What each command does: read files, call the package, write files. One function a command."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from mufree import config, jobs, ranks
from mufree.plan import Run, Sweep, expand, make_run, runs_from_json, training_flops
from mufree.ranks import Ranks

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from mufree.data import Prepared
    from mufree.record import Record
    from mufree.train import Trace

log = logging.getLogger(__name__)

MAX_LEARNT_FROM = 400
"""Finished runs whose times are read for an estimate; reading one takes about half a millisecond."""

RADAM_STANDS_STILL = 4
"""Steps in which RAdam's rectification is zero: its ρ_t is at most t, and has to be above 4 (Liu et al. 2020)."""


EXIT_STOPPED = 75
"""Exit code of a sweep that was asked to stop: sysexits' EX_TEMPFAIL, "try again later"."""


class UserError(Exception):
    """Something that the caller can mend: printed without a traceback."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# --- shared ----------------------------------------------------------------------------------------------------------


def load_study(path: Path) -> config.Study:
    """Read and check a study file. Raises `UserError` that says what is wrong, where."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml") if p.stem != "hypotheses"))
        raise UserError(f"no study file {path} ({error.strerror}). Studies there: {known or 'none'}", 2) from error
    try:
        study = config.Study.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {error}", 2) from error
    except ValidationError as error:
        raise UserError(f"{path} has {error.error_count()} mistake(s):\n{config.explain(error)}", 2) from error
    if study.name != path.stem:
        raise UserError(f"{path} says name: {study.name}; name the file {study.name}.yaml or the study {path.stem}", 2)
    return study


def load_data(folder: Path) -> Prepared:
    """The prepared data set, its checksums verified."""
    from mufree import data

    try:
        return data.load(folder)
    except data.DataError as error:
        raise UserError(str(error)) from error


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """All CSV tables of a folder, by name."""
    import pandas as pd

    return {path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}


def _task_of(study: config.Study, name: str | None) -> config.Task:
    if name not in study.tasks:
        raise UserError(f"Unknown task '{name}'. Known: {', '.join(study.tasks)}", 2)
    return study.tasks[name]


# --- planning --------------------------------------------------------------------------------------------------------


def plan(arguments: argparse.Namespace) -> None:
    """`mufree plan`."""
    study = load_study(arguments.study)
    runs = expand(study)
    sweeps = jobs.deal(study, runs, arguments.device)
    if arguments.sweeps:
        for sweep_ in sweeps:
            print(f"{sweep_.id}\t{len(sweep_.runs)} runs")
    if arguments.cost:
        _print_cost(sweeps, arguments.device)
    print(f"Study {study.name}: {len(runs)} runs in {len(sweeps)} sweeps, {_progress(runs, arguments)}.", flush=True)


def _print_cost(sweeps: Sequence[Sweep], device: jobs.Device) -> None:
    """What each task is assumed to cost, as a table in Markdown, and what all jobs ask for."""
    unit = "GPU-hours" if device == "cuda" else "core-hours"
    print(f"| task | jobs | runs | {unit} | longest job | largest memory |\n| --- | --- | --- | --- | --- | --- |")
    for task in [*dict.fromkeys(sweep_.task for sweep_ in sweeps), "all"]:
        chosen = [sweep_ for sweep_ in sweeps if task in (sweep_.task, "all")]
        hours = [jobs.sweep_seconds(sweep_, device) / 3600 for sweep_ in chosen]
        memory = max(jobs.memory_to_ask(jobs.memory_mb(sweep_.runs, device)) for sweep_ in chosen) / 1000
        runs = sum(len(sweep_.runs) for sweep_ in chosen)
        print(f"| {task} | {len(chosen)} | {runs} | {sum(hours):,.1f} | {max(hours):,.1f} h | {memory:.1f} GB |")
    print(f"\n{jobs.describe(sweeps, device)}\n")


def _progress(runs: Sequence[Run], arguments: argparse.Namespace) -> str:
    """How many of the runs the store has, and how long the others may take on `arguments.cores` cores."""
    from mufree.record import store_path

    store: Path | None = arguments.store
    done = [run for run in runs if store is not None and store_path(store, run).exists()]
    finished = {run.id for run in done}
    missing = [run for run in runs if run.id not in finished]
    if not missing:
        return f"{len(done)} done, nothing to train"
    seconds_of, learnt = _estimator(store, done, arguments.device)
    left = _duration(sum(map(seconds_of, missing)) / arguments.cores)
    assumed = "" if learnt else f", assuming {jobs.RATES[arguments.device]}"
    unit = "GPU" if arguments.device == "cuda" else "core"
    return f"{len(done)} done, {len(missing)} to train, about {left} on {arguments.cores} {unit}(s){assumed}"


def _estimator(store: Path | None, done: Sequence[Run], device: jobs.Device) -> tuple[Callable[[Run], float], bool]:
    """Seconds that a run may take, learnt from finished ones: those of its task and width, else of its model, else assumed.

    Also whether there was anything to learn from. Evaluation is in the seconds.
    """
    from mufree.record import RecordError, load_timing

    totals: dict[tuple[object, ...], list[float]] = {}
    for run in done[:: max(1, len(done) // MAX_LEARNT_FROM)]:
        assert store is not None
        try:
            timing = load_timing(store, run)
        except RecordError:
            continue  # its sweep will find it damaged, say so and train it again
        for key in ((run.task, run.width), (run.model.name,)):
            total = totals.setdefault(key, [0.0, 0.0])
            total[0] += timing["flops"]
            total[1] += timing["train_seconds"] + timing["evaluate_seconds"]

    def seconds(run: Run) -> float:
        flops, taken = totals.get((run.task, run.width)) or totals.get((run.model.name,)) or (0.0, 0.0)
        if flops > 0:
            return training_flops(run) * taken / flops
        return jobs.seconds(run, device)

    return seconds, bool(totals)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def schema(arguments: argparse.Namespace) -> None:
    """`mufree schema`."""
    print(json.dumps(config.json_schema(), indent=2, ensure_ascii=False))


# --- running ---------------------------------------------------------------------------------------------------------


def data(arguments: argparse.Namespace) -> None:
    """`mufree data`."""
    from mufree import data as datasets

    if arguments.study is not None:
        dataset = _task_of(load_study(arguments.study), arguments.task).dataset
    else:
        dataset = TypeAdapter(config.Dataset).validate_json(arguments.dataset)
    try:
        datasets.prepare(dataset, arguments.out, arguments.data_dir)
    except datasets.DataError as error:
        raise UserError(str(error)) from error


def sweep(arguments: argparse.Namespace) -> None:
    """`mufree sweep`.

    On SIGTERM, which SLURM sends before it kills, and on SIGUSR1 it finishes its step, saves the run that it is in, and exits
    with `EXIT_STOPPED`. The same command goes on from there.
    """
    with stop_signals() as stop_requested, _ranks(arguments) as together:
        _sweep(arguments, stop_requested, together)


@contextmanager
def _ranks(arguments: argparse.Namespace) -> Iterator[Ranks]:
    """The processes that train together: with --ddp those of torchrun, of which only the first says what it does."""
    if not arguments.ddp:
        if ranks.started_by_torchrun():
            raise UserError("torchrun started several processes that would all train the same runs; give --ddp", 2)
        yield ranks.ALONE
        return
    try:
        with ranks.joined(arguments.device) as together:
            if not together.first:
                logging.getLogger().setLevel(logging.WARNING)
            yield together
    except ranks.RanksError as error:
        raise UserError(str(error), 2) from error


@contextmanager
def stop_signals() -> Iterator[Callable[[], str | None]]:
    """Within it, SIGTERM and SIGUSR1 do no more than be remembered; gives a function that names the one that came, if any."""
    came: list[str] = []
    numbers = [signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM)]
    before = {number: signal.signal(number, lambda n, _: came.append(signal.Signals(n).name)) for number in numbers}
    try:
        yield lambda: came[0] if came else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sweep(arguments: argparse.Namespace, stop_requested: Callable[[], str | None], together: Ranks) -> None:
    from mufree import record

    runs, of_study = _sweep_runs(arguments)
    digest = _data_digest(arguments.data)
    records: dict[str, Record] = {}
    for run in runs if together.first else []:
        if (kept := record.load_run(arguments.store, run, digest)) is not None:
            records[run.id] = kept
            record.discard_checkpoint(arguments.store, run)
    kept_already = together.as_first([run.id in records for run in runs])
    missing = [run for run, kept in zip(runs, kept_already, strict=True) if not kept]
    started = time.monotonic()
    if missing:
        # Only now: a sweep that the store has whole doesn't pay for importing torch.
        for run, finished in _train_all(missing, arguments, stop_requested, together):
            if together.first:
                record.save_run(arguments.store, run, finished)
                record.discard_checkpoint(arguments.store, run)
            records[run.id] = finished
    if not together.first:
        return
    found = [records[run.id] for run in runs]
    record.write_table(arguments.out / "rows.parquet", record.rows_table(r.row for r in found))
    record.write_table(arguments.out / "timings.parquet", record.timings_table(r.timing for r in found))
    record.write_table(arguments.out / "curves.parquet", record.concat_curves(r.curves for r in found))
    diverged = sum(r.row["status"] == "diverged" for r in found)
    progress = f"; study: {_progress(of_study, arguments)}" if arguments.progress else ""
    print(
        f"{runs[0].task} {runs[0].method_name} {_widths(runs)}: {len(missing)} of {len(runs)} runs trained in "
        f"{_duration(time.monotonic() - started)}, {diverged} diverged{progress}",
        flush=True,
    )


def _widths(runs: Sequence[Run]) -> str:
    widths = sorted({run.width for run in runs})
    return f"width{'s' if len(widths) > 1 else ''} {', '.join(map(str, widths))}"


def _data_digest(folder: Path) -> str:
    """The digest in a prepared data set's manifest, without opening its arrays."""
    try:
        return str(json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder / 'manifest.json'} can't be read ({error}); make it with `mufree data`") from error


def _sweep_runs(arguments: argparse.Namespace) -> tuple[list[Run], list[Run]]:
    """The runs of the sweep that is asked for, and all of its study."""
    if arguments.runs is not None:
        if arguments.progress:
            raise UserError("--progress is of a study; give --study and --sweep instead of --runs", 2)
        return runs_from_json(arguments.runs), []
    study = load_study(arguments.study)
    of_study = expand(study)
    sweeps = {s.id: s for s in jobs.deal(study, of_study, arguments.device)}
    if arguments.sweep not in sweeps:
        raise UserError(f"Unknown sweep '{arguments.sweep}'. `mufree plan {arguments.study} --sweeps` lists them.", 2)
    found = sweeps[arguments.sweep]
    if arguments.digest not in (None, found.digest):
        raise UserError(
            f"sweep {found.id} of {arguments.study} is {found.digest}, and {arguments.digest} was planned: the study file has "
            "changed since. Run the workflow again."
        )
    return list(found.runs), of_study


def _train_all(
    runs: Sequence[Run], arguments: argparse.Namespace, stop_requested: Callable[[], str | None], together: Ranks
) -> Iterator[tuple[Run, Record]]:
    """Train runs one by one; yield each with its record as it is finished."""
    from tqdm import tqdm

    from mufree import machine, record, sources
    from mufree.checkpoints import Interrupted

    if arguments.device == "cpu":
        machine.warn_of_cost(runs[0].training.precision, machine.this_processor())
    prepared = load_data(arguments.data)
    code_digest = sources.digest("train")  # of what this process has loaded, whatever is edited while it trains
    total = sum(run.training.steps for run in runs)
    quiet = None if together.first else True  # None: a bar on a terminal, nothing in a file
    with _device(arguments) as device, tqdm(total=total, unit="step", disable=quiet, dynamic_ncols=True) as bar:
        for number, run in enumerate(runs, start=1):
            if together.any(stop_requested() is not None):
                raise _stopped(stop_requested(), f"before {run.id}", number - 1, len(runs))
            bar.set_description(f"run {number}/{len(runs)} width {run.width} lr 2^{run.log2_lr} seed {run.seed}")
            try:
                trace = _train(run, prepared, device, together, arguments, stop_requested, bar.update)
            except Interrupted as stop:
                raise _stopped(stop_requested(), str(stop), number - 1, len(runs)) from None
            row = {
                **record.describe_run(run),
                "data_digest": prepared.digest,
                "code_digest": code_digest,
                "device": arguments.device,
                **trace.row(),
            }
            timing = {
                "run_id": run.id,
                **{f"{phase}_seconds": seconds for phase, seconds in trace.seconds.items()},
                "flops": training_flops(run) * trace.steps_done / run.training.steps,
                "cpu": machine.cpu_name(),
            }
            curves = record.curves_table(run.id, ((s.name, s.layer, s.steps, s.values) for s in trace.curves))
            log.info(
                "%s %s val_loss %.4f in %.1f s (run %d of %d)",
                run.id,
                trace.divergence or trace.status,
                trace.val_loss,
                sum(trace.seconds.values()),
                number,
                len(runs),
            )
            yield run, record.Record(row=row, timing=timing, curves=curves)


@contextmanager
def _device(arguments: argparse.Namespace) -> Iterator[torch.device]:
    """The device to train on: with --device cuda, a GPU that no other process has claimed."""
    import torch

    if arguments.device == "cpu":
        yield torch.device("cpu")
        return
    from mufree import gpus

    if not torch.cuda.is_available():
        raise UserError("device cuda is asked for and PyTorch finds none; use --device cpu (--config device=cpu)")
    names = gpus.visible(os.environ, torch.cuda.device_count())
    try:
        with gpus.claimed(names, arguments.runs_per_gpu, gpus.claims_folder(os.environ)) as index:
            log.info("on GPU %s, which PyTorch calls cuda:%d", names[index], index)
            torch.cuda.set_device(index)
            yield torch.device("cuda", index)
    except gpus.NoGpuFree as error:
        raise UserError(str(error)) from error


def _train(
    run: Run,
    prepared: Prepared,
    device: torch.device,
    together: Ranks,
    arguments: argparse.Namespace,
    stop_requested: Callable[[], object],
    progress: Callable[[int], object],
) -> Trace:
    """Train a run from its checkpoint, or anew; `progress` is told of steps taken."""
    from mufree import checkpoints, record
    from mufree.train import finish

    path = record.checkpoint_path(arguments.store, run)
    session = checkpoints.resumed(path, run, prepared, device, together)
    progress(session.step)
    keep = checkpoints.keeper(path, session, 60 * arguments.checkpoint_minutes, stop_requested)

    def after_step() -> None:
        progress(1)
        keep()

    return finish(session, after_step)


def _stopped(signal_name: str | None, where: str, trained: int, missing: int) -> UserError:
    return UserError(
        f"stopped by {signal_name or 'the signal that another process got'} {where}; {trained} of {missing} missing runs "
        "trained. The same command goes on from there.",
        EXIT_STOPPED,
    )


def coordcheck(arguments: argparse.Namespace) -> None:
    """`mufree coordcheck`."""
    import pandas as pd
    import pyarrow as pa

    from mufree import record

    study = load_study(arguments.study)
    task = _task_of(study, arguments.task)
    grids = [grid for grid in study.grids if arguments.task in grid.tasks]
    widths = task.coordinate_check.widths or sorted({width for grid in grids for width in grid.widths})
    prepared = load_data(arguments.data)
    frames = []
    checked: dict[config.Method, pd.DataFrame] = {}
    for method in dict.fromkeys(method for grid in grids for method in grid.methods):
        # A few steps at the full rate: what schedule and average do later makes no difference, so that methods share a check.
        distinct = study.all_methods[method].model_copy(update={"schedule": "constant", "average": "none"})
        if distinct not in checked:
            make = partial(make_run, task, arguments.task, distinct, method)
            checked[distinct] = _coordinate_check(make, widths, task.coordinate_check, prepared)
        frames.append(checked[distinct].assign(task=arguments.task, method=method))
        log.info("%s %s: widths %s", arguments.task, method, ", ".join(map(str, widths)))
    record.write_table(arguments.out, pa.Table.from_pandas(pd.concat(frames), preserve_index=False))


def _coordinate_check(
    make: Callable[[int, int, int], Run], widths: list[int], settings: config.CoordinateCheck, prepared: Prepared
) -> pd.DataFrame:
    """The coordinate check of one method; `make(width, log2_lr, seed)` gives its run.

    Steps are counted from the last one before which no weight can have moved: schedule-free RAdam stands still at first.
    """
    from torch import nn

    from mufree.coordcheck import coord_check
    from mufree.data.batches import train_batches
    from mufree.train import configure_torch, context_length, make_model, make_optimizer

    configure_torch()
    # No warm-up and no schedule: ten steps at the full rate. In float32, since a slope is the network's and no rounding's.
    run = make(widths[0], settings.log2_lr, 0)
    run = run.model_copy(
        update={"training": run.training.model_copy(update={"warmup_fraction": 0.0, "precision": "float32"})}
    )
    still = RADAM_STANDS_STILL if run.method.optimizer == "radam_schedulefree" else 0
    run_of: dict[nn.Module, Run] = {}

    def model_of(width: int, seed: int) -> nn.Module:
        its_run = run.model_copy(update={"width": width, "seed": seed})
        model = make_model(its_run, prepared.classes)
        run_of.clear()  # one model is alive at a time
        run_of[model] = its_run
        return model

    def batch(seed: int) -> Any:
        size, context = settings.batch_size, context_length(run)
        return next(train_batches(prepared, batch_size=size, context_length=context, seed=seed))

    frame = coord_check(
        model_of,
        lambda model: make_optimizer(run_of[model], model),
        widths,
        batch,
        steps=settings.steps + still,
        seeds=settings.seeds,
    )
    return frame[frame["step"] >= still].assign(step=lambda kept: kept["step"] - still)


# --- analysing -------------------------------------------------------------------------------------------------------


def collect(arguments: argparse.Namespace) -> None:
    """`mufree collect`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mufree import record

    study = load_study(arguments.study)
    runs = expand(study)
    folders = [
        Path(arguments.sweeps.format(task=s.task, method=s.method, widths=s.width_label, seeds=s.seed_label))
        for s in jobs.deal(study, runs, arguments.device)
    ]
    joined: dict[str, pa.Table] = {}
    for name in ("rows", "timings", "curves"):
        try:
            tables = [pq.read_table(folder / f"{name}.parquet", partitioning=None) for folder in folders]
        except FileNotFoundError as error:
            raise UserError(f"a sweep is not finished: {error}. Run the workflow again to complete it.") from error
        joined[name] = record.concat_curves(tables) if name == "curves" else pa.concat_tables(tables)
    try:
        record.check_collected(runs, joined["rows"])
    except record.RecordError as error:
        raise UserError(str(error)) from error
    joined["rows"] = record.collected_rows(runs, study.tasks, joined["rows"])
    for name, table in joined.items():
        record.write_table(arguments.out / f"{name}.parquet", table)


def metrics(arguments: argparse.Namespace) -> None:
    """`mufree metrics`."""
    import pandas as pd

    from mufree import coordcheck, record, tables

    rows = pd.read_parquet(arguments.rows)
    built = tables.build(rows, pd.read_parquet(arguments.curves))
    built |= coordcheck.tables(pd.read_parquet(path) for path in arguments.coordcheck)
    for name, table in built.items():
        record.write_text(arguments.out / f"{name}.csv", tables.to_csv(table))
    record.write_json(arguments.out / "summary.json", tables.summary(rows, built))


def figure(arguments: argparse.Namespace) -> None:
    """`mufree figure`."""
    import pandas as pd

    from mufree import figures

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

    from mufree import record, sources

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

    from mufree import report as reports

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
    from mufree import record
    from mufree.metrics.calibration import calibrate

    table = calibrate(arguments.simulations, arguments.seeds, arguments.rng_seed)
    record.write_text(arguments.out, table.to_csv(index=False, float_format="%.6g"))
    print(f"{int(table['within_bounds'].sum())} of {len(table)} rows within bounds; all of them: {arguments.out}")


def power(arguments: argparse.Namespace) -> None:
    """`mufree power`."""
    import pyarrow.parquet as pq

    from mufree import record
    from mufree.tables.power import power_table

    study = load_study(arguments.study)
    pilot = pq.read_table(arguments.pilot, partitioning=None).to_pandas()
    try:
        table = power_table(pilot, study, arguments.seeds, arguments.simulations)
    except ValueError as error:
        raise UserError(str(error)) from error
    record.write_text(arguments.out, table.to_csv(index=False, float_format="%.4g"))
    shown = table[table["planned"]].drop(columns=["planned", "reason"])
    print(shown.to_string(index=False, float_format="%.3g"))


def usage(arguments: argparse.Namespace) -> None:
    """`mufree usage`."""
    import pyarrow.parquet as pq

    timings = pq.read_table(arguments.timings).to_pylist()
    trained = [t for t in timings if _written_after(arguments.store / f"{t['run_id']}.parquet", arguments.since)]
    useful = sum(timing["train_seconds"] + timing["evaluate_seconds"] for timing in trained)
    wall = time.time() - arguments.since
    print(
        f"{len(trained)} of {len(timings)} runs trained; {_duration(wall)} on {arguments.cores} core(s), "
        f"{useful / (wall * arguments.cores):.0%} of the cores' time in training and evaluation."
    )


def _written_after(path: Path, moment: float) -> bool:
    return path.exists() and path.stat().st_mtime > moment

"""`mufree plan`, `mufree usage`, `mufree schema`: what a study comes to, and where its time went."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mufree import config, jobs
from mufree.cli.inputs import Command, load_study
from mufree.plan import Run, Sweep, expand, training_flops

MAX_LEARNT_FROM = 400
"""Finished runs whose times are read for an estimate; reading one takes about half a millisecond."""


def add_commands(command: Command) -> None:
    """Add all of them; `command(name, handler, summary, example)` makes one."""
    sub = command(
        "plan",
        plan,
        "Say how many runs and sweeps a study has, how many are done, and how long the rest may take.",
        "experiments/quickstart.yaml --store results/quickstart/runs",
    )
    sub.add_argument("study", type=Path, help="the study file")
    sub.add_argument(
        "--store", type=Path, help="the run store, to count what is done and to learn this machine's speed"
    )
    sub.add_argument("--cores", type=int, default=1, help="cores to divide the time by (default 1)")
    sub.add_argument("--sweeps", action="store_true", help="list the sweeps")
    sub.add_argument("--cost", action="store_true", help="a table of what each task may cost, at the assumed rate")
    sub.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="kind of device (default cpu)")

    sub = command(
        "usage",
        usage,
        "Say which share of the cores' time went into training and evaluation.",
        "--timings timings.parquet --store results/quickstart/runs --since $START --cores 2",
    )
    sub.add_argument("--timings", type=Path, required=True)
    sub.add_argument("--store", type=Path, required=True, help="the run store: only what was trained since then counts")
    sub.add_argument("--since", type=float, required=True, help="when the workflow started, in seconds since 1970")
    sub.add_argument("--cores", type=int, required=True)

    command("schema", schema, "Print the JSON schema of a study file, for editors.", "> experiments/schema.json")


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
    print(f"Study {study.name}: {len(runs)} runs in {len(sweeps)} sweeps, {how_far(runs, arguments)}.", flush=True)


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


def how_far(runs: Sequence[Run], arguments: argparse.Namespace) -> str:
    """How many of the runs the store has, and how long the others may take on `arguments.cores` cores."""
    from mufree.record import store_path

    store: Path | None = arguments.store
    done = [run for run in runs if store is not None and store_path(store, run).exists()]
    finished = {run.id for run in done}
    missing = [run for run in runs if run.id not in finished]
    if not missing:
        return f"{len(done)} done, nothing to train"
    seconds_of, learnt = _estimator(store, done, arguments.device)
    left = duration(sum(map(seconds_of, missing)) / arguments.cores)
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


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in the unit that reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def schema(arguments: argparse.Namespace) -> None:
    """`mufree schema`."""
    print(json.dumps(config.json_schema(), indent=2, ensure_ascii=False))


def usage(arguments: argparse.Namespace) -> None:
    """`mufree usage`."""
    import pyarrow.parquet as pq

    timings = pq.read_table(arguments.timings).to_pylist()
    trained = [t for t in timings if _written_after(arguments.store / f"{t['run_id']}.parquet", arguments.since)]
    useful = sum(timing["train_seconds"] + timing["evaluate_seconds"] for timing in trained)
    wall = time.time() - arguments.since
    print(
        f"{len(trained)} of {len(timings)} runs trained; {duration(wall)} on {arguments.cores} core(s), "
        f"{useful / (wall * arguments.cores):.0%} of the cores' time in training and evaluation."
    )


def _written_after(path: Path, moment: float) -> bool:
    return path.exists() and path.stat().st_mtime > moment

"""`mufree plan`, `mufree usage`, `mufree schema`: what a study comes to, and where its time went."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from mufree.cli.inputs import Command, UserError, load_study
from mufree.study import config, jobs
from mufree.study.plan import Run, Sweep, expand

MAX_LEARNT_FROM = 400
"""Finished runs whose times are read for an estimate; reading one takes about half a millisecond."""
SLOWER = 1.2
"""How many times as long bfloat16 has to take as float32 to be called slow."""


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
    sub.add_argument("--sweeps", action="store_true", help="list the sweeps, the most valuable first")
    sub.add_argument(
        "--engine", default="serial", choices=jobs.ENGINES, help="say which runs this engine trains one by one"
    )
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
    if arguments.cores < 1:
        raise UserError(f"--cores is {arguments.cores}; give a number of cores, 1 or more", 2)
    study = load_study(arguments.study)
    runs = expand(study)
    sweeps = jobs.deal(study, runs, arguments.device)
    if arguments.sweeps:
        for sweep_ in jobs.most_valuable_first(study, sweeps):
            print(f"{sweep_.id}\t{len(sweep_.runs)} runs")
    if arguments.cost:
        _print_cost(sweeps, arguments.device)
    if arguments.engine != "serial":
        print(_one_by_one(runs, arguments.engine, arguments.device))
    print(f"Study {study.name}: {len(runs)} runs in {len(sweeps)} sweeps, {how_far(runs, arguments)}.", flush=True)


def _one_by_one(runs: Sequence[Run], engine: jobs.Engine, device: jobs.Device) -> str:
    """How many runs are trained side by side, and which aren't."""
    alone = Counter(
        f"{run.task} {run.method_name} at width {run.width}"
        for run in runs
        if not jobs.side_by_side(run, engine, device)
    )
    told = f"{len(runs) - alone.total()} of {len(runs)} runs are trained side by side"
    if not alone:
        return f"{told}."
    return f"{told}. One by one:\n" + "\n".join(f"  {what}: {count}" for what, count in alone.items())


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


def how_far(runs: Sequence[Run], arguments: argparse.Namespace, start_seconds: float = 0.0) -> str:
    """How many of the runs the store has, and how long the others may take on `arguments.cores` cores.

    `start_seconds` are those that the start of a sweep has cost; each that is left will cost them again.
    """
    from mufree.lab import speed
    from mufree.study.record import store_path

    store: Path | None = arguments.store
    done = [run for run in runs if store is not None and store_path(store, run).exists()]
    finished = {run.id for run in done}
    missing = [run for run in runs if run.id not in finished]
    if not missing:
        return f"{len(done)} done, nothing to train"
    learnt = _timings(store, done)
    known = {run.task for run, _ in learnt}
    unknown = [run for run in missing if run.task not in known]
    cuda = arguments.device == "cuda"
    seconds_of = speed.learn(learnt, partial(jobs.seconds, device="cuda") if cuda else speed.measure(unknown))
    starts = start_seconds * len({(run.task, run.method_name) for run in missing})
    left = duration((sum(map(seconds_of, missing)) + starts) / arguments.cores)
    where = f"{arguments.cores} {'GPU' if cuda else 'core'}{'s' if arguments.cores > 1 else ''}"
    told = f"{len(done)} done, {len(missing)} to train, about {left} on {where}"
    if not unknown:
        return told
    if cuda:
        return f"{told}, assuming {jobs.RATES['cuda']}"
    return f"{told}, by some steps of each network on this machine{_slow_precision(unknown, seconds_of)}"


def _slow_precision(runs: Sequence[Run], seconds_of: Callable[[Run], float]) -> str:
    """What bfloat16 costs beside float32 here, where it costs more, and the way out; nothing else."""
    narrow = [run for run in runs if run.training.precision == "bfloat16"]
    if not narrow:
        return ""
    from mufree.lab import speed

    in_float32 = speed.measure(narrow, "float32")
    ratio = sum(map(seconds_of, narrow)) / sum(map(in_float32, narrow))
    if ratio < SLOWER:
        return ""
    return (
        f". This processor is slow in bfloat16: the same in float32 would take {1 / ratio:.0%} of that, by "
        "--config precision=float32 (a study of its own, whose numbers agree within what docs/performance.md shows)"
    )


def _timings(store: Path | None, done: Sequence[Run]) -> list[tuple[Run, float]]:
    """Finished runs with the seconds that they took, evaluations included."""
    from mufree.study.record import RecordError, load_timing

    found = []
    for run in done[:: max(1, len(done) // MAX_LEARNT_FROM)]:
        assert store is not None
        try:
            timing = load_timing(store, run)
        except RecordError:
            continue  # its sweep will find it damaged, say so and train it again
        found.append((run, timing["train_seconds"] + timing["evaluate_seconds"]))
    return found


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

"""`mufree plan`, `mufree usage`, `mufree schema`: what a study comes to, and where its time went."""

from __future__ import annotations

import json
from pathlib import Path

from mufree.cli.commands import Kind, Part, StudyFile, command
from mufree.cli.inputs import UserError, load_study
from mufree.study.machine import StudyEngine


@command("experiments/quickstart.yaml --store results/quickstart/runs")
def plan(
    study: StudyFile,
    /,
    *,
    part: Part = None,
    store: Path | None = None,
    cores: int = 1,
    sweeps: bool = False,
    engine: StudyEngine = "serial",
    cost: bool = False,
    device: Kind = "cpu",
) -> None:
    """Say how many runs and sweeps a study has, how many are done, and how long the rest may take.

    Args:
        store: the run store, to count what is done and to learn this machine's speed
        cores: cores to divide the time by
        sweeps: list the sweeps, the most valuable first
        engine: say which runs this engine trains one by one
        cost: a table of what each task may cost, at the assumed rate
    """
    from mufree.lab import speed
    from mufree.study import jobs, run_store
    from mufree.study.plan import expand

    if cores < 1:
        raise UserError(f"--cores is {cores}; give a number of cores, 1 or more", 2)
    planned = load_study(study, part)
    if store is not None and store.parts[-3:] != ("results", planned.name, "runs"):
        run_store.existing(store)  # the workflow's own needn't be there yet
    runs = expand(planned)
    dealt = jobs.deal(planned, runs, device)
    if sweeps:
        for sweep in jobs.most_valuable_first(planned, dealt):
            print(f"{sweep.id}\t{len(sweep.runs)} runs")
    if cost:
        print(jobs.cost_table(dealt, device))
    if engine != "serial":
        print(jobs.one_by_one(runs, engine, device))
    left = speed.how_far(runs, store, cores=cores, device=device)
    print(f"Study {planned.name}: {len(runs)} runs in {len(dealt)} sweeps, {left}.", flush=True)


@command("--timings timings.parquet --store results/quickstart/runs --since $START --cores 2")
def usage(*, timings: Path, store: Path, since: float, cores: int) -> None:
    """Say which share of the cores' time went into training and evaluation.

    Args:
        store: the run store: only what was trained since then counts
        since: when the workflow started, in seconds since 1970
    """
    from mufree.lab import speed
    from mufree.study.run_store import existing

    print(speed.usage(timings, existing(store), since, cores))


@command("> experiments/schema.json")
def schema() -> None:
    """Print the JSON schema of a study file, for editors."""
    from mufree.study.config import Study

    print(json.dumps(Study.model_json_schema(), indent=2, ensure_ascii=False))

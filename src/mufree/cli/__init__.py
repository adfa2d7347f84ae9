"""The command `mufree`: what rules call, and a person can call by hand. Imports everything lazily; nothing imports it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from mufree.cli import commands, coordcheck, paper, sittings

Handler = Callable[[argparse.Namespace], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 1 for something wrong with data or files, 2 for wrong usage.

    75 is a sweep's that was asked to stop and is to be called again.
    """
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        arguments.handler(arguments)
    except commands.UserError as error:
        print(f"mufree {arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 0
    except OSError as error:  # a full disk, a missing file, no permission: finished runs are in the store
        print(f"mufree {arguments.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mufree", description="Schedule-free optimizers under µP: the study's commands."
    )
    parser.add_argument("--version", action="version", version=f"mufree {version('mufree')}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, handler: Handler, summary: str, example: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  mufree {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(handler=handler)
        return sub

    sub = command(
        "plan",
        commands.plan,
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
        "data",
        commands.data,
        "Prepare a data set into plain arrays with a manifest.",
        "--study experiments/quickstart.yaml --task photo-mlp --out data/photo",
    )
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--dataset", help="its settings as JSON")
    which.add_argument("--study", type=Path, help="a study file; needs --task")
    sub.add_argument("--task", help="the task of --study whose data set is meant")
    sub.add_argument("--data-dir", type=Path, default=Path("data"), help="where raw data is staged or downloaded to")
    sub.add_argument("--out", type=Path, required=True, help="folder to write")

    sub = command(
        "sweep",
        commands.sweep,
        "Train the runs of one sweep that the store lacks.",
        "--study experiments/quickstart.yaml --sweep photo-mlp.mup_schedulefree.w64.s0 --data data/photo "
        "--store runs --out sweep",
    )
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--runs", help="the runs as JSON")
    which.add_argument("--study", type=Path, help="a study file; needs --sweep")
    sub.add_argument("--sweep", help="id of the sweep in --study, as `mufree plan --sweeps` lists them")
    sub.add_argument("--data", type=Path, required=True, help="folder of the prepared data set")
    sub.add_argument("--store", type=Path, required=True, help="folder of the run store")
    sub.add_argument("--out", type=Path, required=True, help="folder for rows.parquet, curves.parquet, timings.parquet")
    sub.add_argument("--digest", help="digest of the sweep that is meant; an error if the study file says another one")
    sub.add_argument("--progress", action="store_true", help="say at the end how far --study is")
    sub.add_argument("--cores", type=int, default=1, help="cores to divide the time left by (default 1)")
    sub.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="kind of device (default cpu)")
    sub.add_argument(
        "--ddp",
        action="store_true",
        help="train each run by the processes that torchrun starts, each on its part of every batch (docs/parallel.md)",
    )
    sub.add_argument(
        "--runs-per-gpu", type=int, default=1, help="processes that may share a GPU, with --device cuda (default 1)"
    )
    sub.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=10.0,
        help="minutes between checkpoints of a run, from which it goes on if the process is killed; on SIGTERM or SIGUSR1 "
        "it is saved at once and the exit code is 75 (default 10)",
    )

    sub = command(
        "coordcheck",
        coordcheck.coordcheck,
        "Watch activations against width: of your own model, or for every method of a study's task.",
        "model.py:make_model --optimizer adamw_schedulefree --widths 64,128,256\n"
        "  mufree coordcheck --study experiments/quickstart.yaml --task photo-mlp --data data/photo --out check.parquet",
    )
    coordcheck.add_arguments(sub)

    sub = command(
        "collect",
        commands.collect,
        "Join the sweeps of a study and assert that they are exactly the runs planned.",
        "--study experiments/quickstart.yaml --sweeps 'sweeps/{task}/{method}/w{widths}/s{seeds}' --out results",
    )
    sub.add_argument("--study", type=Path, required=True, help="the study file")
    sub.add_argument("--sweeps", required=True, help="folder of a sweep, with {task}, {method}, {widths} and {seeds}")
    sub.add_argument("--out", type=Path, required=True, help="folder for rows.parquet, curves.parquet, timings.parquet")
    sub.add_argument(
        "--device", default="cpu", choices=["cpu", "cuda"], help="kind of device that trained (default cpu)"
    )

    sub = command(
        "metrics",
        commands.metrics,
        "Turn rows, curves and coordinate checks into tables.",
        "--rows rows.parquet --curves curves.parquet --coordcheck coordcheck/*.parquet --out tables",
    )
    sub.add_argument("--rows", type=Path, required=True)
    sub.add_argument("--curves", type=Path, required=True)
    sub.add_argument("--coordcheck", type=Path, nargs="*", default=[], help="raw coordinate checks, one a task")
    sub.add_argument("--out", type=Path, required=True, help="folder for the tables (CSV) and summary.json")

    sub = command(
        "figure",
        commands.figure,
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
        commands.provenance,
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
        commands.report,
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

    paper.add_commands(command)
    sittings.add_commands(command)

    sub = command(
        "calibrate",
        commands.calibrate,
        "Simulate studies whose drift and regret are known, and count how often the intervals cover them.",
        "--simulations 2000 --out results/calibration.csv",
    )
    sub.add_argument("--simulations", type=int, default=2000, help="studies a scenario and number of seeds")
    sub.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 8], help="numbers of seeds of a study")
    sub.add_argument("--rng-seed", type=int, default=0)
    sub.add_argument("--out", type=Path, required=True, help="the table (CSV)")

    sub = command(
        "power",
        commands.power,
        "Say what a study can see before it is run: simulate it with the noise and curvature of a pilot.",
        "--pilot results/pilot/rows.parquet --study experiments/cifar_wikitext.yaml --out experiments/cifar_wikitext.power.csv",
    )
    sub.add_argument("--pilot", type=Path, required=True, help="rows of a finished pilot")
    sub.add_argument("--study", type=Path, required=True, help="the planned study")
    sub.add_argument("--seeds", type=int, nargs="*", default=[3, 5, 8], help="numbers of seeds besides the planned one")
    sub.add_argument("--simulations", type=int, default=500, help="simulated studies a row")
    sub.add_argument("--out", type=Path, required=True, help="the table (CSV)")

    sub = command(
        "usage",
        commands.usage,
        "Say which share of the cores' time went into training and evaluation.",
        "--timings timings.parquet --store results/quickstart/runs --since $START --cores 2",
    )
    sub.add_argument("--timings", type=Path, required=True)
    sub.add_argument("--store", type=Path, required=True, help="the run store: only what was trained since then counts")
    sub.add_argument("--since", type=float, required=True, help="when the workflow started, in seconds since 1970")
    sub.add_argument("--cores", type=int, required=True)

    command(
        "schema", commands.schema, "Print the JSON schema of a study file, for editors.", "> experiments/schema.json"
    )
    return parser

"""`mufree pack`, `mufree unpack`, `mufree part`: a study that takes several sittings, on machines that don't last."""

from __future__ import annotations

import argparse
from pathlib import Path

from pydantic import ValidationError

from mufree.cli.inputs import Command, UserError, load_study
from mufree.study import config
from mufree.study.plan import expand, finished_part
from mufree.study.yaml_files import to_yaml


def add_commands(command: Command) -> None:
    """Add all of them; `command(name, handler, summary, example)` makes one."""
    sub = command(
        "pack",
        pack,
        "Put the finished runs of a study that no pack has into a new one: one small file, to keep between sittings.",
        "experiments/cifar_wikitext.yaml --store results/cifar_wikitext/runs --packs paper/runs/cifar_wikitext",
    )
    _add_arguments(sub)

    sub = command(
        "unpack",
        unpack,
        "Put packed runs of a study into a run store, which then serves them like those trained here.",
        "experiments/cifar_wikitext.yaml --store results/cifar_wikitext/runs --packs paper/runs/cifar_wikitext",
    )
    _add_arguments(sub)

    sub = command(
        "part",
        part,
        "Write a study file of what is finished of a study: of each grid, the widths that have all their runs.",
        "experiments/cifar_wikitext.yaml --store results/cifar_wikitext/runs --out experiments/cifar_wikitext_part.yaml",
    )
    sub.add_argument("study", type=Path, help="the study file")
    sub.add_argument("--store", type=Path, required=True, help="folder of the run store")
    sub.add_argument("--out", type=Path, required=True, help="the study file to write; its name is the part's")


def _add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("study", type=Path, help="the study file")
    sub.add_argument("--store", type=Path, required=True, help="folder of the run store")
    sub.add_argument("--packs", type=Path, required=True, help="folder of the packs")


def pack(arguments: argparse.Namespace) -> None:
    """`mufree pack`."""
    from mufree.study import packs, record

    try:
        path, count = packs.pack(arguments.store, expand(load_study(arguments.study)), arguments.packs)
    except record.RecordError as error:
        raise UserError(str(error)) from error
    print(f"{path}: {count} runs" if path else f"{arguments.packs} has every finished run of {arguments.store} already")


def unpack(arguments: argparse.Namespace) -> None:
    """`mufree unpack`."""
    from mufree.study import packs, record

    runs = expand(load_study(arguments.study))
    try:
        count = packs.unpack(arguments.packs, runs, arguments.store)
    except record.RecordError as error:
        raise UserError(str(error)) from error
    there = sum(record.store_path(arguments.store, run).exists() for run in runs)
    print(f"{arguments.store}: {count} runs put there, {there} of {len(runs)} runs of the study are there now")


def part(arguments: argparse.Namespace) -> None:
    """`mufree part`."""
    from mufree.study import record

    study = load_study(arguments.study)
    runs = expand(study)
    finished = [run.id for run in runs if record.store_path(arguments.store, run).exists()]
    try:
        found = finished_part(study, finished, arguments.out.stem)
    except ValidationError as error:
        raise UserError(
            f"what {arguments.store} has of {study.name}, {len(finished)} of {len(runs)} runs, is no study yet:\n"
            f"{config.explain(error)}"
        ) from error
    why = f"Made by `mufree part` from {arguments.study.name}: what was finished of it."
    record.write_text(arguments.out, to_yaml(found, why))
    print(f"{arguments.out}: {len(expand(found))} of the {len(runs)} runs of {study.name}")

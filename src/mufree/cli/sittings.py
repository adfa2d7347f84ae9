"""`mufree pack`, `mufree unpack`, `mufree part`: a study that takes several sittings, on machines that don't last."""

from __future__ import annotations

from pathlib import Path

from mufree.cli.commands import Packs, Store, StudyFile, command
from mufree.cli.inputs import UserError, load_study


@command("experiments/cifar_wikitext.yaml --store results/cifar_wikitext/runs --packs kept")
def pack(study: StudyFile, /, *, store: Store, packs: Packs) -> None:
    """Put the finished runs of a study that no pack has into a new one: one small file, to keep between sittings."""
    from mufree.study import packs as packing
    from mufree.study import run_store
    from mufree.study.plan import expand

    path, count = packing.pack(run_store.existing(store), expand(load_study(study)), packs)
    print(f"{path}: {count} runs" if path else f"{packs} has every finished run of {store} already")


@command("experiments/cifar_wikitext.yaml --store results/cifar_wikitext/runs --packs paper/data/runs")
def unpack(study: StudyFile, /, *, store: Store, packs: Packs) -> None:
    """Put packed runs of a study into a run store, which then serves them like those trained here."""
    from mufree.study import packs as packing
    from mufree.study import run_store
    from mufree.study.plan import expand

    runs = expand(load_study(study))
    count = packing.unpack(packs, runs, store)
    there = sum(run_store.store_path(store, run).exists() for run in runs)
    print(f"{store}: {count} runs put there, {there} of {len(runs)} runs of the study are there now")


@command(
    "experiments/cifar_wikitext.yaml --store results/cifar_wikitext/runs --out experiments/cifar_wikitext_part.yaml"
)
def part(study: StudyFile, /, *, store: Store, out: Path) -> None:
    """Write a study file of what is finished of a study: of each grid, the widths that have all their runs.

    Args:
        out: the study file to write; its name is the part's
    """
    from pydantic import ValidationError

    from mufree.study import config, files, run_store
    from mufree.study.plan import expand, finished_part
    from mufree.study.yaml_files import to_yaml

    whole = load_study(study)
    runs = expand(whole)
    finished = [run.id for run in runs if run_store.store_path(run_store.existing(store), run).exists()]
    try:
        found = finished_part(whole, finished, out.stem)
    except ValidationError as error:
        raise UserError(
            f"what {store} has of {whole.name}, {len(finished)} of {len(runs)} runs, is no study yet:\n{config.explain(error)}"
        ) from error
    files.write_text(out, to_yaml(found, f"Made by `mufree part` from {study.name}: what was finished of it."))
    print(f"{out}: {len(expand(found))} of the {len(runs)} runs of {whole.name}")

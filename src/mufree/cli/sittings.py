"""`mufree pack`, `unpack`, `part`, `lease`: a study that takes several sittings, on machines that don't last."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mufree.cli.commands import Packs, Part, Store, StudyFile, command
from mufree.cli.inputs import UserError, load_study

PART = "Made by `mufree part`"
"""By which the file of a part is known."""


@command("experiments/cifar_wikitext.yaml --store results/cifar_wikitext/runs --packs kept")
def pack(study: StudyFile, /, *, store: Store, packs: Packs, most_mb: float = 1000.0) -> None:
    """Put the finished runs of a study that no pack has into a new one: one small file, to keep between sittings.

    Args:
        most_mb: megabytes that a pack may have; where that is too little, there are more of them
    """
    from mufree.study import packs as packing
    from mufree.study import run_store
    from mufree.study.plan import expand

    if not 0 < most_mb < math.inf:
        raise UserError(f"--most-mb {most_mb:g} is not above 0 and finite", 2)
    made = packing.pack_in_pieces(run_store.existing(store), expand(load_study(study)), packs, int(1e6 * most_mb))
    for path, count in made:
        print(f"{path}: {count} runs")
    if not made:
        print(f"{packs} has every finished run of {store} already")


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
def part(study: StudyFile, /, *, part: Part = None, store: Store, out: Path) -> None:
    """Write a study file of what is finished of a study, or of one part: of each grid, the widths that have all their runs.

    Args:
        out: the study file to write; its name is the part's
    """
    from pydantic import ValidationError

    from mufree.study import config, files, run_store
    from mufree.study.plan import expand, finished_part
    from mufree.study.reading import read_text
    from mufree.study.yaml_files import to_yaml

    if out.exists() and PART not in read_text(out):
        raise UserError(
            f"{out} is there and wasn't made by `mufree part`, so it isn't replaced. Choose another --out", 2
        )
    whole = load_study(study, part)
    runs = expand(whole)
    finished = [run.id for run in runs if run_store.store_path(run_store.existing(store), run).exists()]
    try:
        found = finished_part(whole, finished, out.stem)
    except ValidationError as error:
        raise UserError(
            f"what {store} has of {whole.name}, {len(finished)} of {len(runs)} runs, is no study yet:\n{config.explain(error)}"
        ) from error
    files.write_text(out, to_yaml(found, f"{PART} from {study.name}: what was finished of it."))
    print(f"{out}: {len(expand(found))} of the {len(runs)} runs of {whole.name}")


@command("scale --part 1 --out lease")
def lease(
    study: StudyFile,
    /,
    *,
    part: Part = None,
    out: Path,
    minutes: float = 9.0,
    python: str = "3.12",
    there: tuple[str, ...] = (),
    without_packages: bool = False,
    most_mb: float = 60.0,
    prepared: Path = Path("results/prepared"),
    data_dir: Annotated[Path, Parameter(env_var="MUFREE_DATA_DIR")] = Path("data"),
    lock: Path = Path("envs/requirements.lock"),
) -> None:
    """Prepare a folder by which a machine with a GPU, PyTorch and no network trains a part of a study (docs/scale.md).

    There, `run.sh` trains until its time is up and leaves packs, which `mufree unpack` takes in here. The study may be named
    alone, if its file is in experiments.

    Args:
        out: the folder to write
        minutes: minutes after which run.sh stops training
        python: version of Python there
        there: packages that the machine has already, such as numpy and pyarrow
        without_packages: take no package along: the machine has them all
        most_mb: megabytes that the folder may have
        prepared: folder of prepared data sets; those missing are prepared there
        data_dir: where raw data is staged or downloaded to
        lock: exact versions of the packages
    """
    from mufree.lab import lease as leasing

    named = Path("experiments") / f"{study}.yaml"
    file = named if not study.suffix and named.exists() else study
    what = leasing.Lease(load_study(file, part), file, part, minutes)
    target = leasing.Target(python, not without_packages, there, most_mb)
    sizes = leasing.prepare(what, target, out, prepared=prepared, data_dir=data_dir, lock=lock)
    for name, size in sizes.items():
        print(f"{size / 1e6:8.2f} MB  {out / name}")
    print(f"{sum(sizes.values()) / 1e6:8.2f} MB of {most_mb:g}. On the machine: {out / 'run.sh'}")

"""The data sets: each is prepared once into a folder of plain arrays, and loaded from there by mmap.

`prepare` and `load` are all that a command needs; `mufree.lab.data.batches` makes tensors of what `load` gives.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mufree.lab.data import cifar10, photo_patches, prepared, python_source, wiki_sample, wikitext2
from mufree.lab.data.prepared import Built, DataError, Prepared, Split, load
from mufree.study.parts import Dataset

__all__ = ["BUILDERS", "DataError", "Prepared", "Split", "load", "prepare"]

BUILDERS: dict[str, Callable[[Any, Path], Built]] = {
    "cifar10": cifar10.build,
    "photo_patches": photo_patches.build,
    "python_source": python_source.build,
    "wiki_sample": wiki_sample.build,
    "wikitext2": wikitext2.build,
}
"""What makes a data set from its settings and `data_dir`, by name. A new one is a file here, a model in `mufree.study.parts`
and a line in this dict."""


def prepare(dataset: Dataset, out: Path, data_dir: Path) -> None:
    """Make the data set and write it as the folder `out`, whole or not at all; an earlier one there is replaced.

    `data_dir` is where staged files are looked for and downloads are kept. Raises DataError if the data can't be had or isn't
    what it should be; there is no fallback to other data.
    """
    prepared.write(BUILDERS[dataset.name](dataset, data_dir), dataset.model_dump(mode="json"), out)

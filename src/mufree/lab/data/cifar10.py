"""CIFAR-10 (Krizhevsky 2009): a staged `cifar10.npz`, or torchvision's download."""

from __future__ import annotations

import logging
import zipfile
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mufree.lab.data.prepared import Array, Built, DataError, Split, balanced_order
from mufree.study.files import sha256
from mufree.study.parts import Cifar10

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
STAGED = "cifar10.npz"
LAYOUT = "x_train uint8 [50000, 32, 32, 3], y_train integers 0 to 9 [50000], x_test [10000, 32, 32, 3], y_test [10000]"

logger = logging.getLogger(__name__)


def build(settings: Cifar10, data_dir: Path, published: Any = None) -> Built:
    """Read CIFAR-10, staged if `data_dir/cifar10.npz` is there and downloaded otherwise, and hold out validation images.

    The held-out images are always the same and balanced over the classes; the test split is not touched. `published` is
    torchvision's class or one like it, with another url and checksums.
    """
    staged = data_dir / STAGED
    if staged.exists():
        arrays, about = _read_staged(staged)
    else:
        arrays, about = _download(data_dir, published)
    logger.info("cifar10: %s", about["source"])
    x, y = arrays["x_train"], arrays["y_train"]
    if settings.valid_examples >= len(y):
        raise DataError(
            f"valid_examples {settings.valid_examples} leaves none of the {len(y)} training images to train on"
        )
    order = balanced_order(y, seed=0)
    valid, train = (np.sort(part) for part in np.split(order, [settings.valid_examples]))
    splits = {
        "train": Split(x[train], y[train]),
        "valid": Split(x[valid], y[valid]),
        "test": Split(arrays["x_test"], arrays["y_test"]),
    }
    about |= {"licence": "none stated by its authors", "class_names": list(CLASS_NAMES)}
    return Built("image", len(CLASS_NAMES), splits, about)


def _read_staged(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """The four arrays of a staged file; DataError, naming the file, if it is corrupt or they aren't what LAYOUT says."""
    names = ("x_train", "y_train", "x_test", "y_test")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in names}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} can't be read: {error}. It must have {LAYOUT}; stage it again") from error
    check_layout(arrays, path)
    about = {"source": f"staged {STAGED}", "version": "as staged", "inputs": {STAGED: {"sha256": sha256(path)}}}
    return {name: array if name[0] == "x" else array.astype(np.int64) for name, array in arrays.items()}, about


def check_layout(arrays: dict[str, Array], path: Path) -> None:
    """Raise DataError, naming `path`, unless the arrays have the shapes, types and labels of LAYOUT."""
    for split, count in (("train", 50000), ("test", 10000)):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if x.shape != (count, 32, 32, 3) or x.dtype != np.uint8:
            raise DataError(f"{path}: x_{split} is {x.dtype} {list(x.shape)}. It must have {LAYOUT}")
        if y.shape != (count,) or y.dtype.kind not in "iu":
            raise DataError(f"{path}: y_{split} is {y.dtype} {list(y.shape)}. It must have {LAYOUT}")
        if y.min() < 0 or y.max() >= len(CLASS_NAMES):
            raise DataError(f"{path}: y_{split} has labels from {y.min()} to {y.max()}. It must have {LAYOUT}")


def _download(data_dir: Path, published: Any) -> tuple[dict[str, Array], dict[str, Any]]:
    """torchvision's CIFAR-10 in `data_dir`, downloaded if it isn't there. It checks every file's MD5 before it reads one."""
    if published is None:
        from torchvision.datasets import CIFAR10

        published = CIFAR10
    arrays: dict[str, Array] = {}
    logger.info("cifar10: no %s, so torchvision's download is used", data_dir / STAGED)
    try:
        for split in ("train", "test"):
            images = published(data_dir, train=split == "train", download=True)
            arrays[f"x_{split}"] = np.asarray(images.data, dtype=np.uint8)
            arrays[f"y_{split}"] = np.asarray(images.targets, dtype=np.int64)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"Could not get {published.url} (MD5 {published.tgz_md5}) into {data_dir}: {error}\n"
            f"Without a network, stage {data_dir / STAGED} with {LAYOUT}. The study `quickstart` needs no download"
        ) from error
    about = {
        "source": f"torchvision's download of {published.url}",
        "version": f"torchvision {version('torchvision')}",
        "inputs": {published.filename: {"md5": published.tgz_md5}},
    }
    return arrays, about

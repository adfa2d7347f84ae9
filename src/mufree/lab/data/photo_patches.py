"""Ten pictures that scikit-image ships, cut into 32×32 patches: tell from which one a patch comes. Needs no network.

Each picture is a grid of cells, and each cell belongs to one split. A patch is cut from inside one cell, so no pixel of a
picture is seen by two splits. Channels are mixed at random, so that hue says nothing; brightness and contrast are
jittered, so that they say less than structure does.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mufree.lab.data.prepared import Array, Built, DataError, Split
from mufree.study.files import sha256
from mufree.study.parts import PhotoPatches

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES = (
    "astronaut.png",
    "brick.png",
    "chelsea.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "retina.jpg",
    "rocket.jpg",
)
SIZE = 32
"""Pixels on a side of a patch."""
SOURCE_SIDES = (32, 64)
"""Least and greatest side, in the picture's pixels, of the square a patch is made from: its scale."""
ROWS, COLUMNS = 4, 6
"""The grid of cells of each picture."""
CONTRAST = 1.3
"""Greatest factor by which a patch's contrast is raised or lowered."""
BRIGHTNESS = 0.2
"""Share of a channel's mean that is replaced by a random level."""
NOISE = 5.0
"""Standard deviation of the noise added to each pixel and channel, in levels of 256."""
CHUNK = 256
"""Patches jittered at a time: bounds memory, and fits the cache."""


def build(settings: PhotoPatches, data_dir: Path) -> Built:
    """Cut, jitter and shuffle the patches; classes are balanced to within one in each split. `data_dir` is not used."""
    names = [Path(name).stem for name in PICTURES]
    folder = files("skimage") / "data"
    paths = [Path(str(folder / name)) for name in PICTURES]
    pictures = [_open(path) for path in paths]
    rng = np.random.default_rng(settings.seed)
    splits = {}
    for split, count in (
        ("train", settings.train_examples),
        ("valid", settings.valid_examples),
        ("test", settings.test_examples),
    ):
        if count > (places := sum(n_places(picture, split) for picture in pictures)):
            raise DataError(f"{split}_examples is {count}, and the pictures have {places} places to cut a patch from")
        labels = rng.permutation(np.arange(count, dtype=np.int64) % len(pictures))
        splits[split] = Split(jitter(cut(pictures, labels, split, rng), rng), labels)
    about = {
        "source": "pictures shipped with scikit-image",
        "version": f"scikit-image {version('scikit-image')}",
        "licence": "CC0, public domain or no known restrictions, picture by picture: see skimage.data",
        "inputs": {path.name: {"sha256": sha256(path)} for path in paths},
        "class_names": names,
    }
    return Built("image", len(pictures), splits, about)


def cells(width: int, height: int, split: str) -> NDArray[np.int64]:
    """The cells of a picture that belong to a split, [K, 4] as left, top, right, bottom (exclusive), in pixels.

    Of each row of six cells one validates and one tests, in other columns from row to row, so that every split sees all
    parts of a picture.
    """
    xs = np.linspace(0, width, COLUMNS + 1).astype(np.int64)
    ys = np.linspace(0, height, ROWS + 1).astype(np.int64)
    found = [
        (xs[column], ys[row], xs[column + 1], ys[row + 1])
        for row in range(ROWS)
        for column in range(COLUMNS)
        if {0: "valid", 3: "test"}.get((column + 2 * row) % COLUMNS, "train") == split
    ]
    return np.array(found, dtype=np.int64)


def n_places(picture: Image, split: str) -> int:
    """How many places a picture has for the smallest square of a split."""
    left, top, right, bottom = cells(picture.width, picture.height, split).T
    least = SOURCE_SIDES[0] - 1
    return int(np.sum((right - left - least) * (bottom - top - least)))


def cut(pictures: Sequence[Image], labels: Array, split: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Patches uint8 [N, 32, 32, 3]: from the split's cells of picture `labels[i]`, at a random place, scale and flip."""
    from PIL.Image import Resampling

    regions = [cells(picture.width, picture.height, split) for picture in pictures]
    patches = np.empty((len(labels), SIZE, SIZE, 3), dtype=np.uint8)
    sides = rng.integers(SOURCE_SIDES[0], SOURCE_SIDES[1], size=len(labels), endpoint=True)
    places = rng.random((len(labels), 3))
    flips = rng.integers(0, 2, size=(len(labels), 2)) * 2 - 1
    for i, label in enumerate(labels):
        which, across, down = places[i]
        left, top, right, bottom = regions[label][int(which * len(regions[label]))]
        x = left + int(across * (right - left - sides[i] + 1))
        y = top + int(down * (bottom - top - sides[i] + 1))
        # Crop first: `resize(box=…)` would let the filter read pixels beyond the box, and so of another split.
        square = pictures[label].crop((x, y, x + sides[i], y + sides[i])).resize((SIZE, SIZE), Resampling.BILINEAR)
        patches[i] = np.asarray(square)[:: flips[i, 0], :: flips[i, 1]]
    return patches


def jitter(patches: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Each patch uint8 [N, 32, 32, 3] with its own channel mixing, contrast, brightness and noise.

    Every new channel is a random convex mixture of the old three, so hue says nothing and grey pictures don't stand out.
    """
    return np.concatenate([_jitter_chunk(patches[i : i + CHUNK], rng) for i in range(0, len(patches), CHUNK)])


def _jitter_chunk(patches: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    # No BLAS here: its rounding differs between machines, and the digest of the data with it.
    count = len(patches)
    mixing = rng.dirichlet(np.ones(3), size=(count, 3)).astype(np.float32)
    contrast = np.exp(rng.uniform(-1, 1, (count, 1, 1)) * np.log(CONTRAST)).astype(np.float32)
    brightness = rng.uniform(0.2 * 255, 0.8 * 255, (count, 3, 1)).astype(np.float32)
    planes = patches.reshape(count, SIZE * SIZE, 3).transpose(0, 2, 1).astype(np.float32, order="C")
    pixels = mixing[:, :, 0:1] * planes[:, 0:1]
    pixels += mixing[:, :, 1:2] * planes[:, 1:2]
    pixels += mixing[:, :, 2:3] * planes[:, 2:3]
    mean = pixels.mean(axis=2, keepdims=True)
    pixels -= mean
    pixels *= contrast
    pixels += (1 - BRIGHTNESS) * mean + BRIGHTNESS * brightness
    pixels += NOISE * rng.standard_normal(pixels.shape, dtype=np.float32)
    levels: NDArray[np.uint8] = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return levels.transpose(0, 2, 1).reshape(patches.shape)


def _open(path: Path) -> Image:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except OSError as error:
        raise DataError(f"{path} can't be read: {error}. Install scikit-image again from its wheel") from error

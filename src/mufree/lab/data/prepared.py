"""What a data set is once it is prepared: plain arrays in a folder, with a manifest that says what they are.

Every data set's module has `build(settings, data_dir) -> Built`. `write` puts that into a folder, `load` reads it back by mmap.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mufree.study.files import replacing, sha256
from mufree.study.parts import Dataset, Kind
from mufree.study.plan import canonical_json
from mufree.study.reading import FORMAT, UserError, read_json

Array = NDArray[Any]
SPLITS = ("train", "valid", "test")

MANIFEST = {
    "format": int,
    "kind": str,
    "classes": int,
    "settings": dict,
    "digest": str,
    "files": {...: {"sha256": str}},
}
"""What the manifest of a prepared data set has at least."""


class DataError(UserError):
    """Something is wrong with data; the message names it and says what to do."""


@dataclass(frozen=True)
class Split:
    """Examples and targets.

    Images: `x` uint8 [N, 32, 32, 3], `y` int64 [N]. Text: `x` uint16 [N] is the token stream without its last token and `y`
    the same stream shifted by one, so that example i of context T is `x[i:i+T], y[i:i+T]`.
    """

    x: Array
    y: Array


@dataclass(frozen=True)
class Built:
    """What a data set's module makes, in memory, before it is written.

    `about` says in plain values what the manifest has to tell: source, version, licence, inputs with their SHA-256.
    `texts` are further files by name, such as the tokenizer.
    """

    kind: Kind
    classes: int
    splits: Mapping[str, Split]
    about: Mapping[str, Any]
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """A prepared data set. `classes` is the number of classes, or of tokens in the vocabulary.

    For images, `manifest["mean"]` and `manifest["std"]` are the training split's, a number a channel, with pixels in [0, 1].
    `digest` changes with the arrays and the settings and with nothing else: not with the source's folder or the date.
    """

    kind: Kind
    classes: int
    train: Split
    valid: Split
    test: Split | None
    manifest: dict[str, Any]
    digest: str


def balanced_order(labels: Array, seed: int) -> NDArray[np.int64]:
    """A permutation of the examples of which every prefix is balanced: classes take turns, at random within a class.

    Any prefix has the same number of each class to within one, for as long as no class has run out. The order depends on
    the labels [N] and the seed alone.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank_in_class = np.arange(len(labels)) - np.repeat(starts, counts)
    return by_class[np.argsort(rank_in_class, kind="stable")].astype(np.int64)


def write(built: Built, settings: Mapping[str, Any], out: Path) -> None:
    """Write a data set as the folder `out`, whole or not at all: built in a sibling folder, then renamed.

    An earlier prepared folder is replaced, also one that has lost its manifest: Snakemake removes a rule's outputs before it
    makes them again. Raises DataError if `out` is or holds anything else.
    """
    if out.exists() and not (out.is_dir() and _looks_prepared(out, built.texts)):
        raise DataError(
            f"{out} exists and is not a prepared data set; it won't be replaced. Remove it or choose another"
        )
    with replacing(out) as folder:
        _write_files(built, settings, folder)


def _looks_prepared(folder: Path, texts: Mapping[str, str]) -> bool:
    names = [path.name for path in folder.iterdir()]
    return "manifest.json" in names or all(name.endswith(".npy") or name in texts for name in names)


def load(path: Path) -> Prepared:
    """Open a prepared folder: arrays by mmap, every file's SHA-256 checked against the manifest.

    Raises DataError naming the file, and the digests, if one is missing or isn't what the manifest says.
    """
    cure = f"Delete the folder {path} and prepare it again"
    manifest_path = path / "manifest.json"
    manifest = read_json(manifest_path, MANIFEST, cure)
    files = manifest["files"]
    if manifest["digest"] != _digest(files, manifest["settings"]):
        raise DataError(f"{manifest_path}: its digest is not that of its arrays and settings. {cure}")
    for name, entry in files.items():
        if not (path / name).is_file():
            raise DataError(f"{path / name} is missing. {cure}")
        found = sha256(path / name)
        if found != entry["sha256"]:
            raise DataError(f"{path / name} is corrupt: expected SHA-256 {entry['sha256']}, found {found}. {cure}")
    splits = {
        name: Split(_load_array(path / f"{name}_x.npy"), _load_array(path / f"{name}_y.npy"))
        for name in SPLITS
        if f"{name}_x.npy" in files
    }
    return Prepared(
        kind=manifest["kind"],
        classes=manifest["classes"],
        train=splits["train"],
        valid=splits["valid"],
        test=splits.get("test"),
        manifest=manifest,
        digest=manifest["digest"],
    )


def check_asked_for(folder: Path, settings: Mapping[str, Any], task: str, dataset: Dataset) -> None:
    """Raise DataError unless a folder was prepared by the settings that a task asks for."""
    asked = json.loads(canonical_json(dataset))
    if asked != settings:
        raise DataError(
            f"{folder} was prepared as {json.dumps(settings)}, and {task} asks for {json.dumps(asked)}. "
            "Give its own folder, or delete this one, and the workflow prepares it anew"
        )


def _write_files(built: Built, settings: Mapping[str, Any], folder: Path) -> None:
    files: dict[str, dict[str, Any]] = {}
    for split, arrays in built.splits.items():
        for part, array in (("x", arrays.x), ("y", arrays.y)):
            name = f"{split}_{part}.npy"
            content = io.BytesIO()  # NumPy's own error of a full disk doesn't say so
            np.save(content, np.ascontiguousarray(array), allow_pickle=False)
            (folder / name).write_bytes(content.getbuffer())
            files[name] = {"sha256": sha256(folder / name), "shape": list(array.shape), "dtype": str(array.dtype)}
    for name, text in built.texts.items():
        (folder / name).write_text(text, encoding="utf-8")
        files[name] = {"sha256": sha256(folder / name)}
    manifest = {
        "format": FORMAT,
        "kind": built.kind,
        "classes": built.classes,
        "settings": dict(settings),
        "sizes": {split: len(arrays.y) for split, arrays in built.splits.items()},
        **built.about,
        "files": files,
        "digest": _digest(files, settings),
    }
    if built.kind == "image":
        manifest["mean"], manifest["std"] = _channel_statistics(built.splits["train"].x)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _load_array(path: Path) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DataError(
            f"{path} is not a plain array: {error}. Delete the folder {path.parent} and prepare it again"
        ) from error
    return array


def _digest(files: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    arrays = {name: entry["sha256"] for name, entry in files.items() if name.endswith(".npy")}
    content = {"arrays": arrays, "settings": dict(settings)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _channel_statistics(images: Array) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of uint8 [N, H, W, 3], as numbers in [0, 1]; exact, by counting levels."""
    levels = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[-1]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        mean = float(share @ levels)
        means.append(mean)
        stds.append(float(np.sqrt(share @ (levels - mean) ** 2)))
    return means, stds

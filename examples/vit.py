"""A small ViT of torchvision, as it is, that tells from which of ten pictures a patch was cut: for `mufree tune`.

The pictures come with scikit-image. Patches are cut once, into the folder PATCHES or ~/.cache/mufree/photo_patches.

    mufree tune examples/vit.py --base-width 32 --check-widths 64,128 --steps 300
"""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from torch import Tensor, nn
from torchvision.models import VisionTransformer

from mufree.lab.data import Prepared, batches, load, prepare
from mufree.study.parts import PhotoPatches

CLASSES, IMAGE, PATCH, BATCH = 10, 32, 4, 16
LAYERS, HEAD_DIM = 2, 16  # heads grow in number with width, and not in size
DATA = PhotoPatches(name="photo_patches", train_examples=8192, valid_examples=512, test_examples=10)


def make_model(width: int) -> nn.Module:
    """Images [B, 3, 32, 32] → logits [B, 10]; `width` is a multiple of 16."""
    heads = width // HEAD_DIM
    return VisionTransformer(IMAGE, PATCH, LAYERS, heads, hidden_dim=width, mlp_dim=2 * width, num_classes=CLASSES)


@cache
def data() -> Prepared:
    """The patches, cut when they are first asked for; no part of a picture is in two splits."""
    folder = Path(os.environ.get("PATCHES", Path.home() / ".cache/mufree/photo_patches"))
    if not prepared(folder):
        try:
            prepare(DATA, folder, folder.parent)
        except OSError:
            if not prepared(folder):  # else another process was first
                raise
    return load(folder)


def prepared(folder: Path) -> bool:
    """Whether the patches are there, and are those that `DATA` describes."""
    return folder.exists() and load(folder).manifest["settings"] == DATA.model_dump(mode="json")


def train_batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images and their classes, without end; the order follows from the seed."""
    return batches.train_batches(data(), batch_size=BATCH, context_length=None, seed=seed)


def valid_batches() -> list[tuple[Tensor, Tensor]]:
    """The same images every time, balanced over the classes."""
    return batches.eval_batches(
        data(), "valid", examples=DATA.valid_examples, batch_size=4 * BATCH, context_length=None
    )

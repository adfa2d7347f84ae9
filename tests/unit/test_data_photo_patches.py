from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mufree.lab.data import DataError, load, photo_patches, prepare
from mufree.study.parts import PhotoPatches

CODES = {"train": 0, "valid": 100, "test": 255}
SETTINGS = PhotoPatches(name="photo_patches", train_examples=200, valid_examples=50, test_examples=50)


def shipped_sizes() -> list[tuple[int, int]]:
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return [photo_patches._open(folder / name).size for name in photo_patches.PICTURES]


def test_ten_pictures_are_shipped_and_every_cell_holds_the_largest_source() -> None:
    sizes = shipped_sizes()
    assert len(sizes) == 10
    for size in sizes:
        for split in CODES:
            cells = photo_patches.cells(*size, split)
            sides = cells[:, 2:] - cells[:, :2]
            assert sides.min() >= photo_patches.SOURCE_SIDES[1]


@pytest.mark.parametrize("size", sorted(set(shipped_sizes())))
def test_cells_cover_a_picture_and_no_pixel_twice(size: tuple[int, int]) -> None:
    covered = np.zeros(size, dtype=int)
    for split in CODES:
        for left, top, right, bottom in photo_patches.cells(*size, split):
            covered[left:right, top:bottom] += 1
    assert (covered == 1).all()


def test_picture_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png can't be read: .*scikit-image"):
        photo_patches._open(tmp_path / "gone.png")


def painted(size: tuple[int, int]) -> Image.Image:
    """A picture whose every pixel is the code of the split that owns it."""
    canvas = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for split, code in CODES.items():
        for left, top, right, bottom in photo_patches.cells(*size, split):
            canvas[top:bottom, left:right] = code
    return Image.fromarray(canvas)


@pytest.mark.parametrize("split", CODES)
def test_patches_have_no_trace_of_another_splits_pixels(split: str) -> None:
    """Resampling included: a filter that read one pixel beyond the cell would mix codes."""
    pictures = [painted(size) for size in shipped_sizes()]
    labels = np.arange(3000) % len(pictures)
    patches = photo_patches.cut(pictures, labels, split, np.random.default_rng(0))
    assert (patches == CODES[split]).all()


def test_patches_come_from_the_picture_that_the_label_names() -> None:
    pictures = [Image.new("RGB", (600, 400), (level, level, level)) for level in (10, 20, 30)]
    labels = np.array([2, 0, 1, 1, 2])
    patches = photo_patches.cut(pictures, labels, "train", np.random.default_rng(0))
    assert patches[:, 5, 7, 1].tolist() == [30, 10, 20, 20, 30]


def test_jitter_takes_away_hue() -> None:
    """Red and green patches of one brightness have the same colours after it, on average, to within the spread of the mean."""
    means = []
    for colour in ((200, 0, 0), (0, 200, 0)):
        patches = np.tile(np.array(colour, dtype=np.uint8), (2000, 32, 32, 1))
        means.append(photo_patches.jitter(patches, np.random.default_rng(len(means))).mean(axis=(1, 2)))
    red, green = means
    spread = np.sqrt(red.var(axis=0) / len(red) + green.var(axis=0) / len(green))
    assert (np.abs(red.mean(axis=0) - green.mean(axis=0)) < 5 * spread).all()


def test_prepared_twice_the_same_and_another_seed_another(tmp_path: Path) -> None:
    for name, settings in {"a": SETTINGS, "b": SETTINGS, "c": SETTINGS.model_copy(update={"seed": 1})}.items():
        prepare(settings, tmp_path / name, tmp_path / "no data needed")
    a, b, c = (load(tmp_path / name) for name in "abc")
    assert a.digest == b.digest != c.digest
    assert not np.array_equal(a.train.x, c.train.x)
    assert a.test is not None
    for split, count in ((a.train, 200), (a.valid, 50), (a.test, 50)):
        assert (split.x.dtype, split.x.shape) == (np.uint8, (count, 32, 32, 3))
        assert np.bincount(split.y, minlength=10).tolist() == [count // 10] * 10
    assert set(a.manifest["inputs"]) == set(photo_patches.PICTURES)


def test_a_linear_reader_of_structure_beats_chance_on_unseen_cells() -> None:
    """Gradients in a patch tell gravel from retina: the task can be learnt from structure that carries over."""
    settings = PhotoPatches(name="photo_patches", train_examples=3000, valid_examples=1000, test_examples=1)
    built = photo_patches.build(settings, Path())

    def features(x: np.ndarray) -> np.ndarray:
        grey = x.astype(float).mean(axis=3)
        steps = [np.abs(np.diff(grey, n=order, axis=axis)).mean(axis=(1, 2)) for order in (1, 2, 3) for axis in (1, 2)]
        return np.stack([np.ones(len(x)), *np.log1p(steps)], axis=1)

    train, valid = built.splits["train"], built.splits["valid"]
    weights, *_ = np.linalg.lstsq(features(train.x), np.eye(10)[train.y], rcond=None)
    assert ((features(valid.x) @ weights).argmax(axis=1) == valid.y).mean() > 0.2

from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch

from mufree.lab.data import DataError, Prepared, Split, load
from mufree.lab.data.batches import eval_batches, train_batches
from mufree.lab.data.prepared import Built, write

IMAGES, TOKENS, CONTEXT = 50, 400, 8


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Ordered by class; the first pixel of image i is i."""
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(IMAGES)
    split = Split(pixels, np.repeat(np.arange(5, dtype=np.int64), 10))
    out = tmp_path_factory.mktemp("images") / "out"
    write(Built("image", 5, {"train": split, "valid": split}, {}), {"name": "made"}, out)
    return load(out)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Token i is i, so a window says where it comes from."""
    tokens = np.arange(TOKENS + 1, dtype=np.uint16)
    split = Split(tokens[:-1], tokens[1:])
    out = tmp_path_factory.mktemp("text") / "out"
    write(Built("text", 512, {"train": split, "valid": split, "test": split}, {}), {"name": "made"}, out)
    return load(out)


def which(data: Prepared, x: torch.Tensor) -> list[int]:
    levels = (x[:, 0, 0, 0] * data.manifest["std"][0] + data.manifest["mean"][0]) * 255
    return [round(level) for level in levels.tolist()]


def test_image_batches_are_normalised_channels_first(images: Prepared) -> None:
    x, y = next(train_batches(images, batch_size=6, context_length=None, seed=0))
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((6, 3, 32, 32), torch.float32, (6,), torch.int64)
    assert x.is_contiguous()
    rows = which(images, x)
    expected = (images.train.x[rows] / 255 - images.manifest["mean"]) / images.manifest["std"]
    np.testing.assert_allclose(x.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)
    assert y.tolist() == images.train.y[rows].tolist()


def test_every_epoch_has_each_image_once_in_a_new_order(images: Prepared) -> None:
    batches = train_batches(images, batch_size=10, context_length=None, seed=0)
    epochs = [[row for x, _ in islice(batches, 5) for row in which(images, x)] for _ in range(3)]
    assert all(sorted(epoch) == list(range(IMAGES)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_ragged_tail_is_dropped(images: Prepared) -> None:
    batches = train_batches(images, batch_size=20, context_length=None, seed=0)
    epoch = [row for x, _ in islice(batches, 2) for row in which(images, x)]
    assert len(set(epoch)) == 40
    assert all(len(y) == 20 for _, y in islice(batches, 5))


@pytest.mark.parametrize("kind", ["images", "text"])
def test_order_depends_on_the_seed_alone(kind: str, request: pytest.FixtureRequest) -> None:
    data = request.getfixturevalue(kind)

    def first(seed: int, global_seed: int) -> torch.Tensor:
        torch.manual_seed(global_seed)
        batches = train_batches(data, batch_size=4, context_length=CONTEXT, seed=seed)
        return torch.stack([x for x, _ in islice(batches, 20)])

    assert torch.equal(first(0, 1), first(0, 2))
    assert not torch.equal(first(0, 1), first(1, 1))
    torch.manual_seed(0)
    untouched = torch.rand(1)
    torch.manual_seed(0)
    next(train_batches(data, batch_size=4, context_length=CONTEXT, seed=0))
    assert torch.equal(torch.rand(1), untouched)


@pytest.mark.parametrize("skip", [0, 1, 4, 5, 6, 13])
@pytest.mark.parametrize("kind", ["images", "text"])
def test_batches_that_are_skipped_are_those_that_would_have_come(
    kind: str, skip: int, request: pytest.FixtureRequest
) -> None:
    data = request.getfixturevalue(kind)
    make = partial(train_batches, data, batch_size=10, context_length=CONTEXT, seed=0)  # five to an epoch of images
    late, whole = list(islice(make(skip=skip), 7)), list(islice(make(), skip, skip + 7))
    assert all(torch.equal(a, b) for one, two in zip(late, whole, strict=True) for a, b in zip(one, two, strict=True))


def test_text_windows_are_shifted_by_one_and_reach_both_ends(text: Prepared) -> None:
    batches = list(islice(train_batches(text, batch_size=64, context_length=CONTEXT, seed=0), 200))
    x, y = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
    assert (x.dtype, y.dtype, x.shape) == (torch.int64, torch.int64, (64 * 200, CONTEXT))
    assert torch.equal(y, x + 1)
    assert torch.equal(x, x[:, :1] + torch.arange(CONTEXT))
    assert set(x[:, 0].tolist()) == set(range(TOKENS - CONTEXT + 1))


def test_image_evaluation_is_fixed_and_balanced(images: Prepared) -> None:
    first, second = (eval_batches(images, "valid", examples=25, batch_size=10, context_length=None) for _ in range(2))
    assert [len(y) for _, y in first] == [10, 10, 5]
    assert all(torch.equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))
    assert torch.bincount(torch.cat([y for _, y in first])).tolist() == [5] * 5
    assert len({row for x, _ in first for row in which(images, x)}) == 25


def test_text_evaluation_is_spread_without_overlap(text: Prepared) -> None:
    batches = eval_batches(text, "test", examples=10, batch_size=4, context_length=CONTEXT)
    x, y = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
    assert [len(part) for part, _ in batches] == [4, 4, 2]
    assert torch.equal(y, x + 1)
    assert x[:, 0].tolist() == [k * TOKENS // 10 // CONTEXT * CONTEXT for k in range(10)]
    everything = eval_batches(text, "valid", examples=TOKENS // CONTEXT, batch_size=64, context_length=CONTEXT)
    assert everything[0][0].flatten().tolist() == list(range(TOKENS))


def test_too_few_examples_are_refused_with_the_numbers(images: Prepared, text: Prepared) -> None:
    with pytest.raises(DataError, match="51 asked for, but there are 50 images in the valid split"):
        eval_batches(images, "valid", examples=51, batch_size=10, context_length=None)
    with pytest.raises(DataError, match="51 asked for, but there are 50 windows of 8 tokens in the valid split"):
        eval_batches(text, "valid", examples=51, batch_size=10, context_length=CONTEXT)
    with pytest.raises(DataError, match="no test split"):
        eval_batches(images, "test", examples=1, batch_size=1, context_length=None)
    with pytest.raises(DataError, match="batch_size 51 is more than the 50"):
        train_batches(images, batch_size=51, context_length=None, seed=0)
    with pytest.raises(DataError, match="401 asked for, but there are 400 tokens"):
        train_batches(text, batch_size=1, context_length=401, seed=0)
    with pytest.raises(DataError, match="context_length"):
        train_batches(text, batch_size=1, context_length=None, seed=0)

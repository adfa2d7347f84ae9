import hashlib
import io
import logging
import pickle
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from mufree.lab.data import DataError, cifar10
from mufree.study.parts import Cifar10

SETTINGS = Cifar10(name="cifar10", valid_examples=20)


def staged_arrays() -> dict[str, np.ndarray]:
    """In class order, as a staged copy may be; the first two pixels of an image spell its number."""
    arrays = {}
    for split, count in (("train", 50000), ("test", 10000)):
        x = np.zeros((count, 32, 32, 3), dtype=np.uint8)
        x[:, 0, 0, 0], x[:, 0, 0, 1] = np.divmod(np.arange(count), 256)
        arrays |= {f"x_{split}": x, f"y_{split}": np.repeat(np.arange(10), count // 10)}
    return arrays


def numbers(x: np.ndarray) -> np.ndarray:
    return x[:, 0, 0, 0].astype(int) * 256 + x[:, 0, 0, 1]


def test_staged_file_is_used_and_its_validation_images_are_balanced_and_fixed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.savez_compressed(tmp_path / "cifar10.npz", **staged_arrays())
    settings = Cifar10(name="cifar10")
    with caplog.at_level(logging.INFO):
        built = cifar10.build(settings, tmp_path, published=None)
    assert "staged cifar10.npz" in caplog.text
    assert built.about["source"] == "staged cifar10.npz"
    digest = hashlib.sha256((tmp_path / "cifar10.npz").read_bytes()).hexdigest()
    assert built.about["inputs"] == {"cifar10.npz": {"sha256": digest}}
    train, valid = (numbers(built.splits[name].x) for name in ("train", "valid"))
    assert sorted([*train, *valid]) == list(range(50000))
    assert np.bincount(built.splits["valid"].y).tolist() == [500] * 10
    assert (built.splits["valid"].y == valid // 5000).all()
    assert numbers(built.splits["test"].x).tolist() == list(range(10000))
    again = cifar10.build(settings, tmp_path)
    np.testing.assert_array_equal(numbers(again.splits["valid"].x), valid)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("x_train", np.zeros((5, 32, 32, 3), np.uint8), r"x_train is uint8 \[5, 32, 32, 3\]\. It must have"),
        ("x_train", np.zeros((50000, 1), np.uint8), r"x_train is uint8 \[50000, 1\]"),
        ("x_test", np.zeros((10000, 32, 32, 3), np.float16), r"x_test is float16"),
        ("y_train", np.zeros(50000, np.float32), r"y_train is float32 \[50000\]"),
        ("y_test", np.full(10000, 10), r"y_test has labels from 10 to 10"),
        ("y_test", np.full(10000, -1), r"y_test has labels from -1 to -1"),
    ],
)
def test_arrays_that_are_not_cifar10_are_refused(name: str, wrong: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=rf"here/cifar10\.npz: {message}"):
        cifar10.check_layout(staged_arrays() | {name: wrong}, Path("here/cifar10.npz"))


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


RANDOM = npz(x_train=np.random.default_rng(0).integers(0, 64, 4000, dtype=np.uint8))
UNREADABLE = {
    "an array is missing": (npz(x_train=np.zeros(1000)), "y_train"),
    "pickles": (npz(x_train=np.array([{}], dtype=object)), "allow_pickle"),
    "truncated": (RANDOM[:500], ""),
    "a byte overwritten": (RANDOM[:1000] + bytes([RANDOM[1000] ^ 255]) + RANDOM[1001:], ""),
    "not an archive": (npy(np.zeros(5)), ""),
    "empty": (b"", ""),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_staged_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path, case: str) -> None:
    content, message = UNREADABLE[case]
    (tmp_path / "cifar10.npz").write_bytes(content)
    with pytest.raises(DataError, match=rf"cifar10\.npz can't be read: .*{message}.*; stage it again"):
        cifar10.build(SETTINGS, tmp_path)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def published(tmp_path: Path) -> Iterator[type[CIFAR10]]:
    """torchvision's class for an archive of 40 + 10 images in CIFAR-10's own format, behind a real server."""
    rng = np.random.default_rng(0)
    members: dict[str, dict[str, Any]] = {
        name: {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(n)]}
        for name, n in (("data_batch_1", 20), ("data_batch_2", 20), ("test_batch", 10))
    }
    contents = {name: pickle.dumps(entry) for name, entry in members.items()}
    contents["batches.meta"] = pickle.dumps({"label_names": list(cifar10.CLASS_NAMES)})
    archive = tmp_path / "served" / CIFAR10.filename
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    checksums = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(archive.parent))) as server:

        class Tiny(CIFAR10):
            url = f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}"
            tgz_md5 = hashlib.md5(archive.read_bytes()).hexdigest()
            train_list = [[name, checksums[name]] for name in ("data_batch_1", "data_batch_2")]  # noqa: RUF012
            test_list = [["test_batch", checksums["test_batch"]]]  # noqa: RUF012
            meta = CIFAR10.meta | {"md5": checksums["batches.meta"]}

        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield Tiny
        server.shutdown()
        thread.join()


def test_download_is_read_and_said_to_be_one(
    published: type[CIFAR10], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        built = cifar10.build(SETTINGS, tmp_path / "data", published)
    assert "torchvision's download is used" in caplog.text
    assert built.about["source"] == f"torchvision's download of {published.url}"
    assert built.about["inputs"] == {CIFAR10.filename: {"md5": published.tgz_md5}}
    assert {name: split.x.shape for name, split in built.splits.items()} == {
        "train": (20, 32, 32, 3),
        "valid": (20, 32, 32, 3),
        "test": (10, 32, 32, 3),
    }
    test = pickle.loads((tmp_path / "data" / "cifar-10-batches-py" / "test_batch").read_bytes())
    np.testing.assert_array_equal(built.splits["test"].x.transpose(0, 3, 1, 2).reshape(10, 3072), test["data"])
    assert np.bincount(built.splits["valid"].y).tolist() == [2] * 10


def test_download_with_a_wrong_checksum_is_refused(published: type[CIFAR10], tmp_path: Path) -> None:
    published.tgz_md5 = "0" * 32
    with pytest.raises(DataError, match=rf"(?s){published.url} \(MD5 000.*corrupted.*`quickstart`"):
        cifar10.build(SETTINGS, tmp_path / "data", published)
    assert not (tmp_path / "data" / "cifar-10-batches-py").exists()


def test_no_network_gives_the_staging_advice(published: type[CIFAR10], tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as closed:
        published.url = f"http://127.0.0.1:{closed.server_port}/gone.tar.gz"
    with pytest.raises(DataError, match=r"(?s)data/cifar10\.npz with x_train uint8 .*`quickstart` needs no download"):
        cifar10.build(SETTINGS, tmp_path / "data", published)


def test_holding_out_everything_is_refused(published: type[CIFAR10], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="valid_examples 40 leaves none of the 40"):
        cifar10.build(Cifar10(name="cifar10", valid_examples=40), tmp_path / "data", published)

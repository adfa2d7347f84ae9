import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from mufree.lab.data import DataError, Split, load
from mufree.lab.data.prepared import Built, balanced_order, write
from mufree.study.files import sha256
from mufree.study.reading import RecordError


def built(seed: int = 0, test: bool = True) -> Built:
    rng = np.random.default_rng(seed)
    names = ("train", "valid", "test") if test else ("train", "valid")
    splits = {
        name: Split(rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8), np.arange(12, dtype=np.int64) % 3)
        for name in names
    }
    return Built("image", 3, splits, {"source": "made up"}, {"note.txt": "µ\n"})


def test_what_is_loaded_is_what_was_built(tmp_path: Path) -> None:
    write(built(), {"name": "made"}, tmp_path / "out")
    data = load(tmp_path / "out")
    for name in ("train", "valid", "test"):
        np.testing.assert_array_equal(getattr(data, name).x, built().splits[name].x)
        np.testing.assert_array_equal(getattr(data, name).y, built().splits[name].y)
    assert isinstance(data.train.x, np.memmap)
    assert (data.kind, data.classes, data.manifest["source"]) == ("image", 3, "made up")
    assert data.manifest["sizes"] == {"train": 12, "valid": 12, "test": 12}
    assert data.manifest["files"]["train_x.npy"]["shape"] == [12, 32, 32, 3]
    assert data.manifest["files"]["train_x.npy"]["dtype"] == "uint8"


def test_channel_statistics_are_those_of_the_training_split(tmp_path: Path) -> None:
    write(built(), {}, tmp_path / "out")
    data = load(tmp_path / "out")
    pixels = data.train.x.astype(np.float64) / 255
    np.testing.assert_allclose(data.manifest["mean"], pixels.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.manifest["std"], pixels.std(axis=(0, 1, 2)), rtol=1e-12)


def test_absent_test_split_is_none(tmp_path: Path) -> None:
    write(built(test=False), {}, tmp_path / "out")
    assert load(tmp_path / "out").test is None


def test_digest_follows_arrays_and_settings_alone(tmp_path: Path) -> None:
    cases = {"a": (0, {"k": 1}), "same": (0, {"k": 1}), "arrays": (1, {"k": 1}), "settings": (0, {"k": 2})}
    for name, (seed, settings) in cases.items():
        write(built(seed), settings, tmp_path / name)
    digest = {name: load(tmp_path / name).digest for name in cases}
    assert digest["a"] == digest["same"]
    assert len({digest["a"], digest["arrays"], digest["settings"]}) == 3


def test_a_prepared_folder_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(built(), {}, out)
    write(built(1, test=False), {}, out)
    assert not (out / "test_x.npy").exists()
    np.testing.assert_array_equal(load(out).train.x, built(1, test=False).splits["train"].x)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_prepared_folder_without_its_manifest_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(built(), {}, out)
    (out / "manifest.json").unlink()
    write(built(), {}, out)
    assert load(out).classes == 3


def test_failed_preparation_leaves_the_earlier_folder_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(built(), {}, out)
    objects = Split(np.array([{}], dtype=object), np.zeros(1, dtype=np.int64))
    with pytest.raises(ValueError, match="allow_pickle"):
        write(Built("text", 3, {"train": objects}, {}), {}, out)
    assert load(out).classes == 3
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="is not a prepared data set"):
        write(built(), {}, tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_corrupt_file_is_refused_by_name_with_both_digests(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(built(), {}, out)
    path = out / "valid_x.npy"
    expected = json.loads((out / "manifest.json").read_text())["files"]["valid_x.npy"]["sha256"]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=f"valid_x.npy is corrupt: expected SHA-256 {expected}, found .*Delete the folder"
    ):
        load(out)


def test_missing_file_and_missing_manifest_are_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(built(), {}, out)
    (out / "train_y.npy").unlink()
    with pytest.raises(DataError, match=r"train_y\.npy is missing\. Delete the folder"):
        load(out)
    with pytest.raises(RecordError, match=r"elsewhere/manifest\.json is missing\. Delete the folder"):
        load(tmp_path / "elsewhere")


def test_edited_manifest_is_refused(tmp_path: Path) -> None:
    write(built(), {"k": 1}, tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    path.write_text(path.read_text().replace('"k": 1', '"k": 2'))
    with pytest.raises(DataError, match="manifest"):
        load(tmp_path / "out")


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('a pickle was run')",)


def test_pickles_are_never_run(tmp_path: Path) -> None:
    from mufree.lab.data import prepared

    out = tmp_path / "out"
    write(built(), {}, out)
    with pytest.raises(SystemExit):
        pickle.loads(pickle.dumps(Trap()))
    np.save(out / "train_x.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"]["train_x.npy"]["sha256"] = sha256(out / "train_x.npy")
    manifest["digest"] = prepared._digest(manifest["files"], manifest["settings"])
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"train_x\.npy"):
        load(out)


def test_every_prefix_of_the_balanced_order_is_balanced() -> None:
    labels = np.repeat(np.arange(4), 25)
    order = balanced_order(labels, seed=3)
    assert sorted(order) == list(range(100))
    for end in range(1, 101):
        counts = np.bincount(labels[order[:end]], minlength=4)
        assert counts.max() - counts.min() <= 1
    assert (order != balanced_order(labels, seed=4)).any()
    assert (order == balanced_order(labels, seed=3)).all()

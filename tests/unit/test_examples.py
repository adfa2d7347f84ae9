"""The examples run as scripts, and train what they say."""

from __future__ import annotations

import logging
import math
import os
import re
import runpy
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mufree.analysis.coordcheck import slopes, verdict
from mufree.coordcheck import default_loss
from mufree.lab.coordcheck import coord_check
from mufree.lab.data import prepare
from mufree.optim import MuAdamW_ScheduleFree, evaluating, parametrize
from mufree.study.parts import PhotoPatches
from mufree.tuning import tune

logging.getLogger("transformers").setLevel(logging.ERROR)

EXAMPLES = Path(__file__).parents[2] / "examples"
CHANCE = {"transformer": math.log(32), "resnet": math.log(4)}
TUNED = {"llama": math.log(256), "vit": math.log(10)}
BASE = 32


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*CHANCE, *TUNED}


@pytest.mark.parametrize("name", CHANCE)
def test_it_learns_and_its_checkpoint_holds_what_it_evaluated(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    loss = example["main"](str(tmp_path / "model.pt"), steps=60)
    assert loss < CHANCE[name] / 2
    said = re.search(r"loss at x ([\d.]+) nats, at chance ([\d.]+)", capsys.readouterr().out)
    assert said
    assert float(said[1]) == pytest.approx(loss, abs=1e-3)
    assert float(said[2]) == pytest.approx(CHANCE[name], abs=1e-3)


def test_as_a_script(tmp_path: Path) -> None:
    subprocess.run([sys.executable, EXAMPLES / "resnet.py"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "resnet.pt").exists()


@pytest.mark.parametrize(("name", "widths"), [("transformer", (64, 256)), ("resnet", (32, 128))])
def test_it_passes_the_coordinate_check(name: str, widths: tuple[int, int]) -> None:
    torch.manual_seed(0)
    example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    frame = coord_check(
        example["make_model"],
        lambda model: MuAdamW_ScheduleFree(model.parameters(), lr=2**-9, eps=1e-12),
        widths,
        example["make_batch"],
        steps=4,
        seeds=5,
    )
    assert verdict(slopes(frame))["passed"].all()


# --- files for `mufree tune` ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the files define, by their names; photo patches lie in a folder of the tests, where others were before."""
    patches = tmp_path_factory.mktemp("data") / "patches"
    prepare(PhotoPatches(name="photo_patches", train_examples=16, valid_examples=16), patches, patches.parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATCHES", str(patches))
        patch.delenv("TEXT", raising=False)
        found = {name: runpy.run_path(str(EXAMPLES / f"{name}.py")) for name in TUNED}
        found["llama"]["text"]()  # what is read once, is read here
        found["vit"]["data"]()
    return found


def first(example: dict[str, Any], seed: int, count: int = 3) -> list[tuple[Tensor, Tensor]]:
    return list(islice(example["train_batches"](seed), count))


def same(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


@pytest.mark.parametrize("name", TUNED)
def test_the_order_of_batches_follows_from_the_seed_alone(name: str, examples: dict[str, dict[str, Any]]) -> None:
    example = examples[name]
    before = first(example, seed=0)
    torch.manual_seed(5)  # the global state is none of it
    assert same(before, first(example, seed=0))
    assert not same(before, first(example, seed=1))
    assert not any(same([one], [other]) for one, other in pairwise(before))
    assert same(example["valid_batches"](), example["valid_batches"]())


def test_no_byte_and_no_patch_that_validates_is_trained_on(examples: dict[str, dict[str, Any]]) -> None:
    train, valid = examples["llama"]["text"]()
    whole = b"".join(path.read_bytes() for path in sorted(Path(os.__file__).parent.glob("*.py")))
    assert bytes(train.numpy()) + bytes(valid.numpy()) == whole
    targets = [target for _, batch in examples["llama"]["valid_batches"]() for target in batch]
    assert all(bytes(target.tolist()) in bytes(valid.numpy()) for target in targets)
    patches = examples["vit"]["data"]()
    seen, kept = ({image.tobytes() for image in split.x} for split in (patches.train, patches.valid))
    assert not seen & kept


def test_patches_of_other_settings_are_cut_anew_and_the_same_are_kept(
    examples: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = examples["vit"]["data"]
    assert sum(len(targets) for _, targets in examples["vit"]["valid_batches"]()) == len(data().valid.y) == 512
    folder = Path(data().train.x.filename).parent
    monkeypatch.setenv("PATCHES", str(folder))
    before = folder.stat().st_ino
    assert data.__wrapped__().digest == data().digest
    assert folder.stat().st_ino == before


def test_a_text_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets are one byte ahead of inputs, and go to the last byte but no further."""
    monkeypatch.setenv("TEXT", str(tmp_path / "text.txt"))
    (tmp_path / "text.txt").write_bytes(bytes(range(250)) * 4)
    example = runpy.run_path(str(EXAMPLES / "llama.py"))
    batches = [*first(example, seed=0, count=20), *example["valid_batches"]()]
    for inputs, targets in batches:
        assert torch.equal(targets, (inputs + 1) % 250)
    assert batches[-1][1][-1, -1] == 249
    (tmp_path / "text.txt").write_bytes(bytes(640))
    example["text"].cache_clear()
    with pytest.raises(ValueError, match="640 bytes, of which 64 validate"):
        example["valid_batches"]()


@pytest.mark.parametrize("name", TUNED)
def test_under_mup_it_starts_at_chance_and_learns(name: str, examples: dict[str, dict[str, Any]]) -> None:
    example, steps = examples[name], 30
    model = parametrize(example["make_model"], 2 * BASE, BASE, seed=0)
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=2**-7, warmup_steps=5)
    valid = example["valid_batches"]()

    def loss() -> float:
        with evaluating(optimizer, model), torch.no_grad():
            return sum(default_loss(model(inputs), targets).item() for inputs, targets in valid) / len(valid)

    assert loss() == pytest.approx(TUNED[name], abs=0.1)
    optimizer.train()
    for inputs, targets in first(example, seed=0, count=steps):
        default_loss(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss() < TUNED[name] - 0.1


@pytest.mark.parametrize("name", TUNED)
def test_it_is_tuned_from_the_check_to_the_page(name: str, examples: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """At a size at which nothing can be told, and nothing goes wrong."""
    own = (examples[name][function] for function in ("make_model", "train_batches", "valid_batches"))
    result = tune(*own, base_width=32, check_widths=[64], steps=4, seeds=1, check=False, name=name)
    result.save(tmp_path)
    assert set(result.rows["width"]) == {32, 64}
    assert result.rows["initial_loss"].to_list() == pytest.approx([TUNED[name]] * len(result.rows), rel=0.1)
    assert result.verdict == "can't tell"  # with one seed
    assert (tmp_path / "tune.html").exists()

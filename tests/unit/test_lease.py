"""A folder for a machine without a network: what is in it, what is said where it can't be made, and what comes back from it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from studies import study

from mufree.cli import main
from mufree.cli.inputs import load_study
from mufree.lab import lease
from mufree.lab.lease import NEEDED, Lease, LeaseError, Target, prepare, script
from mufree.lab.lock import pinned
from mufree.study.config import Study
from mufree.study.files import sha256
from mufree.study.plan import dataset_id, expand, only_part

LOCK = Path(__file__).parents[2] / "envs/requirements.lock"
PHOTO = {"name": "photo_patches", "train_examples": 64, "valid_examples": 32, "test_examples": 32}
WIKI = {"name": "wiki_sample", "articles": 20, "vocab_size": 384}


def plain() -> dict[str, Any]:
    """Two tasks; part 1 has some widths of both, part 2 has more of one."""
    made = study()
    training = {"steps": 12, "batch_size": 8, "evaluations": 3, "eval_examples": 16}
    made["tasks"]["photo"] |= {"dataset": PHOTO, "training": training}
    gpt = {"name": "gpt", "depth": 1, "head_dim": 8, "context_length": 32}
    made["tasks"]["wiki"] = made["tasks"]["photo"] | {"dataset": WIKI, "model": gpt}
    common = {"methods": ["sp_adamw", "mup_schedulefree"], "log2_lrs": [-9, -8], "seeds": [0, 1]}
    made["grids"] = [
        {"part": 1, "tasks": ["photo", "wiki"], "widths": [16, 32], **common},
        {"part": 2, "tasks": ["wiki"], "widths": [64], **common},
    ]
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study's file and its prepared data."""
    made = tmp_path_factory.mktemp("lease")
    (made / "tiny.yaml").write_text(yaml.safe_dump(plain()))
    return made


def lease_of(folder: Path, part: int | None = 1) -> Lease:
    file = folder / "tiny.yaml"
    return Lease(load_study(file, part), file, part, 9.0)


def make(folder: Path, out: Path, target: Target = Target(packages=False), lock: Path = LOCK) -> dict[str, int]:  # noqa: B008
    return prepare(lease_of(folder), target, out, prepared=folder / "prepared", data_dir=folder, lock=lock)


def names_in(archive: Path) -> set[str]:
    with tarfile.open(archive) as opened:
        return set(opened.getnames())


# --- parts ------------------------------------------------------------------------------------------------------------


def test_parts_are_the_study_cut_into_pieces_and_belong_to_no_identity() -> None:
    whole = Study.model_validate(plain())
    first, second = (only_part(whole, number) for number in (1, 2))
    ids = [[run.id for run in expand(each)] for each in (first, second)]
    assert list(map(len, ids)) == [32, 8]
    without = plain()
    for grid in without["grids"]:
        del grid["part"]
    assert [*ids[0], *ids[1]] == [run.id for run in expand(Study.model_validate(without))]
    assert second.tasks == whole.tasks
    with pytest.raises(ValueError, match=r"^tiny has no part 3\. Known: 1, 2$"):
        only_part(whole, 3)
    with pytest.raises(ValueError, match=r"^tiny has no part 1\. Known: none$"):
        only_part(Study.model_validate(without), 1)


def test_parts_of_scale_share_no_run_and_are_all_of_it() -> None:
    whole = load_study(Path(__file__).parents[2] / "experiments/scale.yaml")
    parts = {number: len(expand(only_part(whole, number))) for number in (0, 1, 2, 3, 5, 6, 7, 8, 9)}
    # Methods × widths × rates × seeds.
    assert parts[1] == 5 * 5 * 9 * 16
    assert parts[6] == 4 * 2 * 8 * 5
    assert (parts[7], parts[8]) == (4 * 6 * 3, 4 * 4 * 2)
    assert parts[9] == (7 + 4 + 4) * 4 * 9 * 5
    assert sum(parts.values()) == len(expand(whole))


# --- the folder -------------------------------------------------------------------------------------------------------


def test_it_has_the_source_the_data_of_its_part_and_a_script(folder: Path, tmp_path: Path) -> None:
    sizes = make(folder, tmp_path / "out")
    assert list(sizes) == ["data.tar.xz", "run.sh", "source.tar.xz", "tiny.yaml"]
    assert sizes == {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    datasets = {dataset_id(task.dataset) for task in Study.model_validate(plain()).tasks.values()}
    assert {name.partition("/")[0] for name in names_in(tmp_path / "out/data.tar.xz")} == datasets
    source = names_in(tmp_path / "out/source.tar.xz")
    assert {"mufree/cli/training.py", "mufree/lab/lease.sh"} <= source
    assert not [name for name in source if "__pycache__" in name or not name.startswith("mufree/")]
    assert os.access(tmp_path / "out/run.sh", os.X_OK)


def test_the_script_says_what_it_runs(folder: Path) -> None:
    photo, wiki = (dataset_id(task.dataset) for task in Study.model_validate(plain()).tasks.values())
    lines = script(lease_of(folder), Target(python="3.13")).splitlines()
    for line in (
        "what='part 1 of study tiny'",
        "study=tiny.yaml",
        "part=1",
        "python_version=3.13",
        "default_minutes=9",
        f"tasks='photo={photo} wiki={wiki}'",
    ):
        assert lines.count(line) == 1
    second = script(lease_of(folder, 2), Target(packages=False)).splitlines()
    assert {f"tasks=wiki={wiki}", "python_version=''"} <= set(second)


def test_what_is_too_large_is_named_and_leaves_what_was_there(folder: Path, tmp_path: Path) -> None:
    sizes = make(folder, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(LeaseError) as error:
        make(folder, tmp_path / "out", Target(packages=False, most_mb=0.25))
    largest = sorted(sizes, key=lambda name: -sizes[name])
    listed = ", ".join(f"{name} {sizes[name] / 1e6:.1f}" for name in largest)
    assert str(error.value).startswith(
        f"The folder would have {sum(sizes.values()) / 1e6:.1f} MB, and 0.25 can be sent: {listed}. Leave out"
    )
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert make(folder, tmp_path / "out", Target(packages=False, most_mb=sum(sizes.values()) / 1e6)) == sizes


def test_a_folder_that_is_no_lease_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    with pytest.raises(LeaseError, match="is no folder of a lease"):
        make(folder, tmp_path / "out")
    assert (tmp_path / "out/mine").read_text() == "mine"


def test_targets_cost_nothing_beside_inputs(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 2**16, 200_001).astype(np.uint16)
    other = np.random.default_rng(1).integers(0, 2**16, 200_000).astype(np.uint16)
    sizes = {}
    for name, targets in (("shifted", tokens[1:]), ("other", other)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", tokens[:-1])
        np.save(tmp_path / name / "y.npy", targets)
        lease._archive(tmp_path / f"{name}.tar.xz", tmp_path / name, sorted((tmp_path / name).iterdir()))
        sizes[name] = (tmp_path / f"{name}.tar.xz").stat().st_size
    assert 400_000 < sizes["shifted"] < 402_000
    assert sizes["other"] > 800_000


def test_equal_files_give_equal_archives(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in/a").write_text("a")
        (tmp_path / name / "in/b").write_text("b")
    os.utime(tmp_path / "two/in/a", (0, 0))
    for name in ("one", "two"):
        lease._archive(tmp_path / f"{name}.xz", tmp_path / name, sorted((tmp_path / name).rglob("*")), ["*/b"])
    assert (tmp_path / "one.xz").read_bytes() == (tmp_path / "two.xz").read_bytes()
    assert names_in(tmp_path / "one.xz") == {"in/a"}


# --- packages ---------------------------------------------------------------------------------------------------------


def make_wheel(folder: Path, name: str, version: str) -> Path:
    path, about = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "here = True\n")
        wheel.writestr(f"{name}/tests/test_it.py", "")
        wheel.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: no\n"
        )
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return path


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all that pip may take from."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(wheels)), ("CONFIG_FILE", os.devnull)):
        monkeypatch.setenv(f"PIP_{name}", value)
    return wheels


ALL_BUT_ATTRS = tuple(name for name in NEEDED if name != "attrs")


def test_packages_are_taken_from_wheels_without_what_is_unused(folder: Path, tmp_path: Path, offline: Path) -> None:
    digest = sha256(make_wheel(offline, "attrs", "1.0"))
    (tmp_path / "lock").write_text(f"attrs==1.0 \\\n    --hash=sha256:{digest}\nnumpy==9\nseaborn==9\n")
    sizes = make(folder, tmp_path / "out", Target(there=ALL_BUT_ATTRS), tmp_path / "lock")
    assert "packages.tar.xz" in sizes
    names = names_in(tmp_path / "out/packages.tar.xz")
    assert "attrs/__init__.py" in names
    assert not [name for name in names if "tests" in name or name.endswith(".pyc")]


def test_a_file_that_is_not_the_one_locked_is_refused(folder: Path, tmp_path: Path, offline: Path) -> None:
    make_wheel(offline, "attrs", "1.0")
    (tmp_path / "lock").write_text(f"attrs==1.0 \\\n    --hash=sha256:{64 * '0'}\n")
    with pytest.raises(LeaseError, match=r"pip can't get the packages: ERROR: THESE PACKAGES DO NOT MATCH THE HASHES"):
        make(folder, tmp_path / "out", Target(there=ALL_BUT_ATTRS), tmp_path / "lock")
    assert not (tmp_path / "out").exists()


def test_without_a_network_it_says_what_to_do(folder: Path, tmp_path: Path, offline: Path) -> None:
    (tmp_path / "lock").write_text("attrs==1.0\n")
    with pytest.raises(LeaseError, match=r"pip can't get the packages: ERROR.*attrs==1\.0") as error:
        make(folder, tmp_path / "out", Target(there=ALL_BUT_ATTRS), tmp_path / "lock")
    assert "PIP_FIND_LINKS" in str(error.value)
    assert "--without-packages" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_what_is_needed_is_pinned_and_what_is_there_is_known(folder: Path, tmp_path: Path) -> None:
    assert set(NEEDED) <= pinned(LOCK).keys()
    with pytest.raises(LeaseError, match=r"^--there names pandas, scipy\. Known: annotated-types, "):
        make(folder, tmp_path / "out", Target(there=("scipy", "numpy", "pandas")))
    with pytest.raises(LeaseError, match=r"none can't be read .*give --lock"):
        make(folder, tmp_path / "out", Target(), tmp_path / "none")
    assert not (tmp_path / "out").exists()


# --- the script -------------------------------------------------------------------------------------------------------


def run_script(out: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    told = kept | {"PYTHON": sys.executable, "DEVICE": "cpu", "OUT": str(out)} | environment
    script = out.parent / "lease/run.sh"
    return subprocess.run([str(script), *arguments], env=told, capture_output=True, text=True, check=False)


def test_a_machine_that_will_not_do_is_told_so(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "lease")
    found = "{}.{}".format(*sys.version_info)
    (tmp_path / "lease/run.sh").write_text(script(lease_of(folder), Target(python="3.99")))
    done = run_script(tmp_path / "packs")
    assert done.returncode == 1
    assert (
        f"is Python {found}, and the packages are for 3.99; set PYTHON, or prepare with --python {found}" in done.stderr
    )
    assert "set PYTHON" in run_script(tmp_path / "packs", PYTHON=str(tmp_path / "no-python")).stderr
    (tmp_path / "lease/run.sh").write_text(script(lease_of(folder), Target(packages=False)))
    done = run_script(tmp_path / "packs", PYTHON=str(without(tmp_path, "torch")))
    assert (done.returncode, "has no PyTorch" in done.stderr) == (1, True)
    done = run_script(tmp_path / "packs", "soon")
    assert (done.returncode, "'soon' is no number of minutes" in done.stderr) == (1, True)
    assert not list((tmp_path / "packs").iterdir())


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="this Python's tarfile has no filters")
@pytest.mark.parametrize("hostile", ["../outside", "{outside}", "link"])
def test_what_would_be_unpacked_outside_is_refused(tmp_path: Path, hostile: str) -> None:
    outside = tmp_path / "outside"
    entry = tarfile.TarInfo(hostile.format(outside=outside))
    if hostile == "link":
        entry.type, entry.linkname = tarfile.SYMTYPE, "../outside"
    with tarfile.open(tmp_path / "source.tar.xz", "w:xz") as archive:
        archive.addfile(entry)
    found = re.search(
        r"^unpack='(.*?)'$", (Path(lease.__file__).parent / "lease.sh").read_text(), re.DOTALL | re.MULTILINE
    )
    assert found is not None
    words = [sys.executable, "-c", found[1], str(tmp_path / "source.tar.xz"), str(tmp_path / "in/source")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    # An absolute path loses its slash, and so stays inside.
    assert done.returncode == (0 if hostile == "{outside}" else 1)
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]
    assert not outside.exists()
    assert not (tmp_path / "in/outside").exists()


def without(folder: Path, *names: str) -> Path:
    """An interpreter that lacks some packages."""
    (folder / "lacks").mkdir()
    (folder / "lacks/sitecustomize.py").write_text(
        "import sys\n"
        "finders = list(sys.meta_path)\n"
        "class Lacks:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {set(names)!r}:\n"
        "            return None\n"
        "        return next(filter(None, (each.find_spec(name, path, target) for each in finders)), None)\n"
        "    def find_distributions(self, *context):\n"
        "        return sys.modules['_frozen_importlib_external'].PathFinder.find_distributions(*context)\n"
        "sys.meta_path[:] = [Lacks()]\n"
    )
    interpreter = folder / "python"
    interpreter.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}/lacks:$PYTHONPATH" exec "{sys.executable}" "$@"\n')
    interpreter.chmod(0o755)
    return interpreter


def with_its_needs(name: str, found: set[str]) -> set[str]:
    if name not in found:
        found.add(name)
        for need in distribution(name).requires or []:
            if "extra ==" not in need:
                with_its_needs(lease_name(need), found)
    return found


def lease_name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


@pytest.mark.whole
def test_from_preparation_to_tables_and_back_with_nothing_else_installed(folder: Path, tmp_path: Path) -> None:
    """The whole way at toy size, on a CPU, by an interpreter that has PyTorch and what is `NEEDED` alone."""
    make(folder, tmp_path / "lease")
    there = with_its_needs("torch", set()) | set(map(lease_name, NEEDED)) | {"mufree", "pip"}
    by_name = packages_distributions().items()
    lacking = [name for name, owners in by_name if not there & set(map(lease_name, owners))]
    assert {"pandas", "tokenizers", "rich", "yaml"} & set(lacking) == {"pandas", "tokenizers", "rich"}
    bare = str(without(tmp_path, *lacking))
    packs, file = tmp_path / "packs", str(folder / "tiny.yaml")

    # No time: nothing is lost but time, and the code says that there is more to do.
    done = run_script(packs, "0", PYTHON=bare)
    assert done.returncode == 75, done.stdout + done.stderr
    assert [path.name for path in packs.iterdir()] == ["run.log"]
    done = run_script(packs, PYTHON=bare)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in packs.iterdir()) == ["001.parquet", "run.log"]

    store = tmp_path / "store"
    assert main(["unpack", file, "--store", str(store), "--packs", str(packs)]) == 0
    assert {path.stem for path in store.iterdir()} == {run.id for run in expand(lease_of(folder).study)}

    # What is finished is a study: both tasks, and of wiki no width of part 2. It is served, and nothing is trained.
    part = tmp_path / "tiny_part.yaml"
    assert main(["part", file, "--store", str(store), "--out", str(part)]) == 0
    pattern = str(tmp_path / "sweeps/{task}.{method}.w{widths}.s{seeds}")
    before = {path: path.stat().st_mtime_ns for path in store.iterdir()}
    for task, settings in load_study(part).tasks.items():
        data = folder / "prepared" / dataset_id(settings.dataset)
        for method in ("sp_adamw", "mup_schedulefree"):
            for width in (16, 32):
                for seed in (0, 1):
                    label = {"task": task, "method": method, "widths": width, "seeds": seed}
                    sweep = ["--sweep", "{task}.{method}.w{widths}.s{seeds}".format(**label), "--data", str(data)]
                    where = ["--store", str(store), "--out", pattern.format(**label), "--device", "cuda"]
                    assert main(["sweep", "--study", str(part), *sweep, *where]) == 0
    assert {path: path.stat().st_mtime_ns for path in store.iterdir()} == before
    found = tmp_path / "all"
    assert main(["collect", "--study", str(part), "--sweeps", pattern, "--out", str(found)]) == 0
    rows = pq.read_table(found / "rows.parquet")
    assert rows.num_rows == 32
    assert set(rows["engine"].to_pylist()) == {"stack"}

    # The same bits as a sweep here gives, and not those of the serial path.
    again = tmp_path / "again"
    data = str(folder / "prepared" / dataset_id(load_study(part).tasks["photo"].dataset))
    asked = ["sweep", "--study", file, "--part", "1", "--task", "photo", "--data", data, "--out", str(tmp_path / "out")]
    assert main([*asked, "--store", str(again), "--engine", "stack"]) == 0
    here = pq.read_table(tmp_path / "out/rows.parquet").select(["run_id", "val_loss", "train_loss", "code_digest"])
    assert here.num_rows == 16
    assert set(here.to_pylist()[0]) <= set(rows.column_names)
    assert sorted(here.to_pylist(), key=str) == sorted(
        (row for row in rows.select(here.column_names).to_pylist() if row["run_id"].startswith("photo.")), key=str
    )

    # A run that was trained by another engine doesn't pass.
    mixed = ["sweep", "--study", str(part), "--sweep", "photo.sp_adamw.w16.s0", "--data", data]
    out = pattern.format(task="photo", method="sp_adamw", widths=16, seeds=0)
    assert main([*mixed, "--store", str(tmp_path / "serial"), "--out", out]) == 0
    assert main(["collect", "--study", str(part), "--sweeps", pattern, "--out", str(found)]) == 1

"""Python files of an environment as text: which split, which order, cut where, and another environment than the lock's."""

import hashlib
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mufree.lab.data import DataError, load, prepare, python_source
from mufree.lab.data.prepared import Split
from mufree.lab.data.python_source import LOCK, VALIDATION, build
from mufree.lab.lock import pinned
from mufree.study.parts import PythonSource

SETTINGS = PythonSource(name="python_source", vocab_size=257)
TRAINS = {"a/__init__.py": "", "a/one.py": "x = 1\nx = 1\n", "a/two.py": "y = x\ny = x\n"}
VALIDATES = {"networkx/graph.py": "graph = {}\n", "networkx/copy.py": TRAINS["a/one.py"]}


def install(site: Path, name: str, version: str, files: dict[str, str | bytes]) -> None:
    """A package as pip leaves it: its files, and a folder that lists them."""
    about = site / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (about / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    for file, content in files.items():
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_bytes(content if isinstance(content, bytes) else content.encode())


def test_what_builds_of_pytorch_differ_in_and_other_platforms_have_is_not_taken() -> None:
    taken = python_source._locked(LOCK, None)
    left_out = {name for name in pinned(LOCK) if name not in taken}
    assert left_out == {
        *("cuda-bindings", "cuda-pathfinder", "cuda-toolkit", "setuptools", "triton"),
        *(f"nvidia-{name}" for name in ("cublas", "cuda-cupti", "cuda-nvrtc", "cuda-runtime", "cudnn-cu13", "cufft")),
        *(f"nvidia-{name}" for name in ("cufile", "curand", "cusolver", "cusparse", "cusparselt-cu13", "nccl-cu13")),
        *(f"nvidia-{name}" for name in ("nvjitlink", "nvshmem-cu13", "nvtx")),
    }
    versions = "".join(f"{name} {package.version}\n" for name, package in taken.items())
    assert hashlib.sha256(versions.encode()).hexdigest()[:12] == "4c50c9645e49"


def environment(folder: Path, **more: str | bytes) -> tuple[Path, list[str]]:
    """A lock of two packages, and where they are installed; `more` are files of the one that trains."""
    install(folder / "site", "A_b.c", "1.0+cpu", {**TRAINS, **{f"a/{name}.py": text for name, text in more.items()}})
    install(folder / "site", "networkx", "3.1", VALIDATES)
    (folder / "lock.txt").write_text("# exact\nA-B-C==1.0\n\nnetworkx==3.1\n")
    return folder / "lock.txt", [str(folder / "site")]


def text_of(split: Split, tokenizer: str) -> str:
    return str(Tokenizer.from_str(tokenizer).decode([*split.x.tolist(), int(split.y[-1])]))


def texts_of(settings: PythonSource, lock: Path, site: list[str]) -> dict[str, str]:
    built = build(settings, Path("unused"), lock, site)
    return {name: text_of(split, built.texts["tokenizer.json"]) for name, split in built.splits.items()}


def in_order(files: dict[str, str], package: str = "a-b-c") -> str:
    """By the digest of package and path, as the module says."""
    names = sorted(files, key=lambda name: hashlib.sha256(f"{package}/{name}".encode()).hexdigest())
    return "".join(files[name] for name in names)


def test_a_package_is_in_one_split_and_a_text_in_one_place(tmp_path: Path) -> None:
    lock, site = environment(tmp_path)
    texts = texts_of(SETTINGS, lock, site)
    # An empty file is a line's end; networkx/copy.py has the text of a/one.py, which trains.
    assert texts == {"train": in_order(TRAINS | {"a/__init__.py": "\n"}), "valid": "graph = {}\n"}
    used = build(SETTINGS, tmp_path, lock, site).about["used"]
    assert used == {
        "train": {"packages": ["a-b-c"], "python_files": 3},
        "valid": {"packages": ["networkx"], "python_files": 1},
    }


def test_what_is_no_code_in_utf8_is_left_out_and_lines_are_ended(tmp_path: Path) -> None:
    plain = texts_of(SETTINGS, *environment(tmp_path / "plain"))
    table = b"#" * (python_source.LARGEST + 1)
    assert texts_of(SETTINGS, *environment(tmp_path / "more", latin="µ".encode("latin-1"), table=table)) == plain
    files = TRAINS | {"a/__init__.py": "\n", "a/open.py": "z = µ\n"}
    assert texts_of(SETTINGS, *environment(tmp_path / "open", open="z = µ"))["train"] == in_order(files)


def test_order_is_of_names_and_not_of_folders(tmp_path: Path) -> None:
    install(tmp_path / "site", "networkx", "3.1", dict(reversed(VALIDATES.items())))
    install(tmp_path / "site", "A_b.c", "1.0", dict(reversed(TRAINS.items())))
    install(tmp_path / "site", "unpinned", "1", {"unpinned.py": "never = seen\n"})
    lock, site = environment(tmp_path / "other")
    assert texts_of(SETTINGS, lock, [str(tmp_path / "site")]) == texts_of(SETTINGS, lock, site)


@pytest.mark.parametrize("count", [5, 12, 13, 24, 25])
def test_so_many_bytes_are_taken_from_the_front(tmp_path: Path, count: int) -> None:
    lock, site = environment(tmp_path)
    whole = texts_of(SETTINGS, lock, site)["train"]
    assert len(whole) == 25
    some = SETTINGS.model_copy(update={"train_bytes": count, "valid_bytes": 7, "vocab_size": 256})
    assert texts_of(some, lock, site) == {"train": whole[:count], "valid": "graph ="}


def test_a_character_that_is_cut_in_two_goes(tmp_path: Path) -> None:
    lock, site = environment(tmp_path)
    install(tmp_path / "site", "b", "1", {"b.py": "µµµ"})
    lock.write_text("b==1\nnetworkx==3.1\n")
    some = SETTINGS.model_copy(update={"train_bytes": 3, "vocab_size": 256})
    # What trains is cut to one character of two bytes, and networkx's copy of a/one.py is no copy here.
    assert texts_of(some, lock, site) == {"train": "µ", "valid": in_order(VALIDATES, "networkx")}


def test_another_version_and_a_missing_package_are_named_with_the_cure(tmp_path: Path) -> None:
    lock, site = environment(tmp_path)
    lock.write_text("A-B-C==1.1\nabsent==2\nnetworkx==3.1\n")
    with pytest.raises(DataError) as error:
        build(SETTINGS, tmp_path, lock, site)
    assert str(error.value) == (
        f"The environment is not that of {lock}:\n"
        "  a-b-c 1.1 is pinned, 1.0+cpu is installed\n"
        "  absent 2 is pinned, nothing is installed\n"
        f"Make it by `make setup` with Python 3.11, or `pip install -r {lock}`"
    )


def test_a_lock_and_a_file_that_are_not_there_are_named(tmp_path: Path) -> None:
    lock, site = environment(tmp_path)
    with pytest.raises(DataError, match=r"none.txt can't be read .*needs a checkout of the project"):
        build(SETTINGS, tmp_path, tmp_path / "none.txt", site)
    (tmp_path / "site/a/one.py").unlink()
    with pytest.raises(DataError, match=r"one.py of a-b-c can't be read .*install the package again"):
        build(SETTINGS, tmp_path, lock, site)


def test_no_validation_package_is_a_text_that_cannot_be(tmp_path: Path) -> None:
    lock, site = environment(tmp_path)
    lock.write_text("A-B-C==1.0\n")
    with pytest.raises(DataError, match="The valid text has 0 tokens"):
        build(SETTINGS, tmp_path, lock, site)


def test_the_environment_here_gives_the_same_digest_twice_and_no_package_to_both(tmp_path: Path) -> None:
    """The real lock and environment; every package that validates is pinned, under that spelling."""
    assert set(VALIDATION) <= set(python_source._locked(LOCK, None))
    settings = PythonSource(name="python_source", vocab_size=300, train_bytes=150_000, valid_bytes=50_000)
    for name in ("one", "two"):
        prepare(settings, tmp_path / name, tmp_path)
    one, two = load(tmp_path / "one"), load(tmp_path / "two")
    assert one.digest == two.digest
    assert one.manifest["bytes"] == {"train": 150_000, "valid": 50_000}
    used = {split: set(about["packages"]) for split, about in one.manifest["used"].items()}
    assert used["valid"] <= set(VALIDATION)
    assert used["train"].isdisjoint(VALIDATION)
    assert len(used["train"]) > 1

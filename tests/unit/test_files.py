"""Digests of files, and folders that are replaced whole or not at all."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mufree.study.files import DAY, atomic, replacing, sha256


def test_the_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep/out"
    for name in ("first", "second"):
        with replacing(out) as folder:
            (folder / name).write_text(name)
            assert name not in content(tmp_path / "deep/out")
        assert content(tmp_path) == {f"deep/out/{name}": name}
        assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_can_not_be_replaced_is_named_and_not_its_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as raised, atomic(tmp_path) as temporary:
        temporary.write_text("new")
    assert str(raised.value) == f"[Errno 21] Is a directory: '{tmp_path}'"
    assert not [*tmp_path.parent.glob(".*.partial")]


def fail(folder: Path) -> None:
    raise KeyboardInterrupt


def replace(out: Path, last: Callable[[Path], object]) -> None:
    with replacing(out) as folder:
        (folder / "new").write_text("new")
        last(folder)


# Without the new folder it is the renaming that fails, after the previous folder was moved away.
FAILURES = [(fail, KeyboardInterrupt), (shutil.rmtree, FileNotFoundError)]


@pytest.mark.parametrize(("last", "error"), FAILURES)
def test_a_failure_leaves_the_previous_folder(
    tmp_path: Path, last: Callable[[Path], object], error: type[BaseException]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    with pytest.raises(error):
        replace(out, last)
    assert content(tmp_path) == {"out/old": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("last", "error"), FAILURES)
def test_a_failure_leaves_nothing_where_nothing_was(
    tmp_path: Path, last: Callable[[Path], object], error: type[BaseException]
) -> None:
    with pytest.raises(error):
        replace(tmp_path / "out", last)
    assert list(tmp_path.iterdir()) == []


def replaced(out: Path) -> None:
    with replacing(out):
        pass


def written(out: Path) -> None:
    with atomic(out) as path:
        path.write_text("new")


@pytest.mark.parametrize("write", [replaced, written])
def test_what_killed_processes_left_is_removed_after_a_day(tmp_path: Path, write: Callable[[Path], None]) -> None:
    old = [
        ".run.parquet.abcd_123.partial",
        ".run.checkpoint.zzzzzzz0.tmp",
        ".data.abcdefgh.partial",
        ".frozen.abcdefgh.partial",
    ]
    new = [".run.parquet.bbbbbbbb.partial", ".data.bbbbbbbb.partial"]
    theirs = [".run.parquet.damaged", ".notes.partial", "run.abcd_123.partial", ".cache"]
    for name in (*old, *new, *theirs):
        if name.startswith((".data", ".frozen", ".cache")):
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).touch()
    (tmp_path / ".data.abcdefgh.partial/new").mkdir()
    (tmp_path / ".frozen.abcdefgh.partial/previous").mkdir()
    now = time.time()
    for name in old + theirs:
        os.utime(tmp_path / name, (now - DAY - 60,) * 2)
    for name in new:
        os.utime(tmp_path / name, (now - DAY + 60,) * 2)
    write(tmp_path / "out")
    # A folder that was moved away may be the only one that is left.
    kept = {*new, *theirs, ".frozen.abcdefgh.partial", "out"}
    assert {path.name for path in tmp_path.iterdir()} == kept

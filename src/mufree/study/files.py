"""Files and folders as wholes: written or replaced at once or not at all, and their digest. Standard library only."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.(partial|tmp)")
"""Names of files and folders that are being written; `mufree.optim` writes checkpoints as the second."""
DAY = 86_400.0
_tidied: set[Path] = set()


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A new folder that takes the place of `out` if the block succeeds; if anything fails, `out` is as it was.

    It is built beside `out`, on the same disk, so that only its name changes in the end, when its data is on the disk.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    # What can't be removed, such as a file of the previous folder that is still open on a network disk, fails nothing.
    with tempfile.TemporaryDirectory(
        dir=out.parent, prefix=f".{out.name}.", suffix=".partial", ignore_cleanup_errors=True
    ) as name:
        _tidy(out.parent, Path(name).stat().st_mtime)
        new, previous = Path(name) / "new", Path(name) / "previous"
        new.mkdir()
        with _named(out):
            yield new
            for path in new.rglob("*"):
                if path.is_file():
                    _to_disk(path)
        if out.exists() and _exchanged(new, out):
            return
        try:
            if out.exists():
                out.rename(previous)
            new.rename(out)
        except BaseException:
            if previous.exists() and not out.exists():
                previous.rename(out)
            raise


@contextmanager
def _named(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Errors of the system that name no file, as those of native code, of writes and of fsync, name this one.

    So do those of giving it its name in place of a `temporary` one.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)
            del error.filename2
        raise


def _to_disk(path: Path) -> None:
    """Wait until what a file holds is on the disk, so that no power cut leaves a name without it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _exchanged(one: Path, other: Path) -> bool:
    """Give each the other's name, so that at no moment one is missing; False where the system or the disk can't do that."""
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _tidy(folder: Path, now: float) -> None:
    """Remove what killed processes left half written in a folder, at the first file that this one writes there.

    `now` is the time of a new file, so that only the clock of the file system counts, which other machines may write to as
    well. What is a day old belongs to no living process: writing takes minutes. If it does, that one ends with an error.
    """
    if folder in _tidied:
        return
    _tidied.add(folder)
    for path in folder.iterdir():
        with suppress(OSError):  # another process may tidy up as well
            if TEMPORARY.fullmatch(path.name) and path.lstat().st_mtime < now - DAY:
                if not path.is_dir():
                    path.unlink()
                elif not (path / "previous").exists():  # or it may be all that is left
                    shutil.rmtree(path)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` if the block succeeds, remove it if it fails.

    The data is on the disk before the name is, so that a full disk or a power cut leaves the old file or none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(handle)
    temporary = Path(name)
    _tidy(path.parent, temporary.stat().st_mtime)
    try:
        with _named(path, temporary):
            yield temporary
            _to_disk(temporary)
            temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def keep_text(path: Path, text: str) -> None:
    """Write UTF-8 text where the file doesn't say it already, so that it is no newer than it has to be."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

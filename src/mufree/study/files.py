"""Files and folders as wholes: written or replaced at once or not at all, and their digest. Standard library only."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A new folder that takes the place of `out` if the block succeeds; if anything fails, `out` is as it was.

    It is built beside `out`, on the same disk, so that only its name changes in the end.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    # What can't be removed, such as a file of the previous folder that is still open on a network disk, fails nothing.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", ignore_cleanup_errors=True) as name:
        new, previous = Path(name) / "new", Path(name) / "previous"
        new.mkdir()
        with _named(out):
            yield new
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
def _named(path: Path) -> Iterator[None]:
    """Errors of the system that name no file, as those of native code, of writes and of fsync, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def _exchanged(one: Path, other: Path) -> bool:
    """Give each the other's name, so that at no moment one is missing; False where the system or the disk can't do that."""
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` if the block succeeds, remove it if it fails.

    The data is on the disk before the name is, so that a full disk or a power cut leaves the old file or none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(handle)
    temporary = Path(name)
    try:
        with _named(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
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

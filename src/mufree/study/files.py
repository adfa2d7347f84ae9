"""Files and folders as wholes: their digest, and a folder that is replaced at once. Standard library only."""

from __future__ import annotations

import hashlib
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
        yield new
        try:
            if out.exists():
                out.rename(previous)
            new.rename(out)
        except BaseException:
            if previous.exists() and not out.exists():
                previous.rename(out)
            raise

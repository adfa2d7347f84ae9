"""Snakemake in this folder, also after one that was killed: python rules/after_a_kill.py snakemake ARGUMENTS.

Snakemake keeps its lock in files, which outlive it. They are removed only where nobody can hold them: no other call of this is
alive, which the kernel tells by a lock that it releases at a process's death; no process that works in this folder has
Snakemake in its command; and the folder is on a disk of this machine, so that no other machine's can.
"""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

LOCAL = {"apfs", "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"}
"""File systems that no other machine writes to."""


def is_local(folder: Path, mounts: str) -> bool:
    """Whether a folder is on a disk of this machine, by the text of /proc/self/mounts."""
    kinds = {Path(where): kind for _, where, kind, *_ in (line.split(" ") for line in mounts.splitlines())}
    nearest = next((kinds[parent] for parent in (folder, *folder.parents) if parent in kinds), "unknown")
    return nearest in LOCAL


def others(folder: Path) -> list[int]:
    """Processes of Snakemake that work in a folder, or may: where another user's do can't be read."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            program, _, arguments = (process / "cmdline").read_bytes().partition(b"\0")
            # A shell that calls Snakemake is no Snakemake: this may be its child.
            is_one = os.path.basename(program).startswith((b"python", b"snakemake")) and b"snakemake" in arguments
            if int(process.name) == os.getpid() or not is_one:
                continue
            if Path(os.readlink(process / "cwd")) != folder:
                continue
        except PermissionError:
            pass
        except OSError:  # it has ended
            continue
        found.append(int(process.name))
    return found


def remove_stale(kept: int, folder: Path) -> None:
    """Remove the lock that a killed Snakemake has left; what has come since this looked stays in any case."""
    stale = list((folder / ".snakemake/locks").glob("*"))
    mounts = Path("/proc/self/mounts")
    if not stale or not mounts.exists():
        return
    try:
        fcntl.flock(kept, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    if alive := others(folder):
        print(f"Snakemake is running here: process {alive[0]}", file=sys.stderr)
    elif is_local(folder, mounts.read_text(encoding="utf-8")):
        for path in stale:
            path.unlink(missing_ok=True)
        print("A workflow was killed here: its lock is removed, and this one goes on.", file=sys.stderr)


def main(command: list[str]) -> None:
    """Take the kernel's lock, together with others that live, and become the command."""
    folder = Path.cwd().resolve()
    (folder / ".snakemake").mkdir(exist_ok=True)
    kept = os.open(folder / ".snakemake/alive", os.O_RDWR | os.O_CREAT, 0o644)
    remove_stale(kept, folder)
    fcntl.flock(kept, fcntl.LOCK_SH)
    os.set_inheritable(kept, True)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])

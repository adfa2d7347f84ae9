"""Which GPU a process trains on, so that no two take cuda:0 because neither asked. Standard library only.

A claim is a locked file: the kernel gives it back when the process ends, however it ends, so that none is ever stale.
Untested on a real GPU; nothing here needs one.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO


class NoGpuFree(Exception):  # noqa: N818
    """Every GPU that this process may use is claimed by as many runs as are allowed on one."""


def visible(environment: Mapping[str, str], count: int) -> list[str]:
    """Names of the `count` GPUs that PyTorch sees, in its order: those of CUDA_VISIBLE_DEVICES, else 0, 1, …"""
    names = [name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    # A list that CUDA read in another way (it stops at a name that it doesn't know) says nothing about names.
    return names if len(names) == count and all(names) else [str(index) for index in range(count)]


def choose(devices: Sequence[str], claims: Mapping[str, int], runs_per_gpu: int) -> int | None:
    """Index in `devices` of the one with the fewest claims, the first among equals; None if all have `runs_per_gpu`."""
    free = [index for index, device in enumerate(devices) if claims.get(device, 0) < runs_per_gpu]
    return min(free, key=lambda index: claims.get(devices[index], 0), default=None)


def claims_folder(environment: Mapping[str, str]) -> Path:
    """Where the processes that may meet on a GPU keep their claims: of a user on this machine, in one SLURM job if any.

    Where SLURM confines a job or a step to its GPUs it numbers them from 0, so that "0" of two may be two GPUs. Steps of a job
    that have the same ones (SLURM_STEP_GPUS, which counts all of the machine) do meet.
    """
    scope = [environment[name] for name in ("SLURM_JOB_ID", "SLURM_STEP_GPUS") if name in environment]
    return Path(tempfile.gettempdir()) / _file_name("-".join(["mufree-gpus", str(os.getuid()), *scope]))


@contextmanager
def claimed(devices: Sequence[str], runs_per_gpu: int, folder: Path) -> Iterator[int]:
    """Claim one of `devices` for as long as the context, or the process, lasts; gives its index.

    Raises `NoGpuFree` where all are taken: a run doesn't wait, nor move to another kind of device.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    slots = {device: [folder / f"{_file_name(device)}.{slot}" for slot in range(runs_per_gpu)] for device in devices}
    with ExitStack() as held:
        with ExitStack() as looking:
            # One process at a time looks, else two would see each other's looking as claims.
            fcntl.flock(looking.enter_context((folder / "looking").open("w")), fcntl.LOCK_EX)
            free = {device: [file for path in paths if (file := _locked(path))] for device, paths in slots.items()}
            for file in (file for files in free.values() for file in files):
                looking.enter_context(file)
            claims = {device: runs_per_gpu - len(files) for device, files in free.items()}
            index = choose(devices, claims, runs_per_gpu)
            if index is None:
                raise NoGpuFree(
                    f"All {len(devices)} GPU(s) have {runs_per_gpu} run(s) already ({', '.join(devices)}; claims are in "
                    f"{folder}). Start fewer at a time, or allow more on one with --runs-per-gpu."
                )
            chosen = free[devices[index]][0]
            held.enter_context(os.fdopen(os.dup(chosen.fileno()), "w"))  # shares the lock, and outlives the looking
        yield index


def _locked(path: Path) -> IO[str] | None:
    """The file, open and locked; None if another process has it."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _file_name(device: str) -> str:
    return re.sub(r"[^\w-]", "_", device)

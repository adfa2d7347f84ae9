"""Checkpoints inside a run, or a stack: one that is stopped goes on later, to the bit, from the step that it had reached.

A run's file lies beside the finished ones, as `<run id>.checkpoint`, until the run is finished. It is that of
`optim.save_checkpoint`, with the rest of the session and whose it is.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from mufree.lab.data import Prepared
from mufree.lab.train.many import Many, finish
from mufree.lab.train.network import configure_torch
from mufree.lab.train.ranks import ALONE, Ranks, RanksError
from mufree.lab.train.run import Session, start
from mufree.lab.train.stack import Stack
from mufree.lab.train.watch import Trace
from mufree.optim import CheckpointError, load_checkpoint, save_checkpoint
from mufree.optim.base_shapes import written
from mufree.optim.checkpoint import read_checkpoint, save_content
from mufree.study.plan import Run

if TYPE_CHECKING:
    from mufree.study.trials import Trial

T = TypeVar("T", bound="Session | Many")
R = TypeVar("R", bound="Run | Trial")

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of `Session.state_dict`. Raise it when that changes."""
STACK_FORMAT = "mufree stack 1"
"""Version of `Many.state_dict`. Raise it when that changes."""


class Interrupted(Exception):  # noqa: N818 (nothing is wrong)
    """A run was asked to stop, and is in its checkpoint; the message says where it is."""


def save(path: Path, live: Session | Many) -> None:
    """Write all that a session or a stack carries; the file is complete or as it was. Changes nothing in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(live, Session):
        save_checkpoint(path, live.model, live.optimizer, key=_key(live), session=live.state_dict())
        return
    with written(path) as temporary:
        save_content({"format": STACK_FORMAT, "key": _key(live), "state": live.state_dict()}, temporary)


def resumed(path: Path, run: Run, data: Prepared, device: torch.device, ranks: Ranks = ALONE) -> Session:
    """The session of `run` from the checkpoint at `path`; a new one where there is none.

    A checkpoint that is damaged, or of another run, other data, other `NUMERICS`, another kind of device or another number of
    processes, is reported and left alone: the run starts anew, and the next checkpoint takes its place.
    """
    configure_torch()
    session = gone_on(path, lambda: start(run, data, device, ranks))
    if ranks.sums(session.step)[0] != session.step * ranks.size:
        raise RanksError(
            f"The processes don't read the same checkpoint {path}; put the store where all of them see it."
        )
    return session


def resumed_stack(
    path: Path | None, runs: Sequence[Run], data: Prepared, device: torch.device, compiles: bool = False
) -> Stack:
    """The stack of some runs from the checkpoint at `path`, as `resumed` has it for one."""
    configure_torch()
    return gone_on(path, lambda: Stack(runs, data, device, compiles), "its runs start anew")


def gone_on(path: Path | None, fresh: Callable[[], T], otherwise: str = "the run starts anew") -> T:
    """A session or stack as `fresh()` makes it, gone on with from its checkpoint at `path` where there is one that fits."""
    live = fresh()
    if path is None or not path.exists():
        return live
    try:
        _load(path, live)
    except CheckpointError as error:
        log.warning("%s can't be gone on with (%s); %s", path, error, otherwise)
        return fresh()  # part of the checkpoint may be in the other
    log.info("%s goes on from step %d of %d", live.name, live.step, live.steps)
    return live


def _load(path: Path, live: Session | Many) -> None:
    """Go on from a checkpoint. Raises CheckpointError for one that isn't whole, or isn't that of these runs."""
    if isinstance(live, Session):
        content = load_checkpoint(path, live.model, live.optimizer)
    else:
        content = read_checkpoint(path, STACK_FORMAT)
    found = content.get("key")
    if not isinstance(found, dict):
        raise CheckpointError("it is no run's")
    other = [
        f"{name} {found.get(name)} instead of {value}" for name, value in _key(live).items() if found.get(name) != value
    ]
    if other:
        raise CheckpointError(f"it has {', '.join(other)}")
    live.load_state_dict(content["session" if isinstance(live, Session) else "state"])


def _key(live: Session | Many) -> dict[str, Any]:
    """What a checkpoint has to agree in to be gone on with."""
    if isinstance(live, Session):
        return {"format": FORMAT, **live.course.identity, "processes": live.ranks.size}
    return live.identity


def keeper(
    path: Path | None,
    live: Session | Many,
    seconds: float,
    stop_requested: Callable[[], object],
    progress: Callable[[int], object] = lambda _: None,
) -> Callable[[], None]:
    """A function for `finish` to call after each step: it saves the session or the stack to `path` every so many seconds.

    `progress` is told of the steps that lie behind, then of each. Where `stop_requested()` is true it saves and raises
    `Interrupted`. Of several processes the first one saves, and all stop where one is asked to. Without a path nothing is
    saved.
    """
    progress(live.step)
    due = time.monotonic() + seconds

    def after_step() -> None:
        nonlocal due
        progress(1)
        stop = live.ranks.any(bool(stop_requested()))
        if stop or time.monotonic() >= due:
            if live.ranks.first and path is not None:
                save(path, live)
            due = time.monotonic() + seconds
        if stop and path is None:
            raise Interrupted(f"in {live.name}, of which nothing is kept")
        if stop:
            raise Interrupted(f"in {live.name}, kept after step {live.step} of {live.steps}")

    return after_step


def train_many(
    runs: Sequence[R],
    folder: Path | None,
    start: Callable[[Path | None, Sequence[R]], Many],
    seconds: float,
    stop_requested: Callable[[], object],
    progress: Callable[[Sequence[R], int], object],
) -> Iterator[tuple[R, Trace]]:
    """Train runs side by side; those for which memory is short, in two halves.

    `start(path, runs)` gives them, from the checkpoint at `path` in the folder, if there is one, or anew. `progress(runs,
    steps)` is told of steps that each of them has taken; the rest is as `keeper` has it.
    """
    digest = hashlib.sha256(" ".join(run.id for run in runs).encode()).hexdigest()
    path = None if folder is None else folder / f"stack-{digest[:12]}.checkpoint"
    try:
        live = start(path, runs)
        traces = finish(live, keeper(path, live, seconds, stop_requested, partial(progress, runs)))
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error) or len(runs) == 1:
            raise
        live = None  # so that its memory is free
    else:
        yield from zip(runs, traces, strict=True)
        _discard(path)  # once the last of them is stored
        return
    half = len(runs) // 2
    log.warning("%d runs side by side don't fit into memory; they are trained in two stacks", len(runs))
    _discard(path)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    for part in (runs[:half], runs[half:]):
        yield from train_many(part, folder, start, seconds, stop_requested, progress)


def _discard(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is that of an allocator; PyTorch's on a CPU has no class of its own."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)

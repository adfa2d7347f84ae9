"""Checkpoints inside a run, or a stack: one that is stopped goes on later, to the bit, from the step that it had reached.

A run's file lies beside the finished ones, as `<run id>.checkpoint`, until the run is finished. It is that of
`optim.save_checkpoint`, with the rest of the session and whose it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from mufree.lab.data import Prepared
from mufree.lab.train.network import configure_torch
from mufree.lab.train.ranks import ALONE, Ranks, RanksError
from mufree.lab.train.run import Session, start
from mufree.lab.train.stack import Stack
from mufree.optim import CheckpointError, load_checkpoint, save_checkpoint
from mufree.optim.base_shapes import written
from mufree.optim.checkpoint import read_checkpoint
from mufree.study.plan import Run

T = TypeVar("T", Session, Stack)

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of `Session.state_dict`. Raise it when that changes."""
STACK_FORMAT = "mufree stack 1"
"""Version of `Stack.state_dict`. Raise it when that changes."""


class Interrupted(Exception):  # noqa: N818 (nothing is wrong)
    """A run was asked to stop, and is in its checkpoint; the message says where it is."""


def save(path: Path, live: Session | Stack) -> None:
    """Write all that a session or a stack carries; the file is complete or as it was. Changes nothing in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(live, Session):
        save_checkpoint(path, live.model, live.optimizer, key=_key(live), session=live.state_dict())
        return
    with written(path) as temporary:
        torch.save({"format": STACK_FORMAT, "key": _key(live), "state": live.state_dict()}, temporary)


def resumed(path: Path, run: Run, data: Prepared, device: torch.device, ranks: Ranks = ALONE) -> Session:
    """The session of `run` from the checkpoint at `path`; a new one where there is none.

    A checkpoint that is damaged, or of another run, other data, other `NUMERICS`, another kind of device or another number of
    processes, is reported and left alone: the run starts anew, and the next checkpoint takes its place.
    """
    session = _resumed(path, lambda: start(run, data, device, ranks), "the run starts anew")
    if ranks.sums(session.step)[0] != session.step * ranks.size:
        raise RanksError(
            f"The processes don't read the same checkpoint {path}; put the store where all of them see it."
        )
    return session


def resumed_stack(path: Path, runs: Sequence[Run], data: Prepared, device: torch.device) -> Stack:
    """The stack of some runs from the checkpoint at `path`, as `resumed` has it for one."""
    return _resumed(path, lambda: Stack(runs, data, device), "its runs start anew")


def _resumed(path: Path, fresh: Callable[[], T], otherwise: str) -> T:
    configure_torch()
    live = fresh()
    if not path.exists():
        return live
    try:
        _load(path, live)
    except CheckpointError as error:
        log.warning("%s can't be gone on with (%s); %s", path, error, otherwise)
        return fresh()  # part of the checkpoint may be in the other
    log.info("%s goes on from step %d of %d", live.name, live.step, live.steps)
    return live


def _load(path: Path, live: Session | Stack) -> None:
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


def _key(live: Session | Stack) -> dict[str, Any]:
    """What a checkpoint has to agree in to be gone on with."""
    if isinstance(live, Session):
        return {"format": FORMAT, **live.course.identity, "processes": live.ranks.size}
    return {
        "runs": [run.id for run in live.runs],
        "numerics": live.runs[0].numerics,
        "data": live.data.digest,
        "device": live.device.type,
    }


def keeper(
    path: Path, live: Session | Stack, seconds: float, stop_requested: Callable[[], object]
) -> Callable[[], None]:
    """A function for `finish` to call after each step: it saves the session or the stack to `path` every so many seconds.

    Where `stop_requested()` is true it saves and raises `Interrupted`. Of several processes the first one saves, and all stop
    where one is asked to.
    """
    due = time.monotonic() + seconds

    def after_step() -> None:
        nonlocal due
        stop = live.ranks.any(bool(stop_requested()))
        if stop or time.monotonic() >= due:
            if live.ranks.first:
                save(path, live)
            due = time.monotonic() + seconds
        if stop:
            raise Interrupted(f"in {live.name}, kept after step {live.step} of {live.steps}")

    return after_step

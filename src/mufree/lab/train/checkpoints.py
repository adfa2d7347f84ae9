"""Checkpoints inside a run: a run that is stopped goes on later, to the bit, from the step that it had reached.

The file lies beside the finished runs, as `<run id>.checkpoint`, until the run is finished. It is `optim.save_checkpoint`'s,
with the rest of the session and whose it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mufree.lab.data import Prepared
from mufree.lab.train.ranks import ALONE, Ranks, RanksError
from mufree.lab.train.run import Session, configure_torch, start
from mufree.lab.train.stack import Stack
from mufree.optim import CheckpointError, load_checkpoint, save_checkpoint
from mufree.optim.base_shapes import written
from mufree.optim.checkpoint import read_checkpoint
from mufree.study.plan import Run

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of `Session.state_dict`. Raise it when that changes."""
STACK_FORMAT = "mufree stack 1"
"""Version of `Stack.state_dict`. Raise it when that changes."""


class Interrupted(Exception):  # noqa: N818 (nothing is wrong)
    """A run was asked to stop, and is in its checkpoint; the message says where it is."""


def save(path: Path, session: Session) -> None:
    """Write all that `session` carries; the file is complete or as it was. Changes nothing in the session."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, session.model, session.optimizer, key=_key(session), session=session.state_dict())


def resumed(path: Path, run: Run, data: Prepared, device: torch.device, ranks: Ranks = ALONE) -> Session:
    """The session of `run` from the checkpoint at `path`; a new one where there is none.

    A checkpoint that is damaged, or of another run, other data, other `NUMERICS`, another kind of device or another number of
    processes, is reported and left alone: the run starts anew, and the next checkpoint takes its place.
    """
    configure_torch()
    session = _resumed(path, run, data, device, ranks)
    if ranks.sums(session.step)[0] != session.step * ranks.size:
        raise RanksError(
            f"The processes don't read the same checkpoint {path}; put the store where all of them see it."
        )
    return session


def _resumed(path: Path, run: Run, data: Prepared, device: torch.device, ranks: Ranks) -> Session:
    session = start(run, data, device, ranks)
    if not path.exists():
        return session
    try:
        extra = load_checkpoint(path, session.model, session.optimizer)
        _check(extra.get("key"), _key(session))
        session.load_state_dict(extra["session"])
    except CheckpointError as error:
        log.warning("%s can't be gone on with (%s); the run starts anew", path, error)
        return start(run, data, device, ranks)  # part of the checkpoint may be in the other
    log.info("%s goes on from step %d of %d", run.id, session.step, run.training.steps)
    return session


def keeper(path: Path, session: Session, seconds: float, stop_requested: Callable[[], object]) -> Callable[[], None]:
    """A function for `train.finish` to call after each step: it saves the session to `path` every so many seconds.

    Where `stop_requested()` is true it saves and raises `Interrupted`. Of several processes the first one saves, and all stop
    where one is asked to.
    """

    def where() -> str:
        return f"in {session.course.name}, kept after step {session.step} of {session.course.steps}"

    return _keeper(partial(save, path, session), where, seconds, stop_requested, session.ranks)


def stack_keeper(path: Path, stack: Stack, seconds: float, stop_requested: Callable[[], object]) -> Callable[[], None]:
    """The same for `stack.finish`."""

    def where() -> str:
        return f"in a stack of {len(stack.runs)} runs, kept after step {stack.step} of {stack.steps}"

    return _keeper(partial(save_stack, path, stack), where, seconds, stop_requested, ALONE)


def _keeper(
    keep: Callable[[], None],
    where: Callable[[], str],
    seconds: float,
    stop_requested: Callable[[], object],
    ranks: Ranks,
) -> Callable[[], None]:
    due = time.monotonic() + seconds

    def after_step() -> None:
        nonlocal due
        stop = ranks.any(bool(stop_requested()))
        if stop or time.monotonic() >= due:
            if ranks.first:
                keep()
            due = time.monotonic() + seconds
        if stop:
            raise Interrupted(where())

    return after_step


def save_stack(path: Path, stack: Stack) -> None:
    """Write all that a stack carries; the file is complete or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as temporary:
        torch.save({"format": STACK_FORMAT, "key": _stack_key(stack), "state": stack.state_dict()}, temporary)


def resumed_stack(path: Path, runs: Sequence[Run], data: Prepared, device: torch.device) -> Stack:
    """The stack of some runs from the checkpoint at `path`, as `resumed` has it for one."""
    configure_torch()
    stack = Stack(runs, data, device)
    if not path.exists():
        return stack
    try:
        content = read_checkpoint(path, STACK_FORMAT)
        _check(content.get("key"), _stack_key(stack))
    except CheckpointError as error:
        log.warning("%s can't be gone on with (%s); its runs start anew", path, error)
        return stack
    stack.load_state_dict(content["state"])
    log.info("a stack of %d runs goes on from step %d of %d", len(runs), stack.step, stack.steps)
    return stack


def _stack_key(stack: Stack) -> dict[str, Any]:
    return {
        "runs": [run.id for run in stack.runs],
        "numerics": stack.runs[0].numerics,
        "data": stack.data.digest,
        "device": stack.device.type,
    }


def _key(session: Session) -> dict[str, Any]:
    return {"format": FORMAT, **session.course.identity, "processes": session.ranks.size}


def _check(found: Any, expected: dict[str, Any]) -> None:
    if not isinstance(found, dict):
        raise CheckpointError("it is no run's")
    other = [
        f"{name} {found.get(name)} instead of {value}" for name, value in expected.items() if found.get(name) != value
    ]
    if other:
        raise CheckpointError(f"it has {', '.join(other)}")

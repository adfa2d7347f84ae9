"""Processes that train trials of a file's model side by side, a core each: faster than one trial on all cores."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mufree.lab.coordcheck.calls import CheckError, UserFunctionError
from mufree.lab.tune.stacked import groups
from mufree.lab.tune.training import Here, Trained, least
from mufree.study.machine import Engine
from mufree.study.record import Record
from mufree.study.trials import Trial

POLL_SECONDS = 0.2

Kept = list[tuple[str, Record]]
"""What is kept of some trials, by their ids."""


class Workers:
    """Trains in `count` processes, which import the file anew. To be closed, as a context."""

    def __init__(
        self, file: Path, store: Path, count: int, stop_requested: Callable[[], object], engine: Engine = "auto"
    ) -> None:
        self.side_by_side = count
        self.engine: Engine = engine
        self.stop_requested = stop_requested
        context = multiprocessing.get_context("spawn")  # a forked copy of a process that has used torch may hang
        self._stop = context.Event()
        self._steps = context.Queue()
        self._pool = ProcessPoolExecutor(
            count, mp_context=context, initializer=_prepare, initargs=(file, store, engine, self._stop, self._steps)
        )

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def train(self, trials: Sequence[Trial], progress: Callable[[Trial, int], object]) -> Iterator[Trained]:
        """See `Here`."""
        trial_of = {trial.id: trial for trial in trials}
        with _ctrl_c_blocked():  # what is started here keeps it so: a Ctrl-C is the parent's, however early it comes
            waiting = {self._pool.submit(_train, part) for part in self._parts(trials)}
        while waiting:
            done, _ = wait(waiting, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            while not self._steps.empty():
                name, steps = self._steps.get()
                progress(trial_of[name], steps)
            for future in done:
                waiting.remove(future)
                yield from (Trained(trial_of[name], made) for name, made in self._result(future))
            if self.stop_requested():
                self._stop.set()

    def _parts(self, trials: Sequence[Trial]) -> Iterator[list[Trial]]:
        """What a process trains at a time: its share of those that may go side by side, if that is enough, or one."""
        for group in groups(trials):
            share = math.ceil(len(group) / self.side_by_side)
            size = share if share >= least(self.engine, "cpu") else 1
            yield from (group[first : first + size] for first in range(0, len(group), size))

    def _result(self, future: Future[Kept]) -> Kept:
        try:
            return future.result()
        except CheckError as error:
            raise type(error)(str(error)) from None  # without the other process's traceback
        except BrokenProcessPool as error:
            raise UserFunctionError(
                "a process that trained has died, for want of memory or by a fault in a library; what was finished is kept. "
                "--jobs 1 trains in one process"
            ) from error


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- in the processes ------------------------------------------------------------------------------------------------

_here: Here | None = None
_steps: Any = None


def _prepare(file: Path, store: Path, engine: Engine, stop: Any, steps: Any) -> None:
    """Import the user's file once, on one core, and go when the parent does."""
    global _here, _steps
    from mufree.lab.train.network import configure_torch
    from mufree.lab.tune.functions import Functions

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent is asked to stop, and asks
    os.dup2(2, 1)  # what a user's file prints is no result
    configure_torch(strict=False)
    _leave_with_parent()
    _here, _steps = Here(Functions.from_file(file), store, stop_requested=stop.is_set, engine=engine), steps


def _train(trials: list[Trial]) -> Kept:
    assert _here is not None
    told: Counter[str] = Counter()
    due = time.monotonic() + POLL_SECONDS

    def progress(trial: Trial, steps: int) -> None:
        nonlocal due
        told[trial.id] += steps
        if time.monotonic() >= due:
            for name, count in told.items():
                _steps.put((name, count))
            told.clear()
            due = time.monotonic() + POLL_SECONDS

    return [(trained.trial.id, trained.record) for trained in _here.train(trials, progress)]


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

"""The contract of every fault: nothing finished is lost or half there, and the next call ends as if nothing had happened."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from faulty import Ended, Faulty

from mufree.study.run_store import read_run

MOMENT = "MUFREE_MOMENT"
"""Of the environment: seconds after a command's start, in the place of random moments."""
REFUSED = {"ENOSPC": "Free some space", "EIO": "Look after the disk", "EACCES": "Give the right", "EMFILE": "Mend that"}
"""Errors of the system, and the cures."""
STORES = ("runs", "again")


def content(path: Path) -> str:
    """What has to be the same: all bytes, but for wall times and the file that holds them."""
    if path.parent.name in STORES and not path.stem.isdigit():  # a number is a pack
        record = read_run(path)
        return repr((record.row, record.curves.to_pylist()))
    if path.name == "timings.parquet":
        table = pq.read_table(path)
        return repr(table.select([name for name in table.column_names if not name.endswith("_seconds")]).to_pylist())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, str]:
    """All files that count, by their names: not checkpoints, temporary files and what was set aside as damaged."""
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        str(name): content(path)
        for name, path in found.items()
        if not any(part.startswith(".") or part.endswith((".checkpoint", ".damaged")) for part in name.parts)
    }


def errors(said: str) -> list[str]:
    """Lines that are no news of training."""
    return [line for line in said.splitlines() if not line.startswith(("INFO ", "WARNING "))]


@dataclass(frozen=True)
class Bench:
    """A command that is tried again and again in a copy of a folder."""

    server: Faulty
    start: Path
    """The folder as it is before the command."""
    folder: Path
    """The copy."""
    words: str
    before: dict[str, str]
    after: dict[str, str]
    """What an undisturbed call leaves."""
    places: int
    seconds: float
    whole: str | None = None
    """A folder that is at all times as it was or as it will be."""

    def reset(self) -> None:
        """The folder as it was before."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.start, self.folder)

    def disturbed(self, **fault: Any) -> Ended:
        """A fresh folder, the command and what happens to it; then nothing is lost or half there."""
        self.reset()
        ended = self.server.call(self.folder, self.words, **fault)
        self.nothing_lost()
        return ended

    def at_a_moment(self, number: int, after: float) -> tuple[float, Ended]:
        """A fresh folder, and the command that gets a signal after so many seconds, which are given back.

        Where it was over by then, nothing happened: an earlier moment is tried.
        """
        while True:
            self.reset()
            ended = self.server.call(self.folder, self.words, after=after, signal=number)
            if ended.hit and ended.code != 0:
                return after, ended
            assert ended.code == 0, ended
            after *= random.SystemRandom().random()

    def nothing_lost(self) -> None:
        """Each file is as it was before, or as it will be after; what the command doesn't change is there."""
        now = contents(self.folder)
        for name, there in now.items():
            assert there in (self.before.get(name), self.after.get(name)), f"{name} is half there"
        lost = [name for name in self.before if name not in now and name in self.after]
        assert not lost, f"{lost} are lost"
        if self.whole is not None:
            found = self.within(now)
            assert found in (self.within(self.before), self.within(self.after)), f"{self.whole} is half old, half new"

    def within(self, found: dict[str, str]) -> dict[str, str]:
        """What is in the folder that is whole."""
        return {name: there for name, there in found.items() if name.startswith(f"{self.whole}/")}

    def goes_on(self) -> str:
        """The same call ends well, in the same, and makes no run again; what it says."""
        kept = {path: path.stat().st_mtime_ns for name in STORES for path in (self.folder / name).glob("*.parquet")}
        ended = self.server.call(self.folder, self.words)
        assert ended.code == 0, ended.said
        assert "Traceback" not in ended.said, ended.said
        self.is_whole()
        again = [path.name for path, changed in kept.items() if path.stat().st_mtime_ns != changed]
        assert not again, f"{again} were finished, and are made again"
        return ended.said

    def is_whole(self) -> None:
        """All is as after an undisturbed call."""
        now = contents(self.folder)
        other = sorted(name for name in {*now, *self.after} if now.get(name) != self.after.get(name))
        assert not other, f"{other} are not as after an undisturbed call"

    def one_error(self, ended: Ended, *named: str) -> None:
        """A call that didn't end well says so in one line, which names a file and the cure."""
        said = errors(ended.said)
        assert len(said) == 1, ended
        (line,) = said
        assert ended.code == 1, ended
        assert line.startswith(f"mufree {self.words.split()[0]}: "), ended.said
        for name in named:
            assert name in line, ended.said


def bench(server: Faulty, start: Path, folder: Path, words: str, whole: str | None = None, loads: str = "") -> Bench:
    """A bench whose command has run once, undisturbed; what it loads, or else a module, is loaded from then on."""
    shutil.copytree(start, folder)
    assert server.call(folder, f"load {loads}" if loads else words, here=True).code == 0
    shutil.rmtree(folder)
    shutil.copytree(start, folder)
    ended = server.call(folder, words, do="count")
    assert ended.code == 0, ended.said
    return Bench(server, start, folder, words, contents(start), contents(folder), ended.places, ended.seconds, whole)


def spread(count: int, most: int) -> list[int]:
    """At most so many of 1 to `count`, evenly, the last of them being there."""
    step = max(1, -(-count // most))
    return list(range(count, 0, -step))[::-1]


def moments(it: Bench, count: int) -> list[float]:
    """So many moments of a command, in seconds after its start; the one that the environment names, if it does."""
    given = os.environ.get(MOMENT)
    return [float(given)] if given else [random.SystemRandom().uniform(0, it.seconds) for _ in range(count)]


class DidNotHappenError(Exception):
    """The command was over before the fault, which is not counted then."""


class Tally:
    """Faults that a test tries, each of which counts; what is not survived fails the test, once all are tried."""

    def __init__(self, properties: list[tuple[str, object]]) -> None:
        self.properties = properties
        self.lost: list[str] = []
        self.counts: dict[str, list[Any]] = {}

    @contextmanager
    def fault(self, kind: str, what: object) -> Iterator[None]:
        """Within it, one fault happens, and what it must not do is looked for."""
        if kind not in self.counts:
            self.counts[kind] = [kind, 0, 0]
            self.properties.append(("fault", self.counts[kind]))
        self.counts[kind][1] += 1
        try:
            yield
        except AssertionError as error:
            self.lost.append(f"{kind}: {what}: {error}")
        except DidNotHappenError:
            self.counts[kind][1] -= 1
        else:
            self.counts[kind][2] += 1

    def inputs(self, kind: str, count: int) -> None:
        """So many bad inputs are tried, and all survived if the test passes."""
        self.properties.append(("bad input", [kind, count, None]))


def dies(it: Bench, places: list[int], tally: Tally, kind: str, do: str, number: int) -> None:
    """It is ended by a signal at each place."""
    for place in places:
        with tally.fault(kind, f"{it.words}, {place}"):
            ended = it.disturbed(do=do, at=place)
            assert ended.code == -number, ended
            it.goes_on()


def refuses(it: Bench, places: list[int], tally: Tally, error: str) -> None:
    """The system refuses what it wants at each place. A full disk stays full; other errors come once."""
    for place in places:
        with tally.fault(f"{error} at a change of a file", f"{it.words}, {place}"):
            ended = it.disturbed(do=error, at=place, lasting=error == "ENOSPC")
            assert ended.hit, ended
            if ended.code == 0:  # what fails is only tidying up
                it.is_whole()
            else:
                it.one_error(ended, str(it.folder), REFUSED[error])
            it.goes_on()


def at_once(it: Bench, tally: Tally, times: int) -> None:
    """Two calls at once, so many times: each ends well or with one error, and what they leave is whole."""
    for number in range(times):
        with tally.fault("two at once on one folder", f"{it.words}, {number}"):
            it.reset()
            for ended in it.server.at_once(it.folder, it.words, 2):
                if ended.code != 0:
                    it.one_error(ended, str(it.folder))
            it.nothing_lost()
            it.goes_on()

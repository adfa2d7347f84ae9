"""Commands that something happens to: killed at a chosen write, out of disk, out of memory, by a clock that runs backwards.

As a script it is a server: it has all modules loaded, and runs each command in a forked child, so that hundreds of faults cost
one start of PyTorch. The parent talks to it through `Faulty`.

The places at which a fault can happen are all of a command's calls that change files below its folder: opening one for
writing, renaming, removing, changing modes, making and removing folders, and each fsync, before and after it. A kill at each in
turn covers every moment between two changes. Parquet files and checkpoints are written by native code: there a limit on
the size of files kills at a given byte, or makes writing fail as a full disk does.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import mmap
import os
import random
import resource
import select
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.utime")
NEEDS_ROOM = ("open", "os.mkdir", "fsync")
NAME = 200
"""Bytes of a place's name."""
LONGEST = 120
"""Seconds that a command may take."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Its exit code; negative: the signal that killed it."""
    said: str
    where: str
    """The place at which the fault happened; empty if the command was over before."""
    places: int
    """How many places it came to, where they were counted."""
    seconds: float

    @property
    def hit(self) -> bool:
        return bool(self.where)


class Faulty:
    """The server, seen from the tests."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def call(self, folder: Path, words: str, **fault: Any) -> Ended:
        """A command with its files in `folder`, which `@` stands for, and what happens to it (`Fault`)."""
        return self.at_once(folder, words, 1, **fault)[0]

    def at_once(self, folder: Path, words: str, times: int, **fault: Any) -> list[Ended]:
        """The same command several times at once."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"folder": str(folder), "words": words, "times": times, "fault": fault}
        self.process.stdin.write(json.dumps(asked) + "\n")
        return [Ended(**each) for each in json.loads(self.process.stdout.readline())]


# --- in the server ---------------------------------------------------------------------------------------------------


class Fault:
    """What happens to a command, in its own process.

    `do` is `count`, `kill`, `term`, `segfault`, `memory` or the name of an error number, and happens at place `at`; with
    `lasting` at all later ones that need room, too. `limit` is a size in bytes that no file can pass: who tries is killed, or
    gets an error if it is `refused`. `after` kills so many seconds later. `clock` changes `time.time`. `no_root` gives up
    root's rights.
    """

    def __init__(self, folder: str, noted: mmap.mmap, fault: dict[str, Any]) -> None:
        self.folder, self.noted = folder, noted
        self.do: str | None = fault.get("do")
        self.at: int = fault.get("at", 0)
        self.lasting: bool = fault.get("lasting", False)
        self.place = 0
        if "limit" in fault:
            self.limit_files(fault["limit"], refused=fault.get("refused", False))
        if fault.get("no_root"):
            give_up_rights()
        if "clock" in fault:
            turn_clock(fault["clock"])
        if self.do is not None:
            self.watch()

    def limit_files(self, size: int, *, refused: bool) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN if refused else signal.SIG_DFL)

    def watch(self) -> None:
        sys.addaudithook(self.heard)
        fsync = os.fsync

        def watched(handle: int) -> None:
            self.come("fsync", None)
            fsync(handle)
            self.come("fsync", None)

        os.fsync = watched

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.folder):
            self.come(event, os.fspath(path))

    def come(self, event: str, path: str | None) -> None:
        """The command is at its next place."""
        self.place += 1
        self.noted[NAME:] = struct.pack("I", self.place)
        later = self.lasting and self.place > self.at and event in NEEDS_ROOM
        if self.place != self.at and not later:
            return
        if self.place == self.at:
            self.noted[:NAME] = f"{event} {Path(path).name if path else ''}".encode()[:NAME].ljust(NAME, b"\0")
        self.happen(path)

    def happen(self, path: str | None) -> None:
        signals = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "segfault": signal.SIGSEGV}
        assert self.do is not None
        if self.do in signals:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.kill(os.getpid(), signals[self.do])
        elif self.do == "memory":
            raise MemoryError
        else:
            number = getattr(errno, self.do)
            raise OSError(number, os.strerror(number), path)


def give_up_rights() -> None:
    """Root's right to write where modes forbid it, and all others: `capset` with none, which others have anyway."""
    header, none = struct.pack("Ii", 0x20080522, 0), bytes(24)
    if os.geteuid() == 0 and ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def turn_clock(seed: int) -> None:
    """A clock that jumps by up to a year at each look, mostly backwards."""
    rng, real = random.Random(seed), time.time
    time.time = lambda: max(0.0, real() - 3e7 * rng.random() + 1e6)


def run(folder: str, words: str) -> int:
    if words.startswith("careless"):
        return careless(Path(words.split()[1].replace("@", folder)))
    if words.startswith("load"):
        importlib.import_module(words.split()[1])
        return 0
    from mufree.cli import main

    return main([word.replace("@", folder) for word in words.split()])


def careless(path: Path) -> int:
    """What must be caught: a file that is written in place, in two parts, after the old one is removed."""
    path.unlink(missing_ok=True)
    with path.open("w") as file:
        file.write("a whole ")
        file.flush()
        os.fsync(file.fileno())
        file.write("file\n")
    return 0


def child(asked: dict[str, Any], noted: mmap.mmap, said: int) -> None:
    """The command; never returns."""
    os.dup2(said, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code = 1
    try:
        Fault(asked["folder"], noted, asked["fault"])
        code = run(asked["folder"], asked["words"])
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def start(asked: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Fork the command; gives what waits for its end."""
    noted = mmap.mmap(-1, NAME + 4)
    reads, writes = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(reads)
        child(asked, noted, writes)
    os.close(writes)

    def end() -> dict[str, Any]:
        said = b""
        after = asked["fault"].get("after", LONGEST)
        while True:
            left = began + after - time.monotonic()
            ready, _, _ = select.select([reads], [], [], max(0.0, left))
            if not ready:
                os.kill(pid, asked["fault"].get("signal", signal.SIGKILL))
                noted[:4] = b"time"
                after = LONGEST
            elif part := os.read(reads, 65536):
                said += part
            else:
                break
        os.close(reads)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        where = noted[:NAME].rstrip(b"\0").decode()
        (places,) = struct.unpack("I", noted[NAME:])
        seconds = time.monotonic() - began
        return {"code": code, "said": said.decode(), "where": where, "places": places, "seconds": seconds}

    return end


@contextmanager
def spoken_to() -> Iterator[Any]:
    """The place to answer; what commands print goes elsewhere."""
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        yield answers


def serve() -> None:
    import torch  # before the first fork: it takes seconds

    import mufree.cli
    import mufree.lab.train.checkpoints
    import mufree.lab.train.run
    import mufree.publish.freeze  # noqa: F401

    torch.set_num_threads(1)
    with spoken_to() as answers:
        for line in sys.stdin:
            asked = json.loads(line)
            if asked["fault"].get("here"):  # so that what it loads is there from then on
                began = time.monotonic()
                code = run(asked["folder"], asked["words"])
                seconds = time.monotonic() - began
                found = [{"code": code, "said": "", "where": "", "places": 0, "seconds": seconds}]
            else:
                ends = [start(asked) for _ in range(asked["times"])]
                found = [end() for end in ends]
            answers.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    serve()

"""What happens to commands from outside, at every moment: kills, signals, full and read-only disks, no memory, odd clocks.

After each the next call ends in the bytes of an undisturbed one, or a call says in one line which file and what to do; and
nothing that was finished is lost. `survival.Bench` is that contract, and `faulty` what happens.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benches import COMMANDS, Benches
from faulty import Ended, Faulty
from survival import (
    MOMENT,
    REFUSED,
    Bench,
    DidNotHappenError,
    Tally,
    at_once,
    bench,
    dies,
    errors,
    moments,
    refuses,
    spread,
)

from mufree.study import record
from mufree.study.run_store import read_run, sign

QUICK = ("sweep", "stack", "collect", "pack")
SLOW = tuple(name for name in COMMANDS if name not in QUICK)


def kinds(name: str) -> str:
    """What a command is called in the count."""
    return {"sweep": "a sweep one by one", "stack": "a sweep side by side"}.get(name, "a command on finished runs")


def some(
    most: int, *, most_of_many: int = 0, quick: tuple[str, ...] = QUICK, whole: tuple[str, ...] = SLOW
) -> pytest.MarkDecorator:
    """Commands with the places to try at each: `most` of them, spread evenly; in the whole suite many more, and of `whole`."""

    def few(count: int) -> list[int]:
        return spread(count, most)

    def many(count: int) -> list[int]:
        return sorted({*spread(count, most_of_many or 5 * most)} - {*few(count)})

    def of_slow(count: int) -> list[int]:
        """Folders take their names at the very end."""
        return sorted({*few(count), *range(max(1, count - most), count + 1)})

    whole_alone = {"marks": pytest.mark.whole}
    return pytest.mark.parametrize(
        ("name", "chosen"),
        [
            *(pytest.param(name, few, id=f"{name}-few") for name in quick),
            *(pytest.param(name, many, id=f"{name}-many", **whole_alone) for name in quick),
            *(pytest.param(name, of_slow, id=name, **whole_alone) for name in whole),
        ],
    )


Chosen = Callable[[int], list[int]]


# --- a process that dies ---------------------------------------------------------------------------------------------


@some(6, most_of_many=45)
def test_killed_before_any_change(name: str, chosen: Chosen, benches: Benches, tally: Tally) -> None:
    it = benches[name]
    dies(it, chosen(it.places), tally, f"SIGKILL at a change of a file: {kinds(name)}", "kill", signal.SIGKILL)


@pytest.mark.parametrize("do", ["kill", "term"])
def test_a_finished_run_outlives_its_process(do: str, benches: Benches) -> None:
    """The first of two runs is in the store before the second is, wherever the sweep ends."""
    it, kept = benches["sweep"], []
    for place in spread(it.places, 6):
        it.disturbed(do=do, at=place)
        kept.append(len([*(it.folder / "runs").glob("*.parquet")]))
    assert kept == sorted(kept)
    assert kept[0] == 0
    assert 1 in kept


@some(1)
def test_a_segmentation_fault(name: str, chosen: Chosen, benches: Benches, tally: Tally) -> None:
    it = benches[name]
    dies(it, chosen(it.places), tally, "SIGSEGV at a change of a file", "segfault", signal.SIGSEGV)


@some(3)
def test_asked_to_stop_before_any_change(name: str, chosen: Chosen, benches: Benches, tally: Tally) -> None:
    """A sweep saves what it is in, and says so; other commands end."""
    it = benches[name]
    for place in chosen(it.places):
        with tally.fault(f"SIGTERM at a change of a file: {kinds(name)}", place):
            ended = it.disturbed(do="term", at=place)
            assert ended.hit, ended
            stopped(it, name, ended)
            if name in ("sweep", "stack") and place <= it.places // 4:  # later it may be in its last step
                assert ended.code != 0, "it didn't listen"
            it.goes_on()


def stopped(it: Bench, name: str, ended: Ended) -> None:
    """It has ended as it should after SIGTERM, or was over."""
    if ended.code == 0:
        it.is_whole()
    elif name not in ("sweep", "stack"):
        assert ended.code == -signal.SIGTERM, ended
    else:
        assert ended.code == 75, ended
        (line,) = errors(ended.said)
        assert "stopped by SIGTERM" in line
        assert "The same command goes on from there" in line


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize(
    ("name", "count"),
    [
        *((name, 3) for name in ("sweep", "stack")),
        *(pytest.param(name, 20, marks=pytest.mark.whole) for name in ("sweep", "stack")),
        *(pytest.param(name, 3, marks=pytest.mark.whole) for name in COMMANDS if name not in ("sweep", "stack")),
    ],
)
def test_at_a_random_moment(name: str, count: int, number: int, benches: Benches, tally: Tally) -> None:
    it = benches[name]
    for moment in moments(it, count):
        after, ended = it.at_a_moment(number, moment)
        with tally.fault(f"{signal.Signals(number).name} at a random moment", f"{name}, {MOMENT}={after}"):
            it.nothing_lost()
            if number == signal.SIGTERM and ended.code != -signal.SIGTERM:  # it may come before it is listened to
                stopped(it, name, ended)
            it.goes_on()


def largest(it: Bench) -> int:
    """Bytes of the largest file that a command writes."""
    it.goes_on()
    start = {path.relative_to(it.start) for path in it.start.rglob("*")}
    new = [path for path in it.folder.rglob("*") if path.is_file() and path.relative_to(it.folder) not in start]
    return max((path.stat().st_size for path in new), default=2000)


@some(2, whole=("unpack", "data"))
@pytest.mark.parametrize("refused", [False, True], ids=["killed", "refused"])
def test_in_the_middle_of_a_file(name: str, chosen: Chosen, refused: bool, benches: Benches, tally: Tally) -> None:
    """At a byte of what native code writes, too: the kernel kills there, or refuses, as it does where a disk is full."""
    it = benches[name]
    size = largest(it)
    for part in chosen(20):
        byte = size * part // 21
        kind = "a write that fails at a byte of a file" if refused else "killed at a byte of a file"
        with tally.fault(kind, f"{name}, {byte} of {size}"):
            ended = it.disturbed(limit=byte, refused=refused)
            if refused:
                it.one_error(ended, str(it.folder), "File too large", "Free some space")
            else:
                assert ended.code == -signal.SIGXFSZ, ended
            it.goes_on()


# --- a system that refuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", REFUSED)
@some(2)
def test_a_call_that_fails(name: str, chosen: Chosen, error: str, benches: Benches, tally: Tally) -> None:
    it = benches[name]
    refuses(it, chosen(it.places), tally, error)


@some(2)
def test_out_of_memory(name: str, chosen: Chosen, benches: Benches, tally: Tally) -> None:
    """A stack goes on in halves."""
    it = benches[name]
    for place in chosen(it.places):
        with tally.fault("out of memory", f"{name}, {place}"):
            ended = it.disturbed(do="memory", at=place)
            assert ended.hit, ended
            if ended.code == 0:
                it.is_whole()
            else:
                it.one_error(ended, "out of memory")
            it.goes_on()


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.whole) for name in SLOW)])
def test_a_folder_that_may_not_be_written(name: str, benches: Benches, tally: Tally) -> None:
    it = benches[name]
    with tally.fault("no right to write", name):
        it.reset()
        folders = [it.folder, *(path for path in it.folder.rglob("*") if path.is_dir())]
        for path in folders:
            path.chmod(0o555)
        try:
            ended = it.server.call(it.folder, it.words, no_root=True)
        finally:
            for path in folders:
                path.chmod(0o755)
        it.nothing_lost()
        it.one_error(ended, str(it.folder), "Permission denied", REFUSED["EACCES"])
        it.goes_on()


@contextmanager
def disk(folder: Path) -> Iterator[Callable[[str], None]]:
    """A small disk of its own; gives what sets its options anew. Skips where none can be mounted."""
    folder.mkdir()

    def mount(options: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)

    if os.geteuid() != 0 or mount("size=64m").returncode != 0:
        pytest.skip("only root may mount a disk, and here root may not, or this isn't root")
    try:
        yield lambda options: mount(f"remount,{options}").check_returncode()
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize(
    "name", ["sweep", *(pytest.param(name, marks=pytest.mark.whole) for name in COMMANDS if name != "sweep")]
)
def test_a_disk_that_is_full_or_read_only(name: str, benches: Benches, tally: Tally, tmp_path: Path) -> None:
    with disk(tmp_path / "disk") as remount:
        it = replace(benches[name], folder=tmp_path / "disk/work")
        for pages in (0, 1, 2, 3, 5, 8):
            with tally.fault("a small disk that is full", f"{name}, {pages} pages left"):
                remount("size=64m")
                it.reset()
                found = os.statvfs(it.folder)
                remount(f"size={(found.f_blocks - found.f_bfree + pages) * found.f_frsize}")
                ended = it.server.call(it.folder, it.words)
                it.nothing_lost()
                if pages == 0 or ended.code != 0:
                    it.one_error(ended, str(it.folder), "No space left", REFUSED["ENOSPC"])
                remount("size=64m")
                it.goes_on()
                if ended.code == 0:
                    raise DidNotHappenError
        with tally.fault("a read-only disk", name):
            it.reset()
            remount("ro")
            ended = it.server.call(it.folder, it.words)
            remount("rw")
            it.one_error(ended, str(it.folder), "Read-only")
            it.goes_on()


# --- clocks and company ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sweep", "stack", "collect", "pack"])
def test_a_clock_that_jumps_changes_nothing(name: str, benches: Benches, tally: Tally) -> None:
    it = benches[name]
    for seed in range(2):
        with tally.fault("a clock that jumps", f"{name}, seed {seed}"):
            ended = it.disturbed(clock=seed)
            assert ended.code == 0, ended.said
            it.is_whole()


@pytest.mark.parametrize("year", [1970, 2100])
@pytest.mark.parametrize("name", QUICK)
def test_files_of_another_time(name: str, year: int, benches: Benches, tally: Tally) -> None:
    it = benches[name]
    with tally.fault("files of 1970 or 2100", f"{name}, {year}"):
        assert it.disturbed(do="kill", at=2 * it.places // 3).code == -signal.SIGKILL
        for path in [*it.folder.rglob("*")]:
            os.utime(path, (0, 0) if year == 1970 else (4.1e9, 4.1e9))
        it.goes_on()


@pytest.mark.parametrize(
    "name", ["sweep", "collect", "pack", *(pytest.param(name, marks=pytest.mark.whole) for name in ("stack", *SLOW))]
)
def test_two_at_once(name: str, benches: Benches, tally: Tally) -> None:
    at_once(benches[name], tally, 2)


# --- what lies in the store ------------------------------------------------------------------------------------------


def flipped(data: bytes, part: float) -> bytes:
    place = int(part * (len(data) - 1))
    return data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "text": lambda data: b"no run\n",
    "twice": lambda data: data + data,
    **{f"cut at {part:.2f}": lambda data, part=part: data[: int(part * len(data))] for part in (0.01, 0.5, 0.99)},
    **{f"flipped at {part:.2f}": lambda data, part=part: flipped(data, part) for part in np.linspace(0, 1, 5)},
}


WHOLE = "not at all"
"""The control of damages."""
FEW = (WHOLE, "empty", "cut at 0.50", "flipped at 0.50", "older", "a pickle", "a pickle in a checkpoint")
"""Damages that are tried in the quick set."""
of_a_sweep = pytest.mark.parametrize(
    ("name", "part"),
    [
        ("sweep", "few"),
        pytest.param("sweep", "others", marks=pytest.mark.whole),
        pytest.param("stack", "all", marks=pytest.mark.whole),
    ],
)


def chosen_of(part: str, what: str) -> bool:
    return part == "all" or (what in FEW) == (part == "few")


def older(path: Path) -> None:
    """The run as a version without some of its columns would have kept it, checksum and all."""
    found = read_run(path)
    row = {name: value for name, value in found.row.items() if name not in ("data_digest", "run_id")}
    metadata = {f"mufree.{name}": text for name, text in sign(replace(found, row=row)).items()}
    record.write_table(path, found.curves.replace_schema_metadata(metadata))


def in_the_place_of(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").touch()


@of_a_sweep
def test_a_damaged_run_is_trained_again(name: str, part: str, benches: Benches, tally: Tally) -> None:
    it = benches[name]
    it.reset()
    it.goes_on()
    done = it.folder.with_name("done")
    shutil.copytree(it.folder, done)
    harms = {what: lambda path, harm=harm: path.write_bytes(harm(path.read_bytes())) for what, harm in DAMAGES.items()}
    harms |= {"older": older, "a folder": a_folder}
    first, second = sorted(path.name for path in (done / "runs").glob("*.parquet"))
    harms["another's"] = lambda path: in_the_place_of(path, done / "runs" / second)
    for what, harm in ((what, harm) for what, harm in harms.items() if chosen_of(part, what)):
        with tally.fault("a damaged run in the store", f"{name}, {what}"):
            shutil.rmtree(it.folder)
            shutil.copytree(done, it.folder)
            harm(it.folder / "runs" / first)
            kept = (it.folder / "runs" / second).stat().st_mtime_ns
            ended = it.server.call(it.folder, it.words)
            assert ended.code == 0, ended.said
            it.is_whole()
            assert (it.folder / "runs" / second).stat().st_mtime_ns == kept
    shutil.rmtree(done)


class Opened:
    """What makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> object:
        return open, (self.path, "w")


@of_a_sweep
def test_a_damaged_checkpoint_is_not_gone_on_with(
    name: str, part: str, benches: Benches, tally: Tally, tmp_path: Path
) -> None:
    it = benches[name]
    kinds: dict[str, Callable[[bytes], bytes]] = {WHOLE: lambda data: data, **DAMAGES}
    kinds["a pickle"] = lambda data: pickle.dumps(Opened(tmp_path / "executed"))
    kinds["a pickle in a checkpoint"] = lambda data: packed_pickle(Opened(tmp_path / "executed"))
    for what, harm in ((what, harm) for what, harm in kinds.items() if chosen_of(part, what)):
        with tally.fault("a damaged checkpoint", f"{name}, {what}"):
            it.disturbed(do="kill", at=25)
            (path,) = (it.folder / "runs").glob("*.checkpoint")
            path.write_bytes(harm(path.read_bytes()))
            said = it.goes_on()
            assert not (tmp_path / "executed").exists()
            if what == WHOLE:
                assert "goes on from step" in said, said
                raise DidNotHappenError


def packed_pickle(value: object) -> bytes:
    """A file of `torch.save` that would execute something."""
    file = io.BytesIO()
    torch.save({"format": "mufree checkpoint 1", "key": value}, file)
    return file.getvalue()


def test_a_folder_in_a_checkpoints_place_is_one_error(benches: Benches, tally: Tally) -> None:
    it = benches["sweep"]
    with tally.fault("a damaged checkpoint", "a folder"):
        it.disturbed(do="kill", at=25)
        (path,) = (it.folder / "runs").glob("*.checkpoint")
        a_folder(path)
        it.one_error(it.server.call(it.folder, it.words), str(path), REFUSED["EMFILE"])
        shutil.rmtree(path)
        it.goes_on()


# --- whether these tests would see it --------------------------------------------------------------------------------


def test_a_careless_writer_is_caught(server: Faulty, tmp_path: Path) -> None:
    """The control: a file that is removed, and written in two parts, is lost or half there after most kills."""
    (tmp_path / "start").mkdir()
    (tmp_path / "start/out.txt").write_text("what was before\n")
    it = bench(server, tmp_path / "start", tmp_path / "work", "careless @/out.txt")
    assert it.places == 4
    caught = []
    for place in range(1, it.places + 1):
        try:
            it.disturbed(do="kill", at=place)
        except AssertionError as error:
            caught.append(str(error).splitlines()[0])
    assert caught == ["['out.txt'] are lost", *["out.txt is half there"] * 2]
    with pytest.raises(AssertionError, match="half there"):
        it.disturbed(limit=9)


def test_what_is_not_survived_is_counted_as_that() -> None:
    properties: list[tuple[str, object]] = []
    tally = Tally(properties)
    for place in range(3):
        with tally.fault("kind", place):
            assert place != 1
    assert properties == [("fault", ["kind", 3, 2])]
    assert tally.lost[0].startswith("kind: 1: ")

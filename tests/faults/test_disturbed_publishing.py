"""What happens to the commands that make tables, figures, pages and frozen folders: the same as to those that train."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest
from benches import PUBLISHING, Benches
from faulty import Faulty
from survival import MOMENT, REFUSED, Bench, Tally, at_once, contents, dies, moments, refuses, spread

KIND = "a command that publishes"
QUICK = ("figure", "freeze")
whole = pytest.mark.whole
every = pytest.mark.parametrize("name", [pytest.param(name, marks=whole) for name in PUBLISHING])
some = pytest.mark.parametrize(
    ("name", "most"), [*((name, 1) for name in QUICK), *(pytest.param(name, 3, marks=whole) for name in PUBLISHING)]
)


@some
def test_killed_before_any_change(name: str, most: int, benches: Benches, tally: Tally) -> None:
    """Names are taken at the end."""
    it = benches[name]
    places = sorted({*spread(it.places, most), *range(max(1, it.places - most + 1), it.places)})
    dies(it, places, tally, f"SIGKILL at a change of a file: {KIND}", "kill", signal.SIGKILL)


@every
def test_asked_to_stop_before_any_change(name: str, benches: Benches, tally: Tally) -> None:
    it = benches[name]
    dies(it, spread(it.places, 2), tally, f"SIGTERM at a change of a file: {KIND}", "term", signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
@every
def test_at_a_random_moment(name: str, number: int, benches: Benches, tally: Tally) -> None:
    it = benches[name]
    for moment in moments(it, 2):
        after, ended = it.at_a_moment(number, moment)
        with tally.fault(f"{signal.Signals(number).name} at a random moment", f"{name}, {MOMENT}={after}"):
            assert ended.code == -number, ended
            it.nothing_lost()
            it.goes_on()


@pytest.mark.parametrize("error", REFUSED)
@every
def test_a_call_that_fails(name: str, error: str, benches: Benches, tally: Tally) -> None:
    it = benches[name]
    refuses(it, spread(it.places, 3 if error == "ENOSPC" else 1), tally, error)


@pytest.mark.parametrize(
    "name", ["freeze", *(pytest.param(name, marks=whole) for name in PUBLISHING if name != "freeze")]
)
def test_two_at_once(name: str, benches: Benches, tally: Tally) -> None:
    at_once(benches[name], tally, 1)


def test_a_folder_that_is_half_new_is_caught(server: Faulty, tmp_path: Path) -> None:
    """The control: each file is one of before or after, and both together are neither."""
    for name, texts in {"start": ("1", "1"), "after": ("2", "2"), "work": ("1", "2")}.items():
        for file, text in zip(("one", "two"), texts, strict=True):
            (tmp_path / name / "out").mkdir(parents=True, exist_ok=True)
            (tmp_path / name / "out" / file).write_text(text)
    before, after = contents(tmp_path / "start"), contents(tmp_path / "after")
    it = Bench(server, tmp_path / "start", tmp_path / "work", "", before, after, places=0, seconds=0.0)
    it.nothing_lost()
    with pytest.raises(AssertionError, match="out is half old, half new"):
        replace(it, whole="out").nothing_lost()
    for text in "12":
        for file in ("one", "two"):
            (tmp_path / "work/out" / file).write_text(text)
        replace(it, whole="out").nothing_lost()

"""What the tests damage, and the count of what they tried."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benches import Benches
from faulty import Faulty
from finished_study import finish, small_study
from survival import Tally


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny study, trained to the end; nobody writes into it."""
    folder = tmp_path_factory.mktemp("finished")
    finish(folder)
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a study that is smaller still."""
    folder = tmp_path_factory.mktemp("small")
    finish(folder, small_study())
    return folder


@pytest.fixture(scope="session")
def server() -> Iterator[Faulty]:
    """Runs commands that something happens to."""
    server = Faulty()
    yield server
    server.close()


@pytest.fixture(scope="module")
def benches(small: Path, server: Faulty, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Benches]:
    """In memory where there is a file system in it, since each fault has its own copy of a folder, and waits for the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path_factory.getbasetemp()) as folder:
        yield Benches(small, server, Path(folder))


# --- the count -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Counts what a test tries."""
    tally = Tally(request.node.user_properties)
    yield tally
    assert not tally.lost, "\n".join(tally.lost)


@pytest.fixture(autouse=True)
def marked(request: pytest.FixtureRequest) -> None:
    """A test that is marked so tries one, and survives it if it passes."""
    for name, key in (("fault", "fault"), ("bad_input", "bad input")):
        for mark in request.node.iter_markers(name):
            request.node.user_properties.append((key, [mark.args[0], 1, None]))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was tried and survived by kind, of all processes."""
    found: dict[str, dict[str, list[int]]] = {"fault": {}, "bad input": {}}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in report.user_properties if report.when == "call" else ():
                if name in found:
                    kind, tried, survived = value
                    counts = found[name].setdefault(kind, [0, 0])
                    counts[0] += tried
                    counts[1] += survived if survived is not None else tried * (outcome == "passed")
    for name, kinds in found.items():
        if kinds:
            terminalreporter.section(f"{name}s of {len(kinds)} kinds")
            together = [sum(column) for column in zip(*kinds.values(), strict=True)]
            for kind, (tried, survived) in [*sorted(kinds.items()), ("altogether", together)]:
                terminalreporter.write_line(f"{kind:58} {tried:6} tried {survived:6} survived")

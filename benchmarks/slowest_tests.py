"""Put the slowest tests of a run of pytest into a document, between its marks.

`slowest_tests.py results/tests.xml docs/testing.md`, which `make slowest-tests` calls.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from xml.etree import ElementTree

import marked

from mufree.study.machine import cpu_name

COUNT = 10


def table(report: Path) -> str:
    """The slowest tests of a JUnit report, as Markdown: seconds, where they stand, their name."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    slowest = sorted(cases, key=lambda case: -float(case.get("time", 0)))[:COUNT]
    rows = [f"| {float(c.get('time', 0)):.0f} | {c.get('classname')} | {c.get('name')} |" for c in slowest]
    total = sum(float(case.get("time", 0)) for case in cases)
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    said = (
        f"{len(cases)} tests, {total / 60:.0f} minutes of one core on {cpu_name()}"
        f"{f', oneDNN held to {limit}' if limit else ''}. What a fixture takes counts for the test that asks for it first."
    )
    return "\n".join([said, "", "| s | file | test |", "| --- | --- | --- |", *rows])


if __name__ == "__main__":
    marked.write(sys.argv[2], "slowest", table(Path(sys.argv[1])))

"""Put the slowest tests of a run of pytest into a document, between its marks.

`slowest_tests.py results/tests.xml docs/testing.md`, which `make slowest-tests` calls.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

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


def main(report: str, document: str) -> None:
    """Write the table into the document."""
    path = Path(document)
    text = path.read_text(encoding="utf-8")
    new, found = re.subn(
        r"(<!-- slowest -->\n).*?(<!-- /slowest -->)",
        lambda m: f"{m[1]}{table(Path(report))}\n{m[2]}",
        text,
        flags=re.S,
    )
    if found != 1:
        sys.exit(f"{document} has no lines <!-- slowest --> and <!-- /slowest -->")
    path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

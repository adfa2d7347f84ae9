"""Put what a run of the tests covered into a document: `coverage_table.py results/coverage.json docs/testing.md`.

`make coverage` calls it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import marked

COUNT = 10


def table(report: Path) -> str:
    """The share of lines that ran, and the files with the smallest, as Markdown, of a JSON report of coverage.

    Of the package here alone: tests run copies of it, too.
    """
    plain = json.loads(report.read_text(encoding="utf-8"))["files"]
    here = {name: each["summary"] for name, each in plain.items() if name.startswith("src/")}
    files = {name: each for name, each in here.items() if each["num_statements"]}
    least = sorted(files, key=lambda name: (files[name]["percent_covered"], name))[:COUNT]
    rows = [f"| {files[name]['percent_covered']:.0f} | {files[name]['missing_lines']} | {name} |" for name in least]
    ran, of = (sum(each[key] for each in files.values()) for key in ("covered_lines", "num_statements"))
    said = f"{100 * ran / of:.1f} % of {of} statements ran. The least covered files:"
    return "\n".join([said, "", "| % | not run | file |", "| --- | --- | --- |", *rows])


if __name__ == "__main__":
    marked.write(sys.argv[2], "coverage", table(Path(sys.argv[1])))

"""The pieces that a report is made of: dicts of strings with a `kind`, which both templates lay out.

Kinds are `text`, `heading`, `points`, `table` and `figure`. Nothing is rounded or worded later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mufree.publish.report.words import MISSING

Block = dict[str, Any]


def text(content: str) -> Block:
    """A paragraph."""
    return {"kind": "text", "text": content}


def heading(content: str) -> Block:
    """A heading below the section's."""
    return {"kind": "heading", "text": content}


def points(lead: str, items: Sequence[str]) -> Block:
    """A list under a line in bold, which may be empty; a list of one is a paragraph."""
    return {"kind": "points", "lead": lead, "items": list(items)}


def figure(file: str, caption: str) -> Block:
    """The figure whose files are `file`.pdf and `file`.png."""
    return {"kind": "figure", "file": file, "caption": caption}


def table(
    caption: str,
    columns: Sequence[str],
    rows: list[list[str]],
    *,
    missing: str = "",
    notes: Sequence[str] = (),
    fill: Sequence[int] = (),
) -> Block:
    """A table of strings; columns `fill` share the spare width. A dash in a cell adds a note that says what `missing` says."""
    dash = any(MISSING in cell for row in rows for cell in row)
    note = [f"{MISSING}: {missing or 'not available'}."] if dash else []
    return {
        "kind": "table",
        "caption": caption,
        "columns": list(columns),
        "rows": rows,
        "notes": [*note, *notes],
        "fill": list(fill),
    }

"""The pieces that a page is made of: dicts of strings with a `kind`, which the templates lay out.

Kinds are `text`, `table` and `figure`. Nothing is rounded or worded later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Block = dict[str, Any]


def text(content: str) -> Block:
    """A paragraph."""
    return {"kind": "text", "text": content}


def figure(file: str, caption: str) -> Block:
    """The figure whose files are `file`.pdf, .png and .points.json."""
    return {"kind": "figure", "file": file, "caption": caption}


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Block:
    """A table of strings."""
    return {"kind": "table", "caption": caption, "columns": list(columns), "rows": [list(row) for row in rows]}

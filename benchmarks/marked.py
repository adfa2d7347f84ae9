"""Text that a command writes into a document, between `<!-- name -->` and `<!-- /name -->`."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def write(document: str, name: str, text: str) -> None:
    """Put the text between the marks of that name, in the place of what is there."""
    path = Path(document)
    marks = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    new, found = re.subn(marks, lambda m: f"{m[1]}{text}\n{m[2]}", path.read_text(encoding="utf-8"), flags=re.S)
    if found != 1:
        sys.exit(f"{document} has no lines <!-- {name} --> and <!-- /{name} -->")
    path.write_text(new, encoding="utf-8")

"""The report of a study: the same content as a PDF, laid out by Typst, and as one self-contained page.

`document` turns tables into plain data with every number rounded and every sentence worded; the templates only lay it out.
"""

from __future__ import annotations

import base64
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mufree import record
from mufree.report.document import document

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent.parent / "templates"


def write(
    study: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    summary: Mapping[str, Any],
    provenance: Mapping[str, Any],
    figures: Path,
    out: Path,
) -> None:
    """Write `out`/report.pdf and `out`/report.html; the same input gives the same bytes.

    `figures` is the folder that holds `<task>.<figure>.pdf` and `.png`; the other arguments are as in `document.document`.
    Raises FileNotFoundError, naming it, for a figure that isn't there.
    """
    content = document(study, tables, summary, provenance)
    for name, data in (("report.pdf", to_pdf(content, figures)), ("report.html", to_html(content, figures).encode())):
        with record.atomic(out / name) as temporary:
            temporary.write_bytes(data)


def to_pdf(content: Mapping[str, Any], figures: Path) -> bytes:
    """The report as PDF, by Typst with the fonts it brings along; no network, no date."""
    import typst

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(TEMPLATES / "report.typ", folder)
        (folder / "report.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        for block in _figures(content):
            shutil.copy(figures / f"{block['file']}.pdf", folder)
        pdf, warnings = typst.compile_with_warnings(folder / "report.typ", root=folder, ignore_system_fonts=True)
    for warning in warnings:
        log.warning("typst: %s", warning)
    return bytes(pdf)


def to_html(content: Mapping[str, Any], figures: Path) -> str:
    """The report as one page that loads nothing: styles and pictures are inside."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    pictures = {
        block["file"]: base64.b64encode((figures / f"{block['file']}.png").read_bytes()).decode()
        for block in _figures(content)
    }
    return environment.get_template("report.html.j2").render(**content, pictures=pictures)


def _figures(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [block for section in content["sections"] for block in section["blocks"] if block["kind"] == "figure"]

"""The report of a study: the same content as a PDF, laid out by Typst, and as one self-contained page.

`document` turns tables into plain data with every number rounded and every sentence worded; the templates only lay it out. The
page has besides tables that sort and plots that answer to the pointer; without its scripts it is whole.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mufree.publish.report.captions import FIGURE_CAPTIONS, REQUIRED
from mufree.publish.report.document import document, names
from mufree.publish.report.interactive import plots
from mufree.publish.report.panels import Plot
from mufree.study import record

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent.parent / "templates"


def write(
    study: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    summary: Mapping[str, Any],
    provenance: Mapping[str, Any],
    figures: Path,
    out: Path,
    *,
    rows: pd.DataFrame | None = None,
    curves: pd.DataFrame | None = None,
) -> None:
    """Write `out`/report.pdf and `out`/report.html; the same input gives the same bytes.

    `figures` is the folder that holds `<task>.<figure>.pdf`, `.png` and `.csv`; a figure that plots nothing is left out. `rows`
    and `curves` are the study's Parquet files, for the page's plots; without `curves` it has no interactive curves. The other
    arguments are as in `document.document`. Raises FileNotFoundError, naming it, for a required figure that isn't there.
    """
    shown = available(figures, study["tasks"])
    content = document(study, tables, summary, provenance, rows, shown)
    page = to_html(content, figures, plots(tables, rows, curves, names(study, tables, rows)))
    for name, data in (("report.pdf", to_pdf(content, figures)), ("report.html", page.encode())):
        with record.atomic(out / name) as temporary:
            temporary.write_bytes(data)


def available(figures: Path, tasks: Mapping[str, Any]) -> set[str]:
    """The stems of the figures that have something to show: a picture, and a table of what is plotted that isn't empty.

    Raises FileNotFoundError for a required figure without a picture.
    """
    shown = set()
    for stem in (f"{task}.{name}" for task in tasks for name in FIGURE_CAPTIONS):
        if not all((figures / f"{stem}.{kind}").exists() for kind in ("png", "pdf")):
            if stem.rpartition(".")[2] in REQUIRED:
                raise FileNotFoundError(f"figure {figures / stem}.png or .pdf is missing; draw it with `mufree figure`")
            continue
        plotted = figures / f"{stem}.csv"
        if not plotted.exists() or len(plotted.read_text(encoding="utf-8").splitlines()) > 1:
            shown.add(stem)
    return shown


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


def to_html(content: Mapping[str, Any], figures: Path, interactive: Mapping[str, Plot] | None = None) -> str:
    """The report as one page that loads nothing: styles, scripts and pictures are inside.

    `interactive` are plots by the stem of the figure that they stand above; plotly itself (4.8 MB, the only bundle that its
    package brings) is put in only if there is one.
    """
    import jinja2

    files = [block["file"] for block in _figures(content)]
    kept = {stem: plot for stem, plot in (interactive or {}).items() if stem in files}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    pictures = {file: base64.b64encode(_light(figures / f"{file}.png")).decode() for file in files}
    return environment.get_template("report.html.j2").render(
        **content,
        pictures=pictures,
        plots={
            stem: _script_safe(json.dumps(plot, separators=(",", ":"), allow_nan=False)) for stem, plot in kept.items()
        },
        plotly=_plotly() if kept else "",
        script=(TEMPLATES / "report.js").read_text(encoding="utf-8"),
    )


def _light(picture: Path) -> bytes:
    """A PNG in 256 colours of its own: a third of the bytes, and drawings look the same."""
    from PIL import Image

    out = io.BytesIO()
    with Image.open(picture) as image:
        few = image.convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(out, "PNG")  # `optimize` would take twice as long for a tenth of the bytes
    return out.getvalue()


def _plotly() -> str:
    """plotly.js, as its Python package brings it."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _script_safe(text: str) -> str:
    """JSON that can stand in a script element, whatever is in its strings."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _figures(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [block for section in content["sections"] for block in section["blocks"] if block["kind"] == "figure"]

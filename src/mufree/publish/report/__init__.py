"""Pages: a study's report as PDF and as one self-contained page, and the paper's supplement.

`pages` says what stands where, as plain data. Typst lays it out in print; a template makes a page whose figures answer to the
pointer and whose tables sort. Without its script the page is whole.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mufree.publish import contents
from mufree.publish.report import pages
from mufree.publish.results import Results
from mufree.publish.typesetting import typeset
from mufree.study import files

TEMPLATES = Path(__file__).parent.parent / "templates"


def write(results: Results, figures: Path, out: Path) -> None:
    """Write `out`/report.pdf and `out`/report.html; the same input gives the same bytes.

    `figures` is the folder of `<task>.<figure>.pdf` and the like. Raises FileNotFoundError, naming it, for a required figure
    that isn't there.
    """
    shown = available(figures, results.tasks)
    for name, data in (
        ("report.pdf", to_pdf(pages.report(results, shown, printed=True), figures)),
        ("report.html", to_html(pages.report(results, shown), figures).encode()),
    ):
        with files.atomic(out / name) as temporary:
            temporary.write_bytes(data)


def write_supplement(studies: Sequence[Results], built: Path, out: Path) -> None:
    """Write the paper's supplement as a PDF; `built` has a folder a study, by its name, which has a folder of figures."""
    folders = {f"{results.name}/figures": results for results in studies}
    shown = {
        f"{folder}/{stem}" for folder, results in folders.items() for stem in available(built / folder, results.tasks)
    }
    with files.atomic(out) as temporary:
        temporary.write_bytes(to_pdf(pages.supplement(studies, shown), built))


def available(figures: Path, tasks: Collection[str]) -> set[str]:
    """The stems of the figures that have something to show: a picture, and a table of what is plotted that isn't empty.

    Raises FileNotFoundError for a required figure without a picture.
    """
    shown = set()
    for stem in contents.stems(tasks):
        if not all((figures / f"{stem}.{kind}").exists() for kind in ("png", "pdf")):
            if stem.rpartition(".")[2] in contents.REQUIRED:
                raise FileNotFoundError(f"figure {figures / stem}.png or .pdf is missing; draw it with `mufree figure`")
            continue
        plotted = figures / f"{stem}.csv"
        if not plotted.exists() or len(plotted.read_text(encoding="utf-8").splitlines()) > 1:
            shown.add(stem)
    return shown


def to_pdf(page: Mapping[str, Any], figures: Path) -> bytes:
    """A page as PDF."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(TEMPLATES / "report.typ", folder)
        (folder / "report.json").write_text(json.dumps(page, ensure_ascii=False), encoding="utf-8")
        for stem in _stems(page):
            copy = folder / f"{stem}.pdf"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(figures / f"{stem}.pdf", copy)
        return typeset(folder / "report.typ")


def to_html(page: Mapping[str, Any], figures: Path) -> str:
    """A page that loads nothing: styles, script and pictures are inside."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    stems = _stems(page)
    return environment.get_template("report.html.j2").render(
        **page,
        pictures={stem: base64.b64encode(_light(figures / f"{stem}.png")).decode() for stem in stems},
        points={stem: _points(figures / f"{stem}.points.json") for stem in stems},
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


def _points(path: Path) -> str:
    """What the pointer finds in a picture, as JSON that can stand in a script element whatever is in its texts."""
    found = path.read_text(encoding="utf-8") if path.exists() else '{"points": []}'
    return found.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _stems(page: Mapping[str, Any]) -> list[str]:
    """Of the figures on a page."""
    groups = [group["blocks"] for section in page["sections"] for group in section["groups"]]
    return [block["file"] for blocks in [page["lead"], *groups] for block in blocks if block["kind"] == "figure"]

import json
import re

import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from synthetic_study import make_description, make_study

from mufree.publish.figures import save
from mufree.publish.report import available, to_html, write
from mufree.publish.report.captions import FIGURE_CAPTIONS, REQUIRED
from mufree.publish.report.document import document
from mufree.publish.report.interactive import PLOTS

TASK = "patches-mlp"


@pytest.fixture(scope="module")
def study():
    return make_study(tasks=(TASK,), widths=(32, 64), log2_lrs=(-10, -9, -8))


@pytest.fixture
def pictures(tmp_path):
    """A folder with stand-ins for all figures, as the layout takes any picture."""
    for name in FIGURE_CAPTIONS:
        save(Figure(figsize=(2, 1)), pd.DataFrame({"a": [1]}), tmp_path / "figures" / f"{TASK}.{name}")
    return tmp_path / "figures"


def written(study, pictures, out):
    description, summary, provenance = make_description(study)
    tables = {name: table for name, table in study.items() if name not in ("rows", "curves", "verdicts")}
    rows, curves = study["rows"], study["curves"]
    write(description, tables, summary, provenance, pictures, out, rows=rows, curves=curves)
    return (out / "report.html").read_text(encoding="utf-8")


def test_figures_that_plot_nothing_are_left_out(pictures):
    everything = {f"{TASK}.{name}" for name in FIGURE_CAPTIONS}
    assert available(pictures, [TASK]) == everything
    (pictures / f"{TASK}.anytime.csv").write_text("a,b\n", encoding="utf-8")
    (pictures / f"{TASK}.averages.csv").write_text("\n", encoding="utf-8")
    (pictures / f"{TASK}.interaction.png").unlink()
    (pictures / f"{TASK}.dynamics.csv").unlink()
    left = {f"{TASK}.{name}" for name in ("anytime", "averages", "interaction")}
    assert available(pictures, [TASK]) == everything - left


@pytest.mark.parametrize("name", REQUIRED)
def test_a_required_figure_that_is_missing_is_named(pictures, name):
    (pictures / f"{TASK}.{name}.png").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}\.png.*mufree figure"):
        available(pictures, [TASK])


def test_the_page_with_plots_is_always_the_same_bytes(study, pictures, tmp_path):
    pages = [written(study, pictures, tmp_path / turn) for turn in ("first", "second")]
    assert pages[0] == pages[1]
    assert not re.search(r"<script[^>]+src=|<link|<iframe|@import", pages[0])


def test_each_plot_has_its_data_once_and_its_picture(study, pictures, tmp_path):
    page = written(study, pictures, tmp_path)
    for name in PLOTS:
        stem = f"plot-{TASK}.{name}"
        assert page.count(f'id="{stem}"') == page.count(f'id="{stem}-data"') == 1
        data = re.search(rf'id="{re.escape(stem)}-data">(.*?)</script>', page, re.DOTALL)[1]
        plot = json.loads(data)
        assert set(plot) == {"data", "layouts"}
        after = page[page.index(f'id="{stem}-data"') :]
        assert (
            after.index("<details open>") < after.index("<img ") < after.index("</details>") < after.index("</figure>")
        )


def test_text_in_a_plot_cannot_end_its_script(study, pictures):
    description, summary, provenance = make_description(study)
    tables = {name: table for name, table in study.items() if name not in ("rows", "curves", "verdicts")}
    doc = document(description, tables, summary, provenance)
    bad = {f"{TASK}.loss_vs_lr": {"data": [{"name": "</script><script>alert(1)</script>"}], "layouts": {}}}
    page = to_html(doc, pictures, bad)
    assert "alert(1)</script>" not in page
    assert json.loads(re.search(r'-data">(.*?)</script>', page, re.DOTALL)[1]) == bad[f"{TASK}.loss_vs_lr"]


def test_pictures_get_lighter_and_stay_the_same_size(pictures):
    from mufree.publish.report import _light

    path = pictures / f"{TASK}.loss_vs_lr.png"
    figure = Figure(figsize=(3, 2))
    figure.add_subplot().plot([0, 1, 0.5, 2], [0, 1, 3, 2])
    save(figure, pd.DataFrame({"a": [1]}), path.with_suffix(""))
    light = _light(path)
    path.with_name("light.png").write_bytes(light)
    with Image.open(path) as before, Image.open(path.with_name("light.png")) as after:
        assert before.size == after.size
        pairs = zip(before.convert("RGB").tobytes(), after.convert("RGB").tobytes(), strict=True)
        assert sum(abs(a - b) > 24 for a, b in pairs) < 0.01 * 3 * before.size[0] * before.size[1]
    assert len(light) < path.stat().st_size

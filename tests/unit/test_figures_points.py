"""What a pointer finds in a picture."""

import json

import matplotlib.image
import numpy as np
import pytest
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import ScaledTranslation
from pandas import DataFrame
from synthetic_study import METHODS, make_full_study

from mufree.publish.figures import FIGURES, draw, points, save
from mufree.publish.figures.panels import new_figure

TASK = "patches-mlp"
PINK = (1.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def full():
    return make_full_study(tasks=(TASK,), widths=(32, 128), log2_lrs=(-11, -10, -9, -8), methods=METHODS)


def found(figure):
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")
    return json.loads(points.text(figure))["points"]


@pytest.mark.parametrize("aside", [0, 20])
def test_a_point_is_where_its_pixels_are(tmp_path, aside):
    figure = new_figure("t", 3.3)
    ax = figure.add_subplot(xlim=(0, 10), ylim=(-14, -2), xlabel="k, rates\ntried", ylabel="log2 of the learning rate")
    place = ax.transData + ScaledTranslation(aside / 72, 0, figure.dpi_scale_trans)
    ax.plot([2.34567], [-9], "s", ms=6, mew=0, color=PINK, label="a series", transform=place)
    save(figure, DataFrame(), tmp_path / "one")
    [[x, y, words]] = json.loads((tmp_path / "one.points.json").read_text())["points"]
    picture = matplotlib.image.imread(tmp_path / "one.png")[..., :3]
    rows, columns = np.nonzero(np.isclose(picture, PINK, atol=0.02).all(axis=2))
    height, width = picture.shape[:2]
    assert x * width == pytest.approx(columns.mean() + 0.5, abs=1)
    assert y * height == pytest.approx(rows.mean() + 0.5, abs=1)
    assert words == "a series\nk, rates tried: 2.346\nlearning rate: 2^−9"


def test_only_labelled_data_in_the_frame_are_found():
    figure = new_figure("t", 3)
    ax = figure.add_subplot(xlim=(0, 1), ylim=(0, 1))
    ax.set_title("SP\nAdamW", loc="left")
    ax.plot([0.2, 2.0, np.nan], [0.5, 0.5, 0.5], label="a line")
    ax.plot([0.4], [0.5], "o")
    ax.axhline(0.3)
    ax.scatter([0.3], [0.5], label="a cloud")
    ax.plot([0.6], [0.9], "x", label="above", transform=ax.get_xaxis_transform())  # of y, only the place is meant
    names = ["SP · AdamW\na line\n0.2\n0.5", "SP · AdamW\nabove\n0.6", "SP · AdamW\na cloud\n0.3\n0.5"]
    assert [words for *_, words in found(figure)] == names


def test_a_value_is_called_what_its_axis_calls_it():
    figure = new_figure("t", 3)
    ax = figure.add_subplot(xlabel="width (log2 scale)", ylabel="log2 of the rate")
    ax.plot([32, 48], [0.5, 1.5], label="a")
    ax.set_xticks([32, 64], ["32", "64"])
    ax.yaxis.set_major_formatter(FuncFormatter(lambda at, _: f"−{int(at) + 7}"))
    assert [words for *_, words in found(figure)] == ["a\nwidth: 32\nrate: 2^−7", "a\nwidth: 48\nrate: 2^−8"]


def test_too_many_points_are_thinned_evenly():
    figure = new_figure("t", 3)
    figure.add_subplot().plot(range(4000), range(4000), label="a")
    shares = [x for x, *_ in found(figure)]
    assert len(shares) == points.MOST_POINTS
    assert np.diff(shares) == pytest.approx((shares[-1] - shares[0]) / (len(shares) - 1), abs=3e-4)
    figure.axes[0].lines[0].set_label("µ" * 200)
    assert len(points.text(figure).encode()) < points.MOST_BYTES


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_points_inside_it(full, name):
    figure, plotted = draw(name, full, TASK, "t")
    places = found(figure)
    assert bool(places) == (len(plotted) > 0)
    assert len(places) <= points.MOST_POINTS
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y, _ in places)
    assert all(words and "nan" not in words and not words.startswith("_") for *_, words in places)
    assert points.text(figure) == points.text(figure)


def test_maps_and_methods_are_named(full):
    by_name = {
        name: [words for *_, words in found(draw(name, full, TASK, "t")[0])]
        for name in ("weight_decay", "regret_vs_width")
    }
    cells = [words for words in by_name["weight_decay"] if "rate: 2^−9\nweight decay: 0.05\nloss above" in words]
    assert len({words.split("\n")[0] for words in cells}) == len(METHODS)
    assert any(
        words.startswith("SP · AdamW + cosine\nwidth: 128\nregret (nats): ") for words in by_name["regret_vs_width"]
    )

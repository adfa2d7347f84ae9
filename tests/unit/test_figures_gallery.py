"""Every figure on studies that are awkward. `MUFREE_GALLERY=folder` keeps them, to look at."""

import io
import os
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from synthetic_study import METHODS, make_full_study, make_study

from mufree.analysis.tables import build
from mufree.publish.figures import FACTOR_TABLES, FIGURES, draw, save
from mufree.publish.figures.panels import PAGE_WIDTH

TASK = "patches-mlp"
TITLE = "MLP with 2 hidden layers on photo patches"
SMALL = {"tasks": (TASK,), "widths": (32, 128), "log2_lrs": (-11, -10, -9, -8)}
OWN = ("mup_schedulefree_beta95", "sp_adamw_constant")
SOME = (*METHODS, "mup_adamw_ema")
STUDIES = {
    "one_seed": lambda: make_full_study(**SMALL, seeds=1, methods=SOME),
    "all_diverged": lambda: make_full_study(**SMALL, diverged=SOME, methods=SOME),
    "one_method_diverged": lambda: make_full_study(**SMALL, seeds=2, methods=SOME, diverged=("mup_adamw",)),
    "one_width": lambda: make_full_study(**SMALL | {"widths": (32,)}, methods=SOME),
    "one_rate": lambda: make_full_study(**SMALL | {"log2_lrs": (-9,)}, methods=SOME),
    "lower_edge": lambda: make_full_study(**SMALL | {"log2_lrs": (-9, -8, -7)}, methods=METHODS),
    "upper_edge": lambda: make_full_study(**SMALL | {"log2_lrs": (-13, -12, -11)}, methods=METHODS),
    "one_method": lambda: make_full_study(**SMALL, methods=("mup_schedulefree",)),
    "methods_of_ones_own": lambda: make_full_study(**SMALL, methods=(*METHODS, *OWN)),
    "ten_methods": lambda: make_full_study(**SMALL | {"widths": (32, 64, 128)}),
    "no_factor": lambda: make_study(**SMALL),
    "no_factor_tables": lambda: {k: v for k, v in make_study(**SMALL).items() if k not in FACTOR_TABLES},
}
LAID_OUT = ("one_seed", "one_width", "methods_of_ones_own", "ten_methods")
"""Studies whose texts are measured: laying out is slow, and it is the fullest figures that it could fail for."""
NEEDS_A_FACTOR = ("interaction", "anytime", "averages", "weight_decay")
IN_FRAME = ("optimum_vs_width", "regret_vs_width", "dynamics", "lr_sensitivity", "interaction", "anytime")
"""Figures whose scales have to show every point; in the others a loss may lie beyond the frame."""
CARETS = (8, 9, 10, 11)
DRAWN = [(study, name) for study in STUDIES if study != "no_factor_tables" for name in FIGURES]


@cache
def tables(study):
    """A study's tables as they come back from files, where booleans and empty texts are something else."""
    return {name: pd.read_csv(io.StringIO(table.to_csv(index=False))) for name, table in STUDIES[study]().items()}


def shown_texts(figure):
    """Every text that is drawn."""
    hidden = set()
    for ax in figure.axes:
        if not ax.axison:
            hidden |= {id(ax.xaxis.label), id(ax.yaxis.label)}
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            low, high = sorted(limits)
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not (ax.axison and low <= tick.get_loc() <= high):
                    hidden |= {id(tick.label1), id(tick.label2)}
    return [
        text
        for text in figure.findobj(Text)
        if text.get_visible()
        and text.get_text().strip()
        and id(text) not in hidden
        and (text.axes is None or text.axes.get_visible())
    ]


def overlap(a, b):
    """Whether more than a tenth of the smaller box is in both."""
    across, up = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return across > 2 and up > 2 and across * up > 0.1 * min(a.width * a.height, b.width * b.height)


@pytest.mark.parametrize(("study", "name"), DRAWN)
def test_awkward_studies_draw(study, name):
    figure, plotted = draw(name, tables(study), TASK, TITLE)
    assert isinstance(plotted, pd.DataFrame)
    assert figure.get_size_inches()[0] == PAGE_WIDTH
    assert figure.get_size_inches()[1] < 9.7  # a page
    assert figure.get_suptitle().replace("\n", " ") == TITLE
    if name in IN_FRAME:
        assert_points_are_in_the_frame(figure)
    folder = os.environ.get("MUFREE_GALLERY")
    if folder or study in LAID_OUT:
        assert_texts_are_in_place(figure, name)
    if folder:
        place = Path(folder) / study
        place.mkdir(parents=True, exist_ok=True)
        save(figure, plotted, place / name)


def assert_texts_are_in_place(figure, name):
    """All on the canvas, none on another, none that is no word."""
    canvas = FigureCanvasAgg(figure)
    figure.get_layout_engine().execute(figure)
    figure.draw_without_rendering()  # lays out again, as `save` does; where warnings of layout and fonts would come
    renderer = canvas.get_renderer()
    boxes = {text: Text.get_window_extent(text, renderer) for text in shown_texts(figure)}
    for text, box in boxes.items():
        words = text.get_text()
        assert not {"nan", "NaN", "<NA>", "None", "inf"} & set(words.replace("\n", " ").split(" ")), words
        assert box.x0 > -2, words
        assert box.y0 > -2, words
        assert box.x1 < figure.bbox.x1 + 2, words
        assert box.y1 < figure.bbox.y1 + 2, words
    titles = {ax._left_title for ax in figure.axes if name == "weight_decay"}  # these end in an empty line
    clashes = [
        (a.get_text(), b.get_text()) for a, b in combinations(set(boxes) - titles, 2) if overlap(boxes[a], boxes[b])
    ]
    assert not clashes


def assert_points_are_in_the_frame(figure):
    for ax in figure.axes:
        for line in ax.lines:
            of_data = line.get_transform().contains_branch_seperately(ax.transData)
            if line.get_marker() in ("None", "", *CARETS) or of_data in ((True, False), (False, True)):
                continue
            x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
            for values, limits in ((x, ax.get_xlim()), (y, ax.get_ylim())):
                known = values[np.isfinite(values)]
                assert (known >= min(limits)).all(), line.get_label()
                assert (known <= max(limits)).all(), line.get_label()


@pytest.mark.parametrize("study", ["no_factor", "no_factor_tables", "one_method"])
@pytest.mark.parametrize("name", NEEDS_A_FACTOR)
def test_a_study_without_the_factor_gives_an_empty_frame(study, name):
    figure, plotted = draw(name, tables(study), TASK, TITLE)
    has_it = (name == "weight_decay" and study == "one_method") or (name == "interaction" and study == "no_factor")
    assert plotted.empty is not has_it
    if not has_it:
        assert len(figure.axes) == 1
        assert len(figure.axes[0].texts) == 1


def test_the_metrics_own_tables_draw():
    made_up = make_full_study(**SMALL | {"log2_lrs": (-12, -11, -10, -9, -8, -7)}, methods=SOME)
    measured = build(made_up["rows"], made_up["curves"])
    assert set(FACTOR_TABLES) <= set(measured)
    del measured["dynamics"], measured["dynamics_points"]  # the made-up curves have no gradients
    for name in FIGURES:
        figure, plotted = draw(name, made_up | measured, TASK, TITLE)
        assert len(plotted), name
        assert figure.get_size_inches()[1] > 1.4, name  # that of a figure of words


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in NEEDS_A_FACTOR])
def test_variants_do_not_reach_the_main_figures(name):
    primary = make_study(**SMALL)
    both = make_study(**SMALL, horizons=(1, 2), weight_decays=(0.0, 0.05))
    assert len(both["rows"]) > len(primary["rows"])
    of_files = {**both, "rows": both["rows"].assign(variant=both["rows"]["variant"].replace("", np.nan))}
    expected = draw(name, primary, TASK, TITLE)[1]
    for given in (both, of_files):
        pd.testing.assert_frame_equal(draw(name, given, TASK, TITLE)[1], expected)

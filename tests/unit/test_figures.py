import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from synthetic_study import METHODS, make_study

from mufree.publish.figures import draw, draw_best_rates, save
from mufree.publish.figures.panels import interval_bars, new_figure, robust_limits
from mufree.publish.figures.style import DISPLAY_NAMES, method_styles

TASK = "patches-mlp"


@pytest.fixture(scope="module")
def tables():
    return make_study(tasks=(TASK,))


def texts(figure):
    found = [text.get_text() for ax in figure.axes for text in [*ax.texts, ax.xaxis.label, ax.title]]
    found += [ax.get_title(loc="left") for ax in figure.axes]
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]
    return "\n".join(found + [text.get_text() for legend in legends for text in legend.get_texts()])


def test_what_has_no_data_says_so():
    tables = make_study(tasks=(TASK,), widths=(32, 128), log2_lrs=(-10, -9), diverged=METHODS)
    for name in ("optimum_vs_width", "regret_vs_width", "validation_curves"):
        assert "every run diverged" in texts(draw(name, tables, TASK, "t")[0])


@pytest.mark.parametrize("title", [r"a $\frac$ b", "5 $ or $x^{$", r"\$ and _{", "<b>&amp;"])
def test_a_title_is_no_formula(tables, tmp_path, title):
    """Some of these are wrong ones, which could not be drawn."""
    figure, plotted = draw("loss_vs_lr", tables, TASK, title)
    save(figure, plotted, tmp_path / "figure")
    assert figure._suptitle._preprocess_math(figure._suptitle.get_text()) == (title, False)


def test_a_method_without_base_width_is_not_said_to_diverge(tables):
    missing = tables["regret"]["method"].eq("sp_adamw")
    regret = tables["regret"].assign(flag=np.where(missing, "no_base_width", "ok"))
    regret.loc[missing, ["regret", "regret_cf", "regret_cf_low", "regret_cf_high"]] = np.nan
    said = texts(draw("regret_vs_width", tables | {"regret": regret}, TASK, "t")[0])
    assert "not run\nat base width" in said
    assert "diverged" not in said


def test_a_method_at_one_width_has_no_regret_to_show():
    tables = make_study(tasks=(TASK,), widths=(32, 64), log2_lrs=(-10, -9, -8), few_widths={"mup_adamw": (32,)})
    figure, plotted = draw("regret_vs_width", tables, TASK, "t")
    assert set(plotted["method"]) == set(METHODS) - {"mup_adamw"}
    assert figure.legends[0].get_title().get_text() == "Not shown (run at one width): µP · AdamW + cosine."
    everywhere = draw("regret_vs_width", make_study(tasks=(TASK,), widths=(32,), log2_lrs=(-10, -9, -8)), TASK, "t")[1]
    assert set(everywhere["method"]) == set(METHODS)


SAVE = """
import sys
from pathlib import Path
from synthetic_study import make_study
from mufree.publish.figures import draw, save
tables = make_study(tasks=("patches-mlp",), widths=(32, 64), log2_lrs=(-10, -9, -8), weight_decays=(0.0, 0.1))
for name in ("loss_vs_lr", "optimum_vs_width", "weight_decay"):
    save(*draw(name, tables, "patches-mlp", "µP, a title"), Path(sys.argv[1]) / name)
"""


def test_the_same_bytes_twice(tmp_path):
    for turn in ("1", "2"):  # other processes, with other orders of sets
        helpers = str(Path(__file__).parents[1] / "helpers")
        path = os.pathsep.join([helpers, *filter(None, sys.path)])
        environment = os.environ | {"PYTHONHASHSEED": turn, "PYTHONPATH": path}
        command = [sys.executable, "-c", SAVE, str(tmp_path / turn)]
        subprocess.run(command, check=True, env=environment)
    files = sorted(path.name for path in (tmp_path / "1").iterdir())
    names = ("loss_vs_lr", "optimum_vs_width", "weight_decay")
    assert files == [f"{name}.{kind}" for name in names for kind in ("csv", "pdf", "png", "points.json")]
    for name in files:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name
    pdf = (tmp_path / "1" / "loss_vs_lr.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"CreationDate" not in pdf


def test_the_csv_holds_the_tables_numbers(tables, tmp_path):
    cells = ["method", "width"]
    figure, plotted = draw("optimum_vs_width", tables, TASK, "t")
    save(figure, plotted, tmp_path / "optimum")
    optimum = pd.read_csv(tmp_path / "optimum.csv").set_index(cells)
    for column in ("log2_lr_opt", "log2_lr_opt_low", "log2_lr_opt_high"):
        np.testing.assert_array_equal(optimum[column], tables["optima"].set_index(cells).loc[optimum.index, column])
    regret = draw("regret_vs_width", tables, TASK, "t")[1].set_index(cells)
    np.testing.assert_array_equal(regret["regret_cf"], tables["regret"].set_index(cells).loc[regret.index, "regret_cf"])
    surface = draw("loss_vs_lr", tables, TASK, "t")[1]
    means = surface[surface["kind"] == "mean"].set_index([*cells, "log2_lr"])["loss"]
    np.testing.assert_array_equal(means, tables["loss"].set_index([*cells, "log2_lr"]).mean_loss.loc[means.index])
    assert surface.loc[surface["kind"] == "diverged", "n_diverged"].sum() == tables["optima"]["n_diverged"].sum()


def test_the_drawn_line_is_the_plotted_frame(tables):
    figure, plotted = draw("optimum_vs_width", tables, TASK, "t")
    for method, look in method_styles(METHODS).items():
        lines = [
            line for line in figure.axes[0].lines if line.get_color() == look.colour and len(line.get_xdata()) == 4
        ]
        assert len(lines) == 1
        np.testing.assert_array_equal(lines[0].get_ydata(), plotted.loc[plotted["method"] == method, "log2_lr_opt"])


def test_a_method_has_the_same_colour_in_every_figure(tables):
    styles = method_styles(METHODS)
    assert len({look.colour for look in styles.values()}) == len({look.marker for look in styles.values()}) == 4
    for name in ("loss_vs_lr", "regret_vs_width", "coordcheck"):
        figure, _ = draw(name, tables, TASK, "t")
        for ax in figure.axes:
            for method, look in styles.items():
                if DISPLAY_NAMES[method] == ax.get_title(loc="left").replace("\n", " · "):
                    assert to_hex(ax._left_title.get_color()) == look.colour.lower()
    for name in ("optimum_vs_width", "dynamics"):
        figure, _ = draw(name, tables, TASK, "t")
        drawn = {to_hex(line.get_color()) for ax in figure.axes for line in ax.lines}
        assert {look.colour.lower() for look in styles.values()} <= drawn


def test_an_extra_method_looks_the_same_for_every_task():
    both = make_study(methods=("mup_adamw", "mup_adamw_a", "mup_adamw_b"), widths=(32, 64), log2_lrs=(-10, -9, -8))
    first_task_lacks_a = {
        name: table[~(table["task"].eq(TASK) & table["method"].eq("mup_adamw_a"))] if "method" in table else table
        for name, table in both.items()
    }
    colours = {}
    for task in (TASK, "wiki-gpt"):
        figure, _ = draw("regret_vs_width", first_task_lacks_a, task, "t")
        colours[task] = {" ".join(ax.get_title(loc="left").split()): ax._left_title.get_color() for ax in figure.axes}
    assert len(colours["wiki-gpt"]) == 3
    assert colours[TASK].items() <= colours["wiki-gpt"].items()


def test_panels_share_their_scales(tables):
    for name in ("loss_vs_lr", "regret_vs_width", "coordcheck"):
        figure, _ = draw(name, tables, TASK, "t")
        assert len({(ax.get_xlim(), ax.get_ylim()) for ax in figure.axes}) == 1


def test_labels_have_units(tables):
    for name, unit in (("loss_vs_lr", "nats"), ("regret_vs_width", "nats"), ("optimum_vs_width", "log2")):
        figure, _ = draw(name, tables, TASK, "t")
        assert unit in figure.get_supylabel() + figure.axes[0].get_ylabel()


def test_a_censored_optimum_is_open_and_not_on_the_line():
    tables = make_study(tasks=(TASK,), methods=("sp_adamw",), log2_lrs=range(-11, -4))
    censored = tables["optima"].query("flag != 'ok'")
    assert censored["flag"].tolist() == ["edge_low", "edge_low"]  # the optima are at −9, −10, −11 and −12
    figure, _ = draw("optimum_vs_width", tables, TASK, "t")
    lines = figure.axes[0].lines
    assert sum(line.get_marker() == "v" and line.get_markerfacecolor() == "white" for line in lines) == 2
    colour = method_styles(["sp_adamw"])["sp_adamw"].colour
    assert [len(x.get_xdata()) for x in lines if x.get_color() == colour and x.get_linestyle() == "--"] == [2]
    assert "drift not estimable" in texts(figure)


def test_limits_show_points_whatever_the_intervals():
    points = [0.0, 0.1, 0.2]
    low, high = robust_limits(points, [-50.0, 0.0, 0.1], [60.0, 0.2, 0.3], floor=0.1)
    assert low < 0 < 0.2 < high
    assert high - low < 1
    assert np.ptp(robust_limits([3.0, 3.0], [np.nan], [np.nan], floor=0.5)) >= 0.5
    ax = new_figure("t", 2).add_subplot()
    ax.set_ylim(low, high)
    interval_bars(ax, [1, 2, 3], [-50.0, 0.0, np.nan], [60.0, 0.2, np.nan], "k")
    bars = [line for line in ax.lines if len(line.get_xdata()) == 2]
    carets = [line for line in ax.lines if len(line.get_xdata()) == 1]
    assert [tuple(bar.get_ydata()) for bar in bars] == [(low, high), (0.0, 0.2)]
    assert len(carets) == 2


def test_unknown_names_are_errors(tables):
    with pytest.raises(KeyError, match=r"Unknown figure 'pie'. Known: loss_vs_lr"):
        draw("pie", tables, TASK, "t")
    with pytest.raises(KeyError, match="needs the tables transfer"):
        draw("optimum_vs_width", {"optima": tables["optima"]}, TASK, "t")


POOLED = pd.DataFrame(
    {
        "statistic": ["drift", "drift", "regret_cf"],
        "subject": ["sp_adamw", "mup_adamw", "sp_adamw"],
        "estimate": [-0.5, 0.1, 0.3],
        "low": [-0.6, 0.0, 0.2],
        "high": [-0.4, 0.2, 0.4],
    }
)


def test_best_rates_of_all_tasks_are_moves_from_the_narrowest_width(tables):
    figure, plotted = draw_best_rates(tables["optima"], tables["transfer"], POOLED.iloc[:0], tables["rows"])
    plotted = plotted[plotted["kind"].eq("moved")]
    tasks = sorted(plotted["task"].unique())
    assert [ax.get_title(loc="left") for ax in figure.axes] == [*tasks, *[""] * len(tasks)]
    optima = tables["optima"].set_index(["task", "method", "width"])["log2_lr_opt"]
    for (task, method), line in plotted.groupby(["task", "method"]):
        narrowest = optima[task, method, line["width"].min()]
        for row in line.itertuples():
            assert row.log2_lr_opt == optima[task, method, row.width] - narrowest
    assert not tables["optima"].merge(plotted[["task", "method", "width"]])["flag"].str.startswith("edge").any()


def test_below_best_rates_stand_the_drifts_of_the_tables_and_their_mean_over_tasks(tables):
    figure, plotted = draw_best_rates(tables["optima"], tables["transfer"], POOLED, tables["rows"])
    drawn = plotted[plotted["kind"].eq("drift")].set_index(["task", "method"])[["drift", "low", "high"]]
    transfer = tables["transfer"].set_index(["task", "method"])
    for method in METHODS:
        expected = transfer.loc[(TASK, method), ["drift", "drift_low", "drift_high"]]
        assert list(drawn.loc[(TASK, method)]) == list(expected)
    mean = drawn.loc["mean over tasks"]
    assert mean.loc["sp_adamw"].tolist() == [-0.5, -0.6, -0.4]
    assert mean.loc["mup_adamw"].tolist() == [0.1, 0.0, 0.2]
    assert len(mean) == 2
    assert [ax.get_title(loc="left") for ax in figure.axes if ax.get_visible()] == [TASK, "", "mean over tasks"]


def test_the_rate_that_is_kept_is_drawn_with_its_cost_at_the_largest_width(tables):
    figure, _ = draw("loss_vs_lr", tables, TASK, "t")
    regret = tables["regret"]
    widest = regret[regret["width"].eq(regret["width"].max())].set_index("method")
    said = {ax.get_title(loc="left"): [text.get_text() for text in ax.texts] for ax in figure.axes if ax.get_visible()}
    styles = method_styles(set(METHODS))
    for method in METHODS:
        cost = f"{widest.loc[method, 'regret_cf']:+.3f}".replace("-", "−")
        (words,) = said["\n".join(styles[method].parts)]
        assert words.startswith(f"kept at width {regret['width'].max()}: {cost} nats")
    kept = [
        line.get_xdata()[0]
        for ax in figure.axes
        for line in ax.lines
        if line.get_linestyle() == "--" and len(line.get_xdata()) == 2 and line.get_xdata()[0] == line.get_xdata()[1]
    ]
    assert sorted(kept) == sorted(widest["log2_lr_transferred"])
    unknown = tables["regret"].assign(regret_cf=np.nan)
    assert "kept at" not in texts(draw("loss_vs_lr", tables | {"regret": unknown}, TASK, "t")[0])

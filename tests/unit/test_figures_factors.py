import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from synthetic_study import METHODS, MORE_METHODS, make_full_study, make_study

from mufree.publish.figures import another_beta2, draw
from mufree.publish.figures.style import method_styles

TASK = "patches-mlp"
SMALL = {"tasks": (TASK,), "widths": (32, 128), "log2_lrs": (-12, -11, -10, -9, -8, -7)}
KEYS = ["parametrization", "method", "rival", "horizon"]


@pytest.fixture(scope="module")
def full():
    return make_full_study(**SMALL)


@pytest.fixture(scope="module")
def four():
    return make_study(**SMALL, horizons=(1, 2, 4), weight_decays=(0.0, 0.01, 0.05))


def points(ax, marker):
    """Places of the single points with this marker."""
    return {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0])): line
        for line in ax.lines
        if line.get_marker() == marker and len(line.get_xdata()) == 1
    }


# anytime


def test_anytime_ends_are_the_rivals_own_runs(full):
    _, plotted = draw("anytime", full, TASK, "t")
    gaps = full["anytime"].query("width == 128").set_index(KEYS)
    ends = plotted[plotted["kind"] == "rival"].set_index(KEYS)
    assert len(ends) == len(gaps)
    np.testing.assert_array_equal(ends["value"], gaps.loc[ends.index, "rival_loss"])
    assert ends["step"].tolist() == (ends.index.get_level_values("horizon") * 200).tolist()
    rows = full["rows"].set_index(["method", "width", "log2_lr", "seed", "horizon", "weight_decay"])
    seeds = plotted[plotted["kind"] == "rival_seed"]
    assert len(seeds) == 3 * len(gaps)
    for cell in seeds.itertuples():
        run = rows.loc[(cell.rival, 128, cell.log2_lr, cell.seed, cell.horizon, 0.0)]
        assert cell.value == run["val_loss"]
    # the cosine's best rate is higher at T/4, so these are other rates than at T
    rates = seeds[seeds["rival"] == "mup_adamw"].groupby("horizon")["log2_lr"].first()
    assert rates[0.25] > rates[1.0]


def test_anytime_shows_one_run_to_the_end(full):
    figure, plotted = draw("anytime", full, TASK, "t")
    curve = plotted[plotted["kind"] == "curve"]
    rows = full["rows"].query("variant == '' and width == 128").set_index(["method", "log2_lr", "seed"])["val_loss"]
    last = curve[curve["step"] == 200]
    assert len(last) == 2 * 3
    for end in last.itertuples():
        assert end.value == pytest.approx(rows[end.method, end.log2_lr, end.seed])
    assert curve.groupby("method")["log2_lr"].nunique().eq(1).all()
    look = method_styles(METHODS)["mup_schedulefree"]
    thick = [x for ax in figure.axes for x in ax.lines if x.get_color() == look.colour and x.get_linewidth() > 1.5]
    assert len(thick) == 1
    mean = curve[curve["method"] == "mup_schedulefree"].groupby("step")["value"].mean()
    np.testing.assert_allclose(thick[0].get_ydata(), mean)


def test_anytime_gaps_are_those_of_the_table(full):
    _, plotted = draw("anytime", full, TASK, "t")
    gap = plotted[plotted["kind"] == "gap"].set_index(KEYS)
    table = full["anytime"].query("width == 128").set_index(KEYS).loc[gap.index]
    np.testing.assert_array_equal(gap[["value", "low", "high"]], table[["gap", "gap_low", "gap_high"]])


def test_anytime_is_blind_to_other_variants(four):
    without = make_study(**SMALL, horizons=(1, 2, 4))
    pd.testing.assert_frame_equal(draw("anytime", four, TASK, "t")[1], draw("anytime", without, TASK, "t")[1])


def test_an_anytime_gap_that_is_not_estimable_gives_its_reason():
    tables = make_study(**SMALL, horizons=(1, 2), diverged=("sp_adamw",))
    figure, plotted = draw("anytime", tables, TASK, "t")
    sp, mup = (plotted[plotted["parametrization"] == p] for p in ("sp", "mup"))
    assert sp.loc[sp["kind"].isin(["gap", "rival"]), "value"].isna().all()
    assert mup["value"].notna().all()
    texts = [text.get_text().replace("\n", " ") for ax in figure.axes for text in ax.texts]
    assert "not estimable: every run of one side diverged" in texts


def test_another_beta2_is_drawn_dotted_at_its_own_best_rate_and_the_same_width(full):
    """The other study's runs are 0.3 nats lower, and best at its middle rate."""
    rows, curves = (full[name].assign() for name in ("rows", "curves"))
    rows, curves = rows.assign(beta2=0.95), curves.assign(value=curves["value"] - 0.3)
    rates = sorted(set(rows["log2_lr"]))
    optima = full["optima"].assign(log2_lr_argmin=rates[len(rates) // 2])
    other = another_beta2(rows[rows["variant"].eq("")], curves, optima)
    figure, plotted = draw("anytime", full | {"beside": other}, TASK, "t")
    pd.testing.assert_frame_equal(
        plotted[plotted["kind"].ne("beside")].drop(columns="beta2").reset_index(drop=True),
        draw("anytime", full, TASK, "t")[1].drop(columns="beta2"),
        check_dtype=False,
    )
    dotted = plotted[plotted["kind"].eq("beside")]
    assert set(dotted["width"]) == {128}
    assert set(dotted["log2_lr"]) == {rates[len(rates) // 2]}
    ids = rows[rows["width"].eq(128) & rows["log2_lr"].eq(rates[len(rates) // 2]) & rows["variant"].eq("")]
    for method, mine in dotted.groupby("method"):
        runs = ids.loc[ids["method"].eq(method), "run_id"]
        value = curves[curves["run_id"].isin(runs) & curves["series"].eq("val_loss") & curves["step"].gt(0)]
        assert sorted(mine["value"]) == pytest.approx(sorted(value["value"]))
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "with β₂ 0.95" in words
    assert any(word.endswith(f"one run, β₂ {full['rows']['beta2'].iloc[0]:g}") for word in words)


# averages


def test_averages_compare_alike_methods_where_the_controls_ran():
    tables = make_full_study(**SMALL | {"widths": (32, 64, 128)}, few_widths=dict.fromkeys(MORE_METHODS, (32, 64)))
    _, plotted = draw("averages", tables, TASK, "t")
    assert set(plotted["width"]) == {64}
    assert set(plotted["parametrization"]) == {"mup"}  # the extra SP methods are no controls for averaging
    mup = {m for m in (*METHODS, *MORE_METHODS) if m.startswith("mup")}
    assert set(plotted["method"]) == mup
    at_y = set(plotted.loc[plotted["at"] == "y", "method"])
    assert at_y == {"mup_schedulefree", "mup_adamw_ema", "mup_adamw_constant_ema"}


def test_averages_read_roles_from_columns(full):
    renamed = {"mup_adamw_ema": "mup_control", "mup_adamw_wsd": "mup_other"}
    tables = {n: t.assign(method=t["method"].replace(renamed)) if "method" in t else t for n, t in full.items()}
    _, plotted = draw("averages", tables, TASK, "t")
    assert {"mup_control", "mup_other"} <= set(plotted["method"])
    assert "mup_control" in set(plotted.loc[plotted["at"] == "y", "method"])
    assert "mup_other" not in set(plotted.loc[plotted["at"] == "y", "method"])


def test_a_control_with_another_optimizer_is_in_no_comparison():
    tables = make_study(**SMALL, methods=("sp_adamw", "sp_schedulefree", "sp_sgd_constant"))
    _, plotted = draw("averages", tables, TASK, "t")
    assert set(plotted["method"]) == {"sp_sgd_constant"}


# LR sensitivity


def test_shares_diverged_are_counted_from_the_own_optimum():
    tables = make_study(**SMALL, methods=("sp_adamw", "mup_adamw"))
    rows = tables["rows"]
    rows["status"] = np.where(rows["log2_lr"] >= -8, "diverged", "ok")
    rows.loc[rows["log2_lr"].eq(-8) & rows["seed"].eq(0), "status"] = "ok"
    optima = tables["optima"].set_index(["method", "width"])
    optima["log2_lr_argmin"], optima["flag"] = -10, "ok"
    optima.loc[("mup_adamw", 128), "log2_lr_argmin"] = -9
    optima.loc[("sp_adamw", 128), "flag"] = "edge_low"
    figure, plotted = draw("lr_sensitivity", tables | {"optima": optima.reset_index()}, TASK, "t")
    found = plotted[plotted["kind"] == "diverged"].set_index(["method", "distance"])
    # SP: the width at an edge is left out; at 2 doublings, rate −8, two seeds of three died
    assert found.loc[("sp_adamw", 2), ["value", "n_runs", "n_widths", "of_widths"]].tolist() == [2 / 3, 3, 1, 1]
    assert found.loc[("sp_adamw", 3), "value"] == 1
    assert found.loc[("sp_adamw", 1), "value"] == 0
    # µP: at 1 doubling, rate −9 at width 32 and −8 at width 128
    assert found.loc[("mup_adamw", 1), ["value", "n_runs", "n_widths"]].tolist() == [2 / 6, 6, 2]
    # at 3 doublings only width 32 has a rate
    assert found.loc[("mup_adamw", 3), ["n_widths", "of_widths"]].tolist() == [1, 2]
    marker = method_styles(METHODS)["mup_adamw"].marker
    faces = {round(x): to_hex(line.get_markerfacecolor()) for (x, _), line in points(figure.axes[1], marker).items()}
    assert faces[3] == "#ffffff"
    assert faces[2] != "#ffffff"


def test_sensitivities_are_those_of_the_table(four):
    _, plotted = draw("lr_sensitivity", four, TASK, "t")
    left = plotted[plotted["kind"] == "sensitivity"].set_index(["method", "width"])
    table = four["stability"].set_index(["method", "width"]).loc[left.index]
    columns = ["lr_sensitivity", "lr_sensitivity_low", "lr_sensitivity_high"]
    np.testing.assert_array_equal(left[["value", "low", "high"]], table[columns])


# best of k


def test_best_of_k_at_the_widest_network(full):
    figure, plotted = draw("best_of_k", full, TASK, "t")
    assert len(plotted) == 10 * 6
    table = full["best_of_k"].query("width == 128").set_index(["method", "k"])
    mine = plotted.set_index(["method", "k"])
    np.testing.assert_array_equal(mine["loss"], table.loc[mine.index, "loss"])
    assert mine.xs(6, level="k")["excess"].tolist() == [0.0] * 10
    rings = points(figure.axes[1], "o")
    rings = [place for place, line in rings.items() if line.get_markerfacecolor() == "none"]
    for method, k in full["cost"].query("width == 128").set_index("method")["k_eps"].items():
        height = mine.loc[(method, k), "excess"]
        assert height <= 0.02
        assert mine.loc[(method, k - 1), "excess"] > 0.02
        assert any(x == k and (y == height or height == 0) for x, y in rings)


def test_a_method_that_only_diverged_has_no_ring():
    tables = make_study(**SMALL, diverged=("mup_adamw",))
    figure, plotted = draw("best_of_k", tables, TASK, "t")
    assert plotted.loc[plotted["method"] == "mup_adamw", "excess"].eq(0).all()
    colour = method_styles(METHODS)["mup_adamw"].colour
    assert [len(line.get_xdata()) for line in figure.axes[0].lines if line.get_color() == colour] == [6]
    assert not any(len(line.get_xdata()) for line in figure.axes[1].lines if line.get_color() == colour)


def test_methods_that_did_not_run_at_the_widest_network_are_named():
    tables = make_study(**SMALL, methods=("sp_adamw", "mup_adamw"), few_widths={"mup_adamw": (32,)})
    figure, plotted = draw("best_of_k", tables, TASK, "t")
    assert set(plotted["method"]) == {"sp_adamw"}
    assert figure.legends[0].get_title().get_text() == "Not shown (not run at width 128): µP · AdamW + cosine."


# interaction


def test_the_forest_has_every_estimate_and_its_interval(four):
    figure, plotted = draw("interaction", four, TASK, "t")
    shown = four["interaction"].query("statistic != 'drift'")  # its size is
    pd.testing.assert_frame_equal(plotted, shown[plotted.columns].reset_index(drop=True))
    assert len(figure.axes) == 2 * 5
    upper, lower = figure.axes[:5], figure.axes[5:]
    for column, statistic in enumerate(["abs_drift", "regret_cf", "best_loss", "lr_sensitivity", "diverged_fraction"]):
        mine = plotted[plotted["statistic"] == statistic].set_index("effect")
        for ax, names in ((upper[column], METHODS), (lower[column], ("mup", "schedulefree", "interaction"))):
            drawn = [line for line in ax.lines if len(line.get_xdata()) == 1 and line.get_linestyle() == "None"]
            expected = mine.loc[list(names), "estimate"].dropna()
            assert sorted(float(line.get_xdata()[0]) for line in drawn) == sorted(expected)
        assert lower[column].get_xlim()[0] < 0 < lower[column].get_xlim()[1]
        assert any(list(line.get_xdata()) == [0, 0] for line in lower[column].lines) == mine["estimate"].notna().any()


def test_what_is_not_estimable_is_written_and_not_drawn():
    tables = make_study(**SMALL, diverged=("sp_schedulefree",))
    figure, _ = draw("interaction", tables, TASK, "t")
    losses, effects = figure.axes[2], figure.axes[7]
    assert losses.get_title(loc="left") == "best loss"
    assert [text.get_text() for text in losses.texts] == ["not estimable"]
    assert [text.get_text() for text in effects.texts] == ["not estimable"] * 3
    assert not effects.lines


# weight decay


def maps(figure):
    """The maps of a figure, by title and column."""
    return [
        (ax, next(c for c in ax.collections if isinstance(c, QuadMesh)))
        for ax in figure.axes
        if ax.get_visible() and ax.get_label() != "<colorbar>"
    ]


def test_maps_hold_the_losses_above_their_best(four):
    figure, plotted = draw("weight_decay", four, TASK, "t")
    found = maps(figure)
    assert len(found) == 4 * 2
    assert len({(mesh.norm.vmin, mesh.norm.vmax, mesh.cmap.name) for _, mesh in found}) == 1
    # axes go by rows, the narrow width first; methods in the order of display
    panels = [(method, width) for width in (32, 128) for method in METHODS]
    for (_, mesh), (method, width) in zip(found, panels, strict=True):
        mine = four["weight_decay"]
        mine = mine[mine["method"].eq(method) & mine["width"].eq(width)]
        table = mine.pivot(index="weight_decay", columns="log2_lr", values="mean_loss").sort_index(ascending=False)
        best = mine.loc[mine["n_diverged"].eq(0), "mean_loss"].min()
        shown = np.ma.filled(mesh.get_array().astype(float), np.nan).reshape(table.shape)
        np.testing.assert_allclose(shown, table.to_numpy() - best)
    assert plotted.loc[plotted["n_diverged"].eq(0), "excess"].min() == 0


def test_the_best_cell_and_dead_cells_are_marked(four):
    figure, _ = draw("weight_decay", four, TASK, "t")
    ax = maps(figure)[4][0]  # SP AdamW at width 128
    assert "width 128, coupled" in [text.get_text() for text in ax.texts]
    best = four["weight_decay_optimum"].query("method == 'sp_adamw' and width == 128").iloc[0]
    rates, decays = list(range(-12, -6)), [0.05, 0.01, 0.0]
    star = next(iter(points(ax, "*")))
    assert star == (rates.index(best["log2_lr"]) + 0.5, decays.index(best["weight_decay"]) + 0.5)
    cells = four["weight_decay"].query("method == 'sp_adamw' and width == 128")
    dead = cells[cells["n_diverged"] == cells["n_seeds"]]
    assert len(dead)
    crosses = {(rates.index(c.log2_lr) + 0.5, decays.index(c.weight_decay) + 0.5) for c in dead.itertuples()}
    assert set(points(ax, "x")) == crosses


@pytest.mark.parametrize(("flag", "face"), [("ok", "white"), ("edge_high", "none"), ("edge_lr", "none")])
def test_a_best_cell_at_an_edge_is_open(four, flag, face):
    best = four["weight_decay_optimum"].assign(flag=flag)
    figure, _ = draw("weight_decay", four | {"weight_decay_optimum": best}, TASK, "t")
    stars = [line for ax, _ in maps(figure) for line in points(ax, "*").values()]
    assert [star.get_markerfacecolor() for star in stars] == [face] * 8


def test_what_was_not_run_has_no_map():
    tables = make_study(**SMALL, weight_decays=(0.0, 0.05), weight_decay_scalings=("coupled", "independent"))
    figure, plotted = draw("weight_decay", tables, TASK, "t")
    assert len(maps(figure)) == 4 * 2 + 2 * 2  # SP has one way of scaling
    kinds = plotted.groupby("weight_decay_scaling")["method"].unique().map(set)
    assert kinds["independent"] == {"mup_adamw", "mup_schedulefree"}
    words = [text.get_text() for ax, _ in maps(figure) for text in ax.texts]
    assert words.count("width 128, independent") == 2

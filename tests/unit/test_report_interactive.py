import json

import numpy as np
import pandas as pd
import pytest
from synthetic_study import make_full_study, make_study

from mufree.publish.figures import FIGURES
from mufree.publish.report.interactive import MOST_POINTS, PLOTS, loss_vs_lr, optimum_vs_width, plots, validation_curves

TASK = "patches-mlp"
NAMES = {
    "sp_adamw": "SP · AdamW + cosine",
    "sp_schedulefree": "SP · ScheduleFree AdamW",
    "mup_adamw": "µP · AdamW + cosine",
    "mup_schedulefree": "µP · ScheduleFree AdamW",
}


@pytest.fixture(scope="module")
def study():
    return make_study(tasks=(TASK,), widths=(32, 64, 128), log2_lrs=tuple(range(-13, -5)))


def test_losses_are_the_tables_with_what_hovering_has_to_say(study):
    plot = loss_vs_lr(study["loss"], study["rows"], NAMES)
    means = study["loss"].dropna(subset="mean_loss")
    assert sum(len(trace["x"]) for trace in plot["data"]) == len(means)
    first = plot["data"][0]
    cell = means[means["method"].eq("sp_adamw") & means["width"].eq(32)].sort_values("log2_lr")
    np.testing.assert_allclose(first["y"], cell["mean_loss"], rtol=1e-5)
    rows = study["rows"].query("method == 'sp_adamw' and width == 32 and log2_lr == -13").sort_values("seed")
    label = first["text"][0]
    for part in ("SP · AdamW + cosine", "width 32", "rate 2^−13", f"mean loss {first['y'][0]:.3f}", "3 of 3 seeds"):
        assert part in label
    assert "seeds: " + ", ".join(f"{loss:.3f}" for loss in rows["val_loss"]) in label


def test_the_legend_has_each_width_once_and_switches_it_in_all_panels(study):
    plot = loss_vs_lr(study["loss"], None, NAMES)
    assert [t["name"] for t in plot["data"] if t["showlegend"]] == ["32", "64", "128"]
    assert {t["legendgroup"] for t in plot["data"]} == {"32", "64", "128"}
    assert {t["xaxis"] for t in plot["data"]} == {"x", "x2", "x3", "x4"}
    assert "seeds: " not in plot["data"][0]["text"][0]


def test_a_width_that_only_a_later_panel_has_is_in_the_legend(study):
    loss = study["loss"][study["loss"]["method"].ne("sp_adamw") | study["loss"]["width"].lt(128)]
    plot = loss_vs_lr(loss, None, NAMES)
    assert [t["name"] for t in plot["data"] if t["showlegend"]] == ["32", "64", "128"]


def test_an_interval_that_is_not_symmetric_stays_so(study):
    optima = study["optima"].assign(log2_lr_opt_low=study["optima"]["log2_lr_opt"] - 0.2)
    optima.loc[optima["width"].eq(64), ["log2_lr_opt_low", "log2_lr_opt_high"]] = np.nan
    trace = optimum_vs_width(optima, NAMES)["data"][0]
    assert trace["error_y"]["symmetric"] is False
    assert trace["error_y"]["array"][1] is None
    assert trace["error_y"]["arrayminus"][0] == pytest.approx(0.2)
    assert trace["error_y"]["array"][0] == pytest.approx(0.25)


def test_curves_are_the_means_over_the_runs_that_ended_well(study):
    plot = validation_curves(study["optima"], study["rows"], study["curves"], NAMES)
    trace = plot["data"][0]
    cell = study["rows"].query("method == 'sp_adamw' and width == 32 and status == 'ok'")
    best = study["optima"].query("method == 'sp_adamw' and width == 32")["log2_lr_argmin"].iloc[0]
    runs = cell[cell["log2_lr"].eq(best)]
    mine = study["curves"][study["curves"]["run_id"].isin(runs["run_id"]) & study["curves"]["series"].eq("val_loss")]
    np.testing.assert_allclose(trace["y"], mine.groupby("step")["value"].mean(), rtol=1e-5)
    assert {t["xaxis"] for t in plot["data"]} == {"x", "x2"}  # the base and the largest width


def test_the_fall_at_the_start_does_not_set_the_scale(study):
    plot = validation_curves(study["optima"], study["rows"], study["curves"], NAMES)
    for layout in plot["layouts"].values():
        low, high = layout["yaxis"]["range"]
        late = [y for t in plot["data"] for x, y in zip(t["x"], t["y"], strict=True) if x >= 25]
        assert low < min(late)
        assert max(late) < high < max(y for t in plot["data"] for y in t["y"])


def test_long_curves_are_thinned_and_keep_their_ends(study):
    runs = study["rows"]["run_id"]
    steps = np.arange(1000)
    long = pd.DataFrame(
        {
            "run_id": np.repeat(runs.to_numpy(), len(steps)),
            "series": "val_loss",
            "layer": "",
            "step": np.tile(steps, len(runs)),
            "value": np.tile(1.0 / (1 + steps), len(runs)),
        }
    )
    for trace in validation_curves(study["optima"], study["rows"], long, NAMES)["data"]:
        assert len(trace["x"]) == MOST_POINTS
        assert (trace["x"][0], trace["x"][-1]) == (0, 999)


def test_plots_are_json_without_nan_and_always_the_same():
    full = make_full_study(tasks=(TASK,), seeds=2)
    names = NAMES | {m: m for m in full["rows"]["method"].unique() if m not in NAMES}
    tables = {name: t for name, t in full.items() if name not in ("rows", "curves")}
    texts = {json.dumps(plots(tables, full["rows"], full["curves"], names), allow_nan=False) for _ in range(2)}
    assert len(texts) == 1
    assert set(json.loads(texts.pop())) == {f"{TASK}.{name}" for name in PLOTS}
    assert set(PLOTS) <= set(FIGURES)


@pytest.mark.parametrize("settings", [{"seeds": 1}, {"diverged": tuple(NAMES)}, {"widths": (32,)}])
def test_awkward_studies_plot_what_there_is(settings):
    tables = make_study(**{"tasks": (TASK,), "widths": (32, 64), "log2_lrs": (-10, -9, -8)} | settings)
    rows, curves = tables.pop("rows"), tables.pop("curves")
    found = plots(tables, rows, curves, NAMES)
    assert json.dumps(found, allow_nan=False)
    if "diverged" in settings:
        assert not found
    else:
        assert set(found) == {f"{TASK}.{name}" for name in PLOTS}


def test_without_curves_there_are_no_plots_of_them(study):
    tables = {name: t for name, t in study.items() if name not in ("rows", "curves")}
    assert set(plots(tables, None, None, NAMES)) == {f"{TASK}.loss_vs_lr", f"{TASK}.optimum_vs_width"}

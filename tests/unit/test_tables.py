import logging
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from surfaces import NO_CURVES, START, make_curve, make_rows, make_surface, parabolas

from mufree.analysis import tables
from mufree.analysis.metrics.statistics import wilson
from mufree.analysis.metrics.surface import Surface

RATES = range(-12, -3)
FROZEN = Path(__file__).parents[2] / "paper/data/tables"
"""Tables of a study that has everything."""


def study(*, seeds: int = 3, noise: float = 0.01, widths: int = 4) -> pd.DataFrame:
    """SP drifts by −½ doubling per doubling, µP doesn't; same cliff 2 doublings above each optimum; base width agrees."""
    rng = np.random.default_rng(0)
    shared = noise * rng.normal(size=(widths, len(RATES), seeds))
    frames = []
    for task in ("b-task", "a-task"):
        for method, slope in (("mup_adamw", 0.0), ("sp_adamw", -0.5)):
            optima = [-7.3 + slope * w for w in range(widths)]
            surface = parabolas(
                optima,
                log2_lrs=RATES,
                floors=[1 - 0.1 * w for w in range(widths)],
                seeds=seeds,
                noise=shared,
                cliff=2.0,
            )
            frames.append(make_rows(surface, task=task, method=method))
    return pd.concat(frames, ignore_index=True)


def build(*surfaces: Surface, **by_method: Surface) -> dict[str, pd.DataFrame]:
    """The tables of surfaces without curves; positional ones are of sp_adamw."""
    named = {"sp_adamw": surfaces[0]} if surfaces else by_method
    rows = pd.concat([make_rows(surface, method=method) for method, surface in named.items()])
    return tables.build(rows, NO_CURVES)


def test_imports_no_torch_and_nothing_slow() -> None:
    code = "import sys, mufree.analysis.tables; print([m for m in ('torch', 'matplotlib', 'scipy.stats') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tables_have_their_columns_also_when_empty() -> None:
    built = build(parabolas([-8], seeds=1))
    headers = {path.stem: pd.read_csv(path, nrows=0).columns.tolist() for path in FROZEN.glob("*.csv")}
    headers = {name: columns for name, columns in headers.items() if not name.startswith("coordcheck")}
    assert {name: table.columns.tolist() for name, table in built.items()} == headers
    assert built["control"].empty
    assert built["dynamics"].empty


def test_order_is_task_then_the_studys_methods_then_width() -> None:
    surface = parabolas([-8, -8], seeds=1)
    names = ("aaa_adamw", "mup_schedulefree", "mup_adamw", "zzz_adamw", "sp_adamw", "sp_schedulefree")
    rows = pd.concat([make_rows(surface, task=task, method=name) for task in ("t2", "t1") for name in names])
    table = tables.build(rows, NO_CURVES)["optima"]
    ordered = ["sp_adamw", "sp_schedulefree", "mup_adamw", "mup_schedulefree", "aaa_adamw", "zzz_adamw"]
    expected = [(task, method, width) for task in ("t1", "t2") for method in ordered for width in (32, 64)]
    assert list(table[["task", "method", "width"]].itertuples(index=False, name=None)) == expected


def test_the_order_of_rows_and_curves_does_not_matter() -> None:
    rows = study()
    rng = np.random.default_rng(1)
    curves = pd.concat(
        [
            curve
            for run_id in rows["run_id"]
            for curve in (
                make_curve(run_id, "val_loss", range(0, 40, 10), START - np.arange(4) + rng.random(4)),
                make_curve(run_id, "grad_rms", range(0, 40, 10), rng.random(4) + 1, "hidden"),
                make_curve(run_id, "sqrt_v", [100], rng.random(1), "hidden"),
                make_curve(run_id, "train_loss", range(70), rng.random(70)),
            )
        ],
        ignore_index=True,
    )
    first = tables.build(rows, curves)
    second = tables.build(rows.sample(frac=1, random_state=1), curves.sample(frac=1, random_state=2))
    beyond = {
        "anytime",
        "horizon",
        "premium",
        "interaction",
        "rate_ratio",
        "weight_decay",
        "weight_decay_optimum",
        "pooled",
    }
    for name, table in first.items():
        assert len(table) or name in beyond, name
        pd.testing.assert_frame_equal(table, second[name], check_exact=True)


def test_known_drift_and_regret_come_back() -> None:
    built = tables.build(study(noise=0.0), NO_CURVES)
    transfer = built["transfer"].set_index(["task", "method"]).loc["a-task"]
    np.testing.assert_allclose(transfer["drift"], [-0.5, 0.0], atol=1e-9)
    np.testing.assert_allclose(transfer["drift_low90"], transfer["drift"], atol=1e-9)
    assert transfer["equivalent"].tolist() == [False, True]
    assert transfer["n_widths"].tolist() == [4, 4]
    np.testing.assert_allclose(transfer["drift_range"], [1.5, 0.0], atol=1e-9)

    # sp_adamw: optima −7.3, −7.8, −8.3, −8.8, so argmins −7, −8, −8, −9 and a transferred rate of −7.
    regret = built["regret"].query("task == 'a-task' and method == 'sp_adamw'")
    distances = np.array([[0.3, 0.3], [0.8, 0.2], [1.3, 0.3], [1.8, 0.2]])
    expected = 0.05 * (distances[:, 0] ** 2 - distances[:, 1] ** 2)
    np.testing.assert_allclose(regret["regret_cf"], expected, atol=1e-12)
    np.testing.assert_allclose(regret["regret"], expected, atol=1e-12)
    best = 1 - 0.1 * np.arange(4) + 0.05 * distances[:, 1] ** 2
    np.testing.assert_allclose(regret["rho"], [np.nan, *(expected[1:] / (best[0] - best[1:]))])
    assert regret["flag"].tolist() == ["ok"] * 4
    assert regret["good"].tolist() == [True, False, False, False]


def test_optima_and_losses_by_hand() -> None:
    surface = make_surface([[[3, 3], [1.0, 1.2], [2, 2], [0.5, 0.5]]], diverged=[[[False] * 2] * 3 + [[False, True]]])
    built = build(surface)
    best = built["optima"].iloc[0]
    assert best[["flag", "log2_lr_argmin", "n_seeds", "n_runs", "n_diverged"]].tolist() == ["ok", -9, 2, 8, 1]
    assert best["sigma_seed"] == pytest.approx(0.2 / math.sqrt(2))
    assert best["best_loss_se"] == pytest.approx(0.1)
    assert best["test_loss"] == pytest.approx(1.6)
    assert best["val_accuracy"] == pytest.approx((1 / 2 + 1 / 2.2) / 2)
    assert math.isnan(best["test_accuracy"])
    loss = built["loss"]
    assert loss["log2_lr"].tolist() == [-10, -9, -8, -7]
    assert loss["mean_loss"].tolist() == [3, 1.1, 2, 0.5]
    np.testing.assert_allclose(loss["se"], [0, 0.1, 0, np.nan], atol=1e-12)
    assert loss["n_seeds"].tolist() == [2, 2, 2, 2]
    assert loss["n_diverged"].tolist() == [0, 0, 0, 1]


def test_an_interval_stands_only_beside_a_fitted_optimum() -> None:
    losses = np.array([[3, 2, 1, 2], [1, 2, 3, 4], [4, 3, 2, 9]])[:, :, None] + np.array([0.0, 0.001, 0.003])
    died = np.zeros(losses.shape, bool)
    died[2, 3] = True
    optima = build(make_surface(losses, diverged=died))["optima"]
    assert optima["flag"].tolist() == ["ok", "edge_low", "argmin_only"]
    assert optima["log2_lr_opt_low"].isna().tolist() == [False, True, True]
    assert optima["log2_lr_opt"].tolist()[1:] == [-10, -8]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("by_seed", "equivalent"),
    [
        ([0.10, 0.15, 0.20], True),  # 90 %: 0.066 … 0.234, inside; 95 %: 0.026 … 0.274, not
        ([0.20, 0.25, 0.30], False),
        ([0.05, 0.15, 0.25], False),
    ],
)
def test_equivalence_is_the_90_percent_interval_inside_a_quarter(
    by_seed: list[float], equivalent: bool, sign: int
) -> None:
    # The mean of parabolas of one curvature has its vertex at the mean of theirs, so drift is the mean of the seeds' drifts.
    drifts = sign * np.array(by_seed)
    one_by_one = [parabolas([-7.6 + b * w for w in range(4)], seeds=1).loss for b in drifts]
    rates = parabolas([-7.6]).log2_lrs
    row = build(make_surface(np.concatenate(one_by_one, axis=2), log2_lrs=rates))["transfer"].iloc[0]
    assert row["drift"] == pytest.approx(drifts.mean())
    for suffix, level in (("", 0.95), ("90", 0.90)):
        expected = stats.t.interval(level, 2, loc=drifts.mean(), scale=stats.sem(drifts))
        np.testing.assert_allclose(row[[f"drift_low{suffix}", f"drift_high{suffix}"]].astype(float), expected)
    assert row["equivalent"] == equivalent


@pytest.mark.parametrize(("between_seeds", "good"), [(0.1, True), (0.01, False)])
def test_a_regret_is_good_below_two_standard_deviations_over_seeds(between_seeds: float, good: bool) -> None:
    surface = parabolas([-8, -9], noise=between_seeds * np.arange(3.0))
    row = build(surface)["regret"].iloc[1]
    np.testing.assert_allclose(row[["regret_cf", "regret_cf_high"]].astype(float), 0.05)
    assert row["regret_in_sigma"] == pytest.approx(0.05 / between_seeds)
    assert row["good"] == good


def test_a_mean_with_a_value_missing_is_missing() -> None:
    rows = make_rows(parabolas([-8]))
    rows.loc[(rows["log2_lr"] == -8) & (rows["seed"] == 1), "test_loss"] = np.nan
    best = tables.build(rows, NO_CURVES)["optima"].iloc[0]
    assert math.isnan(best["test_loss"])
    assert best["val_accuracy"] == pytest.approx(0.5)


def test_edges_make_drift_not_estimable_and_say_so() -> None:
    built = build(parabolas([-8, -9, -20, -1], log2_lrs=range(-12, -4)))
    row = built["transfer"].iloc[0]
    assert row[["status", "n_widths", "n_censored"]].tolist() == ["not_estimable", 2, 2]
    assert "128 (edge_low), 256 (edge_high)" in row["reason"]
    assert pd.isna(row["equivalent"])
    assert math.isnan(row["drift"])
    assert row["drift_range"] == pytest.approx(1.0)
    assert built["regret"]["flag"].tolist() == ["ok", "ok", "edge", "edge"]
    stability = built["stability"]
    assert stability["window_runs"].tolist()[2:] == [0, 0]
    for column in ("headroom", "window_low", "window_diverged", "diverged_fraction", "diverged_low", "lr_sensitivity"):
        assert stability[column].isna().tolist() == [False, False, True, True], column


def test_one_seed_has_estimates_and_no_intervals() -> None:
    built = build(parabolas([-8, -9, -10], seeds=1))
    transfer = built["transfer"].iloc[0]
    assert transfer["drift"] == pytest.approx(-1)
    assert transfer["status"] == "ok"
    assert transfer["reason"] == "one seed, so no interval"
    assert pd.isna(transfer[["drift_low", "drift_high", "drift_low90", "drift_high90", "equivalent"]]).all()
    regret = built["regret"]
    assert regret[["regret_cf", "regret_cf_low", "good", "regret_in_sigma", "rho"]].isna().all(axis=None)
    np.testing.assert_allclose(regret["regret"], [0, 0.05, 0.2], atol=1e-12)
    assert set(regret["flag"]) == {"few_seeds"}
    assert built["optima"][["log2_lr_opt_low", "sigma_seed", "best_loss_se"]].isna().all(axis=None)
    assert built["stability"]["lr_sensitivity"].notna().all()
    assert built["stability"]["lr_sensitivity_low"].isna().all()


def test_a_constant_loss_has_no_optimum_inside_the_grid_and_no_drift() -> None:
    built = build(parabolas([-8, -9, -10], curvature=0.0, log2_lrs=range(-12, -4)))
    assert built["optima"]["flag"].tolist() == ["edge_low"] * 3
    assert built["optima"][["curvature", "log2_lr_opt_low", "log2_lr_opt_high"]].isna().all(axis=None)
    assert built["optima"][["best_loss", "sigma_seed"]].to_numpy().tolist() == [[1.0, 0.0]] * 3
    row = built["transfer"].iloc[0]
    assert row["status"] == "not_estimable"
    assert row["reason"].startswith(
        "0 of 3 widths have an optimum inside the grid, 3 are needed; censored: 32 (edge_low)"
    )
    assert pd.isna(row[["drift", "drift_low", "drift_high", "drift_bound", "equivalent"]]).all()
    assert built["regret"]["regret"].tolist() == [0.0] * 3
    assert built["regret"]["regret_in_sigma"].isna().all()
    assert built["regret"]["flag"].tolist() == ["edge"] * 3
    assert built["stability"]["lr_sensitivity"].isna().all()


def test_one_width_has_an_optimum_and_no_drift() -> None:
    built = build(parabolas([-8]))
    assert built["optima"]["flag"].tolist() == ["ok"]
    assert built["transfer"]["reason"].tolist() == ["1 of 1 widths have an optimum inside the grid, 3 are needed"]
    assert built["regret"]["regret_cf"].tolist() == [0.0]


def test_a_method_whose_runs_all_diverged_keeps_its_rows_without_numbers() -> None:
    dead = parabolas([-8, -8, -8], cliff=-100.0)
    built = build(sp_adamw=parabolas([-8, -8, -8]), mup_adamw=dead)
    optima = built["optima"].query("method == 'mup_adamw'")
    assert set(optima["flag"]) == {"all_diverged"}
    assert optima["n_diverged"].tolist() == [33, 33, 33]
    numbers = ["log2_lr_opt", "log2_lr_argmin", "best_loss", "best_loss_fit", "sigma_seed", "test_loss", "val_accuracy"]
    assert optima[numbers].isna().all(axis=None)
    assert set(built["regret"].query("method == 'mup_adamw'")["flag"]) == {"base_all_diverged"}
    assert built["transfer"].query("method == 'mup_adamw'")["n_censored"].tolist() == [3]
    stability = built["stability"].query("method == 'mup_adamw'")
    assert stability["n_rebound"].tolist() == [33, 33, 33]
    assert stability["n_learnt_nothing"].tolist() == [0, 0, 0]
    assert stability[["log2_lr_max", "headroom", "lr_sensitivity", "diverged_fraction"]].isna().all(axis=None)
    assert built["stability"].query("method == 'sp_adamw'")["span"].tolist() == [10, 10, 10]
    assert math.isnan(built["loss"].query("method == 'mup_adamw'")["mean_loss"].iloc[0])


def test_regret_flags_tell_what_stands_behind_the_number() -> None:
    ran = [[True] * 6, [False, False, True, True, True, True], [True] * 6, [True] * 6]
    loss = np.array([[2, 1, 3, 4, 5, 6], [9, 9, 2, 1, 3, 4], [2, 1.5, 1, 2, 3, 4], [2, 1.5, 1, 2, 3, 4]], float)[
        :, :, None
    ]
    died = np.zeros((4, 6, 3), bool)
    died[2, 1, 0] = True
    died[3] = True
    table = build(make_surface(loss + np.zeros(3), ran=ran, diverged=died))["regret"]
    assert table["flag"].tolist() == ["ok", "not_run", "diverged", "all_diverged"]
    assert table["regret"].isna().tolist() == [False, True, False, True]
    assert table["regret"][2] == pytest.approx((START + 1.5 + 1.5) / 3 - 1)
    assert table["log2_lr_transferred"].tolist() == [-9.0] * 4


def test_a_method_that_was_not_run_at_base_width_has_no_regret() -> None:
    table = build(parabolas([-8, -9, -10], widths=(64, 128, 256)))["regret"]
    assert set(table["flag"]) == {"no_base_width"}
    assert table[["log2_lr_transferred", "regret_cf", "regret", "rho"]].isna().all(axis=None)


def test_stability_over_the_common_window() -> None:
    built = build(
        sp_adamw=parabolas([-8, -9], log2_lrs=range(-12, -4), cliff=1.5, curvature=0.1),
        mup_adamw=parabolas([-8, -8], log2_lrs=range(-11, -5), curvature=0.1),
    )
    table = built["stability"]
    assert table["window_low"].tolist() == [-11, -12, -11, -11]
    assert table["window_high"].tolist() == [-6, -7, -6, -6]
    assert set(table["span"]) == {5.0}
    assert table["window_runs"].tolist() == [18] * 4
    assert table["window_diverged"].tolist() == [3, 3, 0, 0]
    np.testing.assert_allclose(table[["diverged_low", "diverged_high"]].iloc[0], wilson(3, 18))
    assert table["n_diverged"].tolist() == [6, 9, 0, 0]
    np.testing.assert_allclose(table["headroom"], [1, 1, 2, 2])
    inside = 0.1 * (9 + 4 + 1 + 0 + 1)
    np.testing.assert_allclose(table["lr_sensitivity"], [(inside + 3) / 6] * 2 + [(inside + 0.4) / 6] * 2)
    np.testing.assert_allclose(table["lr_sensitivity_normalised"], table["lr_sensitivity"] / 3)


def test_smoothness_is_of_the_runs_at_the_cells_own_argmin() -> None:
    rows = make_rows(parabolas([-8, -9], seeds=2, log2_lrs=range(-11, -5)))
    bumps = {"w32.lr-8.s0": 0.5, "w32.lr-8.s1": 1.0, "w64.lr-9.s0": 0.0, "w64.lr-9.s1": 0.0}
    curves = pd.concat(
        [
            make_curve(
                run_id,
                "val_loss",
                [0, 10, 20, 30],
                [4.0, 2.0, 2.0 + next((b for key, b in bumps.items() if key in run_id), 99.0), 2.0],
            )
            for run_id in rows["run_id"]
        ]
        + [make_curve(rows["run_id"][0], "val_loss_y", [0, 10], [4.0, 3.0])]
    )
    table = tables.build(rows, curves)["smoothness"]
    assert table["at"].tolist() == ["x", "y", "x", "y"]
    assert table["log2_lr"].tolist() == [-8, -8, -9, -9]
    np.testing.assert_array_equal(table["tvx"], [0.375, np.nan, 0.0, np.nan])
    assert table["n_seeds"].tolist() == [2, 0, 2, 0]
    # Two values: t of one degree of freedom, se half of their distance.
    assert table["tvx_high"][0] == pytest.approx(0.375 + math.tan(math.pi * 0.475) * 0.125)


def dynamics_study(*, died: tuple[int, ...] = ()) -> dict[str, pd.DataFrame]:
    """Optima drift, gradients fall as 1/width at base width's rate and rise at all others; widths in `died` diverge there."""
    surface = parabolas([-8, -9, -10, -10], log2_lrs=range(-12, -5), seeds=2)
    rows = make_rows(surface)
    rows.loc[rows["width"].isin(died) & (rows["log2_lr"] == -8) & (rows["seed"] == 1), "status"] = "diverged"
    curves = pd.concat(
        [
            make_curve(
                run.run_id,
                "grad_rms",
                [5, 10, 15, 20, 25],
                np.array([1e6, 1e6, 1.0, 2.0, 9.0]) * float(run.width) ** (-1 if run.log2_lr == -8 else 1),
                "hidden",
            )
            for run in rows.itertuples()
        ]
    )
    return tables.build(rows, curves)


def test_dynamics_are_at_the_base_widths_rate_and_after_warm_up() -> None:
    built = dynamics_study()
    points = built["dynamics_points"]
    assert points["width"].tolist() == [32, 32, 64, 64, 128, 128, 256, 256]
    assert set(points["log2_lr"]) == {-8}
    np.testing.assert_allclose(points["median"], 2.0 / points["width"])
    (slope,) = built["dynamics"].to_dict("records")
    assert (slope["layer"], slope["quantity"], slope["n_widths"]) == ("hidden", "grad_rms", 4)
    np.testing.assert_allclose([slope["slope"], slope["slope_low"], slope["slope_high"]], -1, atol=1e-12)


def test_a_width_with_a_diverged_run_is_left_out_of_the_dynamics_and_stays_visible() -> None:
    built = dynamics_study(died=(256,))
    points = built["dynamics_points"]
    assert points["median"].isna().tolist() == [False] * 7 + [True]
    assert built["dynamics"]["n_widths"].tolist() == [3]
    np.testing.assert_allclose(built["dynamics"]["slope"], -1)
    too_few = dynamics_study(died=(128, 256))["dynamics"]
    assert too_few["slope"].isna().all()
    assert too_few["n_widths"].tolist() == [2]


def test_control_counts_pairs_that_agree_in_every_bit() -> None:
    rows = study(widths=3)
    control = tables.build(rows, NO_CURVES)["control"]
    assert control["optimizer"].tolist() == ["sp_adamw=mup_adamw"] * 2
    assert control["n_pairs"].tolist() == control["n_equal"].tolist() == [27, 27]
    assert rows.query("width == 32")["val_loss"].isna().any(), "pairs that both diverged are among them"

    for column in ("val_loss", "train_loss"):
        changed = rows.copy()
        at = changed.query("task == 'a-task' and method == 'mup_adamw' and width == 32 and log2_lr == -8").index[0]
        changed.loc[at, column] = np.nextafter(changed.loc[at, column], np.inf)
        assert tables.build(changed, NO_CURVES)["control"]["n_equal"].tolist() == [26, 27]


def test_control_pairs_methods_that_differ_in_the_parametrization_alone() -> None:
    surface = parabolas([-8], seeds=1)
    names = ("sp_adamw", "sp_schedulefree", "mup_schedulefree")
    rows = pd.concat([make_rows(surface, method=name) for name in names], ignore_index=True)
    assert tables.build(rows, NO_CURVES)["control"]["optimizer"].tolist() == ["sp_schedulefree=mup_schedulefree"]
    rows.loc[rows["method"] == "sp_schedulefree", "embedding_lr"] = "times_width"
    assert tables.build(rows, NO_CURVES)["control"].empty


def test_grids_may_differ_between_widths_and_methods() -> None:
    narrow = make_rows(parabolas([-7, -8, -9], log2_lrs=range(-11, -4)))
    extra = make_rows(parabolas([-7, -8, -9], log2_lrs=(-13, -12))).query("width == 128")
    built = tables.build(pd.concat([narrow, extra]), NO_CURVES)
    assert built["transfer"]["drift"][0] == pytest.approx(-1)
    assert built["optima"]["n_runs"].tolist() == [21, 21, 27]
    assert built["loss"].query("width == 32")["log2_lr"].min() == -11


def test_seeds_that_were_not_run_everywhere_are_counted_but_not_judged(caplog: pytest.LogCaptureFixture) -> None:
    surface = parabolas([-8, -9, -10], seeds=3)
    rows = make_rows(surface)
    rows.loc[rows["seed"] == 2, ["val_loss", "test_loss"]] = 0.001
    partial = rows[(rows["seed"] < 2) | (rows["width"] == 32)]
    with caplog.at_level(logging.WARNING):
        built = tables.build(partial, NO_CURVES)
    assert "only seeds [0, 1]" in caplog.text
    assert "11 runs of other seeds" in caplog.text
    expected = tables.build(rows[rows["seed"] < 2], NO_CURVES)
    pd.testing.assert_frame_equal(built["transfer"], expected["transfer"])
    assert built["optima"]["best_loss"].tolist() == expected["optima"]["best_loss"].tolist()
    assert built["optima"]["test_loss"].tolist() == expected["optima"]["test_loss"].tolist()
    assert built["optima"]["n_runs"].tolist() == [33, 22, 22]
    assert built["loss"]["n_seeds"].tolist() == [3] * 11 + [2] * 22


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows.drop(columns=["divergence", "train_loss"]), "no column divergence, train_loss"),
        (lambda rows: pd.concat([rows, rows.iloc[[4]]]), "task.sp_adamw.w32.lr-13.s1 is there twice"),
        (lambda rows: rows.assign(val_loss=np.nan), "w32.lr-14.s0 has a loss that is not finite"),
        (lambda rows: rows.assign(initial_loss=np.inf), "w32.lr-14.s0 has a loss that is not finite"),
        (lambda rows: rows.assign(base_width=rows["width"]), "task 'task' has more than one base_width"),
        (lambda rows: rows[(rows["width"] == 32) == (rows["seed"] == 0)], "task/sp_adamw: no seed was run at every"),
    ],
)
def test_errors_name_what_is_wrong(spoil: object, message: str) -> None:
    rows = make_rows(parabolas([-8, -9]))
    with pytest.raises(ValueError, match=message):
        tables.build(spoil(rows), NO_CURVES)  # type: ignore[operator]

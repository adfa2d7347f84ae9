"""Tables that look beyond drift and regret, on studies whose answers are known by construction."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from surfaces import NO_CURVES, START, make_curve, make_rows, parabolas

from mufree.analysis import tables
from mufree.analysis.metrics import transfer
from mufree.analysis.metrics.statistics import jackknife
from mufree.analysis.metrics.surface import Surface
from mufree.study.config import METHODS

RATES = range(-12, -3)
HORIZONS = (0.25, 0.5, 1.0)


def arm(surface: Surface, method: str, **settings: object) -> pd.DataFrame:
    """The rows of one cell; `settings` are columns that differ from the primary ones."""
    rows = make_rows(surface, method=method).assign(**settings)
    label = ",".join(f"{name}={value}" for name, value in settings.items())
    return rows.assign(run_id=rows["run_id"] + label)


def four(
    optima: dict[str, list[float]], floors: dict[str, float] | None = None, seeds: int = 4, noise: float = 0.0
) -> pd.DataFrame:
    """The study's four methods with these optima and floors."""
    rng = np.random.default_rng(0)
    shape = (4, len(RATES), seeds)
    floors = floors or {}
    return pd.concat(
        [
            arm(
                parabolas(
                    optima[name],
                    log2_lrs=RATES,
                    seeds=seeds,
                    floors=[floors.get(name, 1.0)] * 4,
                    noise=noise * rng.normal(size=shape),
                ),
                name,
            )
            for name in METHODS
        ],
        ignore_index=True,
    )


FLAT = [-8.0, -8.0, -8.0, -8.0]
STEEP = [-7.0, -8.0, -9.0, -10.0]
TRANSFER = {"sp_adamw": STEEP, "sp_schedulefree": STEEP, "mup_adamw": FLAT, "mup_schedulefree": FLAT}


def only(frame: pd.DataFrame, **where: object) -> pd.Series:
    """The one row with these values."""
    for name, value in where.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1, frame
    return frame.iloc[0]


# --- schedules -------------------------------------------------------------------------------------------------------


def horizon_study(*, gap: float = 0.07, shift: float = 0.5, seeds: int = 3) -> dict[str, pd.DataFrame]:
    """AdamW's optimum moves by −`shift` a doubling of the horizon and its floor falls; ScheduleFree is `gap` above at −8."""
    rows, curves = [], []
    floors = {0.25: 2.0, 0.5: 1.5, 1.0: 1.2}
    for share in HORIZONS:
        optimum = -8 - shift * math.log2(share)
        surface = parabolas([optimum], log2_lrs=RATES, floors=[floors[share]], seeds=seeds)
        label = "" if share == 1 else f"T/{1 / share:.0f}"
        rows.append(arm(surface, "mup_adamw", variant=label, horizon=share, steps=int(100 * share)))
    free = make_rows(parabolas([-8.0], log2_lrs=RATES, floors=[1.2 + gap], seeds=seeds), method="mup_schedulefree")
    for run in free.itertuples():
        curve = [floors[share] + gap + 0.05 * (run.log2_lr + 8) ** 2 for share in HORIZONS]
        curves.append(make_curve(run.run_id, "val_loss", [0, 25, 50, 100], [START, *curve]))
    return tables.build(pd.concat([*rows, free], ignore_index=True), pd.concat(curves))


def test_the_anytime_gap_is_the_one_built_in() -> None:
    table = horizon_study(gap=0.07, shift=0.0)["anytime"]
    assert table["horizon"].tolist() == list(HORIZONS)
    assert table["rival"].unique().tolist() == ["mup_adamw"]
    np.testing.assert_allclose(table["gap"], 0.07)
    np.testing.assert_allclose(table["loss"] - table["rival_loss"], 0.07)
    np.testing.assert_allclose(table["gap_high"] - table["gap_low"], 0.0, atol=1e-12)


def test_the_rival_is_tuned_at_each_horizon_and_schedulefree_only_at_the_last() -> None:
    """With a shift of 1 the rival's optima are −6, −7, −8; ScheduleFree's curves are best at −8 throughout."""
    built = horizon_study(gap=0.0, shift=1.0)
    np.testing.assert_allclose(built["anytime"]["gap"], 0.0, atol=1e-12)
    rival = only(built["horizon"], method="mup_adamw")
    free = only(built["horizon"], method="mup_schedulefree")
    assert rival["drift"] == pytest.approx(-1.0)
    assert free["drift"] == pytest.approx(0.0, abs=1e-9)
    assert rival["regret"] == pytest.approx(0.05 * 2**2)  # tuned at T/4: two doublings off at T
    assert free["regret"] == pytest.approx(0.0, abs=1e-12)


def test_anytime_extremes_and_the_difference_of_drifts_are_estimates() -> None:
    found = horizon_study(gap=0.07, shift=1.0)["estimates"].set_index("statistic")
    assert found.loc["anytime_max", "estimate"] == pytest.approx(0.07)
    assert found.loc["anytime_mean", "estimate"] == pytest.approx(0.07)
    assert found.loc["anytime_gap_T/4", "estimate"] == pytest.approx(0.07)
    assert found.loc["abs_horizon_drift_difference", "estimate"] == pytest.approx(-1.0)
    assert found.loc["anytime_max", "subject"] == "mup_schedulefree - mup_adamw"


def test_a_schedulefree_run_that_was_stopped_is_diverged_at_every_horizon() -> None:
    surface = parabolas([-8.0], log2_lrs=RATES, seeds=2, cliff=1.5)
    full = [arm(surface, "mup_adamw"), arm(surface, "mup_adamw", variant="T/2", horizon=0.5, steps=50)]
    free = make_rows(surface, method="mup_schedulefree")
    ended = free[free["status"] == "ok"]
    curves = [
        make_curve(r.run_id, "val_loss", [0, 50, 100], [START, r.val_loss, r.val_loss]) for r in ended.itertuples()
    ]
    curves += [make_curve(r, "val_loss", [0, 50], [START, 0.0]) for r in free.loc[free["status"] != "ok", "run_id"]]
    built = tables.build(pd.concat([*full, free], ignore_index=True), pd.concat(curves))
    assert built["anytime"]["loss"].tolist() == pytest.approx([1.0, 1.0])


def test_without_horizons_there_are_no_rows() -> None:
    built = tables.build(four(TRANSFER), NO_CURVES)
    assert built["anytime"].empty
    assert built["horizon"].empty


def test_the_premium_is_the_difference_of_the_best_losses() -> None:
    cosine = arm(parabolas(FLAT, log2_lrs=RATES), "mup_adamw")
    flat = arm(
        parabolas(FLAT, log2_lrs=RATES, floors=[1.3] * 4), "mup_adamw_constant", schedule="constant", optimizer="adamw"
    )
    averaged = flat.assign(method="mup_adamw_ema", average="ema", run_id=flat["run_id"] + "ema")
    averaged = averaged.assign(val_loss_y=averaged["val_loss"] + 0.1)  # an average costs its raw weights nothing
    table = tables.build(pd.concat([cosine, flat, averaged], ignore_index=True), NO_CURVES)["premium"]
    found = table.groupby("constant")["premium"].mean()
    assert found.to_dict() == pytest.approx({"mup_adamw_constant": 0.3, "mup_adamw_ema": 0.4})


# --- cost ------------------------------------------------------------------------------------------------------------


def test_best_of_k_is_the_mean_over_all_choices_of_k() -> None:
    surface = parabolas([-8.0], log2_lrs=range(-10, -5), seeds=1)
    table = tables.build(make_rows(surface), NO_CURVES)["best_of_k"]
    losses = surface.loss[0, :, 0]
    expected = [np.mean([min(choice) for choice in itertools.combinations(losses, k)]) for k in range(1, 6)]
    np.testing.assert_allclose(table["loss"], expected)


def test_cost_by_hand() -> None:
    """FLOPs go as width² here: 9 rates at 32 and one run at 256, against 9 rates at 256; of one seed each."""
    table = tables.build(make_rows(parabolas(FLAT, log2_lrs=RATES)), NO_CURVES)["cost"]
    wide = only(table, width=256)
    assert wide["flops_saved"] == pytest.approx(1 - (9 * 32**2 + 256**2) / (9 * 256**2))
    assert math.isnan(only(table, width=32)["flops_saved"])
    losses = sorted(1 + 0.05 * (x + 8) ** 2 for x in RATES)
    best_of_3 = np.mean([min(c) for c in itertools.combinations(losses, 3)])
    assert wide["best_of_3_excess"] == pytest.approx(best_of_3 - 1.0)


# --- comparisons -----------------------------------------------------------------------------------------------------


def test_rate_ratio_and_its_slope_by_hand() -> None:
    optima = TRANSFER | {"sp_schedulefree": [-6.0, -6.5, -7.0, -7.5], "mup_schedulefree": [-7.0] * 4}
    built = tables.build(four(optima), NO_CURVES)
    mup = built["rate_ratio"][built["rate_ratio"]["parametrization"] == "mup"]
    np.testing.assert_allclose(mup["log2_ratio"], 1.0, atol=1e-9)
    slopes = built["estimates"][built["estimates"]["statistic"] == "rate_ratio_slope"].set_index("subject")["estimate"]
    assert slopes["sp_schedulefree / sp_adamw"] == pytest.approx(0.5)
    assert slopes["mup_schedulefree / mup_adamw"] == pytest.approx(0.0, abs=1e-9)


def test_interaction_by_hand() -> None:
    floors = {"sp_adamw": 1.4, "sp_schedulefree": 1.3, "mup_adamw": 1.2, "mup_schedulefree": 1.0}
    table = tables.build(four(TRANSFER | {"sp_adamw": [-8, -8.5, -9, -9.5]}, floors), NO_CURVES)["interaction"]
    drift = table[table["statistic"] == "abs_drift"].set_index("effect")["estimate"]
    np.testing.assert_allclose(drift[list(METHODS)], [0.5, 1.0, 0.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(drift[["mup", "schedulefree", "interaction"]], [-0.75, 0.25, -0.5], atol=1e-9)
    signed = table[table["statistic"] == "drift"].set_index("effect")["estimate"]
    np.testing.assert_allclose(signed[list(METHODS)], [-0.5, -1.0, 0.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(signed[["mup", "schedulefree", "interaction"]], [0.75, -0.25, 0.5], atol=1e-9)
    loss = table[table["statistic"] == "best_loss"].set_index("effect")["estimate"]
    np.testing.assert_allclose(
        loss["interaction"], (1.0 - 1.3) - (1.2 - (1.4 + 0.05 * 0.5**2))
    )  # −9.5 is not on the grid


def test_best_single_factor_and_best_other() -> None:
    floors = {"sp_adamw": 0.9, "sp_schedulefree": 1.3, "mup_adamw": 1.2, "mup_schedulefree": 1.0}
    found = tables.build(four(TRANSFER, floors), NO_CURVES)["estimates"].set_index("statistic")
    assert found.loc["loss_vs_best", "estimate"] == pytest.approx(0.1)
    assert found.loc["sensitivity_vs_best_single", "estimate"] == pytest.approx(0.0, abs=1e-9)
    assert found.loc["diverged_vs_best_single", "estimate"] == 0.0


def test_how_much_of_the_gap_the_embedding_rate_closes() -> None:
    shallow = [-8.0, -8.25, -8.5, -8.75]
    extra = arm(
        parabolas(shallow, log2_lrs=RATES, seeds=4), "sp_adamw_embedding", embedding_lr="times_width", optimizer="adamw"
    )
    built = tables.build(pd.concat([four(TRANSFER), extra], ignore_index=True), NO_CURVES)["estimates"]
    assert only(built, statistic="embedding_gap_closed_drift")["estimate"] == pytest.approx(0.75)
    none = tables.build(pd.concat([four(dict.fromkeys(METHODS, FLAT)), extra], ignore_index=True), NO_CURVES)[
        "estimates"
    ]
    assert only(none, statistic="embedding_gap_closed_drift")["status"] == "not_estimable"


def test_drifts_are_compared_over_the_widths_that_all_have() -> None:
    """SP's optimum stops falling at a width that the others lack: over the three they share it falls by 1 a doubling."""
    cells = four(TRANSFER | {"sp_adamw": [-7.0, -8.0, -9.0, -9.0]})
    cells = cells[cells["method"].eq("sp_adamw") | cells["width"].lt(256)]
    short = parabolas([-7.0, -7.25, -7.5], log2_lrs=RATES, seeds=4)
    extra = arm(short, "sp_adamw_embedding", embedding_lr="times_width", optimizer="adamw")
    built = tables.build(pd.concat([cells, extra], ignore_index=True), NO_CURVES)
    assert only(built["estimates"], statistic="embedding_gap_closed_drift")["estimate"] == pytest.approx(0.75)
    assert only(built["interaction"], statistic="abs_drift", effect="sp_adamw")["estimate"] == pytest.approx(1.0)
    assert only(built["transfer"], method="sp_adamw")["drift"] == pytest.approx(-0.7)


# --- weight decay ----------------------------------------------------------------------------------------------------


def decay_study(best: float, method: str, seeds: int = 3, scaling: str = "coupled") -> pd.DataFrame:
    """A map over {0, 0.01, 0.1} × rates whose best decay is `best`, at −8."""
    return pd.concat(
        [
            arm(
                parabolas([-8.0], log2_lrs=RATES, floors=[1.0 if decay == best else 1.1], seeds=seeds),
                method,
                weight_decay=decay,
                weight_decay_scaling=scaling if decay else "coupled",
                variant=f"weight_decay={decay}" if decay else "",
            )
            for decay in (0.0, 0.01, 0.1)
        ],
        ignore_index=True,
    )


def test_the_weight_decay_map_and_its_optimum() -> None:
    rows = pd.concat([decay_study(0.1, "mup_adamw"), decay_study(0.01, "mup_schedulefree")], ignore_index=True)
    built = tables.build(rows, NO_CURVES)
    assert len(built["weight_decay"]) == 2 * 3 * len(RATES)
    adamw, free = (only(built["weight_decay_optimum"], method=m) for m in ("mup_adamw", "mup_schedulefree"))
    assert (adamw["weight_decay"], adamw["flag"]) == (0.1, "edge_high")
    assert (free["weight_decay"], free["flag"], free["agreement"]) == (0.01, "ok", 1.0)
    assert free["log2_lr_weight_decay"] == pytest.approx(-8 + math.log2(0.01))
    found = built["estimates"].set_index("statistic")
    assert found.loc["weight_decay_difference", "estimate"] == pytest.approx(0.01 - 0.1)
    assert found.loc["lr_weight_decay_difference", "estimate"] == pytest.approx((0.01 - 0.1) / 256)


def test_where_both_are_best_at_the_largest_decay_their_difference_is_unknown() -> None:
    """It would be 0 with no doubt at all, by the grid's end and not by what was seen."""
    rows = pd.concat([decay_study(0.1, "mup_adamw"), decay_study(0.1, "mup_schedulefree")], ignore_index=True)
    found = tables.build(rows, NO_CURVES)["estimates"].set_index("statistic")
    for name in ("weight_decay_difference", "lr_weight_decay_difference"):
        assert found.loc[name, ["status", "reason"]].tolist() == [
            "not_estimable",
            "both are best at the largest decay tried",
        ]
        assert math.isnan(found.loc[name, "estimate"])


def test_no_decay_belongs_to_every_way_of_scaling() -> None:
    """And other variants don't: their β1 or their length differs."""
    coupled = decay_study(0.0, "mup_adamw")
    both = [coupled, decay_study(0.0, "mup_adamw", scaling="independent").query("weight_decay > 0")]
    both[1] = both[1].assign(variant=both[1]["variant"] + ", independent", run_id=both[1]["run_id"] + "i")
    beta = coupled.assign(beta1=0.95, variant=coupled["variant"] + "b", run_id=coupled["run_id"] + "b", val_loss=0.0)
    table = tables.build(pd.concat([*both, beta], ignore_index=True), NO_CURVES)["weight_decay"]
    assert table.groupby("weight_decay_scaling")["weight_decay"].nunique().to_dict() == {"coupled": 3, "independent": 3}
    assert (table["mean_loss"] > 0).all()


# --- inside ----------------------------------------------------------------------------------------------------------


def test_wider_is_better_counts_steps_after_warm_up_where_it_is_worse() -> None:
    """Three steps are judged of four: in one of them the wider network is worse for both seeds."""
    rows = make_rows(parabolas([-8.0, -8.0], log2_lrs=RATES, seeds=2)).assign(warmup_steps=1)
    curves = []
    for run in rows.itertuples():
        wide = [0.0, -0.1, 0.1, -0.2] if run.width == 64 else [0.0] * 4
        curves.append(make_curve(run.run_id, "train_loss", [1, 2, 3, 4], np.asarray(wide) + 1 + 0.001 * run.seed))
    row = only(tables.build(rows, pd.concat(curves))["wider_is_better"])
    assert (row["n_points"], row["share_worse"]) == (3, pytest.approx(1 / 3))


def test_spikes_are_counted_at_the_best_rate_and_above() -> None:
    rows = make_rows(parabolas([-5.0], log2_lrs=RATES, seeds=1)).assign(steps=500)
    calm = np.tile([1.0, 1.1], 100)
    spiky = np.where(np.arange(200) == 150, 9.0, calm)
    curves = [
        make_curve(r.run_id, "train_loss", range(200), spiky if r.log2_lr == -4 else calm) for r in rows.itertuples()
    ]
    table = tables.build(rows, pd.concat(curves))["spikes"]
    assert table[["lr_factor", "n_spikes", "n_points", "window"]].to_numpy().tolist() == [
        [1, 0, 150, 50],
        [2, 1, 150, 50],
    ]


def test_epsilon_is_flagged_where_it_is_a_tenth_of_the_second_moment() -> None:
    rows = make_rows(parabolas([-8.0], log2_lrs=RATES, seeds=1)).assign(eps=1e-8)
    curves = [
        make_curve(r, "sqrt_v", [100], [size], layer)
        for r in rows["run_id"]
        for layer, size in (("a", 2e-7), ("b", 5e-8))
    ]
    table = tables.build(rows, pd.concat(curves))["epsilon"].set_index("layer")
    assert table["flagged"].to_dict() == {"a": False, "b": True}
    assert table.loc["b", "ratio"] == pytest.approx(0.2)


# --- estimates -------------------------------------------------------------------------------------------------------


def test_estimates_are_unique_and_agree_with_a_jackknife_of_their_own() -> None:
    rows = four(TRANSFER, noise=0.02, seeds=4)
    built = tables.build(rows, NO_CURVES)
    found = built["estimates"]
    assert not found.duplicated(["task", "subject", "width", "statistic"]).any()
    row = only(found, subject="sp_adamw", statistic="drift")
    losses = rows[rows["method"] == "sp_adamw"].pivot_table(
        index=["width", "log2_lr"], columns="seed", values="val_loss"
    )
    surface = parabolas(STEEP, log2_lrs=RATES, seeds=4)
    noisy = Surface(
        32,
        surface.widths,
        surface.log2_lrs,
        losses.to_numpy().reshape(4, len(RATES), 4),
        surface.initial_loss,
        surface.diverged,
    )
    expected = jackknife(lambda kept: transfer.drift(noisy.keep(kept)), 4)
    assert row["estimate"] == pytest.approx(float(expected.estimate))
    assert row["se"] == pytest.approx(float(expected.se))
    assert row["low90"] == pytest.approx(float(expected.estimate - stats.t.ppf(0.95, 3) * expected.se))
    assert row["n_seeds"] == 4


def test_wilson_intervals_have_no_standard_error() -> None:
    found = tables.build(four(TRANSFER, noise=0.02), NO_CURVES)["estimates"]
    row = found[found["statistic"] == "diverged_fraction"].iloc[0]
    assert math.isnan(row["se"])
    assert math.isnan(row["low90"])
    assert row["high"] > 0


def test_one_seed_gives_estimates_without_intervals_everywhere() -> None:
    found = tables.build(four(TRANSFER, seeds=1), NO_CURVES)["estimates"]
    t_intervals = found[found["statistic"] != "diverged_fraction"]
    assert t_intervals[["se", "low90", "high90"]].isna().all(axis=None)
    assert only(found, subject="mup_adamw", statistic="drift")["status"] == "ok"
    assert (found.loc[found["estimate"].isna(), "status"] == "not_estimable").all()

"""The tables on how transfer changes with width, on studies whose answers are known and against plain loops."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import slow_metrics as slow
from surfaces import NO_CURVES, make_rows, parabolas, random_surface

from mufree.analysis import tables
from mufree.analysis.metrics.statistics import Ints, jackknife
from mufree.analysis.metrics.surface import Surface
from mufree.analysis.tables import scaling
from mufree.analysis.tables.cases import make_cases

FLOORS = [2.2, 1.7, 1.45, 1.325]
"""1.2 + 2^−w: a power law with the exponent 1 and the limit 1.2."""


def build(**surfaces: Surface) -> dict[str, pd.DataFrame]:
    rows = [make_rows(surface, method=method) for method, surface in surfaces.items()]
    return tables.build(pd.concat(rows, ignore_index=True), NO_CURVES)


def law(built: dict[str, pd.DataFrame], statistic: str, method: str = "sp_adamw") -> pd.Series:
    table = built["scaling"]
    found = table[(table["statistic"] == statistic) & (table["method"] == method)]
    assert len(found) == 1
    return found.iloc[0]


# --- the shares ------------------------------------------------------------------------------------------------------


def test_base_widths_rate_goes_to_every_width_and_every_rate_to_the_widest() -> None:
    built = build(sp_adamw=parabolas([-8, -9, -10, -11], floors=FLOORS))
    table = built["fast_transfer"]
    pairs = [(32, 64), (32, 128), (32, 256), (64, 256), (128, 256)]
    assert list(zip(table["source"], table["width"], strict=True)) == pairs
    np.testing.assert_allclose(table["lost"], [0.05, 0.2, 0.45, 0.2, 0.05], atol=1e-12)
    np.testing.assert_allclose(table["gain"], [0.5, 0.75, 0.875, 0.375, 0.125])
    np.testing.assert_allclose(table["rho"], table["lost"] / table["gain"])
    np.testing.assert_allclose(table["rho"], table[["rho_low", "rho_high"]].mean(axis=1))
    regret = built["regret"].set_index("width")
    of_base = table[table["source"] == 32].set_index("width")
    np.testing.assert_allclose(of_base["lost"], regret.loc[of_base.index, "regret_cf"])
    np.testing.assert_allclose(of_base["rho"], regret.loc[of_base.index, "rho"])


def test_widths_below_the_base_hand_on_to_the_widest_alone() -> None:
    surface = parabolas([-8, -9, -10, -11], widths=(16, 32, 64, 128), floors=FLOORS)
    table = build(sp_adamw=surface)["fast_transfer"]
    assert list(zip(table["source"], table["width"], strict=True)) == [(16, 128), (32, 64), (32, 128), (64, 128)]


def kept_share(surface: Surface, source: int, target: int, rate: int, kept: Ints) -> float:
    """ρ of these seeds, in plain loops."""
    grid = slow.to_grid(surface.keep(kept))
    seeds = slow.seeds_of(grid)
    best = [slow.argmin(grid, k, seeds) for k in (source, target)]
    levels = [slow.mean([slow.cost(grid, k, j, s) for s in seeds]) for k, j in zip((source, target), best, strict=True)]
    gain = levels[0] - levels[1]
    return slow.regret_held(grid, target, source, rate) / gain if gain > 0 else math.nan


def test_shares_and_intervals_are_those_of_plain_loops() -> None:
    rng = np.random.default_rng(3)
    checked = 0
    for _ in range(10):
        surface = random_surface(rng)
        table = pd.DataFrame(scaling.fast_transfer(make_cases(make_rows(surface))))
        grid = slow.to_grid(surface)
        for row in table.itertuples():
            source, target = (list(surface.widths).index(width) for width in (row.source, row.width))
            rate = slow.argmin(grid, source, range(surface.n_seeds))
            assert rate is not None

            value = jackknife(partial(kept_share, surface, source, target, rate), surface.n_seeds)
            np.testing.assert_allclose(
                [row.rho, row.rho_low, row.rho_high], [value.estimate, value.low, value.high], atol=1e-12
            )
            checked += bool(np.isfinite(value.se))
    assert checked > 10


def test_a_share_that_is_not_known_says_why() -> None:
    def reasons(surface: Surface) -> set[str]:
        table = build(sp_adamw=surface)["fast_transfer"]
        assert table["rho"].isna().all()
        assert set(table["status"]) == {"not_estimable"}
        return set(table["reason"])

    assert reasons(parabolas([-8, -8], floors=[1.0, 1.1])) == {"width 64 is no better than width 32"}
    assert reasons(parabolas([-8, -8], floors=[1.1, 1.0], seeds=1)) == {"one seed, and cross-fitting takes two"}
    dead = parabolas([-8, -8], floors=[1.1, 1.0], cliff=-100)
    assert next(iter(reasons(dead))).startswith("a width has no rate free of divergence")


def test_a_gain_that_hangs_on_one_seed_leaves_the_share_without_an_interval() -> None:
    noise = np.zeros((2, 11, 3))
    noise[1] = [-0.3, 0.1, 0.1]  # without the first seed the wide network is worse
    row = build(sp_adamw=parabolas([-8, -9], floors=[1.0, 1.0], noise=noise))["fast_transfer"].iloc[0]
    assert row["rho"] == pytest.approx(0.05 / (0.1 / 3))
    assert np.isnan(row["rho_low"])
    assert (row["status"], row["reason"]) == ("ok", "not estimable without one of the seeds")


# --- the laws --------------------------------------------------------------------------------------------------------


def test_a_study_without_noise_has_the_laws_that_were_built_in() -> None:
    built = build(sp_adamw=parabolas([-8, -9, -10, -11], floors=FLOORS))
    expected = {
        "rho_trend": (0.05 / 0.125 - 0.45 / 0.875) / 2,
        "rho_exponent": (math.log2(0.05 / 0.125) - math.log2(0.45 / 0.875)) / 2,
        "rate_fit_error": 0.0,
        "curvature_slope": 0.0,
        "loss_exponent": 1.0,
        "loss_limit": 1.2,
        "robustness_exponent": 1.0,
    }
    assert set(built["scaling"]["statistic"]) == set(expected)
    for name, value in expected.items():
        row = law(built, name)
        assert row["estimate"] == pytest.approx(value, abs=1e-5), name
        assert (row["low"], row["high"]) == pytest.approx((value, value), abs=1e-5), name
        assert (row["status"], row["reason"]) == ("ok", ""), name


def test_the_interval_of_a_limit_is_the_jackknifes() -> None:
    """All losses of seed s are higher by shift s, and so is the limit: its standard error is that of the mean shift."""
    shift = np.array([0.0, 0.01, 0.05])
    surface = parabolas([-8] * 4, floors=FLOORS, noise=np.broadcast_to(shift, (4, 11, 3)).copy())
    row = law(build(sp_adamw=surface), "loss_limit")
    half = 4.302653 * shift.std(ddof=1) / math.sqrt(3)  # Student's t, 2 degrees of freedom
    np.testing.assert_allclose([row["estimate"], row["low"], row["high"]], 1.22 + np.array([0, -half, half]), rtol=1e-5)


def test_a_law_that_is_not_known_says_why() -> None:
    three = build(sp_adamw=parabolas([-8, -8, -8], floors=FLOORS[:3]))
    level = build(sp_adamw=parabolas([-8] * 4))
    edges = build(sp_adamw=parabolas([-8, -8, -11, -11], log2_lrs=range(-10, -4), floors=FLOORS))
    one = build(sp_adamw=parabolas([-8] * 4, floors=FLOORS, seeds=1))
    found = {
        "three widths": law(three, "loss_limit"),
        "two sources": law(three, "rho_trend"),
        "no fall": law(level, "robustness_exponent"),
        "no gain": law(level, "rho_trend"),
        "edges": law(edges, "rate_fit_error"),
        "no parabola": law(edges, "robustness_exponent"),
        "zero": law(build(sp_adamw=parabolas([-8] * 4, floors=FLOORS)), "rho_exponent"),
        "one seed": law(one, "rho_trend"),
    }
    assert all(row["status"] == "not_estimable" and np.isnan(row["estimate"]) for row in found.values())
    assert {name: row["reason"] for name, row in found.items()} == {
        "three widths": "3 widths, and a power law with a limit takes 4",
        "two sources": "2 widths are narrower than the widest, 3 are needed",
        "no fall": "the best losses don't tell a limit: they follow no power law that falls to one above 0",
        "no gain": "a width has no share: widening it bought nothing, or a best rate is not known",
        "edges": "2 of 4 widths have an optimum inside the grid, 3 are needed",
        "no parabola": "2 of 4 widths have a parabola, 3 are needed",
        "zero": "a share is not above 0",
        "one seed": "one seed, and cross-fitting takes two",
    }
    limit = law(one, "loss_limit")
    assert limit["estimate"] == pytest.approx(1.2, abs=1e-5)
    assert (limit["status"], limit["reason"]) == ("ok", "one seed, so no interval")


def test_the_penalty_compares_each_method_with_its_own_under_mup() -> None:
    higher = [floor + 0.3 for floor in FLOORS]
    arm = make_rows(parabolas([-8] * 4, floors=[floor + 0.1 for floor in FLOORS]), method="sp_adamw").assign(
        method="sp_adamw_embedding", embedding_lr="times_width", run_id=lambda rows: rows["run_id"] + "e"
    )
    others = {"sp_adamw": higher, "mup_adamw": FLOORS, "sp_schedulefree": FLOORS, "sp_sgd": FLOORS}
    rows = [make_rows(parabolas([-8] * 4, floors=floors), method=name) for name, floors in others.items()]
    built = tables.build(pd.concat([*rows, arm], ignore_index=True), NO_CURVES)
    table = built["scaling"].query("statistic == 'limit_penalty'").set_index(["method", "rival"])["estimate"]
    assert table.to_dict() == pytest.approx(
        {("sp_adamw", "mup_adamw"): 0.3, ("sp_adamw_embedding", "mup_adamw"): 0.1}, abs=1e-5
    ), "no µP was run with ScheduleFree or SGD"
    estimates = built["estimates"].query("statistic == 'limit_penalty'").set_index("subject")["estimate"]
    assert estimates.to_dict() == pytest.approx(
        {"sp_adamw - mup_adamw": 0.3, "sp_adamw_embedding - mup_adamw": 0.1}, abs=1e-5
    )


def test_estimates_hold_the_share_of_base_widths_rate_by_width_and_the_laws() -> None:
    built = build(sp_adamw=parabolas([-8, -9, -10, -11], floors=FLOORS))
    found = built["estimates"].query("statistic == 'rho'").set_index("width")
    assert found["estimate"].to_dict() == pytest.approx({64: 0.1, 128: 0.2 / 0.75, 256: 0.45 / 0.875})
    assert set(found["unit"]) == {"share"}
    limit = built["estimates"].query("statistic == 'loss_limit'").iloc[0]
    assert (limit["subject"], limit["unit"], limit["estimate"]) == ("sp_adamw", "nats", pytest.approx(1.2, abs=1e-5))

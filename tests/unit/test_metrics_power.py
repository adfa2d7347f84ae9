"""Power of a design: the noise that a pilot shows is the noise that made it, and more of a study sees more."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t
from studies import with_grid
from surfaces import make_rows, parabolas
from test_verdicts import estimate, frame, hypotheses

from mufree.analysis.metrics.power import Design, Noise, measure_noise, power, seeds_needed
from mufree.analysis.metrics.surface import Surface
from mufree.analysis.seeds import seeds_table
from mufree.analysis.tables.power import power_table
from mufree.study.config import Study

FOUR_WIDTHS = np.array([0.0, 1.0, 2.0, 3.0])
QUIET = Noise(curvature=0.05, run_sd=1e-4, slope_sd=0.0)


def valley(n_seeds: int, run_sd: float, slope_sd: float, rng: np.random.Generator) -> Surface:
    x = np.arange(-3.0, 4.0)
    level = rng.normal(0, 1.0, (1, 1, n_seeds))
    slopes = rng.normal(0, slope_sd, (2, 1, n_seeds))
    noise = rng.normal(0, run_sd, (2, len(x), n_seeds))
    loss = 5 + 0.05 * x[:, None] ** 2 + level + slopes * x[:, None] + noise
    return Surface(1, np.array([1, 2]), x, loss, np.full_like(loss, 10.0), np.zeros_like(loss, dtype=bool))


def test_noise_of_an_exact_parabola_is_none_and_its_curvature_is_that_of_the_parabola() -> None:
    noise = measure_noise(valley(3, 0.0, 0.0, np.random.default_rng(0)))
    assert noise.curvature == pytest.approx(0.05)
    assert noise.run_sd == pytest.approx(0, abs=1e-12)
    assert noise.slope_sd == pytest.approx(0, abs=1e-12)


def test_the_noise_put_in_is_measured_and_a_level_of_seeds_is_not_noise() -> None:
    noise = measure_noise(valley(2000, 0.02, 0.01, np.random.default_rng(0)))  # levels scatter by 1
    assert noise.run_sd == pytest.approx(0.02, rel=0.05)
    assert noise.slope_sd == pytest.approx(0.01, rel=0.05)


def test_noise_of_few_seeds_is_not_too_small_on_average() -> None:
    rng = np.random.default_rng(0)
    found = [measure_noise(valley(3, 0.02, 0.0, rng)).run_sd for _ in range(400)]
    assert np.mean(np.square(found)) == pytest.approx(0.02**2, rel=0.05)


def test_two_seeds_and_an_optimum_at_the_edge_are_errors_that_say_so() -> None:
    surface = valley(3, 0.0, 0.0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="3 seeds"):
        measure_noise(surface.keep(np.array([0, 1])))
    lower_half = Surface(
        1,
        surface.widths,
        surface.log2_lrs[:3],
        *(a[:, :3] for a in (surface.loss, surface.initial_loss, surface.diverged)),
    )
    with pytest.raises(ValueError, match="extend its grid"):
        measure_noise(lower_half)


def test_without_noise_everything_is_found() -> None:
    found = power(QUIET, Design(FOUR_WIDTHS, 11, 5), n_simulations=20)
    assert found["equivalence"] == found["detection"] == 1
    assert found["half_width"] < 0.02


def test_the_optimum_lies_between_the_middle_rates_so_that_three_are_enough_where_it_stays() -> None:
    assert power(QUIET, Design(FOUR_WIDTHS, 3, 5), drift_to_detect=0.0, n_simulations=20)["equivalence"] == 1


def test_where_the_base_lies_among_the_widths_makes_no_difference() -> None:
    noise = Noise(0.02, 0.01, 0.002)
    found = [power(noise, Design(FOUR_WIDTHS - below, 9, 3), n_simulations=10) for below in (0, 2)]
    assert found[0] == pytest.approx(found[1])


def test_in_much_noise_equivalence_is_rarely_shown_and_a_drift_rarely_told() -> None:
    found = power(Noise(0.01, 0.1, 0.0), Design(FOUR_WIDTHS, 11, 3), n_simulations=40)
    assert found["equivalence"] < 0.2
    assert found["detection"] < 0.5


def test_width_of_the_interval_goes_as_noise_over_curvature() -> None:
    design = Design(FOUR_WIDTHS, 11, 5)
    once = power(Noise(0.05, 0.002, 0.0), design, n_simulations=40)["half_width"]
    both = power(Noise(0.10, 0.004, 0.0), design, n_simulations=40)["half_width"]
    assert both == pytest.approx(once, rel=1e-6)
    assert power(Noise(0.05, 0.004, 0.0), design, n_simulations=40)["half_width"] == pytest.approx(2 * once, rel=0.2)


def test_more_widths_and_more_seeds_see_more() -> None:
    noise = Noise(0.02, 0.01, 0.002)
    small = power(noise, Design(FOUR_WIDTHS[:3], 9, 3), n_simulations=40)
    wider = power(noise, Design(FOUR_WIDTHS, 9, 3), n_simulations=40)
    more = power(noise, Design(FOUR_WIDTHS[:3], 9, 8), n_simulations=40)
    for better in (wider, more):
        assert better["half_width"] < small["half_width"]
        assert better["detection"] >= small["detection"]
    assert more["loss_half_width"] < wider["loss_half_width"] == small["loss_half_width"]


def test_the_table_has_the_planned_design_and_the_numbers_of_seeds_asked_for() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (2, 7, 3))
    surface = parabolas([-9, -9], widths=(16, 32), log2_lrs=range(-12, -5), noise=noise)
    pilot = make_rows(surface, task="photo", method="mup_adamw")
    planned = Study.model_validate(with_grid(widths=[16, 32, 64], log2_lrs=[-10, -9, -8, -7], seeds=[0, 1, 2, 3]))
    table = power_table(pilot, planned, seeds=[3], n_simulations=5)
    assert table[["n_seeds", "planned"]].values.tolist() == [[3, False], [4, True]]
    assert table[["widths", "width_range", "rates"]].drop_duplicates().values.tolist() == [[3, 4.0, 4]]
    assert table["reason"].tolist() == ["", ""]


def test_a_pilot_whose_best_rate_is_at_the_edge_gives_a_reason_and_no_number() -> None:
    surface = parabolas([-9, -9], widths=(16, 32), log2_lrs=range(-9, -5))
    pilot = make_rows(surface, task="photo", method="mup_adamw")
    table = power_table(pilot, Study.model_validate(with_grid(seeds=[0, 1, 2])), n_simulations=5)
    assert "extend its grid" in table["reason"].item()
    assert "half_width" not in table or table["half_width"].isna().all()


def test_what_the_study_does_not_plan_is_an_error() -> None:
    surface = parabolas([-9, -9], widths=(16, 32))
    pilot = pd.concat([make_rows(surface, task="photo", method=m) for m in ("mup_adamw", "sp_adamw")])
    with pytest.raises(ValueError, match="plans no primary runs of photo, sp_adamw"):
        power_table(pilot, Study.model_validate(with_grid()), n_simulations=5)


@pytest.mark.parametrize(("within", "truth"), [((-np.inf, 0.0), -0.3), ((-0.25, 0.25), 0.05)])
def test_so_many_seeds_find_it_nine_times_in_ten_and_one_fewer_does_not(
    within: tuple[float, float], truth: float
) -> None:
    n, rng = seeds_needed(truth, 0.4, within, 0.05), np.random.default_rng(0)

    def found(seeds: int) -> float:
        samples = rng.normal(truth, 0.4, (40_000, int(seeds)))
        mean, half = samples.mean(axis=1), t.ppf(0.95, seeds - 1) * samples.std(axis=1, ddof=1) / seeds**0.5
        return float(((mean - half > within[0]) & (mean + half < within[1])).mean())

    assert found(int(n)) >= 0.895
    assert found(int(n) - 1) < 0.905


def test_seeds_at_the_ends() -> None:
    assert seeds_needed(-1.0, 0.0, (-np.inf, 0.0), 0.05) == 3
    assert seeds_needed(-1.0, 1e-6, (-np.inf, 0.0), 0.05) == 3
    assert seeds_needed(0.1, 1.0, (-np.inf, 0.0), 0.05) == np.inf  # the truth is on the other side
    assert seeds_needed(-1e-6, 1.0, (-np.inf, 0.0), 0.05) == np.inf
    assert np.isnan(seeds_needed(np.nan, 1.0, (-np.inf, 0.0), 0.05))
    assert np.isnan(seeds_needed(-1.0, np.nan, (-np.inf, 0.0), 0.05))
    assert seeds_needed(-0.3, 0.4, (-np.inf, 0.0), 0.05) < seeds_needed(-0.3, 0.4, (-np.inf, 0.0), 0.05 / 3)


def test_the_table_of_seeds_names_the_range_that_would_decide_and_its_price() -> None:
    conditions = [
        {"statistic": "drift", "subject": "mup_adamw", "rule": "below", "margin": 0.0, "against_low": -0.1},
        {"statistic": "drift", "subject": "sp_adamw", "rule": "excludes_zero", "margin": 0.25},
        {"statistic": "rate_ratio_slope", "subject": "a / b", "rule": "inside", "margin": 0.25},
    ]
    file = hypotheses(*conditions, kind="primary", n=2)
    rows = [estimate("drift", "mup_adamw", -0.05, 0.02), estimate("drift", "sp_adamw", -0.5, 0.1)]
    timings = pd.DataFrame(
        {
            "task": "a",
            "method": ["mup_adamw", "other"],
            "setup_seconds": 0.0,
            "train_seconds": 3600.0,
            "evaluate_seconds": 0.0,
        }
    )
    table = seeds_table(frame(*rows), file.hypotheses[:2], timings)
    first, second, third = table[table["id"] == "H1"].to_dict("records")
    sd = 0.02 * 5**0.5
    assert first["outcome"] == "refuted"
    assert first["seeds"] == seeds_needed(-0.05, sd, (-0.1, np.inf), 0.05)
    assert first["seeds_holm"] == seeds_needed(-0.05, sd, (-0.1, np.inf), 0.025)
    assert first["core_hours"] == first["seeds"] * 1 / 5  # an hour for five seeds; the other method is none of the four
    assert second["outcome"] == "supported"
    assert second["seeds"] == seeds_needed(-0.5, 0.1 * 5**0.5, (-np.inf, 0.0), 0.025)  # two-sided
    assert np.isnan(third["seeds"])
    assert third["reason"]

"""The paper's numbers and sentences, from a made-up frozen study whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from mufree.analysis.metrics.statistics import t_interval
from mufree.analysis.verdicts import ESTIMATE_COLUMNS, judge
from mufree.publish import follow_ups, paper
from mufree.publish.frozen import Frozen
from mufree.publish.numbers import collect
from mufree.publish.numbers.values import detectable_interaction
from mufree.publish.numbers.words import drift_words
from mufree.study.hypotheses import Hypotheses

HYPOTHESES = Hypotheses.model_validate(
    yaml.safe_load((Path(__file__).parents[2] / "experiments/hypotheses.yaml").read_text())
)
METHODS = ("sp_adamw", "sp_schedulefree", "mup_adamw", "mup_schedulefree")
TRANSFERS = dict(zip(METHODS, (-1.0, -1.0, 0.0, 0.0), strict=True))
NOWHERE = dict.fromkeys(METHODS, 0.0)


def estimate(task: str, statistic: str, subject: str, value: float, width: float = np.nan) -> dict[str, Any]:
    wide, narrow = t_interval(value, 0.02, 5), t_interval(value, 0.02, 5, 0.90)
    numbers = (value, float(wide.low), float(wide.high), float(narrow.low), float(narrow.high), 0.02, 5)
    row = (task, subject, width, statistic, *numbers, "", "ok", "")
    return dict(zip(ESTIMATE_COLUMNS, row, strict=True))


def made_up(drifts: dict[str, dict[str, float]], **changes: Any) -> Frozen:
    """A study in which each task's methods drift as told; everything else is alike."""
    rows, estimates, optima = [], [], []
    for task, by_method in drifts.items():
        for method, drift in by_method.items():
            estimates.append(estimate(task, "drift", method, drift))
            for width in (16, 64):
                estimates.append(estimate(task, "best_loss", method, 2.0 - ("mup" in method) / 10, width))
                estimates.append(estimate(task, "regret_cf", method, 0.0, width))
                optima.append(
                    {
                        **{"task": task, "method": method, "width": width, "n_seeds": 5, "n_runs": 1, "n_diverged": 0},
                        **{"log2_lr_opt": -8.0, "log2_lr_opt_low": -8.1, "log2_lr_opt_high": -7.9},
                        **{"log2_lr_argmin": -8.0, "best_loss": 2.0, "flag": "ok"},
                        **{"best_loss_se": 0.01, "sigma_seed": 0.02},
                    }
                )
                free = "schedulefree" in method
                rows.append(
                    {
                        **{"run_id": f"{task}{method}{width}", "task": task, "method": method, "variant": ""},
                        **{"parametrization": method.partition("_")[0], "average": "none", "embedding_lr": "shared"},
                        **{"optimizer": "adamw_schedulefree" if free else "adamw", "status": "ok"},
                        **{"schedule": "constant" if free else "cosine", "width": width, "base_width": 16},
                        **{"log2_lr": -8, "seed": 0, "steps": 100, "batch_size": 4},
                    }
                )
    table = pd.DataFrame(estimates)
    control = pd.DataFrame([{"task": task, "n_pairs": 4, "n_equal": 4} for task in drifts])
    checks = [{"task": task, "method": method, "passed": "mup" in method} for task in drifts for method in METHODS]
    dataset = {"name": "photo_patches"}
    frozen: dict[str, Any] = {
        "manifest": {
            "complete": False,
            "part": False,
            "missing": "m",
            "study": "s",
            "run_set": "0123abcd",
            "core_hours": 2.0,
        },
        "study": {"tasks": {t: {"description": f"A net on {t}", "dataset": dataset, "base_width": 16} for t in drifts}},
        "hypotheses": HYPOTHESES,
        "provenance": {"data": [{"settings": dataset, "sizes": {"train": 1}, "digest": "d"}]},
        "tables": {
            "estimates": table,
            "optima": pd.DataFrame(optima),
            "control": control,
            "coordcheck_verdict": pd.DataFrame(checks),
            "anytime": pd.DataFrame(columns=["task", "method", "rival", "horizon"]),
            "stability": pd.DataFrame(columns=["task", "method", "n_learnt_nothing"]),
            "regret": pd.DataFrame(columns=["task", "method", "width"]),
            "rate_ratio": pd.DataFrame(columns=["task", "numerator", "denominator"]),
            "arms": pd.DataFrame(columns=["task", "method", "width", "horizon"]),
            "weight_decay_optimum": pd.DataFrame(columns=["task", "method", "weight_decay_scaling"]),
        },
        "runs": pd.DataFrame(rows),
        "verdicts": judge(table, HYPOTHESES),
        "calibration": None,
        "power": None,
        "checked_seeds": dict.fromkeys(drifts, 5),
    }
    return Frozen(**(frozen | changes))


def said(frozen: Frozen, claim: str) -> str:
    return " ".join(collect(frozen, [])["sentences"][claim])


# --- sentences -------------------------------------------------------------------------------------------------------


def test_the_headline_follows_the_verdict() -> None:
    assert "moves by less than ±0.25 doublings" in said(made_up({"a": TRANSFERS}), "headline")
    assert "it is not true" in said(made_up({"a": NOWHERE}), "headline")
    both = said(made_up({"a": TRANSFERS, "b": NOWHERE}), "headline")
    assert "On a, under µP with ScheduleFree the best learning rate moves by less" in both
    assert "; on b, it is not true" in both


def test_what_comes_after_the_headline_spans_the_tasks() -> None:
    assert "ScheduleFree's best rate drifts by 0.00 doublings per doubling of width under µP and by −1.00" in said(
        made_up({"a": TRANSFERS}), "in-short"
    )
    both = said(made_up({"a": TRANSFERS, "b": NOWHERE}), "in-short")
    assert both.startswith("From task to task, ScheduleFree's best rate drifts by ")
    assert "under µP and by −1.00 to 0.00 under SP" in both


def test_a_headline_that_only_the_correction_leaves_open_says_so() -> None:
    frozen = made_up({"a": TRANSFERS})
    verdicts = frozen.verdicts.copy()
    at = verdicts["id"].eq("H1a") & verdicts["scope"].eq("task")
    assert "tested alone" not in said(frozen, "headline")
    verdicts.loc[at, ["verdict", "p_holm"]] = ["inconclusive", 0.0521]
    text = said(made_up({"a": TRANSFERS}, verdicts=verdicts), "headline")
    assert text.startswith("On a, whether µP keeps")
    assert text.endswith("; both parts hold when tested alone, and not after Holm's correction, p 0.052.")
    part = verdicts["id"].eq("H1a") & verdicts["scope"].eq("condition")
    verdicts.loc[part.idxmax(), "verdict"] = "inconclusive"
    assert "tested alone" not in said(made_up({"a": TRANSFERS}, verdicts=verdicts), "headline")


def test_who_ends_lower_without_having_been_run_at_the_largest_width_is_named() -> None:
    frozen = made_up({"a": TRANSFERS})
    optima = frozen.tables["optima"]
    (narrow,) = optima.query("method == 'mup_adamw' and width == 16").to_dict("records")

    def with_narrow(loss: float) -> str:
        more = pd.DataFrame([{**narrow, "method": "mup_sgd", "best_loss": loss}])
        tables = {**frozen.tables, "optima": pd.concat([optima, more], ignore_index=True)}
        return said(made_up({"a": TRANSFERS}, tables=tables), "best")

    assert with_narrow(1.85).endswith(
        ". Lower still, and not run at that width: mup_sgd 1.850 ± 0.010 (standard error) at width 16."
    )
    assert "Lower still" not in with_narrow(1.95)  # the lowest at the largest width is 1.9


def test_the_recipe_says_what_was_measured_and_nothing_else() -> None:
    nothing = made_up({"a": TRANSFERS})
    assert said(nothing, "recipe") == "a: µP with ScheduleFree was not run."
    method, rival = "mup_schedulefree", "mup_adamw"
    regret = {"task": "a", "method": method, "width": 64, "log2_lr_transferred": -7, "regret_cf": 0.01}
    ratios = [{"task": "a", "numerator": method, "denominator": rival, "log2_ratio": x} for x in (1.0, 2.0)]
    arms = [
        {"task": "a", "method": method, "width": 16, "horizon": 1, "weight_decay": 0.0, "beta1": b, "best_loss": x}
        for b, x in ((0.9, 2.0), (0.95, 1.5))
    ]
    decay = {"task": "a", "method": method, "width": 16, "weight_decay_scaling": "coupled", "weight_decay": 0.05}
    decay["flag"] = "edge_high"
    tables = {
        **nothing.tables,
        "regret": pd.DataFrame([regret | {"regret_cf_low": 0.0, "regret_cf_high": 0.02}]),
        "rate_ratio": pd.DataFrame(ratios),
        "arms": pd.DataFrame([row | {"best_loss_se": 0.1} for row in arms]),
        "weight_decay_optimum": pd.DataFrame([decay]),
    }
    text = said(made_up({"a": TRANSFERS}, tables=tables), "recipe")
    assert "best at width 16, log2 −7, costs 0.010 [0.000, 0.020] nats at width 64." in text
    assert "2.0 to 4.0 times AdamW's" in text
    assert "0.95 1.500 ± 0.100 and 0.9 2.000 ± 0.100." in text
    assert "is 0.05 (the largest tried) at width 16 for" in text


def test_a_regret_is_from_base_width_even_where_there_is_a_narrower_one() -> None:
    frozen = made_up({"a": TRANSFERS})
    study = {"tasks": {"a": dict(frozen.study["tasks"]["a"], base_width=64)}}
    assert "from width 64 to 64" in said(made_up({"a": TRANSFERS}, study=study), "regret")


def test_a_control_with_fewer_seeds_does_not_make_the_study_exploratory() -> None:
    frozen = made_up({"a": TRANSFERS})
    optima = frozen.tables["optima"]
    control = optima.tail(1).assign(method="sp_sgd", n_seeds=3)
    tables = {**frozen.tables, "optima": pd.concat([optima, control], ignore_index=True)}
    assert made_up({"a": TRANSFERS}, tables=tables).least_seeds == 5
    fewer = {**frozen.tables, "optima": optima.assign(n_seeds=3)}
    assert "exploratory" in said(made_up({"a": TRANSFERS}, tables=fewer), "seeds")


@pytest.mark.parametrize(
    ("drift", "se", "wanted"),
    [
        (0.0, 0.02, "no drift"),
        (0.1, 0.02, "small"),
        (-1.0, 0.02, "drifts"),
        (0.3, 0.2, "undecided"),
        (0.0, np.nan, "undecided"),
        (np.nan, np.nan, "not estimable"),
    ],
)
def test_what_a_drift_shows(drift: float, se: float, wanted: str) -> None:
    wide, narrow = t_interval(drift, se, 5), t_interval(drift, se, 5, 0.90)
    row = {"estimate": drift, "low": float(wide.low), "high": float(wide.high), "status": "ok"}
    assert drift_words(row | {"low90": float(narrow.low), "high90": float(narrow.high)}) == wanted


def test_an_answer_that_only_the_correction_leaves_open_says_so() -> None:
    frozen = made_up({"a": TRANSFERS})
    verdicts = frozen.verdicts.copy()
    verdicts.loc[verdicts["id"].eq("H1a") & verdicts["scope"].eq("task"), ["verdict", "p_holm"]] = [
        "inconclusive",
        0.0521,
    ]
    open_ = made_up({"a": TRANSFERS}, verdicts=verdicts)
    assert "a: inconclusive (Holm p 0.052; every part holds when tested alone). " in said(open_, "transfer")
    assert "tested alone" not in said(frozen, "transfer")


def test_what_is_asked_at_several_widths_is_said_once() -> None:
    frozen = made_up({"a": TRANSFERS})
    pair = "mup_schedulefree / mup_adamw"
    ratios = [estimate("a", "rate_ratio", pair, x, w) for w, x in ((16, 1.0), (64, 2.0))]

    def answered(rows: list[dict[str, Any]]) -> str:
        rows = [*rows, estimate("a", "rate_ratio_slope", pair, 0.0)]
        table = pd.concat([frozen.tables["estimates"], pd.DataFrame(rows)], ignore_index=True)
        tables = {**frozen.tables, "estimates": table}
        return said(made_up({"a": TRANSFERS}, tables=tables, verdicts=judge(table, HYPOTHESES)), "rate")

    once = "Ratio of the best rates of µP · ScheduleFree AdamW over µP · AdamW + cosine"
    alike = answered(ratios)
    assert (
        f"{once}, in doublings: at width 16 +1.00 [+0.94, +1.06]; at width 64 +2.00 [+1.94, +2.06]; all supported"
        in alike
    )
    odd = answered([ratios[0], estimate("a", "rate_ratio", pair, -1.0, 64)])
    assert "at width 16 +1.00 [+0.94, +1.06], supported; at width 64 −1.00 [−1.06, −0.94], refuted" in odd
    assert f"{once} at width 16 +1.00 [+0.94, +1.06] doublings: supported" in answered(ratios[:1])


def test_counted_in_the_embeddings_own_rate_a_drift_is_larger_by_one() -> None:
    drifts = {"a": {**TRANSFERS, "sp_adamw_embedding": -1.0}}
    runs = made_up(drifts).runs
    arm = runs["method"].eq("sp_adamw_embedding")
    frozen = made_up(drifts, runs=runs.assign(embedding_lr=np.where(arm, "times_width", "shared")))
    text = said(frozen, "embedding-own-rate")
    assert "own rate, 0.00 [−0.06, +0.06], no drift; SP · AdamW + cosine −1.00 [−1.06, −0.94]; µP" in text
    assert "Best loss at width 64, in nats: SP · AdamW, embedding rate × width 2.000 [" in text
    assert said(made_up({"a": TRANSFERS}), "embedding-own-rate") == "It was not run."


def test_answers_say_over_all_tasks_and_then_each() -> None:
    mixed = collect(made_up({"a": TRANSFERS, "b": NOWHERE}), [])["sentences"]["transfer"]
    assert mixed[0] == "Inconclusive overall: supported in a; refuted in b."
    assert mixed[1].startswith(
        "a: supported (Holm p < 0.001). Drift of the best rate of µP · ScheduleFree AdamW 0.00 ["
    )
    assert mixed[2].startswith("b: refuted (Holm p < 0.001). ")
    assert said(made_up({"a": TRANSFERS}), "transfer").startswith("Supported in a.")
    assert said(made_up({"a": TRANSFERS}), "decay") == "Not estimable in any task: it was not measured."


def test_a_broken_control_is_said_and_surprises() -> None:
    frozen = made_up({"a": TRANSFERS})
    assert said(frozen, "negative-control") == "a: the same losses, bit for bit, in all 4 pairs of runs."
    assert said(frozen, "surprises").startswith("Nothing")
    frozen.tables["control"]["n_equal"] = 3
    assert "in doubt" in said(frozen, "negative-control")
    assert "On a, SP and µP differ at base width." in said(frozen, "surprises")


def test_a_verdict_against_expectation_is_a_surprise() -> None:
    text = said(made_up({"a": NOWHERE}), "surprises")
    assert "C1 was expected to be refuted and is supported in a." in text
    assert "R5 was expected to be supported and is refuted in a." in text


def test_the_gate_says_what_it_is_worth() -> None:
    frozen = made_up({"a": TRANSFERS})
    assert said(frozen, "coordinate-check") == "a: µP passes 2 of 2 checks, SP passes 0 of 2; as it has to be."
    table = frozen.tables["coordcheck_verdict"]
    table["passed"], table["n_sure"] = [True, False, False, True], [0, 1, 1, 0]
    text = said(frozen, "coordinate-check")
    assert "what is said of µP · AdamW + cosine here is in doubt" in text
    assert "does not tell µP from SP" in text
    table["n_sure"] = 0
    text = said(frozen, "coordinate-check")
    assert "in doubt" not in text
    assert "for µP · AdamW + cosine its seeds are too few to decide" in text


def test_no_sentence_begins_with_a_greek_capital() -> None:
    found = collect(made_up({"a": TRANSFERS}), [])["sentences"]
    assert not [text for lines in found.values() for text in lines if "Μ" in text]


def test_what_a_note_opens_with_stands_beside_every_number_and_all_of_it_in_the_limits() -> None:
    frozen = made_up({"a": TRANSFERS})
    frozen.study["tasks"]["a"]["note"] = "From a copy: it differs a little."
    assert collect(frozen, ["loss_vs_lr"])["captions"]["a"]["loss_vs_lr"].endswith(
        "data: photo patches (from a copy); run set 0123abcd."
    )
    assert said(frozen, "scope").endswith(" From a copy: it differs a little.")


# --- follow-ups ------------------------------------------------------------------------------------------------------


def with_losses(frozen: Frozen, failing: dict[tuple[str, int, int], str]) -> Frozen:
    """Rates 2⁻⁸ and 2⁻⁷ at widths 16, 32, 64; a run diverges, or stays where it began, if its (method, width, rate) says so."""
    first = frozen.runs[frozen.runs["width"].eq(16)].assign(initial_loss=2.3, train_loss=1.0)
    runs = pd.concat([first.assign(width=w, log2_lr=lr) for w in (16, 32, 64) for lr in (-8, -7)], ignore_index=True)
    for (method, width, log2_lr), how in failing.items():
        at = runs["method"].eq(method) & runs["width"].eq(width) & runs["log2_lr"].eq(log2_lr)
        runs.loc[at, "train_loss"] = {"diverged": 2.4, "stuck": 2.295}[how]
        runs.loc[at, "status"] = {"diverged": "diverged", "stuck": "ok"}[how]
    for task in frozen.study["tasks"].values():
        task["model"] = {"name": "mlp"}
    return made_up({str(first["task"].iloc[0]): TRANSFERS}, runs=runs, study=frozen.study)


def test_a_follow_up_says_what_was_asked_and_what_came_out_beside_what_was_before() -> None:
    failing = {("sp_adamw", 64, -8): "stuck", ("sp_adamw", 64, -7): "diverged", ("sp_adamw", 32, -7): "diverged"}
    study = with_losses(made_up({"a": NOWHERE}), failing)
    later = with_losses(made_up({"again": TRANSFERS}), {("sp_adamw", 64, -7): "stuck"})
    later.study["tasks"]["again"]["note"] = "Is it so?"
    study.study["tasks"]["a"]["note"] = "From a copy: it differs."
    (found,) = follow_ups.collect(study, later)["tasks"]
    assert (found["name"], found["question"]) == ("again", "Is it so?")
    assert "Is it so?" not in " ".join(found["findings"])
    assert "data: photo patches (from a copy); run set 0123abcd." in found["caption"]
    assert found["findings"][0].startswith("A net on again; widths 16, 32, 64, log2 rates −8, −7")
    assert (
        "Drift of SP · AdamW + cosine −1.00 [−1.06, −0.94], drifts; in a it is −1.00 [−1.06, −0.94]."
        in found["findings"]
    )
    assert (
        "SP · AdamW + cosine fails, by divergence or by learning nothing, width 16: at no log2 rate up to −7; width 32: at no "
        "log2 rate up to −7; width 64: from log2 rate −7 on (1 of 1 seeds there). Of the 6 runs whose method, width, rate and "
        "seed a has as well, 1 fail here and 3 there."
    ) in found["findings"]


def test_a_follow_up_without_a_like_in_the_study_is_compared_with_nothing() -> None:
    study, later = (with_losses(made_up({name: TRANSFERS}), {}) for name in ("a", "again"))
    later.study["tasks"]["again"]["model"] = {"name": "vit"}
    (found,) = follow_ups.collect(study, later)["tasks"]
    assert not [text for text in found["findings"] if "; in a " in text or "has as well" in text]


def test_what_other_seeds_say_of_the_verdict_ends_the_headline() -> None:
    def on(name: str, drifts: dict[str, float], seed: int, **settings: Any) -> Frozen:
        frozen = with_losses(made_up({name: drifts}), {})
        frozen.study["tasks"][name] |= settings
        return made_up({name: drifts}, runs=frozen.runs.assign(seed=seed), study=frozen.study)

    study = on("a", NOWHERE, 0)
    held = "both parts hold again on other seeds of a, post hoc"
    assert follow_ups.again(study, on("more", TRANSFERS, 5)) == held
    assert follow_ups.again(study, on("more", NOWHERE, 5)) == "not so on other seeds of a, post hoc"
    assert follow_ups.again(study, on("more", dict.fromkeys(METHODS, -1.0), 5)).startswith("not so")
    assert follow_ups.again(study, on("more", TRANSFERS, 0)) == ""  # the same seeds
    assert follow_ups.again(study, on("more", TRANSFERS, 5, training={"steps": 7})) == ""  # another design
    assert collect(study, [], held)["sentences"]["headline"][0].endswith(f"; {held}.")


# --- numbers, captions, tables ---------------------------------------------------------------------------------------


def test_numbers_have_text_value_interval_and_source() -> None:
    found = collect(made_up({"a": TRANSFERS}), [])["numbers"]
    drift = found["a/sp_adamw/drift"]
    assert drift["text"] == "−1.00 doublings per doubling of width"
    assert (drift["value"], drift["interval"]) == (-1.0, "[−1.06, −0.94]")
    assert drift["source"] == "tables/estimates.csv: task=a, subject=sp_adamw, statistic=drift"
    assert found["a/mup_adamw/best_loss/w64"]["value"] == 1.9
    assert found["primary_supported"]["value"] == 1.0


def test_the_detectable_interaction_is_the_plans() -> None:
    """METRICS: 3.3 σ with 5 seeds; by hand (2.776 + 0.941) · 2/√5."""
    assert detectable_interaction(5) == pytest.approx((2.7764451 + 0.9409646) * 2 / 5**0.5, abs=1e-6)
    assert np.isnan(detectable_interaction(1))


def test_a_factor_that_was_not_run_has_no_figure() -> None:
    captions = collect(made_up({"a": TRANSFERS}), ["loss_vs_lr", "anytime", "averages"])["captions"]["a"]
    assert set(captions) == {"loss_vs_lr"}
    assert captions["loss_vs_lr"].endswith("data: photo patches; run set 0123abcd.")


def test_calibration_is_of_as_many_seeds_as_the_study_has() -> None:
    columns = ("statistic", "n_seeds", "coverage", "within_bounds")
    rows = [("drift", 3, 0.5, False), ("drift", 5, 0.93, True), ("drift", 5, 0.96, True), ("regret_cf", 5, 0.8, False)]
    frozen = made_up({"a": TRANSFERS}, calibration=pd.DataFrame(rows, columns=columns))
    assert collect(frozen, [])["sentences"]["calibration"] == [
        "drift, 5 seeds: coverage 93.0 to 96.0 % over 2 scenarios, of which 2 are as wanted.",
        "regret with both rates chosen anew, not reported, 5 seeds: coverage 80.0 to 80.0 % over 1 scenario, of which 0 are "
        "as wanted.",
    ]


def test_tables_as_csv_and_as_latex_that_every_engine_reads(tmp_path: Path) -> None:
    tables = paper.display_tables(made_up({"a": TRANSFERS, "b": NOWHERE}))
    paper.write_tables(tables, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in tables for kind in ("csv", "tex")
    }
    for name, table in tables.items():
        text = (tmp_path / f"{name}.tex").read_text()
        assert text.isascii()
        assert all(rule in text for rule in ("\\toprule", "\\midrule", "\\bottomrule", f"\\label{{tab:{name}}}"))
        back = pd.read_csv(tmp_path / f"{name}.csv", dtype=str, keep_default_na=False)
        pd.testing.assert_frame_equal(back, table.frame.astype("str"))
    main = pd.read_csv(tmp_path / "main.csv")
    assert main["Drift b"].tolist()[:1] == ["−1.00 [−1.06, −0.94]"]
    assert main["Reading"].tolist() == ["drifts", "drifts", "no drift", "no drift", *["no drift"] * 4]


def test_a_character_without_latex_is_an_error() -> None:
    table = paper.DisplayTable("c", pd.DataFrame({"a": ["☃"]}))
    with pytest.raises(paper.PaperError, match=r"no LaTeX for ☃ in table x; add it to paper\.LATEX"):
        paper.to_latex(table, "x")


def test_the_table_of_power_has_the_planned_design_alone() -> None:
    row = {
        "task": "a",
        "method": "mup_adamw",
        "widths": 4,
        "width_range": 8.0,
        "rates": 9,
        "curvature": 0.02,
        "run_sd": 0.03,
    }
    row |= {
        "slope_sd": 0.0,
        "equivalence": 0.5,
        "detection": 1.0,
        "interaction_half_width": 0.2,
        "loss_half_width": 0.04,
    }
    power = pd.DataFrame(
        [
            row | {"n_seeds": 3, "planned": False, "half_width": 0.3},
            row | {"n_seeds": 5, "planned": True, "half_width": 0.1},
        ]
    )
    table = paper.display_tables(made_up({"a": TRANSFERS}, power=power))["power"]
    assert table.frame[["Seeds", "Widths", "Drift", "None shown"]].values.tolist() == [
        ["5", "4 over 8×", "±0.10", "50 %"]
    ]
    assert paper.to_latex(table, "tab:power").isascii()
    assert "power" not in paper.display_tables(made_up({"a": TRANSFERS}))

"""Verdicts on estimates whose truth is known: what must be supported, refuted and neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mufree.analysis.metrics.statistics import t_interval
from mufree.analysis.verdicts import ESTIMATE_COLUMNS, judge
from mufree.study.hypotheses import Hypotheses

FILE = Path(__file__).parents[2] / "experiments/hypotheses.yaml"
REAL = Hypotheses.model_validate(yaml.safe_load(FILE.read_text()))


def estimate(statistic: str, subject: str, value: float, se: float = 0.02, **other: Any) -> dict[str, Any]:
    """A row of the table of estimates, with t intervals."""
    n = other.get("n_seeds", 5)
    wide, narrow = t_interval(value, se, n), t_interval(value, se, n, 0.90)
    row = {
        "task": "a",
        "subject": subject,
        "width": np.nan,
        "statistic": statistic,
        "estimate": value,
        "low": float(wide.low),
        "high": float(wide.high),
        "low90": float(narrow.low),
        "high90": float(narrow.high),
        "se": se,
        "n_seeds": n,
        "unit": "",
        "status": "ok",
        "reason": "",
    }
    return row | other


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=ESTIMATE_COLUMNS)


def hypotheses(*conditions: dict[str, Any], kind: str = "control", n: int = 1) -> Hypotheses:
    """`n` hypotheses of these conditions, with letters of their kind."""
    letter = {"primary": "H", "control": "C"}[kind]
    common = {"kind": kind, "claim": "c", "decided_by": "d", "expects": "open", "known": "k", "written": "2026-01-01"}
    each = [common | {"id": f"{letter}{i}", "conditions": list(conditions)} for i in range(1, n + 1)]
    return Hypotheses.model_validate({"hypotheses": each})


def two_ranges(value: float, se: float, **other: Any) -> str:
    """The verdict on a statistic that should be below 0, and is contradicted above −0.1."""
    found = hypotheses(condition("below", margin=0.0, against_low=-0.1))
    return str(judge(frame(estimate("drift", "mup_adamw", value, se, **other)), found)["verdict"].iloc[0])


def test_the_margin_says_what_contradicts() -> None:
    rules = [condition("below", margin=0.0, against_low=-0.1), condition("below", margin=0.02)]
    found = judge(frame(estimate("drift", "mup_adamw", 0.0, 0.1)), hypotheses(*rules))
    assert found["margin"].tolist()[:2] == ["0; refuted: above −0.1", "0.02"]


def condition(rule: str, **other: Any) -> dict[str, Any]:
    margin = {} if rule == "within" else {"margin": 0.25}
    return {"statistic": "drift", "subject": "mup_adamw", "rule": rule} | margin | other


def verdict(verdicts: pd.DataFrame, name: str, task: str = "a") -> str:
    found = verdicts[verdicts["id"].eq(name) & verdicts["task"].eq(task) & verdicts["scope"].ne("condition")]
    return str(found["verdict"].item())


def reason(verdicts: pd.DataFrame, name: str, task: str = "a") -> str:
    found = verdicts[verdicts["id"].eq(name) & verdicts["task"].eq(task) & verdicts["scope"].ne("condition")]
    return str(found["reason"].item())


# --- the study's own hypotheses --------------------------------------------------------------------------------------


def drifts(**by_method: float) -> list[dict[str, Any]]:
    return [estimate("drift", method, value) for method, value in by_method.items()]


def test_mup_transfers_and_sp_drifts() -> None:
    rows = drifts(sp_adamw=-1.0, sp_schedulefree=-1.0, mup_adamw=0.0, mup_schedulefree=0.0)
    verdicts = judge(frame(*rows), REAL)
    assert verdict(verdicts, "H1a") == "supported"
    assert verdict(verdicts, "C1") == "refuted"
    assert verdict(verdicts, "C2") == "supported"
    assert verdict(verdicts, "R5") == "supported"
    assert verdict(verdicts, "H1a", "all") == "supported"


def test_where_nothing_differs_nothing_is_claimed() -> None:
    rows = drifts(sp_adamw=0.0, sp_schedulefree=0.0, mup_adamw=0.0, mup_schedulefree=0.0)
    nothing = [estimate(name, "interaction", 0.0) for name in ("did_abs_drift", "did_regret_cf")]
    verdicts = judge(frame(*rows, *nothing), REAL)
    assert verdict(verdicts, "H1a") == "refuted"
    assert verdict(verdicts, "H1b") == "inconclusive"
    assert verdict(verdicts, "C1") == "supported"
    assert verdict(verdicts, "R5") == "refuted"


def test_noise_is_no_answer() -> None:
    rows = [
        {**row, **estimate("drift", row["subject"], row["estimate"], se=2.0)}
        for row in drifts(sp_adamw=-1.0, mup_adamw=0.0)
    ]
    verdicts = judge(frame(*rows), REAL)
    assert [verdict(verdicts, name) for name in ("C1", "C2", "R5")] == ["inconclusive"] * 3


def test_what_was_not_measured_is_not_estimable() -> None:
    verdicts = judge(frame(*drifts(mup_schedulefree=0.0)), REAL)
    assert verdict(verdicts, "H5") == "not_estimable"
    assert "it was not measured in this task" in reason(verdicts, "H5")
    # one part of H1a is there, the other isn't
    assert verdict(verdicts, "H1a") == "not_estimable"


# --- rules -----------------------------------------------------------------------------------------------------------

T90 = 2.131846786326649  # Student's t, 4 degrees of freedom, 95th percentile
T95 = 2.7764451051977987  # 97.5th


@pytest.mark.parametrize(
    ("rule", "value", "wanted"),
    [
        (condition("inside"), 0.25 - 0.021 * T90, "supported"),
        (condition("inside"), 0.25 - 0.019 * T90, "inconclusive"),
        (condition("inside"), -0.25 - 0.019 * T95, "inconclusive"),
        (condition("inside"), -0.25 - 0.021 * T95, "refuted"),
        (condition("below"), 0.25 - 0.021 * T90, "supported"),
        (condition("below"), 0.25 - 0.019 * T90, "inconclusive"),
        (condition("below"), 0.25 + 0.021 * T95, "refuted"),
        (condition("above"), 0.25 + 0.021 * T90, "supported"),
        (condition("above"), 0.25 - 0.021 * T95, "refuted"),
        (condition("excludes_zero"), 0.5, "supported"),
        (condition("excludes_zero"), -0.5, "supported"),
        (condition("excludes_zero"), 0.019 * T95, "refuted"),
        (condition("excludes_zero"), 0.021 * T95, "refuted"),  # surely there, and surely inside the margin
        (condition("within", low=0.0, high=3.32), 0.021 * T90, "supported"),
        (condition("within", low=0.0, high=3.32), -0.021 * T95, "refuted"),
        (condition("within", high=0.0), -0.021 * T90, "supported"),
        (condition("within", low=0.0), 100.0, "supported"),
    ],
)
def test_each_rule_at_its_edges(rule: dict[str, Any], value: float, wanted: str) -> None:
    assert verdict(judge(frame(estimate("drift", "mup_adamw", value)), hypotheses(rule)), "C1") == wanted


def test_an_effect_that_may_be_large_or_nothing_is_undecided() -> None:
    rows = frame(estimate("drift", "mup_adamw", 0.3, se=0.2))
    assert verdict(judge(rows, hypotheses(condition("excludes_zero"))), "C1") == "inconclusive"


@settings(max_examples=40, deadline=None)
@given(value=st.floats(-1, 1), se=st.floats(0.001, 1), n=st.integers(3, 10))
def test_p_and_interval_decide_alike(value: float, se: float, n: int) -> None:
    row = estimate("drift", "mup_adamw", value, se, n_seeds=n)
    found = verdict(judge(frame(row), hypotheses(condition("inside"))), "C1")
    inside = row["low90"] > -0.25 and row["high90"] < 0.25
    outside = row["low"] > 0.25 or row["high"] < -0.25
    assert found == ("refuted" if outside else "supported" if inside else "inconclusive")


def test_a_margin_in_standard_deviations_over_seeds() -> None:
    """2σ of a best loss whose standard error over 4 seeds is 0.05, is 0.2."""
    rule = condition("below", statistic="regret_cf", margin=None, margin_sigmas=2.0, width="largest")
    rule.pop("margin")
    small = estimate("regret_cf", "mup_adamw", 0.15, 0.001, width=64, n_seeds=4)
    noise = estimate("best_loss", "mup_adamw", 2.0, 0.05, width=64, n_seeds=4)
    assert verdict(judge(frame(small, noise), hypotheses(rule)), "C1") == "supported"
    large = {**small, "estimate": 0.25}
    assert verdict(judge(frame(large, noise), hypotheses(rule)), "C1") == "refuted"
    assert verdict(judge(frame(small), hypotheses(rule)), "C1") == "not_estimable"


def test_a_counted_number_needs_no_interval() -> None:
    rule = condition("within", statistic="flops_saved", low=0.8, exact=True)
    none = {"se": np.nan, "low": np.nan, "high": np.nan, "low90": np.nan, "high90": np.nan}
    for value, wanted in ((0.8, "supported"), (0.79, "refuted")):
        row = estimate("flops_saved", "mup_adamw", value) | none
        assert verdict(judge(frame(row), hypotheses(rule)), "C1") == wanted
    row = estimate("drift", "mup_adamw", 0.0) | none
    assert verdict(judge(frame(row), hypotheses(condition("inside"))), "C1") == "not_estimable"


def test_an_interval_without_length_says_so() -> None:
    verdicts = judge(frame(estimate("drift", "mup_adamw", 0.0, se=0.0)), hypotheses(condition("within", high=0.0)))
    assert verdict(verdicts, "C1") == "supported"
    assert "no seed changes it" in reason(verdicts, "C1")
    strict = judge(frame(estimate("drift", "mup_adamw", 0.0, se=0.0)), hypotheses(condition("below", margin=0.0)))
    assert verdict(strict, "C1") == "inconclusive"


@pytest.mark.parametrize(
    ("seeds", "wanted"), [(1, "not_estimable"), (2, "not_estimable"), (3, "supported"), (5, "supported")]
)
def test_few_seeds(seeds: int, wanted: str) -> None:
    verdicts = judge(frame(estimate("drift", "mup_adamw", 0.0, n_seeds=seeds)), hypotheses(condition("inside")))
    assert verdict(verdicts, "C1") == wanted
    assert ("exploratory: 3 seeds, 5 are wanted" in reason(verdicts, "C1")) is (seeds == 3)


def test_the_reason_of_an_estimate_that_is_missing_is_kept() -> None:
    row = estimate("drift", "mup_adamw", np.nan) | {"status": "not_estimable", "reason": "1 of 3 widths is censored"}
    assert "1 of 3 widths is censored" in reason(judge(frame(row), hypotheses(condition("inside"))), "C1")


# --- several conditions, widths, tasks, hypotheses -------------------------------------------------------------------


def test_all_conditions_have_to_hold_and_one_refuted_refutes() -> None:
    pair = condition("inside"), condition("inside", subject="sp_adamw")
    good, bad = estimate("drift", "mup_adamw", 0.0), estimate("drift", "sp_adamw", -1.0)
    vague = estimate("drift", "sp_adamw", 0.0, se=1.0)
    assert verdict(judge(frame(good, bad), hypotheses(*pair)), "C1") == "refuted"
    assert verdict(judge(frame(good, vague), hypotheses(*pair)), "C1") == "inconclusive"
    assert verdict(judge(frame(bad), hypotheses(*pair)), "C1") == "refuted"
    assert verdict(judge(frame(good), hypotheses(*pair)), "C1") == "not_estimable"
    assert verdict(judge(frame(good, {**good, "subject": "sp_adamw"}), hypotheses(*pair)), "C1") == "supported"


def test_widths() -> None:
    rows = [estimate("drift", "mup_adamw", value, width=width) for width, value in ((16, 1.0), (32, 0.0), (64, 0.0))]
    with pytest.raises(ValueError, match="one estimate a width; say width: largest or width: every"):
        judge(frame(*rows), hypotheses(condition("inside")))
    assert verdict(judge(frame(*rows), hypotheses(condition("inside", width="largest"))), "C1") == "supported"
    every = judge(frame(*rows), hypotheses(condition("inside", width="every")))
    assert verdict(every, "C1") == "refuted"
    assert every[every["scope"] == "condition"]["width"].tolist() == [16, 32, 64]


def test_the_largest_width_is_the_tasks() -> None:
    rows = estimate("drift", "mup_adamw", 0.0, width=32), estimate("drift", "sp_adamw", 0.0, width=64)
    assert verdict(judge(frame(*rows), hypotheses(condition("inside", width="largest"))), "C1") == "not_estimable"


def test_a_star_stands_for_every_subject_that_fits() -> None:
    rows = [
        estimate("drift", subject, value) for subject, value in (("sp_adamw_a", 0.0), ("sp_adamw_b", 1.0), ("mup", 1.0))
    ]
    verdicts = judge(frame(*rows), hypotheses(condition("inside", subject="sp_adamw*")))
    assert verdicts[verdicts["scope"] == "condition"]["verdict"].tolist() == ["supported", "refuted"]


@pytest.mark.parametrize(
    ("values", "wanted", "why"),
    [
        ((0.0, 0.0), "supported", "supported in a, b"),
        ((0.0, 1.0), "inconclusive", "mixed: refuted in b, supported in a"),
        ((1.0, 1.0), "refuted", "refuted in a, b"),
        ((0.0, np.nan), "supported", "not estimable in b"),
        ((np.nan, np.nan), "not_estimable", "not estimable in any task"),
    ],
)
def test_over_tasks(values: tuple[float, float], wanted: str, why: str) -> None:
    rows = [estimate("drift", "mup_adamw", value, task=task) for task, value in zip("ab", values, strict=True)]
    verdicts = judge(frame(*rows), hypotheses(condition("inside")))
    assert verdict(verdicts, "C1", "all") == wanted
    assert why in reason(verdicts, "C1", "all")


def test_a_family_is_corrected() -> None:
    """A hypothesis at p = 0.04 stands alone, and falls in a family of two where the other says nothing."""
    from scipy.stats import t

    at = 0.25 - 0.02 * t.ppf(1 - 0.04, 4)
    row = estimate("drift", "mup_adamw", at)
    alone = judge(frame(row), hypotheses(condition("inside"), kind="primary"))
    assert verdict(alone, "H1") == "supported"
    two = judge(frame(row), hypotheses(condition("inside"), kind="primary", n=2))
    assert verdict(two, "H1") == "inconclusive"
    assert "not after Holm's correction over 2 hypotheses (p 0.08)" in reason(two, "H1")
    whole = two[two["scope"] == "task"]
    assert whole["p"].tolist() == pytest.approx([0.04, 0.04])
    assert whole["p_holm"].tolist() == pytest.approx([0.08, 0.08])
    controls = judge(frame(row), hypotheses(condition("inside"), n=2))
    assert verdict(controls, "C1") == "supported"
    assert controls["p_holm"].isna().all()


def test_what_cannot_be_estimated_is_not_in_the_family() -> None:
    missing = condition("inside", subject="sp_adamw")
    both = hypotheses(condition("inside"), kind="primary").model_dump()["hypotheses"]
    other = hypotheses(missing, kind="primary").model_dump()["hypotheses"]
    other[0]["id"] = "H2"
    verdicts = judge(
        frame(estimate("drift", "mup_adamw", 0.0)), Hypotheses.model_validate({"hypotheses": both + other})
    )
    whole = verdicts[verdicts["scope"] == "task"].set_index("id")
    assert whole.loc["H1", "p_holm"] == whole.loc["H1", "p"]
    assert np.isnan(whole.loc["H2", "p_holm"])


# --- input and output ------------------------------------------------------------------------------------------------


def test_it_reads_what_a_file_gives_back(tmp_path: Path) -> None:
    rows = frame(*drifts(mup_schedulefree=0.0, sp_schedulefree=-1.0), estimate("drift", "x", 0.0, width=32))
    rows.to_csv(tmp_path / "estimates.csv", index=False)
    pd.testing.assert_frame_equal(judge(pd.read_csv(tmp_path / "estimates.csv"), REAL), judge(rows, REAL))


def test_the_order_of_rows_does_not_matter() -> None:
    rows = frame(*drifts(sp_adamw=-1.0, sp_schedulefree=-1.0, mup_adamw=0.0, mup_schedulefree=0.0))
    pd.testing.assert_frame_equal(judge(rows, REAL), judge(rows.iloc[::-1], REAL))


def test_errors_name_the_cure() -> None:
    rows = frame(estimate("drift", "mup_adamw", 0.0))
    with pytest.raises(ValueError, match="no column se; make them again with `mufree metrics`"):
        judge(rows.drop(columns="se"), REAL)
    with pytest.raises(ValueError, match="is there twice"):
        judge(pd.concat([rows, rows]), REAL)


@pytest.mark.parametrize(
    ("value", "se", "wanted"),
    [
        (-0.5, 0.05, "supported"),
        (0.0, 0.02, "refuted"),  # surely above −0.1, though it may be below 0
        (0.5, 0.05, "refuted"),
        (-0.05, 0.01, "refuted"),  # surely below 0, and surely smaller than is worth knowing
        (-0.05, 0.05, "inconclusive"),
        (-0.2, 0.2, "inconclusive"),
    ],
)
def test_a_range_that_contradicts(value: float, se: float, wanted: str) -> None:
    assert two_ranges(value, se) == wanted


def test_where_no_range_contradicts_no_effect_is_undecided() -> None:
    plain = hypotheses(condition("below", margin=0.0))
    assert judge(frame(estimate("drift", "mup_adamw", 0.0, 0.02)), plain)["verdict"].iloc[0] == "inconclusive"


@pytest.mark.parametrize("at", [-0.1, 0.0])
def test_both_ranges_end_where_the_90_percent_interval_does(at: float) -> None:
    quantile = float(t_interval(0.0, 1.0, 5, 0.90).high)
    for inside, wanted in ((1.001, {-0.1: "refuted", 0.0: "supported"}[at]), (0.999, "inconclusive")):
        sign = 1 if at == -0.1 else -1
        assert two_ranges(at + sign * inside * 0.2, 0.2 / quantile) == wanted


def pooled_hypotheses(*conditions: dict[str, Any]) -> Hypotheses:
    file = hypotheses(*conditions).model_dump(mode="json")
    for each in file["hypotheses"]:
        each["scope"] = "pooled"
    return Hypotheses.model_validate(file)


def test_pooled_it_may_be_decided_where_no_task_is() -> None:
    rows = [estimate("drift", "mup_adamw", 0.0, 0.2, task=task) for task in "abcd"]
    verdicts = judge(frame(*rows), pooled_hypotheses(condition("inside")))
    assert set(verdicts[verdicts["scope"] == "task"]["verdict"]) == {"inconclusive"}
    (overall,) = verdicts[verdicts["scope"] == "overall"].to_dict("records")
    assert overall["verdict"] == "supported"
    (part,) = verdicts[(verdicts["scope"] == "condition") & (verdicts["task"] == "all")].to_dict("records")
    assert (part["estimate"], part["n_seeds"]) == (0.0, 4)
    assert part["high"] == pytest.approx(float(t_interval(0.0, 0.1, 4).high))


def test_pooled_it_is_not_what_most_tasks_say_where_they_differ() -> None:
    rows = [
        estimate("drift", "mup_adamw", value, 0.01, task=task)
        for task, value in zip("abcd", (0.0, 0.0, 0.0, 1.0), strict=True)
    ]
    verdicts = judge(frame(*rows), pooled_hypotheses(condition("inside")))
    assert verdicts[verdicts["scope"] == "overall"]["verdict"].tolist() == ["inconclusive"]


def test_two_tasks_are_not_pooled() -> None:
    rows = [estimate("drift", "mup_adamw", 0.0, 0.01, task=task) for task in "ab"]
    verdicts = judge(frame(*rows), pooled_hypotheses(condition("inside")))
    assert verdicts[verdicts["scope"] == "overall"]["verdict"].tolist() == ["not_estimable"]


def test_pooled_by_width_is_at_each_tasks_largest() -> None:
    def of(width: int, value: float, task: str) -> dict[str, Any]:
        return estimate("best_of_3_excess", "mup_adamw", value, 0.01, task=task, width=width)

    rows = [of(8, 9.0, "a"), of(16, 0.1, "a"), of(32, 0.1, "b"), of(8, 0.1, "c")]
    rule = {"statistic": "best_of_3_excess", "subject": "mup_adamw", "width": "largest", "rule": "below", "margin": 0.2}
    verdicts = judge(frame(*rows), pooled_hypotheses(rule))
    (overall,) = verdicts[verdicts["scope"] == "overall"].to_dict("records")
    assert (overall["verdict"], overall["estimate"]) == ("supported", pytest.approx(0.1))

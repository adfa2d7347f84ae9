"""The paper's numbers, from a made-up study whose truth is known; and how words name them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.stats import t
from synthetic_study import make_results, make_study
from test_pages import SMALL, TASK, judged

from mufree.publish import numbers, paper
from mufree.publish.results import Results
from mufree.publish.typesetting import TypesettingError, typeset
from mufree.publish.words import p_value


@pytest.fixture(scope="module")
def study() -> dict[str, Any]:
    made = make_study(**SMALL)
    rows = [
        {
            **{"task": TASK, "subject": subject, "statistic": statistic, "width": width, "estimate": value},
            **{"low": value - 0.1, "high": value + 0.1, "low90": value, "high90": value, "se": 0.1, "n_seeds": 5},
            **{"unit": "", "status": "ok", "reason": ""},
        }
        for subject, statistic, width, value in [
            ("sp_schedulefree", "drift", math.nan, -0.826),
            ("mup_schedulefree", "drift", math.nan, 0.125),
            ("mup_schedulefree", "regret_cf", 64, 5.0),
            ("mup_schedulefree", "regret_cf", 128, 0.0125),
            ("mup_schedulefree", "diverged_fraction", 128, 0.25),
        ]
    ]
    ratio = {"task": TASK, "numerator": "mup_schedulefree", "denominator": "mup_adamw", "width": 32, "log2_ratio": 1.0}
    return made | {"estimates": pd.DataFrame(rows), "rate_ratio": pd.DataFrame([ratio, ratio | {"log2_ratio": 0.0}])}


def test_an_estimate_has_text_digits_value_interval_and_source(study: dict[str, Any]) -> None:
    found = numbers.collect([make_results(study)])
    assert found[f"{TASK}/sp_schedulefree/drift"] == {
        "text": "−0.83 doublings per doubling of width",
        "digits": "−0.83",
        "value": -0.826,
        "interval": "[−0.93, −0.73]",
        "source": f"tables/estimates.csv: estimate, task={TASK}, subject=sp_schedulefree, statistic=drift",
    }
    assert found[f"{TASK}/mup_schedulefree/diverged_fraction/w128"]["digits"] == "25 %"


def test_ranges_are_of_the_largest_width(study: dict[str, Any]) -> None:
    found = numbers.collect([make_results(study)])
    assert found["regret_cf/mup_schedulefree/most"]["value"] == 0.0125
    high = found["regret_cf/mup_schedulefree/highest_end"]
    assert found[f"{TASK}/mup_schedulefree/regret_cf/w128"]["interval"].endswith(f" {high['digits']}]")
    assert (found["rate_ratio/least"]["digits"], found["rate_ratio/most"]["digits"]) == ("1.0", "2.0")


def test_the_design_and_what_became_of_its_runs_are_numbers(study: dict[str, Any]) -> None:
    found, rows = numbers.collect([make_results(study)]), study["rows"]
    assert found["runs"]["value"] == len(rows)
    assert found["diverged"]["value"] == (rows["status"] == "diverged").sum() > 0
    assert found[f"widths/{TASK}"]["text"] == "32 (base), 64, 128"
    assert found[f"runs/{TASK}/sp_adamw"]["value"] == (rows["method"] == "sp_adamw").sum()
    diverged = study["stability"].query("method == 'sp_adamw'")["n_diverged"].sum()
    assert found[f"diverged/{TASK}/sp_adamw"]["value"] == diverged
    assert found[f"beta2/{TASK}/adamw"]["digits"] == "0.95"


def test_verdicts_and_their_p_values_are_numbers(study: dict[str, Any]) -> None:
    found = numbers.collect([judged(study, 0.0)])
    assert found[f"verdict/C1/{TASK}"]["text"] == "supported"
    assert found[f"p/C1/{TASK}"]["value"] < 0.001
    assert (found[f"p/C1/{TASK}"]["text"], found[f"p/C1/{TASK}"]["digits"]) == ("p < 0.001", "< 0.001")
    assert (found["controls"]["value"], found["hypotheses"]["value"], found["margin/C1"]["digits"]) == (1, 0, "0.25")


def test_a_p_value_is_never_printed_as_nothing() -> None:
    assert [p_value(p) for p in (0.0, 0.00099, 0.001, 0.0126, 1.0, math.nan)] == [
        *("< 0.001", "< 0.001", "0.001", "0.013", "1.000", "—")
    ]


def test_a_broken_control_is_counted(study: dict[str, Any]) -> None:
    whole = numbers.collect([make_results(study)])
    assert whole["control/pairs"]["value"] == whole["control/equal"]["value"] > 0
    broken = study | {"control": study["control"].assign(n_equal=0)}
    assert numbers.collect([make_results(broken)])["control/equal"]["value"] == 0


def test_a_task_of_two_studies_is_an_error(study: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"studies madeup, madeup share the task {TASK}"):
        numbers.collect([make_results(study), make_results(study)])


def of_task(study: dict[str, Any], task: str, **changes: Any) -> Results:
    """The made-up study with its task under another name, as if planned; its estimates and what is planned are changed."""
    made = make_results(study)
    trained = {"steps": 100, "batch_size": 8, "warmup_fraction": 0.1, "precision": task}
    planned = {**made.study["tasks"][TASK], "model": {"name": "mlp"}, "training": trained}
    ours = {name: changes.pop(name) for name in ("model", "training", "optimizers") if name in changes}
    frame = study["estimates"].assign(task=task, **changes)
    return replace(made, study={**made.study, "tasks": {task: planned | ours}}, tables={"estimates": frame})


def test_two_studies_of_one_task_are_weighed_by_their_variance(study: dict[str, Any]) -> None:
    """By hand: errors of 0.1 and 0.05 weigh 100 and 400; 5 + 7 seeds leave 10 degrees of freedom."""
    again = study["estimates"]["estimate"] + 0.1
    one, other = of_task(study, "one"), of_task(study, "other", estimate=again, se=0.05, n_seeds=7)
    found = numbers.together([one, other])
    assert list(found)[:2] == [f"one + other/{method}_schedulefree/drift" for method in ("sp", "mup")]
    entry = found["one + other/sp_schedulefree/drift"]
    assert entry["value"] == pytest.approx(-0.826 + 0.1 * 400 / 500)
    half = t.ppf(0.975, 10) / 500**0.5
    low, high = (float(end) for end in entry["interval"].strip("[]").replace("−", "-").split(", "))
    assert (high - low) / 2 == pytest.approx(half, abs=0.006)
    where = "subject=sp_schedulefree, statistic=drift; weighed by its variance"
    assert entry["source"] == "; and ".join(
        f"tables/estimates.csv: estimate, task={task}, {where}" for task in ("one", "other")
    )
    assert "one + other/mup_schedulefree/regret_cf/w128" in found


def test_other_tasks_and_estimates_without_an_error_are_not_put_together(study: dict[str, Any]) -> None:
    one = of_task(study, "one")
    longer = {"steps": 200, "batch_size": 8, "warmup_fraction": 0.1}
    beta = {"optimizers": {"adamw": {"beta2": 0.99}}}
    for other in ({"model": {"name": "gpt"}}, {"training": longer}, beta, {"se": 0.0}):
        assert numbers.together([one, of_task(study, "other", **other)]) == {}


def test_the_detectable_interaction_is_the_plans() -> None:
    """By hand: 2/√5 standard deviations times the sum of two quantiles of t with 4 degrees of freedom."""
    assert numbers.detectable_interaction(5) == pytest.approx(2 / math.sqrt(5) * (t.ppf(0.975, 4) + t.ppf(0.8, 4)))
    assert math.isnan(numbers.detectable_interaction(1))


FOUND = {"a/b": {"digits": "1.5", "interval": "[1, 2]", "text": "1.5 nats"}}
README = "before\n<!-- answer -->\nold\n<!-- /answer -->\nafter\n"


def test_the_answer_goes_between_its_marks_with_its_numbers() -> None:
    done = paper.answered(README, "It is {a/b}, or {a/b:}.\n", FOUND)
    assert done == "before\n<!-- answer -->\nIt is 1.5, or 1.5 [1, 2].\n<!-- /answer -->\nafter\n"
    assert paper.answered(done, "It is {a/b}, or {a/b:}.", FOUND) == done


def test_a_number_or_a_mark_that_is_missing_is_named() -> None:
    with pytest.raises(paper.PaperError, match="the number c, which"):
        paper.answered(README, "It is {c}.", FOUND)
    with pytest.raises(paper.PaperError, match="lacks the lines <!-- answer -->"):
        paper.answered("nothing", "", FOUND)


def test_a_document_that_names_no_number_of_ours_is_not_set(tmp_path: Path) -> None:
    (tmp_path / "numbers.json").write_text('{"numbers": {}}')
    (tmp_path / "a.typ").write_text('#json("numbers.json").numbers.at("drift").text')
    with pytest.raises(TypesettingError, match='does not contain key "drift"'):
        typeset(tmp_path / "a.typ")

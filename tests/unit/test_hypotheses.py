"""The hypotheses' file, and what it may say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from mufree.study.hypotheses import Hypotheses
from mufree.study.statistics import STATISTICS

ROOT = Path(__file__).parents[2]


def plain() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "experiments/hypotheses.yaml").read_text())


def one(**condition: Any) -> dict[str, Any]:
    """A file with one hypothesis of one condition."""
    drift = {"statistic": "drift", "subject": "mup_adamw", "rule": "inside", "margin": 0.25}
    hypothesis = {
        "id": "H1",
        "kind": "primary",
        "claim": "c",
        "decided_by": "d",
        "expects": "open",
        "known": "k",
        "written": "2026-01-01",
        "conditions": [{k: v for k, v in (drift | condition).items() if v is not None}],
    }
    return {"hypotheses": [hypothesis]}


def test_the_file_is_valid_and_has_every_hypothesis_of_the_plan() -> None:
    found = Hypotheses.model_validate(plain())
    assert [h.id for h in found.hypotheses if h.kind == "primary"] == ["H1a", "H1b", *(f"H{i}" for i in range(2, 9))]
    assert {h.kind for h in found.hypotheses} == {"primary", "replication", "control"}
    assert found.deviations


def test_the_second_studys_hypotheses_are_those_of_the_first_with_a_range_either_way() -> None:
    file = yaml.safe_load((ROOT / "experiments/confirm.hypotheses.yaml").read_text())
    first, second = (Hypotheses.model_validate(each).hypotheses for each in (plain(), file))
    assert [h.id for h in second] == [h.id for h in first if not h.id.startswith("R")]
    assert [h.id for h in second if h.kind == "primary"] == ["H1a", "H1b", "H7"]
    # H2, H5 and H8 are measured in one task each.
    assert {h.id for h in second if h.scope == "pooled"} == {"H1a", "H1b", "H3", "H4", "H6", "H7"}
    # "inside", "excludes_zero" and "within" contradict by what they exclude.
    below = [c for h in second for c in h.conditions if c.rule == "below"]
    assert all(c.contradicted_inside or c.margin for c in below)


@pytest.mark.parametrize("change", [{"exact": True}, {"rule": "excludes_zero", "margin": 0.1}])
def test_what_contradicts_needs_an_interval(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="against_low and against_high go with an interval"):
        Hypotheses.model_validate(one(**{"rule": "below", "margin": 0.0, "against_low": -0.1} | change))


def test_what_is_pooled_has_a_margin_in_its_own_unit() -> None:
    file = one(rule="below", margin=0.0, margin_sigmas=2.0)
    file["hypotheses"][0]["scope"] = "pooled"
    with pytest.raises(ValidationError, match="no margin_sigmas"):
        Hypotheses.model_validate(file)


def test_its_sources_are_in_the_bibliography() -> None:
    keys = re.findall(r"^@\w+\{(\w+),", (ROOT / "paper/references.bib").read_text(), flags=re.MULTILINE)
    assert {source for h in Hypotheses.model_validate(plain()).hypotheses for source in h.sources} <= set(keys)


def test_an_unknown_statistic_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ValidationError, match=r"Unknown statistic 'drfit'. Known: .*drift, "):
        Hypotheses.model_validate(one(statistic="drfit"))


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"margin": None}, "rule inside takes margin"),
        ({"margin": -0.25}, "takes a positive margin, got -0.25"),
        ({"low": 0.0}, "neither low nor high"),
        ({"rule": "within"}, "takes low, high or both"),
        ({"rule": "within", "margin": None, "low": 1.0, "high": 0.0}, "low must be less than high, got 1.0 and 0.0"),
        ({"rule": "above", "margin_sigmas": 2.0}, "margin_sigmas goes with rule below"),
        ({"exact": True}, "needs an interval"),
        ({"rule": "beside"}, "'inside', 'below', 'above', 'within' or 'excludes_zero'"),
        ({"marign": 1.0}, "Extra inputs are not permitted"),
    ],
)
def test_a_rule_needs_what_it_needs_and_no_more(condition: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Hypotheses.model_validate(one(**condition))


def test_ids_say_the_kind_and_differ() -> None:
    twice = one()
    twice["hypotheses"] *= 2
    with pytest.raises(ValidationError, match="more than one hypothesis is called H1"):
        Hypotheses.model_validate(twice)
    control = one()
    control["hypotheses"][0]["kind"] = "control"
    with pytest.raises(ValidationError, match="starts with C, got H1"):
        Hypotheses.model_validate(control)


def test_every_effect_on_every_crossed_statistic_is_known() -> None:
    assert {"did_regret_cf", "effect_mup_lr_sensitivity", "effect_schedulefree_diverged_fraction"} <= STATISTICS.keys()


def test_reading_them_is_light() -> None:
    heavy = "{'torch', 'numpy', 'pandas', 'yaml', 'scipy'}"
    code = f"import sys, mufree.study.hypotheses; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

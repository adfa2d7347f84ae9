import io

import numpy as np
import pandas as pd
import pytest
from synthetic_study import make_description, make_full_study

from mufree.analysis.verdicts import ESTIMATE_COLUMNS, judge
from mufree.publish.report.document import document
from mufree.publish.report.questions import QUESTIONS
from mufree.publish.report.terms import STATISTICS, bounds, question_of, statistic, subject_words, value, with_unit
from mufree.study.hypotheses import STATISTICS as ALLOWED
from mufree.study.hypotheses import Hypotheses

TASK = "patches-mlp"
BOTH, SP = "mup_schedulefree", "sp_schedulefree"
COMMON = {"decided_by": "a rule", "known": "nothing", "written": "2026-01-01"}


def hypothesis(name, kind, claim, *conditions, **settings):
    return (
        COMMON
        | {"id": name, "kind": kind, "claim": claim, "expects": "open", "conditions": list(conditions)}
        | settings
    )


ASKED = Hypotheses.model_validate(
    {
        "hypotheses": [
            hypothesis(
                "H1",
                "primary",
                "It drifts less.",
                {"statistic": "drift", "subject": BOTH, "rule": "inside", "margin": 0.25},
                {"statistic": "drift", "subject": SP, "rule": "excludes_zero", "margin": 0.25},
            ),
            hypothesis(
                "H2",
                "primary",
                "It costs nothing.",
                {"statistic": "regret_cf", "subject": BOTH, "width": "every", "rule": "below", "margin": 0.02},
                expects="refuted",
            ),
            hypothesis(
                "H3",
                "primary",
                "It needs no schedule.",
                {"statistic": "premium", "subject": f"{BOTH} - {SP}", "width": "largest", "rule": "below", "margin": 0},
            ),
            hypothesis(
                "R1",
                "replication",
                "SP drifts by one.",
                {"statistic": "drift", "subject": "sp_adamw", "rule": "within", "low": -1.25, "high": -0.75},
                post_hoc=True,
            ),
        ]
    }
)
ESTIMATES = [
    (TASK, BOTH, np.nan, "drift", 0.031, 0.011),
    (TASK, SP, np.nan, "drift", -0.974, 0.013),
    (TASK, BOTH, 32, "regret_cf", 0.001, 0.0002),
    (TASK, BOTH, 128, "regret_cf", 0.137, 0.0004),
    (TASK, "sp_adamw", np.nan, "drift", -1.017, 0.019),
]


@pytest.fixture(scope="module")
def tables():
    return make_full_study(tasks=(TASK,), widths=(32, 64, 128), log2_lrs=tuple(range(-13, -5)))


def judged(spreads=1.0):
    """Verdicts on made-up estimates of five seeds, as they come back from a file."""
    from scipy.stats import t

    rows = []
    for task, subject, width, name, estimate, se in ESTIMATES:
        half95, half90 = (float(t.ppf(q, 4)) * se * spreads for q in (0.975, 0.95))
        unit = "nats" if name == "regret_cf" else "doublings per doubling"
        ends = (estimate - half95, estimate + half95, estimate - half90, estimate + half90, se * spreads)
        rows.append((task, subject, width, name, estimate, *ends, 5, unit, "ok", ""))
    frame = pd.DataFrame(rows, columns=ESTIMATE_COLUMNS)
    return pd.read_csv(io.StringIO(judge(frame, ASKED).to_csv(index=False)))


def content(tables, verdicts):
    study, summary, provenance = make_description(tables)
    summary["n_runs"] = len(tables["rows"])
    given = {name: t for name, t in tables.items() if name not in ("rows", "curves")} | {"verdicts": verdicts}
    return document(study, given, summary, provenance, tables["rows"])


def blocks(doc, key, kind):
    return [b for s in doc["sections"] if s["id"] == key for b in s["blocks"] if b["kind"] == kind]


def test_the_summary_gives_each_verdict_with_the_numbers_that_decide(tables):
    doc = content(tables, judged())
    overview = {row[0]: row[1:] for block in blocks(doc, "summary", "table") for row in block["rows"]}
    assert overview["H1"] == ["It drifts less.", "open", "supported"]
    assert overview["H2"] == ["It costs nothing.", "refuted", "refuted"]
    assert overview["H3"] == ["It needs no schedule.", "open", "not estimable"]
    assert overview["R1"] == ["SP drifts by one.", "open", "supported (post hoc)"]
    said = {
        item.split(",")[0].split(":")[0]: item for block in blocks(doc, "summary", "points") for item in block["items"]
    }
    assert "µP · ScheduleFree AdamW: +0.03 doublings per doubling of width [0.00, +0.06]" in said["H1"]
    assert "SP · ScheduleFree AdamW: −0.97 doublings per doubling of width [−1.01, −0.94]" in said["H1"]
    assert "0.001 nats [0.000, 0.002] at width 32 to 0.137 nats [0.136, 0.138] at width 128" in said["H2"]
    assert "of the refutation < 0.001 after Holm's correction" in said["H2"]
    assert said["H3"].startswith("H3: not estimable")
    headings = [block["text"] for block in blocks(doc, "summary", "heading")]
    assert headings == ["Hypotheses of this study", "What others have published, tried again here"]


def test_few_seeds_make_verdicts_exploratory(tables):
    def notes(verdicts):
        return [block["text"] for block in blocks(content(tables, verdicts), "summary", "text")][1:]

    verdicts = judged()
    assert notes(verdicts) == []
    few = verdicts.assign(n_seeds=verdicts["n_seeds"].where(verdicts["id"].ne("R1"), 3))
    assert notes(few) == ["MLP on photo_patches: exploratory, with fewer than 5 seeds: R1."]
    assert notes(verdicts.assign(n_seeds=3)) == [
        "MLP on photo_patches: exploratory, with fewer than 5 seeds: all verdicts."
    ]


def test_what_is_in_doubt_is_called_inconclusive(tables):
    doc = content(tables, judged(spreads=30.0))
    overview = {row[0]: row[-1] for block in blocks(doc, "summary", "table") for row in block["rows"]}
    assert overview == {"H1": "inconclusive", "H2": "refuted", "H3": "not estimable", "R1": "inconclusive (post hoc)"}


def test_each_question_has_the_table_of_its_hypotheses(tables):
    doc = content(tables, judged())
    (table,) = [b for b in blocks(doc, "transfer", "table") if b["columns"][0] == "Id"]
    assert [row[0] for row in table["rows"]] == ["H1", "H1", "H1", "H2", "H2", "H2", "R1"]
    first = table["rows"][0]
    assert first[2:6] == ["+0.03", "[0.00, +0.06]", "[+0.01, +0.05]", "inside ±0.25"]
    assert [row[1] for row in table["rows"]].count("all of these together") == 2
    (other,) = [b for b in blocks(doc, "schedule", "table") if b["columns"][0] == "Id"]
    assert {row[-1] for row in other["rows"]} == {"not estimable"}
    assert not [b for b in blocks(doc, "cost", "table") if b["columns"][0] == "Id"]


def test_every_statistic_of_a_hypothesis_has_words_and_a_question():
    keys = {question.key for question in QUESTIONS}
    for name in sorted(ALLOWED):
        assert "_" not in statistic(name).words, name
        assert question_of(name) in keys
        assert statistic(name).words != name.replace("_", " ") or name in ("drift", "headroom", "premium"), name
    assert question_of("did_abs_drift") == "interaction"
    assert question_of("effect_mup_lr_sensitivity") == question_of("lr_sensitivity") == "stability"
    assert question_of("grad_slope_hidden") == "inside"
    assert question_of("anytime_gap_T/4") == "schedule"


def test_shares_are_written_in_per_cent():
    share = STATISTICS["diverged_vs_best_single"]
    assert value(0.123, share) == with_unit(0.123, share) == "+12.3 %"
    assert value(-0.123, share) == "−12.3 %"
    assert bounds(-0.1, 0.25, share) == "[−10.0, +25.0]"
    assert bounds(np.nan, 0.25, share) == "—"
    assert with_unit(np.nan, STATISTICS["regret_cf"]) == "—"


def test_subjects_are_named_as_methods_are():
    def named(name):
        return {"a_x": "A", "b_y": "B"}.get(name, name)

    assert subject_words("a_x - b_y", named) == "A against B"
    assert subject_words("a_x / b_y", named) == "A over B"
    assert subject_words("a_x - b_y, coupled", named) == "A against B (coupled)"
    assert subject_words("a_x - best single factor", named) == "A"
    assert subject_words("a_x*", named) == "methods like A"

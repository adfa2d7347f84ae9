"""Every statement of the article and the README's answer holds by the frozen tables, and fails when they are turned round."""

from __future__ import annotations

import re
from typing import Any

import pytest
from evidence import ROOT, Evidence
from statements import PAPER, README

ARTICLE = (ROOT / "paper/paper.typ").read_text(encoding="utf-8")
ANSWER = re.sub(r"\s+", " ", (ROOT / "paper/answer.md").read_text(encoding="utf-8"))
ALL = [*((PAPER, name) for name in PAPER), *((README, name) for name in README)]
each_statement = pytest.mark.parametrize(
    ("texts", "name"), ALL, ids=lambda value: value if isinstance(value, str) else ""
)


def test_the_article_marks_each_statement_that_has_a_test_and_no_other() -> None:
    assert sorted(re.findall(r'#claim\("([^"]+)"\)', ARTICLE)) == sorted(PAPER)


@pytest.mark.parametrize("words", README)
def test_the_answer_has_each_statement(words: str) -> None:
    assert words in ANSWER


@each_statement
def test_a_statement_holds(texts: dict[str, Any], name: str, evidence: Evidence) -> None:
    holds, _ = texts[name]
    assert holds(evidence)


@each_statement
def test_a_statement_fails_when_its_numbers_are_turned_round(
    texts: dict[str, Any], name: str, evidence: Evidence
) -> None:
    holds, change = texts[name]
    assert not holds(change(evidence))


def test_numbers_are_those_of_the_tables(numbers: dict[str, dict[str, Any]], evidence: Evidence) -> None:
    for row in evidence.estimates.to_dict("records"):
        width = "" if row["width"] != row["width"] else f"/w{int(row['width'])}"
        found = numbers[f"{row['task']}/{row['subject']}/{row['statistic']}{width}"]["value"]
        assert found == row["estimate"] or (found is None and row["estimate"] != row["estimate"])


def shown(text: str) -> float:
    return float(re.sub(r"[%  ]", "", text.replace("−", "-")))


def test_numbers_are_printed_as_they_are(numbers: dict[str, dict[str, Any]]) -> None:
    for key, number in numbers.items():
        if number["value"] is None or "horizon" in key:
            continue
        scale = 100 if number["digits"].endswith("%") else 1
        decimals = len(number["digits"].rstrip(" %").partition(".")[2])
        if number["digits"].startswith("<"):
            assert number["value"] < shown(number["digits"][1:]), key
            continue
        assert abs(shown(number["digits"]) - scale * number["value"]) <= 0.5 * 10.0**-decimals * 1.001, key


def words(text: str) -> int:
    return len(re.sub(r'#\w\("[^"]*"\)|\{[^}]*\}', "number", text).split())


def test_the_abstract_is_short() -> None:
    abstract = ARTICLE.partition("abstract: [")[2].partition("\n  ],\n)")[0]
    assert 80 < words(abstract) <= 150


def test_the_answer_is_short() -> None:
    answer = (ROOT / "paper/answer.md").read_text(encoding="utf-8").partition("**What to do.**")[0]
    assert 60 < words(answer) <= 120


def test_the_readme_has_the_answer_with_its_numbers(numbers: dict[str, dict[str, Any]]) -> None:
    from mufree.publish.paper import answered

    readme, answer = ((ROOT / file).read_text(encoding="utf-8") for file in ("README.md", "paper/answer.md"))
    assert answered(readme, answer, numbers) == readme


def test_every_number_of_the_answer_is_computed() -> None:
    """Digits stand in keys, and in names, widths and numbers of the design."""
    text = re.sub(r"\{[^}]*\}", "", (ROOT / "paper/answer.md").read_text(encoding="utf-8"))
    text = re.sub(r"CIFAR-10|WikiText-2|95 %", "", text)
    assert not re.findall(r"\d", text)


NO_RESULTS = (
    *(r'"[^"]*"', r"@[\w-]+|<[\w-]+>", r"#[\w-]+\([^()]*\)"),  # keys, citations, labels, calls
    *(r"\b[HRC]\d[ab]?\b", r"CIFAR-10|WikiText-2", r"95 %", "log2"),  # names, and the level of all intervals
    r"(not to be|surely above|is below|includes|above|below|drift of|differs\s+from) −?[01]\b|: 0 is perfect|to 0\b",
    r"\d+%|\b\d(\.\d)?(pt|fr|em)",  # layout
)
"""What may have digits in the article and is no result."""


def test_every_number_of_the_article_is_computed() -> None:
    body = ARTICLE.partition("abstract: [")[2]
    for known in NO_RESULTS:
        body = re.sub(known, "", body)
    assert re.findall(r".{0,30}\d.{0,10}", body) == []

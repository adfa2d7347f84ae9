"""Every number and every conclusion of the paper, from frozen tables and verdicts: what `numbers.json` holds.

A number has its text as it is printed, its value, and the table and row it comes from. A sentence that says how something came
out is chosen by a verdict or a table, never typed, so that it is true for whatever study is frozen. The paper shows both by
their keys; the tests in tests/claims check each choice against the tables once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mufree.publish.frozen import Frozen
from mufree.publish.numbers import answers, findings, headline, method, values
from mufree.publish.numbers.captions import captions, data_words, error_bar_words
from mufree.publish.recipe import recipe
from mufree.publish.report.verdicts import WORDS


def collect(frozen: Frozen, figures: Sequence[str], again: str = "") -> dict[str, Any]:
    """The whole of `numbers.json`; `figures` are those that the paper may show, by name.

    `again` is what the headline has to add: how its verdict came out on other seeds.
    """
    return {
        "complete": bool(frozen.manifest["complete"]),
        "part": bool(frozen.manifest["part"]),
        "missing": frozen.manifest["missing"],
        "study": frozen.manifest["study"],
        "run_set": frozen.manifest["run_set"],
        "tasks": [{"name": task, "description": frozen.description(task)} for task in frozen.tasks],
        "numbers": values.counts(frozen) | values.estimates(frozen) | values.ranges(frozen),
        "sentences": sentences(frozen, again),
        "captions": {task: captions(frozen, task, figures) for task in frozen.tasks},
        "notes": {"error_bars": error_bar_words(frozen, frozen.tasks), "data": data_words(frozen, frozen.tasks)},
        "hypotheses": [_hypothesis(frozen, h.id) for h in frozen.hypotheses.hypotheses],
        "deviations": [d.model_dump(mode="json") for d in frozen.hypotheses.deviations],
    }


QUESTIONS = {
    "transfer": "H1a",
    "synergy": "H1b",
    "schedule": "H2",
    "stability": "H3",
    "search": "H4",
    "decay": "H5",
    "rate": "H6",
    "loss": "H7",
    "embedding": "H8",
}
"""Which hypothesis answers which part of the results."""


def sentences(frozen: Frozen, again: str = "") -> dict[str, list[str]]:
    """All computed sentences, by the id of the claim that they make; the headline ends in `again`."""
    return {
        "size": [method.size(frozen)],
        "headline": [headline.headline(frozen, again)],
        "in-short": headline.in_short(frozen),
        "tally": [answers.tally(frozen)],
        "drift": [findings.drift(frozen, task) for task in frozen.tasks],
        "regret": [findings.regret(frozen, task) for task in frozen.tasks],
        "best": [findings.best(frozen, task) for task in frozen.tasks],
        "diverged": [findings.diverged(frozen, task) for task in frozen.tasks],
        "anytime": findings.anytime(frozen),
        **{name: answers.answer(frozen, hypothesis) for name, hypothesis in QUESTIONS.items()},
        "embedding-own-rate": findings.embedding_own_rate(frozen),
        "replications": [line for h in frozen.of_kind("replication") for line in answers.short_answer(frozen, h)],
        "positive-controls": [line for h in frozen.of_kind("control") for line in answers.short_answer(frozen, h)],
        "negative-control": method.negative_control(frozen),
        "coordinate-check": method.coordinate_check(frozen),
        "surprises": answers.surprises(frozen),
        "recipe": [recipe(frozen, task) for task in frozen.tasks],
        "calibration": method.calibration(frozen),
        "scope": [method.scope(frozen, task) for task in frozen.tasks],
        "seeds": [method.seeds(frozen)],
    }


def _hypothesis(frozen: Frozen, name: str) -> dict[str, Any]:
    """One hypothesis as the appendix shows it."""
    h = next(h for h in frozen.hypotheses.hypotheses if h.id == name)
    return {
        "id": h.id,
        "kind": h.kind,
        "claim": h.claim,
        "decided_by": h.decided_by,
        "known": h.known,
        "sources": h.sources,
        "written": str(h.written),
        "post_hoc": h.post_hoc,
        "verdict": WORDS[frozen.judged(name, "overall")[0]["verdict"]],
        "tasks": {row["task"]: WORDS[row["verdict"]] for row in frozen.judged(name, "task")},
    }

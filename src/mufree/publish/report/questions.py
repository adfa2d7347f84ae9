"""The questions that the report answers, one section each, and what a section is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mufree.publish.report import best, control, cost, inside, interaction, schedule, stability, transfer, weight_decay
from mufree.publish.report.blocks import Block, figure, heading, points
from mufree.publish.report.captions import FIGURE_CAPTIONS
from mufree.publish.report.facts import Facts
from mufree.publish.report.verdicts import verdict_table
from mufree.publish.report.words import count, listing


@dataclass(frozen=True)
class Question:
    """A question: its key and title, the tables any of which makes it one of the study's, its figures, and its parts.

    `blocks` gives the answers and tables of a task, `limits` what they do not cover.
    """

    key: str
    title: str
    needs: tuple[str, ...]
    figures: Sequence[str]
    blocks: Callable[[Facts], list[Block]]
    limits: Callable[[Facts], list[str]]

    def is_asked(self, facts: Facts) -> bool:
        """Whether the study has data on it for this task."""
        return any(facts.has(name) for name in self.needs)


def _question(key: str, title: str, needs: tuple[str, ...], module: Any) -> Question:
    return Question(key, title, needs, module.FIGURES, module.blocks, module.limits)


QUESTIONS = [
    _question("transfer", "Does the best learning rate transfer across width?", ("transfer",), transfer),
    _question("stability", "Is training more stable?", ("stability",), stability),
    _question("schedule", "Does it need a schedule?", ("anytime", "horizon", "premium", "smoothness"), schedule),
    _question("cost", "What does tuning cost?", ("cost", "best_of_k"), cost),
    _question("best", "Which method ends best?", ("optima",), best),
    _question("interaction", "Do µP and ScheduleFree interact?", ("interaction",), interaction),
    _question("weight_decay", "Which weight decay?", ("weight_decay", "weight_decay_optimum"), weight_decay),
    _question("inside", "What happens inside?", ("dynamics", "coordcheck_verdict", "epsilon"), inside),
    _question("control", "Negative control", ("control", "optima"), control),
]
"""All questions, in the order in which they are answered."""


def sections(tasks: Sequence[Facts]) -> list[dict[str, Any]]:
    """A section for each question that the study asks of any task."""
    out = []
    for question in QUESTIONS:
        asked = [facts for facts in tasks if question.is_asked(facts)]
        if asked:
            blocks = [block for facts in asked for block in (heading(facts.scope), *_answer(question, facts))]
            out.append({"id": question.key.replace("_", "-"), "title": question.title, "blocks": blocks})
    return out


def not_asked(tasks: Sequence[Facts]) -> str:
    """One line on the questions for which there is no data, or nothing."""
    left = [q.title for q in QUESTIONS if not any(q.is_asked(facts) for facts in tasks)]
    return f"Not asked by this study: {' '.join(left)}" if left else ""


def _answer(question: Question, facts: Facts) -> list[Block]:
    """Answers in words, figures, verdicts, tables, limits."""
    blocks = question.blocks(facts)
    words = [block for block in blocks if block["kind"] != "table"]
    limits = question.limits(facts)
    return [
        *words,
        *figures(facts, question.figures),
        *verdict_table(facts, question.key),
        *(block for block in blocks if block["kind"] == "table"),
        *([points("Limits", [" ".join(limits)])] if limits else []),
    ]


def figures(facts: Facts, names: Sequence[str]) -> list[Block]:
    """The figures of these names that there are captions and files for."""
    context = {
        "coordcheck": _checked(facts),
        "dynamics": facts.where_without_intervals,
        "validation_curves": facts.where_without_intervals,
    }
    return [
        figure(f"{facts.name}.{name}", f"{FIGURE_CAPTIONS[name]} {context.get(name, facts.where)}")
        for name in names
        if name in FIGURE_CAPTIONS and facts.shows(name)
    ]


def _checked(facts: Facts) -> str:
    check = facts.task["coordinate_check"]
    return (
        f"{facts.description}; widths {listing([str(w) for w in check['widths'] or facts.widths])}, "
        f"{count(check['steps'], 'step')} at a learning rate of 2^{check['log2_lr']} on one batch of {check['batch_size']}, "
        f"{count(len(check['seeds']), 'seed')}.{facts.caveat}"
    )

"""What `experiments/hypotheses.yaml` may say: claims written before the runs, and the rules that decide them.

Frozen, closed pydantic models as in `config`; nothing here touches a file, and nothing slow is imported. `analysis.verdicts`
applies the rules to the table of estimates.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mufree.study.fields import Closed
from mufree.study.statistics import STATISTICS

Rule = Literal["inside", "below", "above", "within", "excludes_zero"]
Verdict = Literal["supported", "refuted", "inconclusive", "not_estimable"]


class Condition(Closed):
    """One thing that has to hold, about one statistic of one subject.

    A claim is supported at `level` α by a one-sided test (the end of the 1 − 2α interval), and refuted where the 1 − α interval
    excludes it; two equivalent one-sided tests for `inside` and `within` (Schuirmann 1987).
    """

    statistic: str
    """A statistic of the table of estimates."""
    subject: str
    """A method, a pair `a - b` or `a / b`, `interaction`, or a comparison, as in the table of estimates. A `*` stands for any
    text: the condition then has to hold for every subject that fits."""
    width: Literal["largest", "every"] | None = None
    """Which widths, for a statistic that has one estimate a width: the largest of the task, or all of them."""
    rule: Rule
    """`inside` ±margin; `below` or `above` margin; `within` [low, high], either end open; `excludes_zero`, refuted where it is
    shown to be inside ±margin."""
    margin: float | None = None
    """In the unit of the statistic."""
    margin_sigmas: Annotated[float, Field(gt=0)] | None = None
    """For `below`: so many standard deviations over seeds of the best loss of the subject at that width; the larger one counts
    where `margin` is given as well."""
    low: float | None = None
    """Lower end for `within`; open if null."""
    high: float | None = None
    """Upper end for `within`; open if null."""
    against_low: float | None = None
    """Lower end of what contradicts the claim, where that is not all that it excludes; open if null."""
    against_high: float | None = None
    """Upper end of it; open if null. An effect that is surely there and surely smaller than is worth knowing contradicts."""
    exact: bool = False
    """The statistic is counted and not estimated (FLOPs, say): it is judged without an interval."""

    @property
    def contradicted_inside(self) -> bool:
        """Whether it says which range contradicts it."""
        return self.against_low is not None or self.against_high is not None

    @model_validator(mode="after")
    def _statistic_is_known(self) -> Self:
        if self.statistic not in STATISTICS:
            raise ValueError(f"Unknown statistic '{self.statistic}'. Known: {', '.join(sorted(STATISTICS))}")
        return self

    @model_validator(mode="after")
    def _rule_has_what_it_needs(self) -> Self:
        bounded = self.low is not None or self.high is not None
        margined = self.margin is not None or self.margin_sigmas is not None
        if self.rule == "within":
            if not bounded or margined:
                raise ValueError("rule within takes low, high or both, and no margin")
            if self.low is not None and self.high is not None and self.low >= self.high:
                raise ValueError(f"low must be less than high, got {self.low} and {self.high}")
        elif bounded or not margined:
            raise ValueError(f"rule {self.rule} takes margin, and neither low nor high")
        if self.margin_sigmas is not None and self.rule != "below":
            raise ValueError(f"margin_sigmas goes with rule below, not with {self.rule}")
        if self.rule in ("inside", "excludes_zero") and not (self.margin or 0) > 0:
            raise ValueError(f"rule {self.rule} takes a positive margin, got {self.margin}")
        if self.contradicted_inside and (self.exact or self.rule == "excludes_zero"):
            raise ValueError(
                f"against_low and against_high go with an interval, and not with rule {self.rule}, exact={self.exact}"
            )
        if self.exact and self.rule not in ("below", "above", "within"):
            raise ValueError(f"rule {self.rule} needs an interval, so it can't be exact")
        return self


class Hypothesis(Closed):
    """A claim, what decides it, and what was known before. All conditions have to hold; one that is refuted refutes it."""

    id: Annotated[str, Field(pattern=r"^[A-Z][0-9]+[a-z]?$")]
    """H: of this study; R: published by others; C: a control of the measurement."""
    claim: str
    """In a sentence, without its subject's praise."""
    decided_by: str
    """The rule in words."""
    kind: Literal["primary", "secondary", "replication", "control"]
    """Primary ones are one family of tests in each task (Holm 1979); the others are judged alone."""
    scope: Literal["each_task", "pooled"] = "each_task"
    """Judged in each task, and overall: `each_task`, supported or refuted only if it is in every task where it can be
    estimated; `pooled`, alone, by the random-effects mean over tasks, of a width's statistic at each task's largest width."""
    level: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """α of the tests."""
    expects: Literal["supported", "refuted", "open"]
    """The verdict that what was known before makes likely."""
    known: str
    """What was known before, in words."""
    sources: list[str] = Field(default=[])
    """Keys of paper/references.bib."""
    written: date
    """When it was written."""
    post_hoc: bool = False
    """Written or changed after results were seen."""
    conditions: Annotated[list[Condition], Field(min_length=1)]
    """What has to hold."""

    @model_validator(mode="after")
    def _can_be_pooled(self) -> Self:
        if self.scope == "pooled" and any(c.exact or c.margin_sigmas is not None for c in self.conditions):
            raise ValueError(
                f"{self.id}: what is pooled has an interval and a margin in its own unit: no exact, no margin_sigmas"
            )
        return self

    @model_validator(mode="after")
    def _id_says_the_kind(self) -> Self:
        letter = {"primary": "H", "secondary": "H", "replication": "R", "control": "C"}[self.kind]
        if not self.id.startswith(letter):
            raise ValueError(f"the id of a {self.kind} hypothesis starts with {letter}, got {self.id}")
        return self


class Deviation(Closed):
    """A grid, metric or margin that is not as first written down."""

    date: date
    """When it was changed."""
    what: str
    """What differs."""
    why: str
    """The reason."""
    after_results: bool
    """Whether results of the study had been seen."""


class Hypotheses(Closed):
    """The whole file."""

    hypotheses: Annotated[list[Hypothesis], Field(min_length=1)]
    """Claims, in the order in which they are reported."""
    deviations: list[Deviation] = Field(default=[])
    """What was changed since, and why."""

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        ids = [hypothesis.id for hypothesis in self.hypotheses]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"more than one hypothesis is called {', '.join(twice)}")
        return self

"""Phrases that several sentences share: an estimate with its interval, of whom it is, how far a task was tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mufree.analysis.tables.transfer import is_equivalent
from mufree.publish.frozen import Frozen
from mufree.publish.report.terms import bounds, statistic, subject_words, value
from mufree.publish.report.transfer import drift_shown
from mufree.publish.report.words import count, known, span

Row = Mapping[str, Any]


def with_interval(row: Row) -> str:
    """Estimate, unit-less, with its 95 % interval."""
    what = statistic(row["statistic"])
    if not known(row["estimate"]):
        return "not estimable"
    interval = bounds(row["low"], row["high"], what)
    return (
        f"{value(row['estimate'], what)} {interval}"
        if known(row["low"])
        else f"{value(row['estimate'], what)}, no interval"
    )


def drift_words(row: Row) -> str:
    """What an estimate of drift shows: `no drift`, `small`, `drifts`, `undecided` or `not estimable`."""
    estimate = row["estimate"] if row["status"] == "ok" else None
    kind = drift_shown(estimate, row["low"], row["high"], is_equivalent(row["low90"], row["high90"]))
    return {"none": "no drift", "not_estimable": "not estimable"}.get(kind, kind)


def about(frozen: Frozen, row: Row) -> str:
    """Of whom, and at which width; nothing of the interaction, whose own words say that it is of all four methods."""
    width = f" at width {int(row['width'])}" if known(row["width"]) else ""
    of = "" if row["subject"] == "interaction" else f" of {subject_words(row['subject'], frozen.named)}"
    return of + width


def design(frozen: Frozen, task: str) -> str:
    """What a task is, and how far it was tried."""
    runs = frozen.primary(task)
    first = runs.iloc[0]
    rates = span([int(x) for x in runs["log2_lr"]])
    return (
        f"{frozen.description(task)}; widths {span(frozen.widths(task))}, log2 rates {rates}, "
        f"{count(int(first['steps']), 'step')} of {int(first['batch_size'])}, {_seeds_words(frozen, task)}."
    )


def _seeds_words(frozen: Frozen, task: str) -> str:
    seeds = frozen.seeds(task)
    return count(seeds[0], "seed") if len(seeds) == 1 else f"{span(seeds)} seeds"

"""Do the two factors interact? The four cells, main effects and the difference in differences."""

from __future__ import annotations

from collections.abc import Sequence

from mufree.publish.report.blocks import Block, points, table
from mufree.publish.report.facts import Facts, Record
from mufree.publish.report.terms import Statistic, bounds, statistic, value, with_unit
from mufree.publish.report.words import MISSING, known, plain, sentence

FIGURES = ("interaction",)
EFFECTS = {"mup": "Effect of µP", "schedulefree": "Effect of ScheduleFree", "interaction": "Interaction"}


def blocks(facts: Facts) -> list[Block]:
    """The answers and the table of one task."""
    records = facts.records("interaction")
    if not records:
        return []
    rows = []
    for name in dict.fromkeys(str(row["statistic"]) for row in records):
        what = statistic(name)._replace(sign=True)
        mine = {row["effect"]: row for row in records if row["statistic"] == name}
        cells = [_cell(mine[effect], what) if effect in mine else MISSING for effect in EFFECTS]
        unit = f" ({what.shown_unit})" if what.shown_unit else ""
        rows.append([f"{sentence(what.words)[:-1]}{unit}", *cells])
    caption = (
        "Both main effects, each the mean over the other factor, and the interaction: how much more µP changes under "
        "ScheduleFree than under AdamW. At the largest width that all four methods have; the drift is over all widths. "
        f"{facts.where}"
    )
    columns = ["Statistic", *EFFECTS.values()]
    missing = "not estimable, or without an interval"
    return [
        points("Does µP change more under ScheduleFree than under AdamW?", interaction_sentences(records)),
        table(caption, columns, rows, missing=missing, fill=[0]),
    ]


def _cell(row: Record, what: Statistic) -> str:
    """An effect, and its interval on a line below."""
    return (
        f"{value(row['estimate'], what)}\n{bounds(row['low'], row['high'], what)}"
        if known(row["estimate"])
        else MISSING
    )


def interaction_sentences(records: Sequence[Record]) -> list[str]:
    """For each statistic the difference in differences, and what its interval says."""
    return [
        f"{sentence(statistic(str(row['statistic'])).words)[:-1]}: {_interaction(row)}."
        for row in records
        if row["effect"] == "interaction"
    ]


def _interaction(row: Record) -> str:
    what = statistic(str(row["statistic"]))._replace(sign=True)
    if not known(row["estimate"]):
        return f"not estimable: {plain(row.get('reason')) or 'no reason is on record'}"
    text = with_unit(row["estimate"], what)
    if not known(row["low"]):
        return f"{text}, without an interval, so nothing is decided"
    says = "includes 0: no interaction is shown, which is not to show that there is none"
    if row["high"] < 0:
        says = "below 0: µP lowers it more under ScheduleFree, or raises it less"
    elif row["low"] > 0:
        says = "above 0: µP lowers it less under ScheduleFree, or raises it more"
    return f"{text}, 95 % interval {bounds(row['low'], row['high'], what)}, {says}"


def limits(facts: Facts) -> list[str]:
    """What the answer does not cover."""
    del facts
    return [
        "With few seeds only a large interaction can be seen: with five, 3.3 standard deviations over seeds at 80 % power. "
        "That µP with ScheduleFree is best, if it is, would need no interaction."
    ]

"""The negative control: at base width SP and µP are the same network, so that they have to give the same bits."""

from __future__ import annotations

from mufree.publish.report.blocks import Block, points
from mufree.publish.report.facts import Facts
from mufree.publish.report.words import listing

FIGURES: tuple[str, ...] = ()


def blocks(facts: Facts) -> list[Block]:
    """The answers of one task."""
    return [points("Negative control: are SP and µP the same at base width?", control_sentences(facts))]


def limits(facts: Facts) -> list[str]:
    """What the answer does not cover."""
    del facts
    return ["The control shows that nothing else differs between SP and µP; it says nothing of other widths."]


def control_sentences(facts: Facts) -> list[str]:
    """Whether SP and µP gave the same bits at base width, for each pair of methods."""
    out = []
    for row in facts.records("control"):
        pair = listing([facts.named(m) for m in row["optimizer"].split("=")])
        share = f"{row['n_equal']} of {row['n_pairs']} pairs of runs at width {row['width']}"
        if not row["n_pairs"]:
            out.append(f"{pair}: not checked, no pair of runs at base width.")
        elif row["n_equal"] == row["n_pairs"]:
            out.append(f"{pair}: yes, bit for bit the same losses in {share}.")
        else:
            out.append(f"{pair}: NO, the same losses in only {share}; the implementation is in doubt.")
    return out or ["Not checked: no two methods differ in the parametrization alone."]

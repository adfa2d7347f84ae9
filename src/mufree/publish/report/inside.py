"""What happens inside? Gradients and updates, the coordinate check, Adam's ε, and how representations change with width."""

from __future__ import annotations

from collections.abc import Iterable

from mufree.publish.report.blocks import Block, points, table
from mufree.publish.report.facts import Facts, Record
from mufree.publish.report.words import (
    MISSING,
    flag_words,
    gate,
    interval,
    known,
    listing,
    number,
    verdict,
    with_interval,
)
from mufree.study.config import Method

FIGURES = ("dynamics", "coordcheck")


def blocks(facts: Facts) -> list[Block]:
    """The answers and the tables of one task."""
    return [
        points("Coordinate check: do activations keep their size as width grows?", coordcheck_sentences(facts)),
        *_representation(facts),
        *_dynamics(facts),
        *_epsilon(facts),
    ]


def limits(facts: Facts) -> list[str]:
    """What the answer does not cover."""
    del facts
    return [
        "The coordinate check is of the first steps on one batch. Raw gradients may scale with width without harm. Medians "
        "over steps say nothing of single steps."
    ]


def coordcheck_sentences(facts: Facts) -> list[str]:
    """The verdicts, and for SP that it has to fail."""
    rows = facts.records("coordcheck_verdict")
    out = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = sorted((r for r in rows if r["method"] == method), key=lambda r: str(r["at"]))
        parts = [f"{_passed(row)} at {row['at']}{_worst(row)}" for row in mine]
        out.append(f"{facts.named(method)}: {listing(parts)}{_expectation(facts.roles[method], mine)}.")
    return out or ["Not run."]


def _passed(row: Record) -> str:
    if not row["n_checked"]:
        return "not checked"
    return "passes" if verdict(row["passed"]) else f"fails {row['n_failed']} of {row['n_checked']} slopes"


def _worst(row: Record) -> str:
    if not known(row["worst_slope"]):
        return ""
    between = interval(row["worst_low"], row["worst_high"], 2, sign=True)
    shown = f"{number(row['worst_slope'], 2, sign=True)}{'' if between == MISSING else f' {between}'}"
    return f" (worst slope {shown}, {row['worst_module']})"


def _expectation(role: Method, rows: Iterable[Record]) -> str:
    outcome = gate(rows)
    if outcome == "undecided":
        return "; its seeds are too few to decide: no slope fails surely"
    if role.parametrization == "sp":
        return (
            "; SP should fail, so here the check does not tell µP from SP" if outcome == "passed" else ", as SP should"
        )
    return "" if outcome == "passed" else "; what is said of this method under µP is in doubt"


def _representation(facts: Facts) -> list[Block]:
    """Slope on width of the relative change of what layers compute, at the last step that was checked."""
    records = facts.records("coordcheck", quantity="relative") if facts.has("coordcheck") else []
    if not records:
        return []
    last = max(row["step"] for row in records)
    rows = [
        [
            facts.named(row["method"]),
            str(row["at"]),
            str(row["module"]),
            flag_words(row["layer"]),
            number(row["slope"], 2, sign=True),
            interval(row["slope_low"], row["slope_high"], 2, sign=True),
        ]
        for row in records
        if row["step"] == last
    ]
    caption = (
        f"Relative change of what each module adds, ‖ΔW·X‖ / ‖W·X‖, after {last} steps of the coordinate check: slope of its "
        f"log2 on log2 width, which should be 0. {facts.description}.{facts.caveat}"
    )
    columns = ["Method", "At", "Module", "Layer", "Slope", "95 % interval"]
    return [table(caption, columns, rows, missing="fewer than two widths, or no change to measure", fill=[0])]


QUANTITIES = {"grad_rms": "gradient", "update_rms": "update", "weight_rms": "weight"}


def _dynamics(facts: Facts) -> list[Block]:
    records = facts.records("dynamics")
    rows = []
    for method, layer in dict.fromkeys((row["method"], row["layer"]) for row in records):
        mine = {row["quantity"]: row for row in records if (row["method"], row["layer"]) == (method, layer)}
        cells = [
            with_interval(r.get("slope"), r.get("slope_low"), r.get("slope_high"), 2, sign=True)
            for r in (mine.get(name, {}) for name in QUANTITIES)
        ]
        rows.append([facts.named(method), flag_words(layer), *cells])
    if not rows:
        return []
    caption = (
        "How sizes scale with width, by layer type: slope of log2 of the median RMS after warm-up on log2 width, all widths at "
        f"the method's best rate at base width. {facts.where}"
    )
    columns = ["Method", "Layer", *(f"Slope of the {name}" for name in QUANTITIES.values())]
    missing = "fewer than two widths ended well at this rate, or without an interval"
    return [table(caption, columns, rows, missing=missing, fill=[0])]


def _epsilon(facts: Facts) -> list[Block]:
    """The cells in which Adam's ε is no longer small; one sentence where there is none."""
    records = facts.records("epsilon")
    if not records:
        return []
    flagged = [row for row in records if verdict(row["flagged"])]
    lead = "Is Adam's ε small against √v, the root of the mean squared gradient?"
    checked = f"{len(records)} cells of method, width and layer type"
    if not flagged:
        ratios = [float(row["ratio"]) for row in records if known(row["ratio"])]
        most = f"; the largest ratio is {max(ratios):.1e}" if ratios else ""
        return [points(lead, [f"Yes: in none of {checked} is it above a tenth of the median √v{most}."])]
    rows = [
        [
            facts.named(row["method"]),
            str(row["width"]),
            flag_words(row["layer"]),
            f"{row['median_sqrt_v']:.2e}",
            f"{row['epsilon']:.0e}",
            number(row["ratio"], 2),
        ]
        for row in flagged
    ]
    caption = f"Where Adam's ε is above a tenth of the median √v. {facts.where_without_intervals}"
    said = (
        f"Not everywhere: in {len(flagged)} of {checked} it is above a tenth of the median √v, and there it may bite."
    )
    columns = ["Method", "Width", "Layer", "Median √v", "ε", "Ratio"]
    return [points(lead, [said]), table(caption, columns, rows, fill=[0])]

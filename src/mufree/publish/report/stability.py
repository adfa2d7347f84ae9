"""Is training more stable? LR sensitivity, basin, divergence by kind, spikes, and the validation curve's smoothness."""

from __future__ import annotations

from mufree.analysis.metrics.stability import LEARNT_NOTHING
from mufree.publish.figures import ordered
from mufree.publish.report.blocks import Block, points, table
from mufree.publish.report.facts import Facts, Record
from mufree.publish.report.words import MISSING, flag_words, interval, known, listing, number, percent, with_interval

FIGURES = ("lr_sensitivity",)


def blocks(facts: Facts) -> list[Block]:
    """The answers and the tables of one task."""
    return [
        points("What diverged?", [diverged_sentence(facts)]),
        *_sensitivity(facts),
        *_divergence(facts),
        *_spikes(facts),
        *_smoothness(facts),
    ]


def limits(facts: Facts) -> list[str]:
    """What the answer does not cover."""
    spans = sorted({float(row["span"]) for row in facts.records("stability") if known(row.get("span"))})
    span = f"{number(spans[-1], 0)} doublings" if spans else "few rates"
    return [
        f"Sensitivity and the share diverged are taken over {span} around each method's own optimum, as far as all methods' "
        "grids reach; at small scale, instabilities of large models may not show."
    ]


def diverged_sentence(facts: Facts) -> str:
    """How many runs diverged, in all and by method."""
    if not facts.diverged:
        return f"None of {facts.runs} runs."
    totals = facts.cells.groupby("method")[["n_diverged", "n_runs"]].sum()
    each = [f"{facts.named(m)} {totals.n_diverged[m]} of {totals.n_runs[m]}" for m in ordered(totals.index)]
    head = "All" if facts.diverged == facts.runs else f"{facts.diverged} of"
    return f"{head} {facts.runs} runs: {listing(each)}. The grid reaches into divergence on purpose."


def _sensitivity(facts: Facts) -> list[Block]:
    rows = [
        [
            facts.named(row["method"]),
            str(row["width"]),
            with_interval(row["lr_sensitivity"], row["lr_sensitivity_low"], row["lr_sensitivity_high"]),
            percent(row["lr_sensitivity_normalised"]),
            _basin(row),
            number(row["headroom"], 1),
        ]
        for row in facts.records("stability")
        if row["width"] in (facts.base, facts.widest)
    ]
    if not rows:
        return []
    caption = (
        "How much the rate matters, at the base and the largest width. LR sensitivity: mean excess loss over a window of "
        "rates; also as a share of what training gains. Basin: doublings between the rates at which the loss is within "
        "0.02 nats of the best. Headroom: doublings from the best rate to the largest one at and below which nothing diverged. "
        f"{facts.where}"
    )
    columns = ["Method", "Width", "LR sensitivity (nats)", "Of the gain", "Basin (doublings)", "Headroom (doublings)"]
    return [
        table(caption, columns, rows, missing="every run diverged, no optimum inside the grid, or one seed", fill=[0])
    ]


def _basin(row: Record) -> str:
    """The basin's width with its ends; `at least` where the grid cuts it."""
    if not known(row.get("basin_width")):
        return MISSING
    cut = flag_words(row.get("basin_censored"))
    width = f"{'at least ' if cut else ''}{number(row['basin_width'], 2)}"
    return f"{width}\n{interval(row['basin_low'], row['basin_high'], 1)}"


def _divergence(facts: Facts) -> list[Block]:
    rows = [
        [
            facts.named(row["method"]),
            str(row["n_runs"]),
            str(row["n_nonfinite"]),
            str(row["n_above_start"]),
            str(row["n_rebound"]),
            str(row["n_learnt_nothing"]),
            _share(row),
            f"{number(row['window_low'], 0)} to {number(row['window_high'], 0)}"
            if known(row["window_low"])
            else MISSING,
        ]
        for row in facts.records("stability", width=facts.widest)
    ]
    if not rows:
        return []
    caption = (
        f"Divergence at width {facts.widest} by kind: not finite; training loss at the end above where it started; a rebound "
        f"from its lowest. Learnt nothing: not diverged, yet at the end less than {LEARNT_NOTHING} nats below the start. And "
        "the share diverged in a window of rates of equal width around each method's own optimum, with "
        f"Wilson's 95 % interval. {facts.where}"
    )
    columns = [
        "Method",
        "Runs",
        "Not finite",
        "Above start",
        "Rebound",
        "Learnt nothing",
        "Share in window",
        "Window (log2)",
    ]
    return [table(caption, columns, rows, missing="every run diverged, or no optimum inside the grid", fill=[0])]


def _share(row: Record) -> str:
    """Share of diverged runs in the window, with its interval."""
    if not known(row["diverged_fraction"]):
        return MISSING
    share, low, high = (percent(row[name], 0) for name in ("diverged_fraction", "diverged_low", "diverged_high"))
    return f"{share}\n[{low}, {high}]"


SERIES = {"train_loss": "training loss", "grad_norm": "gradient norm"}


def _spikes(facts: Facts) -> list[Block]:
    records = facts.records("spikes", width=facts.widest)
    rows = []
    for method, series in dict.fromkeys((row["method"], row["series"]) for row in records):
        mine = {row["lr_factor"]: row for row in records if (row["method"], row["series"]) == (method, series)}
        cells = [
            f"{percent(mine[f]['score'], 2)}\n{mine[f]['n_spikes']} of {mine[f]['n_points']}"
            if f in mine and known(mine[f]["score"])
            else MISSING
            for f in (1, 2, 4)
        ]
        window = next(iter(mine.values()))["window"]
        rows.append([facts.named(method), SERIES.get(series, flag_words(series)), *cells, str(window)])
    if not rows:
        return []
    caption = (
        f"Spikes at width {facts.widest}, at the best rate η* and at two and four times it: share of points seven standard "
        f"deviations above the mean of the window before them, and their number. {facts.where_without_intervals}"
    )
    columns = ["Method", "Series", "At η*", "At 2η*", "At 4η*", "Window (steps)"]
    return [
        table(caption, columns, rows, missing="no such rate in the grid, or no run that ended well there", fill=[0])
    ]


def _smoothness(facts: Facts) -> list[Block]:
    records = facts.records("smoothness", width=facts.widest)
    rows = []
    for method in dict.fromkeys(row["method"] for row in records):
        at = {row["at"]: row for row in records if row["method"] == method}
        cells = [
            with_interval(r.get("tvx"), r.get("tvx_low"), r.get("tvx_high")) for r in (at.get("x", {}), at.get("y", {}))
        ]
        rows.append([facts.named(method), *cells])
    if not rows:
        return []
    caption = (
        f"Smoothness of the validation curve at width {facts.widest} and the best rate: what the curve rises in all, as a "
        "share of what it falls from first to last (0: monotone). x: the weights that are evaluated; y: those at which "
        f"gradients are taken. {facts.where}"
    )
    return [
        table(caption, ["Method", "At x", "At y"], rows, missing="no curve, every run diverged, or one seed", fill=[0])
    ]

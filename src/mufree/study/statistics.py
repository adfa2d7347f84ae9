"""The statistics of the table of estimates: each is declared here, once.

A declaration says what a statistic is called, in what unit it stands, what it is of, which question it answers, and which
column of which table it is taken from. Hypotheses may name those in `STATISTICS`; `analysis.tables.estimates` collects them;
pages write their numbers as they are declared; `docs/metrics.md` defines them. A new one is a function in `analysis.metrics`,
its column in a table, and its line here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Question = Literal["transfer", "stability", "schedule", "cost", "best", "weight_decay", "inside", "interaction"]
"""What a reader may ask; the keys of a report's sections."""

PER_WIDTH = "doublings per doubling of width"
PER_HORIZON = "doublings per doubling of the horizon"


@dataclass(frozen=True)
class Statistic:
    """One statistic, or several of one kind, whose `name`, `words` and `where` then have a column of the table in braces.

    A share is between 0 and 1, and shown in per cent. `1` is no unit.
    """

    name: str
    words: str
    unit: str
    question: Question
    digits: int = 3
    """Decimals that are shown; of per cent for a share."""
    sign: bool = False
    """Whether a positive number is shown with a plus."""
    of: Literal["method", "pair", "contrast", "interaction"] = "method"
    """A method; two that are compared; a comparison of more than two, which its name tells; or all four."""
    table: str = ""
    """Where it comes from. None: `analysis.tables.contrasts` computes it for the estimates alone."""
    column: str = ""
    """The column of the estimate, if it is not called as the statistic is."""
    ends: str | None = None
    """What stands before `low` and `high` in the columns of its interval, if it is not the column's name and an underscore."""
    interval: Literal["t", "wilson", "none"] = "t"
    """Student's t over seeds, Wilson's, or none: it is counted, or read off a grid."""
    subject: str = "{method}"
    """What it is of in the table of estimates; names columns in braces."""
    where: str = ""
    """Which rows of the table, as a pandas query."""
    crossed: bool = False
    """Whether effects of µP and of ScheduleFree on it, and their interaction, are statistics as well."""

    @property
    def table_unit(self) -> str:
        """The unit as tables have it: what is doubled is left to the statistic's name."""
        return self.unit.partition(" of ")[0]

    @property
    def shown_unit(self) -> str:
        """The unit as it is written after a number: none for a share, whose number has a per cent sign."""
        return "" if self.unit in ("share", "1", "log2") else self.unit

    @property
    def columns(self) -> tuple[str, str, str]:
        """Columns of the estimate and of its interval's ends, which are empty if it has none."""
        column = self.column or self.name
        if self.interval == "none":
            return column, "", ""
        before = f"{column}_" if self.ends is None else self.ends
        return column, f"{before}low", f"{before}high"


def _per_layer() -> list[Statistic]:
    words = {"grad": "gradient", "update": "update", "weight": "weight"}
    return [
        Statistic(
            name=f"{name}_slope_{{layer}}",
            words=f"slope of the {{layer}} layers' {what} size",
            unit=PER_WIDTH,
            question="inside",
            digits=2,
            sign=True,
            table="dynamics",
            column="slope",
            where=f"quantity == '{name}_rms'",
        )
        for name, what in words.items()
    ]


def _law(name: str, words: str, unit: str, digits: int, sign: bool = False) -> Statistic:
    """A statistic that has rows of its own in the table of scaling laws."""
    return Statistic(
        name,
        words,
        unit,
        "transfer",
        digits,
        sign,
        table="scaling",
        column="estimate",
        ends="",
        where=f"statistic == '{name}'",
    )


def _gap_closed(name: str, what: str) -> Statistic:
    words = f"share of SP's excess {what} that the embedding's rate removes"
    return Statistic(f"embedding_gap_closed_{name}", words, "share", "transfer", 0, of="contrast")


_GAIN = "of what transfer costs as a share of the gain"
_SINGLE = "against the better single factor"

DECLARED: tuple[Statistic, ...] = (
    Statistic("drift", "drift of the best rate", PER_WIDTH, "transfer", 2, True, table="transfer", crossed=True),
    Statistic(
        "abs_drift",
        "size of the drift",
        PER_WIDTH,
        "transfer",
        2,
        table="interaction",
        column="estimate",
        ends="",
        subject="{effect}",
        where="statistic == 'abs_drift' and effect not in ('mup', 'schedulefree', 'interaction')",
        crossed=True,
    ),
    Statistic("log2_lr_opt", "log2 of the best rate", "log2", "transfer", 2, table="optima"),
    Statistic("regret_cf", "regret (cross-fitted)", "nats", "transfer", table="regret", crossed=True),
    Statistic("transfer_error_mean", "mean transfer error", "nats", "transfer", table="transfer_error", column="mean"),
    Statistic("transfer_error_max", "largest transfer error", "nats", "transfer", table="transfer_error", column="max"),
    Statistic(
        "wider_share",
        "share of steps at which the wider network is worse",
        "share",
        "transfer",
        1,
        table="wider_is_better",
        column="share_worse",
        interval="none",
    ),
    Statistic(
        "wider_tau",
        "Kendall's τ of width and final training loss",
        "1",
        "transfer",
        2,
        True,
        table="wider_is_better",
        column="tau",
    ),
    Statistic(
        "rho",
        "regret as a share of the gain by widening",
        "share",
        "transfer",
        0,
        True,
        table="fast_transfer",
        where="source == base_width",
    ),
    _law("rho_trend", f"trend, with the width that is tuned, {_GAIN}", "1", 2, True),
    _law("rho_exponent", f"exponent, in the width that is tuned, {_GAIN}", "1", 2, True),
    _law("rate_fit_error", "error E of the best rates' line in width", "doublings", 2),
    _law("curvature_slope", "exponent in width of what a wrong rate costs", "1", 2, True),
    _law("loss_exponent", "exponent with which the best loss falls to its limit", "1", 2),
    _law("loss_limit", "limit of the best loss at infinite width", "nats", 3),
    _law(
        "robustness_exponent", "exponent κ in width of what a wrong rate costs, over what is left to gain", "1", 2, True
    ),
    replace(
        _law("limit_penalty", "penalty R(∞), the limit of the best loss against that under µP", "nats", 3, True),
        of="pair",
        subject="{method} - {rival}",
    ),
    Statistic("lr_sensitivity", "LR sensitivity", "nats", "stability", table="stability", crossed=True),
    Statistic(
        "lr_sensitivity_normalised",
        "LR sensitivity as a share of what training gains",
        "share",
        "stability",
        1,
        table="stability",
        interval="none",
    ),
    Statistic(
        "diverged_fraction",
        "share of diverged runs",
        "share",
        "stability",
        0,
        table="stability",
        ends="diverged_",
        interval="wilson",
        crossed=True,
    ),
    Statistic("basin_width", "width of the basin", "doublings", "stability", 2, table="stability", interval="none"),
    Statistic("headroom", "headroom", "doublings", "stability", 1, table="stability", interval="none"),
    Statistic(
        "spike_score",
        "share of spikes in the training loss at twice the best rate",
        "share",
        "stability",
        2,
        table="spikes",
        column="score",
        where="lr_factor == 2 and series == 'train_loss'",
    ),
    Statistic(
        "tvx_{at}",
        "excess variation of the validation curve at {at}",
        "share",
        "stability",
        1,
        table="smoothness",
        column="tvx",
    ),
    Statistic("best_of_3_excess", "excess of the best of three rates", "nats", "cost", table="cost", ends="best_of_3_"),
    Statistic("flops_saved", "share of training compute saved", "share", "cost", 0, table="cost", interval="none"),
    Statistic("best_loss", "best validation loss", "nats", "best", table="optima", crossed=True),
    Statistic(
        "horizon_drift", "drift with the horizon", PER_HORIZON, "schedule", 2, True, table="horizon", column="drift"
    ),
    Statistic(
        "horizon_regret",
        "regret of tuning at the shortest horizon",
        "nats",
        "schedule",
        table="horizon",
        column="regret",
    ),
    Statistic(
        "anytime_gap_{horizon}",
        "anytime gap at {horizon}",
        "nats",
        "schedule",
        sign=True,
        of="pair",
        table="anytime",
        column="gap",
        subject="{method} - {rival}",
    ),
    Statistic("anytime_max", "largest anytime gap", "nats", "schedule", sign=True, of="pair"),
    Statistic("anytime_mean", "mean anytime gap", "nats", "schedule", sign=True, of="pair"),
    Statistic(
        "abs_horizon_drift_difference",
        "difference of the sizes of the drift with the horizon",
        PER_HORIZON,
        "schedule",
        2,
        True,
        of="pair",
    ),
    Statistic(
        "premium",
        "premium of the schedule",
        "nats",
        "schedule",
        sign=True,
        of="pair",
        table="premium",
        subject="{constant} - {scheduled}",
    ),
    Statistic(
        "rate_ratio",
        "ratio of the best rates",
        "doublings",
        "transfer",
        2,
        True,
        of="pair",
        table="rate_ratio",
        column="log2_ratio",
        ends="",
        subject="{numerator} / {denominator}",
    ),
    Statistic("rate_ratio_slope", "slope of the ratio of the best rates", PER_WIDTH, "transfer", 2, True, of="pair"),
    Statistic(
        "weight_decay_difference", "difference of the best weight decays λ*", "1", "weight_decay", 3, True, of="pair"
    ),
    Statistic("lr_weight_decay_difference", "difference of the best lr·λ", "1", "weight_decay", 5, True, of="pair"),
    Statistic(
        "sensitivity_vs_best_single", f"LR sensitivity, {_SINGLE}", "nats", "stability", sign=True, of="contrast"
    ),
    Statistic(
        "diverged_vs_best_single", f"share of diverged runs, {_SINGLE}", "share", "stability", 1, True, of="contrast"
    ),
    Statistic(
        "basin_vs_best_single", f"loss of basin width, {_SINGLE}", "doublings", "stability", 2, True, of="contrast"
    ),
    Statistic(
        "best_of_3_vs_best_single",
        f"excess of the best of three rates, {_SINGLE}",
        "nats",
        "cost",
        sign=True,
        of="contrast",
    ),
    Statistic("loss_vs_best", "best loss, against the best other method", "nats", "best", sign=True, of="contrast"),
    _gap_closed("drift", "drift"),
    _gap_closed("regret", "regret"),
    _gap_closed("loss", "best loss"),
    *_per_layer(),
)
"""All but the effects."""

EFFECTS = {
    "did_": ("interaction", "difference in differences of the {}"),
    "effect_mup_": ("mup", "effect of µP on the {}"),
    "effect_schedulefree_": ("schedulefree", "effect of ScheduleFree on the {}"),
}
"""Beginnings of the names of effects on a crossed statistic: the row of the table `interaction`, and words."""


def _effect(prefix: str, on: Statistic) -> Statistic:
    """The statistic that is an effect on another one."""
    effect, words = EFFECTS[prefix]
    return replace(
        on,
        name=f"{prefix}{on.name}",
        words=words.format(on.words),
        question="interaction" if effect == "interaction" else on.question,
        sign=True,
        of="interaction",
        table="interaction",
        column="estimate",
        ends="",
        interval="t",
        subject="interaction",
        where=f"effect == '{effect}' and statistic == '{on.name}'",
        crossed=False,
    )


CROSSED = tuple(statistic for statistic in DECLARED if statistic.crossed)
ALL = (*DECLARED, *(_effect(prefix, statistic) for prefix in EFFECTS for statistic in CROSSED))

KINDS = {
    "at": ("x", "y"),
    "horizon": ("T/4", "T/2", "T"),
    "layer": ("embedding", "hidden", "readout", "norm"),
}
"""What stands for a column in braces, where it is one of the statistics that a hypothesis may be about."""


def _of_kind(statistic: Statistic, **kind: str) -> Statistic:
    """One of the statistics that a declaration stands for."""
    return replace(statistic, name=statistic.name.format(**kind), words=statistic.words.format(**kind))


def _each(statistic: Statistic) -> list[Statistic]:
    """The statistic itself, or each of those that it stands for."""
    for column, values in KINDS.items():
        if f"{{{column}}}" in statistic.name:
            return [_of_kind(statistic, **{column: value}) for value in values]
    return [statistic]


STATISTICS: dict[str, Statistic] = {each.name: each for statistic in ALL for each in _each(statistic)}
"""What the table of estimates may hold and a hypothesis may be about, by name."""


def declared(name: str) -> Statistic | None:
    """The declaration of a statistic, also of a layer or horizon that no hypothesis may name; None if there is none."""
    if name in STATISTICS:
        return STATISTICS[name]
    for statistic in ALL:
        start, brace, column = statistic.name.partition("{")
        if brace and name.startswith(start):
            return _of_kind(statistic, **{column.rstrip("}"): name.removeprefix(start)})
    return None

"""How a statistic of the tables is called, in what unit it stands, and how its numbers are written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from mufree.publish.report.words import flag_words, interval, known, number, percent


class Statistic(NamedTuple):
    """A statistic's name in words, its unit, its decimals, and whether a plus is shown. A `share` is shown in per cent."""

    words: str
    unit: str = ""
    digits: int = 3
    sign: bool = False

    @property
    def shown_unit(self) -> str:
        """The unit as it is written: none for a share, whose number has a per cent sign."""
        return "" if self.unit == "share" else self.unit


PER_WIDTH = "doublings per doubling of width"
PER_HORIZON = "doublings per doubling of the horizon"
STATISTICS = {
    "drift": Statistic("drift of the best rate", PER_WIDTH, 2, True),
    "abs_drift": Statistic("size of the drift", PER_WIDTH, 2),
    "log2_lr_opt": Statistic("log2 of the best rate", "", 2),
    "regret_cf": Statistic("regret (cross-fitted)", "nats"),
    "rho": Statistic("regret as a share of what widening bought", "share", 1),
    "transfer_error_mean": Statistic("mean transfer error", "nats"),
    "transfer_error_max": Statistic("largest transfer error", "nats"),
    "wider_share": Statistic("share of steps at which the wider network is worse", "share", 1),
    "wider_tau": Statistic("Kendall's τ of width and final training loss", "", 2, True),
    "lr_sensitivity": Statistic("LR sensitivity", "nats"),
    "lr_sensitivity_normalised": Statistic("LR sensitivity as a share of what training gains", "share", 1),
    "diverged_fraction": Statistic("share of diverged runs", "share", 0),
    "basin_width": Statistic("width of the basin", "doublings", 2),
    "headroom": Statistic("headroom", "doublings", 1),
    "best_loss": Statistic("best validation loss", "nats"),
    "tvx_x": Statistic("excess variation of the validation curve at x", "share", 1),
    "tvx_y": Statistic("excess variation of the validation curve at y", "share", 1),
    "spike_score": Statistic("share of spikes in the training loss at twice the best rate", "share", 2),
    "best_of_3_excess": Statistic("excess of the best of three rates", "nats"),
    "flops_saved": Statistic("share of training compute saved", "share", 0),
    "horizon_drift": Statistic("drift with the horizon", PER_HORIZON, 2, True),
    "horizon_regret": Statistic("regret of tuning at the shortest horizon", "nats"),
    "abs_horizon_drift_difference": Statistic(
        "difference of the sizes of the drift with the horizon", PER_HORIZON, 2, True
    ),
    "anytime_max": Statistic("largest anytime gap", "nats", 3, True),
    "anytime_mean": Statistic("mean anytime gap", "nats", 3, True),
    "premium": Statistic("premium of the schedule", "nats", 3, True),
    "rate_ratio": Statistic("ratio of the best rates", "doublings", 2, True),
    "rate_ratio_slope": Statistic("slope of the ratio of the best rates", PER_WIDTH, 2, True),
    "sensitivity_vs_best_single": Statistic("LR sensitivity, against the better single factor", "nats", 3, True),
    "diverged_vs_best_single": Statistic("share of diverged runs, against the better single factor", "share", 1, True),
    "best_of_3_vs_best_single": Statistic(
        "excess of the best of three rates, against the better single factor", "nats", 3, True
    ),
    "basin_vs_best_single": Statistic("loss of basin width, against the better single factor", "doublings", 2, True),
    "loss_vs_best": Statistic("best loss, against the best other method", "nats", 3, True),
    "weight_decay_difference": Statistic("difference of the best weight decays λ*", "", 3, True),
    "lr_weight_decay_difference": Statistic("difference of the best lr·λ", "", 5, True),
    "weight_decay_ratio": Statistic("ratio of the best weight decays λ*", "", 2),
    "lr_weight_decay_ratio": Statistic("ratio of the best lr·λ", "", 2),
    "embedding_gap_closed_drift": Statistic("share of SP's excess drift that the embedding's rate removes", "share", 0),
    "embedding_gap_closed_regret": Statistic(
        "share of SP's excess regret that the embedding's rate removes", "share", 0
    ),
}

PREFIXES = {
    "anytime_gap_": ("anytime gap at {}", "nats"),
    "grad_slope_": ("slope of the {} layers' gradient size", PER_WIDTH),
    "update_slope_": ("slope of the {} layers' update size", PER_WIDTH),
    "weight_slope_": ("slope of the {} layers' weight size", PER_WIDTH),
}
"""Statistics that end in a layer or a horizon."""

EFFECTS = {
    "did_": "difference in differences of the {}",
    "effect_mup_": "effect of µP on the {}",
    "effect_schedulefree_": "effect of ScheduleFree on the {}",
}
"""Statistics that are effects on another one."""


def statistic(name: str) -> Statistic:
    """What is known of a statistic; one that isn't listed is called by its own name."""
    for prefix, words in EFFECTS.items():
        if name.startswith(prefix):
            inner = statistic(name.removeprefix(prefix))
            return inner._replace(words=words.format(inner.words), sign=True)
    for prefix, (words, unit) in PREFIXES.items():
        if name.startswith(prefix):
            return Statistic(words.format(name.removeprefix(prefix)), unit, 3 if unit == "nats" else 2, True)
    return STATISTICS.get(name, Statistic(flag_words(name)))


def value(amount: Any, what: Statistic) -> str:
    """A number of this statistic without its unit, a share in per cent."""
    if what.unit == "share":
        text = percent(amount, what.digits)
        return f"+{text}" if what.sign and known(amount) and amount > 0 else text
    return number(amount, what.digits, what.sign)


def with_unit(amount: Any, what: Statistic) -> str:
    """A number of this statistic and its unit; a dash if it is missing."""
    unit = f" {what.shown_unit}" if what.shown_unit and known(amount) else ""
    return f"{value(amount, what)}{unit}"


def bounds(low: Any, high: Any, what: Statistic) -> str:
    """An interval of this statistic; a dash if an end is missing."""
    if what.unit == "share":
        return interval(_hundredfold(low), _hundredfold(high), what.digits, what.sign)
    return interval(low, high, what.digits, what.sign)


def _hundredfold(amount: Any) -> float:
    return 100 * float(amount) if known(amount) else math.nan


def subject_words(subject: Any, named: Callable[[str], str]) -> str:
    """A method, or two that are compared, as `named` calls them. Anything after a comma says which variant.

    Against which best one a method is compared is left out: the statistic's own words say it.
    """
    text = re.sub(r" - best (single factor|other)$", "", subject) if isinstance(subject, str) else ""
    pair, _, rest = text.partition(",")
    parts = [_one(part, named) for part in re.split(r" [-/] ", pair)]
    joined = (" over " if " / " in pair else " against ").join(parts)
    return f"{joined} ({rest.strip()})" if rest else joined


def _one(name: str, named: Callable[[str], str]) -> str:
    """A method; one that ends in a star stands for all whose names begin so."""
    return f"methods like {named(name[:-1])}" if name.endswith("*") else flag_words(named(name))


QUESTIONS = {
    "transfer": (
        *("drift", "abs_drift", "log2_lr_opt", "regret_cf", "rho", "transfer_error_mean", "transfer_error_max"),
        *("wider_share", "wider_tau", "rate_ratio", "rate_ratio_slope"),
        *("embedding_gap_closed_drift", "embedding_gap_closed_regret"),
    ),
    "stability": (
        *(
            "lr_sensitivity",
            "lr_sensitivity_normalised",
            "diverged_fraction",
            "basin_width",
            "headroom",
            "tvx_x",
            "tvx_y",
        ),
        *("spike_score", "sensitivity_vs_best_single", "diverged_vs_best_single", "basin_vs_best_single"),
    ),
    "schedule": ("horizon_drift", "horizon_regret", "abs_horizon_drift_difference", "premium"),
    "cost": ("best_of_3_excess", "flops_saved", "best_of_3_vs_best_single"),
    "best": ("best_loss", "loss_vs_best"),
    "weight_decay": (
        *("weight_decay_difference", "lr_weight_decay_difference", "weight_decay_ratio", "lr_weight_decay_ratio"),
    ),
}
"""Which question a statistic belongs to, by the questions' keys."""


def question_of(name: str) -> str:
    """The question that a statistic belongs to; that of transfer for one that isn't listed."""
    if name.startswith("did_"):
        return "interaction"
    if name.startswith("anytime_"):
        return "schedule"
    if name.endswith(tuple(f"slope_{layer}" for layer in ("embedding", "hidden", "readout", "norm"))):
        return "inside"
    for prefix in EFFECTS:
        name = name.removeprefix(prefix)
    return next((question for question, names in QUESTIONS.items() if name in names), "transfer")

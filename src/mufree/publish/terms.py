"""How a statistic of the tables is called, in what unit it stands, and how its numbers are written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from mufree.publish.words import flag_words, interval, known, number, percent
from mufree.study.statistics import Statistic, declared


def statistic(name: str) -> Statistic:
    """What is known of a statistic; one that isn't declared is called by its own name, and belongs to transfer."""
    return declared(name) or Statistic(name, flag_words(name), "1", "transfer")


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

"""Numbers as a person reads them: rounded, with a true minus sign, and a dash where there is none.

Those of a statistic of the tables as it is declared: how it is called, and in what unit it stands.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mufree.study.statistics import Statistic, declared

MISSING = "—"


def known(value: Any) -> bool:
    """Whether a cell of a table holds a finite number."""
    return isinstance(value, numbers.Real) and math.isfinite(value)


def number(value: Any, digits: int = 3, sign: bool = False) -> str:
    """`value` to so many decimals, never "−0.000"; with `sign`, positive numbers have a plus."""
    if not known(value):
        return MISSING
    rounded = round(float(value), digits) + 0.0
    return f"{rounded:{'+' if sign and rounded else ''}.{digits}f}".replace("-", "−")


def interval(low: Any, high: Any, digits: int = 3, sign: bool = False) -> str:
    """[low, high]; a dash if either end is missing."""
    if not (known(low) and known(high)):
        return MISSING
    return f"[{number(low, digits, sign)}, {number(high, digits, sign)}]"


def thousands(n: int) -> str:
    """A count, with a space between thousands."""
    return f"{n:,}".replace(",", " ")


def percent(value: Any, digits: int = 1) -> str:
    """A share in [0, 1] as a percentage."""
    return f"{number(100 * value, digits)} %" if known(value) else MISSING


def p_value(p: Any) -> str:
    """A p-value to three decimals, never 0.000."""
    return "< 0.001" if known(p) and p < 0.001 else number(p)


def span(values: Sequence[int]) -> str:
    """The values, as a range where they are many."""
    ordered = sorted(set(values))
    shown = [str(v).replace("-", "−") for v in ordered]
    if len(shown) < 7:
        return ", ".join(shown)
    return f"{shown[0]} to {shown[-1]}, {len(shown)} values"


# --- of a statistic ---------------------------------------------------------------------------------------------------


def statistic(name: str) -> Statistic:
    """What is known of a statistic; one that isn't declared is called by its own name, and belongs to transfer."""
    return declared(name) or Statistic(name, name.replace("_", " "), "1", "transfer")


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
        low, high = (100 * end if known(end) else end for end in (low, high))
    return interval(low, high, what.digits, what.sign)


def subject_words(subject: str, names: Mapping[str, str]) -> str:
    """A method, or two that are compared, by the names for readers. Anything after a comma says which variant.

    Against which best one a method is compared is left out: the statistic's own words say it.
    """
    pair, _, rest = re.sub(r" - best (single factor|other)$", "", subject).partition(",")
    parts = [names.get(part, part).replace("_", " ") for part in re.split(r" [-/] ", pair)]
    joined = (" over " if " / " in pair else " against ").join(parts)
    return f"{joined} ({rest.strip()})" if rest else joined

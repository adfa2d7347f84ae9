"""Numbers as a person reads them: rounded, with a true minus sign, and a dash where there is none."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

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


def span(values: Sequence[int]) -> str:
    """The values, as a range where they are many."""
    ordered = sorted(set(values))
    shown = [str(v).replace("-", "−") for v in ordered]
    if len(shown) < 7:
        return ", ".join(shown)
    return f"{shown[0]} to {shown[-1]}, {len(shown)} values"


def flag_words(flag: Any) -> str:
    """A flag without its underscores; empty where there is none."""
    return flag.strip().replace("_", " ") if isinstance(flag, str) else ""

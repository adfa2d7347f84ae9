"""Numbers as a person reads them: rounded, with a true minus sign, and a dash where there is none."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

MISSING = "—"


def known(value: Any) -> bool:
    """Whether a cell of a table holds a finite number."""
    return isinstance(value, numbers.Real) and math.isfinite(value)


def verdict(value: Any) -> bool | None:
    """A yes-or-no cell: None where it is empty, also as it comes back from a CSV file."""
    text = str(value)
    return {"True": True, "False": False}.get(text)


def gate(rows: Iterable[Mapping[str, Any]]) -> Literal["passed", "failed", "undecided"]:
    """What a method's coordinate checks, at y and at x, come to.

    Undecided: it has not passed, and no slope fails surely, since the interval of each that fails reaches into the bound.
    """
    failed = [row for row in rows if not verdict(row["passed"])]
    if not failed:
        return "passed"
    return "failed" if any(row["n_sure"] > 0 for row in failed) else "undecided"


def gates(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The `gate` of each method among rows of one task's `coordcheck_verdict`, in their order."""
    return {method: gate(row for row in rows if row["method"] == method) for method in (row["method"] for row in rows)}


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


def with_interval(value: Any, low: Any, high: Any, digits: int = 3, sign: bool = False) -> str:
    """A table's cell: the value, and its interval on a line below."""
    return f"{number(value, digits, sign)}\n{interval(low, high, digits, sign)}" if known(value) else MISSING


def plus_minus(value: Any, error: Any, digits: int = 3) -> str:
    """value ± error; the value and a dash if the error is missing."""
    return f"{number(value, digits)} ± {number(error, digits)}" if known(value) else MISSING


def percent(value: Any, digits: int = 1) -> str:
    """A share in [0, 1] as a percentage."""
    return f"{number(100 * value, digits)} %" if known(value) else MISSING


def count(n: int, noun: str) -> str:
    """The number and its noun, which takes an s unless n is 1."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def listing(items: Sequence[str]) -> str:
    """a, b and c; with semicolons where an item has a comma of its own."""
    if any("," in item for item in items[:-1]):
        return "; ".join(items)
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def between(ordered: Sequence[str]) -> str:
    """The first and the last, or the one that both are; nothing of nothing."""
    return " to ".join(dict.fromkeys([ordered[0], ordered[-1]])) if ordered else ""


def span(values: Sequence[int]) -> str:
    """The values, as a range where they are many."""
    ordered = sorted(set(values))
    shown = [str(v).replace("-", "−") for v in ordered]
    if len(shown) < 7:
        return ", ".join(shown)
    return f"{shown[0]} to {shown[-1]}, {len(shown)} values"


def plain(value: Any) -> str:
    """A cell of text: empty where the file has nothing."""
    return value.strip() if isinstance(value, str) else ""


def flag_words(flag: Any) -> str:
    """A flag without its underscores."""
    return plain(flag).replace("_", " ")


def sentence(content: str) -> str:
    """With a capital first letter and a full stop; the empty text stays empty."""
    content = content.strip()
    if not content:
        return ""
    first = content[0] if content[0] == "µ" else content[0].upper()  # else it becomes a capital Greek mu
    return first + content[1:] + ("" if content[-1] in ".!?" else ".")


def power_of_two(log2: Any) -> str:
    """2^−9, for a learning rate by its log2; fractions to two decimals."""
    if not known(log2):
        return MISSING
    return f"2^{number(log2, 0 if float(log2).is_integer() else 2)}"


def with_names(content: str, named: Callable[[str], str]) -> str:
    """The text with its words that have underscores as `named` calls them."""
    return re.sub(r"\b[a-z0-9]+(?:_[a-z0-9]+)+\b", lambda found: named(found.group()), content)


def grouped(said: Sequence[tuple[str, str]]) -> list[str]:
    """`A: what is said of it`, in order; `A, B and C: not estimable …` once for all of which that is said for one reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, words in said:
        groups.setdefault(("" if words.startswith("not estimable") else name, words), []).append(name)
    return [f"{listing(names)}: {words}" for (_, words), names in groups.items()]
